//! Reads over gRPC: what they ask for, and of whom.

use berth_gateway::grpc::protobuf::get_request::Moment as AskedMoment;
use berth_gateway::grpc::protobuf::{Consistency as Asked, Lag};
use berth_shared::ids::ClusterId;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Event, Moment};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_state_is_read_as_rest_reads_it() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    says(&node, move |request| {
        log.lock().push(match request {
            Request::Read { consistency, .. } => (None, *consistency),
            Request::Past { moment, consistency, .. } => (Some(*moment), *consistency),
            other => panic!("{other:?}"),
        });
        Response::State { version: 3, state: b"{\"value\":5}", seen: SEEN }
    });
    let mut client = entities(&seams).await;
    let cases = [
        (alice(), (None, Consistency::Linearizable)),
        (GetRequest { consistency: Asked::Strict.into(), ..alice() }, (None, Consistency::Strict)),
        (
            GetRequest { moment: Some(AskedMoment::AtVersion(2)), ..alice() },
            (Some(Moment::Version(2)), Consistency::Linearizable),
        ),
        (
            GetRequest { moment: Some(AskedMoment::AtTime("1970-01-01T00:00:01Z".to_owned())), ..alice() },
            (Some(Moment::Time(1_000_000)), Consistency::Linearizable),
        ),
    ];
    for (request, expected) in cases {
        let answer = client.get(request).await.unwrap().into_inner();
        assert_eq!((answer.version, answer.state.as_deref()), (3, Some("{\"value\":5}")));
        assert!(Token::decode(&answer.session).is_ok());
        assert_eq!(asked.lock().pop(), Some(expected));
    }
    let known = client.get(GetRequest { known_versions: vec![2, 3], ..alice() }).await.unwrap().into_inner();
    assert_eq!((known.version, known.state), (3, None));
}

/// The token of a client that has seen a part of the shard of alice.
fn token(cluster: ClusterId) -> String {
    let shard = EntityKey::new("counter", "alice").unwrap().shard(crate::SHARDS);
    Token::single(cluster, shard, SEEN).encode()
}

/// `answer` as one of a replica that may be so far behind.
fn stale(lag_micros: Option<u64>, answer: &Response<'_>) -> Response<'static> {
    Response::Stale { lag_micros, answer: Box::leak(peer::encode(answer).unwrap().to_vec().into_boxed_slice()) }
}

#[tokio::test(start_paused = true)]
async fn a_read_asks_for_what_its_session_has_seen_and_says_how_far_behind_it_may_be() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    says(&node, move |request| {
        let (Request::Read { consistency, .. } | Request::Past { consistency, .. }) = request else {
            panic!("{request:?}")
        };
        log.lock().push(*consistency);
        let state = Response::State { version: 3, state: b"{\"value\":5}", seen: SEEN };
        if *consistency == Consistency::Stale { stale(Some(12_345), &state) } else { state }
    });
    let mut client = entities(&seams).await;
    let of = |asked: Asked, session: String| GetRequest { consistency: asked.into(), session, ..alice() };
    let past = |asked: Asked| {
        let moment = Some(AskedMoment::AtVersion(3));
        GetRequest { moment, ..of(asked, token(CLUSTER)) }
    };
    let lag = |milliseconds| Some(Lag { milliseconds: Some(milliseconds) });
    for (request, expected, lag) in [
        (of(Asked::Session, String::new()), Consistency::Session { at_least: None }, None),
        (of(Asked::Session, token(CLUSTER)), Consistency::Session { at_least: Some(SEEN) }, None),
        // What was seen elsewhere only the owner can be held against.
        (of(Asked::Session, token(ClusterId(8))), Consistency::Linearizable, None),
        (of(Asked::Stale, token(CLUSTER)), Consistency::Stale, lag(13)),
        (of(Asked::Linearizable, token(CLUSTER)), Consistency::Linearizable, None),
        // Only the owner knows what is final.
        (past(Asked::Session), Consistency::Linearizable, None),
        (past(Asked::Stale), Consistency::Linearizable, lag(0)),
        (past(Asked::Strict), Consistency::Strict, None),
    ] {
        let answer = client.get(request).await.unwrap().into_inner();
        assert_eq!((answer.version, answer.lag, asked.lock().pop()), (3, lag, Some(expected)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_refusal_says_how_far_behind_it_may_be_and_what_it_rests_on() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    says(&node, |_| stale(None, &Response::Refused(Refusal { seen: Some(SEEN), ..refusal(Code::NotFound) })));
    let mut client = entities(&seams).await;
    let status = client.get(GetRequest { consistency: Asked::Stale.into(), ..alice() }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::NotFound, "not-found"));
    assert_eq!(status.metadata().get("berth-lag").unwrap(), "unknown");
    assert_eq!(status.metadata().get("berth-session").unwrap().to_str().unwrap(), token(CLUSTER));
}

#[tokio::test(start_paused = true)]
async fn a_watch_asks_once_for_what_its_session_has_seen() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    says(&node, move |request| {
        let Request::Events { after, consistency, wait_millis, bytes_max, .. } = request else { panic!("{request:?}") };
        assert_eq!(*bytes_max, 64 * 1024);
        log.lock().push((*after, *consistency, *wait_millis));
        let event = Event { version: after + 1, event_type: "added", time_micros: 1, data: b"{}" };
        let events = if *after < 4 { vec![event] } else { vec![] };
        let page = Response::Events { events, next: None, seen: SEEN };
        if *consistency == Consistency::Stale { stale(Some(1), &page) } else { page }
    });
    let mut client = entities(&seams).await;
    let of = |asked: Asked| WatchRequest { consistency: asked.into(), session: token(CLUSTER), ..watch(2) };
    for (wanted, first, onwards, lag) in [
        (Asked::Session, Consistency::Session { at_least: Some(SEEN) }, Consistency::Session { at_least: None }, None),
        (Asked::Stale, Consistency::Stale, Consistency::Stale, Some("1")),
        (Asked::Strict, Consistency::Strict, Consistency::Strict, None),
    ] {
        let response = client.watch(of(wanted)).await.unwrap();
        assert_eq!(response.metadata().get("berth-lag").map(|lag| lag.to_str().unwrap()), lag);
        let mut stream = response.into_inner();
        for version in 3..=4 {
            assert_eq!(stream.message().await.unwrap().unwrap().version, version);
        }
        drop(stream);
        let asked = std::mem::take(&mut *asked.lock());
        assert_eq!(asked[..2], [(2, first, 0), (3, onwards, 20_000)], "{wanted:?}");
    }
}
