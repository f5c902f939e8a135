//! The errors of the contract.

use super::{Line, lines};

const JSON: (&str, &str) = ("content-type", "application/json");

#[rustfmt::skip]
pub(crate) fn errors() -> Vec<Line> {
    let entity = "/v1/entities/counter/errors";
    let add = "/v1/entities/counter/errors/add";
    let add_item = "/v1/entities/cart/errors/add-item";
    let deep = |depth: usize| format!("{{\"value\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let large = |bytes: usize| format!("{{\"value\":\"{}\"}}", "x".repeat(bytes - 12));
    let put = "/v1/entities/document/errors/put";
    let member = |name: &str, bytes: usize| format!("{{\"{name}\":\"{}\"}}", "x".repeat(bytes));
    lines![
        // 400
        ("POST", add, [JSON], "{" => 400 "invalid-request", [("/errors", "-")]),
        ("POST", add, [JSON], "[]" => 400 "invalid-request", [("/errors", "-")]),
        ("POST", add, [JSON], r#"{"by":"x"}"# => 400 "invalid-request", [("/errors/0/pointer", r#""/by""#), ("/errors/0/detail", "*"), ("/errors/1", "-")]),
        ("POST", add, [JSON], r#"{"by":9223372036854775808}"# => 400 "invalid-request", [("/errors/0/pointer", r#""/by""#)]),
        ("POST", add, [JSON], r#"{"to":1}"# => 400 "invalid-request", [("/errors/0/pointer", r#""/to""#)]),
        ("POST", add_item, [JSON], r#"{"sku":"tea"}"# => 400 "invalid-request", [("/errors/0/pointer", r#""""#), ("/errors/1/pointer", r#""""#), ("/errors/2", "-")]),
        ("POST", add_item, [JSON], r#"{"sku":"tea","quantity":0,"unitPriceCents":1}"# => 400 "invalid-request", [("/errors/0/pointer", r#""/quantity""#)]),
        ("POST", "/v1/entities/document/errors/patch", [JSON], r#"{"ops":[{"op":"fly"}]}"# => 400 "invalid-request", [("/errors/0/pointer", r#""/ops/0""#)]),
        ("POST", put, [JSON], deep(63) => 200 "", []),
        ("POST", put, [JSON], deep(64) => 400 "invalid-request", []),
        ("GET", "/v1/entities/cart/%00", [], "" => 400 "invalid-request", []),
        ("GET", "/v1/entities/cart/.", [], "" => 400 "invalid-request", []),
        ("GET", "/v1/entities/cart/%2E%2e", [], "" => 400 "invalid-request", []),
        ("GET", "/v1/entities/cart/%C3", [], "" => 400 "invalid-request", []),
        ("GET", format!("/v1/entities/cart/{}", "x".repeat(513)), [], "" => 400 "invalid-request", []),
        ("GET", format!("/v1/entities/cart/{}", "x".repeat(512)), [], "" => 404 "not-found", []),
        ("GET", format!("{entity}?consistency=strong"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?color=red"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}/events?limit=0"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}/events?limit=1001"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}/events?after=-1"), [], "" => 400 "invalid-request", []),
        ("POST", format!("{add}?by=1"), [], "" => 400 "invalid-request", []),
        // 404
        ("GET", "/v1/entities/boat/a", [], "" => 404 "unknown-kind", []),
        ("POST", "/v1/entities/boat/a/sail", [], "" => 404 "unknown-kind", []),
        ("GET", "/v1/entities/boat/a/events", [], "" => 404 "unknown-kind", []),
        ("GET", "/v1/entities/Cart/a", [], "" => 404 "unknown-kind", []),
        ("GET", "/v1/kinds/boat", [], "" => 404 "unknown-kind", []),
        ("POST", "/v1/entities/counter/errors/fly", [], "" => 404 "unknown-command", []),
        ("GET", "/v1/entities/counter/nobody", [], "" => 404 "not-found", []),
        ("GET", "/", [], "" => 404 "not-found", []),
        ("GET", "/v1/entities/counter/a/b/c", [], "" => 404 "not-found", []),
        // 405, 406, 415
        ("PUT", entity, [], "" => 405 "method-not-allowed", [("allow", "*")]),
        ("POST", entity, [], "" => 405 "method-not-allowed", [("allow", "*")]),
        ("GET", add, [], "" => 405 "method-not-allowed", [("allow", "OPTIONS, POST")]),
        ("POST", "/v1/entities/counter/errors/events", [], "" => 405 "method-not-allowed", [("allow", "*")]),
        ("DELETE", "/v1/kinds", [], "" => 405 "method-not-allowed", [("allow", "*")]),
        ("GET", entity, [("accept", "text/html")], "" => 406 "not-acceptable", []),
        ("POST", add, [("accept", "application/json;q=0")], "" => 406 "not-acceptable", []),
        ("POST", add, [("content-type", "text/plain")], "{}" => 415 "unsupported-media-type", [("accept", "application/json")]),
        ("POST", add, [JSON, ("content-encoding", "gzip")], "{}" => 415 "unsupported-media-type", []),
        // 413, 431
        ("POST", put, [JSON], large(1024 * 1024 - 24) => 200 "", []),
        ("POST", put, [JSON], large(1024 * 1024 + 1) => 413 "too-large", []),
        ("POST", "/v1/entities/document/large/put", [JSON], format!("{{\"value\":{}}}", member("a", 1024 * 1024 - 100)) => 200 "", [("/version", "1")]),
        ("POST", "/v1/entities/document/large/merge", [JSON], format!("{{\"patch\":{}}}", member("b", 200)) => 413 "too-large", []),
        ("GET", "/v1/entities/document/large/events?after=1", [], "" => 200 "", [("/events", "[]")]),
        ("GET", entity, [("x-long", &"x".repeat(8 * 1024))], "" => 431 "too-large", []),
        // 422 rejected: the kind's own reason, and nothing is written
        ("POST", "/v1/entities/account/errors/withdraw", [JSON], r#"{"amountCents":1}"# => 422 "rejected", [("/reason", r#""not-open""#)]),
        ("POST", "/v1/entities/account/errors/open", [], "" => 200 "", [("/version", "1")]),
        ("POST", "/v1/entities/account/errors/open", [], "" => 422 "rejected", [("/reason", r#""already-open""#)]),
        ("POST", "/v1/entities/account/errors/withdraw", [JSON], r#"{"amountCents":1}"# => 422 "rejected", [("/reason", r#""insufficient-funds""#)]),
        ("POST", "/v1/entities/account/errors/deposit", [JSON], r#"{"amountCents":5}"# => 200 "", [("/version", "2")]),
        ("POST", "/v1/entities/account/errors/close", [], "" => 422 "rejected", [("/reason", "*")]),
        ("POST", "/v1/entities/cart/errors/checkout", [], "" => 422 "rejected", [("/reason", r#""empty-cart""#)]),
        ("POST", "/v1/entities/cart/errors/remove-item", [JSON], r#"{"sku":"tea"}"# => 422 "rejected", [("/reason", r#""unknown-sku""#)]),
        ("POST", "/v1/entities/counter/errors/add", [JSON], r#"{"by":9223372036854775807}"# => 200 "", []),
        ("POST", "/v1/entities/counter/errors/add", [], "" => 422 "rejected", [("/reason", r#""overflow""#), ("berth-session", "*")]),
        ("POST", "/v1/entities/document/errors/patch", [JSON], r#"{"ops":[{"op":"test","path":"/a","value":1}]}"# => 422 "rejected", [("/reason", "*")]),
    ]
}
