//! Commands and deletions: keys, retries, failover, and what is told in the end.

use serde_json::json;

use super::*;
use crate::{Code, Error};

#[tokio::test(start_paused = true)]
async fn a_command_is_sent_as_the_contract_says() {
    let script = Scripted::new(|_, _| answer(200, &[("idempotency-replayed", "true")], DONE));
    let client = script.build(Client::builder("http://a:1/berth/").bearer("secret"));
    let entity = client.entity("cart", "a/b ü.%");
    let outcome = entity.execute("add", json!({"by": 2})).idempotency_key("once").if_version(2).await.unwrap();
    assert_eq!(script.target(1), "POST http://a:1/berth/v1/entities/cart/a%2Fb%20%C3%BC.%25/add");
    assert_eq!(&script.request(1).body()[..], br#"{"by":2}"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("authorization", "Bearer secret"),
        ("idempotency-key", "once"),
        ("if-match", "\"2\""),
        ("prefer", "wait=5"),
        ("berth-session", ""),
    ] {
        assert_eq!(script.header(1, name), value, "{name}");
    }
    assert_eq!((outcome.version, &outcome.reply, outcome.replayed), (3, &json!({"was": 1}), true));
    assert_eq!((outcome.state.clone(), outcome.idempotency_key.as_str()), (Some(json!({"value": 2})), "once"));
    assert_eq!(outcome.reply_as::<std::collections::BTreeMap<String, u8>>().unwrap()["was"], 1);

    entity
        .execute("add", ())
        .if_exists()
        .if_absent()
        .without_state()
        .deadline(Duration::from_millis(1200))
        .await
        .unwrap();
    assert_eq!((script.header(2, "if-match"), script.header(2, "if-none-match")), (String::new(), "*".to_owned()));
    assert_eq!((script.header(2, "prefer").as_str(), script.request(2).body().len()), ("wait=2, return=minimal", 0));
    assert!(!format!("{client:?}").contains("secret"));
    assert!(!format!("{:?}", Client::builder("http://a").bearer("secret")).contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_a_write_like_a_command() {
    let script = Scripted::new(|n, _| match n {
        1 => Lost,
        _ => answer(204, &[("etag", "W/\"4\""), ("idempotency-replayed", "true")], ""),
    });
    let deleted = script.client().entity("cart", "x").delete().if_version(3).await.unwrap();
    assert_eq!(script.target(2), "DELETE http://a:1/v1/entities/cart/x");
    assert_eq!(script.header(1, "idempotency-key"), script.header(2, "idempotency-key"));
    assert_eq!((deleted.version, deleted.replayed, script.header(2, "if-match").as_str()), (Some(4), true, "\"3\""));
}

#[tokio::test(start_paused = true)]
async fn every_attempt_has_the_same_key_and_every_command_another_one() {
    let script = Scripted::new(|n, _| match n % 5 {
        1 => Lost,
        2 => unavailable(),
        3 => problem(504, r#"{"code":"unknown-outcome"}"#),
        4 => answer(502, &[], "<html>"),
        _ => done(),
    });
    let entity = script.client().entity("counter", "x");
    for _ in 0..2 {
        entity.execute("add", ()).await.unwrap();
    }
    let keys: Vec<String> = (1..=10).map(|n| script.header(n, "idempotency-key")).collect();
    assert!(keys[..5].iter().all(|key| *key == keys[0]) && keys[5..].iter().all(|key| *key == keys[5]), "{keys:?}");
    assert_ne!(keys[0], keys[5]);
    assert_eq!(keys[0].len(), 32);
    assert!(script.between(2, 3) >= Duration::from_secs(1), "what Retry-After asks for");
    assert!(script.between(3, 4) >= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_connection_is_left_at_once_and_for_good() {
    let script = Scripted::new(|_, request| match request.uri().host() {
        Some("a" | "b") => Unreached,
        _ => done(),
    });
    let client = script.build(Client::builder("http://a").address("http://b").address("http://c"));
    let entity = client.entity("counter", "x");
    entity.execute("add", ()).await.unwrap();
    assert_eq!((script.count(), script.between(1, 3)), (3, Duration::ZERO));
    entity.execute("add", ()).await.unwrap();
    assert_eq!((script.count(), script.request(4).uri().host().unwrap()), (4, "c"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_gateway_costs_one_attempt_and_the_deadline_ends_the_call() {
    let script = Scripted::new(|_, request| if request.uri().host() == Some("a") { Silence } else { done() });
    let client = script.build(Client::builder("http://a").address("http://b").attempt(Duration::from_secs(2)));
    client.entity("counter", "x").execute("add", ()).await.unwrap();
    let (taken, pause) = (script.between(1, 2), Duration::from_millis(50));
    assert!(taken >= Duration::from_secs(3) && taken <= Duration::from_secs(3) + pause, "{taken:?}");
    assert_eq!(script.header(1, "prefer"), "wait=2");

    let script = Scripted::new(|_, _| Silence);
    let client = script.build(Client::builder("http://a").deadline(Duration::from_secs(8)));
    let start = time::now();
    let error = client.entity("counter", "x").execute("add", ()).await.unwrap_err();
    let Error::UnknownOutcome { idempotency_key, last } = &error else { panic!("{error:?}") };
    assert_eq!((idempotency_key, last.as_str()), (&script.header(1, "idempotency-key"), "no answer in time"));
    assert!(error.is_retryable() && time::now() - start <= Duration::from_secs(8));
    assert_eq!(script.count(), 2);
    assert_eq!((script.header(1, "prefer").as_str(), script.header(2, "prefer").as_str()), ("wait=5", "wait=2"));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_typed_and_sent_once() {
    let script = Scripted::new(|n, _| match n {
        1 => problem(422, r#"{"code":"rejected","reason":"insufficient-funds","detail":"no"}"#),
        2 => problem(412, r#"{"code":"version-mismatch","currentVersion":9}"#),
        _ => problem(400, r#"{"code":"invalid-request","errors":[{"pointer":"/by","detail":"no integer"}]}"#),
    });
    let entity = script.client().entity("account", "x");
    let error = entity.execute("withdraw", ()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Some(&Code::Rejected), Some("insufficient-funds")));
    assert_eq!((error.to_string().as_str(), error.is_retryable()), ("422 rejected (insufficient-funds): no", false));
    let error = entity.execute("withdraw", ()).await.unwrap_err();
    assert_eq!(error.problem().unwrap().current_version, Some(9));
    let error = entity.execute("withdraw", ()).await.unwrap_err();
    assert_eq!(error.problem().unwrap().errors[0].pointer, "/by");
    assert_eq!(script.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_still_running_is_waited_for() {
    let script = Scripted::new(|n, _| if n < 4 { problem(409, r#"{"code":"in-progress"}"#) } else { done() });
    let client = script.build(Client::builder("http://a").address("http://b"));
    client.entity("counter", "x").execute("add", ()).idempotency_key("k").await.unwrap();
    assert!((1..=4).all(|n| script.request(n).uri().host() == Some("a")), "asked where it runs");
}

#[tokio::test(start_paused = true)]
async fn not_applied_is_said_only_when_no_attempt_can_have_been() {
    let entity = |script: &Scripted| {
        script.build(Client::builder("http://a").attempts_max(3)).entity("counter", "x").execute("add", ())
    };
    let script = Scripted::new(|_, _| unavailable());
    assert_eq!(entity(&script).await.unwrap_err().code(), Some(&Code::Unavailable));
    assert_eq!(script.count(), 3);
    let script = Scripted::new(|n, _| if n == 1 { Lost } else { unavailable() });
    assert!(entity(&script).await.unwrap_err().idempotency_key().is_some());
    let script = Scripted::new(|n, _| if n == 1 { Lost } else { problem(401, r#"{"code":"unauthenticated"}"#) });
    assert!(entity(&script).await.unwrap_err().idempotency_key().is_some());
    let script = Scripted::new(|n, _| if n == 1 { Lost } else { problem(422, r#"{"code":"rejected"}"#) });
    assert_eq!(entity(&script).await.unwrap_err().code(), Some(&Code::Rejected), "the outcome under its key");
    let script = Scripted::new(|_, _| Unreached);
    assert!(matches!(entity(&script).await, Err(Error::Unavailable { .. })));
    // It was applied, but with what result?
    let script = Scripted::new(|_, _| answer(200, &[], "<html>"));
    let error = entity(&script).await.unwrap_err();
    assert_eq!(error.idempotency_key(), Some(script.header(1, "idempotency-key").as_str()));
}

/// A proxy says the same whether the gateway had the command already or not.
#[tokio::test(start_paused = true)]
async fn a_status_promises_that_nothing_was_applied_only_with_the_code_of_a_gateway() {
    const ENVOY: &str =
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    let of_a_proxy = |status, form| match form {
        0 => answer(status, &[("content-type", "text/plain"), ("server", "envoy")], ENVOY),
        1 => answer(status, &[("content-type", "application/json")], r#"{"code":"unavailable"}"#),
        2 => problem(status, r#"{"type":"about:blank","title":"Service Unavailable"}"#),
        _ => problem(status, r#"{"code":"of-somebody-else"}"#),
    };
    let execute = |script: &Scripted| {
        script.build(Client::builder("http://a").attempts_max(2)).entity("counter", "x").execute("add", ())
    };
    for (status, code) in [(503, "unavailable"), (429, "overloaded"), (409, "in-progress")] {
        for form in 0..4 {
            let script = Scripted::new(move |_, _| of_a_proxy(status, form));
            let error = execute(&script).await.unwrap_err();
            assert_eq!(error.idempotency_key(), Some(script.header(1, "idempotency-key").as_str()), "{status} {form}");
            // What the gateway says then holds for the second attempt alone.
            let script = Scripted::new(move |n, _| if n == 1 { of_a_proxy(status, form) } else { unavailable() });
            assert!(execute(&script).await.unwrap_err().idempotency_key().is_some(), "{status} {form}");
        }
        let body: &'static str = format!("{{\"code\":\"{code}\"}}").leak();
        let script = Scripted::new(move |_, _| problem(status, body));
        let error = execute(&script).await.unwrap_err();
        assert_eq!((error.idempotency_key(), error.code().map(Code::as_str)), (None, Some(code)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_is_not_sent() {
    let script = Scripted::new(|_, _| done());
    let entity = script.client().entity("counter", "x");
    for key in ["", "a b", "ü", &"k".repeat(256)] {
        let refused = entity.execute("add", ()).idempotency_key(key).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{key}");
    }
    let unwritable = std::collections::BTreeMap::from([(vec![1], 1)]);
    assert!(matches!(entity.execute("add", unwritable).await, Err(Error::Invalid(_))));
    assert_eq!(script.count(), 0);
    for builder in [
        Client::builder("a"),
        Client::builder("http://a").address("x://b"),
        Client::builder("http://a").deadline(Duration::ZERO),
        Client::builder("http://a").attempts_max(0),
        Client::builder("http://a").bearer("a\nb"),
        Client::builder("https://a").root_certificates("no PEM"),
    ] {
        assert!(matches!(builder.build(), Err(Error::Invalid(_))));
    }
}
