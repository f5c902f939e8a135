//! A node that comes later: it joins the cluster that it sees, is shown, and comes back as the same one.

mod support;

use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::config::Config;
use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_shared::cluster_view::{Gathered, MemberView};
use berth_shared::report::NodeState;
use berth_shared::seam::Seams;
use berth_shared::telemetry::Tracing;
use support::{ADDRESS, config, start};

const LATER: &str = "later:7400";

async fn start_later(disk: SimulatedDisk, seams: &Seams) -> app::Handle {
    let mut config = Config { listen: LATER.to_owned(), zone: Some("b".to_owned()), ..config() };
    config.cluster.seeds = vec![ADDRESS.to_owned()];
    let (kinds, gossip) = (Registry::built_in(), Arc::new(Chitchat));
    app::start(config, kinds, Arc::new(disk), gossip, seams.clone(), Tracing::OFF).await.unwrap()
}

/// What the cluster's first node alone knows of the one that came later, once `is_so` of it.
async fn shown(first: &app::Handle, seams: &Seams, is_so: impl Fn(&MemberView) -> bool) -> MemberView {
    let waiting = async {
        loop {
            let gathered = Gathered { reports: first.report().into_iter().collect(), silent: vec![] };
            let later = gathered.cluster().members.into_iter().find(|member| member.address == LATER);
            match later.filter(&is_so) {
                Some(member) => return member,
                None => seams.spawner.sleep(Duration::from_millis(10)).await,
            }
        }
    };
    seams.spawner.timeout(Duration::from_secs(60), waiting).await.expect("it is never shown so")
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_later_is_shown_and_comes_back_as_the_same_one() {
    let seams = Seams::simulated(1);
    let zone = Config { zone: Some("a".to_owned()), ..config() };
    let first = start(zone, Arc::new(SimulatedDisk::new()), &seams).await;
    let disk = SimulatedDisk::new();
    let later = start_later(disk.clone(), &seams).await;
    let member = shown(&first, &seams, |member| member.state == Some(NodeState::Joining)).await;
    assert_eq!((member.id, member.zone.as_deref()), (Some(later.node), Some("b")));
    assert_eq!((member.shards_led, member.suspected_since), (Some(0), None));
    assert!(member.version.is_some_and(|version| version.starts_with("berth-node/")));
    assert!(!later.is_ready() && later.owned().is_empty());

    // It has no replica of the plan at first, and asks for it. Then it gets its share.
    shown(&first, &seams, |member| member.plan_epoch == Some(1)).await;
    shown(&first, &seams, |member| member.state == Some(NodeState::Ready) && member.shards_led == Some(32)).await;
    assert!(later.is_ready());
    assert_eq!(later.report().map(|report| report.plan_epoch), Some(2));

    // It comes back as the same node, without asking anybody.
    let node = later.node;
    later.shutdown().await.unwrap();
    let left = shown(&first, &seams, |member| member.suspected_since.is_some()).await;
    assert_eq!((left.state, left.answered), (Some(NodeState::Leaving), false));
    let later = start_later(disk, &seams).await;
    assert_eq!(later.node, node);
    shown(&first, &seams, |member| member.suspected_since.is_none() && member.state == Some(NodeState::Ready)).await;
    first.shutdown().await.unwrap();
    later.shutdown().await.unwrap();
}
