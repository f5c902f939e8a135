//! Live histories: what a reader gets, however its streams end.

use futures_util::StreamExt;

use super::*;
use crate::{Code, Error};

const ONE: &str =
    "id: 1\ndata: {\"specversion\":\"1.0\",\"id\":\"1\",\"type\":\"added\",\"time\":\"t\",\"data\":{\"by\":1}}\n\n";
const TWO: &str = "id: 2\ndata: {\"type\":\"added\",\"time\":\"t\",\"data\":{\"by\":2}}\n\n";
const THREE: &str = "id: 3\ndata: {\"type\":\"reset\",\"time\":\"t\"}\n\n";

async fn versions(watch: &mut crate::Watch, count: usize) -> Vec<u64> {
    let mut versions = Vec::new();
    for _ in 0..count {
        versions.push(watch.next().await.unwrap().version);
    }
    versions
}

#[tokio::test(start_paused = true)]
async fn a_history_goes_on_behind_the_last_event_without_gap_or_doubles() {
    let script = Scripted::new(|n, _| match n {
        // Cut in the middle of the second event.
        1 => Stream(vec![": ping\n\nretry: 700\n\n", ONE, "id: 2\ndata: {\"ty"], false),
        2 => Lost,
        3 => Unreached,
        4 => unavailable(),
        // From too early on, in small pieces.
        5 => Stream(
            vec![ONE, "id: 2\n", "data: {\"type\":\"added\",\"time\":\"t\",\"data\":{\"by\":2}}\n\n", THREE],
            true,
        ),
        _ => panic!("the stream is open"),
    });
    let client = script.build(Client::builder("http://a").address("http://b"));
    let mut watch = client.entity("counter", "x y").watch(0);
    let first = watch.next().await.unwrap();
    assert_eq!((first.version, first.event_type.as_str(), &first.data["by"]), (1, "added", &1.into()));
    assert_eq!(versions(&mut watch, 2).await, [2, 3]);
    assert_eq!(script.target(1), "GET http://a/v1/entities/counter/x%20y/events?after=0");
    assert_eq!(script.target(1), script.target(2), "a stream that ended tells nothing against its gateway");
    assert_eq!(script.request(3).uri().host(), Some("b"));
    let resumed: Vec<String> = (1..=5).map(|n| script.header(n, "last-event-id")).collect();
    assert_eq!(resumed, ["", "1", "1", "1", "1"]);
    assert_eq!(script.header(5, "accept"), "text/event-stream");
    assert!(script.between(1, 2) >= Duration::from_millis(700), "what the stream asked for");
    assert!(script.between(4, 5) >= Duration::from_secs(1), "what Retry-After asked for");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_event_may_be_given_up_and_taken_up_again() {
    let script = Scripted::new(|n, _| match n {
        1 => Stream(vec![ONE, ONE, TWO], true),
        _ => Stream(vec![THREE], true),
    });
    let mut watch = script.client().entity("counter", "x").watch(0);
    assert_eq!(versions(&mut watch, 2).await, [1, 2]);
    assert!(time::timeout(Duration::from_secs(30), watch.next()).await.is_none());
    assert_eq!(script.count(), 1);
    // Nothing came for too long, not even a ping.
    assert_eq!(versions(&mut watch, 1).await, [3]);
    assert_eq!((script.count(), script.header(2, "last-event-id").as_str()), (2, "2"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_makes_no_sense_is_doubted_once() {
    for nonsense in [THREE, "id: x\ndata: {}\n\n", "id: 2\ndata: {}\n\n", "id: 2\ndata: x\n\n"] {
        let script = Scripted::new(move |n, _| match n {
            1 | 3 | 4 => Stream(vec![nonsense], true),
            2 => Stream(vec![TWO], false),
            _ => Stream(vec![], true),
        });
        let mut watch = script.client().entity("counter", "x").watch(1);
        assert_eq!(versions(&mut watch, 1).await, [2]);
        if nonsense == THREE {
            assert_eq!(versions(&mut watch, 1).await, [3]);
            continue;
        }
        assert!(matches!(watch.next().await, Err(Error::Unexpected(_))), "{nonsense}");
        assert_eq!(script.count(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_told_of_refusals_at_once_and_of_failures_after_its_deadline() {
    let script = Scripted::new(|n, _| match n {
        1 => problem(403, r#"{"code":"forbidden"}"#),
        2 => answer(200, &[("content-type", "application/json")], "{}"),
        3..100 => Lost,
        _ => Stream(vec![ONE], true),
    });
    let client = script.build(Client::builder("http://a").deadline(Duration::from_secs(10)));
    let mut watch = client.entity("counter", "x").watch(0);
    assert_eq!(watch.next().await.unwrap_err().code(), Some(&Code::Forbidden));
    assert!(matches!(watch.next().await, Err(Error::Unexpected(_))));
    let start = time::now();
    let failure = watch.next().await;
    assert!(matches!(&failure, Err(Error::Unavailable { last }) if last == "connection reset"), "{failure:?}");
    let taken = time::now() - start;
    assert!(taken > Duration::from_secs(5) && taken <= Duration::from_secs(10), "{taken:?}");
    let events = watch.into_stream().filter_map(|event| async { event.ok() });
    assert_eq!(Box::pin(events).next().await.unwrap().version, 1, "it goes on after errors");
}
