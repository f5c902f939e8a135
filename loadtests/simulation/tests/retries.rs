//! Many requests with one idempotency key, through two gateways, whose owner is killed meanwhile: they are one request. Real
//! nodes and gateways; disks and network are simulated, and time passes only when everybody waits.

mod killing;

use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_shared::key::EntityKey;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{Metrics, Tracing};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use killing::Power;
use serde_json::{Value, json};

const SHARDS: u16 = 4;
const NODES: [&str; 3] = ["a:7400", "b:7400", "c:7400"];
const GATEWAYS: [&str; 2] = ["first:80", "second:80"];
const REQUESTS: u64 = 16;
/// More than a request's deadline, so that what a gateway still tries is over.
const AFTERWARDS: Duration = Duration::from_secs(6);

struct Cluster {
    seams: Seams,
    nodes: Vec<(app::Handle, Power)>,
    gateways: Vec<berth_gateway::Handle>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

/// A request with a key, and what it comes to.
struct Case {
    path: &'static str,
    body: &'static str,
    /// Arguments of another request.
    other: &'static str,
    status: u16,
    /// Members of the answer that tell this outcome from others.
    outcome: Value,
}

impl Cluster {
    async fn start(seed: u64) -> Self {
        let seams = Seams::simulated(seed);
        let mut nodes = Vec::new();
        for address in NODES {
            let mut config = berth_node::config::Config {
                listen: address.to_owned(),
                admin_listen: address.replace("7400", "7490"),
                ..berth_node::config::Config::default()
            };
            config.cluster.shards = SHARDS;
            config.cluster.seeds = NODES.map(str::to_owned).to_vec();
            config.cluster.expect = Some(3);
            let (own, power) = Power::over(&seams);
            let (disk, kinds) = (Arc::new(SimulatedDisk::new()), Registry::built_in());
            let node = app::start(config, kinds, disk, Arc::new(Chitchat), own, Tracing::OFF).await;
            nodes.push((node.unwrap(), power));
        }
        let mut gateways = Vec::new();
        for address in GATEWAYS {
            let config = berth_gateway::Config {
                listen: address.to_owned(),
                admin_listen: address.replace(":80", ":90"),
                nodes: NODES.map(str::to_owned).to_vec(),
                ..berth_gateway::Config::default()
            };
            let metrics = Metrics::new(&[("role", "gateway")]).unwrap();
            let gateway = berth_gateway::start(config, seams.clone(), Tracing::OFF, metrics).await.unwrap();
            seams.spawner.timeout(Duration::from_secs(60), gateway.ready()).await.expect("it becomes ready");
            gateways.push(gateway);
        }
        Self { seams, nodes, gateways }
    }

    /// From now on nobody hears of the node that owns the entity's shard, nor it of anybody.
    fn kill_owner(&self, kind: &str, id: &str) {
        let shard = EntityKey::new(kind, id).unwrap().shard(SHARDS);
        let owns = |node: &app::Handle| {
            node.report().is_some_and(|report| report.replicas.iter().any(|it| it.shard == shard && it.owns))
        };
        let (_, power) = self.nodes.iter().find(|(node, _)| owns(node)).expect("somebody owns it");
        power.cut();
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        ask(&self.seams, GATEWAYS[0], method, path, headers, body).await
    }
}

/// One request on a connection of its own.
async fn ask(seams: &Seams, gateway: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let stream = seams.network.connect(gateway).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    seams.spawner.spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", gateway);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn code(&self) -> Value {
        self.json()["code"].clone()
    }

    fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }
}

impl Case {
    /// Adds to a counter that is at version 1 already.
    fn accepted() -> Self {
        let outcome = json!({ "version": 2, "reply": 6, "state": { "value": 6 } });
        Self { path: "/v1/entities/counter/a", body: r#"{"by":5}"#, other: r#"{"by":6}"#, status: 200, outcome }
    }

    /// Withdraws more than there is.
    fn rejected() -> Self {
        let outcome = json!({ "code": "rejected", "reason": "insufficient-funds" });
        let (body, other) = (r#"{"amountCents":5}"#, r#"{"amountCents":6}"#);
        Self { path: "/v1/entities/account/a", body, other, status: 422, outcome }
    }

    fn command(&self) -> String {
        format!("{}/{}", self.path, if self.status == 200 { "add" } else { "withdraw" })
    }

    fn is_outcome(&self, answer: &Answer) -> bool {
        let json = answer.json();
        let has = |(name, value): (&String, &Value)| &json[name] == value;
        answer.status == self.status && self.outcome.as_object().unwrap().iter().all(has)
    }

    async fn prepare(&self, cluster: &Cluster) {
        let first = if self.status == 200 { "add" } else { "open" };
        let answer = cluster.ask("POST", &format!("{}/{first}", self.path), &[], "{}").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// The entity's version when the request has taken effect once.
    fn version(&self) -> u64 {
        if self.status == 200 { 2 } else { 1 }
    }
}

/// How many of the requests were answered with the outcome, and how many of these only after the owner was killed.
async fn play(case: &Case, seed: u64) -> (usize, usize) {
    let cluster = Cluster::start(seed).await;
    case.prepare(&cluster).await;
    let (seams, key, path) = (&cluster.seams, ("idempotency-key", "order-17"), case.command());
    let start = seams.clock.now();
    let requests: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let (seams, path, body) = (seams.clone(), path.clone(), case.body);
            cluster.seams.spawner.spawn(async move {
                seams.spawner.sleep(Duration::from_micros(number * 400)).await;
                let gateway = GATEWAYS[usize::from(number % 2 == 0)];
                let answer = ask(&seams, gateway, "POST", &path, &[key], body).await;
                (answer, seams.clock.now())
            })
        })
        .collect();
    seams.spawner.sleep(Duration::from_micros(seed * 700)).await;
    let killed = seams.clock.now();
    let (kind, id) = case.path.strip_prefix("/v1/entities/").unwrap().split_once('/').unwrap();
    cluster.kill_owner(kind, id);

    let (mut outcomes, mut late) = (0, 0);
    for request in requests {
        let (answer, at) = request.await.unwrap();
        match answer.status {
            // Another one with this key is running, or nobody knows.
            409 => assert_eq!(answer.code(), "in-progress", "seed {seed}"),
            504 => assert_eq!(answer.code(), "unknown-outcome", "seed {seed}"),
            _ => {
                assert!(case.is_outcome(&answer), "seed {seed}: {answer:?}");
                outcomes += 1;
                late += usize::from(at > killed);
            }
        }
        assert!(at.since(start) < AFTERWARDS, "seed {seed}: a deadline of 5 s");
    }
    seams.spawner.sleep(AFTERWARDS).await;
    for number in 0..REQUESTS {
        let gateway = GATEWAYS[usize::from(number % 2 == 0)];
        let again = ask(seams, gateway, "POST", &path, &[key], case.body).await;
        assert!(case.is_outcome(&again), "seed {seed}: {again:?}");
        assert!(again.is_replay() || number == 0, "seed {seed}: {again:?}");
    }
    let other = cluster.ask("POST", &path, &[key], case.other).await;
    assert_eq!((other.status, other.code()), (422, json!("key-reused")), "seed {seed}");
    let events = cluster.ask("GET", &format!("{}/events", case.path), &[], "").await.json();
    assert_eq!(events["events"].as_array().unwrap().len() as u64, case.version(), "seed {seed}: {events}");
    for gateway in cluster.gateways {
        gateway.shutdown().await;
    }
    (outcomes, late)
}

#[tokio::test(start_paused = true)]
async fn sixteen_requests_with_one_key_whose_owner_is_killed_have_one_effect() {
    let (mut outcomes, mut late) = (0, 0);
    for case in [Case::accepted(), Case::rejected()] {
        for seed in 0..6 {
            let (told, told_late) = play(&case, seed).await;
            outcomes += told;
            late += told_late;
        }
    }
    assert!(outcomes >= 12, "somebody is told the outcome each time: {outcomes}");
    assert!(late > 8, "some were under way when the owner was killed: {late}");
}
