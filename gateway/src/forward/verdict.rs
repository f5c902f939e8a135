//! What follows from an attempt at a request: deliver its answer, try again, or give up, and with which code. Pure.
//!
//! Rule G2: once an attempt may have reached an executor without a definite refusal, only an outcome that was decided
//! after the key check, or "unknown outcome", is returned: never a code that promises that nothing was applied.
//! Trying again is safe all the same, because every attempt carries the same idempotency key and request id.

use berth_shared::problem::Code;

/// What is attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Command,
    /// May always be tried again.
    Read,
}

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The result.
    Answered,
    /// The node refused; `decided` when the entity did so, which is after the check of the idempotency key.
    Refused { code: Code, decided: bool },
    /// The node does not own the shard; `learnt` when it named an owner that was news.
    WrongOwner { learnt: bool },
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
    /// Redirections followed without a pause.
    redirected: u32,
}

/// Redirections that are followed at once; nodes that disagree for longer are given time.
const REDIRECTED_AT_ONCE_MAX: u32 = 2;

impl History {
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation, unsettled: false, redirected: 0 }
    }

    /// Takes in what came of an attempt and says what to do.
    pub(crate) fn judge(&mut self, attempt: Attempt) -> Verdict {
        match attempt {
            Attempt::Answered => Verdict::Deliver,
            Attempt::Refused { code, decided } => self.judge_refusal(code, decided),
            Attempt::WrongOwner { learnt: true } if self.redirected < REDIRECTED_AT_ONCE_MAX => {
                self.redirected += 1;
                Verdict::RetryAtOnce
            }
            Attempt::WrongOwner { .. } | Attempt::NoOwner | Attempt::NotExecuted => Verdict::RetryAfterPause,
            Attempt::NodeBusy if self.unsettled => Verdict::RetryAfterPause,
            Attempt::NodeBusy => Verdict::GiveUp(Code::Overloaded),
            Attempt::MaybeExecuted => self.unsettle(),
        }
    }

    /// The code for when no time is left.
    pub(crate) fn expired(self) -> Code {
        if self.unsettled { Code::UnknownOutcome } else { Code::Unavailable }
    }

    fn judge_refusal(&mut self, code: Code, decided: bool) -> Verdict {
        match code {
            Code::UnknownOutcome => self.unsettle(),
            // Not applied, this time.
            Code::Unavailable => Verdict::RetryAfterPause,
            Code::Overloaded | Code::InProgress if self.unsettled => Verdict::RetryAfterPause,
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
        self.unsettled |= self.operation == Operation::Command;
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

    /// The verdict on the last of `attempts`, and the code if time ran out then.
    fn judge(operation: Operation, attempts: &[Attempt]) -> (Verdict, Code) {
        let mut history = History::new(operation);
        let mut verdict = None;
        for attempt in attempts {
            verdict = Some(history.judge(*attempt));
        }
        (verdict.unwrap(), history.expired())
    }

    #[test]
    fn a_first_attempt_at_a_command() {
        for (attempt, verdict, expired) in [
            (Answered, Deliver, Code::Unavailable),
            (NotExecuted, RetryAfterPause, Code::Unavailable),
            (NoOwner, RetryAfterPause, Code::Unavailable),
            (WrongOwner { learnt: true }, RetryAtOnce, Code::Unavailable),
            (WrongOwner { learnt: false }, RetryAfterPause, Code::Unavailable),
            (NodeBusy, GiveUp(Code::Overloaded), Code::Unavailable),
            (MaybeExecuted, RetryAfterPause, Code::UnknownOutcome),
            (refused(Code::UnknownOutcome), RetryAfterPause, Code::UnknownOutcome),
            (refused(Code::Unavailable), RetryAfterPause, Code::Unavailable),
            (refused(Code::Overloaded), Deliver, Code::Unavailable),
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
            (WrongOwner { learnt: true }, RetryAtOnce),
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
    fn a_read_has_no_unknown_outcome() {
        for attempt in [MaybeExecuted, NotExecuted, refused(Code::UnknownOutcome), refused(Code::Unavailable)] {
            assert_eq!(judge(Read, &[attempt]), (RetryAfterPause, Code::Unavailable), "{attempt:?}");
        }
        assert_eq!(judge(Read, &[MaybeExecuted, refused(Code::NotFound)]).0, Deliver);
        assert_eq!(judge(Read, &[MaybeExecuted, refused(Code::Overloaded)]).0, Deliver);
    }

    #[test]
    fn nodes_that_send_a_request_back_and_forth_are_given_time() {
        let learnt = WrongOwner { learnt: true };
        assert_eq!(judge(Command, &[learnt, learnt]).0, RetryAtOnce);
        assert_eq!(judge(Command, &[learnt, learnt, learnt]).0, RetryAfterPause);
    }

    fn any_attempt() -> impl Strategy<Value = Attempt> {
        prop_oneof![
            Just(Answered),
            Just(NoOwner),
            Just(NodeBusy),
            Just(NotExecuted),
            Just(MaybeExecuted),
            any::<bool>().prop_map(|learnt| WrongOwner { learnt }),
            (0..Code::ALL.len(), any::<bool>())
                .prop_map(|(code, decided)| Attempt::Refused { code: Code::ALL[code], decided }),
        ]
    }

    proptest! {
        /// Rule G2, over any course of attempts.
        #[test]
        fn nothing_promises_that_an_unsettled_command_was_not_applied(attempts in prop::collection::vec(any_attempt(), 1..8)) {
            let mut history = History::new(Command);
            let mut unsettled = false;
            for attempt in attempts {
                unsettled |= matches!(attempt, MaybeExecuted | Attempt::Refused { code: Code::UnknownOutcome, .. });
                let verdict = history.judge(attempt);
                let told = match (verdict, attempt) {
                    (GiveUp(code), _) | (Deliver, Attempt::Refused { code, .. }) => Some(code),
                    _ => None,
                };
                if unsettled {
                    prop_assert!(!matches!(told, Some(Code::Unavailable | Code::Overloaded | Code::InProgress)));
                    prop_assert_eq!(history.expired(), Code::UnknownOutcome);
                } else {
                    prop_assert_ne!(told, Some(Code::UnknownOutcome));
                    prop_assert_eq!(history.expired(), Code::Unavailable);
                }
            }
        }
    }
}
