//! Whole nodes becoming a cluster: in any order, late, restarting at every step, and with lost disks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::peer::{self, Class, Client};
use berth_shared::report::Member;
use berth_shared::seam::{Seams, Spawner};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::super::{Ask, Config, InitRecord, Settings, Status, run};
use super::machines::{World, address};
use crate::cluster::identity::{self, Identity, Role};
use crate::disk::{Backend, Disk, SimulatedDisk};
use crate::transport::wire::NodeRequest;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_node_that_is_its_only_seed_is_a_cluster_at_once() {
    let mut world = World::new(1, 1, 1);
    let begun = world.seams.clock.now();
    world.start_all();
    assert!(world.joins_within(Duration::from_secs(1)).await);
    assert!(world.seams.clock.now().since(begun) < Duration::from_millis(200));
    world.common_record();
}

#[tokio::test(start_paused = true)]
async fn nodes_that_start_together_are_one_cluster_within_two_seconds() {
    let mut world = World::new(2, 3, 3);
    world.start_all();
    assert!(world.joins_within(Duration::from_secs(2)).await, "{:?}", world.identities());
    let record = world.common_record();
    assert_eq!((record.shards, record.replicas), (64, 3));
}

/// A node writes its identity, its acceptance and its joining. The power goes before, during or after each of these writes of
/// each node, and it comes back with what is left.
#[tokio::test(start_paused = true)]
async fn a_node_that_loses_power_at_any_step_comes_back_into_the_same_cluster() {
    let mut cuts = 0;
    for victim in 0..3 {
        for write in 0..3 {
            for seed in 0..8 {
                let mut world = World::new(seed, 3, 3);
                world.machines[victim].disk.cut_power_after(write);
                let disk = world.machines[victim].disk.clone();
                world.start_all();
                assert!(world.joins_within(MINUTE).await, "{victim} {write} {seed}: {:?}", world.identities());
                world.common_record();
                cuts += u64::from(disk.power_is_off());
            }
        }
    }
    assert_eq!(cuts, 3 * 3 * 8, "every one of these steps was cut short");
}

/// Starting in any order, one of them late, some killed or without power in the middle.
#[tokio::test(start_paused = true)]
async fn exactly_one_cluster_comes_of_every_one_of_200_starts() {
    for seed in 0..200 {
        let count = if seed % 2 == 0 { 3 } else { 5 };
        let mut world = World::new(seed, count, count);
        let late = world.below(count as u64) as usize;
        let mut starts: Vec<u64> = (0..count).map(|_| world.below(1_000)).collect();
        starts[late] = 3_000 + world.below(10_000);
        let mut kills: Vec<(u64, usize)> = Vec::new();
        for victim in 0..count {
            match world.below(3) {
                0 => world.machines[victim].disk.cut_power_after(world.below(3)),
                // Everything happens once the last one is there.
                1 => kills.push((starts[late] + world.below(800), victim)),
                _ => {}
            }
        }
        for tick in (0..20_000).step_by(10) {
            for (number, start) in starts.iter().enumerate() {
                if (tick..tick + 10).contains(start) {
                    world.start(number);
                }
            }
            for (_, victim) in kills.extract_if(.., |(at, _)| (tick..tick + 10).contains(at)) {
                if world.machines[victim].is_running() {
                    world.machines[victim].kill().await;
                    starts[victim] = tick + 10 + world.seams.random.next_u64() % 1_000;
                }
            }
            world.pass(Duration::from_millis(10)).await;
            world.restart_after_power_cuts().await;
        }
        assert!(world.joins_within(MINUTE).await, "seed {seed}: {:?}", world.identities());
        world.common_record();
    }
}

/// Two of three are enough, and not everybody reaches everybody: several records are proposed. Nodes are killed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_duel_of_two_records_never_ends_in_two_clusters() {
    let (mut whole, mut duels) = (0, 0);
    for seed in 0..200 {
        let mut world = World::new(seed, 3, 2);
        let middle = world.below(3) as usize;
        let (one, other) = ((middle + 1) % 3, (middle + 2) % 3);
        world.set_cut(one, other, true);
        for (id, number) in [one, other, middle].into_iter().enumerate() {
            // The one in the middle has the highest id, so that both others propose.
            let identity = Identity::fresh(NodeId(id as u64), &address(number));
            identity.write(&world.machines[number].disk).unwrap();
            // The first write from here on is the acceptance: a founder that proposes late, or never.
            if world.below(2) == 0 {
                world.machines[number].disk.cut_power_after(world.below(2));
            }
            world.start(number);
            world.pass(Duration::from_millis(world.below(50))).await;
        }
        let mut seen: Vec<ClusterId> = Vec::new();
        for tick in 0..400 {
            if tick == 160 {
                world.heal();
            }
            if world.below(200) == 0 {
                let victim = world.below(3) as usize;
                world.machines[victim].kill().await;
                world.pass(Duration::from_millis(world.below(400))).await;
                world.start(victim);
            }
            world.pass(Duration::from_millis(25)).await;
            if tick % 60 == 59 {
                world.restart_after_power_cuts().await;
            }
            let accepted = world.identities().into_iter().filter_map(|identity| Some(identity.accepted?.cluster));
            seen.extend(accepted);
            assert!(world.clusters().len() <= 1, "seed {seed}: {:?}", world.identities());
        }
        seen.sort_unstable();
        seen.dedup();
        duels += usize::from(seen.len() > 1);
        whole += usize::from(world.joins_within(MINUTE).await);
        assert!(world.clusters().len() <= 1, "seed {seed}: {:?}", world.identities());
    }
    assert!(whole > 150 && duels > 10, "{whole} became whole, {duels} had two records");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_lost_two_of_three_disks_is_never_begun_anew() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 3);
        world.start_all();
        assert!(world.joins_within(MINUTE).await);
        let record = world.common_record();
        let survivor = (seed % 3) as usize;
        let lost = [(survivor + 1) % 3, (survivor + 2) % 3];
        world.machines[survivor].kill().await;
        for number in lost {
            world.machines[number].lose_disk().await;
            world.start(number);
        }
        world.pass(MINUTE).await;
        for number in lost {
            let identity = world.machines[number].identity().unwrap();
            assert!(identity.cluster.is_none() && identity.accepted.is_none(), "{identity:?}");
        }
        // The survivor says that there is a cluster; the new nodes are none of its members.
        world.start(survivor);
        assert!(world.joins_within(MINUTE).await);
        for number in lost {
            let identity = world.machines[number].identity().unwrap();
            assert_eq!((identity.cluster, identity.role()), (Some(record.cluster), Some(Role::Joining)));
            assert!(!record.names(identity.node));
        }
        assert_eq!(world.machines[survivor].identity().unwrap().role(), Some(Role::Member));
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_nodes_with_a_node_of_a_cluster_among_their_seeds_join_that_one() {
    let mut world = World::new(3, 3, 3);
    let stranger = world.add("other:7400".to_owned(), vec!["other:7400".to_owned()], 1);
    world.start(stranger);
    world.pass(MINUTE).await;
    let cluster = world.machines[stranger].cluster().unwrap();
    for number in 0..3 {
        world.machines[number].config.seeds.push("other:7400".to_owned());
        world.machines[number].config.settings.expect = 3;
        world.start(number);
    }
    assert!(world.joins_within(MINUTE).await);
    for number in 0..3 {
        let identity = world.machines[number].identity().unwrap();
        assert_eq!((identity.cluster, identity.role()), (Some(cluster), Some(Role::Joining)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_later_joins_without_being_a_member_and_a_restart_remembers_it() {
    let mut world = World::new(4, 3, 3);
    world.start_all();
    assert!(world.joins_within(MINUTE).await);
    let record = world.common_record();
    let seeds = world.machines[0].config.seeds.clone();
    let late = world.add("late:7400".to_owned(), seeds, 3);
    world.start(late);
    assert!(world.joins_within(MINUTE).await);
    for number in 0..3 {
        world.machines[number].kill().await;
    }
    world.machines[late].kill().await;
    world.start(late);
    world.pass(Duration::from_secs(1)).await;
    let identity = world.machines[late].identity().unwrap();
    assert_eq!((identity.cluster, identity.role()), (Some(record.cluster), Some(Role::Joining)));
    assert!(world.machines[late].is_running());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_no_seed_begins_no_cluster() {
    let mut world = World::new(5, 3, 2);
    let seeds = world.machines[0].config.seeds.clone();
    let outsider = world.add("outsider:7400".to_owned(), seeds, 2);
    world.start(outsider);
    world.start(0);
    world.pass(MINUTE).await;
    assert!(world.clusters().is_empty(), "{:?}", world.identities());
    world.start(1);
    world.start(2);
    assert!(world.joins_within(MINUTE).await);
    assert_eq!(world.machines[outsider].identity().unwrap().role(), Some(Role::Joining));
    assert_eq!(world.clusters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_seed_may_be_another_name_of_the_node_itself() {
    let mut world = World::new(6, 2, 2);
    world.rename(0, "alias-0:1");
    for number in 0..2 {
        world.machines[number].config.seeds = vec!["alias-0:1".to_owned(), address(1)];
        world.start(number);
    }
    assert!(world.joins_within(MINUTE).await);
    assert_eq!(world.common_record().members.len(), 2);
}

/// A disk whose writes wait until they are let through.
#[derive(Debug)]
struct Slow {
    disk: SimulatedDisk,
    arrived: mpsc::UnboundedSender<()>,
    passes: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Disk for Slow {
    fn open(&self, name: &str) -> io::Result<Backend> {
        self.disk.open(name)
    }

    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read_small(name)
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.arrived.send(()).map_err(io::Error::other)?;
        self.passes.lock().recv().map_err(io::Error::other)?;
        self.disk.write_small(name, bytes)
    }

    fn holds(&self, name: &str) -> io::Result<bool> {
        self.disk.holds(name)
    }

    fn describe(&self, name: &str) -> String {
        self.disk.describe(name)
    }
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_is_on_disk_before_anybody_hears_of_it() {
    let seams = Seams { spawner: Spawner::Threads, ..Seams::simulated(1) };
    let (arrived_sender, mut arrived) = mpsc::unbounded_channel();
    let (pass, passes) = std::sync::mpsc::channel();
    let memory = SimulatedDisk::new();
    let disk = Arc::new(Slow { disk: memory.clone(), arrived: arrived_sender, passes: Mutex::new(passes) });
    let identity = Identity::fresh(NodeId(2), "b:1");
    let listener = seams.network.listen("b:1").await.unwrap();
    let settings = Settings { shards: 64, replicas: 3, expect: 2 };
    let seeds = vec!["a:1".to_owned(), "b:1".to_owned()];
    let config = Config { seeds, settings, init: None, credential: None, software: "test".to_owned() };
    seams.spawner.spawn(run(config, identity, disk, listener, seams.clone()));

    let speaker = peer::Identity {
        role: peer::Role::Node,
        node: Some(NodeId(1)),
        cluster: None,
        software: "test".to_owned(),
        credential: None,
    };
    let client =
        Client::new(seams.clone(), peer::client::Config::default(), "b:1".to_owned(), Class::Control, speaker, None);
    let ask = |ask: Ask| {
        let (client, deadline) = (client.clone(), seams.clock.now() + MINUTE);
        async move {
            let question = peer::encode(&NodeRequest::Bootstrap(ask)).unwrap();
            peer::decode::<Status>(&client.call(question, deadline).await.unwrap()).unwrap()
        }
    };
    let member = |node, address: &str| Member { node: NodeId(node), address: address.to_owned() };
    let members = vec![member(1, "a:1"), member(2, "b:1")];
    let record = InitRecord { cluster: ClusterId(7), members, shards: 64, replicas: 3 };
    assert_eq!(ask(Ask::Status).await.accepted, None);
    let proposed = seams.spawner.spawn(ask(Ask::Propose { record: record.clone(), force: false }));
    arrived.recv().await.unwrap();
    assert_eq!(ask(Ask::Status).await.accepted, None, "it is not on disk yet");
    assert!(!proposed.is_finished() && memory.read_small(identity::FILE).unwrap().is_none());
    pass.send(()).unwrap();
    assert_eq!(proposed.await.unwrap().accepted, Some(record.clone()));
    assert_eq!(ask(Ask::Status).await.accepted, Some(record));
    assert!(memory.read_small(identity::FILE).unwrap().is_some());
}
