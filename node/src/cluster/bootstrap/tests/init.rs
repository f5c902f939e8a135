//! The operator's way out, `--init --members`.

use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::report::Member;

use super::super::{Error, InitRecord};
use super::machines::{World, address};
use crate::cluster::identity::{Identity, Role};

const MINUTE: Duration = Duration::from_secs(60);

/// Three nodes whose record can never be completed: all have accepted it, and one lost its disk before anybody saw that.
fn stuck(seed: u64) -> (World, InitRecord) {
    let mut world = World::new(seed, 3, 3);
    let member = |number| Member { node: NodeId(100 + number as u64), address: address(number) };
    let members: Vec<Member> = (0..3).map(member).collect();
    let record = InitRecord { cluster: ClusterId(1), members, shards: 64, replicas: 3 };
    for number in 0..2 {
        let mut identity = Identity::fresh(record.members[number].node, &address(number));
        identity.accepted = Some(record.clone());
        identity.write(&world.machines[number].disk).unwrap();
    }
    world.start_all();
    (world, record)
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_that_is_stuck_goes_on_with_exactly_the_nodes_that_the_operator_names() {
    for seed in 0..5 {
        let (mut world, before) = stuck(seed);
        assert!(!world.joins_within(MINUTE).await && world.clusters().is_empty());
        world.machines[1].kill().await;
        world.machines[1].config.init = Some((0..3).map(address).collect());
        world.machines[1].start();
        assert!(world.joins_within(MINUTE).await, "{:?}", world.identities());
        let record = world.common_record();
        assert_ne!(record.cluster, before.cluster);

        // The same arguments at the next start, as supervisors give them, change nothing; others are refused.
        world.machines[1].kill().await;
        world.machines[1].start();
        world.pass(Duration::from_secs(1)).await;
        assert!(world.machines[1].is_running());
        world.machines[1].kill().await;
        world.machines[1].config.init = Some(vec![address(1)]);
        world.machines[1].start();
        let refused = world.machines[1].failure().await;
        assert!(matches!(&refused, Error::Init(why) if why.contains("has joined cluster")), "{refused}");
        assert_eq!(world.common_record(), record);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_may_begin_with_fewer_nodes_than_expected_and_the_rest_joins_later() {
    let mut world = World::new(1, 3, 3);
    world.machines[0].config.init = Some(vec![address(0), address(1)]);
    world.start(0);
    world.start(1);
    world.pass(Duration::from_secs(10)).await;
    let record = world.machines[0].identity().unwrap().record().cloned().unwrap();
    assert_eq!(record.members.len(), 2);
    assert_eq!(world.machines[1].identity().unwrap().record(), Some(&record));
    world.start(2);
    assert!(world.joins_within(MINUTE).await);
    assert_eq!(world.machines[2].identity().unwrap().role(), Some(Role::Joining));
    assert_eq!(world.clusters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn init_is_refused_where_a_cluster_is_seen_or_this_node_is_not_named() {
    let mut world = World::new(2, 3, 3);
    world.start_all();
    assert!(world.joins_within(MINUTE).await);
    let record = world.common_record();
    for number in [1, 2] {
        world.machines[number].lose_disk().await;
        world.machines[number].config.init = Some(vec![address(1), address(2)]);
    }
    world.start(1);
    let refused = world.machines[1].failure().await.to_string();
    assert!(refused.contains("n0:7400 is part of cluster") && refused.contains("--init is refused"), "{refused}");
    world.machines[2].config.init = Some(vec![address(1)]);
    world.start(2);
    let refused = world.machines[2].failure().await.to_string();
    assert!(refused.contains("n2:7400, is not among --members"), "{refused}");
    assert_eq!(world.clusters().into_iter().collect::<Vec<_>>(), [record.cluster]);
}

/// The operator gives the same order to two nodes at once.
#[tokio::test(start_paused = true)]
async fn two_inits_at_once_end_in_one_cluster_at_most() {
    for seed in 0..50 {
        let mut world = World::new(seed, 2, 2);
        for number in 0..2 {
            world.machines[number].config.init = Some(vec![address(0), address(1)]);
            world.start(number);
            world.pass(Duration::from_millis(world.below(50))).await;
        }
        for _ in 0..400 {
            world.pass(Duration::from_millis(25)).await;
            assert!(world.clusters().len() <= 1, "seed {seed}: {:?}", world.identities());
        }
        for number in 0..2 {
            world.machines[number].kill().await;
            world.machines[number].config.init = None;
            world.start(number);
        }
        assert!(world.joins_within(MINUTE).await, "seed {seed}: {:?}", world.identities());
        world.common_record();
    }
}
