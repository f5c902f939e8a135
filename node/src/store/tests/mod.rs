//! Behaviour of the store through its handle, and of its reads at every stage of the way into the file.

mod damage;
mod deleting;
mod flushing;
mod installing;
mod listing;
mod model;
mod reading;
mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use berth_shared::ids::{LogId, ShardId, Version};
use berth_shared::key::EntityKey;
use berth_shared::seam::Seams;

use super::*;
use crate::disk::SimulatedDisk;
use crate::record::{Fingerprint, Outcome, Scope, Status};

const SHARD: ShardId = ShardId(3);

/// A journal that has flushed everything already.
fn flushed_journal() -> JournalFlushed {
    Arc::new(|| Box::pin(async { Ok(()) }))
}

/// What the store said when it stopped, instead of ending the process.
#[derive(Clone, Default)]
struct Fatal(Arc<Mutex<Vec<String>>>);

impl Fatal {
    fn config(&self) -> Config {
        let said = self.0.clone();
        Config { fatal: Arc::new(move |message| said.lock().push(message.to_owned())), ..Config::default() }
    }

    fn said(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

/// A store whose fatal error is the test's failure.
async fn open(disk: &SimulatedDisk) -> Store {
    open_with(disk, Config::default()).await
}

async fn open_with(disk: &SimulatedDisk, config: Config) -> Store {
    Store::open(disk, flushed_journal(), config, Seams::simulated(1)).await.unwrap()
}

/// Writes only when a test says so.
fn idle_config() -> Config {
    let never = Duration::from_secs(1 << 30);
    Config { flush_interval: never, checkpoint_interval: never, ..Config::default() }
}

fn key(id: &str) -> EntityKey {
    EntityKey::new("counter", id).unwrap()
}

fn head(index: u64) -> ShardHead {
    ShardHead { applied: Some(LogId { term: 1, index }), shard_time_micros: index, ..ShardHead::default() }
}

fn event(version: Version, data: impl Into<Bytes>) -> StoredEvent {
    StoredEvent { version, time_micros: 1000 + version, event_type: Bytes::from_static(b"added"), data: data.into() }
}

fn changes(index: u64, entities: Vec<EntityChange>) -> Changes {
    Changes { shard: SHARD, head: head(index), entities, outcomes: Vec::new(), expired: RowBounds::default() }
}

/// Events `from..=to` of one entity, of `bytes` bytes each.
fn added(id: &str, from: Version, to: Version, bytes: usize) -> EntityChange {
    let events = (from..=to).map(|version| event(version, vec![b'7'; bytes])).collect();
    EntityChange { key: key(id), version: to, deleted: false, events, snapshot: None }
}

fn outcome(lane: Lane, row: u64) -> OutcomeRow {
    OutcomeRow {
        lane,
        row,
        scope: Scope([row as u8; 16]),
        fingerprint: Fingerprint([7; 16]),
        expires_micros: 5000 + row,
        version: row,
        outcome: Outcome { status: Status::Accepted, reply: Bytes::from(row.to_string()), reason: Bytes::new() },
    }
}

fn outcome_index(store: &Store, shard: ShardId) -> Vec<(Lane, u64)> {
    let mut rows = Vec::new();
    store.outcomes(shard, &mut |row| rows.push((row.lane, row.row))).unwrap();
    rows.sort_unstable();
    rows
}

/// All chunks of a snapshot of `shard`, in parts of about `bytes`.
async fn chunks_of(store: &Store, shard: ShardId, bytes: usize) -> Vec<Bytes> {
    let mut reader = store.snapshot(shard).await.unwrap().in_chunks_of(bytes);
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk().await.unwrap() {
        chunks.push(chunk);
    }
    chunks
}

/// Stages `chunks` and makes them the content of `shard`.
async fn install(store: &Store, shard: ShardId, chunks: Vec<Bytes>) -> Result<ShardHead, Error> {
    let mut staging = store.stage(shard).await?;
    for chunk in chunks {
        staging.add(chunk).await?;
    }
    Ok(staging.commit().await?.publish())
}

/// Of which generations the file holds rows.
fn generations_in_file(store: &Store) -> Vec<(ShardId, u32)> {
    let transaction = store.shared.begin_read().unwrap();
    generation::orphans(&transaction, &std::collections::BTreeMap::new()).unwrap().into_iter().collect()
}

/// What happens to the queue and the file in a flush, one step at a time.
impl Store {
    /// Returns when what was written of `shard` is in the file.
    async fn in_file(&self, shard: ShardId) {
        self.bring_to_file(shard).await.unwrap();
    }

    fn take_layer(&self) -> Option<Arc<layer::Layer>> {
        self.shared.queue.lock().take_to_write()
    }

    fn write_layer(&self, layer: &layer::Layer) {
        self.shared.with_database(|database| file::write(database, layer)).unwrap();
    }

    fn drop_layer(&self) {
        self.shared.queue.lock().written();
    }

    fn flush(&self) {
        if let Some(layer) = self.take_layer() {
            self.write_layer(&layer);
            self.drop_layer();
        }
    }
}
