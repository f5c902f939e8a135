//! Puts answers together out of JSON that a node has made: its bytes are copied into place and never parsed again.

use std::fmt::Write as _;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::Event;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::Body;
use super::asked::Found;
use super::header::{BERTH_LAG, BERTH_SESSION};
use super::replica::Lag;

/// Headers of an answer: those here, and as many from the rest of the way.
const HEADERS_TYPICAL: usize = 8;
/// What an answer has besides its names and JSON: keys, punctuation, numbers and the values of headers.
const OVERHEAD_BYTES: usize = 160;
/// What an event of a history page has besides its type and data.
const EVENT_OVERHEAD_BYTES: usize = 100;
/// What an entity of a listing has besides its id.
const ENTITY_OVERHEAD_BYTES: usize = 32;

/// `{"kind","id","version","reply"?,"state"?}` with the version as entity tag.
pub(crate) fn entity(
    key: &EntityKey,
    version: Version,
    reply: Option<&[u8]>,
    state: Option<&[u8]>,
    session: Option<HeaderValue>,
) -> Response<Body> {
    let json = reply.map_or(0, <[u8]>::len) + state.map_or(0, <[u8]>::len);
    let mut out = BytesMut::with_capacity(OVERHEAD_BYTES + key.as_str().len() + json);
    let tag = put_entity_tag(&mut out, version);
    put_name(&mut out, key);
    put_number(&mut out, ",\"version\":", version);
    for (name, json) in [(",\"reply\":", reply), (",\"state\":", state)] {
        if let Some(json) = json {
            out.put_slice(name.as_bytes());
            put_json(&mut out, json);
        }
    }
    out.put_u8(b'}');
    let mut response = json_response(out.freeze());
    response.headers_mut().insert(header::ETAG, tag);
    put_session(response.headers_mut(), session);
    response
}

/// A state that was read, or 304 for a client that has it.
pub(crate) fn found(key: &EntityKey, found: Found<'_>) -> Response<Body> {
    let response = match found.state {
        None => without_body(StatusCode::NOT_MODIFIED, found.version, found.session),
        state => entity(key, found.version, None, state, found.session),
    };
    with_lag(response, found.lag)
}

/// 304, for a client that has this version already, or 204, for one that has deleted the entity and so brought it there.
pub(crate) fn without_body(status: StatusCode, version: Version, session: Option<HeaderValue>) -> Response<Body> {
    let tag = put_entity_tag(&mut BytesMut::with_capacity(24), version);
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::ETAG, tag);
    put_session(response.headers_mut(), session);
    response
}

/// `{"kind","id","events":[{"version","type","time","data"}],"next"}`
pub(crate) fn events(
    key: &EntityKey,
    events: &[Event<'_>],
    next: Option<Version>,
    session: Option<HeaderValue>,
) -> Response<Body> {
    let json = events.iter().map(|event| event.data.len() + event.event_type.len() + EVENT_OVERHEAD_BYTES);
    let mut out = BytesMut::with_capacity(OVERHEAD_BYTES + key.as_str().len() + json.sum::<usize>());
    put_name(&mut out, key);
    out.put_slice(b",\"events\":[");
    for (position, event) in events.iter().enumerate() {
        out.put_slice(if position == 0 { b"" } else { b"," });
        put_number(&mut out, "{\"version\":", event.version);
        out.put_slice(b",\"type\":\"");
        put_text(&mut out, event.event_type);
        out.put_slice(b"\",\"time\":\"");
        put_time(&mut out, event.time_micros);
        out.put_slice(b"\",\"data\":");
        put_json(&mut out, event.data);
        out.put_u8(b'}');
    }
    match next {
        Some(next) => put_number(&mut out, "],\"next\":", next),
        None => out.put_slice(b"],\"next\":null"),
    }
    out.put_u8(b'}');
    let mut response = json_response(out.freeze());
    put_session(response.headers_mut(), session);
    response
}

/// `{"kind","entities":[{"id","version"}],"next"}`
pub(crate) fn listing(kind: &str, entities: &[(String, Version)], next: Option<&str>) -> Response<Body> {
    let json = entities.iter().map(|(id, _)| id.len() + ENTITY_OVERHEAD_BYTES);
    let mut out = BytesMut::with_capacity(OVERHEAD_BYTES + next.map_or(0, str::len) + json.sum::<usize>());
    out.put_slice(b"{\"kind\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"entities\":[");
    for (position, (id, version)) in entities.iter().enumerate() {
        out.put_slice(if position == 0 { b"{\"id\":\"" } else { b",{\"id\":\"" });
        put_text(&mut out, id);
        put_number(&mut out, "\",\"version\":", *version);
        out.put_u8(b'}');
    }
    out.put_slice(b"],\"next\":");
    match next {
        Some(cursor) => {
            out.put_u8(b'"');
            put_text(&mut out, cursor);
            out.put_slice(b"\"}");
        }
        None => out.put_slice(b"null}"),
    }
    json_response(out.freeze())
}

/// An answer of any JSON.
pub(crate) fn json_response(json: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(json));
    let headers = response.headers_mut();
    headers.reserve(HEADERS_TYPICAL);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a stale read says how far behind it may be.
pub(crate) fn with_lag(mut response: Response<Body>, lag: Option<Lag>) -> Response<Body> {
    if let Some(lag) = lag {
        response.headers_mut().insert(BERTH_LAG, lag.header_value());
    }
    response
}

fn put_session(headers: &mut HeaderMap, session: Option<HeaderValue>) {
    if let Some(session) = session {
        headers.insert(BERTH_SESSION, session);
    }
}

/// Takes the front of the answer's buffer, so that the tag needs no allocation of its own.
fn put_entity_tag(out: &mut BytesMut, version: Version) -> HeaderValue {
    put_number(out, "\"", version);
    out.put_u8(b'"');
    let tag = out.split().freeze();
    HeaderValue::from_maybe_shared(tag).unwrap_or_else(|_| unreachable!("digits and quotes are visible"))
}

fn put_name(out: &mut BytesMut, key: &EntityKey) {
    out.put_slice(b"{\"kind\":\"");
    out.put_slice(key.kind().as_bytes());
    out.put_slice(b"\",\"id\":\"");
    put_text(out, key.id());
    out.put_u8(b'"');
}

pub(super) fn put_number(out: &mut BytesMut, before: &str, number: u64) {
    out.put_slice(before.as_bytes());
    // Writing into a growing buffer does not fail.
    let _ = write!(out, "{number}");
}

/// JSON from a node; one that left it empty meant nothing.
pub(super) fn put_json(out: &mut BytesMut, json: &[u8]) {
    out.put_slice(if json.is_empty() { b"null" } else { json });
}

/// The inside of a JSON string (RFC 8259, 7).
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(position) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        out.put_slice(&rest[..position]);
        let _ = match rest[position] {
            b'"' => out.write_str("\\\""),
            b'\\' => out.write_str("\\\\"),
            control => write!(out, "\\u{control:04x}"),
        };
        rest = &rest[position + 1..];
    }
    out.put_slice(rest);
}

/// RFC 3339 in UTC, with as many digits as microseconds need.
pub(super) fn put_time(out: &mut BytesMut, micros: u64) {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX);
    let _ = write!(out, "{time}");
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn body(response: Response<Body>) -> Value {
        let body = futures_util::FutureExt::now_or_never(response.into_body().collect());
        serde_json::from_slice(&body.unwrap().unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn parts_from_the_node_are_put_in_place() {
        let key = EntityKey::new("cart", "a\"b\\ü").unwrap();
        let response = entity(&key, 3, Some(b"null"), Some(b"{\"x\":[1]}"), Some(HeaderValue::from_static("token")));
        assert_eq!(response.headers()["etag"], "\"3\"");
        assert_eq!(response.headers()["berth-session"], "token");
        assert_eq!(
            body(response),
            json!({"kind": "cart", "id": "a\"b\\ü", "version": 3, "reply": null, "state": {"x": [1]}})
        );
        let minimal = entity(&key, u64::MAX, Some(b"7"), None, None);
        assert_eq!(body(minimal), json!({"kind": "cart", "id": "a\"b\\ü", "version": u64::MAX, "reply": 7}));
    }

    #[test]
    fn a_history_page_has_times_in_utc() {
        let key = EntityKey::new("cart", "a").unwrap();
        let added = Event { version: 4, event_type: "added", time_micros: 1_767_225_600_000_001, data: b"{}" };
        let late = Event { version: 5, time_micros: u64::MAX, data: b"", ..added.clone() };
        let page = body(events(&key, &[added, late], Some(5), None));
        assert_eq!(
            page["events"][0],
            json!({"version": 4, "type": "added", "time": "2026-01-01T00:00:00.000001Z", "data": {}})
        );
        assert_eq!((&page["events"][1]["data"], &page["next"]), (&Value::Null, &json!(5)));
        assert_eq!(body(events(&key, &[], None, None)), json!({"kind": "cart", "id": "a", "events": [], "next": null}));
    }

    proptest! {
        #[test]
        fn any_text_survives_as_json(text: String) {
            let mut out = BytesMut::new();
            out.put_u8(b'"');
            put_text(&mut out, &text);
            out.put_u8(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
