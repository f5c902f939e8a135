//! A node that was told to give everything away ends only when it has nothing left, and nobody counts on it any more.

use crate::history::{History, Violation};

const PROMISE: &str = "drained";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let left_too_much = history.observed.departures.iter().filter(|d| !d.hosted.is_empty() || !d.counted_on.is_empty());
    left_too_much.map(|departure| Violation::new(PROMISE, format!("{departure:?}"))).collect()
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::{NodeId, ShardId};

    use super::*;
    use crate::history::Departure;

    fn check_one(hosted: &[u16], counted_on: &[u16]) -> usize {
        let shards = |numbers: &[u16]| numbers.iter().copied().map(ShardId).collect();
        let departure = Departure { node: NodeId(1), hosted: shards(hosted), counted_on: shards(counted_on) };
        let mut history = History::default();
        history.observed.departures.push(departure);
        check(&history).len()
    }

    #[test]
    fn a_node_that_ends_too_early_is_noticed() {
        assert_eq!(check_one(&[], &[]), 0);
        assert_eq!(check_one(&[3], &[]), 1);
        assert_eq!(check_one(&[], &[3]), 1, "its group still has it");
    }
}
