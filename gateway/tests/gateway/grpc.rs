//! gRPC on the public port: the same rules as REST's, other words.

mod beside;
mod bounds;
mod encrypted;
mod guarded;
mod reading;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use berth_gateway::Config;
use berth_gateway::grpc::protobuf::entities_client::EntitiesClient;
use berth_gateway::grpc::protobuf::get_request::Moment;
use berth_gateway::grpc::protobuf::precondition::Condition;
use berth_gateway::grpc::protobuf::{
    Absent, DeleteRequest, ExecuteRequest, Exists, GetRequest, Precondition as AskedPrecondition, Versions,
    WatchRequest,
};
use berth_shared::message::{Executed, KeyOrigin, Precondition, Refusal, Request, Response, Seen, Violation};
use berth_shared::peer;
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::session::Token;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tonic::{Code as GrpcCode, Status};
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

fn delete() -> DeleteRequest {
    DeleteRequest { kind: "counter".to_owned(), id: "alice".to_owned(), ..Default::default() }
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
    Refusal {
        code,
        detail: "said the node",
        reason: None,
        current_version: None,
        replayed: false,
        seen: None,
        violations: vec![],
    }
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
async fn a_deletion_asks_the_owner_what_rest_asks_and_has_the_same_answer() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    says(&node, move |request| {
        let Request::Delete(delete) = request else { panic!("{request:?}") };
        let of = (delete.kind.to_owned(), delete.id.to_owned(), delete.idempotency_key.to_owned());
        log.lock().push((of, delete.precondition.clone(), delete.key_origin));
        Response::Executed(Executed { version: 4, reply: b"", state: None, replayed: true, seen: SEEN })
    });
    let mut client = entities(&seams).await;
    let condition = Some(Condition::Versions(Versions { versions: vec![3] }));
    let precondition = Some(AskedPrecondition { condition });
    let keyed = DeleteRequest { idempotency_key: "k1".to_owned(), precondition, ..delete() };
    let answer = client.delete(keyed).await.unwrap().into_inner();
    let texts = [&answer.kind, &answer.id, &answer.idempotency_key];
    assert_eq!(
        (texts, answer.version, answer.replayed),
        (["counter", "alice", "k1"].map(str::to_owned).each_ref(), 4, true)
    );
    assert!(Token::decode(&answer.session).is_ok());
    let of = ("counter".to_owned(), "alice".to_owned(), "k1".to_owned());
    assert_eq!(asked.lock().pop().unwrap(), (of, Precondition::Versions(vec![3]), KeyOrigin::Client));
    let answer = client.delete(delete()).await.unwrap().into_inner();
    assert!(answer.idempotency_key.starts_with("gw-"));
    assert!(matches!(asked.lock().pop().unwrap(), (_, Precondition::None, KeyOrigin::Gateway { .. })));

    says(&node, |_| Response::Refused(refusal(Code::NotFound)));
    let status = client.delete(delete()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::NotFound, "not-found"));
    let status = client.delete(DeleteRequest { id: "..".to_owned(), ..delete() }).await.unwrap_err();
    assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "id");
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
        (GetRequest { moment: Some(Moment::AtTime(text("now"))), ..alice() }, "at_time"),
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
    let violations =
        vec![Violation { pointer: "/by", detail: "is no number" }, Violation { pointer: "", detail: "odd" }];
    let invalid = Refusal { violations, ..refusal(Code::InvalidRequest) };
    says(&node, move |_| Response::Refused(invalid.clone()));
    let status = client.execute(add()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (GrpcCode::InvalidArgument, "said the node"));
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let told: Vec<_> = violations.iter().map(|told| (told.field.as_str(), told.description.as_str())).collect();
    assert_eq!(told, [("arguments/by", "is no number"), ("arguments", "odd")]);
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
