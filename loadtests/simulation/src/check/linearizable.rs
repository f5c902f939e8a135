//! Promise 4: requests to one entity have an order that agrees with real time. Versions give the order of whatever was
//! answered with one, so it is enough to hold it against the clock: what begins after another's end sees at least its version,
//! and more if it writes; nothing sees a write that had not begun; and a refusal must have been true at some version between.

use crate::history::{Entity, History, Operation, Outcome, Violation};
use crate::model;

const PROMISE: &str = "linearizable";

pub(super) fn check(history: &History) -> Vec<Violation> {
    history.entities().into_iter().flat_map(|entity| check_entity(history, entity)).collect()
}

fn check_entity(history: &History, entity: &Entity) -> Vec<Violation> {
    let mut violations = Vec::new();
    let log = history.log(entity);
    // A log that does not fold is another check's finding.
    let Ok(states) = model::states(entity.kind, log) else { return violations };
    let operations: Vec<&Operation> = history.of(entity).collect();
    let ends = Ends::new(&operations);
    // When each version was asked for at the earliest.
    let begun: Vec<Option<u64>> = log
        .iter()
        .map(|event| {
            let writers =
                operations.iter().filter(|operation| operation.write().is_some_and(|write| write.made(event)));
            writers.map(|operation| operation.invoked).min()
        })
        .collect();
    for operation in operations {
        let before = ends.newest_before(operation.invoked);
        // The newest version that had been asked for when the operation ended.
        let until = begun.iter().take_while(|begun| begun.is_none_or(|at| at <= operation.completed)).count() as u64;
        let what = match &operation.outcome {
            Outcome::Applied { version, replayed: false, .. } if *version <= before => {
                format!("it is told version {version}, and {before} was known before it began")
            }
            Outcome::State { version, .. } if *version < before => {
                format!("it sees version {version}, and {before} was known before it began")
            }
            Outcome::Absent if before > 0 => format!("it sees nothing, and version {before} was known before it began"),
            Outcome::Applied { version, .. } | Outcome::State { version, .. } if *version > until => {
                format!("it sees version {version} before anybody had written it")
            }
            Outcome::Rejected { reason, replayed: false } => {
                let Some(write) = operation.write() else { continue };
                let possible = states.iter().take(until as usize + 1).skip(before as usize);
                if possible.into_iter().any(|state| state.refusal(write) == Some(reason)) {
                    continue;
                }
                format!("it is refused, which it could not be at any version from {before} to {until}")
            }
            _ => continue,
        };
        violations.push(Violation::new(PROMISE, format!("{operation:?}: {what}")));
    }
    violations
}

/// When which version was known at the latest.
struct Ends {
    /// By time; versions ascend too.
    ends: Vec<(u64, u64)>,
}

impl Ends {
    fn new(operations: &[&Operation]) -> Self {
        let versions = operations.iter().filter_map(|operation| Some((operation.completed, operation.version()?)));
        let mut ends: Vec<(u64, u64)> = versions.collect();
        ends.sort_unstable();
        let mut newest = 0;
        for (_, version) in &mut ends {
            newest = newest.max(*version);
            *version = newest;
        }
        Self { ends }
    }

    /// The newest version that somebody had been told strictly before `at`.
    fn newest_before(&self, at: u64) -> u64 {
        let earlier = self.ends.partition_point(|(end, _)| *end < at);
        earlier.checked_sub(1).map_or(0, |last| self.ends[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{account_history, acknowledged, added, deposited, history, opened, read, withdrawal};

    fn log() -> [crate::history::Event; 2] {
        [added(1, 10), added(2, 20)]
    }

    #[test]
    fn concurrent_requests_may_see_either_order() {
        let operations =
            [acknowledged(1, 10, 0..10), acknowledged(2, 20, 5..30), read(1, 10, 8..12), read(2, 30, 9..13)];
        assert_eq!(check(&history(operations, log())), []);
    }

    #[test]
    fn a_stale_read_is_noticed() {
        let operations = [acknowledged(1, 10, 0..10), acknowledged(2, 20, 11..20), read(1, 10, 21..25)];
        assert_eq!(check(&history(operations, log())).len(), 1);
        let operations =
            [read(2, 30, 15..20), read(1, 10, 21..25), acknowledged(2, 20, 11..30), acknowledged(1, 10, 0..5)];
        assert_eq!(check(&history(operations, log())).len(), 1, "two reads tell as well");
    }

    #[test]
    fn a_write_that_lands_before_an_earlier_one_is_noticed() {
        let operations = [acknowledged(2, 20, 0..10), acknowledged(1, 10, 11..20)];
        assert_eq!(check(&history(operations, log())).len(), 2, "one too early, one too late");
    }

    #[test]
    fn a_read_of_what_nobody_has_written_yet_is_noticed() {
        let operations = [acknowledged(1, 10, 0..10), read(2, 30, 11..15), acknowledged(2, 20, 16..20)];
        assert_eq!(check(&history(operations, log())).len(), 2, "and its write comes too late");
    }

    #[test]
    fn a_refusal_that_was_never_true_is_noticed() {
        let log = || [opened(1), deposited(2, 100)];
        let rich = [withdrawal(50, 50..60, "insufficient-funds")];
        assert_eq!(check(&account_history(rich, log(), 0..20)).len(), 1);
        let early = [withdrawal(50, 5..60, "insufficient-funds")];
        assert_eq!(check(&account_history(early, log(), 0..20)), [], "it may have come before the deposit");
        let poor = [withdrawal(500, 50..60, "insufficient-funds")];
        assert_eq!(check(&account_history(poor, log(), 0..20)), []);
    }
}
