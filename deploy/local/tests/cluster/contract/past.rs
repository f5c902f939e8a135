//! States as of an earlier version or time.

use super::{Line, lines};

#[rustfmt::skip]
pub(crate) fn states() -> Vec<Line> {
    let entity = "/v1/entities/counter/past";
    let add = "/v1/entities/counter/past/add";
    lines![
        ("GET", format!("{entity}?version=1"), [], "" => 404 "not-found", []),
        ("POST", add, [], "" => 200 "", []),
        ("GET", format!("{entity}/events"), [], "" => 200 "", [("/events/0/time", "=time")]),
        ("POST", add, [], "" => 200 "", [("/version", "2")]),
        ("GET", format!("{entity}?version=1"), [], "" => 200 "", [("/kind", r#""counter""#), ("/id", r#""past""#), ("/version", "1"), ("/state/value", "1"), ("/reply", "-"), ("etag", "\"1\""), ("berth-session", "*")]),
        ("GET", format!("{entity}?version=2&consistency=strict"), [], "" => 200 "", [("/version", "2"), ("/state/value", "2")]),
        ("GET", format!("{entity}?version=1"), [("if-none-match", "\"1\"")], "" => 304 "", [("etag", "\"1\"")]),
        ("GET", format!("{entity}?version=1"), [("if-match", "\"2\"")], "" => 412 "version-mismatch", [("/currentVersion", "-")]),
        ("GET", format!("{entity}?version=1&consistency=session"), [], "" => 200 "", [("/version", "1"), ("berth-lag", "-")]),
        ("GET", format!("{entity}?version=1&consistency=stale"), [], "" => 200 "", [("/version", "1"), ("berth-lag", "0")]),
        ("HEAD", format!("{entity}?version=1"), [], "" => 200 "", [("etag", "\"1\"")]),
        // Not reached yet, and before the first event.
        ("GET", format!("{entity}?version=3"), [], "" => 404 "not-found", []),
        ("GET", format!("{entity}?version=0"), [], "" => 404 "not-found", []),
        ("GET", format!("{entity}?at=2020-01-01T00:00:00Z"), [], "" => 404 "not-found", []),
        ("GET", format!("{entity}?at={{time}}"), [], "" => 200 "", [("/version", "1"), ("/state/value", "1"), ("etag", "\"1\"")]),
        ("GET", format!("{entity}?at={{time}}&consistency=strict"), [], "" => 200 "", [("/version", "1")]),
        // Within a second, or later.
        ("GET", format!("{entity}?at=9999-12-31T23:59:59Z"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?at=2020-01-01"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?at=now"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?version=-1"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?version=one"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?version=18446744073709551616"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?version=1&version=1"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?version=1&at=2020-01-01T00:00:00Z"), [], "" => 400 "invalid-request", []),
        ("GET", "/v1/entities/boat/past?version=1", [], "" => 404 "unknown-kind", []),
    ]
}
