//! A node that does not belong to a shard's group any more acknowledges nothing of it: it owns the shard at no moment from when
//! it was removed until it belongs to the group again.

use std::collections::BTreeMap;

use crate::history::{Group, History, Violation};

const PROMISE: &str = "a removed node acknowledges nothing";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut groups: BTreeMap<_, Vec<&Group>> = BTreeMap::new();
    for group in &history.observed.groups {
        groups.entry(group.shard).or_default().push(group);
    }
    let mut violations = Vec::new();
    for ownership in &history.observed.ownerships {
        let groups = groups.get(&ownership.shard).map_or(&[][..], Vec::as_slice);
        let ends = groups.iter().skip(1).map(|next| next.from).chain([u64::MAX]);
        let mut meanwhile =
            groups.iter().zip(ends).filter(|(group, end)| ownership.from < *end && ownership.until >= group.from);
        if let Some((group, _)) = meanwhile.find(|(group, _)| !group.members.contains(&ownership.node)) {
            violations.push(Violation::new(PROMISE, format!("{ownership:?}, and {group:?}")));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::{NodeId, ShardId};

    use super::*;
    use crate::history::Ownership;

    fn check_one(node: u64, from: u64, until: u64) -> usize {
        let group = |from, members: &[u64]| Group {
            shard: ShardId(1),
            term: from,
            from,
            members: members.iter().copied().map(NodeId).collect(),
        };
        let mut history = History::default();
        history.observed.groups = vec![group(10, &[1, 2, 3]), group(20, &[2, 3, 4]), group(30, &[1, 2, 3])];
        history.observed.ownerships.push(Ownership { node: NodeId(node), shard: ShardId(1), term: 1, from, until });
        check(&history).len()
    }

    #[test]
    fn a_node_that_goes_on_after_it_was_removed_is_noticed() {
        assert_eq!((check_one(1, 10, 15), check_one(1, 10, 19)), (0, 0));
        assert_eq!((check_one(1, 10, 20), check_one(1, 12, 25), check_one(1, 22, 25)), (1, 1, 1));
        assert_eq!((check_one(1, 30, 50), check_one(1, 35, 50)), (0, 0), "it belongs to it again");
        assert_eq!((check_one(4, 20, 29), check_one(4, 35, 50), check_one(2, 10, 50)), (0, 1, 0));
    }

    #[test]
    fn other_shards_are_others_business() {
        let mut history = History::default();
        let (shard, members) = (ShardId(2), vec![NodeId(2)]);
        history.observed.groups.push(Group { shard, term: 1, from: 0, members });
        let (node, shard) = (NodeId(1), ShardId(1));
        history.observed.ownerships.push(Ownership { node, shard, term: 1, from: 5, until: 9 });
        assert_eq!(check(&history), []);
    }
}
