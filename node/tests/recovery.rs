//! Whole nodes of which a majority is gone: what the admin port of the one that is left says and does, and what becomes of
//! members of before that come back.

mod support;

use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::config::Config;
use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_shared::message::Response;
use berth_shared::recovery_view::{LostShard, RecoveredView, RecoveryView};
use berth_shared::report::{NodeReport, ReplicaReport};
use berth_shared::seam::Seams;
use berth_shared::telemetry::Tracing;
use serde_json::{Value, json};
use support::{Call, Caller, config, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHARDS: u16 = 4;
const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];

struct Cluster {
    seams: Seams,
    disks: Vec<SimulatedDisk>,
    nodes: Vec<Option<app::Handle>>,
}

impl Cluster {
    /// So many nodes, each with a replica of every shard.
    async fn start(seed: u64, size: usize) -> Self {
        let disks = (0..size).map(|_| SimulatedDisk::new()).collect();
        let nodes = (0..size).map(|_| None).collect();
        let mut cluster = Self { seams: Seams::simulated(seed), disks, nodes };
        for place in 0..size {
            cluster.run(place).await;
        }
        for place in 0..size {
            cluster.until("all are ready", |cluster| cluster.node(place).is_ready()).await;
        }
        cluster
    }

    async fn run(&mut self, place: usize) {
        let host = HOSTS[place];
        let (listen, admin_listen) = (format!("{host}:7400"), format!("{host}:7490"));
        let mut config = Config { listen, admin_listen, ..config() };
        config.cluster.shards = SHARDS;
        let size = self.nodes.len();
        config.cluster.seeds = HOSTS[..size].iter().map(|host| format!("{host}:7400")).collect();
        config.cluster.expect = Some(size as u16);
        config.cluster.replicas = size as _;
        let (disk, kinds) = (Arc::new(self.disks[place].clone()), Registry::built_in());
        let started = app::start(config, kinds, disk, Arc::new(Chitchat), self.seams.clone(), Tracing::OFF).await;
        self.nodes[place] = Some(started.unwrap());
    }

    async fn stop(&mut self, place: usize) {
        self.nodes[place].take().unwrap().shutdown().await.unwrap();
    }

    fn node(&self, place: usize) -> &app::Handle {
        self.nodes[place].as_ref().unwrap()
    }

    fn report(&self, place: usize) -> NodeReport {
        self.node(place).report().unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                self.seams.spawner.sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(self.seams.spawner.timeout(Duration::from_secs(60), waiting).await.is_some(), "{what}");
    }

    /// Has whichever node owns the counter's shard add one to it.
    async fn add(&self, id: &str, key: &str) -> Value {
        for _ in 0..2000 {
            for place in (0..self.nodes.len()).filter(|place| self.nodes[*place].is_some()) {
                let caller = Caller::at(&self.seams, &format!("{}:7400", HOSTS[place]), SHARDS);
                let answer = caller.execute(&Call::new("counter", id, "add", "{}", key)).await;
                if let Ok(answer) = answer
                    && let Response::Executed(executed) = decode(&answer)
                {
                    return serde_json::from_slice(executed.state.unwrap()).unwrap();
                }
            }
            self.seams.spawner.sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody takes the command")
    }

    async fn value(&self, place: usize, id: &str) -> Option<Value> {
        let caller = Caller::at(&self.seams, &format!("{}:7400", HOSTS[place]), SHARDS);
        let answer = caller.read("counter", id).await.unwrap();
        let Response::State { state, .. } = decode(&answer) else { return None };
        Some(serde_json::from_slice(state).unwrap())
    }

    /// Status and body of an answer of the admin port.
    async fn admin(&self, place: usize, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = self.seams.network.connect(&format!("{}:7490", HOSTS[place])).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    async fn survey(&self, place: usize) -> RecoveryView {
        let (status, view) = self.admin(place, "GET", "/v1/recovery", "").await;
        assert_eq!(status, 200, "{view}");
        serde_json::from_value(view).unwrap()
    }

    async fn recover(&self, place: usize, shard: &str, confirm: &str) -> (u16, Value) {
        let body = json!({ "confirm": confirm }).to_string();
        self.admin(place, "POST", &format!("/v1/recovery/{shard}"), &body).await
    }

    async fn recover_all(&self, place: usize) {
        for LostShard { shard, confirm, last, .. } in self.survey(place).await.shards {
            let (status, recovered) = self.recover(place, &shard, &confirm.unwrap()).await;
            assert_eq!(status, 200, "{recovered}");
            let recovered: RecoveredView = serde_json::from_value(recovered).unwrap();
            assert_eq!((recovered.kept, recovered.incarnation), (last, 1));
            assert!(recovered.begins.index == last.index + 2 && recovered.begins.term > last.term);
        }
    }
}

fn has_three_voters(replica: &ReplicaReport) -> bool {
    replica.voters.len() == 3 && !replica.is_joint && replica.incarnation == 1
}

/// The members of before have more than the survivor, and elect each other if they are let.
#[tokio::test(start_paused = true)]
async fn shards_without_a_quorum_are_recovered_when_an_operator_says_so_and_members_of_before_do_not_take_over() {
    let mut cluster = Cluster::start(11, 3).await;
    let ids = ["p", "q", "r", "s", "t", "u", "v", "w"];
    for id in ids {
        cluster.add(id, "kept").await;
    }
    let of_all = |cluster: &Cluster, place| -> Vec<u64> {
        cluster.report(place).replicas.iter().map(|replica| replica.applied).collect()
    };
    cluster.until("the first has it all", |cluster| of_all(cluster, 0) == of_all(cluster, 1)).await;
    assert_eq!(cluster.survey(0).await.shards, [], "nothing is lost");
    let (status, problem) = cluster.recover(0, "0", "whatever").await;
    assert_eq!((status, &problem["code"]), (409, &json!("not-recoverable")), "{problem}");
    cluster.stop(0).await;
    for id in ids {
        cluster.add(id, "lost").await;
    }
    cluster.stop(1).await;
    cluster.stop(2).await;

    cluster.run(0).await;
    cluster
        .until("its replicas are there", |cluster| cluster.node(0).report().is_some_and(|r| r.replicas.len() == 5))
        .await;
    cluster.seams.spawner.sleep(Duration::from_secs(10)).await;
    assert!(!cluster.node(0).is_ready() && cluster.node(0).owned().is_empty());
    let view = cluster.survey(0).await;
    let names: Vec<&str> = view.shards.iter().map(|lost| lost.shard.as_str()).collect();
    assert_eq!((names, view.node, view.silent.len()), (vec!["system", "0", "1", "2", "3"], cluster.node(0).node, 2));
    let lost = view.shards[1].clone();
    assert!(lost.voters.len() == 3 && lost.missing.len() == 2 && lost.others.is_empty(), "{lost:?}");
    assert!(lost.obstacle.is_none() && lost.last_write.is_some() && lost.incarnation == 0, "{lost:?}");
    let (status, problem) = cluster.recover(0, "0", "yes").await;
    assert_eq!(
        (status, &problem["code"], problem["confirm"].as_str()),
        (409, &json!("not-confirmed"), lost.confirm.as_deref())
    );
    let (status, problem) = cluster.recover(0, "1", lost.confirm.as_deref().unwrap()).await;
    assert_eq!((status, &problem["code"]), (409, &json!("not-confirmed")), "{problem}");
    for (shard, body, expected) in
        [("9", r#"{"confirm":""}"#, 404), ("65535", r#"{"confirm":""}"#, 404), ("0", "{}", 400)]
    {
        assert_eq!(cluster.admin(0, "POST", &format!("/v1/recovery/{shard}"), body).await.0, expected, "{shard}");
    }
    assert_eq!(cluster.survey(0).await, view, "nothing has changed");

    cluster.recover_all(0).await;
    cluster.until("it owns them", |cluster| cluster.node(0).owned().len() == usize::from(SHARDS)).await;
    for id in ids {
        assert_eq!(cluster.value(0, id).await, Some(json!({ "value": 1 })));
        assert_eq!(cluster.add(id, "after").await, json!({ "value": 2 }));
    }
    assert_eq!(cluster.survey(0).await.shards, []);

    cluster.run(1).await;
    cluster.run(2).await;
    for place in 0..3 {
        let is_whole = |cluster: &Cluster| {
            let report = cluster.node(place).report();
            report.is_some_and(|report| report.replicas.len() == 5 && report.replicas.iter().all(has_three_voters))
        };
        cluster.until("there are three copies of the recovered shards", is_whole).await;
    }
    for id in ids {
        assert_eq!(cluster.add(id, "after").await, json!({ "value": 2 }), "it is known, and not done again");
        assert_eq!(cluster.add(id, "lost").await, json!({ "value": 3 }), "it was lost, and is done now");
    }
    for place in 0..3 {
        cluster.until("all are ready", |cluster| cluster.node(place).is_ready()).await;
    }
    let hashes = cluster.admin(1, "GET", "/v1/cluster/hashes", "").await.1;
    assert!(hashes["shards"].as_array().unwrap().iter().all(|shard| shard["agree"] != json!(false)), "{hashes}");
    for place in 0..3 {
        cluster.stop(place).await;
    }
}

/// Two of five are left. One of them has more, and the other one says so.
#[tokio::test(start_paused = true)]
async fn the_replica_that_has_most_is_the_one_to_be_recovered() {
    let mut cluster = Cluster::start(12, 5).await;
    cluster.add("p", "all").await;
    cluster.stop(0).await;
    let ids = ["p", "q", "r", "s", "t", "u", "v", "w"];
    for id in ids {
        cluster.add(id, "most").await;
    }
    let length = |replica: &ReplicaReport| replica.applied;
    let of_all = |cluster: &Cluster, place| cluster.report(place).replicas.iter().map(length).collect::<Vec<_>>();
    cluster
        .until("one more has it all", |cluster| (2..5).all(|other| of_all(cluster, 1) == of_all(cluster, other)))
        .await;
    for place in 1..5 {
        cluster.stop(place).await;
    }
    cluster.run(0).await;
    cluster.run(1).await;
    cluster
        .until("they see each other", |cluster| {
            (0..2).all(|place| cluster.node(place).report().is_some_and(|report| report.replicas.len() == 5))
        })
        .await;
    cluster.seams.spawner.sleep(Duration::from_secs(5)).await;
    let (behind, most) = (cluster.survey(0).await, cluster.survey(1).await);
    assert_eq!((behind.silent.len(), most.silent.len()), (3, 3));
    let node = cluster.node(1).node.to_string();
    let mut refused = 0;
    for (behind, most) in behind.shards.iter().zip(&most.shards) {
        assert!(behind.others.len() == 1 && most.others.len() == 1, "{behind:?} {most:?}");
        assert_eq!((most.others[0].last, behind.others[0].last), (behind.last, most.last));
        assert_ne!(behind.obstacle.is_some(), most.obstacle.is_some(), "{behind:?} {most:?}");
        if let Some(obstacle) = &behind.obstacle {
            assert!(obstacle.contains(&node) && behind.confirm.is_none(), "{obstacle}");
            let (status, problem) = cluster.recover(0, &behind.shard, most.confirm.as_deref().unwrap()).await;
            assert_eq!((status, &problem["code"]), (409, &json!("not-recoverable")), "{problem}");
            refused += 1;
        }
    }
    assert!(refused >= SHARDS, "the writes went to every shard: {refused}");
    for (place, view) in [(0, behind), (1, most)] {
        for LostShard { shard, confirm, .. } in view.shards {
            let Some(confirm) = confirm else { continue };
            let (status, recovered) = cluster.recover(place, &shard, &confirm).await;
            assert_eq!(status, 200, "{recovered}");
        }
    }
    for id in ids {
        assert_eq!(cluster.add(id, "most").await, json!({ "value": if id == "p" { 2 } else { 1 } }), "nothing is lost");
    }
    let of_both = |cluster: &Cluster| {
        (0..2).all(|place| {
            cluster.report(place).replicas.iter().all(|replica| replica.incarnation == 1 && replica.voters.len() == 2)
        })
    };
    cluster.until("what was behind has begun anew", of_both).await;
    for place in 0..2 {
        cluster.stop(place).await;
    }
}
