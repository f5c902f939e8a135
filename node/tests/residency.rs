//! Entities that are passivated all the time, under commands and reads at once: a whole node with threads and a budget for
//! almost nothing in memory. No read is older than what was acknowledged before it, and no version is missing or twice.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_node::disk::SimulatedDisk;
use berth_shared::config::ByteSize;
use berth_shared::message::{KeyOrigin, Response};
use berth_shared::problem::Code;
use berth_shared::seam::network::MemoryNetwork;
use berth_shared::seam::random::SeededRandom;
use berth_shared::seam::{Random, Seams};
use futures_util::future::join_all;
use support::{Call, Caller, config, decode, start};

const ENTITIES: usize = 40;
const SHARDS: u16 = 2;
const STEPS: usize = 300;

/// What is known of one entity from outside.
#[derive(Default)]
struct Known {
    id: String,
    acknowledged: AtomicU64,
    commands: AtomicU64,
}

/// Runs commands and reads of random entities, one after the other.
async fn client(number: u64, seams: Seams, caller: Caller, entities: Arc<Vec<Known>>) {
    let random = SeededRandom::new(number);
    for step in 0..STEPS {
        // Half of all go to four entities, so that the same ones are written, read and passivated at once.
        let choices = if random.next_u64().is_multiple_of(2) { 4 } else { ENTITIES as u64 };
        let entity = &entities[(random.next_u64() % choices) as usize];
        let before = entity.acknowledged.load(Ordering::SeqCst);
        let version = if random.next_u64().is_multiple_of(3) {
            entity.commands.fetch_add(1, Ordering::SeqCst);
            let key = format!("{number}-{step}");
            let origin = KeyOrigin::Gateway { created_micros: seams.clock.wall_micros() };
            let call = Call { origin, ..Call::new("counter", &entity.id, "add", "{}", &key) };
            let answer = caller.execute(&call).await.unwrap();
            let Response::Executed(executed) = decode(&answer) else { panic!("{:?}", decode(&answer)) };
            assert_eq!(executed.reply, executed.version.to_string().as_bytes());
            assert!(executed.version > before, "{}: {} after {before}", entity.id, executed.version);
            executed.version
        } else {
            let answer = caller.read("counter", &entity.id).await.unwrap();
            match decode(&answer) {
                Response::State { version, state, .. } => {
                    assert_eq!(state, format!("{{\"value\":{version}}}").as_bytes());
                    version
                }
                Response::Refused(refusal) if refusal.code == Code::NotFound => 0,
                other => panic!("{other:?}"),
            }
        };
        assert!(version >= before, "{}: version {version} was shown after {before}", entity.id);
        entity.acknowledged.fetch_max(version, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_never_go_back_while_entities_come_and_go() {
    // Real time and threads, so that loads, decisions and applies overlap.
    let seams = Seams { network: Arc::new(MemoryNetwork::default()), ..Seams::system() };
    for resident_bytes_max in [1, 2000] {
        let mut config = config();
        config.cluster.shards = SHARDS;
        config.shard.resident_bytes_max = ByteSize(resident_bytes_max);
        let node = start(config, Arc::new(SimulatedDisk::new()), &seams).await;
        let caller = Caller::new(&seams, SHARDS);
        let known = |n| Known { id: format!("e{n}"), ..Known::default() };
        let entities: Arc<Vec<Known>> = Arc::new((0..ENTITIES).map(known).collect());
        let clients =
            (0..12).map(|number| seams.spawner.spawn(client(number, seams.clone(), caller.clone(), entities.clone())));
        for ended in join_all(clients).await {
            ended.unwrap();
        }
        for entity in entities.iter() {
            let commands = entity.commands.load(Ordering::SeqCst);
            let answer = caller.events("counter", &entity.id, 0).await.unwrap();
            match decode(&answer) {
                Response::Events { events, next: None, .. } => {
                    assert!(events.iter().map(|event| event.version).eq(1..=commands), "{}", entity.id);
                }
                other => assert_eq!(commands, 0, "{other:?}"),
            }
        }
        let metrics = node.metrics.page.render().unwrap();
        let passivated = metrics.lines().find(|line| line.starts_with("berth_node_passivated_entities")).unwrap();
        let passivated: f64 = passivated.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(passivated > 500.0, "only {passivated} entities were passivated");
        node.shutdown().await.unwrap();
    }
}
