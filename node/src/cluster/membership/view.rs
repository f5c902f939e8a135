//! Makes the member list of what gossip knows: which start of a node counts, since when one is suspected, and from when on a
//! node that has just been heard of is listed at all. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::report::Edition;
use berth_shared::seam::BootInstant;

use super::{Facts, Member, Members};

/// A node that was only ever heard of from others is listed after this long, as suspected: most are heard themselves before.
const PROOF_MAX: Duration = Duration::from_millis(1500);

/// What gossip knows of one start of one node.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) node: NodeId,
    pub(super) edition: Edition,
    pub(super) facts: Arc<Facts>,
    /// Whether it has been heard of lately.
    pub(super) is_live: bool,
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct View {
    /// By node and generation; no more than gossip knows.
    starts: BTreeMap<(NodeId, u64), Start>,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    first: BootInstant,
    was_live: bool,
    silent_since: Option<BootInstant>,
}

impl View {
    /// The members, as of `now`. What is not observed any more is forgotten.
    pub(super) fn members(&mut self, now: BootInstant, observed: &[Observed]) -> Members {
        let mut starts = BTreeMap::new();
        let mut newest: BTreeMap<NodeId, (&Observed, Start)> = BTreeMap::new();
        for seen in observed {
            let key = (seen.node, seen.edition.generation);
            let first = Start { first: now, was_live: false, silent_since: None };
            let mut start = self.starts.get(&key).copied().unwrap_or(first);
            start.was_live |= seen.is_live;
            start.silent_since = if seen.is_live { None } else { start.silent_since.or(Some(now)) };
            starts.insert(key, start);
            if !start.was_live && now.since(start.first) < PROOF_MAX {
                continue;
            }
            // Generations come from wall clocks, which may go back between two starts.
            let counts =
                |(other, _): &(&Observed, Start)| (other.is_live, other.edition) < (seen.is_live, seen.edition);
            if newest.get(&seen.node).is_none_or(counts) {
                newest.insert(seen.node, (seen, start));
            }
        }
        self.starts = starts;
        let member = |(node, (seen, start)): (NodeId, (&Observed, Start))| {
            let (facts, edition) = (seen.facts.clone(), seen.edition);
            (node, Member { node, facts, edition, suspected: start.silent_since })
        };
        Members { list: newest.into_iter().map(member).collect() }
    }
}

/// Says in the log who has come, gone silent, come back, or been forgotten.
pub(super) fn tell(us: NodeId, before: &Members, after: &Members) {
    for member in after.iter().filter(|member| member.node != us) {
        let Member { node, facts, suspected, .. } = member;
        let address = &facts.address;
        let was_suspected = before.get(*node).map(|before| before.suspected.is_some());
        match (was_suspected, suspected.is_some()) {
            (None, false) => tracing::info!(%node, %address, state = ?facts.state, "gossip: a member"),
            (None | Some(false), true) => tracing::warn!(%node, %address, "gossip: a member is silent"),
            (Some(true), false) => tracing::info!(%node, %address, "gossip: a member is heard again"),
            _ => {}
        }
    }
    for gone in before.iter().filter(|gone| after.get(gone.node).is_none()) {
        tracing::info!(node = %gone.node, address = gone.facts.address, "gossip: a member is forgotten");
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use berth_shared::report::{Load, NodeState};

    use super::*;

    fn at(millis: u64) -> BootInstant {
        BootInstant(1_000_000_000_000) + Duration::from_millis(millis)
    }

    fn seen(node: u64, generation: u64, is_live: bool) -> Observed {
        let facts = Facts {
            address: format!("n{node}:1"),
            zone: None,
            state: NodeState::Ready,
            plan: 0,
            unsettled: 0,
            weight: NonZeroU32::MIN,
            version: "test".to_owned(),
            load: Load::default(),
            led: vec![],
            system: None,
        };
        let edition = Edition { generation, revision: 1 };
        Observed { node: NodeId(node), edition, facts: Arc::new(facts), is_live }
    }

    fn shown(members: &Members) -> Vec<(u64, u64, Option<BootInstant>)> {
        members.iter().map(|member| (member.node.0, member.edition.generation, member.suspected)).collect()
    }

    #[test]
    fn a_member_is_suspected_from_when_it_fell_silent_until_it_is_heard_again() {
        let mut view = View::default();
        assert_eq!(shown(&view.members(at(0), &[seen(1, 5, true)])), [(1, 5, None)]);
        for now in [100, 900] {
            assert_eq!(shown(&view.members(at(now), &[seen(1, 5, false)])), [(1, 5, Some(at(100)))]);
        }
        assert_eq!(shown(&view.members(at(1000), &[seen(1, 5, true)])), [(1, 5, None)]);
        assert_eq!(shown(&view.members(at(1100), &[])), []);
        assert!(view.starts.is_empty(), "nothing is kept of who is forgotten");
    }

    #[test]
    fn a_node_that_others_tell_of_is_a_member_when_it_is_heard_or_has_not_been_for_a_while() {
        let mut view = View::default();
        assert_eq!(shown(&view.members(at(0), &[seen(1, 5, false), seen(2, 5, false)])), []);
        let members = view.members(at(400), &[seen(1, 5, true), seen(2, 5, false)]);
        assert_eq!(shown(&members), [(1, 5, None)]);
        let members = view.members(at(1500), &[seen(1, 5, true), seen(2, 5, false)]);
        assert_eq!(shown(&members), [(1, 5, None), (2, 5, Some(at(0)))]);
    }

    #[test]
    fn of_the_starts_of_a_node_the_one_that_lives_counts_and_then_the_last() {
        let mut view = View::default();
        view.members(at(0), &[seen(1, 5, true)]);
        let members = view.members(at(9), &[seen(1, 5, false), seen(1, 6, true)]);
        assert_eq!(shown(&members), [(1, 6, None)]);
        let members = view.members(at(19), &[seen(1, 6, false), seen(1, 5, false), seen(1, 4, true)]);
        assert_eq!(shown(&members), [(1, 4, None)], "its wall clock went back");
        let members = view.members(at(29), &[seen(1, 5, false), seen(1, 6, false), seen(1, 4, false)]);
        assert_eq!(shown(&members), [(1, 6, Some(at(19)))]);
    }
}
