//! Where the replicas of the system shard are. It is one shard beside all others and is placed by itself, so that they are as
//! even as they would be without it. Pure.

use super::next::{self, Before};
use super::{Candidate, SYSTEM_SHARD};

/// The replicas, as places among the candidates, the owner first and the others ascending. The candidates are ascending by id.
///
/// The owner stays if it is there. Then as many different zones as possible and as even over them as possible, then those
/// that hold a replica already, then the highest rendezvous weight. What this has chosen it chooses again: each round takes one
/// node of every zone that has another one, and of each zone those first that were chosen before.
pub(super) fn place(candidates: &[Candidate], before: &Before, replicas: usize) -> Vec<usize> {
    let (zones, zone_of) = next::zones(candidates);
    let mut held = vec![0_usize; zones.len()];
    let mut chosen: Vec<usize> = Vec::with_capacity(replicas.min(candidates.len()));
    while chosen.len() < replicas {
        let rank = |node: &usize| {
            let is_owner = before.owner == Some(*node);
            let is_there = before.replicas.contains(node);
            let affinity = next::affinity(candidates[*node].member.node, SYSTEM_SHARD.0.into());
            (is_owner, std::cmp::Reverse(held[zone_of[*node]]), is_there, affinity)
        };
        let open = (0..candidates.len()).filter(|node| !chosen.contains(node));
        let Some(node) = open.max_by_key(rank) else { break };
        held[zone_of[node]] += 1;
        chosen.push(node);
    }
    if let [_, others @ ..] = chosen.as_mut_slice() {
        others.sort_unstable();
    }
    chosen
}
