//! Entities that are deleted, and lists of those that are not.

use super::{Line, lines};

const JSON: (&str, &str) = ("content-type", "application/json");

#[rustfmt::skip]
pub(crate) fn deletions() -> Vec<Line> {
    let entity = "/v1/entities/counter/deleted";
    let add = "/v1/entities/counter/deleted/add";
    let once = ("idempotency-key", "delete-once");
    lines![
        // What never existed is not found, and not deleted either.
        ("DELETE", entity, [], "" => 404 "not-found", [("etag", "-")]),
        ("GET", entity, [], "" => 404 "not-found", []),
        ("POST", add, [JSON], r#"{"by":7}"# => 200 "", [("/version", "1")]),
        // It has the conditions and keys of a command.
        ("DELETE", entity, [("if-match", "\"7\"")], "" => 412 "version-mismatch", [("/currentVersion", "1")]),
        ("DELETE", entity, [("if-none-match", "*")], "" => 412 "version-mismatch", [("/currentVersion", "1")]),
        ("DELETE", entity, [("if-none-match", "\"1\"")], "" => 400 "invalid-request", []),
        ("DELETE", entity, [("idempotency-key", "two words")], "" => 400 "invalid-request", []),
        ("DELETE", entity, [("prefer", "wait=31")], "" => 400 "invalid-request", []),
        ("DELETE", entity, [JSON], "{}" => 400 "invalid-request", []),
        ("DELETE", format!("{entity}?version=1"), [], "" => 400 "invalid-request", []),
        ("DELETE", "/v1/entities/counter/%2E", [], "" => 400 "invalid-request", []),
        ("DELETE", "/v1/entities/boat/a", [], "" => 404 "unknown-kind", []),
        ("DELETE", add, [], "" => 405 "method-not-allowed", [("allow", "OPTIONS, POST")]),
        ("DELETE", entity, [once, ("if-match", "\"1\"")], "" => 204 "", [("etag", "\"2\""), ("berth-session", "*"), ("idempotency-replayed", "-"), ("idempotency-key", "-"), ("content-type", "-")]),
        ("DELETE", entity, [once, ("if-match", "\"1\"")], "" => 204 "", [("etag", "\"2\""), ("idempotency-replayed", "true")]),
        ("DELETE", entity, [once], "" => 422 "key-reused", []),
        ("POST", add, [once], "" => 422 "key-reused", []),
        // Again: no event.
        ("DELETE", entity, [], "" => 204 "", [("etag", "\"2\""), ("idempotency-replayed", "-"), ("idempotency-key", "*")]),
        ("GET", entity, [], "" => 410 "deleted", [("etag", "-")]),
        ("HEAD", entity, [], "" => 410 "", []),
        ("GET", format!("{entity}/events"), [], "" => 200 "", [("/events/0/type", r#""added""#), ("/events/1/type", r#""berth-deleted""#), ("/events/1/version", "2"), ("/events/2", "-")]),
        // A later command starts from the initial state, and versions go on.
        ("POST", add, [("if-match", "*")], "" => 412 "version-mismatch", []),
        ("POST", add, [("if-none-match", "*")], "" => 200 "", [("/version", "3"), ("/state/value", "1")]),
        ("GET", entity, [], "" => 200 "", [("/version", "3"), ("/state/value", "1")]),
        ("GET", format!("{entity}?version=1"), [], "" => 200 "", [("/state/value", "7")]),
        ("GET", format!("{entity}?version=2"), [], "" => 410 "deleted", []),
        ("OPTIONS", entity, [], "" => 204 "", [("allow", "DELETE, GET, HEAD, OPTIONS")]),
    ]
}

#[rustfmt::skip]
pub(crate) fn listings() -> Vec<Line> {
    let put = |id: &str| format!("/v1/entities/document/{id}/put");
    let list = "/v1/entities/document?prefix=list-";
    let cart = "/v1/entities/cart";
    let one = r#"{"value":1}"#;
    lines![
        ("GET", list, [], "" => 200 "", [("/kind", r#""document""#), ("/entities", "[]"), ("/next", "null"), ("link", "-")]),
        ("POST", put("list-b"), [JSON], one => 200 "", []),
        ("POST", put("list-a"), [JSON], one => 200 "", []),
        ("POST", put("list-a"), [JSON], r#"{"value":2}"# => 200 "", []),
        ("POST", put("list-%C3%BC"), [JSON], one => 200 "", []),
        ("POST", put("list-gone"), [JSON], one => 200 "", []),
        ("DELETE", "/v1/entities/document/list-gone", [], "" => 204 "", []),
        ("POST", put("lists"), [JSON], one => 200 "", []),
        // In byte order, page by page.
        ("GET", list, [], "" => 200 "", [("/entities", r#"[{"id":"list-a","version":2},{"id":"list-b","version":1},{"id":"list-ü","version":1}]"#), ("/next", "null"), ("link", "-"), ("cache-control", "no-cache")]),
        ("GET", format!("{list}&limit=2"), [], "" => 200 "", [("/entities/1/id", r#""list-b""#), ("/entities/2", "-"), ("/next", "=cursor"), ("link", "*")]),
        ("GET", format!("{list}&limit=2&cursor={{cursor}}"), [], "" => 200 "", [("/entities", r#"[{"id":"list-ü","version":1}]"#), ("/next", "null"), ("link", "-")]),
        ("GET", "/v1/entities/document?prefix=list-%C3%BC", [], "" => 200 "", [("/entities/0/id", r#""list-ü""#), ("/entities/1", "-")]),
        ("HEAD", list, [], "" => 200 "", [("content-length", "*")]),
        // A cursor belongs to its kind and prefix.
        ("GET", "/v1/entities/document?prefix=list&cursor={cursor}", [], "" => 400 "invalid-request", []),
        ("GET", "/v1/entities/counter?prefix=list-&cursor={cursor}", [], "" => 400 "invalid-request", []),
        ("GET", format!("{list}&cursor={{cursor}}x"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{list}&cursor="), [], "" => 400 "invalid-request", []),
        ("GET", format!("{list}&limit=0"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{list}&limit=1001"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{list}&limit=1000"), [], "" => 200 "", []),
        ("GET", format!("{list}&prefix=twice"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{cart}?prefix=%00"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{cart}?prefix={}", "x".repeat(513)), [], "" => 400 "invalid-request", []),
        ("GET", format!("{cart}?consistency=strict"), [], "" => 400 "invalid-request", []),
        ("GET", cart, [("if-none-match", "\"1\"")], "" => 400 "invalid-request", []),
        ("GET", cart, [("accept", "text/html")], "" => 406 "not-acceptable", []),
        ("GET", "/v1/entities/boat", [], "" => 404 "unknown-kind", []),
        ("GET", "/v1/entities/Boat", [], "" => 404 "unknown-kind", []),
        ("POST", cart, [], "" => 405 "method-not-allowed", [("allow", "GET, HEAD, OPTIONS")]),
        ("DELETE", cart, [], "" => 405 "method-not-allowed", [("allow", "GET, HEAD, OPTIONS")]),
    ]
}
