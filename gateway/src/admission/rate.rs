//! How many requests each caller may make, as a generic cell rate algorithm (ITU-T I.371, Annex A; a leaky bucket that keeps
//! one time per caller), told in the fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).

use std::num::NonZeroUsize;
use std::time::Duration;

use berth_shared::seam::BootInstant;
use http::{HeaderMap, HeaderName, HeaderValue};
use lru::LruCache;
use parking_lot::Mutex;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What the policy is called in both fields.
const NAME: &str = "caller";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// Requests per window, of which all may come at once after a pause. At least 1.
    pub(crate) requests: u32,
    /// Whole seconds, at least 1.
    pub(crate) window: Duration,
    /// Callers that are told apart at a time. Further ones share what one may do.
    pub(crate) callers_max: NonZeroUsize,
}

/// What each caller has left.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Nanoseconds.
    window: u64,
    /// Nanoseconds in which what one request takes comes back.
    interval: u64,
    policy: HeaderValue,
    cells: Mutex<Cells>,
}

/// For each caller the time at which its whole quota is there again (the theoretical arrival time of the algorithm).
#[derive(Debug)]
struct Cells {
    by_caller: LruCache<Box<str>, BootInstant>,
    /// Of all who do not fit in there.
    others: BootInstant,
}

/// What a caller has left after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Requests that may be made at once.
    remaining: u64,
    /// When it will be one more.
    more_in: Duration,
    is_exceeded: bool,
}

impl Rates {
    pub(crate) fn new(config: Config) -> Self {
        let Config { requests, window, callers_max } = config;
        let policy = format!("\"{NAME}\";q={requests};w={}", window.as_secs());
        let cells = Cells { by_caller: LruCache::new(callers_max), others: BootInstant(0) };
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self {
            window,
            interval: (window / u64::from(requests.max(1))).max(1),
            policy: value(policy),
            cells: Mutex::new(cells),
        }
    }

    /// Counts a request of `caller`, unless there is nothing left for it. Those without a name are one caller.
    pub(crate) fn spend(&self, caller: &str, now: BootInstant) -> Quota {
        let mut cells = self.cells.lock();
        let cell = cells.of(caller, now);
        let full_at = (*cell).max(now);
        // How much of the quota is spent, as the time in which it comes back.
        let spent = full_at.0 - now.0;
        let is_exceeded = spent + self.interval > self.window;
        let spent = if is_exceeded { spent } else { spent + self.interval };
        *cell = BootInstant(now.0 + spent);
        let left = self.window.saturating_sub(spent);
        let remaining = left / self.interval;
        let more_in = Duration::from_nanos((remaining + 1) * self.interval - left);
        Quota { remaining, more_in, is_exceeded }
    }

    /// Tells the caller what it has left.
    pub(crate) fn show(&self, quota: Quota, headers: &mut HeaderMap) {
        headers.insert(POLICY, self.policy.clone());
        let limit = format!("\"{NAME}\";r={};t={}", quota.remaining, quota.more_in_seconds());
        headers.insert(LIMIT, value(limit));
    }
}

impl Cells {
    fn of(&mut self, caller: &str, now: BootInstant) -> &mut BootInstant {
        if self.by_caller.contains(caller) {
            return self.by_caller.get_or_insert_mut(caller.into(), || now);
        }
        let is_full = self.by_caller.len() == self.by_caller.cap().get();
        // Nobody is forgotten whose quota is not whole again: it would be whole for coming back.
        if is_full && self.by_caller.peek_lru().is_some_and(|(_, full_at)| *full_at > now) {
            return &mut self.others;
        }
        self.by_caller.get_or_insert_mut(caller.into(), || now)
    }
}

impl Quota {
    /// The seconds to wait, if the request is not to be served.
    pub(crate) fn exceeded(self) -> Option<u64> {
        self.is_exceeded.then(|| self.more_in_seconds())
    }

    /// Rounded up, so that whoever waits as long has not waited in vain.
    fn more_in_seconds(self) -> u64 {
        self.more_in.as_secs() + u64::from(self.more_in.subsec_nanos() > 0)
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| unreachable!("digits, letters and punctuation are visible"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: BootInstant = BootInstant(1_000_000_000_000);

    fn rates(requests: u32, seconds: u64, callers_max: usize) -> Rates {
        let callers_max = NonZeroUsize::new(callers_max).unwrap();
        Rates::new(Config { requests, window: Duration::from_secs(seconds), callers_max })
    }

    fn shown(rates: &Rates, quota: Quota) -> (String, String) {
        let mut headers = HeaderMap::new();
        rates.show(quota, &mut headers);
        let text = |name: &HeaderName| headers[name].to_str().unwrap().to_owned();
        (text(&POLICY), text(&LIMIT))
    }

    #[test]
    fn a_quota_is_spent_and_comes_back_bit_by_bit() {
        let rates = rates(3, 60, 8);
        let limits: Vec<_> = (0..4).map(|_| shown(&rates, rates.spend("shop", START)).1).collect();
        let expected = ["\"caller\";r=2;t=20", "\"caller\";r=1;t=20", "\"caller\";r=0;t=20", "\"caller\";r=0;t=20"]
            .map(str::to_owned);
        assert_eq!(limits, expected);
        let refused = rates.spend("shop", START + Duration::from_millis(500));
        assert_eq!(refused.exceeded(), Some(20), "rounded up");
        assert_eq!(shown(&rates, refused).0, "\"caller\";q=3;w=60");
        let later = rates.spend("shop", START + Duration::from_secs(20));
        assert_eq!((later.exceeded(), later.remaining), (None, 0), "refusals cost nothing");
        let rested = rates.spend("shop", START + Duration::from_secs(1000));
        assert_eq!((rested.exceeded(), rested.remaining), (None, 2), "no more than the whole is saved up");
    }

    #[test]
    fn callers_do_not_spend_each_others_quota() {
        let rates = rates(1, 1, 8);
        assert_eq!(rates.spend("shop", START).exceeded(), None);
        assert_eq!(rates.spend("", START).exceeded(), None);
        assert_eq!(rates.spend("office", START).exceeded(), None);
        assert_eq!(rates.spend("", START).exceeded(), Some(1), "all without a name are one");
    }

    #[test]
    fn who_does_not_fit_shares_and_nobody_is_forgotten_too_early() {
        let rates = rates(1, 10, 2);
        let spend = |caller, seconds| rates.spend(caller, START + Duration::from_secs(seconds)).exceeded();
        assert_eq!((spend("a", 0), spend("b", 1)), (None, None));
        assert_eq!((spend("c", 2), spend("d", 2)), (None, Some(10)), "these two are one caller");
        assert_eq!(spend("a", 2), Some(8));
        assert_eq!(spend("b", 11), None, "the least recently used, and whole again");
        assert_eq!(spend("e", 11), None, "takes the place of the first");
        assert_eq!(rates.cells.lock().by_caller.len(), 2);
    }

    proptest! {
        /// Whatever the pattern: within any stretch of time a caller gets no more than a whole quota and what comes back meanwhile,
        /// and who waits as long as is said is served.
        #[test]
        fn nobody_gets_more_than_the_rate(
            requests in 1_u32..50,
            seconds in 1_u64..100,
            pauses in prop::collection::vec(0_u64..3_000_000_000, 1..200),
        ) {
            let rates = rates(requests, seconds, 4);
            let (mut now, mut served) = (START, Vec::new());
            for pause in pauses {
                now = now + Duration::from_nanos(pause);
                let quota = rates.spend("a", now);
                prop_assert!(quota.remaining < u64::from(requests) || quota.is_exceeded);
                match quota.exceeded() {
                    None => served.push(now),
                    Some(wait) => {
                        now = now + Duration::from_secs(wait);
                        prop_assert_eq!(rates.spend("a", now).exceeded(), None);
                        served.push(now);
                    }
                }
            }
            for (number, first) in served.iter().enumerate() {
                for (more, last) in served[number..].iter().enumerate() {
                    let allowed = u64::from(requests) + last.since(*first).as_nanos() as u64 / rates.interval;
                    prop_assert!((more as u64) < allowed, "{} in {:?}", more + 1, last.since(*first));
                }
            }
        }
    }
}
