//! What follows from an attempt at a request: deliver its answer, try again, or give up, and with which code. Pure.
//!
//! Rule G2: once an attempt may have reached an executor without a definite refusal, only an outcome that was decided
//! after the key check, or "unknown outcome", is returned: never a code that promises that nothing was applied.
//! Trying again is safe all the same, because every attempt carries the same idempotency key and request id.

use berth_shared::planted::{self, Bug};
use berth_shared::problem::Code;

/// What is attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Command,
    /// May always be tried again.
    Read,
    /// Likewise; it may take so long that trying again in between would never come to an end.
    LongRead,
}

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The result.
    Answered,
    /// The node refused; `decided` when the entity did so, which is after the check of the idempotency key.
    Refused { code: Code, decided: bool },
    /// The node does not own the shard: not executed.
    WrongOwner,
    /// No owner of the shard is known.
    NoOwner,
    /// The gateway has too many requests in flight to the owner already.
    NodeBusy,
    /// The request certainly reached no executor.
    NotExecuted,
    /// The request was sent and no answer, or none that makes sense, came back.
    MaybeExecuted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The attempt's answer, refusals included, is the client's.
    Deliver,
    RetryAtOnce,
    RetryAfterPause,
    GiveUp(Code),
}

/// What the attempts so far amount to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    operation: Operation,
    /// Some attempt may have reached an executor and was not definitely refused.
    unsettled: bool,
    /// The request was given time before, as it is when an owner fails. It comes to the next owner together with all others
    /// that were, which may be more at once than are let in; and so it is given time rather than refused for that.
    waited: bool,
    /// The last attempt found too many others.
    crowded_out: bool,
    /// Attempts made at once since the last pause.
    redirected: u32,
}

/// Attempts made at once because the owner is another one by now; when owners change faster, the request is given time.
const REDIRECTED_AT_ONCE_MAX: u32 = 2;

impl History {
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation, unsettled: false, waited: false, crowded_out: false, redirected: 0 }
    }

    /// Takes in what came of an attempt and says what to do. `moved`: by now another node is known as the owner than the
    /// one that was asked, if any was.
    pub(crate) fn judge(&mut self, attempt: Attempt, moved: bool) -> Verdict {
        self.crowded_out = matches!(attempt, Attempt::NodeBusy | Attempt::Refused { code: Code::Overloaded, .. });
        let verdict = match attempt {
            Attempt::Answered => Verdict::Deliver,
            Attempt::Refused { code, decided } => self.judge_refusal(code, decided),
            Attempt::WrongOwner | Attempt::NoOwner | Attempt::NotExecuted => Verdict::RetryAfterPause,
            Attempt::NodeBusy if self.unsettled || self.waited => Verdict::RetryAfterPause,
            Attempt::NodeBusy => Verdict::GiveUp(Code::Overloaded),
            Attempt::MaybeExecuted => self.unsettle(),
        };
        if verdict != Verdict::RetryAfterPause {
            return verdict;
        }
        if moved && self.redirected < REDIRECTED_AT_ONCE_MAX {
            self.redirected += 1;
            return Verdict::RetryAtOnce;
        }
        self.redirected = 0;
        self.waited = true;
        Verdict::RetryAfterPause
    }

    /// Whether some attempt may have reached an executor and was not definitely refused.
    pub(crate) fn is_unsettled(self) -> bool {
        self.unsettled
    }

    /// The code for when no time is left.
    pub(crate) fn expired(self) -> Code {
        match self {
            Self { unsettled: true, .. } => Code::UnknownOutcome,
            Self { crowded_out: true, .. } => Code::Overloaded,
            _ => Code::Unavailable,
        }
    }

    fn judge_refusal(&mut self, code: Code, decided: bool) -> Verdict {
        match code {
            Code::UnknownOutcome => self.unsettle(),
            // Not applied, this time.
            Code::Unavailable => Verdict::RetryAfterPause,
            Code::Overloaded if self.unsettled || self.waited => Verdict::RetryAfterPause,
            Code::InProgress if self.unsettled => Verdict::RetryAfterPause,
            // The node could say this without having looked for the key, under which an earlier attempt may yet run.
            Code::InvalidRequest
            | Code::KeyExpired
            | Code::UnknownKind
            | Code::UnknownCommand
            | Code::NotFound
            | Code::Deleted
            | Code::TooLarge
            | Code::Internal
                if self.unsettled && !decided =>
            {
                Verdict::GiveUp(Code::UnknownOutcome)
            }
            // Either no attempt is unsettled, or this was decided after the key check: the last three always are.
            Code::InvalidRequest
            | Code::KeyExpired
            | Code::UnknownKind
            | Code::UnknownCommand
            | Code::NotFound
            | Code::Deleted
            | Code::TooLarge
            | Code::Internal
            | Code::Overloaded
            | Code::InProgress
            | Code::VersionMismatch
            | Code::Rejected
            | Code::KeyReused => Verdict::Deliver,
        }
    }

    fn unsettle(&mut self) -> Verdict {
        self.unsettled |= self.operation == Operation::Command && !planted::is(Bug::DenyUnknownOutcome);
        Verdict::RetryAfterPause
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Attempt::{Answered, MaybeExecuted, NoOwner, NodeBusy, NotExecuted, WrongOwner};
    use super::Operation::{Command, Read};
    use super::Verdict::{Deliver, GiveUp, RetryAfterPause, RetryAtOnce};
    use super::*;

    fn refused(code: Code) -> Attempt {
        Attempt::Refused { code, decided: false }
    }

    fn decided(code: Code) -> Attempt {
        Attempt::Refused { code, decided: true }
    }

    /// The verdict on the last of `attempts`, with whether the owner had moved by then, and the code if time ran out then.
    fn judge_moves(operation: Operation, attempts: &[(Attempt, bool)]) -> (Verdict, Code) {
        let mut history = History::new(operation);
        let mut verdict = None;
        for (attempt, moved) in attempts {
            verdict = Some(history.judge(*attempt, *moved));
        }
        (verdict.unwrap(), history.expired())
    }

    /// The same where nothing moves.
    fn judge(operation: Operation, attempts: &[Attempt]) -> (Verdict, Code) {
        judge_moves(operation, &attempts.iter().map(|attempt| (*attempt, false)).collect::<Vec<_>>())
    }

    #[test]
    fn a_first_attempt_at_a_command() {
        for (attempt, verdict, expired) in [
            (Answered, Deliver, Code::Unavailable),
            (NotExecuted, RetryAfterPause, Code::Unavailable),
            (NoOwner, RetryAfterPause, Code::Unavailable),
            (WrongOwner, RetryAfterPause, Code::Unavailable),
            (NodeBusy, GiveUp(Code::Overloaded), Code::Overloaded),
            (MaybeExecuted, RetryAfterPause, Code::UnknownOutcome),
            (refused(Code::UnknownOutcome), RetryAfterPause, Code::UnknownOutcome),
            (refused(Code::Unavailable), RetryAfterPause, Code::Unavailable),
            (refused(Code::Overloaded), Deliver, Code::Overloaded),
            (refused(Code::InProgress), Deliver, Code::Unavailable),
            (refused(Code::InvalidRequest), Deliver, Code::Unavailable),
            (refused(Code::UnknownKind), Deliver, Code::Unavailable),
            (refused(Code::UnknownCommand), Deliver, Code::Unavailable),
            (refused(Code::TooLarge), Deliver, Code::Unavailable),
            (decided(Code::VersionMismatch), Deliver, Code::Unavailable),
            (decided(Code::Rejected), Deliver, Code::Unavailable),
            (refused(Code::KeyReused), Deliver, Code::Unavailable),
        ] {
            assert_eq!(judge(Command, &[attempt]), (verdict, expired), "{attempt:?}");
        }
    }

    #[test]
    fn after_an_attempt_that_may_have_been_executed() {
        for (attempt, verdict) in [
            (Answered, Deliver),
            (NotExecuted, RetryAfterPause),
            (NoOwner, RetryAfterPause),
            (NodeBusy, RetryAfterPause),
            (WrongOwner, RetryAfterPause),
            (refused(Code::Unavailable), RetryAfterPause),
            (refused(Code::Overloaded), RetryAfterPause),
            (refused(Code::InProgress), RetryAfterPause),
            (refused(Code::UnknownCommand), GiveUp(Code::UnknownOutcome)),
            (refused(Code::InvalidRequest), GiveUp(Code::UnknownOutcome)),
            (refused(Code::TooLarge), GiveUp(Code::UnknownOutcome)),
            (decided(Code::TooLarge), Deliver),
            (decided(Code::VersionMismatch), Deliver),
            (decided(Code::Rejected), Deliver),
            (refused(Code::KeyReused), Deliver),
        ] {
            assert_eq!(judge(Command, &[MaybeExecuted, attempt]), (verdict, Code::UnknownOutcome), "{attempt:?}");
        }
    }

    #[test]
    fn whatever_is_tried_again_is_tried_at_once_where_the_owner_has_moved() {
        for attempt in [WrongOwner, NoOwner, NotExecuted, MaybeExecuted, refused(Code::Unavailable)] {
            assert_eq!(judge_moves(Command, &[(attempt, true)]).0, RetryAtOnce, "{attempt:?}");
        }
        assert_eq!(judge_moves(Command, &[(MaybeExecuted, true)]).1, Code::UnknownOutcome);
        assert_eq!(judge_moves(Command, &[(NotExecuted, true)]).1, Code::Unavailable);
        for attempt in [Answered, decided(Code::Rejected), refused(Code::InProgress)] {
            assert_eq!(judge_moves(Command, &[(attempt, true)]).0, Deliver, "{attempt:?}");
        }
        assert_eq!(judge_moves(Command, &[(NodeBusy, true)]).0, GiveUp(Code::Overloaded));
    }

    #[test]
    fn a_read_has_no_unknown_outcome() {
        for attempt in [MaybeExecuted, NotExecuted, refused(Code::UnknownOutcome), refused(Code::Unavailable)] {
            assert_eq!(judge(Read, &[attempt]), (RetryAfterPause, Code::Unavailable), "{attempt:?}");
        }
        assert_eq!(judge(Read, &[MaybeExecuted, refused(Code::NotFound)]).0, Deliver);
        assert_eq!(judge(Read, &[MaybeExecuted, refused(Code::InProgress)]).0, Deliver);
    }

    #[test]
    fn what_waited_for_an_owner_is_not_refused_for_the_crowd_that_did_too() {
        for operation in [Command, Read] {
            for crowd in [NodeBusy, refused(Code::Overloaded)] {
                assert_eq!(judge(operation, &[NoOwner, crowd]), (RetryAfterPause, Code::Overloaded), "{crowd:?}");
                let over = judge(operation, &[NoOwner, crowd, NotExecuted]);
                assert_eq!(over, (RetryAfterPause, Code::Unavailable), "{crowd:?}");
                let redirected = judge_moves(operation, &[(WrongOwner, true), (crowd, false)]);
                assert!(matches!(redirected.0, Deliver | GiveUp(Code::Overloaded)), "it did not wait: {redirected:?}");
            }
        }
    }

    /// It was sent on at once and so has not waited, which would be a reason of its own.
    #[test]
    fn what_may_have_been_executed_is_not_refused_for_the_crowd_at_the_next_owner() {
        for lost in [MaybeExecuted, refused(Code::UnknownOutcome)] {
            for crowd in [NodeBusy, refused(Code::Overloaded)] {
                let judged = judge_moves(Command, &[(lost, true), (crowd, false)]);
                assert_eq!(judged, (RetryAfterPause, Code::UnknownOutcome), "{lost:?}, {crowd:?}");
            }
        }
    }

    #[test]
    fn nodes_that_send_a_request_back_and_forth_are_given_time() {
        let learnt = (WrongOwner, true);
        assert_eq!(judge_moves(Command, &[learnt, learnt]).0, RetryAtOnce);
        assert_eq!(judge_moves(Command, &[learnt, learnt, learnt]).0, RetryAfterPause);
        assert_eq!(
            judge_moves(Command, &[learnt, learnt, learnt, learnt]).0,
            RetryAtOnce,
            "and then are followed again"
        );
    }

    fn any_attempt() -> impl Strategy<Value = Attempt> {
        prop_oneof![
            Just(Answered),
            Just(NoOwner),
            Just(NodeBusy),
            Just(NotExecuted),
            Just(MaybeExecuted),
            Just(WrongOwner),
            (0..Code::ALL.len(), any::<bool>())
                .prop_map(|(code, decided)| Attempt::Refused { code: Code::ALL[code], decided }),
        ]
    }

    /// What each code promises about the request: whether it says that it was not applied.
    fn promises_not_applied(code: Code) -> bool {
        code != Code::UnknownOutcome
    }

    proptest! {
        /// Rule G2, over any course of attempts and moves.
        #[test]
        fn nothing_promises_that_an_unsettled_command_was_not_applied(
            attempts in prop::collection::vec((any_attempt(), any::<bool>()), 1..8),
        ) {
            let mut history = History::new(Command);
            let mut unsettled = false;
            for (attempt, moved) in attempts {
                unsettled |= matches!(attempt, MaybeExecuted | Attempt::Refused { code: Code::UnknownOutcome, .. });
                let (told, decided) = match (history.judge(attempt, moved), attempt) {
                    (GiveUp(code), _) => (Some(code), false),
                    // These two are only ever said after the key was looked for.
                    (Deliver, Attempt::Refused { code: code @ (Code::KeyReused | Code::Rejected | Code::VersionMismatch), .. }) => {
                        (Some(code), true)
                    }
                    (Deliver, Attempt::Refused { code, decided }) => (Some(code), decided),
                    _ => (None, false),
                };
                if unsettled {
                    prop_assert!(!told.is_some_and(promises_not_applied) || decided, "{told:?}");
                    prop_assert!(!matches!(told, Some(Code::Unavailable | Code::Overloaded | Code::InProgress)));
                    prop_assert_eq!(history.expired(), Code::UnknownOutcome);
                } else {
                    prop_assert_ne!(told, Some(Code::UnknownOutcome));
                    prop_assert!(matches!(history.expired(), Code::Unavailable | Code::Overloaded));
                }
            }
        }

        /// A definite answer is never thrown away, and a command that surely ran nowhere never ends as unknown.
        #[test]
        fn an_outcome_is_delivered_whatever_came_before(
            attempts in prop::collection::vec((any_attempt(), any::<bool>()), 0..8),
            moved: bool,
        ) {
            for last in [Answered, decided(Code::Rejected), decided(Code::VersionMismatch), refused(Code::KeyReused)] {
                for operation in [Command, Read] {
                    let mut history = History::new(operation);
                    for (attempt, moved) in &attempts {
                        history.judge(*attempt, *moved);
                    }
                    prop_assert_eq!(history.judge(last, moved), Deliver);
                }
            }
        }

        /// However the map flaps, no more than a few attempts are made without a pause.
        #[test]
        fn attempts_without_a_pause_are_few(attempts in prop::collection::vec((any_attempt(), any::<bool>()), 1..50)) {
            let mut history = History::new(Command);
            let mut at_once = 0;
            for (attempt, moved) in attempts {
                at_once = if history.judge(attempt, moved) == RetryAtOnce { at_once + 1 } else { 0 };
                prop_assert!(at_once <= 2);
            }
        }
    }
}
