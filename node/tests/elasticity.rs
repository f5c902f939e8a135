//! Nodes that come and go: shards move to those that come and away from one that leaves, and what was written is there.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::config::Config;
use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_shared::ids::NodeId;
use berth_shared::message::Response;
use berth_shared::report::NodeReport;
use berth_shared::seam::Seams;
use berth_shared::telemetry::Tracing;
use support::{ADDRESS, Call, Caller, decode, start};

const SHARDS: u16 = 4;
/// What moving all shards may take, most of which is waiting for who comes to stay.
const MOVING_MAX: Duration = Duration::from_secs(30);

fn config(address: &str) -> Config {
    let mut config = Config { listen: address.to_owned(), ..support::config() };
    config.cluster.seeds = vec![ADDRESS.to_owned()];
    config.cluster.shards = SHARDS;
    config
}

async fn come(address: &str, seams: &Seams) -> app::Handle {
    come_as(config(address), seams).await
}

async fn come_as(config: Config, seams: &Seams) -> app::Handle {
    let (disk, kinds, gossip) = (Arc::new(SimulatedDisk::new()), Registry::built_in(), Arc::new(Chitchat));
    app::start(config, kinds, disk, gossip, seams.clone(), Tracing::OFF).await.unwrap()
}

/// Whether each replica of these nodes has them as its voters, nobody beside them, and every shard has one owner, the planned.
fn is_settled(nodes: &[&app::Handle]) -> bool {
    let reports: Vec<NodeReport> = nodes.iter().filter_map(|node| node.report()).collect();
    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.node).collect();
    let replicas: Vec<_> = reports.iter().flat_map(|report| &report.replicas).collect();
    let owned = reports.iter().flat_map(|report| {
        let is_planned_owner = |planned: NodeId| planned == report.node;
        report.replicas.iter().filter(move |r| r.owns && r.planned.as_ref().is_some_and(|p| is_planned_owner(p.owner)))
    });
    // Beside the shards there is the system shard.
    let shards = usize::from(SHARDS) + 1;
    replicas.len() == shards * nodes.len()
        && owned.count() == shards
        && replicas.iter().all(|replica| {
            replica.voters.iter().copied().collect::<BTreeSet<_>>() == ids
                && replica.learners.is_empty()
                && !replica.is_joint
        })
}

async fn settle(nodes: &[&app::Handle], seams: &Seams) {
    let settling = async {
        while !is_settled(nodes) {
            seams.spawner.sleep(Duration::from_millis(20)).await;
        }
    };
    let reports = || nodes.iter().map(|node| node.report()).collect::<Vec<_>>();
    assert!(seams.spawner.timeout(MOVING_MAX, settling).await.is_some(), "{:?}", reports());
}

#[tokio::test(start_paused = true)]
async fn shards_move_to_nodes_that_come_and_away_from_one_that_leaves() {
    let seams = Seams::simulated(1);
    let first = start(config(ADDRESS), Arc::new(SimulatedDisk::new()), &seams).await;
    let caller = Caller::new(&seams, SHARDS);
    let ids = ["a", "b", "c", "d", "e", "f"];
    for id in ids {
        caller.execute(&Call::new("counter", id, "add", r#"{"by":5}"#, id)).await.unwrap();
    }
    let others = [come("second:7400", &seams).await, come("third:7400", &seams).await];
    settle(&[&first, &others[0], &others[1]], &seams).await;

    first.drain();
    seams.spawner.timeout(MOVING_MAX, first.left()).await.expect("it gives everything away");
    assert!(first.report().unwrap().replicas.is_empty());
    first.shutdown().await.unwrap();
    settle(&[&others[0], &others[1]], &seams).await;
    for id in ids {
        let mut found = Vec::new();
        for node in &others {
            let answer = Caller::at(&seams, node.address(), SHARDS).read("counter", id).await.unwrap();
            if let Response::State { version, state, .. } = decode(&answer) {
                found.push((version, state.to_vec()));
            }
        }
        assert_eq!(found, [(1, br#"{"value":5}"#.to_vec())], "by its one owner");
    }
    for node in others {
        node.shutdown().await.unwrap();
    }
}

/// Two owners ask a third node at the same time.
#[tokio::test(start_paused = true)]
async fn a_node_takes_no_more_replicas_at_a_time_than_it_is_told_to() {
    let seams = Seams::simulated(4);
    let first = start(config(ADDRESS), Arc::new(SimulatedDisk::new()), &seams).await;
    let second = come("second:7400", &seams).await;
    settle(&[&first, &second], &seams).await;
    let mut one_at_a_time = config("third:7400");
    one_at_a_time.cluster.moves_per_node = 1;
    let third = come_as(one_at_a_time, &seams).await;
    let arriving = || {
        let replicas = third.report().map(|report| report.replicas).unwrap_or_default();
        replicas.iter().filter(|replica| !replica.voters.contains(&third.node)).count()
    };
    let (mut most, nodes) = (0, [&first, &second, &third]);
    let moving = async {
        while !is_settled(&nodes) {
            most = most.max(arriving());
            seams.spawner.sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(seams.spawner.timeout(MOVING_MAX, moving).await.is_some(), "{:?}", third.report());
    assert_eq!(most, 1);
    for node in [first, second, third] {
        node.shutdown().await.unwrap();
    }
}

/// What its disk has counts from the first moment, and not from when it has been taken up.
#[tokio::test(start_paused = true)]
async fn a_node_with_data_that_is_told_to_leave_as_it_starts_waits_until_others_have_it() {
    let (seams, disk) = (Seams::simulated(2), SimulatedDisk::new());
    let before = start(config(ADDRESS), Arc::new(disk.clone()), &seams).await;
    let node = before.node;
    before.shutdown().await.unwrap();
    let kinds = Registry::built_in();
    let again = app::start(config(ADDRESS), kinds, Arc::new(disk), Arc::new(Chitchat), seams.clone(), Tracing::OFF);
    let again = again.await.unwrap();
    again.drain();
    assert_eq!(again.node, node);
    assert!(seams.spawner.timeout(Duration::from_secs(5), again.left()).await.is_none(), "nobody else is there");

    let other = come("other:7400", &seams).await;
    let third = come("third:7400", &seams).await;
    assert!(seams.spawner.timeout(MOVING_MAX, again.left()).await.is_some(), "now there is");
    settle(&[&other, &third], &seams).await;
    for node in [again, other, third] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_node_that_has_found_nobody_leaves_at_once() {
    let seams = Seams::simulated(3);
    let alone = come("alone:7400", &seams).await;
    alone.drain();
    assert!(seams.spawner.timeout(Duration::from_secs(1), alone.left()).await.is_some());
    alone.shutdown().await.unwrap();
}
