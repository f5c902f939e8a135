//! Reads and the session: what is asked for, and what a session carries on.

use std::future::IntoFuture;

use super::*;
use crate::{Code, Consistency, Error};

#[tokio::test(start_paused = true)]
async fn reads_ask_for_what_they_were_told() {
    let script = Scripted::new(|_, request| match request.uri().path() {
        path if path.ends_with("/events") => answer(
            200,
            &[],
            r#"{"kind":"counter","id":"x","events":[{"version":1,"type":"added","time":"t","data":{"by":1}}],"next":1}"#,
        ),
        "/v1/entities/counter" => {
            answer(200, &[], r#"{"kind":"counter","entities":[{"id":"x","version":3}],"next":"c"}"#)
        }
        _ => answer(200, &[("berth-lag", "12")], DONE),
    });
    let client = script.client();
    let entity = client.entity("counter", "x");
    let state = entity.get().consistency(Consistency::Stale).await.unwrap();
    assert_eq!((state.version, state.lag), (3, Some(Duration::from_millis(12))));
    entity.get().version(2).consistency(Consistency::Strict).await.unwrap();
    entity.get().at("2026-01-01T00:00:00+01:00").await.unwrap();
    let page = entity.events().after(0).limit(10).await.unwrap();
    assert_eq!((page.events[0].event_type.as_str(), page.next), ("added", Some(1)));
    let listing = client.list("counter").prefix("a&b").limit(5).cursor("c=").await.unwrap();
    assert_eq!((listing.entities[0].id.as_str(), listing.next.as_deref()), ("x", Some("c")));
    assert_eq!(client.kind("cart").await.unwrap()["version"], 3);
    client.kinds().await.unwrap();
    for (n, target) in [
        (1, "/entities/counter/x?consistency=stale"),
        (2, "/entities/counter/x?version=2&consistency=strict"),
        (3, "/entities/counter/x?at=2026-01-01T00%3A00%3A00%2B01%3A00"),
        (4, "/entities/counter/x/events?after=0&limit=10"),
        (5, "/entities/counter?prefix=a%26b&limit=5&cursor=c%3D"),
        (6, "/kinds/cart"),
        (7, "/kinds"),
    ] {
        assert_eq!(script.target(n), format!("GET http://a:1/v1{target}"));
        assert_eq!(script.header(n, "idempotency-key"), "", "only writes have one");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_tried_again_and_refused_like_commands() {
    let script = Scripted::new(|n, _| match n {
        2 => unavailable(),
        3 => answer(200, &[], DONE),
        4 => problem(404, r#"{"code":"not-found"}"#),
        5 => answer(200, &[], "[]"),
        _ => Lost,
    });
    let entity = script.build(Client::builder("http://a").attempts_max(3)).entity("counter", "x");
    assert_eq!(entity.get().await.unwrap().version, 3);
    assert_eq!(entity.get().await.unwrap_err().code(), Some(&Code::NotFound));
    assert!(matches!(entity.get().await, Err(Error::Unexpected(_))));
    assert!(matches!(entity.get().await, Err(Error::Unavailable { .. })), "a read has no outcome to be unknown");
    assert_eq!(script.count(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_has_its_wait_on_top() {
    let script = Scripted::new(|_, _| Silence);
    let client = script.build(Client::builder("http://a").attempts_max(1));
    let start = time::now();
    let poll = client.entity("counter", "x").events().after(3).wait(Duration::from_secs(20)).await;
    assert!(matches!(poll, Err(Error::Unavailable { .. })));
    assert_eq!((time::now() - start, script.header(1, "prefer").as_str()), (Duration::from_secs(26), ""));
    assert_eq!(script.target(1), "GET http://a/v1/entities/counter/x/events?after=3&wait=20");
}

#[tokio::test(start_paused = true)]
async fn a_session_carries_on_what_its_answers_told() {
    let script = Scripted::new(|n, _| match n {
        1 => answer(200, &[("berth-session", "t1")], DONE),
        2 => answer(
            422,
            &[("berth-session", "t2"), ("content-type", "application/problem+json")],
            r#"{"code":"rejected"}"#,
        ),
        _ => answer(200, &[], DONE),
    });
    let client = script.client();
    let entity = client.entity("counter", "x");
    entity.execute("add", ()).await.unwrap();
    entity.execute("add", ()).await.unwrap_err();
    client.clone().entity("counter", "y").get().consistency(Consistency::Session).await.unwrap();
    client.session().entity("counter", "x").get().await.unwrap();
    let token = client.session_token().unwrap();
    client.session_from(&token).unwrap().entity("counter", "x").get().await.unwrap();
    let carried: Vec<String> = (1..=5).map(|n| script.header(n, "berth-session")).collect();
    assert_eq!(carried, ["", "t1", "t2", "", "t2"]);
    assert_eq!(script.target(3), "GET http://a:1/v1/entities/counter/y?consistency=session");
    assert!(client.session_from("a\nb").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_requests_overlapped_reads_at_owners() {
    // The first two requests are answered once both are there.
    let script = Scripted::new(|n, _| Late(Duration::from_secs(1), ["t1", "t2", "t12"][n.min(3) - 1]));
    let client = script.client();
    let entity = client.entity("counter", "x");
    let (one, other) = tokio::join!(entity.execute("add", ()).into_future(), entity.execute("add", ()).into_future());
    assert_eq!((one.unwrap().version, other.unwrap().version), (3, 3));
    entity.get().consistency(Consistency::Session).await.unwrap();
    assert_eq!(script.target(3), "GET http://a:1/v1/entities/counter/x", "it asks for everything");
    assert_eq!(script.header(3, "berth-session").len(), 2);
    let fresh = client.session().entity("counter", "x");
    fresh.execute("add", ()).await.unwrap();
    fresh.get().consistency(Consistency::Session).await.unwrap();
    assert!(script.target(5).ends_with("?consistency=session"));
}
