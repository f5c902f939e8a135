//! What a call says besides its message, in its metadata. Pure.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::auth::Principal;
use berth_shared::seam::BootInstant;
use berth_shared::telemetry::Traceparent;
use http::{HeaderMap, HeaderName};
use tonic::Status;

use crate::api::header::{DEADLINE_DEFAULT, DEADLINE_SECONDS_MAX};
use crate::api::problem::Problem;

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Digits of a time-out, at most.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// Travels with the request, among its extensions.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) traceparent: Traceparent,
    /// That, and what came along with it, as nodes are told (`TraceContext`).
    pub(super) passed_on: Arc<str>,
    /// Who asks.
    pub(super) principal: Principal,
    began: BootInstant,
    /// How long the client waits, from the beginning.
    timeout: Option<Duration>,
}

impl Call {
    pub(super) fn parse(
        headers: &HeaderMap,
        traceparent: Traceparent,
        passed_on: &str,
        principal: Principal,
        began: BootInstant,
    ) -> Result<Self, Problem> {
        let mut values = headers.get_all(TIMEOUT).iter();
        let timeout = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(value), None) => Some(parse_timeout(value.as_bytes()).ok_or_else(invalid)?),
            (Some(_), Some(_)) => return Err(invalid()),
        };
        Ok(Self { traceparent, passed_on: passed_on.into(), principal, began, timeout })
    }

    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let call = request.extensions().get::<Self>().cloned();
        call.ok_or_else(|| Status::internal("the call did not come in by the door"))
    }

    /// The time that is left for one answer. Clients that wait longer than an answer may take are not refused for it.
    pub(super) fn time_left(&self, now: BootInstant) -> Duration {
        let time = self.timeout.unwrap_or(DEADLINE_DEFAULT).min(Duration::from_secs(DEADLINE_SECONDS_MAX));
        time.saturating_sub(now.since(self.began))
    }

    /// The time that is left for all of a stream, where the client bounds it.
    pub(super) fn lifetime_left(&self, now: BootInstant) -> Option<Duration> {
        self.timeout.map(|time| time.saturating_sub(now.since(self.began)))
    }
}

/// At most eight digits and a unit ("Requests" in gRPC's PROTOCOL-HTTP2).
fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn invalid() -> Problem {
    Problem::invalid("grpc-timeout must be one value of at most eight digits and a unit, such as 500m")
}

#[cfg(test)]
mod tests {
    use berth_shared::seam::Seams;
    use http::HeaderValue;

    use super::*;

    fn call(timeouts: &[&str], began: BootInstant) -> Result<Call, &'static str> {
        let mut headers = HeaderMap::new();
        for timeout in timeouts {
            headers.append(TIMEOUT, HeaderValue::from_str(timeout).unwrap());
        }
        let traceparent = Traceparent::new(1, 1, false).unwrap();
        Call::parse(&headers, traceparent, "", Principal::nobody(), began).map_err(|problem| problem.code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_out_has_eight_digits_and_a_unit() {
        let began = Seams::simulated(1).clock.now();
        for (text, time) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("00000004S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(call(&[text], began).unwrap().lifetime_left(began), Some(time), "{text}");
        }
        for timeouts in
            [&[""][..], &["S"], &["1"], &["1s"], &["-1S"], &["+1S"], &["123456789S"], &["1.5S"], &["1S", "1S"]]
        {
            assert_eq!(call(timeouts, began).map(|_| ()), Err("invalid-request"), "{timeouts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_5_seconds_when_nothing_is_said_and_30_at_most() {
        let began = Seams::simulated(1).clock.now();
        let times = |now| {
            [&[][..], &["1S"], &["30S"], &["1H"]]
                .map(|timeouts| call(timeouts, began).unwrap().time_left(now).as_secs())
        };
        assert_eq!(times(began), [5, 1, 30, 30]);
        assert_eq!(times(began + Duration::from_secs(2)), [3, 0, 28, 28], "what a message took to arrive counts");
        assert_eq!(call(&[], began).unwrap().lifetime_left(began), None);
        let hour = call(&["1H"], began).unwrap().lifetime_left(began + Duration::from_secs(600));
        assert_eq!(hour, Some(Duration::from_secs(3000)));
    }
}
