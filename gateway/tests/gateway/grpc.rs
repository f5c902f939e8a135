//! gRPC on the public port: the same rules as REST's, other words.

use std::sync::Arc;
use std::time::Duration;

use berth_gateway::Config;
use berth_gateway::grpc::protobuf::entities_client::EntitiesClient;
use berth_gateway::grpc::protobuf::get_request::Moment as AskedMoment;
use berth_gateway::grpc::protobuf::precondition::Condition;
use berth_gateway::grpc::protobuf::{
    Absent, Consistency as Asked, ExecuteRequest, Exists, GetRequest, Precondition as AskedPrecondition, Versions,
    WatchRequest,
};
use berth_shared::config::HumanDuration;
use berth_shared::message::{
    Consistency, Event, Executed, KeyOrigin, Moment, Precondition, Refusal, Request, Response, Seen,
};
use berth_shared::peer;
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::session::Token;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tonic::{Code as GrpcCode, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;
use tower::ServiceExt;
use tower::util::BoxCloneService;

use super::twin::{CLUSTER, Does, Saying, Twin, ask, node_and_gateway, owners};
use super::{ADD, PUBLIC};

const ORIGIN: &str = "http://gateway:80";
const SEEN: Seen = Seen { incarnation: 1, index: 42 };

type Channel = BoxCloneService<http::Request<tonic::body::Body>, http::Response<hyper::body::Incoming>, hyper::Error>;

async fn connect(seams: &Seams) -> SendRequest<tonic::body::Body> {
    let stream = seams.network.connect(PUBLIC).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    seams.spawner.spawn(connection);
    sender
}

async fn channel(seams: &Seams) -> Channel {
    let sender = connect(seams).await;
    tower::service_fn(move |request| sender.clone().send_request(request)).boxed_clone()
}

async fn entities(seams: &Seams) -> EntitiesClient<Channel> {
    EntitiesClient::with_origin(channel(seams).await, ORIGIN.parse().unwrap())
}

fn add() -> ExecuteRequest {
    let (kind, id, command) = ("counter".to_owned(), "alice".to_owned(), "add".to_owned());
    ExecuteRequest { kind, id, command, arguments: r#"{"by":1}"#.to_owned(), ..Default::default() }
}

fn alice() -> GetRequest {
    GetRequest { kind: "counter".to_owned(), id: "alice".to_owned(), ..Default::default() }
}

fn watch(after: u64) -> WatchRequest {
    WatchRequest { kind: "counter".to_owned(), id: "alice".to_owned(), after, ..Default::default() }
}

/// From now on the node answers what `answer` says.
fn says(node: &Twin, answer: impl Fn(&Request<'_>) -> Response<'static> + Send + Sync + 'static) {
    node.does(Does::Say(Saying(Arc::new(move |request| peer::encode(&answer(request)).unwrap()))));
}

fn refusal(code: Code) -> Refusal<'static> {
    Refusal { code, detail: "said the node", reason: None, current_version: None, replayed: false, seen: None }
}

fn executed(replayed: bool) -> Response<'static> {
    let (reply, state) = (b"{\"value\":3}".as_slice(), Some(b"{\"value\":5}".as_slice()));
    Response::Executed(Executed { version: 3, reply, state, replayed, seen: SEEN })
}

/// The `code` of the problem, as the status has it.
fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_command_asks_the_owner_what_rest_asks_and_has_the_same_answer() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    says(&node, move |request| {
        let Request::Execute(execute) = request else { panic!("{request:?}") };
        let of = (execute.kind.to_owned(), execute.id.to_owned(), execute.command.to_owned(), execute.body.to_vec());
        log.lock().push((of, execute.precondition.clone(), execute.key_origin, execute.attempt, execute.wants_state));
        executed(true)
    });
    let mut client = entities(&seams).await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let conditions = [
        (None, Precondition::None),
        (Some(Condition::Versions(Versions { versions: vec![2, 3] })), Precondition::Versions(vec![2, 3])),
        (Some(Condition::Exists(Exists {})), Precondition::Exists),
        (Some(Condition::Absent(Absent {})), Precondition::Absent),
    ];
    for (condition, expected) in conditions {
        let precondition = condition.map(|condition| AskedPrecondition { condition: Some(condition) });
        let mut request =
            tonic::Request::new(ExecuteRequest { idempotency_key: "k1".to_owned(), precondition, ..add() });
        request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        let answer = client.execute(request).await.unwrap().into_inner();
        let texts = [&answer.kind, &answer.id, &answer.reply, &answer.idempotency_key];
        assert_eq!(texts, ["counter", "alice", "{\"value\":3}", "k1"]);
        assert_eq!((answer.version, answer.state.as_deref(), answer.replayed), (3, Some("{\"value\":5}"), true));
        assert!(Token::decode(&answer.session).is_ok());
        let of = ("counter".to_owned(), "alice".to_owned(), "add".to_owned(), br#"{"by":1}"#.to_vec());
        assert_eq!(asked.lock().pop().unwrap(), (of, expected, KeyOrigin::Client, 2, true));
    }
    // Without arguments and key.
    let bare = ExecuteRequest { arguments: String::new(), omit_state: true, ..add() };
    let answer = client.execute(bare).await.unwrap().into_inner();
    assert!(answer.idempotency_key.starts_with("gw-"));
    let ((.., body), _, origin, attempt, wants_state) = asked.lock().pop().unwrap();
    assert!(matches!(origin, KeyOrigin::Gateway { .. }));
    assert_eq!((body.as_slice(), attempt, wants_state), (b"{}".as_slice(), 1, false));
}

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

#[tokio::test(start_paused = true)]
async fn fields_that_are_no_good_are_named_and_reach_no_node() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut client = entities(&seams).await;
    let text = |text: &str| text.to_owned();
    for (request, field) in [
        (ExecuteRequest { id: String::new(), ..add() }, "id"),
        (ExecuteRequest { id: text(".."), ..add() }, "id"),
        (ExecuteRequest { arguments: "[".repeat(65), ..add() }, "arguments"),
        (ExecuteRequest { idempotency_key: text("a b"), ..add() }, "idempotency_key"),
        (ExecuteRequest { idempotency_key: text("a\n"), ..add() }, "idempotency_key"),
        (ExecuteRequest { idempotency_key: "k".repeat(256), ..add() }, "idempotency_key"),
        (ExecuteRequest { session: text("x"), ..add() }, "session"),
        (ExecuteRequest { precondition: Some(AskedPrecondition { condition: None }), ..add() }, "precondition"),
    ] {
        let status = client.execute(request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (GrpcCode::InvalidArgument, "invalid-request"),
            "{field}"
        );
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    }
    for (request, field) in [
        (GetRequest { consistency: 99, ..alice() }, "consistency"),
        (GetRequest { moment: Some(AskedMoment::AtTime(text("now"))), ..alice() }, "at_time"),
        (GetRequest { known_versions: vec![1; 1025], ..alice() }, "known_versions"),
    ] {
        let status = client.get(request).await.unwrap_err();
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, field);
    }
    let status = client.execute(ExecuteRequest { kind: text("Counter"), ..add() }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::NotFound, "unknown-kind"));
    for (name, value, code) in
        [("grpc-timeout", "5", GrpcCode::InvalidArgument), ("x", &*"y".repeat(8192), GrpcCode::ResourceExhausted)]
    {
        let mut request = tonic::Request::new(add());
        request.metadata_mut().insert(name, value.parse().unwrap());
        assert_eq!(client.execute(request).await.unwrap_err().code(), code, "{name}");
    }
    assert_eq!(node.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn arguments_may_have_one_mebibyte() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut client = entities(&seams).await;
    let arguments = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let longest = ExecuteRequest { arguments: arguments(1024 * 1024), ..add() };
    assert_eq!(client.execute(longest.clone()).await.unwrap().into_inner().reply, longest.arguments);
    for bytes in [1024 * 1024 + 1, 2 * 1024 * 1024] {
        let status = client.execute(ExecuteRequest { arguments: arguments(bytes), ..add() }).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::ResourceExhausted, "too-large"), "{bytes}");
    }
    assert_eq!(node.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_nodes_become_statuses() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut client = entities(&seams).await;
    says(&node, |_| {
        Response::Refused(Refusal {
            reason: Some("insufficient-funds"),
            current_version: Some(7),
            replayed: true,
            seen: Some(SEEN),
            ..refusal(Code::Rejected)
        })
    });
    let status = client.execute(ExecuteRequest { idempotency_key: "k1".to_owned(), ..add() }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (GrpcCode::FailedPrecondition, "said the node"));
    let info = status.get_error_details().error_info().cloned().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("rejected", "berth"));
    assert_eq!(
        (info.metadata["rejection"].as_str(), info.metadata["currentVersion"].as_str()),
        ("insufficient-funds", "7")
    );
    assert_eq!(info.metadata["traceId"].len(), 32);
    assert!(Token::decode(status.metadata().get("berth-session").unwrap().to_str().unwrap()).is_ok());
    assert_eq!(status.metadata().get("idempotency-replayed").unwrap(), "true");
    assert!(status.metadata().get("idempotency-key").is_none());

    says(&node, |_| Response::Refused(refusal(Code::InvalidRequest)));
    let status = client.execute(add()).await.unwrap_err();
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "arguments");
    says(&node, |_| Response::Refused(refusal(Code::Deleted)));
    let status = client.get(alice()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::NotFound, "deleted"));
}

#[tokio::test(start_paused = true)]
async fn deadlines_propagate_and_say_whether_anything_was_applied() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut client = entities(&seams).await;
    let within = |seconds| {
        let mut request = tonic::Request::new(add());
        request.set_timeout(Duration::from_secs(seconds));
        request
    };
    client.execute(within(1)).await.unwrap();
    let left = node.time_left().pop().unwrap();
    assert!(left <= Duration::from_secs(1) && left > Duration::from_millis(900), "{left:?}");

    node.does(Does::Hang);
    let began = seams.clock.now();
    let status = client.execute(within(3)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::DeadlineExceeded, "unknown-outcome"));
    assert!(status.metadata().get("idempotency-key").is_some(), "to try again with");
    let took = seams.clock.now().since(began);
    assert!(took <= Duration::from_secs(3) && took > Duration::from_secs(2), "{took:?}");

    node.does(Does::Refuse(Code::Unavailable));
    let status = client.execute(within(1)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::Unavailable, "unavailable"));
    let retry = status.get_error_details().retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn calls_are_retried_at_the_new_owner_under_one_key() {
    let seams = Seams::simulated(1);
    let (first, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let second = Twin::start(&seams, "node-2:1", CLUSTER, super::SHARDS, owners("node-2:1", 2)).await;
    first.does(Does::Redirect(owners("node-2:1", 2).into_iter().find(|owner| {
        owner.shard == berth_shared::key::EntityKey::new("counter", "alice").unwrap().shard(super::SHARDS)
    })));
    let mut client = entities(&seams).await;
    assert_eq!(client.execute(add()).await.unwrap().into_inner().version, 1);
    assert_eq!((first.asked(), second.asked()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_place_in_flight_is_shared_with_rest() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config { in_flight_max: 1, ..Config::default() }).await;
    node.does(Does::Hang);
    let hanging = seams.spawner.spawn({
        let seams = seams.clone();
        async move { ask(&seams, "POST", PUBLIC, ADD, &[], "").await.status }
    });
    while node.asked() == 0 {
        seams.spawner.sleep(Duration::from_millis(1)).await;
    }
    let mut client = entities(&seams).await;
    for status in [
        client.execute(add()).await.unwrap_err(),
        client.get(alice()).await.unwrap_err(),
        client.watch(watch(0)).await.unwrap_err(),
    ] {
        assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::ResourceExhausted, "overloaded"));
        assert!(status.get_error_details().retry_info().is_some());
    }
    node.answer_hanging();
    assert_eq!(hanging.await.unwrap(), 200);
    node.does(Does::Answer);
    client.execute(add()).await.unwrap();
}

/// A node that has `length` events, which may grow.
fn has_events(node: &Twin, length: Arc<Mutex<u64>>) {
    says(node, move |request| {
        let Request::Events { after, limit, .. } = request else { panic!("{request:?}") };
        let last = (*length.lock()).min(after + u64::from(*limit));
        let event =
            |version| Event { version, event_type: "added", time_micros: 1_767_225_600_000_001, data: b"{\"by\":1}" };
        let events = (after + 1..=last).map(event).collect();
        Response::Events { events, next: None, seen: SEEN }
    });
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_a_version_through_failures_without_gaps_and_doubles() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let length = Arc::new(Mutex::new(250));
    has_events(&node, length.clone());
    let mut client = entities(&seams).await;
    let response = client.watch(watch(3)).await.unwrap();
    assert!(Token::decode(response.metadata().get("berth-session").unwrap().to_str().unwrap()).is_ok());
    let mut stream = response.into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let time = prost_types::Timestamp { seconds: 1_767_225_600, nanos: 1000 };
    assert_eq!((first.version, first.r#type.as_str(), first.data.as_str()), (4, "added", "{\"by\":1}"));
    assert_eq!(first.time, Some(time));
    for version in 5..=250 {
        assert_eq!(stream.message().await.unwrap().unwrap().version, version);
    }
    // Nothing comes until something happens, and an owner that is away ends nothing.
    assert!(seams.spawner.timeout(Duration::from_secs(60), stream.message()).await.is_none());
    node.does(Does::Refuse(Code::Unavailable));
    assert!(seams.spawner.timeout(Duration::from_secs(60), stream.message()).await.is_none());
    *length.lock() = 260;
    has_events(&node, length.clone());
    for version in 251..=260 {
        assert_eq!(stream.message().await.unwrap().unwrap().version, version);
    }
    drop(stream);
    let mut resumed = client.watch(watch(258)).await.unwrap().into_inner();
    for version in 259..=260 {
        assert_eq!(resumed.message().await.unwrap().unwrap().version, version);
    }
    // What there is to follow may end.
    says(&node, |_| Response::Refused(refusal(Code::NotFound)));
    assert_eq!(resumed.message().await.unwrap_err().code(), GrpcCode::NotFound);
    assert_eq!(client.watch(watch(0)).await.unwrap_err().code(), GrpcCode::NotFound);
}

#[tokio::test(start_paused = true)]
async fn watches_are_bounded_in_number_and_time_and_end_with_the_gateway() {
    let seams = Seams::simulated(1);
    let (node, gateway) = node_and_gateway(&seams, Config { streams_max: 2, ..Config::default() }).await;
    has_events(&node, Arc::new(Mutex::new(1)));
    let mut client = entities(&seams).await;
    let mut timed = tonic::Request::new(watch(0));
    timed.set_timeout(Duration::from_secs(7));
    let began = seams.clock.now();
    let mut timed = client.watch(timed).await.unwrap().into_inner();
    let mut lasting = client.watch(watch(0)).await.unwrap().into_inner();
    let status = client.watch(watch(0)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::ResourceExhausted, "overloaded"));

    assert_eq!(timed.message().await.unwrap().unwrap().version, 1);
    assert_eq!(timed.message().await.unwrap_err().code(), GrpcCode::DeadlineExceeded);
    assert_eq!(seams.clock.now().since(began).as_secs(), 7);
    let dropped = client.watch(watch(0)).await.unwrap();
    drop(dropped);
    seams.spawner.sleep(Duration::from_secs(1)).await;
    let _again = client.watch(watch(0)).await.expect("who leaves gives the place back");

    assert_eq!(lasting.message().await.unwrap().unwrap().version, 1);
    let (ended, ()) = tokio::join!(lasting.message(), gateway.shutdown());
    let status = ended.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::Unavailable, "unavailable"));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_cut_off_and_is_read_nothing_ahead() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config { streams_max: 1, ..Config::default() }).await;
    // Far more than what the windows of HTTP/2 take in.
    says(&node, |request| {
        let Request::Events { after, .. } = request else { panic!("{request:?}") };
        static DATA: [u8; 256 * 1024] = [b'1'; 256 * 1024];
        let event = Event { version: after + 1, event_type: "put", time_micros: 1, data: &DATA };
        Response::Events { events: vec![event], next: Some(after + 1), seen: SEEN }
    });
    let mut client = entities(&seams).await;
    let mut stream = client.watch(watch(0)).await.unwrap().into_inner();
    seams.spawner.sleep(Duration::from_secs(29)).await;
    let read = node.asked();
    assert!(read < 40, "{read}");
    assert_eq!(client.watch(watch(0)).await.unwrap_err().code(), GrpcCode::ResourceExhausted);
    seams.spawner.sleep(Duration::from_secs(5)).await;
    assert_eq!(node.asked(), read, "nothing is read for who takes nothing");
    let mut version = 0;
    let status = loop {
        match stream.message().await {
            Ok(Some(event)) => {
                version += 1;
                assert_eq!(event.version, version);
            }
            Ok(None) => panic!("that would pass for an end"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::ResourceExhausted, "overloaded"));
    let mut resumed = client.watch(watch(version)).await.expect("the place is free").into_inner();
    assert_eq!(resumed.message().await.unwrap().unwrap().version, version + 1);
}

#[tokio::test(start_paused = true)]
async fn health_says_whether_requests_can_be_routed() {
    let seams = Seams::simulated(1);
    let (_node, gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut client = HealthClient::with_origin(channel(&seams).await, ORIGIN.parse().unwrap());
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "berth.v1.Entities"] {
        assert_eq!(client.check(of(service)).await.unwrap().into_inner().status, 1);
    }
    assert_eq!(client.check(of("berth.v2.Entities")).await.unwrap_err().code(), GrpcCode::NotFound);
    let mut watching = client.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 1);
    let (told, ()) = tokio::join!(watching.message(), gateway.shutdown());
    assert_eq!(told.unwrap().unwrap().status, 2, "not serving any more");
    assert!(watching.message().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn reflection_tells_of_the_services_and_is_not_kept_open_for_long() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) =
        node_and_gateway(&seams, Config { body_timeout: HumanDuration::from_secs(3), ..Config::default() }).await;
    let mut client = ServerReflectionClient::with_origin(channel(&seams).await, ORIGIN.parse().unwrap());
    let ask = |message_request| ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("berth.v1.Entities".to_owned())),
    ];
    let open = futures_util::StreamExt::chain(futures_util::stream::iter(questions), futures_util::stream::pending());
    let began = seams.clock.now();
    let mut answers = client.server_reflection_info(open).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["berth.v1.Entities", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(file)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no file")
    };
    assert!(String::from_utf8_lossy(&file.file_descriptor_proto[0]).contains("ExecuteRequest"));
    assert!(!matches!(answers.message().await, Ok(Some(_))));
    assert_eq!(seams.clock.now().since(began).as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn rest_and_grpc_are_told_apart_by_what_the_request_says_it_is() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let sender = connect(&seams).await;
    let send = async |path: &str, content_type: Option<&str>| {
        let mut request = http::Request::post(format!("{ORIGIN}{path}"));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = tonic::body::Body::new(http_body_util::Full::new(Bytes::from_static(b"\0\0\0\0\0")));
        let response = sender.clone().send_request(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let of = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let answer = (parts.status.as_u16(), of("content-type"), of("grpc-status"));
        body.collect().await.unwrap();
        answer
    };
    let grpc = |code: &str| (200, Some("application/grpc".to_owned()), Some(code.to_owned()));
    let problem = |status| (status, Some("application/problem+json".to_owned()), None);
    let get = "/berth.v1.Entities/Get";
    for content_type in ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"] {
        // An empty message names no kind.
        assert_eq!(send(get, Some(content_type)).await, grpc("5"), "{content_type}");
    }
    assert_eq!(send("/berth.v1.Entities/Nothing", Some("application/grpc")).await, grpc("12"));
    for content_type in [None, Some("application/json"), Some("application/grpc-web"), Some("application/grpc+json")] {
        assert_eq!(send(get, content_type).await, problem(404), "{content_type:?}");
    }
    assert_eq!(send(ADD, Some("application/grpc-web")).await, problem(415));
    // There are no trailers in HTTP/1.1.
    let answer = ask(&seams, "POST", PUBLIC, get, &[("content-type", "application/grpc")], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not-found"));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_arrive_is_not_waited_for() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config { in_flight_max: 1, ..Config::default() }).await;
    let sender = connect(&seams).await;
    let request = http::Request::post(format!("{ORIGIN}/berth.v1.Entities/Execute"));
    let request = request.header("content-type", "application/grpc");
    let never =
        http_body_util::StreamBody::new(futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, Status>>());
    let began = seams.clock.now();
    let response = sender.clone().send_request(request.body(tonic::body::Body::new(never)).unwrap()).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], (GrpcCode::Cancelled as i32).to_string().as_str());
    assert_eq!(seams.clock.now().since(began).as_secs(), 10);
    entities(&seams).await.execute(add()).await.unwrap();
    assert_eq!(node.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_method_and_code() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut client = entities(&seams).await;
    client.execute(add()).await.unwrap();
    client.get(GetRequest { id: String::new(), ..alice() }).await.unwrap_err();
    let page = ask(&seams, "GET", super::ADMIN, "/metrics", &[], "").await;
    for line in [
        r#"berth_gateway_grpc_calls_total{code="Ok",method="berth.v1.Entities/Execute",role="gateway"} 1"#,
        r#"berth_gateway_grpc_calls_total{code="InvalidArgument",method="berth.v1.Entities/Get",role="gateway"} 1"#,
    ] {
        assert!(page.text().contains(line), "{}", page.text());
    }
}
