//! Promise 4 once more, by a program that others have written: porcupine searches for an order of all requests to an entity
//! that agrees with real time and in which each is answered as it was. What the fast check in `linearizable` takes from the
//! log, that the versions are the order, is not taken for granted here: versions are part of what answers must agree in, and the
//! log only tells whether a write of which nobody knows was made (every write is unlike all others).

use std::collections::BTreeMap;
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, check_operations_timeout};

use crate::history::{
    Call, Consistency, Entity, Event, History, Kind, OTHER_VERSION, Operation, Outcome, Violation, Write,
};
use crate::model::State;

const PROMISE: &str = "linearizable, searched";
/// What the search of one entity's requests may take on a busy machine; it takes milliseconds. No answer is a violation.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn check(history: &History) -> Vec<Violation> {
    history.entities().into_iter().filter_map(|entity| check_entity(history, entity)).collect()
}

fn check_entity(history: &History, entity: &Entity) -> Option<Violation> {
    let asked = requests(history, entity);
    let verdict = match check_operations_timeout(&asked, PATIENCE) {
        CheckResult::Ok => return None,
        CheckResult::Illegal => "there is no order in which all of it could have happened".to_owned(),
        CheckResult::Unknown => format!("no answer after {PATIENCE:?}"),
    };
    Some(Violation::new(PROMISE, format!("{entity}: {verdict}; {} requests", asked.len())))
}

/// An entity, and what it is asked and answers.
#[derive(Clone)]
struct Sequential;

/// One request as the search sees it, all attempts at it together.
#[derive(Clone, Debug)]
struct Request {
    kind: Kind,
    call: Call,
    condition: Option<u64>,
    /// Of a write of which nobody knows: nothing, but it was made.
    outcome: Option<Outcome>,
}

impl Model for Sequential {
    type State = (u64, State);
    type Op = Request;
    type Metadata = ();

    fn init() -> Self::State {
        (0, State::Absent)
    }

    fn step(state: &Self::State, request: &Request) -> (bool, Self::State) {
        let next = request.follow(*state);
        (next.is_some(), next.unwrap_or(*state))
    }
}

impl Request {
    /// The state after the request, if what it was told can be told here.
    fn follow(&self, (version, state): (u64, State)) -> Option<(u64, State)> {
        let stays = |is_so: bool| is_so.then_some((version, state));
        let Call::Write(write) = self.call else {
            return match self.outcome.as_ref()? {
                Outcome::State { version: told, state: json } => stays(*told == version && *json == state.json()),
                Outcome::Absent => stays(state == State::Absent),
                Outcome::Deleted => stays(state == State::Deleted),
                _ => None,
            };
        };
        let is_at = self.condition.is_none_or(|asked| state.exists() && asked == version);
        match &self.outcome {
            Some(Outcome::Rejected { reason, .. }) if reason == OTHER_VERSION => stays(!is_at),
            Some(Outcome::Rejected { reason, .. }) => stays(is_at && state.refusal(write) == Some(reason)),
            outcome => {
                let (name, data) = write.event();
                let event = Event { version: version + 1, name: name.to_owned(), data };
                let next = state.after(self.kind, &event).filter(|_| is_at && state.refusal(write).is_none())?;
                let agrees = match outcome {
                    Some(Outcome::Applied { version: told, state: json, .. }) => {
                        *told == version + 1 && *json == next.json()
                    }
                    _ => true,
                };
                agrees.then_some((version + 1, next))
            }
        }
    }
}

/// The requests to an entity that were answered or had an effect, and are not allowed to be told what is old.
fn requests(history: &History, entity: &Entity) -> Vec<porcupine_rs::Operation<Sequential>> {
    let mut writes: BTreeMap<Write, Vec<&Operation>> = BTreeMap::new();
    let mut all = Vec::new();
    for operation in history.of(entity) {
        match &operation.call {
            Call::Write(write) => writes.entry(*write).or_default().push(operation),
            Call::Read(Consistency::Linearizable | Consistency::Strict) => {
                let is_answer = matches!(operation.outcome, Outcome::State { .. } | Outcome::Absent | Outcome::Deleted);
                all.extend(is_answer.then(|| request(entity, &[operation], Some(operation))));
            }
            Call::Read(Consistency::Session | Consistency::Stale) => {}
        }
    }
    for (write, attempts) in writes {
        let is_answer =
            |attempt: &&&Operation| matches!(attempt.outcome, Outcome::Applied { .. } | Outcome::Rejected { .. });
        // Operations are in the order of completion.
        let answered = attempts.iter().find(is_answer).copied();
        if answered.is_some() || history.log(entity).iter().any(|event| write.made(event)) {
            all.push(request(entity, &attempts, answered));
        }
    }
    all
}

/// From when it was first asked for until its first answer, if there is one.
fn request(
    entity: &Entity,
    attempts: &[&Operation],
    answered: Option<&Operation>,
) -> porcupine_rs::Operation<Sequential> {
    let first = attempts[0];
    let op = Request {
        kind: entity.kind,
        call: first.call.clone(),
        condition: first.condition,
        outcome: answered.map(|operation| operation.outcome.clone()),
    };
    let call_time = attempts.iter().map(|attempt| attempt.invoked).min().unwrap_or_default().cast_signed();
    let return_time = answered.map_or(i64::MAX, |operation| operation.completed.cast_signed());
    porcupine_rs::Operation { client_id: None, call_time, return_time, op, metadata: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{
        account_history, acknowledged, added, deleted, deletion, deposited, history, in_session, of, opened, read,
        rejected, withdrawal,
    };

    fn log() -> [Event; 2] {
        [added(1, 10), added(2, 20)]
    }

    fn unknown(operation: Operation) -> Operation {
        of(operation, |outcome| *outcome = Outcome::Unknown { why: "504".to_owned() })
    }

    fn finds(operations: impl IntoIterator<Item = Operation>, log: impl IntoIterator<Item = Event>) -> usize {
        check(&history(operations, log)).len()
    }

    #[test]
    fn what_could_have_happened_has_an_order() {
        let operations =
            [acknowledged(1, 10, 0..10), acknowledged(2, 20, 5..30), read(1, 10, 8..12), read(2, 30, 9..13)];
        assert_eq!(finds(operations, log()), 0);
        let late = [unknown(acknowledged(2, 20, 0..3)), acknowledged(1, 10, 5..10), read(2, 30, 50..60)];
        assert_eq!(finds(late, log()), 0, "what is unknown may happen after its end");
        let never = [unknown(acknowledged(1, 10, 0..3)), read(0, 0, 5..6)];
        let nothing = of(never[1].clone(), |outcome| *outcome = Outcome::Absent);
        assert_eq!(finds([never[0].clone(), nothing], []), 0, "and it may not happen");
    }

    #[test]
    fn a_stale_read_a_lost_write_and_a_read_of_what_nobody_wrote_have_none() {
        let written = || [acknowledged(1, 10, 0..10), acknowledged(2, 20, 11..20)];
        assert_eq!(finds(written().into_iter().chain([read(1, 10, 21..25)]), log()), 1);
        assert_eq!(finds(written().into_iter().chain([read(2, 31, 21..25)]), log()), 1, "not its state");
        assert_eq!(finds(written().into_iter().chain([in_session(0, 1, 10, 21..25)]), log()), 0, "a session may");
        assert_eq!(finds([acknowledged(2, 20, 11..20)], log()), 1, "the first is missing");
    }

    #[test]
    fn refusals_conditions_and_deletions_are_part_of_the_order() {
        let account = || [opened(1), deposited(2, 100)];
        let refused =
            |cents| check(&account_history([withdrawal(cents, 50..60, "insufficient-funds")], account(), 0..20));
        assert_eq!((refused(50).len(), refused(500).len()), (1, 0));
        let refusal = |version| Operation { condition: Some(version), ..rejected(30, 20..30, OTHER_VERSION) };
        let with = |operation| finds([acknowledged(1, 10, 0..10), operation, acknowledged(2, 20, 40..50)], log());
        assert_eq!((with(refusal(1)), with(refusal(2))), (1, 0));
        let gone = |time| Operation { outcome: Outcome::Deleted, ..read(1, 10, time) };
        let life =
            |operation| finds([acknowledged(1, 10, 0..10), deletion(2, 11..20), operation], [added(1, 10), deleted(2)]);
        assert_eq!((life(gone(21..25)), life(gone(3..5)), life(read(1, 10, 21..25))), (0, 1, 1));
    }
}
