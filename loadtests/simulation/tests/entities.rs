//! Deletions, earlier states and listings through real gateways and over several real nodes, of which one goes away meanwhile.
//! Disks and network are simulated, and time passes only when everybody waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_shared::key::EntityKey;
use berth_shared::seam::{BootInstant, Clock, Seams};
use berth_shared::telemetry::{Metrics, Tracing};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

const SHARDS: u16 = 16;
const NODES: [&str; 3] = ["a:7400", "b:7400", "c:7400"];
const GATEWAYS: [&str; 2] = ["first:80", "second:80"];

struct Cluster {
    seams: Seams,
    nodes: Vec<Option<app::Handle>>,
    /// How far the wall clock of each node is behind that of the others, in microseconds.
    behind: Vec<Arc<AtomicU64>>,
    gateways: Vec<berth_gateway::Handle>,
}

/// The clock of one node.
#[derive(Debug)]
struct Behind {
    clock: Arc<dyn Clock>,
    micros: Arc<AtomicU64>,
}

impl Clock for Behind {
    fn now(&self) -> BootInstant {
        self.clock.now()
    }

    fn wall_micros(&self) -> u64 {
        self.clock.wall_micros() - self.micros.load(Ordering::Relaxed)
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Cluster {
    async fn start(seed: u64) -> Self {
        let seams = Seams::simulated(seed);
        let (mut nodes, mut behind) = (Vec::new(), Vec::new());
        for address in NODES {
            let mut config = berth_node::config::Config {
                listen: address.to_owned(),
                admin_listen: address.replace("7400", "7490"),
                ..berth_node::config::Config::default()
            };
            config.cluster.shards = SHARDS;
            config.cluster.seeds = NODES.map(str::to_owned).to_vec();
            config.cluster.expect = Some(3);
            let (disk, kinds) = (Arc::new(SimulatedDisk::new()), Registry::built_in());
            let micros = Arc::new(AtomicU64::new(0));
            let clock = Arc::new(Behind { clock: seams.clock.clone(), micros: micros.clone() });
            let own = Seams { clock, ..seams.clone() };
            let node = app::start(config, kinds, disk, Arc::new(Chitchat), own, Tracing::OFF).await;
            nodes.push(Some(node.unwrap()));
            behind.push(micros);
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
        Self { seams, nodes, behind, gateways }
    }

    /// The place of the node that owns the entity's shard.
    fn owner(&self, kind: &str, id: &str) -> usize {
        let shard = EntityKey::new(kind, id).unwrap().shard(SHARDS);
        let owns = |node: &Option<app::Handle>| {
            let report = node.as_ref()?.report()?;
            report.replicas.iter().any(|replica| replica.shard == shard && replica.owns).then_some(())
        };
        self.nodes.iter().position(|node| owns(node).is_some()).expect("somebody owns it")
    }

    /// A node goes, without a word to the others.
    async fn stop(&mut self, place: usize) {
        self.nodes[place].take().unwrap().shutdown().await.unwrap();
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        ask(&self.seams, GATEWAYS[0], method, path, headers, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn add(&self, id: &str) -> Value {
        let answer = self.ask("POST", &format!("/v1/entities/counter/{id}/add"), &[], "{}").await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json()
    }

    async fn shutdown(self) {
        for gateway in self.gateways {
            gateway.shutdown().await;
        }
        for node in self.nodes.into_iter().flatten() {
            node.shutdown().await.unwrap();
        }
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

/// All ids, page by page; `between` the pages something may happen.
async fn listed(cluster: &mut Cluster, first: &str, mut between: impl AsyncFnMut(&mut Cluster, usize)) -> Vec<String> {
    let (mut ids, mut next, mut page) = (Vec::new(), Some(first.to_owned()), 0);
    while let Some(path) = next {
        let answer = cluster.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        let entities = answer.json()["entities"].as_array().unwrap().clone();
        ids.extend(entities.iter().map(|entity| entity["id"].as_str().unwrap().to_owned()));
        next = answer.header("link").map(|link| link[1..].split_once('>').unwrap().0.to_owned());
        page += 1;
        between(cluster, page).await;
    }
    assert!(ids.is_sorted(), "{ids:?}");
    ids
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_tried_sixteen_times_while_its_owner_goes_happens_once() {
    for seed in 1..=3 {
        let mut cluster = Cluster::start(seed).await;
        let (path, key) = ("/v1/entities/counter/a", ("idempotency-key", "bye"));
        assert_eq!(cluster.add("a").await["version"], 1);
        let owner = cluster.owner("counter", "a");
        let attempts: Vec<_> = (0..16_u64)
            .map(|number| {
                let seams = cluster.seams.clone();
                cluster.seams.spawner.spawn(async move {
                    seams.spawner.sleep(Duration::from_micros(number * 300)).await;
                    let gateway = GATEWAYS[usize::from(number % 2 == 0)];
                    ask(&seams, gateway, "DELETE", path, &[key], "").await
                })
            })
            .collect();
        cluster.seams.spawner.sleep(Duration::from_millis(seed)).await;
        cluster.stop(owner).await;
        for attempt in attempts {
            let answer = attempt.await.unwrap();
            match answer.status {
                204 => assert_eq!((answer.header("etag"), answer.body.len()), (Some("\"2\""), 0)),
                // Another request with the key was running, or nobody knows.
                409 | 504 => {}
                other => panic!("{other}: {:?}", answer.body),
            }
        }
        for gateway in GATEWAYS {
            let again = ask(&cluster.seams, gateway, "DELETE", path, &[key], "").await;
            assert_eq!((again.status, again.header("etag")), (204, Some("\"2\"")), "seed {seed}");
        }
        let gone = cluster.get(path).await;
        assert_eq!((gone.status, &gone.json()["code"]), (410, &json!("deleted")));
        let without_key = cluster.ask("DELETE", path, &[], "").await;
        assert_eq!((without_key.status, without_key.header("etag")), (204, Some("\"2\"")), "without an event");

        let anew = cluster.ask("POST", &format!("{path}/add"), &[("if-none-match", "*")], "{}").await.json();
        assert_eq!((&anew["version"], &anew["state"]), (&json!(3), &json!({ "value": 1 })));
        let replayed = cluster.ask("DELETE", path, &[key], "").await;
        assert_eq!((replayed.status, replayed.header("idempotency-replayed")), (204, Some("true")));
        assert_eq!(cluster.get(path).await.json()["version"], 3, "it deleted nothing more");
        let page = cluster.get(&format!("{path}/events")).await.json();
        let types: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
        assert_eq!(types, ["added", "berth-deleted", "added"]);
        cluster.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_told_of_an_earlier_state_stays_so_when_its_owner_goes() {
    let mut cluster = Cluster::start(4).await;
    let path = "/v1/entities/counter/a";
    for _ in 0..3 {
        cluster.add("a").await;
        cluster.seams.spawner.sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(cluster.ask("DELETE", path, &[], "").await.status, 204);
    cluster.add("a").await;
    // For so long that the shard's time stands far behind.
    cluster.seams.spawner.sleep(Duration::from_secs(90)).await;
    let events = cluster.get(&format!("{path}/events")).await.json();
    let mut asked: Vec<String> = (0..=6).map(|version| format!("version={version}")).collect();
    asked.extend(
        events["events"].as_array().unwrap().iter().map(|event| format!("at={}", event["time"].as_str().unwrap())),
    );
    asked.push("at=2000-01-01T00:00:00Z".to_owned());
    let all = async |cluster: &Cluster| {
        let mut told = Vec::new();
        for query in &asked {
            for consistency in ["linearizable", "strict"] {
                let answer = cluster.get(&format!("{path}?{query}&consistency={consistency}")).await;
                let json = answer.json();
                told.push((answer.status, json["version"].clone(), json["state"]["value"].clone()));
            }
        }
        told
    };
    let told = all(&cluster).await;
    let state = |version: u64, value: u64| (200, json!(version), json!(value));
    let refused = |status| (status, Value::Null, Value::Null);
    let versions = [refused(404), state(1, 1), state(2, 2), state(3, 3), refused(410), state(5, 1), refused(404)];
    let times = [state(1, 1), state(2, 2), state(3, 3), refused(410), state(5, 1), refused(404)];
    let expected: Vec<_> = versions.into_iter().chain(times).flat_map(|one| [one.clone(), one]).collect();
    assert_eq!(told, expected);
    for (query, status) in
        [("at=2999-01-01T00:00:00Z", 400), ("version=1&at=2000-01-01T00:00:00Z", 400), ("version=x", 400)]
    {
        assert_eq!(cluster.get(&format!("{path}?{query}")).await.status, status, "{query}");
    }
    let unchanged = cluster.ask("GET", &format!("{path}?version=2"), &[("if-none-match", "\"2\"")], "").await;
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some("\"2\"")));

    let owner = cluster.owner("counter", "a");
    cluster.stop(owner).await;
    assert_eq!(all(&cluster).await, told);
    cluster.add("a").await;
    assert_eq!(
        all(&cluster).await[..12],
        told[..12],
        "the next version is there by now, and nothing else is different"
    );
    assert_eq!(all(&cluster).await[14..], told[14..]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn every_entity_that_stays_is_listed_once_while_others_come_and_go_and_a_node_goes() {
    let mut cluster = Cluster::start(5).await;
    let ids: Vec<String> = (0..60).map(|number| format!("e{number:02}")).collect();
    for id in &ids {
        cluster.add(id).await;
    }
    cluster.ask("POST", "/v1/entities/account/e00/open", &[], "").await;
    let quiet = async |_: &mut Cluster, _: usize| {};
    assert_eq!(listed(&mut cluster, "/v1/entities/counter?limit=7", quiet).await, ids);
    assert_eq!(listed(&mut cluster, "/v1/entities/counter?prefix=e1", quiet).await, ids[10..20]);
    assert_eq!(listed(&mut cluster, "/v1/entities/account", quiet).await, ["e00"]);
    assert_eq!(listed(&mut cluster, "/v1/entities/cart", quiet).await, [""; 0]);
    assert_eq!(cluster.get("/v1/entities/boat").await.json()["code"], "unknown-kind");

    // A deletion is seen by the next listing, and so is a new beginning.
    assert_eq!(cluster.ask("DELETE", "/v1/entities/counter/e05", &[], "").await.status, 204);
    assert_eq!(listed(&mut cluster, "/v1/entities/counter?prefix=e0&limit=3", quiet).await.len(), 9);
    cluster.add("e05").await;
    let page = cluster.get("/v1/entities/counter?prefix=e05").await.json();
    assert_eq!(page, json!({ "kind": "counter", "entities": [{ "id": "e05", "version": 3 }], "next": null }));

    let deleted: BTreeSet<&str> = ["e03", "e30", "e31", "e59"].into();
    let found = listed(&mut cluster, "/v1/entities/counter?limit=5", async |cluster: &mut Cluster, page| match page {
        1 => {
            for id in &deleted {
                assert_eq!(cluster.ask("DELETE", &format!("/v1/entities/counter/{id}"), &[], "").await.status, 204);
            }
            cluster.add("e415").await;
            cluster.add("a").await;
        }
        // The next page is asked for at once.
        3 => cluster.stop(1).await,
        _ => {}
    });
    let found = found.await;
    let expected = ids.iter().map(String::as_str).filter(|id| *id == "e03" || !deleted.contains(id)).chain(["e415"]);
    let expected: BTreeSet<&str> = expected.collect();
    assert_eq!(
        found,
        expected.into_iter().collect::<Vec<_>>(),
        "what was deleted before its page, or came before it, is not there"
    );
    cluster.shutdown().await;
}

/// The next owner gives its events earlier times than the former one would have, and none of them may be one that was told of.
#[tokio::test(start_paused = true)]
async fn what_was_told_of_a_time_stays_so_at_an_owner_whose_clock_is_behind() {
    let cluster = Cluster::start(6).await;
    let path = "/v1/entities/counter/a";
    cluster.add("a").await;
    cluster.seams.spawner.sleep(Duration::from_secs(60)).await;
    let owner = cluster.owner("counter", "a");
    for (place, behind) in cluster.behind.iter().enumerate() {
        behind.store(if place == owner { 0 } else { 25_000_000 }, Ordering::Relaxed);
    }
    let asked_micros = cluster.seams.clock.wall_micros() - 2_000_000;
    let asked = format!("{path}?at={}", jiff::Timestamp::from_microsecond(asked_micros.cast_signed()).unwrap());
    let told = cluster.get(&asked).await;
    assert_eq!((told.status, &told.json()["version"]), (200, &json!(1)));

    cluster.nodes[owner].as_ref().unwrap().drain();
    while cluster.owner("counter", "a") == owner {
        cluster.seams.spawner.sleep(Duration::from_millis(50)).await;
        let waited = cluster.seams.clock.wall_micros() - asked_micros;
        assert!(waited < 20_000_000, "the next owner's clock would be ahead of what was asked for");
    }
    assert_eq!(cluster.add("a").await["version"], 2);
    assert_eq!(cluster.get(&asked).await.body, told.body);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn deletions_and_listings_go_on_while_a_node_hands_over_all_its_shards() {
    let mut cluster = Cluster::start(7).await;
    let ids: Vec<String> = (0..30).map(|number| format!("e{number:02}")).collect();
    for id in &ids {
        cluster.add(id).await;
    }
    let owned = |cluster: &Cluster| cluster.nodes[0].as_ref().unwrap().owned().len();
    assert!(owned(&cluster) > 0);
    cluster.nodes[0].as_ref().unwrap().drain();
    let mut rounds = 0;
    while owned(&cluster) > 0 {
        rounds += 1;
        assert!(rounds < 600, "it hands nothing over");
        let (path, key) = (format!("/v1/entities/counter/x{rounds}"), format!("bye-{rounds}"));
        cluster.add(&format!("x{rounds}")).await;
        for replayed in [None, Some("true")] {
            let answer = cluster.ask("DELETE", &path, &[("idempotency-key", &key)], "").await;
            let told = (answer.status, answer.header("etag"), answer.header("idempotency-replayed"));
            assert_eq!(told, (204, Some("\"2\""), replayed), "{path}");
        }
        let found = listed(&mut cluster, "/v1/entities/counter?limit=7", async |cluster: &mut Cluster, _| {
            cluster.seams.spawner.sleep(Duration::from_millis(20)).await;
        });
        assert_eq!(found.await, ids);
    }
    cluster.shutdown().await;
}
