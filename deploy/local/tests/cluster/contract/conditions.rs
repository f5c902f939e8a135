//! The request headers of the contract.

use super::{Line, lines};

const JSON: (&str, &str) = ("content-type", "application/json");

#[rustfmt::skip]
pub(crate) fn headers() -> Vec<Line> {
    let add = "/v1/entities/counter/headers/add";
    let entity = "/v1/entities/counter/headers";
    let once = ("idempotency-key", "once");
    lines![
        // If-Match and If-None-Match: *
        ("POST", add, [("if-match", "\"1\"")], "" => 412 "version-mismatch", [("/currentVersion", "0")]),
        ("POST", add, [("if-match", "*")], "" => 412 "version-mismatch", []),
        ("POST", add, [("if-none-match", "*")], "" => 200 "", [("/version", "1")]),
        ("POST", add, [("if-none-match", "*")], "" => 412 "version-mismatch", [("/currentVersion", "1")]),
        ("POST", add, [("if-match", "\"1\"")], "" => 200 "", [("/version", "2")]),
        ("POST", add, [("if-match", "\"7\", \"2\"")], "" => 200 "", [("/version", "3")]),
        ("POST", add, [("if-match", "*")], "" => 200 "", [("/version", "4")]),
        ("POST", add, [("if-match", "W/\"4\"")], "" => 200 "", [("/version", "5")]),
        ("POST", add, [("if-match", "\"5-gzip\"")], "" => 200 "", [("/version", "6")]),
        ("POST", add, [("if-match", "W/\"6-br\"")], "" => 200 "", [("/version", "7")]),
        ("POST", add, [("if-match", "\"7-zstd\"")], "" => 200 "", [("/version", "8")]),
        ("POST", add, [("if-match", "\"8--gzip\"")], "" => 200 "", [("/version", "9")]),
        ("POST", add, [("if-match", "\"9-deflate\"")], "" => 412 "version-mismatch", []),
        ("POST", add, [("if-match", "9")], "" => 400 "invalid-request", []),
        ("POST", add, [("if-none-match", "\"9\"")], "" => 400 "invalid-request", []),
        ("POST", add, [("if-match", "*"), ("if-none-match", "*")], "" => 412 "version-mismatch", [("/currentVersion", "9")]),
        ("GET", entity, [("if-match", "\"1\"")], "" => 412 "version-mismatch", [("/currentVersion", "9")]),
        ("GET", entity, [("if-none-match", "\"9\"")], "" => 304 "", [("etag", "\"9\""), ("content-type", "-")]),
        ("GET", entity, [("if-none-match", "\"8\"")], "" => 200 "", [("/version", "9")]),
        ("GET", entity, [("if-none-match", "W/\"9-gzip\"")], "" => 304 "", []),
        ("GET", "/v1/entities/counter/headers/events", [("if-none-match", "\"9\"")], "" => 400 "invalid-request", []),
        // Idempotency-Key
        ("POST", add, [JSON, once], r#"{"by":5}"# => 200 "", [("/version", "10"), ("idempotency-replayed", "-"), ("idempotency-key", "-")]),
        ("POST", add, [JSON, once], r#"{"by":5}"# => 200 "", [("/version", "10"), ("idempotency-replayed", "true")]),
        ("POST", add, [JSON, once], r#"{"by":6}"# => 422 "key-reused", []),
        ("POST", "/v1/entities/counter/headers/reset", [JSON, once], "" => 422 "key-reused", []),
        ("POST", add, [JSON, once, ("if-match", "*")], r#"{"by":5}"# => 422 "key-reused", []),
        ("POST", "/v1/entities/counter/headers-2/add", [JSON, once], r#"{"by":6}"# => 200 "", [("/version", "1")]),
        ("POST", add, [("idempotency-key", "late"), ("if-match", "\"1\"")], "" => 412 "version-mismatch", [("idempotency-replayed", "-")]),
        ("POST", add, [("idempotency-key", "late"), ("if-match", "\"1\"")], "" => 412 "version-mismatch", [("idempotency-replayed", "true")]),
        ("POST", add, [("idempotency-key", "")], "" => 400 "invalid-request", []),
        ("POST", add, [("idempotency-key", "two words")], "" => 400 "invalid-request", []),
        ("POST", add, [("idempotency-key", &"k".repeat(255))], "" => 200 "", [("/version", "11")]),
        ("POST", add, [("idempotency-key", &"k".repeat(256))], "" => 400 "invalid-request", []),
        // Prefer
        ("POST", add, [("prefer", "return=minimal")], "" => 200 "", [("/state", "-"), ("/reply", "*"), ("preference-applied", "return=minimal")]),
        ("POST", add, [("prefer", "return=representation, wait=10")], "" => 200 "", [("/state", "*"), ("preference-applied", "-")]),
        ("POST", add, [("prefer", "wait=0")], "" => 400 "invalid-request", []),
        ("GET", entity, [("prefer", "wait=31")], "" => 400 "invalid-request", []),
        ("GET", entity, [("prefer", "wait=30")], "" => 200 "", []),
        // What the gateway gives without being asked: a key, under which the command is one, and a token.
        ("POST", add, [], "" => 200 "", [("/version", "14"), ("idempotency-key", "=key"), ("berth-session", "=session")]),
        ("POST", add, [("idempotency-key", "{key}")], "" => 200 "", [("/version", "14"), ("idempotency-replayed", "true")]),
        ("POST", add, [("idempotency-key", "{key}"), JSON], r#"{"by":2}"# => 422 "key-reused", []),
        // Berth-Session
        ("GET", entity, [("berth-session", "{session}")], "" => 200 "", [("/version", "14"), ("berth-session", "*")]),
        ("GET", "/v1/entities/counter/headers/events", [("berth-session", "{session}")], "" => 200 "", [("/events/13/version", "14"), ("berth-session", "*")]),
        ("POST", add, [("berth-session", "{session}")], "" => 200 "", [("/version", "15"), ("berth-session", "*")]),
        ("GET", entity, [("berth-session", "{session}x")], "" => 400 "invalid-request", []),
        ("POST", add, [("berth-session", "{session}x")], "" => 400 "invalid-request", []),
        ("GET", entity, [("berth-session", "not a token")], "" => 400 "invalid-request", []),
        // traceparent: the answer is part of the trace.
        ("GET", "/nowhere", [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")], "" => 404 "not-found", [("/traceId", r#""0af7651916cd43dd8448eb211c80319c""#)]),
        ("GET", entity, [("traceparent", "nonsense")], "" => 200 "", []),
    ]
}
