//! Promise 7: at an equal applied index every replica of a shard has the same content, and a replica that has seen an index
//! never finds other content there later. And all nodes are part of one cluster.

use std::collections::BTreeMap;

use crate::history::{Applied, History, Violation};

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut first: BTreeMap<_, &Applied> = BTreeMap::new();
    for applied in &history.observed.applied {
        let known = first.entry((applied.shard, applied.index)).or_insert(applied);
        if known.content_hash != applied.content_hash {
            violations.push(Violation::new("replicas agree", format!("{known:?} and {applied:?}")));
        }
    }
    if history.observed.clusters.len() > 1 {
        violations.push(Violation::new("one cluster", format!("there are {:?}", history.observed.clusters)));
    }
    violations
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::{ClusterId, NodeId, ShardId};

    use super::*;

    fn applied(node: u64, index: u64, content_hash: u128) -> Applied {
        Applied { node: NodeId(node), shard: ShardId(0), index, content_hash }
    }

    fn check_all(applied: &[Applied]) -> usize {
        let mut history = History::default();
        history.observed.applied = applied.to_vec();
        check(&history).len()
    }

    #[test]
    fn replicas_that_differ_at_an_index_are_noticed() {
        assert_eq!(check_all(&[applied(1, 1, 7), applied(2, 1, 7), applied(1, 2, 8)]), 0);
        assert_eq!(check_all(&[applied(1, 1, 7), applied(2, 1, 8)]), 1);
        assert_eq!(check_all(&[applied(1, 1, 7), applied(1, 1, 8)]), 1, "also one from itself");
    }

    #[test]
    fn two_clusters_are_noticed() {
        let mut history = History::default();
        history.observed.clusters = [ClusterId(1), ClusterId(2)].into();
        assert_eq!(check(&history).len(), 1);
    }
}
