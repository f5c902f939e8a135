//! Readers of live histories over gRPC.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_gateway::grpc::protobuf::WatchRequest;
use berth_gateway::grpc::protobuf::entities_client::EntitiesClient;
use berth_shared::seam::Seams;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tower::ServiceExt;
use tower::util::BoxCloneService;

use crate::Arrived;

type Channel = BoxCloneService<http::Request<tonic::body::Body>, http::Response<hyper::body::Incoming>, hyper::Error>;

async fn connect(seams: &Seams) -> EntitiesClient<Channel> {
    let stream = seams.network.connect("gateway:80").await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    seams.spawner.spawn(connection);
    let channel = tower::service_fn(move |request| sender.clone().send_request(request)).boxed_clone();
    EntitiesClient::with_origin(channel, "http://gateway".parse().unwrap())
}

/// Reads the live history of a counter until told to stop, from where it was after every end.
pub(crate) async fn read(seams: Seams, id: String, after: u64, stop: Arc<AtomicBool>, arrived: Arc<Mutex<Arrived>>) {
    let mut last = after;
    while !stop.load(Ordering::Relaxed) {
        let mut client = connect(&seams).await;
        let asked = WatchRequest { kind: "counter".to_owned(), id: id.clone(), after: last, ..Default::default() };
        let Ok(response) = client.watch(asked).await else {
            seams.spawner.sleep(Duration::from_millis(200)).await;
            continue;
        };
        let mut events = response.into_inner();
        loop {
            match seams.spawner.timeout(Duration::from_millis(500), events.message()).await {
                Some(Ok(Some(event))) => {
                    let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                    assert!(data.is_object() && event.time.is_some(), "{event:?}");
                    last = event.version;
                    arrived.lock().ids.push(last);
                }
                Some(_) => break,
                None if stop.load(Ordering::Relaxed) => return,
                None => {}
            }
        }
        arrived.lock().ends += 1;
    }
}
