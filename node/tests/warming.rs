//! Warming a replica with what its owner uses most: the same entities are in memory afterwards, in the same order of use, and
//! never more than their part of the node's budget.

use std::sync::Arc;

use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_node::shard::Shard;
use berth_node::shard::residency::Residency;
use berth_node::store::{
    Changes, Config, EntityChange, JournalFlushed, RowBounds, ShardHead, Snapshot, Store, StoredEvent,
};
use berth_shared::ids::{LogId, ShardId};
use berth_shared::key::EntityKey;
use berth_shared::seam::Seams;
use bytes::Bytes;

const SHARD: ShardId = ShardId(1);
const ENTITIES: usize = 200;

fn key(number: usize) -> EntityKey {
    EntityKey::new("document", &format!("d{number}")).unwrap()
}

/// A replica on a node with a budget, whose store has documents of `state_bytes`.
async fn replica(bytes_max: usize, state_bytes: usize) -> (Arc<Shard>, Arc<Residency>) {
    let seams = Seams::simulated(1);
    let flushed: JournalFlushed = Arc::new(|| Box::pin(async { Ok(()) }));
    let store = Store::open(&SimulatedDisk::new(), flushed, Config::default(), seams.clone()).await.unwrap();
    let state = Bytes::from(format!("{{\"text\":\"{}\"}}", "x".repeat(state_bytes)));
    let entity = |number| EntityChange {
        key: key(number),
        version: 1,
        deleted: false,
        events: vec![StoredEvent { version: 1, time_micros: 1, event_type: "replaced".into(), data: state.clone() }],
        snapshot: Some(Snapshot { version: 1, state: state.clone() }),
    };
    let applied = Some(LogId { term: 1, index: 1 });
    let head = ShardHead { applied, ..ShardHead::default() };
    let entities = (0..ENTITIES).map(entity).collect();
    store
        .write(Changes { shard: SHARD, head, entities, outcomes: Vec::new(), expired: RowBounds::default() })
        .await
        .unwrap();
    let residency = Residency::new(bytes_max);
    let shard = Shard::open(SHARD, Arc::new(Registry::built_in()), store, residency.clone(), seams).unwrap();
    (shard, residency)
}

#[tokio::test(start_paused = true)]
async fn a_warmed_replica_has_the_same_entities_in_memory_in_the_same_order_of_use() {
    let (owner, _) = replica(64 << 20, 500).await;
    for number in 0..ENTITIES {
        owner.load(vec![key(number)]).await.unwrap();
    }
    for number in [7, 3, 11] {
        owner.resident(&key(number)).unwrap();
    }
    let busiest = owner.busiest(50);
    assert_eq!(busiest[..4], [key(11), key(3), key(7), key(ENTITIES - 1)]);

    let (follower, _) = replica(64 << 20, 500).await;
    // One of them is there already, and one that nobody asks for.
    follower.load(vec![key(100), key(3)]).await.unwrap();
    assert_eq!(follower.warm(&busiest).await.unwrap(), 50);
    assert_eq!(follower.busiest(50), busiest);
    assert_eq!(follower.machine().entities.len(), 51);
    assert_eq!(follower.resident(&key(11)).unwrap().version, 1);
    assert_eq!(follower.warm(&[]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn warming_takes_an_eighth_of_the_budget_and_the_busiest_come_first() {
    let all: Vec<_> = (0..ENTITIES).map(key).collect();
    let (follower, residency) = replica(4 << 20, 20_000).await;
    let warmed = follower.warm(&all).await.unwrap();
    assert!((10..40).contains(&warmed), "{warmed}");
    assert_eq!(follower.busiest(warmed), all[..warmed]);
    assert!(residency.bytes() < (1 << 20) + (1 << 19), "{}", residency.bytes());
    assert_eq!(residency.passivated(), 0);
}

/// The budget is too small for what is read at once.
#[tokio::test(start_paused = true)]
async fn the_budget_holds_whatever_is_warmed() {
    let all: Vec<_> = (0..ENTITIES).map(key).collect();
    for bytes_max in [0, 1_000, 200_000] {
        let (follower, residency) = replica(bytes_max, 20_000).await;
        follower.warm(&all).await.unwrap();
        assert!(residency.bytes() <= bytes_max, "{} of {bytes_max}", residency.bytes());
    }
}
