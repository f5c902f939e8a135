//! The calls of the contract, and what they answer.

use super::{Line, lines};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Entities of the built-in kinds.
#[rustfmt::skip]
pub(crate) fn entities() -> Vec<Line> {
    lines![
        // Commands answer kind, id, version, reply and state, with entity tag, session token and key.
        ("POST", "/v1/entities/cart/calls/add-item", [JSON], r#"{"sku":"tea","quantity":2,"unitPriceCents":450}"# => 200 "", [("/kind", r#""cart""#), ("/id", r#""calls""#), ("/version", "1"), ("/reply", r#"{"totalCents":900}"#), ("/state/items/tea/quantity", "2"), ("etag", "\"1\""), ("berth-session", "*"), ("idempotency-key", "*"), ("content-type", "application/json")]),
        ("POST", "/v1/entities/cart/calls/remove-item", [JSON], r#"{"sku":"tea","quantity":1}"# => 200 "", [("/version", "2"), ("/state/totalCents", "450")]),
        ("POST", "/v1/entities/cart/calls/checkout", [], "" => 200 "", [("/version", "3"), ("/state/status", r#""checkedOut""#)]),
        ("POST", "/v1/entities/counter/calls/add", [], "" => 200 "", [("/state/value", "1"), ("/reply", "1")]),
        ("POST", "/v1/entities/counter/calls/add", [JSON], r#"{"by":-3}"# => 200 "", [("/state/value", "-2"), ("/version", "2")]),
        ("POST", "/v1/entities/counter/calls/add", [JSON], r#"{"by":0}"# => 200 "", [("/version", "2")]),
        ("POST", "/v1/entities/counter/calls/reset", [("content-type", "application/json; charset=utf-8")], "{}" => 200 "", [("/state/value", "0"), ("/version", "3")]),
        ("POST", "/v1/entities/account/calls/open", [], "" => 200 "", [("/state", r#"{"balanceCents":0,"open":true}"#)]),
        ("POST", "/v1/entities/account/calls/deposit", [JSON], r#"{"amountCents":500}"# => 200 "", [("/reply", r#"{"balanceCents":500}"#)]),
        ("POST", "/v1/entities/account/calls/withdraw", [JSON], r#"{"amountCents":500}"# => 200 "", [("/state/balanceCents", "0")]),
        ("POST", "/v1/entities/account/calls/close", [], "" => 200 "", [("/state/open", "false")]),
        ("POST", "/v1/entities/document/calls/put", [JSON], r#"{"value":{"a":[1]}}"# => 200 "", [("/state", r#"{"a":[1]}"#)]),
        ("POST", "/v1/entities/document/calls/merge", [JSON], r#"{"patch":{"a":null,"b":2}}"# => 200 "", [("/state", r#"{"b":2}"#)]),
        ("POST", "/v1/entities/document/calls/patch", [JSON], r#"{"ops":[{"op":"replace","path":"/b","value":3}]}"# => 200 "", [("/state", r#"{"b":3}"#)]),
        // Ids are opaque and decoded once.
        ("POST", "/v1/entities/counter/a%2Fb%20%C3%BC/add", [], "" => 200 "", [("/id", r#""a/b ü""#)]),
        ("GET", "/v1/entities/counter/a%2fb%20%c3%bc", [], "" => 200 "", [("/version", "1")]),
        // Reads answer the same without a reply.
        ("GET", "/v1/entities/counter/calls", [], "" => 200 "", [("/kind", r#""counter""#), ("/version", "3"), ("/state", r#"{"value":0}"#), ("/reply", "-"), ("etag", "\"3\""), ("berth-session", "*"), ("cache-control", "no-cache")]),
        ("GET", "/v1/entities/counter/calls?consistency=linearizable", [], "" => 200 "", [("/version", "3")]),
        ("GET", "/v1/entities/counter/calls?consistency=strict", [], "" => 200 "", [("/version", "3")]),
        ("HEAD", "/v1/entities/counter/calls", [], "" => 200 "", [("etag", "\"3\""), ("content-length", "*")]),
        ("OPTIONS", "/v1/entities/counter/calls", [], "" => 204 "", [("allow", "*")]),
        // Pages in browsers may not call unless their origin is configured, and no rate is.
        ("OPTIONS", "/v1/entities/counter/calls", [("origin", "https://shop.example"), ("access-control-request-method", "GET")], "" => 204 "", [("allow", "*"), ("access-control-allow-origin", "-")]),
        ("GET", "/v1/entities/counter/calls", [("origin", "https://shop.example"), ("accept-encoding", "gzip")], "" => 200 "", [("access-control-allow-origin", "-"), ("content-encoding", "-"), ("vary", "-"), ("ratelimit", "-")]),
        // History, page by page.
        ("GET", "/v1/entities/counter/calls/events", [], "" => 200 "", [("/kind", r#""counter""#), ("/id", r#""calls""#), ("/events/0/version", "1"), ("/events/0/type", r#""added""#), ("/events/0/time", "*"), ("/events/0/data", r#"{"by":1}"#), ("/events/2/version", "3"), ("/events/3", "-"), ("/next", "null")]),
        ("GET", "/v1/entities/counter/calls/events?after=1&limit=1", [], "" => 200 "", [("/events/0/version", "2"), ("/events/1", "-"), ("/next", "2")]),
        ("GET", "/v1/entities/counter/calls/events?after=3", [], "" => 200 "", [("/events", "[]"), ("/next", "null")]),
    ]
}

/// What there is.
#[rustfmt::skip]
pub(crate) fn kinds() -> Vec<Line> {
    lines![
        ("GET", "/v1/kinds", [], "" => 200 "", [("/kinds/0/kind", r#""account""#), ("/kinds/3/kind", r#""document""#), ("/kinds/4", "-")]),
        ("GET", "/v1/kinds/cart", [], "" => 200 "", [("/kind", r#""cart""#), ("/commands/add-item/required", r#"["sku","quantity","unitPriceCents"]"#), ("/events/item-added/type", r#""object""#), ("/state/type", r#""object""#), ("/reply/type", r#""object""#)]),
    ]
}

/// The description of it all.
#[rustfmt::skip]
pub(crate) fn descriptions() -> Vec<Line> {
    lines![
        ("GET", "/openapi.json", [], "" => 200 "", [("/openapi", r#""3.1.0""#), ("/paths/~1v1~1entities~1cart~1{id}~1add-item/post/operationId", r#""cart.add-item""#), ("content-type", "application/json")]),
        ("HEAD", "/openapi.json", [], "" => 200 "", [("content-length", "*")]),
        ("GET", "/docs", [], "" => 200 "", [("content-type", "text/html; charset=utf-8"), ("content-security-policy", "*")]),
        ("GET", "/docs/script.js", [], "" => 200 "", [("content-type", "text/javascript; charset=utf-8")]),
        ("GET", "/docs/style.css", [], "" => 200 "", [("content-type", "text/css; charset=utf-8")]),
        // Long answers are compressed for those who take that.
        ("GET", "/openapi.json", [("accept-encoding", "br, gzip")], "" => 200 "", [("content-encoding", "gzip"), ("vary", "accept-encoding")]),
        ("GET", "/openapi.json", [("accept-encoding", "gzip;q=0")], "" => 200 "", [("content-encoding", "-"), ("vary", "accept-encoding")]),
        ("POST", "/docs", [], "" => 405 "method-not-allowed", [("allow", "*")]),
        ("POST", "/openapi.json", [], "" => 405 "method-not-allowed", [("allow", "*")]),
        ("GET", "/docs/", [], "" => 404 "not-found", []),
        ("GET", "/openapi.json?pretty=1", [], "" => 400 "invalid-request", []),
    ]
}
