//! Requests that are refused: by the gateway, without asking a node, and by nodes.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_malformed_or_not_served_is_refused_without_asking_a_node() {
    let api = api(content);
    let long = format!("/v1/entities/counter/{}/add", "x".repeat(513));
    let deep = "[".repeat(65);
    let huge = " ".repeat(1024 * 1024 + 1);
    let wide = "x".repeat(9 * 1024);
    let cases: [Case<'_>; 44] = [
        ("GET", "/", &[], "", 404, "not-found"),
        ("GET", "/v1/entities/counter/alice/add/more", &[], "", 404, "not-found"),
        ("GET", "/v1/entities/Counter/alice", &[], "", 404, "unknown-kind"),
        ("GET", "/v1/entities/counter/", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/%2e%2e", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/a%ff", &[], "", 400, "invalid-request"),
        ("POST", &long, &[], "", 400, "invalid-request"),
        ("POST", "/v1/entities/counter", &[], "", 405, "method-not-allowed"),
        ("DELETE", "/v1/entities/counter", &[], "", 405, "method-not-allowed"),
        ("DELETE", ADD, &[], "", 405, "method-not-allowed"),
        ("DELETE", ALICE, &[], "{}", 400, "invalid-request"),
        ("DELETE", ALICE, &[("if-none-match", "\"1\"")], "", 400, "invalid-request"),
        ("DELETE", ALICE, &[("idempotency-key", "a b")], "", 400, "invalid-request"),
        ("DELETE", "/v1/entities/counter/alice?version=1", &[], "", 400, "invalid-request"),
        ("DELETE", "/v1/entities/counter/%2e", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter?limit=0", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter?cursor=AQAAAABh", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter?prefix=%00", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter", &[("if-match", "*")], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter", &[("accept", "text/html")], "", 406, "not-acceptable"),
        ("POST", ALICE, &[], "", 405, "method-not-allowed"),
        ("GET", ADD, &[], "", 405, "method-not-allowed"),
        ("GET", "/v1/entities/counter/alice?version=x", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice?version=1&consistency=fresh", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice?at=2026-01-01T00:00:00Z", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice?consistency=weak", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice?wait=5", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice/events?wait=31", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice/events?limit=0", &[], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice/events", &[("if-none-match", "\"1\"")], "", 400, "invalid-request"),
        ("GET", "/v1/entities/counter/alice/events", &[("accept", "text/html")], "", 406, "not-acceptable"),
        ("GET", ALICE, &[("accept", "text/event-stream")], "", 406, "not-acceptable"),
        ("GET", ALICE, &[("accept", "text/html")], "", 406, "not-acceptable"),
        ("POST", ADD, &[("accept", "application/xml")], "", 406, "not-acceptable"),
        ("POST", ADD, &[("content-type", "text/plain")], "{}", 415, "unsupported-media-type"),
        ("POST", ADD, &[("content-encoding", "gzip")], "{}", 415, "unsupported-media-type"),
        ("POST", ADD, &[("prefer", "wait=31")], "", 400, "invalid-request"),
        ("POST", ADD, &[("idempotency-key", "")], "", 400, "invalid-request"),
        ("POST", ADD, &[("idempotency-key", "a b")], "", 400, "invalid-request"),
        ("POST", ADD, &[("if-none-match", "\"1\"")], "", 400, "invalid-request"),
        ("POST", "/v1/entities/counter/alice/add?x=1", &[], "", 400, "invalid-request"),
        ("POST", ADD, &[], &deep, 400, "invalid-request"),
        ("POST", ADD, &[], &huge, 413, "too-large"),
        ("GET", ALICE, &[("x", &wide)], "", 431, "too-large"),
    ];
    for (method, path, headers, body, status, code) in cases {
        let answer = ask(&api, method, path, headers, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path} {headers:?}");
        let problem = answer.json();
        assert_eq!((&problem["status"], &problem["instance"]), (&json!(status), &json!(path.split('?').next())));
        assert_eq!(problem["type"], format!("urn:berth:problem:{code}"));
        assert_eq!(problem["traceId"].as_str().unwrap().len(), 32);
        assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(api.forward.nodes().asked(), 0);
    assert_eq!(api.admission.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn every_refusal_of_a_node_has_its_status() {
    for (code, status) in [
        (Code::InvalidRequest, 400),
        (Code::UnknownKind, 404),
        (Code::UnknownCommand, 404),
        (Code::NotFound, 404),
        (Code::Deleted, 410),
        (Code::InProgress, 409),
        (Code::VersionMismatch, 412),
        (Code::TooLarge, 413),
        (Code::Rejected, 422),
        (Code::KeyReused, 422),
        (Code::Overloaded, 429),
        (Code::Unavailable, 503),
        (Code::UnknownOutcome, 504),
        (Code::Internal, 500),
        (Code::KeyExpired, 400),
    ] {
        let api = api(move |_, _| reply(&Reply::Refused(refused(code))));
        let answer = ask(&api, "POST", ADD, &[("idempotency-key", "k1")], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code.as_str()));
        let retry_after = (status == 429 || status == 503).then_some("1");
        assert_eq!(answer.header("retry-after"), retry_after, "{code:?}");
        let key = (status == 504).then_some("k1");
        assert_eq!(answer.header("idempotency-key"), key, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_decided_refusal_carries_its_reason_version_and_session() {
    let rejected = Refusal {
        reason: Some("insufficient-funds"),
        current_version: Some(9),
        seen: Some(SEEN),
        ..refused(Code::Rejected)
    };
    let api = api(move |_, _| reply(&Reply::Refused(rejected.clone())));
    let answer =
        ask(&api, "POST", ADD, &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")], "").await;
    let problem = answer.json();
    assert_eq!((&problem["reason"], &problem["currentVersion"]), (&json!("insufficient-funds"), &json!(9)));
    assert_eq!(
        (&problem["detail"], &problem["traceId"]),
        (&json!("said the node"), &json!("0af7651916cd43dd8448eb211c80319c"))
    );
    assert!(Token::decode(answer.header("berth-session").unwrap()).is_ok());
    assert!(answer.header("idempotency-key").unwrap().starts_with("gw-"));
}
