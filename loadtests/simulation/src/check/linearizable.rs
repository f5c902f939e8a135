//! Promise 4: requests to one entity have an order that agrees with real time. Versions give the order of whatever was
//! answered with one, so it is enough to hold it against the clock: what begins after another's end sees at least its version,
//! and more if it writes; nothing sees a write that had not begun; and a refusal must have been true at some version between.
//! Reads of a session may be older, and what they owe is in `session`, and stale ones may be as old as they like; but neither
//! sees anything that had not begun.

use crate::history::{Call, Consistency, Entity, History, OTHER_VERSION, Operation, Outcome, Violation};
use crate::model::{self, State};

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
        let before = match operation.call {
            Call::Read(Consistency::Session | Consistency::Stale) => 0,
            _ => ends.newest_before(operation.invoked),
        };
        // The newest version that had been asked for when the operation ended.
        let until = begun.iter().take_while(|begun| begun.is_none_or(|at| at <= operation.completed)).count() as u64;
        let between = || (before..).zip(states.iter().take(until as usize + 1).skip(before as usize));
        let what = match &operation.outcome {
            Outcome::Applied { version, .. } if operation.condition.is_some_and(|asked| asked + 1 != *version) => {
                "it was to be applied to another version".to_owned()
            }
            Outcome::Applied { version, replayed: false, .. } if *version <= before => {
                format!("it is told version {version}, and {before} was known before it began")
            }
            Outcome::State { version, .. } if *version < before => {
                format!("it sees version {version}, and {before} was known before it began")
            }
            Outcome::Deleted if !between().any(|(_, state)| *state == State::Deleted) => {
                format!("it finds it deleted, which it is at no version from {before} to {until}")
            }
            Outcome::Absent if before > 0 => format!("it sees nothing, and version {before} was known before it began"),
            Outcome::Applied { version, .. } | Outcome::State { version, .. } if *version > until => {
                format!("it sees version {version} before anybody had written it")
            }
            Outcome::Rejected { reason, replayed: false } => {
                let Some(write) = operation.write() else { continue };
                let is_other = |version, state: State| operation.condition != Some(version) || !state.exists();
                let could_be = |(version, state): (u64, &State)| match reason.as_str() {
                    OTHER_VERSION => is_other(version, *state),
                    _ => state.refusal(write) == Some(reason),
                };
                if between().any(could_be) {
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
    use crate::check::samples::{
        account_history, acknowledged, added, deleted, deposited, history, in_session, opened, read, rejected,
        withdrawal,
    };

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

    #[test]
    fn a_condition_that_was_overlooked_or_met_and_refused_is_noticed() {
        let asked = |operation: Operation, version| Operation { condition: Some(version), ..operation };
        let first = || acknowledged(1, 10, 0..10);
        let refusal = |time, version| asked(rejected(30, time, OTHER_VERSION), version);
        let check_with = |operation| check(&history([first(), operation, acknowledged(2, 20, 40..50)], log())).len();
        assert_eq!(check_with(refusal(20..30, 1)), 1, "it was at version 1 all the time");
        assert_eq!(check_with(refusal(20..30, 2)), 0);
        assert_eq!(check_with(refusal(20..45, 1)), 0, "version 2 was on its way");
        let second = |version| check(&history([first(), asked(acknowledged(2, 20, 11..20), version)], log())).len();
        assert_eq!((second(1), second(0)), (0, 1));
    }

    #[test]
    fn what_is_found_deleted_or_not_against_the_log_is_noticed() {
        let log = || [added(1, 10), deleted(2)];
        let gone = |time| Operation { outcome: Outcome::Deleted, ..read(1, 10, time) };
        let bye = crate::check::samples::deletion(2, 11..20);
        let all = |operation| check(&history([acknowledged(1, 10, 0..10), bye.clone(), operation], log())).len();
        assert_eq!((all(gone(21..25)), all(gone(12..15))), (0, 0));
        assert_eq!(all(gone(3..5)), 1, "nobody had asked for it yet");
        assert_eq!(all(read(1, 10, 21..25)), 1, "it was gone by then");
    }

    #[test]
    fn a_session_may_see_what_is_old_but_not_what_is_to_come() {
        let operations = |read| [acknowledged(1, 10, 0..10), acknowledged(2, 20, 11..20), read];
        assert_eq!(check(&history(operations(in_session(0, 1, 10, 21..25)), log())), []);
        let early = check(&history(operations(in_session(0, 2, 30, 5..8)), log()));
        assert_eq!(early.len(), 2, "and its write comes too late");
    }
}
