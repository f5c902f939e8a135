//! Promise 3: a write has one effect however often it was tried, none if it was said not to be applied, and at most one if
//! nobody knows. And every attempt at it is told the same.

use std::collections::BTreeMap;

use crate::history::{Entity, Event, History, Operation, Outcome, Violation, Write};

const PROMISE: &str = "exactly once";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut attempts: BTreeMap<(&Entity, Write), Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some(write) = operation.write() {
            attempts.entry((&operation.entity, write)).or_default().push(operation);
        }
    }
    let mut violations = Vec::new();
    for ((entity, write), attempts) in &attempts {
        let effects = history.log(entity).iter().filter(|event| write.made(event)).count();
        violations.extend(check_write(*write, attempts, effects).map(|what| {
            let what = format!("{entity}: {what}; it is in the log {effects} times: {attempts:?}");
            Violation::new(PROMISE, what)
        }));
    }
    for (entity, log) in &history.logs {
        let stray = |event: &&Event| !attempts.keys().any(|(of, write)| *of == entity && write.made(event));
        violations.extend(
            log.iter().find(stray).map(|event| Violation::new(PROMISE, format!("{entity}: nobody wrote {event:?}"))),
        );
    }
    violations
}

/// What is wrong with the attempts at one write, which has so many effects.
fn check_write(write: Write, attempts: &[&Operation], effects: usize) -> Option<String> {
    let acknowledged: Vec<u64> = attempts
        .iter()
        .filter_map(|attempt| match attempt.outcome {
            Outcome::Applied { version, .. } => Some(version),
            _ => None,
        })
        .collect();
    let rejections: Vec<&str> = attempts
        .iter()
        .filter_map(|attempt| match &attempt.outcome {
            Outcome::Rejected { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    let is_unknown = attempts.iter().any(|attempt| matches!(attempt.outcome, Outcome::Unknown { .. }));
    if effects > 1 {
        return Some(format!("{write:?} has several effects"));
    }
    if acknowledged.iter().any(|version| *version != acknowledged[0]) {
        return Some(format!("{write:?} was acknowledged under several versions"));
    }
    if rejections.iter().any(|reason| *reason != rejections[0]) {
        return Some(format!("{write:?} was rejected for several reasons"));
    }
    if !acknowledged.is_empty() && !rejections.is_empty() {
        return Some(format!("{write:?} was acknowledged and rejected"));
    }
    if !rejections.is_empty() && effects > 0 {
        return Some(format!("{write:?} was rejected"));
    }
    if acknowledged.is_empty() && rejections.is_empty() && !is_unknown && effects > 0 {
        return Some(format!("{write:?} was said not to be applied"));
    }
    let first = attempts.iter().position(|attempt| matches!(attempt.outcome, Outcome::Applied { .. }));
    let replayed = |attempt: &&Operation| matches!(attempt.outcome, Outcome::Applied { replayed: true, .. });
    if attempts.iter().skip(first.map_or(attempts.len(), |first| first + 1)).any(|attempt| !replayed(attempt)) {
        // The second to be acknowledged must be told that it was not the first; refusals for lack of time are no outcome.
        let later = attempts.iter().skip(first.unwrap_or(0) + 1);
        if later.into_iter().any(|attempt| matches!(attempt.outcome, Outcome::Applied { replayed: false, .. })) {
            return Some(format!("{write:?} was executed after it was acknowledged"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acknowledged, added, history, of, write};

    #[test]
    fn one_effect_that_all_attempts_agree_on_is_fine() {
        let unknown = write(10, 0..5, Outcome::Unknown { why: "504".into() });
        let replayed = of(acknowledged(1, 10, 6..9), |outcome| {
            let Outcome::Applied { replayed, .. } = outcome else { return };
            *replayed = true;
        });
        let good = history([unknown.clone(), acknowledged(1, 10, 6..9), replayed], [added(1, 10)]);
        assert_eq!(check(&good), []);
        assert_eq!(check(&history([unknown.clone()], [])), [], "unknown may be nothing");
        assert_eq!(check(&history([unknown], [added(1, 10)])), [], "or one");
    }

    #[test]
    fn a_second_effect_is_noticed() {
        let twice = history([acknowledged(1, 10, 0..5)], [added(1, 10), added(2, 10)]);
        assert!(check(&twice)[0].what.contains("several effects"));
    }

    #[test]
    fn effects_of_what_was_said_not_to_be_applied_are_noticed() {
        let refused = write(10, 0..5, Outcome::NotApplied { status: 503 });
        assert!(check(&history([refused.clone()], [added(1, 10)]))[0].what.contains("not to be applied"));
        assert_eq!(check(&history([refused], [])), []);
        let rejected = write(10, 0..5, Outcome::Rejected { reason: "no".into(), replayed: false });
        assert!(check(&history([rejected], [added(1, 10)]))[0].what.contains("rejected"));
    }

    #[test]
    fn attempts_that_are_told_different_things_are_noticed() {
        let versions = [acknowledged(1, 10, 0..5), acknowledged(2, 10, 6..9)];
        assert!(check(&history(versions, [added(1, 10)]))[0].what.contains("several versions"));
        let executed_again = [acknowledged(1, 10, 0..5), acknowledged(1, 10, 6..9)];
        assert!(check(&history(executed_again, [added(1, 10)]))[0].what.contains("after it was acknowledged"));
        let rejected = write(10, 6..9, Outcome::Rejected { reason: "no".into(), replayed: false });
        let both = [acknowledged(1, 10, 0..5), rejected];
        assert!(check(&history(both, [added(1, 10)]))[0].what.contains("acknowledged and rejected"));
    }

    #[test]
    fn an_event_that_nobody_wrote_is_noticed() {
        let stray = history([acknowledged(1, 10, 0..5)], [added(1, 10), added(2, 99)]);
        assert!(check(&stray)[0].what.contains("nobody wrote"));
    }
}
