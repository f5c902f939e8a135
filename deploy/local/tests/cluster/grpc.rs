//! gRPC and REST side by side on one port of a real cluster: what is done by one is seen by the other.

use berth_gateway::grpc::protobuf::entities_client::EntitiesClient;
use berth_gateway::grpc::protobuf::get_request::Moment;
use berth_gateway::grpc::protobuf::precondition::Condition;
use berth_gateway::grpc::protobuf::{
    Consistency, DeleteRequest, ExecuteRequest, GetRequest, Precondition, Versions, WatchRequest,
};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;
use tower::ServiceExt;
use tower::util::BoxCloneService;

use super::JSON;
use super::client::PATIENCE;
use super::program::Local;

type Channel = BoxCloneService<http::Request<tonic::body::Body>, http::Response<hyper::body::Incoming>, hyper::Error>;

async fn channel(local: &Local) -> Channel {
    let (seams, url) = (&local.process.seams, &local.greeting.url);
    let stream = seams.network.connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    seams.spawner.spawn(connection);
    tower::service_fn(move |request| sender.clone().send_request(request)).boxed_clone()
}

async fn connect(local: &Local) -> EntitiesClient<Channel> {
    EntitiesClient::with_origin(channel(local).await, local.greeting.url.parse().unwrap())
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_and_rest_are_two_ways_to_the_same_entities() {
    let local = Local::start(&["--ephemeral"]).await;
    let mut rest = local.gateway().await;
    let mut grpc = connect(&local).await;
    let (kind, id) = ("counter".to_owned(), "a/b".to_owned());
    let (entity, add) = ("/v1/entities/counter/a%2Fb", "/v1/entities/counter/a%2Fb/add");

    // A key that was used by one protocol is known to the other.
    let asked = ExecuteRequest {
        kind: kind.clone(),
        id: id.clone(),
        command: "add".to_owned(),
        arguments: r#"{"by":2}"#.to_owned(),
        idempotency_key: "order-1".to_owned(),
        ..Default::default()
    };
    let wrong = ExecuteRequest { arguments: r#"{"by":"x"}"#.to_owned(), ..asked.clone() };
    let status = grpc.execute(wrong).await.unwrap_err();
    let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
    assert_eq!((status.code(), violations[0].field.as_str()), (Code::InvalidArgument, "arguments/by"));
    let ran = grpc.execute(asked.clone()).await.unwrap().into_inner();
    assert_eq!((ran.version, ran.replayed, ran.idempotency_key.as_str()), (1, false, "order-1"));
    assert_eq!(value(&ran.state.unwrap()), json!({ "value": 2 }));
    let again = rest.post(add, &[JSON, ("idempotency-key", "order-1")], r#"{"by":2}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed"), again.header("etag")), (200, "true", "\"1\""));
    assert_eq!(again.json()["reply"], value(&ran.reply));
    let other = ExecuteRequest { arguments: r#"{"by":3}"#.to_owned(), ..asked.clone() };
    let status = grpc.execute(other).await.unwrap_err();
    let details = status.get_error_details();
    assert_eq!(
        (status.code(), details.error_info().unwrap().reason.as_str()),
        (Code::FailedPrecondition, "key-reused")
    );

    // A stream hears of what the other does, with the session that the other gave.
    let session = again.header("berth-session").to_owned();
    let watch = WatchRequest { kind: kind.clone(), id: id.clone(), session: session.clone(), ..Default::default() };
    let mut events = grpc.watch(watch).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().version, 1);
    assert_eq!(rest.post(add, &[JSON], r#"{"by":5}"#).await.status, 200);
    let heard = local.process.seams.spawner.timeout(PATIENCE, events.message()).await.expect("heard of nothing");
    let heard = heard.unwrap().unwrap();
    let page = rest.get(&format!("{entity}/events?after=1")).await.json();
    let event = &page["events"][0];
    assert_eq!((json!(heard.version), json!(heard.r#type)), (event["version"].clone(), event["type"].clone()));
    assert_eq!(value(&heard.data), event["data"]);

    // Both read the same, and hold the same conditions.
    let get = GetRequest { kind: kind.clone(), id: id.clone(), session, ..Default::default() };
    let found = grpc.get(get.clone()).await.unwrap().into_inner();
    let read = rest.get(entity).await.json();
    assert_eq!((json!(found.version), value(&found.state.unwrap())), (read["version"].clone(), read["state"].clone()));
    assert_eq!(found.lag, None);
    let seen = GetRequest { consistency: Consistency::Session.into(), session: found.session, ..get.clone() };
    assert_eq!(grpc.get(seen).await.unwrap().into_inner().version, found.version, "any replica has what was seen");
    let stale = GetRequest { consistency: Consistency::Stale.into(), ..get };
    let is_told = match grpc.get(stale).await {
        Ok(found) => found.into_inner().lag.is_some(),
        // A replica may not know of the entity yet.
        Err(status) => status.code() == Code::NotFound && status.metadata().contains_key("berth-lag"),
    };
    assert!(is_told, "how far behind it may be");
    let condition = Some(Condition::Versions(Versions { versions: vec![1] }));
    let late =
        ExecuteRequest { idempotency_key: String::new(), precondition: Some(Precondition { condition }), ..asked };
    let status = grpc.execute(late).await.unwrap_err();
    let info = status.get_error_details().error_info().cloned().unwrap();
    assert_eq!(
        (status.code(), info.reason.as_str(), info.metadata["currentVersion"].as_str()),
        (Code::Aborted, "version-mismatch", "2")
    );
    let missing = GetRequest { kind, id: "nobody".to_owned(), ..Default::default() };
    assert_eq!(grpc.get(missing).await.unwrap_err().code(), Code::NotFound);
    drop(events);
    local.stop("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grpc_deletes_is_gone_for_both_and_its_history_goes_on() {
    let local = Local::start(&["--ephemeral"]).await;
    let mut rest = local.gateway().await;
    let mut grpc = connect(&local).await;
    let (entity, add) = ("/v1/entities/counter/old", "/v1/entities/counter/old/add");
    assert_eq!(rest.post(add, &[JSON], r#"{"by":5}"#).await.status, 200);
    let (kind, id) = ("counter".to_owned(), "old".to_owned());
    let watch = WatchRequest { kind: kind.clone(), id: id.clone(), ..Default::default() };
    let mut events = grpc.watch(watch).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().version, 1);

    let delete = |key: &str, versions: Vec<u64>| {
        let condition = Some(Condition::Versions(Versions { versions }));
        let (kind, id, idempotency_key) = (kind.clone(), id.clone(), key.to_owned());
        DeleteRequest {
            kind,
            id,
            idempotency_key,
            precondition: Some(Precondition { condition }),
            ..Default::default()
        }
    };
    let status = grpc.delete(delete("", vec![7])).await.unwrap_err();
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "version-mismatch");
    let deleted = grpc.delete(delete("bye", vec![1])).await.unwrap().into_inner();
    assert_eq!((deleted.version, deleted.replayed, deleted.idempotency_key.as_str()), (2, false, "bye"));
    let again = grpc.delete(delete("bye", vec![1])).await.unwrap().into_inner();
    assert_eq!((again.version, again.replayed), (2, true), "the first outcome");
    let tombstone = local.process.seams.spawner.timeout(PATIENCE, events.message()).await.expect("heard of nothing");
    assert_eq!(tombstone.unwrap().unwrap().version, 2);

    let get = GetRequest { kind: kind.clone(), id: id.clone(), session: deleted.session, ..Default::default() };
    let status = grpc.get(get.clone()).await.unwrap_err();
    let info = status.get_error_details().error_info().cloned().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::NotFound, "deleted"));
    assert_eq!(rest.get(entity).await.status, 410);
    let before = grpc.get(GetRequest { moment: Some(Moment::AtVersion(1)), ..get }).await.unwrap().into_inner();
    assert_eq!(value(&before.state.unwrap()), json!({ "value": 5 }));
    assert_eq!(rest.post(add, &[JSON], r#"{"by":1}"#).await.json()["state"], json!({ "value": 1 }), "it begins anew");
    let nobody = DeleteRequest { kind, id: "nobody".to_owned(), ..Default::default() };
    let status = grpc.delete(nobody).await.unwrap_err();
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "not-found");
    drop(events);
    local.stop("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_find_the_services_and_their_health() {
    let local = Local::start(&["--ephemeral"]).await;
    let origin: http::Uri = local.greeting.url.parse().unwrap();
    let mut health = HealthClient::with_origin(channel(&local).await, origin.clone());
    for service in ["", "berth.v1.Entities"] {
        let asked = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(asked).await.unwrap().into_inner().status, 1, "{service:?} is serving");
    }
    let mut reflection = ServerReflectionClient::with_origin(channel(&local).await, origin);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let question = futures_util::stream::iter([ServerReflectionRequest { host: String::new(), message_request }]);
    let mut answers = reflection.server_reflection_info(question).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["berth.v1.Entities", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    local.stop("INT").await;
}
