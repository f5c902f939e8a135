//! gRPC where the port has TLS: a client that offers nothing but HTTP/2 is served it.

use berth_gateway::Config;
use rustls::pki_types::ServerName;

use super::*;
use crate::certificates::Authority;
use crate::encryption::{connector, port};

#[tokio::test(start_paused = true)]
async fn calls_are_answered_over_tls() {
    let (seams, authority) = (Seams::simulated(1), Authority::new());
    let files = authority.files("gateway");
    let (node, _gateway) = node_and_gateway(&seams, Config { tls: port(&files), ..Config::default() }).await;
    let stream = seams.network.connect(PUBLIC).await.unwrap();
    let name = ServerName::try_from("gateway").unwrap();
    let stream = connector(&authority, b"h2").connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    seams.spawner.spawn(connection);
    let channel = tower::service_fn(move |request| sender.clone().send_request(request)).boxed_clone();
    let mut client = EntitiesClient::with_origin(channel, "https://gateway".parse().unwrap());
    assert_eq!(client.execute(add()).await.unwrap().into_inner().version, 1);
    node.does(Does::Tell(2));
    let mut stream = client.watch(watch(0)).await.unwrap().into_inner();
    for version in 1..=2 {
        assert_eq!(stream.message().await.unwrap().unwrap().version, version);
    }
    let status = client.get(GetRequest { id: String::new(), ..alice() }).await.unwrap_err();
    assert_eq!(status.code(), GrpcCode::InvalidArgument);
}
