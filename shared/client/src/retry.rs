//! Whether a request is sent again, when, and what is known of a command in the end. Pure: it is told how attempts ended, how
//! much time is left, and chance.

use std::time::Duration;

use crate::error::Error;
use crate::problem::Problem;

/// The first pause is at most this long, and the ceiling doubles with every attempt.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How an attempt ended that brought no result.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// No connection was made: nothing was sent.
    Unreached(String),
    /// The connection broke, or there was no answer in time: it may have been executed.
    Lost(String),
    Refused(Box<Problem>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// After this pause, at another address if there is one.
    Elsewhere(Duration),
    /// After this pause, at the same address.
    Here(Duration),
    GiveUp,
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Retry {
    attempts: u32,
    attempts_max: u32,
    /// Addresses that are left before a pause is due; without a connection nothing was burdened.
    unpaused: usize,
    /// An attempt at a command may have been executed, and nothing has settled yet whether.
    is_unknown: bool,
}

impl Retry {
    /// Of a call for which there are so many addresses.
    pub(crate) fn new(attempts_max: u32, addresses: usize) -> Self {
        Self { attempts: 0, attempts_max, unpaused: addresses - 1, is_unknown: false }
    }

    pub(crate) fn judge(&mut self, failure: &Failure, remaining: Duration, chance: u64) -> Next {
        self.attempts += 1;
        self.is_unknown |= failure.leaves_unknown();
        if self.attempts >= self.attempts_max {
            return Next::GiveUp;
        }
        let next = match failure {
            Failure::Unreached(_) if self.unpaused > 0 => {
                self.unpaused -= 1;
                Next::Elsewhere(Duration::ZERO)
            }
            Failure::Unreached(_) | Failure::Lost(_) => Next::Elsewhere(pause(self.attempts, chance)),
            Failure::Refused(problem) if problem.is_retryable() => {
                let pause = problem.retry_after.unwrap_or_default() + pause(self.attempts, chance);
                match problem.code {
                    // It runs, and whoever is asked waits for the same.
                    crate::Code::InProgress => Next::Here(pause),
                    _ => Next::Elsewhere(pause),
                }
            }
            Failure::Refused(_) => return Next::GiveUp,
        };
        match next {
            Next::Elsewhere(pause) | Next::Here(pause) if pause >= remaining => Next::GiveUp,
            next => next,
        }
    }

    /// What the caller is told in the end. `idempotency_key` is a command's.
    pub(crate) fn give_up(&self, failure: Failure, idempotency_key: Option<&str>) -> Error {
        let is_settled = matches!(&failure, Failure::Refused(problem) if problem.is_settled());
        if let Some(idempotency_key) = idempotency_key
            && self.is_unknown
            && !is_settled
        {
            let last = match failure {
                Failure::Refused(problem) => problem.to_string(),
                Failure::Unreached(last) | Failure::Lost(last) => last,
            };
            return Error::UnknownOutcome { idempotency_key: idempotency_key.to_owned(), last };
        }
        match failure {
            Failure::Refused(problem) => Error::Refused(problem),
            Failure::Unreached(last) | Failure::Lost(last) => Error::Unavailable { last },
        }
    }
}

impl Failure {
    fn leaves_unknown(&self) -> bool {
        match self {
            Self::Unreached(_) => false,
            Self::Lost(_) => true,
            Self::Refused(problem) => problem.leaves_unknown(),
        }
    }
}

/// Exponential backoff with full jitter (Brooker 2015, "Exponential Backoff And Jitter"): anything up to the ceiling, so that
/// clients that failed together do not come back together.
pub(crate) fn pause(attempts: u32, chance: u64) -> Duration {
    let ceiling = PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE_MAX);
    Duration::from_nanos(chance % (ceiling.as_nanos() as u64 + 1))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn refused(status: u16, code: &str, retry_after: Option<&'static str>) -> Failure {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert("retry-after", HeaderValue::from_static(seconds));
        }
        let body = format!("{{\"code\":\"{code}\"}}");
        Failure::Refused(Box::new(Problem::read(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())))
    }

    fn lost() -> Failure {
        Failure::Lost("gone".to_owned())
    }

    fn unreached() -> Failure {
        Failure::Unreached("refused".to_owned())
    }

    #[test]
    fn every_other_address_is_tried_at_once_where_nothing_was_sent() {
        let mut retry = Retry::new(9, 3);
        assert_eq!(retry.judge(&unreached(), LONG, 7), Next::Elsewhere(Duration::ZERO));
        assert_eq!(retry.judge(&unreached(), LONG, 7), Next::Elsewhere(Duration::ZERO));
        assert_eq!(retry.judge(&unreached(), LONG, 7), Next::Elsewhere(Duration::from_nanos(7)));
        assert!(matches!(retry.give_up(unreached(), Some("k")), Error::Unavailable { .. }), "nothing was sent");
    }

    #[test]
    fn pauses_grow_to_a_limit_and_any_shorter_one_is_as_likely() {
        assert_eq!(pause(1, PAUSE_FIRST.as_nanos() as u64), PAUSE_FIRST);
        assert_eq!(pause(1, PAUSE_FIRST.as_nanos() as u64 + 1), Duration::ZERO);
        assert_eq!(pause(3, 200_000_000), Duration::from_millis(200));
        for attempts in [7, 16, 17, u32::MAX] {
            assert_eq!(pause(attempts, PAUSE_MAX.as_nanos() as u64), PAUSE_MAX, "{attempts}");
        }
    }

    #[test]
    fn a_retry_after_comes_before_the_pause_and_must_fit_the_deadline() {
        let overloaded = refused(429, "overloaded", Some("3"));
        let mut retry = Retry::new(9, 1);
        assert_eq!(
            retry.judge(&overloaded, LONG, 5),
            Next::Elsewhere(Duration::from_secs(3) + Duration::from_nanos(5))
        );
        assert_eq!(retry.judge(&overloaded, Duration::from_secs(3), 0), Next::GiveUp);
    }

    #[test]
    fn what_will_not_change_is_not_sent_again() {
        for (status, code) in [
            (400, "invalid-request"),
            (401, "unauthenticated"),
            (403, "forbidden"),
            (404, "not-found"),
            (410, "deleted"),
            (412, "version-mismatch"),
            (413, "too-large"),
            (422, "rejected"),
            (422, "key-reused"),
            (500, "internal"),
        ] {
            let mut retry = Retry::new(9, 2);
            let failure = refused(status, code, None);
            assert_eq!(retry.judge(&failure, LONG, 0), Next::GiveUp, "{code}");
            assert!(matches!(retry.give_up(failure, Some("k")), Error::Refused(_)), "{code}");
        }
        let mut retry = Retry::new(9, 2);
        assert_eq!(retry.judge(&refused(409, "in-progress", None), LONG, 1), Next::Here(Duration::from_nanos(1)));
        assert_eq!(retry.judge(&refused(503, "unavailable", None), LONG, 1), Next::Elsewhere(Duration::from_nanos(1)));
    }

    #[test]
    fn attempts_are_bounded() {
        let mut retry = Retry::new(3, 1);
        let ends: Vec<bool> = (0..3).map(|_| retry.judge(&lost(), LONG, 0) == Next::GiveUp).collect();
        assert_eq!(ends, [false, false, true]);
    }

    /// "Not applied" holds for one attempt; what an earlier one did, it does not tell.
    #[test]
    fn after_a_lost_attempt_only_what_settles_the_command_is_an_answer() {
        for (failure, is_settled) in [
            (lost(), false),
            (unreached(), false),
            (refused(503, "unavailable", None), false),
            (refused(429, "overloaded", None), false),
            (refused(409, "in-progress", None), false),
            (refused(401, "unauthenticated", None), false),
            (refused(400, "invalid-request", None), false),
            (refused(504, "unknown-outcome", None), false),
            (refused(502, "", None), false),
            (refused(404, "unknown-kind", None), false),
            (refused(404, "unknown-command", None), false),
            (refused(500, "internal", None), false),
            (refused(412, "version-mismatch", None), true),
            (refused(422, "rejected", None), true),
            (refused(404, "not-found", None), true),
        ] {
            let mut retry = Retry::new(9, 1);
            retry.judge(&lost(), LONG, 0);
            retry.judge(&failure, LONG, 0);
            let told = retry.give_up(failure.clone(), Some("k"));
            assert_eq!(told.idempotency_key(), (!is_settled).then_some("k"), "{failure:?}");
            assert!(!matches!(retry.give_up(failure, None), Error::UnknownOutcome { .. }), "a read has no outcome");
        }
        let mut retry = Retry::new(9, 1);
        retry.judge(&refused(504, "unknown-outcome", None), LONG, 0);
        assert_eq!(retry.give_up(refused(503, "unavailable", None), Some("k")).idempotency_key(), Some("k"));
        let mut retry = Retry::new(9, 1);
        retry.judge(&refused(429, "overloaded", None), LONG, 0);
        assert!(matches!(retry.give_up(refused(503, "unavailable", None), Some("k")), Error::Refused(_)));
    }
}
