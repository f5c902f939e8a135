//! Measures the peer protocol: small calls over loopback TCP, client and server in one process, answered on the server's
//! connection task. Prints requests per second for several numbers of calls in flight.
//! Arguments: worker threads (default 2), seconds per line (default 3), body bytes (default 64).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use berth_shared::peer::{Class, Client, Handler, Identity, Incoming, Role, client, serve, server};
use berth_shared::seam::Seams;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

struct Echo;

impl Handler for Echo {
    fn handle(&self, incoming: Incoming) {
        incoming.reply.send(incoming.payload);
    }
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let threads = arguments.first().map_or(2, |n| *n as usize);
    let seconds = arguments.get(1).copied().unwrap_or(3);
    let body_bytes = arguments.get(2).map_or(64, |n| *n as usize);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let seams = Seams::system();
        let listener = seams.network.listen("127.0.0.1:0").await?;
        let address = listener.local_address()?;
        let shutdown = CancellationToken::new();
        let config = server::Config::default();
        let serving = serve(seams.clone(), config, listener, identity(), Arc::new(Echo), shutdown.clone());
        let serving = seams.spawner.spawn(serving);
        println!("{threads} threads, {body_bytes}-byte bodies");
        for in_flight in [1_usize, 64, 256, 1024] {
            measure(&seams, &address, in_flight, seconds, body_bytes).await;
        }
        shutdown.cancel();
        serving.await.map_err(std::io::Error::other)
    })
}

async fn measure(seams: &Seams, address: &str, in_flight: usize, seconds: u64, body_bytes: usize) {
    let config = client::Config::default();
    let client = Client::new(seams.clone(), config, address.to_owned(), Class::Data, identity(), None);
    let (answered, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (seams, client, over) = (seams.clone(), client.clone(), over.clone());
            let (answered, failed) = (answered.clone(), failed.clone());
            seams.clone().spawner.spawn(async move {
                let body = Bytes::from(vec![7; body_bytes]);
                while !over.load(Ordering::Relaxed) {
                    let deadline = seams.clock.now() + Duration::from_secs(5);
                    let right = client.call(body.clone(), deadline).await.is_ok_and(|answer| answer == body);
                    let counter = if right { &answered } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // The first moments connect and warm up.
    seams.spawner.sleep(Duration::from_millis(300)).await;
    let (began, before) = (seams.clock.now(), answered.load(Ordering::Relaxed));
    seams.spawner.sleep(Duration::from_secs(seconds)).await;
    let (took, count) = (seams.clock.now().since(began), answered.load(Ordering::Relaxed) - before);
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        let _ = caller.await;
    }
    let rate = count as f64 / took.as_secs_f64();
    println!("{in_flight:>5} in flight: {rate:>9.0} requests/s, {} failed", failed.load(Ordering::Relaxed));
}

fn identity() -> Identity {
    Identity {
        role: Role::Gateway,
        node: None,
        cluster: None,
        software: "peer_throughput".to_owned(),
        credential: None,
    }
}
