//! What a fuzzer tries on whatever the public port reads of a request; see `loadtests/fuzz`. Each function takes any bytes,
//! and panics where something that must hold does not.

use berth_shared::message::Precondition;
use berth_shared::telemetry::TraceContext;
use http::header::{self as standard, HeaderMap, HeaderName, HeaderValue};

use super::header::{self, Preferences};
use super::path::Resource;
use super::session::Session;
use super::{body, condition, cursor, listing, past, query};
use crate::edge;

/// A request's path. What it names has exactly one spelling that is encoded throughout, and that names the same.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(resource) = Resource::parse(text) else { return };
    let again = match &resource {
        Resource::Listing(kind) => format!("/v1/entities/{kind}"),
        Resource::Entity(key) => format!("/v1/entities/{}/{}", key.kind(), encoded(key.id())),
        Resource::Command(key, command) => {
            format!("/v1/entities/{}/{}/{}", key.kind(), encoded(key.id()), encoded(command))
        }
        Resource::Kind(kind) => format!("/v1/kinds/{kind}"),
        // Paths without a name in them.
        _ => return,
    };
    assert_eq!(Resource::parse(&again).ok(), Some(resource), "{text:?} is {again:?}");
}

/// A request's query, read as that of every resource.
pub fn query(data: &[u8]) {
    const NOW_MICROS: u64 = 1_767_225_600_000_000;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let text = Some(text);
    let _ = (query::none(text), query::state(text), past::is_asked_for(text), past::parse(text, NOW_MICROS));
    if let Ok(page) = query::page(text) {
        assert!((1..=1000).contains(&page.limit), "{text:?}");
    }
    let _ = listing::parse("cart", text);
}

/// A listing's cursor, after a byte that says how long the prefix before it is. As it is, and with a right checksum.
pub fn cursor(data: &[u8]) {
    let Some((len, rest)) = data.split_first() else { return };
    let Some((prefix, rest)) = rest.split_at_checked(usize::from(*len)) else { return };
    let (Ok(prefix), Ok(text)) = (std::str::from_utf8(prefix), std::str::from_utf8(rest)) else { return };
    if let Ok(after) = cursor::decode("cart", prefix, text) {
        assert_eq!(cursor::encode("cart", prefix, &after), text, "a cursor has one spelling");
    }
    let made = cursor::encode("cart", prefix, text);
    if let Ok(after) = cursor::decode("cart", prefix, &made) {
        assert_eq!(after, text);
    }
}

/// A request's headers: lines that begin with a byte for the name.
pub fn headers(data: &[u8]) {
    let names = [
        standard::IF_MATCH,
        standard::IF_NONE_MATCH,
        standard::ACCEPT,
        standard::CONTENT_TYPE,
        standard::CONTENT_ENCODING,
        HeaderName::from_static("prefer"),
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("last-event-id"),
        standard::AUTHORIZATION,
        header::IDEMPOTENCY_KEY,
        header::BERTH_SESSION,
        HeaderName::from_static("tracestate"),
        standard::ACCEPT_ENCODING,
    ];
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(32) {
        let Some((name, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(names[usize::from(*name) % names.len()].clone(), value);
    }
    if let Ok(preferences) = Preferences::parse(&headers) {
        assert!((1..=30).contains(&preferences.deadline.as_secs()));
    }
    if let Ok(Some(key)) = header::idempotency_key(&headers) {
        assert!((1..=255).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic));
    }
    if let Ok(Precondition::Versions(versions)) = condition::precondition(&headers) {
        assert!(versions.len() <= data.len());
    }
    let _ = (header::check_content(&headers), header::check_accept(&headers), header::wants_stream(&headers));
    let state = header::tracestate(&headers);
    if let Some(context) = header::trace_context(&headers, &state) {
        let text = context.parent.text();
        assert_eq!(TraceContext::parse(&TraceContext::text_with(&text, context.state)), Some(context));
    }
    let _ = (header::last_event_id(&headers), Session::parse(&headers), edge::takes_gzip(&headers));
}

/// A command's body: the bound of its nesting is exact for whatever is JSON.
pub fn body(data: &[u8]) {
    let is_accepted = body::check_depth(data).is_ok();
    // This reader of JSON goes twice as deep.
    if let Ok(value) = serde_json::from_slice(data) {
        assert_eq!(is_accepted, depth(&value) <= 64, "{:?}", String::from_utf8_lossy(data));
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use crate::replay::replay;

    #[test]
    fn the_corpora_hold() {
        replay("path", super::path);
        replay("query", super::query);
        replay("cursor", super::cursor);
        replay("headers", super::headers);
        replay("body", super::body);
    }
}
