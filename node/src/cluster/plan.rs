//! The plan: which nodes hold a replica of each shard, and which of them owns it. Pure, and the same wherever it is computed.
//!
//! The first plan is a function of the members alone. Every later one will be a function of the plan before it and of the
//! members then, because a function of the members alone cannot have both evenness and little movement.
//!
//! # Size
//!
//! As JSON a plan is a table of members and, for each shard, the numbers of its replicas in that table. With
//! [`MEMBERS_MAX`] members, 16,384 shards and 5 replicas the numbers take at most 22 bytes a shard, 361 kB, and a member 42
//! bytes and its address. A host name has at most 253 bytes, so the largest plan has 665 kB, and the largest state of an
//! entity is 1 MiB.

use std::cmp::Reverse;
use std::collections::VecDeque;

use berth_shared::ids::{NodeId, ShardId};
use berth_shared::report::Member;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::written;

/// Most members of a plan.
pub const MEMBERS_MAX: usize = 1000;

/// Which node holds what. Epoch 0 is no plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Counts the plans of a cluster, from 1.
    pub epoch: u64,
    /// How many replicas a shard should have. Where there are fewer members, it has as many as there are members.
    pub replicas: u16,
    /// Ascending by id.
    #[serde(with = "written::members")]
    #[schemars(with = "Vec<written::Row>")]
    members: Vec<Member>,
    /// Of each shard, its replicas as places in `members`, the owner first.
    ///
    /// Invariant: never empty, no place twice, and every place is one.
    shards: Vec<Vec<u16>>,
}

impl Plan {
    /// The first plan of a cluster. Replicas are even within one over the nodes, and so are owners; where several nodes would
    /// do, the highest rendezvous weight wins (Thaler and Ravishankar 1998), so that any two nodes share about as many
    /// shards, and the shards of one that fails pass to many.
    pub fn first(members: &[Member], shards: u16, replicas: u16) -> Self {
        let mut members = members.to_vec();
        members.sort_unstable();
        members.dedup_by_key(|member| member.node);
        members.truncate(MEMBERS_MAX);
        let factor = members.len().min(usize::from(replicas));
        let mut rows = if factor == 0 { Vec::new() } else { spread(&members, shards, factor) };
        even_owners(&mut rows, members.len());
        let shards = rows.into_iter().map(|row| row.into_iter().map(|place| place as u16).collect()).collect();
        Self { epoch: 1, replicas, members, shards }
    }

    /// Whether what was read can be a plan at all.
    pub fn is_sound(&self) -> bool {
        let sound = |row: &Vec<u16>| {
            let mut places = row.clone();
            places.sort_unstable();
            places.dedup();
            !row.is_empty() && places.len() == row.len() && row.iter().all(|p| usize::from(*p) < self.members.len())
        };
        self.epoch > 0 && self.members.is_sorted() && self.shards.iter().all(sound)
    }

    /// How many shards the cluster has.
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Ascending by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The nodes that hold `shard`, the owner first; none for a shard that there is not.
    pub fn replicas_of(&self, shard: ShardId) -> impl Iterator<Item = &Member> {
        let row = self.shards.get(usize::from(shard.0)).map(Vec::as_slice).unwrap_or_default();
        row.iter().filter_map(|place| self.members.get(usize::from(*place)))
    }

    /// The node that should own `shard`.
    pub fn owner_of(&self, shard: ShardId) -> Option<&Member> {
        self.replicas_of(shard).next()
    }

    /// The shards of which `node` holds a replica, ascending.
    pub fn hosted_by(&self, node: NodeId) -> Vec<ShardId> {
        let hosts = |shard: &ShardId| self.replicas_of(*shard).any(|member| member.node == node);
        (0..self.shards()).map(ShardId).filter(hosts).collect()
    }
}

/// Gives every shard to the `factor` members that hold the fewest replicas. That keeps them even within one: of members that
/// hold n or n + 1, those with n are taken first.
fn spread(members: &[Member], shards: u16, factor: usize) -> Vec<Vec<usize>> {
    let mut held = vec![0_u32; members.len()];
    let mut owned = vec![0_u32; members.len()];
    let mut rows = Vec::with_capacity(usize::from(shards));
    for shard in (0..shards).map(ShardId) {
        let mut places: Vec<_> =
            (0..members.len()).map(|place| (held[place], Reverse(weight(members[place].node, shard)), place)).collect();
        places.select_nth_unstable(factor - 1);
        places.truncate(factor);
        places.sort_unstable_by_key(|(_, weight, place)| (owned[*place], *weight));
        let places: Vec<usize> = places.into_iter().map(|(_, _, place)| place).collect();
        places.iter().for_each(|place| held[*place] += 1);
        owned[places[0]] += 1;
        rows.push(places);
    }
    rows
}

/// Passes ownership on among replicas until it is even within one.
///
/// As long as one member owns two shards more than another, there is a chain of shards, each owned by a member that shares it
/// with the next, from one that owns the most to one that owns at least two fewer: otherwise the members that could be reached
/// from the first would hold so many more replicas than those from which the last could be reached that replicas were not
/// even. Passing every shard of the chain on makes the sum of squares smaller, so this ends.
fn even_owners(rows: &mut [Vec<usize>], members: usize) {
    loop {
        let mut owned = vec![0_u32; members];
        rows.iter().for_each(|row| owned[row[0]] += 1);
        let most = owned.iter().copied().max().unwrap_or_default();
        let Some(chain) = chain(rows, &owned, most) else { return };
        for (shard, to) in chain {
            let row = &mut rows[shard];
            let place = row.iter().position(|place| *place == to).unwrap_or_default();
            row.swap(0, place);
        }
    }
}

/// The shortest chain from a member that owns `most` to one that owns at least two fewer, as shards and who gets them.
fn chain(rows: &[Vec<usize>], owned: &[u32], most: u32) -> Option<Vec<(usize, usize)>> {
    if owned.iter().all(|owned| owned + 2 > most) {
        return None;
    }
    let mut owns: Vec<Vec<usize>> = vec![Vec::new(); owned.len()];
    for (shard, row) in rows.iter().enumerate() {
        owns[row[0]].push(shard);
    }
    let mut reached_by: Vec<Option<(usize, usize)>> = vec![None; owned.len()];
    let mut open: VecDeque<usize> = (0..owned.len()).filter(|place| owned[*place] == most).collect();
    while let Some(from) = open.pop_front() {
        for &shard in &owns[from] {
            for &to in &rows[shard][1..] {
                if owned[to] == most || reached_by[to].is_some() {
                    continue;
                }
                reached_by[to] = Some((from, shard));
                if owned[to] + 2 <= most {
                    return Some(trace(&reached_by, to));
                }
                open.push_back(to);
            }
        }
    }
    None
}

fn trace(reached_by: &[Option<(usize, usize)>], end: usize) -> Vec<(usize, usize)> {
    let mut chain = Vec::new();
    let mut to = end;
    while let Some((from, shard)) = reached_by[to] {
        chain.push((shard, to));
        to = from;
    }
    chain
}

fn weight(node: NodeId, shard: ShardId) -> u64 {
    xxh3_64_with_seed(&node.0.to_le_bytes(), u64::from(shard.0))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use berth_shared::seam::Random;
    use berth_shared::seam::random::SeededRandom;
    use proptest::prelude::*;

    use super::*;
    use crate::shard::decide::STATE_BYTES_MAX;

    fn members(count: usize, seed: u64) -> Vec<Member> {
        let random = SeededRandom::new(seed);
        let address = |n| format!("node-{n}:7400");
        (0..count).map(|n| Member { node: NodeId(random.next_u64()), address: address(n) }).collect()
    }

    fn counts(plan: &Plan, of: impl Fn(ShardId) -> Vec<NodeId>) -> BTreeMap<NodeId, usize> {
        let mut counts: BTreeMap<_, _> = plan.members().iter().map(|member| (member.node, 0)).collect();
        for node in (0..plan.shards()).map(ShardId).flat_map(of) {
            *counts.get_mut(&node).unwrap() += 1;
        }
        counts
    }

    fn spread_of(counts: &BTreeMap<NodeId, usize>) -> usize {
        counts.values().max().unwrap() - counts.values().min().unwrap()
    }

    fn check(plan: &Plan, count: usize, shards: u16, replicas: u16) {
        assert_eq!(plan.shards(), shards);
        assert!(plan.is_sound());
        let nodes = |shard: ShardId| plan.replicas_of(shard).map(|member| member.node).collect::<Vec<_>>();
        for shard in (0..shards).map(ShardId) {
            let distinct: BTreeSet<_> = nodes(shard).into_iter().collect();
            assert_eq!((distinct.len(), nodes(shard).len()), (count.min(replicas.into()), count.min(replicas.into())));
        }
        let replicas = counts(plan, nodes);
        assert!(spread_of(&replicas) <= 1, "replicas {replicas:?}");
        let owners = counts(plan, |shard| vec![plan.owner_of(shard).unwrap().node]);
        assert!(spread_of(&owners) <= 1, "owners {owners:?}");
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_and_they_and_owners_are_even_within_one(
            count in 1_usize..40, shards in 1_u16..400, replicas in 1_u16..=5, seed in 0_u64..1000,
        ) {
            check(&Plan::first(&members(count, seed), shards, replicas), count, shards, replicas);
        }

        #[test]
        fn the_order_of_the_members_does_not_matter(count in 1_usize..20, turn in 0_usize..20, seed in 0_u64..100) {
            let members = members(count, seed);
            let mut turned = members.clone();
            turned.rotate_left(turn % count);
            prop_assert_eq!(Plan::first(&members, 64, 3), Plan::first(&turned, 64, 3));
        }

        #[test]
        fn uneven_owners_are_made_even_wherever_they_start(
            count in 1_usize..12, shards in 1_u16..200, replicas in 1_u16..=5, seed in 0_u64..1000,
        ) {
            let factor = count.min(replicas.into());
            let mut rows = spread(&members(count, seed), shards, factor);
            rows.iter_mut().for_each(|row| row.sort_unstable());
            even_owners(&mut rows, count);
            let mut owned = vec![0; count];
            rows.iter().for_each(|row| owned[row[0]] += 1);
            prop_assert!(owned.iter().max().unwrap() - owned.iter().min().unwrap() <= 1, "{:?}", owned);
        }
    }

    #[test]
    fn a_plan_of_nobody_has_no_shards() {
        assert_eq!(Plan::first(&[], 64, 3).shards(), 0);
        assert!(!Plan::default().is_sound());
    }

    /// Owners must not follow each other around the ring: the shards of a node that fails should not all pass to one other.
    #[test]
    fn any_two_nodes_share_about_as_many_shards() {
        let plan = Plan::first(&members(5, 3), 1000, 3);
        let mut shared: BTreeMap<(NodeId, NodeId), usize> = BTreeMap::new();
        for shard in (0..1000).map(ShardId) {
            let owner = plan.owner_of(shard).unwrap().node;
            for other in plan.replicas_of(shard).skip(1) {
                *shared.entry((owner, other.node)).or_default() += 1;
            }
        }
        // 200 shards owned by each, two further replicas on the four others: 100 each on average.
        assert_eq!(shared.len(), 20);
        assert!(shared.values().all(|count| (50..150).contains(count)), "{shared:?}");
    }

    #[test]
    fn hosted_shards_are_those_that_name_the_node() {
        let plan = Plan::first(&members(4, 1), 8, 3);
        let hosted: usize = plan.members().iter().map(|member| plan.hosted_by(member.node).len()).sum();
        assert_eq!(hosted, 24);
        assert!(plan.hosted_by(NodeId(0)).is_empty());
        assert_eq!(plan.replicas_of(ShardId(8)).count(), 0);
    }

    #[test]
    fn the_largest_plan_fits_into_an_entity_and_comes_back() {
        let random = SeededRandom::new(1);
        let address = format!("{}:65535", "h".repeat(253));
        let member = || Member { node: NodeId(random.next_u64()), address: address.clone() };
        let members: Vec<Member> = (0..MEMBERS_MAX).map(|_| member()).collect();
        let plan = Plan::first(&members, 16_384, 5);
        let json = serde_json::to_vec(&plan).unwrap();
        assert!(json.len() < 700_000 && json.len() < STATE_BYTES_MAX, "{} bytes", json.len());
        assert_eq!(serde_json::from_slice::<Plan>(&json).unwrap(), plan);
        check(&plan, MEMBERS_MAX, 16_384, 5);
    }
}
