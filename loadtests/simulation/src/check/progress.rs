//! A dead cluster keeps every promise, so it must be shown that this one lived: enough was answered as asked while things
//! were breaking, and everything once they were mended.

use crate::history::{History, Operation, Outcome, Violation};

const PROMISE: &str = "progress";
/// How many of a hundred requests must be answered as asked while things break.
const SUCCESSES_PERCENT_MIN: usize = 20;
/// What is little enough to say nothing.
const OPERATIONS_MIN: usize = 100;

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let total = history.operations.len();
    let successes = history.operations.iter().filter(|operation| succeeded(operation)).count();
    if total < OPERATIONS_MIN || successes * 100 < total * SUCCESSES_PERCENT_MIN {
        let what = format!("only {successes} of {total} requests were answered as asked");
        violations.push(Violation::new(PROMISE, what));
    }
    let quiet = history.operations.iter().filter(|operation| operation.invoked >= history.healed);
    if quiet.clone().count() == 0 {
        violations.push(Violation::new(PROMISE, "nobody asked for anything once everything was mended"));
    }
    let failed = quiet.filter(|operation| !succeeded(operation));
    violations
        .extend(failed.map(|operation| Violation::new(PROMISE, format!("everything is mended, and {operation:?}"))));
    let nonsense = history.operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Nonsense { .. }));
    violations.extend(nonsense.map(|operation| Violation::new("contract", format!("{operation:?}"))));
    violations
}

fn succeeded(operation: &Operation) -> bool {
    match operation.outcome {
        Outcome::Applied { .. }
        | Outcome::Rejected { .. }
        | Outcome::State { .. }
        | Outcome::Absent
        | Outcome::Deleted => true,
        Outcome::NotApplied { .. } | Outcome::Unknown { .. } | Outcome::Nonsense { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acknowledged, history, write};

    fn many(count: u64, healed: u64) -> History {
        let operations = (0..count).map(|number| acknowledged(number + 1, 10, number..number + 1));
        History { healed, ..history(operations, []) }
    }

    #[test]
    fn a_cluster_that_does_little_is_noticed() {
        assert_eq!(check(&many(200, 100)), []);
        assert_eq!(check(&many(50, 10)).len(), 1);
        let mut dead = many(150, 100);
        let refused = |number| write(1, number..number + 1, Outcome::NotApplied { status: 503 });
        dead.operations.splice(0..0, (0..1000).map(|_| refused(5)));
        assert_eq!(check(&dead).len(), 1);
    }

    #[test]
    fn a_failure_after_everything_was_mended_is_noticed() {
        let mut history = many(200, 100);
        history.operations[150].outcome = Outcome::Unknown { why: "504".into() };
        assert_eq!(check(&history).len(), 1);
        history.operations[50].outcome = Outcome::Unknown { why: "504".into() };
        assert_eq!(check(&history).len(), 1, "before, it may fail");
        assert_eq!(check(&many(200, 1000)).len(), 1, "and silence proves nothing");
    }

    #[test]
    fn answers_outside_of_the_contract_are_noticed() {
        let mut history = many(200, 100);
        history.operations[50].outcome = Outcome::Nonsense { answer: "500".into() };
        assert_eq!(check(&history).len(), 1);
    }
}
