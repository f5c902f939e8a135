//! What a gateway takes on: so much in all, of one entity, of one caller, and for no longer than the caller waits.

use std::num::NonZeroUsize;

use futures_util::future::join_all;
use futures_util::stream;

use super::*;
use crate::admission::rate;

const MANY: usize = 40;

/// Requests for as many entities, at once; how many were refused.
async fn refused_of(api: &Api<Scripted>, query: &str) -> usize {
    let asking = (0..MANY).map(|number| async move {
        let path = format!("/v1/entities/counter/{number}{query}");
        let answer = ask(api, "GET", &path, &[], "").await;
        assert!(answer.status == 200 || answer.status == 503 || answer.code() == "overloaded", "{}", answer.status);
        usize::from(answer.status == 429)
    });
    join_all(asking).await.into_iter().sum()
}

fn takes(api: &Api<Scripted>, millis: u64) {
    *api.forward.nodes().takes.lock() = Duration::from_millis(millis);
}

#[tokio::test(start_paused = true)]
async fn fewer_requests_are_taken_on_when_nodes_are_slow_and_more_when_they_are_quick_again() {
    let api = api_with(MANY, Box::new(content));
    takes(&api, 100);
    for _ in 0..20 {
        assert_eq!(refused_of(&api, "").await, 0);
    }
    takes(&api, 900);
    for _ in 0..10 {
        refused_of(&api, "").await;
    }
    let limit = api.admission.limit();
    assert!(limit < MANY / 2, "{limit}");
    assert_eq!(refused_of(&api, "").await, MANY - limit);
    takes(&api, 100);
    for _ in 0..200 {
        refused_of(&api, "").await;
    }
    assert_eq!((api.admission.limit(), refused_of(&api, "").await), (MANY, 0));
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_by_its_nature_or_is_cut_short_is_no_congestion() {
    let past = api_with(MANY, Box::new(|_, _| reply(&Reply::State { version: 1, state: b"1", seen: SEEN })));
    takes(&past, 3000);
    for _ in 0..10 {
        assert_eq!(refused_of(&past, "?version=1").await, 0);
    }
    let cut = api_with(MANY, Box::new(|_, _| Err(CallError::MaybeExecuted)));
    // Four times within a request's deadline.
    takes(&cut, 1200);
    for _ in 0..10 {
        assert_eq!(refused_of(&cut, "").await, 0);
    }
    assert_eq!((past.admission.limit(), cut.admission.limit()), (MANY, MANY));
    // An attempt lasts two seconds; then its node has not answered.
    takes(&cut, 2000);
    for _ in 0..5 {
        refused_of(&cut, "").await;
    }
    assert!(cut.admission.limit() < MANY);
}

#[tokio::test(start_paused = true)]
async fn a_hot_entity_is_429_while_others_are_served() {
    let mut api = api_with(MANY, Box::new(content));
    let latency_target = Duration::from_millis(500);
    api.admission =
        Admission::new(Bounds { in_flight_min: 1, in_flight_max: MANY, in_flight_per_entity_max: 2, latency_target });
    takes(&api, 100);
    let hot = join_all((0..5).map(|_| ask(&api, "POST", ADD, &[], "")));
    let others = join_all((0..5).map(|number| {
        let path = format!("/v1/entities/counter/other-{number}/add");
        let api = &api;
        async move { ask(api, "POST", &path, &[], "").await.status }
    }));
    let (hot, others) = tokio::join!(hot, others);
    let statuses: Vec<_> = hot.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 429, 429, 429]);
    assert_eq!((hot[2].code().as_str(), hot[2].header("retry-after")), ("overloaded", Some("1")));
    assert_eq!(others, [200; 5]);
    assert_eq!((ask(&api, "POST", ADD, &[], "").await.status, api.admission.taken()), (200, 0));
}

#[tokio::test(start_paused = true)]
async fn every_answer_tells_what_the_caller_has_left_and_one_too_many_is_429() {
    let mut api = api(content);
    assert_eq!(ask(&api, "GET", ALICE, &[], "").await.header("ratelimit"), None, "there is no limit");
    let callers_max = NonZeroUsize::MIN;
    api.rates = Some(Rates::new(rate::Config { requests: 3, window: Duration::from_secs(60), callers_max }));
    for (method, path, status, left) in
        [("GET", ALICE, 200, 2), ("POST", ADD, 200, 1), ("GET", "/nothing", 404, 0), ("POST", ADD, 429, 0)]
    {
        let answer = ask(&api, method, path, &[], "").await;
        assert_eq!((answer.status, answer.header("ratelimit-policy")), (status, Some("\"caller\";q=3;w=60")), "{path}");
        assert_eq!(answer.header("ratelimit"), Some(format!("\"caller\";r={left};t=20").as_str()), "{path}");
        let refused = (status == 429).then_some("20");
        assert_eq!(answer.header("retry-after"), refused, "{path}");
    }
    assert_eq!(api.forward.nodes().asked(), 3, "what is refused is not passed on");
    api.seams.spawner.sleep(Duration::from_secs(20)).await;
    assert_eq!(ask(&api, "GET", ALICE, &[], "").await.status, 200);
}

/// A command whose body takes so long to arrive.
async fn ask_slowly(api: &Api<Scripted>, wait: &str, millis: u64) -> Answer {
    let spawner = api.seams.spawner;
    let arriving = Box::pin(stream::once(async move {
        spawner.sleep(Duration::from_millis(millis)).await;
        Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from_static(b"{}")))
    }));
    let request = Request::post(ADD).header("prefer", wait).body(StreamBody::new(arriving)).unwrap();
    finish(api.answer(request).await).await
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_the_headers_and_goes_to_the_node() {
    let api = api(content);
    let start = api.seams.clock.now();
    assert_eq!(ask_slowly(&api, "wait=3", 2500).await.status, 200);
    let deadline = api.forward.nodes().deadlines.lock()[0];
    assert_eq!(deadline.since(start), Duration::from_secs(3));
    let late = ask_slowly(&api, "wait=3", 3500).await;
    assert_eq!((late.status, late.code().as_str()), (408, "request-timeout"));
    assert_eq!(api.forward.nodes().asked(), 1);
}
