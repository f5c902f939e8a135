//! Live histories and reads at replicas through a whole cluster, nodes and gateway in one process on a network in memory: while
//! shards are handed over and owners fail, readers miss nothing, get nothing twice, and never see less than they have seen.

mod grpc;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::config::Config;
use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{Metrics, Tracing};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

const SEEDS: [&str; 3] = ["node-1:7400", "node-2:7400", "node-3:7400"];
const SHARDS: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

async fn start_node(address: &str, seams: &Seams) -> app::Handle {
    let mut config = Config { listen: address.to_owned(), admin_listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    config.cluster.seeds = SEEDS.map(str::to_owned).to_vec();
    config.cluster.expect = Some(3);
    config.cluster.shards = SHARDS;
    let (disk, gossip) = (Arc::new(SimulatedDisk::new()), Arc::new(Chitchat));
    app::start(config, Registry::built_in(), disk, gossip, seams.clone(), Tracing::OFF).await.unwrap()
}

async fn ready(nodes: &[&app::Handle], seams: &Seams) {
    let all_ready = async {
        while !nodes.iter().all(|node| node.is_ready()) {
            seams.spawner.sleep(Duration::from_millis(20)).await;
        }
    };
    seams.spawner.timeout(PATIENCE, all_ready).await.expect("the nodes become ready");
}

/// Three nodes, and a gateway that knows the owners of all shards.
async fn start(seams: &Seams) -> (Vec<app::Handle>, berth_gateway::Handle) {
    let mut nodes = Vec::new();
    for address in SEEDS {
        nodes.push(start_node(address, seams).await);
    }
    ready(&nodes.iter().collect::<Vec<_>>(), seams).await;
    let config = berth_gateway::Config {
        listen: "gateway:80".to_owned(),
        admin_listen: "gateway:90".to_owned(),
        nodes: SEEDS.map(str::to_owned).to_vec(),
        ..berth_gateway::Config::default()
    };
    let metrics = Metrics::new(&[("role", "gateway")]).unwrap();
    let gateway = berth_gateway::start(config, seams.clone(), Tracing::OFF, metrics).await.unwrap();
    gateway.ready().await;
    // Nodes tell what can be read at them a little later.
    seams.spawner.sleep(Duration::from_secs(2)).await;
    (nodes, gateway)
}

/// A connection of a client.
struct Client {
    seams: Seams,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    async fn connect(seams: &Seams) -> Self {
        let stream = seams.network.connect("gateway:80").await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        seams.spawner.spawn(connection);
        Self { seams: seams.clone(), sender }
    }

    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answered = async {
            self.sender.ready().await.unwrap();
            self.sender.send_request(request.body(Full::default()).unwrap()).await.unwrap()
        };
        self.seams.spawner.timeout(PATIENCE, answered).await.expect("it is answered")
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, serde_json::Value) {
        let (parts, body) = self.send(method, path, headers).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Adds one to a counter, as often as it takes, and returns the version and the token that this came to.
    async fn add(&mut self, id: &str, key: &str) -> (u64, String) {
        let path = format!("/v1/entities/counter/{id}/add");
        loop {
            let (status, headers, body) = self.ask("POST", &path, &[("idempotency-key", key)]).await;
            if status == 200 {
                let token = headers["berth-session"].to_str().unwrap().to_owned();
                return (body["version"].as_u64().unwrap(), token);
            }
            assert!([503, 504].contains(&status), "{status}: {body}");
        }
    }
}

/// The ids of the messages that arrived, as a reader counts them.
#[derive(Debug, Default)]
struct Arrived {
    ids: Vec<u64>,
    /// How often the stream ended and was opened again.
    ends: u32,
}

/// Reads the live history of a counter until told to stop, from where it was after every end.
async fn read(seams: Seams, id: String, after: u64, stop: Arc<AtomicBool>, arrived: Arc<Mutex<Arrived>>) {
    let mut last = after;
    let path = format!("/v1/entities/counter/{id}/events?after={after}");
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::connect(&seams).await;
        let last_id = last.to_string();
        let headers = [("accept", "text/event-stream"), ("last-event-id", last_id.as_str())];
        let response = client.send("GET", &path, &headers).await;
        if response.status() != 200 {
            seams.spawner.sleep(Duration::from_millis(200)).await;
            continue;
        }
        let (mut body, mut text) = (response.into_body(), String::new());
        loop {
            let frame = seams.spawner.timeout(Duration::from_millis(500), body.frame()).await;
            match frame {
                Some(Some(Ok(frame))) => text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                Some(_) => break,
                None if stop.load(Ordering::Relaxed) => return,
                None => {}
            }
            while let Some(end) = text.find("\n\n") {
                let message: String = text.drain(..end + 2).collect();
                let mut lines = message.lines();
                let Some(id) = lines.next().and_then(|line| line.strip_prefix("id: ")) else { continue };
                let data = lines.next().and_then(|line| line.strip_prefix("data: ")).unwrap();
                let event: serde_json::Value = serde_json::from_str(data).unwrap();
                assert_eq!((event["id"].as_str(), event["specversion"].as_str()), (Some(id), Some("1.0")));
                last = id.parse().unwrap();
                arrived.lock().ids.push(last);
            }
        }
        arrived.lock().ends += 1;
    }
}

/// Writers, one for each counter, that read what they have written at replicas.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
    session_reads: Arc<AtomicU64>,
    stale_reads: Arc<AtomicU64>,
    /// Of the stale ones, those that no owner answered: under its lease it is never behind.
    behind: Arc<AtomicU64>,
}

impl Writers {
    fn start(seams: &Seams, ids: &[String]) -> Self {
        let (stop, session_reads) = (Arc::default(), Arc::default());
        let (stale_reads, behind) = (Arc::default(), Arc::default());
        let mut writers = Self { stop, tasks: Vec::new(), session_reads, stale_reads, behind };
        for id in ids {
            let (seams, id, stop) = (seams.clone(), id.clone(), writers.stop.clone());
            let (session_reads, stale_reads) = (writers.session_reads.clone(), writers.stale_reads.clone());
            let behind = writers.behind.clone();
            writers.tasks.push(seams.spawner.spawn({
                let seams = seams.clone();
                async move {
                    let mut client = Client::connect(&seams).await;
                    let path = format!("/v1/entities/counter/{id}");
                    let (mut number, mut written) = (0, 1);
                    while !stop.load(Ordering::Relaxed) {
                        number += 1;
                        let (version, token) = client.add(&id, &format!("{id}-{number}")).await;
                        assert_eq!(version, written + 1, "each write once");
                        written = version;
                        let session = [("berth-session", token.as_str())];
                        let (status, headers, body) =
                            client.ask("GET", &format!("{path}?consistency=session"), &session).await;
                        if status == 200 {
                            assert!(body["version"].as_u64().unwrap() >= written, "{body} after {written}");
                            assert!(headers.contains_key("berth-session"));
                            session_reads.fetch_add(1, Ordering::Relaxed);
                        }
                        let (status, headers, body) =
                            client.ask("GET", &format!("{path}?consistency=stale"), &[]).await;
                        if status == 200 {
                            assert!(body["version"].as_u64().unwrap() <= written);
                            let lag = headers["berth-lag"].to_str().unwrap();
                            assert!(lag == "unknown" || lag.parse::<u64>().is_ok(), "{lag}");
                            behind.fetch_add(u64::from(lag != "0"), Ordering::Relaxed);
                            stale_reads.fetch_add(1, Ordering::Relaxed);
                        }
                        seams.spawner.sleep(Duration::from_millis(25)).await;
                    }
                    written
                }
            }));
        }
        writers
    }

    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = Vec::new();
        for task in self.tasks {
            written.push(task.await.unwrap());
        }
        written
    }
}

#[tokio::test(start_paused = true)]
async fn live_histories_go_through_hand_offs_and_failovers_without_a_gap_or_a_double() {
    let seams = Seams::simulated(11);
    let (mut nodes, gateway) = start(&seams).await;
    let ids: Vec<String> = (0..8).map(|n| format!("c{n}")).collect();
    let mut client = Client::connect(&seams).await;
    for id in &ids {
        assert_eq!(client.add(id, &format!("{id}-0")).await.0, 1);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = BTreeMap::new();
    for id in &ids {
        for after in [0, 1] {
            let arrived = Arc::new(Mutex::new(Arrived::default()));
            let reading = read(seams.clone(), id.clone(), after, stop.clone(), arrived.clone());
            readers.insert((id.clone(), after, "SSE"), (seams.spawner.spawn(reading), arrived));
            let arrived = Arc::new(Mutex::new(Arrived::default()));
            let reading = grpc::read(seams.clone(), id.clone(), after, stop.clone(), arrived.clone());
            readers.insert((id.clone(), after, "gRPC"), (seams.spawner.spawn(reading), arrived));
        }
    }
    let writers = Writers::start(&seams, &ids);
    seams.spawner.sleep(Duration::from_secs(2)).await;

    // A node comes, and another one gives everything away: every shard of it is handed over.
    let fourth = start_node("node-4:7400", &seams).await;
    ready(&[&fourth], &seams).await;
    let leaving = nodes.remove(0);
    leaving.drain();
    seams.spawner.timeout(PATIENCE, leaving.left()).await.expect("it gives everything away");
    leaving.shutdown().await.unwrap();
    seams.spawner.sleep(Duration::from_secs(2)).await;

    // One ends without giving anything away: the others elect new owners.
    let fails = nodes.remove(0);
    assert!(!fails.owned().is_empty(), "it owns something");
    fails.shutdown().await.unwrap();
    seams.spawner.sleep(Duration::from_secs(5)).await;

    let (session_reads, stale_reads) = (writers.session_reads.clone(), writers.stale_reads.clone());
    let behind = writers.behind.clone();
    let written = writers.end().await;
    seams.spawner.sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    let written_of: BTreeMap<_, _> = ids.iter().zip(&written).collect();
    for ((id, after, protocol), (task, arrived)) in readers {
        task.await.unwrap();
        let (arrived, written) = (arrived.lock(), *written_of[&id]);
        let all = arrived.ids.iter().copied().eq(after + 1..=written);
        assert!(all, "{protocol}, {id} after {after}: {arrived:?}, {written} written");
        assert_eq!(arrived.ends, 0, "{protocol}: the stream itself went on");
    }
    let (session_reads, stale_reads) = (session_reads.load(Ordering::Relaxed), stale_reads.load(Ordering::Relaxed));
    let behind = behind.load(Ordering::Relaxed);
    println!("{written:?} written, {session_reads} session reads, {stale_reads} stale reads, {behind} of them behind");
    assert!(written.iter().all(|written| *written > 50) && session_reads > 300 && stale_reads > 300);
    assert!(behind > stale_reads / 3, "replicas answer beside the owner");
    gateway.shutdown().await;
    for node in nodes.into_iter().chain([fourth]) {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn two_thousand_live_histories_on_one_gateway() {
    const STREAMS: usize = 2000;
    let seams = Seams::simulated(12);
    let (nodes, gateway) = start(&seams).await;
    let ids: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
    let mut client = Client::connect(&seams).await;
    for id in &ids {
        client.add(id, &format!("{id}-1")).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for number in 0..STREAMS {
        let arrived = Arc::new(Mutex::new(Arrived::default()));
        let reading = read(seams.clone(), ids[number % ids.len()].clone(), 0, stop.clone(), arrived.clone());
        readers.push((seams.spawner.spawn(reading), arrived));
    }
    let all_have = async |count: usize| {
        let waiting = async {
            while !readers.iter().all(|(_, arrived)| arrived.lock().ids.len() == count) {
                seams.spawner.sleep(Duration::from_millis(10)).await;
            }
        };
        seams.spawner.timeout(PATIENCE, waiting).await.unwrap_or_else(|| panic!("{count} events reach every reader"));
    };
    all_have(1).await;
    for round in 2..5 {
        for id in &ids {
            client.add(id, &format!("{id}-{round}")).await;
        }
        all_have(round).await;
    }
    let (_, _, kinds) = client.ask("GET", "/v1/kinds", &[]).await;
    assert!(kinds["kinds"].is_array(), "other requests are served as ever");

    // The end of the gateway ends them all, and does not wait for any.
    let began = seams.clock.now();
    gateway.shutdown().await;
    assert!(seams.clock.now().since(began) < Duration::from_secs(5));
    for (_, arrived) in &readers {
        let arrived = arrived.lock();
        assert!(arrived.ids.iter().copied().eq(1..5), "{arrived:?}");
    }
    readers.iter().for_each(|(task, _)| task.abort());
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}
