//! Why somebody is refused, and how that is told: to the caller in a sentence, to operators as a count and now and then a line
//! in the log. None of it has the secret.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

use crate::seam::{BootInstant, Seams};
use crate::telemetry::{Counter, Metrics};

/// Between two lines for the same reason. Who guesses must not fill the disk with it.
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// Why a request is refused before anything is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no credential.
    Missing,
    /// The header is not one bearer credential.
    Malformed,
    UnknownKey,
    /// It is no token, or lacks claims that it must have.
    BadToken,
    WrongAlgorithm,
    /// No known key can have signed it.
    UnknownSigner,
    WrongSignature,
    WrongIssuer,
    WrongAudience,
    Expired,
    Early,
    /// The keys that tokens are checked with could not be fetched yet.
    NoKeys,
    /// It is known who asks, and they may not.
    Forbidden,
}

const ALL: [Refusal; 13] = [
    Refusal::Missing,
    Refusal::Malformed,
    Refusal::UnknownKey,
    Refusal::BadToken,
    Refusal::WrongAlgorithm,
    Refusal::UnknownSigner,
    Refusal::WrongSignature,
    Refusal::WrongIssuer,
    Refusal::WrongAudience,
    Refusal::Expired,
    Refusal::Early,
    Refusal::NoKeys,
    Refusal::Forbidden,
];

impl Refusal {
    /// What `WWW-Authenticate` says (RFC 6750, 3).
    pub fn challenge(self) -> &'static str {
        match self {
            Self::Missing | Self::NoKeys => "Bearer",
            Self::Malformed => "Bearer error=\"invalid_request\"",
            Self::Forbidden => "Bearer error=\"insufficient_scope\"",
            _ => "Bearer error=\"invalid_token\"",
        }
    }

    /// The label of the metric.
    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown-key",
            Self::BadToken => "bad-token",
            Self::WrongAlgorithm => "wrong-algorithm",
            Self::UnknownSigner => "unknown-signer",
            Self::WrongSignature => "wrong-signature",
            Self::WrongIssuer => "wrong-issuer",
            Self::WrongAudience => "wrong-audience",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::NoKeys => "no-keys",
            Self::Forbidden => "forbidden",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "this needs a credential, in Authorization: Bearer",
            Self::Malformed => "Authorization must be one line, Bearer and a credential",
            Self::UnknownKey => "the API key is not known",
            Self::BadToken => "the credential is not a token as this port takes them",
            Self::WrongAlgorithm => "the token is signed with an algorithm that is not accepted",
            Self::UnknownSigner => "the token is signed with a key that is not known",
            Self::WrongSignature => "the signature of the token is wrong",
            Self::WrongIssuer => "the token is of another issuer",
            Self::WrongAudience => "the token is for another audience",
            Self::Expired => "the token has expired",
            Self::Early => "the token is not valid yet",
            Self::NoKeys => "the keys that tokens are checked with are not known yet",
            Self::Forbidden => "this credential does not allow that",
        })
    }
}

/// Counts and logs the refusals of one port.
#[derive(Debug)]
pub(super) struct Refusals {
    port: &'static str,
    /// Registered when first used, so that the page has no lines for what never happens.
    metrics: Metrics,
    counter: &'static str,
    counters: [std::sync::OnceLock<Counter>; ALL.len()],
    seams: Seams,
    lines: Mutex<[Lines; ALL.len()]>,
}

/// The lines for one reason.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    last: Option<BootInstant>,
    /// Refusals since then, without a line of their own.
    silent: u64,
}

impl Refusals {
    pub(super) fn new(metrics: Metrics, counter: &'static str, port: &'static str, seams: &Seams) -> Self {
        let counters = [const { std::sync::OnceLock::new() }; ALL.len()];
        Self { port, metrics, counter, counters, seams: seams.clone(), lines: Mutex::default() }
    }

    /// `principal` is who was refused, where that is known.
    pub(super) fn note(&self, refusal: Refusal, principal: &str) {
        let place = refusal as usize;
        let counter = self.counters[place].get_or_init(|| {
            let labels = [("port", self.port), ("reason", refusal.label())];
            self.metrics.counter(self.counter, "Requests refused for their credential or its roles.", &labels)
        });
        counter.increment();
        if let Some(silent) = self.line_due(place) {
            tracing::warn!(
                port = self.port,
                reason = refusal.label(),
                principal,
                silent,
                "a request was refused: {refusal}"
            );
        }
    }

    /// Whether to write a line, and how many refusals had none since the last one.
    fn line_due(&self, place: usize) -> Option<u64> {
        let now = self.seams.clock.now();
        let mut lines = self.lines.lock();
        let Lines { last, silent } = &mut lines[place];
        if last.is_some_and(|last| now.since(last) < LINE_PAUSE) {
            *silent += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_place() {
        assert!(ALL.iter().enumerate().all(|(place, refusal)| *refusal as usize == place));
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_are_counted_one_by_one_and_logged_now_and_then() {
        let (seams, metrics) = (Seams::simulated(1), Metrics::new(&[]).unwrap());
        let refusals = Refusals::new(metrics.clone(), "test_refusals_total", "public", &seams);
        let place = Refusal::UnknownKey as usize;
        assert_eq!(refusals.line_due(place), Some(0));
        for _ in 0..1000 {
            refusals.note(Refusal::UnknownKey, "");
        }
        assert_eq!(refusals.line_due(Refusal::Expired as usize), Some(0), "another reason is news");
        seams.spawner.sleep(LINE_PAUSE).await;
        assert_eq!(refusals.line_due(place), Some(1000));
        let page = metrics.render().unwrap();
        assert!(page.contains("test_refusals_total{port=\"public\",reason=\"unknown-key\"} 1000"), "{page}");
    }
}
