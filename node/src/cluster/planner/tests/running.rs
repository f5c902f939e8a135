//! The planner's task, on a system shard with two replicas.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::report::{self, Edition, Load, NodeState};
use berth_shared::seam::Seams;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::bootstrap::InitRecord;
use crate::cluster::membership::{Facts, Member, Members};
use crate::cluster::planner::Planner;
use crate::cluster::plans::Plans;
use crate::cluster::system::{self, pair::System};
use crate::disk::SimulatedDisk;

/// The nodes that are heard and connected to, and gossip's list of them.
struct Seen {
    connected: Arc<Mutex<Vec<NodeId>>>,
    members: watch::Sender<Arc<Members>>,
    seams: Seams,
}

impl Seen {
    fn set(&self, live: &[u64], silent: &[u64]) {
        let member = |number: u64, is_live: bool| Member {
            node: NodeId(number),
            facts: Arc::new(Facts {
                address: format!("n{number}:1"),
                zone: None,
                state: NodeState::Ready,
                plan: 0,
                unsettled: 0,
                weight: NonZeroU32::MIN,
                version: "test/1".to_owned(),
                load: Load::default(),
                led: vec![],
                system: None,
            }),
            edition: Edition::default(),
            suspected: (!is_live).then(|| self.seams.clock.now()),
        };
        let live_members = live.iter().map(|number| member(*number, true));
        let members = live_members.chain(silent.iter().map(|number| member(*number, false))).collect();
        self.members.send_replace(Arc::new(members));
        *self.connected.lock() = live.iter().map(|number| NodeId(*number)).collect();
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_leads_has_the_next_plan_adopted_and_begins_anew_with_each_term() {
    let seams = Seams::simulated(5);
    let seconds = |seconds: u64| seams.spawner.sleep(Duration::from_secs(seconds));
    let disks = [SimulatedDisk::new(), SimulatedDisk::new()];
    let System { group, mailbox, registry, shards, stores: _stores } = System::open(&disks, &seams).await;
    let seen = Seen { connected: Arc::default(), members: watch::Sender::new(Arc::default()), seams: seams.clone() };
    seen.set(&[1, 2, 3], &[]);
    let (connected, plans) = (seen.connected.clone(), Plans::default());
    let planner = Planner {
        node: NodeId(1),
        replace_after: Duration::from_secs(10),
        shard: shards[0].clone(),
        group: group.clone(),
        mailbox: mailbox.clone(),
        registry: registry.clone(),
        members: seen.members.subscribe(),
        connected: Arc::new(move || connected.lock().clone()),
        newest: plans.watch(),
        seams: seams.clone(),
    };
    let shutdown = CancellationToken::new();
    system::follow(shards[1].clone(), plans.clone(), &seams, shutdown.clone());
    let planning = seams.spawner.spawn(shutdown.clone().run_until_cancelled_owned(planner.run()));
    let planned = || plans.newest().unwrap().members().iter().map(|member| member.node.0).collect::<Vec<_>>();

    let members = (1..=3).map(|n| report::Member { node: NodeId(n), address: format!("n{n}:1") }).collect();
    let record = InitRecord { cluster: ClusterId(7), members, shards: 16, replicas: 3 };
    let begin =
        system::initialise(record, group.clone(), mailbox, registry, plans.watch(), seams.clone(), shutdown.clone());
    seams.spawner.spawn(begin);
    seconds(20).await;
    assert_eq!(plans.epoch(), 0, "nobody leads");
    group.lead(Some(3)).await;
    seconds(20).await;
    assert_eq!(plans.epoch(), 1, "there is nothing to change");

    seen.set(&[1, 2, 3, 4], &[]);
    seconds(5).await;
    assert_eq!((plans.epoch(), planned()), (2, vec![1, 2, 3, 4]));

    // It is another node's business while another one leads, and what this one saw then does not count.
    seen.set(&[1, 3, 4], &[2]);
    seconds(5).await;
    group.lead(None).await;
    seconds(60).await;
    assert_eq!(plans.epoch(), 2);
    group.lead(Some(5)).await;
    seconds(9).await;
    assert_eq!(plans.epoch(), 2, "it counts from now");
    seconds(4).await;
    assert_eq!((plans.epoch(), planned()), (3, vec![1, 3, 4]));
    let key = berth_shared::key::EntityKey::new("cluster", "plan").unwrap();
    let events = shards[1].events(&key, 2, 1).await.unwrap().unwrap().events;
    assert!(String::from_utf8_lossy(&events[0].data).contains("1 died (0000000000000002)"));

    // The shard was recovered without the plans up to the seventh, which members follow.
    let mut lost = plans.newest().unwrap().as_ref().clone();
    lost.epoch = 7;
    plans.offer(lost.clone());
    seconds(3).await;
    assert_eq!(system::applied_plan(&shards[0]).await.unwrap(), Some(lost));
    seen.set(&[1, 2, 3, 4], &[]);
    seconds(5).await;
    assert_eq!((plans.epoch(), planned()), (8, vec![1, 2, 3, 4]), "it goes on from there");
    shutdown.cancel();
    assert!(planning.await.unwrap().is_none());
}
