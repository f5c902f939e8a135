//! Consistency levels of reads, and histories that wait for events or are live.

use super::{Line, lines};

const JSON: (&str, &str) = ("content-type", "application/json");
const STREAM: (&str, &str) = ("accept", "text/event-stream");

#[rustfmt::skip]
pub(crate) fn reads() -> Vec<Line> {
    let entity = "/v1/entities/counter/reads";
    let add = "/v1/entities/counter/reads/add";
    let events = "/v1/entities/counter/reads/events";
    lines![
        ("POST", add, [JSON], r#"{"by":4}"# => 200 "", [("/version", "1"), ("berth-session", "=seen")]),
        // Any replica that has what the token has seen, or the owner.
        ("GET", format!("{entity}?consistency=session"), [("berth-session", "{seen}")], "" => 200 "", [("/version", "1"), ("/state/value", "4"), ("berth-session", "*"), ("berth-lag", "-")]),
        ("GET", format!("{events}?consistency=session"), [("berth-session", "{seen}")], "" => 200 "", [("/events/0/version", "1"), ("berth-session", "*")]),
        ("GET", format!("{entity}?consistency=session"), [("berth-session", "{seen}"), ("if-none-match", "\"1\"")], "" => 304 "", [("etag", "\"1\""), ("berth-session", "*")]),
        ("GET", "/v1/entities/boat/reads?consistency=session", [], "" => 404 "unknown-kind", []),
        ("GET", format!("{entity}?consistency=session"), [("berth-session", "forged")], "" => 400 "invalid-request", []),
        // Whatever a replica has, and how far behind it may be.
        ("GET", format!("{entity}?consistency=stale"), [], "" => 200 "", [("/kind", r#""counter""#), ("berth-session", "*"), ("berth-lag", "*")]),
        ("GET", format!("{events}?consistency=stale"), [], "" => 200 "", [("berth-lag", "*")]),
        ("GET", "/v1/entities/counter/reads-nobody?consistency=stale", [], "" => 404 "not-found", [("berth-lag", "*")]),
        ("GET", format!("{entity}?consistency=linearizable&consistency=stale"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{entity}?consistency="), [], "" => 400 "invalid-request", []),
        ("GET", format!("{events}?consistency=weak"), [], "" => 400 "invalid-request", []),
        // A listing's token includes what was listed, and what the client had seen.
        ("GET", "/v1/entities/counter?prefix=reads", [("berth-session", "{seen}")], "" => 200 "", [("/entities", r#"[{"id":"reads","version":1}]"#), ("berth-session", "=listed")]),
        ("GET", format!("{entity}?consistency=session"), [("berth-session", "{listed}")], "" => 200 "", [("/version", "1")]),
        ("GET", "/v1/entities/counter", [("berth-session", "forged")], "" => 400 "invalid-request", []),
        // Pages that wait: at once where there is something, and empty after the time.
        ("GET", format!("{events}?wait=30"), [], "" => 200 "", [("/events/0/version", "1"), ("/next", "null")]),
        ("GET", format!("{events}?after=1&wait=1"), [], "" => 200 "", [("/events", "[]"), ("/next", "null")]),
        ("GET", format!("{events}?after=1&wait=1&consistency=stale"), [], "" => 200 "", [("/events", "[]"), ("berth-lag", "*")]),
        ("GET", format!("{events}?wait=31"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{events}?wait=soon"), [], "" => 400 "invalid-request", []),
        ("GET", format!("{events}?wait=1&wait=1"), [], "" => 400 "invalid-request", []),
        ("GET", "/v1/entities/boat/reads/events?wait=1", [], "" => 404 "unknown-kind", []),
        // Live histories, as far as they can be told from their heads; what they send has tests of its own.
        ("HEAD", events, [STREAM], "" => 200 "", [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no"), ("berth-session", "*"), ("content-length", "-")]),
        ("HEAD", events, [STREAM, ("last-event-id", "1")], "" => 200 "", [("content-type", "text/event-stream")]),
        ("GET", events, [STREAM, ("last-event-id", "one")], "" => 400 "invalid-request", []),
        ("GET", events, [STREAM, ("last-event-id", "-1")], "" => 400 "invalid-request", []),
        ("GET", events, [("last-event-id", "{}")], "" => 400 "invalid-request", []),
        ("GET", events, [("last-event-id", "1")], "" => 200 "", [("/events/0/version", "1")]),
        ("GET", events, [STREAM, ("if-none-match", "\"1\"")], "" => 400 "invalid-request", []),
        ("GET", entity, [STREAM], "" => 406 "not-acceptable", []),
        ("GET", "/v1/entities/boat/reads/events", [STREAM], "" => 404 "unknown-kind", []),
        ("GET", "/v1/entities/counter/%00/events", [STREAM], "" => 400 "invalid-request", []),
        // The rest of a trace goes along with it, and is not looked into.
        ("GET", entity, [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "rojo=1"), ("tracestate", "congo=2")], "" => 200 "", []),
        ("GET", entity, [("tracestate", "=nonsense")], "" => 200 "", []),
    ]
}
