//! What one session has seen, as the token of its last answer. The token is opaque: gateways merge what a request brings with
//! what its answer adds, and the client keeps what comes back.

use http::HeaderValue;
use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Session(Mutex<Seen>);

#[derive(Clone, Debug, Default)]
struct Seen {
    token: Option<HeaderValue>,
    /// How many tokens there have been.
    number: u64,
    /// Two requests overlapped, and of what their answers told only one's is in the token. Tokens cannot be merged here.
    has_lost: bool,
}

/// What a request takes along.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) token: Option<HeaderValue>,
    /// False when the token may lack something that the session has seen: then only an owner can be asked, who knows all.
    pub(crate) is_whole: bool,
    number: u64,
}

impl Session {
    pub(crate) fn starting_with(token: Option<HeaderValue>) -> Self {
        Self(Mutex::new(Seen { token, ..Seen::default() }))
    }

    pub(crate) fn carry(&self) -> Carried {
        let seen = self.0.lock();
        Carried { token: seen.token.clone(), is_whole: !seen.has_lost, number: seen.number }
    }

    /// The answer to a request that took `carried` along.
    pub(crate) fn answered(&self, carried: &Carried, token: Option<&HeaderValue>) {
        let Some(token) = token else { return };
        let mut seen = self.0.lock();
        if seen.token.as_ref() == Some(token) || carried.token.as_ref() == Some(token) {
            // It adds nothing to what is here, or to what was here before and so is in all that came since.
            return;
        }
        seen.has_lost |= seen.number != carried.number;
        seen.number += 1;
        seen.token = Some(token.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(session: &Session, carried: &Carried, token: &'static str) {
        session.answered(carried, Some(&HeaderValue::from_static(token)));
    }

    #[test]
    fn requests_one_after_another_keep_the_last_token() {
        let session = Session::default();
        for token in ["a", "ab", "ab", "abc"] {
            answer(&session, &session.carry(), token);
            assert_eq!(session.carry().token.unwrap(), token);
        }
        session.answered(&session.carry(), None);
        let carried = session.carry();
        assert_eq!((carried.token.unwrap().to_str().unwrap(), carried.is_whole), ("abc", true));
    }

    #[test]
    fn overlapping_requests_that_saw_different_things_cannot_be_told_in_one_token() {
        let session = Session::default();
        answer(&session, &session.carry(), "a");
        let (one, other) = (session.carry(), session.carry());
        answer(&session, &one, "ab");
        assert!(session.carry().is_whole);
        // Nothing new is nothing lost.
        answer(&session, &other, "a");
        let carried = session.carry();
        assert_eq!((carried.token.unwrap().to_str().unwrap(), carried.is_whole), ("ab", true));
        answer(&session, &other, "ac");
        assert!(!session.carry().is_whole);
    }
}
