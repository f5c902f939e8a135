//! Who is let in over gRPC, and what they may do.

use tonic::metadata::MetadataValue;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use super::*;
use crate::auth;

/// `message` with the credentials `keys`.
fn with<T>(message: T, keys: &[&str]) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    for key in keys {
        let value: MetadataValue<_> = format!("Bearer {key}").parse().unwrap();
        request.metadata_mut().append("authorization", value);
    }
    request
}

fn code_of<T>(result: Result<T, Status>) -> (GrpcCode, String) {
    result.map_or_else(|status| (status.code(), reason(&status)), |_| (GrpcCode::Ok, String::new()))
}

/// Asks for the list of services.
async fn reflect(seams: &Seams, keys: &[&str]) -> Result<(), Status> {
    let mut client = ServerReflectionClient::with_origin(channel(seams).await, ORIGIN.parse().unwrap());
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let question = ServerReflectionRequest { host: String::new(), message_request };
    let request = with(futures_util::stream::iter([question]), keys);
    let answer = client.server_reflection_info(request).await?.into_inner().message().await?;
    assert!(answer.is_some_and(|answer| answer.message_response.is_some()));
    Ok(())
}

/// The code of a call of a method that there is not.
async fn ask_for_nothing(seams: &Seams, key: Option<&str>) -> String {
    let mut request =
        http::Request::post(format!("{ORIGIN}/berth.v1.Entities/Nothing")).header("content-type", "application/grpc");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let response = connect(seams).await.send_request(request.body(tonic::body::Body::empty()).unwrap()).await.unwrap();
    response.headers()["grpc-status"].to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn without_a_credential_everything_but_health_is_refused() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, auth::config()).await;
    let mut client = entities(&seams).await;
    let refused = (GrpcCode::Unauthenticated, "unauthenticated".to_owned());
    for keys in [&[][..], &["guess"], &["reader-key", "reader-key"]] {
        assert_eq!(code_of(client.execute(with(add(), keys)).await), refused, "{keys:?}");
        assert_eq!(code_of(client.delete(with(delete(), keys)).await), refused, "{keys:?}");
        assert_eq!(code_of(client.get(with(alice(), keys)).await), refused, "{keys:?}");
        assert_eq!(code_of(client.watch(with(watch(0), keys)).await), refused, "{keys:?}");
        assert_eq!(code_of(reflect(&seams, keys).await), refused, "{keys:?}");
    }
    // Nothing is said of a message before.
    let nameless = GetRequest { kind: "Counter".to_owned(), ..alice() };
    assert_eq!(code_of(client.get(nameless).await), refused);
    let status = client.get(with(alice(), &["guess"])).await.unwrap_err();
    assert!(!format!("{status:?}").contains("guess"), "the secret is not said again");
    let unauthenticated = (GrpcCode::Unauthenticated as i32).to_string();
    assert_eq!(ask_for_nothing(&seams, None).await, unauthenticated);
    assert_eq!(ask_for_nothing(&seams, Some("reader-key")).await, (GrpcCode::Unimplemented as i32).to_string());

    let mut health = HealthClient::with_origin(channel(&seams).await, ORIGIN.parse().unwrap());
    let of = || HealthCheckRequest { service: String::new() };
    assert_eq!(health.check(of()).await.unwrap().into_inner().status, 1);
    let mut watching = health.watch(of()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 1);
    assert_eq!(node.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn roles_allow_what_they_say_by_kind_and_the_node_hears_whose_command_it_is() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, auth::config()).await;
    let mut client = entities(&seams).await;
    let ok = (GrpcCode::Ok, String::new());
    let forbidden = (GrpcCode::PermissionDenied, "forbidden".to_owned());
    for (key, kind, reads, writes) in [
        ("reader-key", "counter", true, false),
        ("reader-key", "cart", true, false),
        ("counter-key", "counter", true, true),
        ("counter-key", "cart", false, false),
        ("writer-key", "cart", true, true),
    ] {
        let expected = |allowed| if allowed { ok.clone() } else { forbidden.clone() };
        let kind = kind.to_owned();
        let executed = client.execute(with(ExecuteRequest { kind: kind.clone(), ..add() }, &[key])).await;
        assert_eq!(code_of(executed), expected(writes), "{key} {kind}");
        if !writes {
            let deleted = client.delete(with(DeleteRequest { kind: kind.clone(), ..delete() }, &[key])).await;
            assert_eq!(code_of(deleted), forbidden, "{key} {kind}");
        }
        let read = client.get(with(GetRequest { kind: kind.clone(), ..alice() }, &[key])).await;
        assert_eq!(code_of(read), expected(reads), "{key} {kind}");
        let watched = client.watch(with(WatchRequest { kind: kind.clone(), ..watch(0) }, &[key])).await;
        assert_eq!(code_of(watched), expected(reads), "{key} {kind}");
        assert_eq!(code_of(reflect(&seams, &[key]).await), ok, "{key}");
    }
    assert_eq!(*node.handler.principals.lock(), ["key:counter", "key:writer"]);
}

/// A credential may end while its live histories go on, so they end now and then, and whoever comes back is asked again.
#[tokio::test(start_paused = true)]
async fn where_credentials_are_asked_for_a_watch_ends_after_five_minutes() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, auth::config()).await;
    node.does(Does::Tell(3));
    let mut client = entities(&seams).await;
    let began = seams.clock.now();
    let mut stream = client.watch(with(watch(0), &["reader-key"])).await.unwrap().into_inner();
    for version in 1..=3 {
        assert_eq!(stream.message().await.unwrap().unwrap().version, version);
    }
    let status = stream.message().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::Unavailable, "unavailable"));
    assert!(status.get_error_details().retry_info().is_some(), "when to come again");
    assert_eq!(seams.clock.now().since(began).as_secs(), 300);
    // A time of the caller's own still counts.
    let mut request = with(watch(0), &["reader-key"]);
    request.set_timeout(Duration::from_secs(7));
    let mut stream = client.watch(request).await.unwrap().into_inner();
    while let Ok(message) = stream.message().await {
        assert!(message.is_some());
    }
    assert_eq!(seams.clock.now().since(began).as_secs(), 307);
    assert_eq!(code_of(client.watch(watch(3)).await).0, GrpcCode::Unauthenticated);
}
