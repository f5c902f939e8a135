//! Promise 2: a shard has one owner at a time, and a term has one owner at all times. A node that holds its lease for valid
//! answers reads from memory, so two such nodes at the same moment are wrong whatever they answered.

use std::collections::BTreeMap;

use crate::history::{History, Ownership, Violation};

const PROMISE: &str = "single writer";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let ownerships = &history.observed.ownerships;
    let mut violations = Vec::new();
    let mut by_shard: BTreeMap<_, Vec<&Ownership>> = BTreeMap::new();
    let mut by_term: BTreeMap<_, &Ownership> = BTreeMap::new();
    for ownership in ownerships {
        by_shard.entry(ownership.shard).or_default().push(ownership);
        let first = by_term.entry((ownership.shard, ownership.term)).or_insert(ownership);
        if first.node != ownership.node {
            violations.push(Violation::new(PROMISE, format!("one term, two owners: {first:?} and {ownership:?}")));
        }
    }
    for ownerships in by_shard.values_mut() {
        ownerships.sort_by_key(|ownership| ownership.from);
        // What ends last of all that began earlier overlaps if anything does.
        let mut latest: Option<&Ownership> = None;
        for ownership in ownerships {
            if let Some(earlier) = latest.filter(|e| e.until >= ownership.from && e.node != ownership.node) {
                violations.push(Violation::new(PROMISE, format!("at once: {earlier:?} and {ownership:?}")));
            }
            if latest.is_none_or(|earlier| earlier.until <= ownership.until) {
                latest = Some(ownership);
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::{NodeId, ShardId};

    use super::*;

    fn owns(node: u64, shard: u16, term: u64, from: u64, until: u64) -> Ownership {
        Ownership { node: NodeId(node), shard: ShardId(shard), term, from, until }
    }

    fn check_all(ownerships: &[Ownership]) -> usize {
        let mut history = History::default();
        history.observed.ownerships = ownerships.to_vec();
        check(&history).len()
    }

    #[test]
    fn owners_one_after_the_other_are_fine() {
        assert_eq!(check_all(&[owns(1, 0, 1, 0, 10), owns(2, 0, 2, 11, 20), owns(1, 0, 3, 21, 30)]), 0);
        assert_eq!(check_all(&[owns(1, 0, 1, 0, 10), owns(2, 1, 1, 5, 20)]), 0, "other shards are others' business");
        assert_eq!(check_all(&[owns(1, 0, 1, 0, 10), owns(1, 0, 1, 15, 30)]), 0, "a lease may lapse and come back");
    }

    #[test]
    fn two_owners_at_once_are_noticed() {
        assert_eq!(check_all(&[owns(1, 0, 1, 0, 10), owns(2, 0, 2, 10, 20)]), 1);
        assert_eq!(check_all(&[owns(1, 0, 1, 0, 50), owns(1, 0, 2, 5, 6), owns(2, 0, 3, 20, 30)]), 1);
    }

    #[test]
    fn two_owners_of_one_term_are_noticed_at_whatever_time() {
        assert_eq!(check_all(&[owns(1, 0, 1, 0, 10), owns(2, 0, 1, 100, 110)]), 1);
    }
}
