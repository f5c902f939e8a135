//! Which nodes have replicas that answer reads, as the nodes themselves tell. Hints: a replica that does not answer after all
//! costs another attempt. Pure.

use std::collections::BTreeMap;

use berth_shared::ids::ShardId;
use berth_shared::shard_set::ShardSet;

/// What each node last said, by the address at which it was heard. Bounded by the nodes that are connected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replicas {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    readable: ShardSet,
    /// Whether it runs in this gateway's zone.
    is_near: bool,
}

impl Replicas {
    /// Takes in what the node at `from` says, in place of what it said before; forgets the nodes that are not known any more.
    /// Says whether that was news.
    pub(crate) fn hear(
        &mut self,
        from: &str,
        readable: ShardSet,
        is_near: bool,
        is_known: impl Fn(&str) -> bool,
    ) -> bool {
        let before = self.nodes.len();
        self.nodes.retain(|address, _| is_known(address));
        let node = Node { readable, is_near };
        let forgot = self.nodes.len() < before;
        let said = self.nodes.insert(from.to_owned(), node);
        forgot || said.as_ref() != self.nodes.get(from)
    }

    /// A replica of `shard` for the `attempt`-th attempt of a request, from 0. Those of this gateway's zone come first, and of
    /// equal ones each request, by its number `start`, begins with another one.
    pub(crate) fn choose(
        &self,
        shard: ShardId,
        start: u64,
        attempt: u32,
        is_connected: impl Fn(&str) -> bool,
    ) -> Option<&String> {
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for (address, node) in &self.nodes {
            if node.readable.contains(shard) && is_connected(address) {
                if node.is_near { near.push(address) } else { far.push(address) }
            }
        }
        for group in [&mut near, &mut far] {
            let first = start.checked_rem(group.len() as u64).unwrap_or(0);
            group.rotate_left(first as usize);
        }
        near.extend(far);
        let position = (attempt as usize).checked_rem(near.len())?;
        Some(near[position])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    /// Nodes by address, each with whether it is near; all can be read.
    fn replicas(nodes: &[(&str, bool)]) -> Replicas {
        let mut replicas = Replicas::default();
        for (address, is_near) in nodes {
            assert!(replicas.hear(address, [SHARD].into_iter().collect(), *is_near, |_| true));
        }
        replicas
    }

    fn chosen(replicas: &Replicas, start: u64) -> Vec<String> {
        (0..4).filter_map(|attempt| replicas.choose(SHARD, start, attempt, |_| true).cloned()).collect()
    }

    #[test]
    fn requests_are_spread_and_later_attempts_go_elsewhere() {
        let replicas = replicas(&[("a", false), ("b", false), ("c", false)]);
        assert_eq!(chosen(&replicas, 0), ["a", "b", "c", "a"]);
        assert_eq!(chosen(&replicas, 1), ["b", "c", "a", "b"]);
        assert_eq!(chosen(&replicas, u64::MAX), chosen(&replicas, u64::MAX % 3));
    }

    #[test]
    fn the_own_zone_comes_first() {
        let replicas = replicas(&[("a", false), ("b", true), ("c", false)]);
        assert_eq!(chosen(&replicas, 0), ["b", "a", "c", "b"]);
        assert_eq!(chosen(&replicas, 1), ["b", "c", "a", "b"]);
    }

    #[test]
    fn who_is_not_connected_or_has_no_replica_is_not_chosen() {
        let mut replicas = replicas(&[("a", true), ("b", false)]);
        assert_eq!(replicas.choose(SHARD, 0, 0, |address| address != "a").unwrap(), "b");
        assert_eq!(replicas.choose(SHARD, 0, 0, |_| false), None);
        assert_eq!(replicas.choose(ShardId(4), 0, 0, |_| true), None);
        assert!(replicas.hear("a", ShardSet::default(), true, |_| true));
        assert!(!replicas.hear("a", ShardSet::default(), true, |_| true), "nothing new");
        assert_eq!(chosen(&replicas, 0), ["b"; 4]);
        assert!(replicas.hear("a", ShardSet::default(), true, |address| address != "b"));
        assert!(chosen(&replicas, 0).is_empty(), "one that is gone is forgotten");
    }
}
