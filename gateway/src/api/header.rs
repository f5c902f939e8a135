//! The other request headers of the contract: content negotiation, preferences, idempotency keys and trace context. Pure.

use std::borrow::Cow;
use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::telemetry::TraceContext;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::problem::Problem;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
pub(crate) const BERTH_SESSION: HeaderName = HeaderName::from_static("berth-session");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// How far behind the answer to a stale read may be: milliseconds, or `unknown`.
pub(crate) const BERTH_LAG: HeaderName = HeaderName::from_static("berth-lag");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Most bytes of a request's path, query and headers.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// A request's deadline when it names none.
pub(crate) const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// The latest deadline that a request may name.
pub(crate) const DEADLINE_SECONDS_MAX: u64 = 30;
pub(crate) const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// The separators of a header line: a colon, a space and the end of the line.
const LINE_OVERHEAD_BYTES: usize = 4;

/// What the client asked for in `Prefer` (RFC 7240).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// `return=minimal`: an answer without the state.
    pub(crate) minimal: bool,
    /// `wait=S`: how long the client waits for the answer.
    pub(crate) deadline: Duration,
    /// Whether the client said so.
    deadline_is_given: bool,
}

pub(crate) fn check_size(uri: &http::Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE_OVERHEAD_BYTES);
    if target + lines.sum::<usize>() > HEADER_BYTES_MAX { Err(Problem::headers_too_large()) } else { Ok(()) }
}

impl Preferences {
    /// The first of several equal preferences counts, and unknown ones are ignored, as RFC 7240 asks.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut minimal = None;
        let mut deadline = None;
        for line in headers.get_all(PREFER) {
            for preference in text(line, &PREFER)?.split(',') {
                let (name, value) = preference.split(';').next().and_then(|p| p.split_once('=')).unwrap_or(("", ""));
                let (name, value) = (name.trim(), value.trim().trim_matches('"'));
                if name.eq_ignore_ascii_case("return") {
                    minimal = minimal.or(Some(value == "minimal"));
                } else if name.eq_ignore_ascii_case("wait") && deadline.is_none() {
                    deadline = Some(parse_deadline(value)?);
                }
            }
        }
        let deadline_is_given = deadline.is_some();
        Ok(Self {
            minimal: minimal.unwrap_or(false),
            deadline: deadline.unwrap_or(DEADLINE_DEFAULT),
            deadline_is_given,
        })
    }

    /// How long a request waits that asks to wait so long for what is yet to happen, and how much time it has in all. A deadline
    /// that the client gave holds for both; else the wait comes on top of the usual one.
    pub(crate) fn with_wait(&self, wait: Duration) -> (Duration, Duration) {
        match self.deadline_is_given {
            true => (wait.min(self.deadline * 3 / 4), self.deadline),
            false => (wait, wait + self.deadline),
        }
    }
}

fn parse_deadline(value: &str) -> Result<Duration, Problem> {
    let seconds = if value.bytes().all(|byte| byte.is_ascii_digit()) { value.parse().ok() } else { None };
    match seconds {
        Some(seconds @ 1..=DEADLINE_SECONDS_MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err(Problem::invalid("the preference wait must be 1 to 30 seconds")),
    }
}

/// The client's key of this command, if it gives one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let visible = value.as_bytes().iter().all(u8::is_ascii_graphic);
    if values.next().is_some() || value.is_empty() || value.len() > IDEMPOTENCY_KEY_BYTES_MAX || !visible {
        return Err(Problem::invalid("Idempotency-Key must be one value of 1 to 255 visible ASCII characters"));
    }
    Ok(Some(value.clone()))
}

/// What systems on the way have noted on the trace; several lines are one list.
pub(crate) fn tracestate(headers: &HeaderMap) -> Cow<'_, str> {
    let mut lines = headers.get_all(TRACESTATE).iter().map(|line| line.to_str().unwrap_or_default());
    let first = Cow::Borrowed(lines.next().unwrap_or_default());
    lines.fold(first, |list, line| Cow::Owned(format!("{list},{line}")))
}

/// The trace that the request belongs to, with its [`tracestate`]; malformed headers are as good as none.
pub(crate) fn trace_context<'a>(headers: &HeaderMap, state: &'a str) -> Option<TraceContext<'a>> {
    TraceContext::of_headers(headers.get(TRACEPARENT)?.to_str().ok()?, state)
}

/// Refuses a body that its headers do not call JSON. A body without `Content-Type` is taken for JSON.
pub(crate) fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Problem::unsupported_media_type("a body must not be compressed"));
    }
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    if content_type == "application/json" {
        return Ok(());
    }
    let media_type = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if media_type.eq_ignore_ascii_case(b"application/json") {
        Ok(())
    } else {
        Err(Problem::unsupported_media_type("a body must be application/json"))
    }
}

/// Refuses a request that does not take JSON for an answer (RFC 9110, 12.5.1).
pub(crate) fn check_accept(headers: &HeaderMap) -> Result<(), Problem> {
    let mut lines = headers.get_all(header::ACCEPT).iter().peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    // Of the ranges that contain JSON, the most specific one says whether it is wanted.
    let mut best = None;
    let mut wants_events = false;
    for line in lines {
        for element in text(line, &header::ACCEPT)?.split(',') {
            let mut parts = element.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default();
            let specificity = match range {
                "" => continue,
                "*/*" => 1,
                _ if range.eq_ignore_ascii_case("application/*") => 2,
                _ if range.eq_ignore_ascii_case("application/json") => 3,
                _ => {
                    wants_events |= range.eq_ignore_ascii_case("text/event-stream");
                    continue;
                }
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let wanted = weight.is_none_or(|weight| weight.bytes().any(|byte| (b'1'..=b'9').contains(&byte)));
            best = best.max(Some((specificity, wanted)));
        }
    }
    match best {
        Some((_, true)) => Ok(()),
        _ if wants_events => Err(Problem::not_acceptable(
            "only histories (…/events) are served as text/event-stream; this is application/json",
        )),
        _ => Err(Problem::not_acceptable("answers are application/json")),
    }
}

/// Whether a request that can be answered by either wants an event stream and not JSON: it names one, and does not like JSON
/// better.
pub(crate) fn wants_stream(headers: &HeaderMap) -> Result<bool, Problem> {
    let (mut stream, mut json) = (0.0_f32, 0.0_f32);
    for line in headers.get_all(header::ACCEPT) {
        for element in text(line, &header::ACCEPT)?.split(',') {
            let mut parts = element.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default();
            let liked = match range {
                _ if range.eq_ignore_ascii_case("text/event-stream") => &mut stream,
                _ if range.eq_ignore_ascii_case("application/json") => &mut json,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            *liked = liked.max(weight.map_or(1.0, weight_of));
        }
    }
    Ok(stream > 0.0 && stream >= json)
}

/// A weight (RFC 9110, 12.4.2); what is none counts as the least that is not 0.
fn weight_of(text: &str) -> f32 {
    text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.001)
}

/// The version that the reader of a live history had last, when it comes back.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<Version>, Problem> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = text(value, &LAST_EVENT_ID)?.trim();
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        _ if values.next().is_some() => Err(Problem::invalid("Last-Event-ID must be one value")),
        // An event stream may reset it to this.
        Err(_) if text.is_empty() => Ok(None),
        Ok(version) if is_number => Ok(Some(version)),
        _ => Err(Problem::invalid("Last-Event-ID must be the id of an event of this entity: its version")),
    }
}

fn text<'a>(value: &'a HeaderValue, name: &HeaderName) -> Result<&'a str, Problem> {
    value.to_str().map_err(|_| Problem::invalid(format!("{name} must be ASCII text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn preferences_are_read_from_all_lines() {
        let parse = |values: &[&str]| {
            let parsed = Preferences::parse(&headers(&PREFER, values)).map_err(|problem| problem.code())?;
            Ok((parsed.minimal, parsed.deadline.as_secs()))
        };
        assert_eq!(parse(&[]), Ok((false, 5)));
        assert_eq!(parse(&["return=minimal"]), Ok((true, 5)));
        assert_eq!(parse(&["Return = \"minimal\" ; x=y , WAIT=30"]), Ok((true, 30)));
        assert_eq!(parse(&["wait=1", "return=minimal"]), Ok((true, 1)));
        assert_eq!(parse(&["return=representation, return=minimal"]), Ok((false, 5)), "the first counts");
        assert_eq!(parse(&["respond-async, handling=lenient,,"]), Ok((false, 5)));
        for wait in ["wait=0", "wait=31", "wait=", "wait=-1", "wait=+1", "wait=1.5", "wait=99999999999999999999"] {
            assert_eq!(parse(&[wait]), Err("invalid-request"), "{wait}");
        }
    }

    #[test]
    fn an_idempotency_key_is_one_visible_value() {
        let parse = |values: &[&str]| {
            let key = idempotency_key(&headers(&IDEMPOTENCY_KEY, values)).map_err(|problem| problem.code());
            key.map(|key| key.map(|key| key.to_str().unwrap().to_owned()))
        };
        let longest = "k".repeat(255);
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&["!~"]), Ok(Some("!~".to_owned())));
        assert_eq!(parse(&[&longest]), Ok(Some(longest.clone())));
        for values in [&[""][..], &["a b"], &["ü"], &["a\tb"], &[&"k".repeat(256)], &["a", "a"]] {
            assert_eq!(parse(values), Err("invalid-request"), "{values:?}");
        }
    }

    #[test]
    fn a_body_is_json_uncompressed() {
        let check =
            |value: &str| check_content(&headers(&header::CONTENT_TYPE, &[value])).map_err(|problem| problem.code());
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/json;x"] {
            assert_eq!(check(json), Ok(()), "{json}");
        }
        for other in ["application/x-www-form-urlencoded", "text/plain", "application/jsonx", ""] {
            assert_eq!(check(other), Err("unsupported-media-type"), "{other}");
        }
        assert!(check_content(&headers(&header::CONTENT_ENCODING, &["gzip"])).is_err());
        assert!(check_content(&headers(&header::CONTENT_ENCODING, &["identity"])).is_ok());
    }

    #[test]
    fn json_must_be_acceptable() {
        let check = |values: &[&str]| check_accept(&headers(&header::ACCEPT, values)).map_err(|problem| problem.code());
        for accepted in [
            "*/*",
            "application/json",
            "text/html, application/*;q=0.1",
            "text/event-stream, application/json",
            "Application/Json;q=1",
        ] {
            assert_eq!(check(&[accepted]), Ok(()), "{accepted}");
        }
        for refused in [
            "text/event-stream",
            "text/html",
            "*/*, application/json;q=0",
            "application/json; q=0.000",
            "",
            "application/xml",
        ] {
            assert_eq!(check(&[refused]), Err("not-acceptable"), "{refused}");
        }
        assert_eq!(check(&["text/html", "*/*;q=0.5"]), Ok(()));
    }

    #[test]
    fn the_request_head_has_8_kib() {
        let uri = http::Uri::from_static("/v1/kinds");
        assert!(check_size(&uri, &headers(&PREFER, &[&"x".repeat(8 * 1024 - 19)])).is_ok());
        assert!(check_size(&uri, &headers(&PREFER, &[&"x".repeat(8 * 1024 - 18)])).is_err());
    }
}
