//! Once nothing is asked for any more, every replica of a shard has all of what any of them has, and so what was acknowledged:
//! the logs that clients were shown are those of the owners.

use std::collections::{BTreeMap, BTreeSet};

use berth_shared::report::NodeReport;

use crate::history::{History, Violation};

const PROMISE: &str = "every replica has everything";

pub(super) fn check(history: &History) -> Vec<Violation> {
    incomplete(&history.observed.last)
}

/// Shards whose replicas are not alike, by the words of all nodes that run.
pub fn incomplete(reports: &[NodeReport]) -> Vec<Violation> {
    let mut contents: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for replica in reports.iter().flat_map(|report| &report.replicas) {
        contents.entry(replica.shard).or_default().insert((replica.applied, replica.content_hash));
    }
    let differing = contents.into_iter().filter(|(_, contents)| contents.len() > 1);
    differing.map(|(shard, contents)| Violation::new(PROMISE, format!("shard {shard}: {contents:?}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::reports;

    #[test]
    fn a_replica_that_lacks_something_or_has_something_else_is_noticed() {
        let mut reports = reports();
        assert_eq!(incomplete(&reports), []);
        reports[1].replicas[2].applied -= 1;
        assert_eq!(incomplete(&reports).len(), 1);
        reports[2].replicas[3].content_hash += 1;
        assert_eq!(incomplete(&reports).len(), 2);
    }
}
