//! Promise 5: the events of an entity are numbered 1, 2, 3 … without a gap, and every state that a client was shown is the
//! fold of the events up to its version.

use crate::history::{History, Outcome, Violation};
use crate::model;

const PROMISE: &str = "ordered";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entity in history.entities() {
        let log = history.log(entity);
        let mut expected = 1_u64..;
        if let Some(event) = log.iter().find(|event| Some(event.version) != expected.next()) {
            violations.push(Violation::new(PROMISE, format!("{entity}: {event:?} is out of order")));
            continue;
        }
        let states = match model::states(entity.kind, log) {
            Ok(states) => states,
            Err(what) => {
                violations.push(Violation::new(PROMISE, format!("{entity}: {what}")));
                continue;
            }
        };
        for operation in history.of(entity) {
            let (Outcome::Applied { version, state, .. } | Outcome::State { version, state }) = &operation.outcome
            else {
                continue;
            };
            let folded = states.get(*version as usize).map(|state| state.json());
            if folded.as_ref() != Some(state) {
                violations.push(Violation::new(PROMISE, format!("{operation:?}: the events make {folded:?}")));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::samples::{acknowledged, added, history, of, read};

    #[test]
    fn gaps_and_repetitions_are_noticed() {
        assert_eq!(check(&history([], [added(1, 10), added(2, 20)])), []);
        assert_eq!(check(&history([], [added(1, 10), added(3, 20)])).len(), 1);
        assert_eq!(check(&history([], [added(1, 10), added(1, 20)])).len(), 1);
        assert_eq!(check(&history([], [added(2, 10)])).len(), 1);
    }

    #[test]
    fn a_state_that_the_events_do_not_make_is_noticed() {
        let log = || [added(1, 10), added(2, 20)];
        assert_eq!(check(&history([acknowledged(1, 10, 0..5), read(2, 30, 6..7)], log())), []);
        assert_eq!(check(&history([read(2, 20, 6..7)], log())).len(), 1);
        assert_eq!(check(&history([read(3, 30, 6..7)], log())).len(), 1, "a version that is not there");
        let wrong = of(acknowledged(1, 10, 0..5), |outcome| {
            let Outcome::Applied { state, .. } = outcome else { return };
            *state = json!({ "value": 11 });
        });
        assert_eq!(check(&history([wrong], log())).len(), 1);
    }
}
