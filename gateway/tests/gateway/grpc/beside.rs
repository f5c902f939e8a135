//! What is on the port beside the service of entities, and what holds for all calls.

use berth_shared::config::HumanDuration;
use bytes::Bytes;
use http_body_util::BodyExt;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::auth;

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
async fn what_is_no_call_is_refused_with_a_reason() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let sender = connect(&seams).await;
    let message: &[u8] = b"\0\0\0\0\x02\x0a\0";
    for (method, encoding, sent, expected) in [
        ("Nothing", "identity", message, (GrpcCode::Unimplemented, "method-not-allowed")),
        ("Execute", "gzip", message, (GrpcCode::Unimplemented, "unsupported-media-type")),
        // A field that is longer than the message, a message that is longer than the body, none at all, and one that is compressed.
        ("Execute", "identity", b"\0\0\0\0\x02\x0a\x09", (GrpcCode::InvalidArgument, "invalid-request")),
        ("Get", "identity", b"\0\0\0\0\x09\x0a\0", (GrpcCode::InvalidArgument, "invalid-request")),
        ("Watch", "identity", b"", (GrpcCode::InvalidArgument, "invalid-request")),
        ("Delete", "identity", b"\x01\0\0\0\x02\x0a\0", (GrpcCode::InvalidArgument, "invalid-request")),
    ] {
        let request = http::Request::post(format!("{ORIGIN}/berth.v1.Entities/{method}"))
            .header("content-type", "application/grpc")
            .header("grpc-encoding", encoding);
        let body = tonic::body::Body::new(http_body_util::Full::new(Bytes::from_static(sent)));
        let response = sender.clone().send_request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), expected, "{method} {encoding} {sent:?}");
    }
    assert_eq!(node.asked(), 0);
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
    assert_eq!(seams.clock.now().since(began).as_secs(), 5, "the time for an answer");
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
    let page = ask(&seams, "GET", crate::ADMIN, "/metrics", &[], "").await;
    for line in [
        r#"berth_gateway_grpc_calls_total{code="Ok",method="berth.v1.Entities/Execute",role="gateway"} 1"#,
        r#"berth_gateway_grpc_calls_total{code="InvalidArgument",method="berth.v1.Entities/Get",role="gateway"} 1"#,
    ] {
        assert!(page.text().contains(line), "{}", page.text());
    }
}

type HealthWatch = (HealthClient<Channel>, tonic::Streaming<HealthCheckResponse>);

async fn watch_health(seams: &Seams) -> Result<HealthWatch, Status> {
    // A connection has 256 streams, and a test should not depend on that.
    let mut client = HealthClient::with_origin(channel(seams).await, ORIGIN.parse().unwrap());
    let stream = client.watch(HealthCheckRequest { service: String::new() }).await?.into_inner();
    Ok((client, stream))
}

/// Watches of health until one is refused, and that refusal.
async fn occupy_health(seams: &Seams) -> (Vec<HealthWatch>, Status) {
    let mut watching = Vec::new();
    while watching.len() < 1000 {
        match watch_health(seams).await {
            Ok(watch) => watching.push(watch),
            Err(refused) => return (watching, refused),
        }
    }
    panic!("there is no bound");
}

/// They are for everybody, and so must not take the places of those who have shown who they are.
#[tokio::test(start_paused = true)]
async fn watchers_of_health_are_bounded_and_take_no_place_of_live_histories() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, Config { streams_max: 1, ..Config::default() }).await;
    let (watching, refused) = occupy_health(&seams).await;
    assert_eq!((refused.code(), reason(&refused).as_str()), (GrpcCode::ResourceExhausted, "overloaded"));
    assert_eq!(watching.len(), 256);
    let mut client = entities(&seams).await;
    let _stream = client.watch(watch(0)).await.expect("live histories have places of their own");
    drop(watching);
    seams.spawner.sleep(Duration::from_secs(1)).await;
    watch_health(&seams).await.expect("who leaves gives the place back");
}

/// Nobody needs a credential for one, not even where everything else does.
#[tokio::test(start_paused = true)]
async fn a_watch_of_health_ends_after_five_minutes_so_that_nobody_keeps_its_place() {
    for config in [Config::default(), auth::config()] {
        let seams = Seams::simulated(1);
        let (_node, _gateway) = node_and_gateway(&seams, config).await;
        let began = seams.clock.now();
        let (mut watching, _) = occupy_health(&seams).await;
        for (_, stream) in &mut watching {
            assert_eq!(stream.message().await.unwrap().unwrap().status, 1);
        }
        seams.spawner.sleep(Duration::from_secs(290)).await;
        assert!(watch_health(&seams).await.is_err(), "all are still there");
        for (_, stream) in &mut watching {
            let status = stream.message().await.unwrap_err();
            assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::Unavailable, "unavailable"));
            assert!(status.get_error_details().retry_info().is_some(), "when to come again");
        }
        assert_eq!(seams.clock.now().since(began).as_secs(), 300);
        let (_client, mut stream) = watch_health(&seams).await.expect("there is room again, on whatever connection");
        assert_eq!(stream.message().await.unwrap().unwrap().status, 1);
    }
}
