//! Promise 4, of sessions: a client that shows what it has seen reads its own writes, and never anything older than it has read
//! before, whichever replica answers.

use std::collections::BTreeMap;

use crate::history::{Call, Consistency, Entity, Event, History, Operation, Outcome, TOMBSTONE, Violation};

const PROMISE: &str = "session";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    // What each client was told, in the order of its requests: it makes one at a time.
    let mut known: BTreeMap<(usize, &Entity), u64> = BTreeMap::new();
    for operation in &history.operations {
        let newest = known.entry((operation.client, &operation.entity)).or_default();
        if operation.call == Call::Read(Consistency::Session)
            && let Some(what) = wrong(operation, *newest, history.log(&operation.entity))
        {
            violations.push(Violation::new(PROMISE, format!("{operation:?}: {what}")));
        }
        *newest = operation.version().unwrap_or(0).max(*newest);
    }
    violations
}

/// What is wrong with a read by a client that knows version `newest`.
fn wrong(read: &Operation, newest: u64, log: &[Event]) -> Option<String> {
    match read.outcome {
        Outcome::State { version, .. } if version < newest => {
            Some(format!("it sees version {version}, and its client knew {newest}"))
        }
        Outcome::Absent if newest > 0 => Some(format!("it sees nothing, and its client knew version {newest}")),
        Outcome::Deleted if !log.iter().any(|event| event.version >= newest && event.name == TOMBSTONE) => {
            Some(format!("it finds it deleted, which it is not since version {newest}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acknowledged, added, deleted, history, in_session};

    fn check_reads(reads: impl IntoIterator<Item = Operation>) -> usize {
        let writes = [acknowledged(1, 10, 0..5), acknowledged(2, 20, 6..9)];
        check(&history(writes.into_iter().chain(reads), [added(1, 10), added(2, 20)])).len()
    }

    #[test]
    fn a_client_that_does_not_read_its_own_writes_is_noticed() {
        assert_eq!(check_reads([in_session(0, 2, 30, 10..11)]), 0);
        assert_eq!(check_reads([in_session(0, 1, 10, 10..11)]), 1);
        let nothing = Operation { outcome: Outcome::Absent, ..in_session(0, 1, 10, 10..11) };
        assert_eq!(check_reads([nothing]), 1);
    }

    #[test]
    fn a_client_whose_reads_go_back_is_noticed_and_another_client_owes_it_nothing() {
        assert_eq!(check_reads([in_session(1, 1, 10, 10..11), in_session(1, 2, 30, 12..13)]), 0);
        assert_eq!(check_reads([in_session(1, 2, 30, 10..11), in_session(1, 1, 10, 12..13)]), 1);
        assert_eq!(check_reads([in_session(1, 2, 30, 10..11), in_session(2, 1, 10, 12..13)]), 0);
    }

    #[test]
    fn a_deletion_that_was_followed_by_something_that_the_client_knows_is_over() {
        let gone = Operation { outcome: Outcome::Deleted, ..in_session(0, 0, 0, 20..21) };
        let log = || [added(1, 10), deleted(2), added(3, 30)];
        let known = |version| in_session(0, version, 0, 10..11);
        assert_eq!(check(&history([known(1), gone.clone()], log())), []);
        assert_eq!(check(&history([known(3), gone], log())).len(), 1);
    }
}
