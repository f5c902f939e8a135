//! One shard on one node: its machine, its entities in memory, and what it reads from the store. The executor decides on
//! it, the consensus group applies to it, readers read it; it knows neither sockets nor the consensus library.

pub mod command;
pub mod decide;
pub mod entities;
pub mod executor;
pub mod group;
pub mod hand_off;
pub mod history;
pub mod hold;
pub mod in_flight;
pub mod listing;
pub mod machine;
pub mod polling;
pub mod reader;
pub mod residency;
pub mod speculation;
pub mod time;
pub mod waiting;
mod warming;
pub mod window;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};

use berth_shared::ids::{LogId, ShardId, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::Seen;
use berth_shared::planted::{self, Bug};
use berth_shared::seam::Seams;

use crate::entity::Registry;
use crate::record::Batch;
use crate::store::{self, Changes, OutcomeRow, SnapshotReader, Staging, Store};
use entities::{LoadTicket, Resident};
use machine::{Applied, Machine, rehydrate};
use residency::Residency;
use waiting::Waiting;
use window::{RowId, Window};

/// A shard as everybody on this node shares it. No lock of it is held across an await.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    registry: Arc<Registry>,
    store: Store,
    seams: Seams,
    machine: Mutex<Machine>,
    residency: Arc<Residency>,
    /// Reads that wait until more is applied.
    waiting: Arc<Waiting>,
    /// What [`Residency`] was last told of this shard.
    reported_bytes: AtomicUsize,
    /// When the least recently used resident was last used; `u64::MAX` without residents.
    oldest_use: AtomicU64,
}

impl Shard {
    /// Takes up the shard where the store left it. Reads the index of the idempotency window: blocking.
    pub fn open(
        id: ShardId,
        registry: Arc<Registry>,
        store: Store,
        residency: Arc<Residency>,
        seams: Seams,
    ) -> Result<Arc<Self>, store::Error> {
        let mut rows = Vec::new();
        store.outcomes(id, &mut |row| rows.push(row))?;
        let head = store.shard_head(id).unwrap_or_default();
        let machine = Machine::new(id, registry.clone(), head, rows.into_iter().collect());
        let shard = Arc::new(Self {
            id,
            registry,
            store,
            seams,
            machine: Mutex::new(machine),
            residency: residency.clone(),
            waiting: Arc::default(),
            reported_bytes: AtomicUsize::new(0),
            oldest_use: AtomicU64::new(u64::MAX),
        });
        residency.register(&shard);
        Ok(shard)
    }

    pub fn id(&self) -> ShardId {
        self.id
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Locks the machine. Callers hold it shortly and never across an await.
    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    /// How much of the shard's history an answer given now includes.
    pub fn seen(&self) -> Seen {
        let machine = self.machine();
        let head = machine.head();
        Seen { incarnation: head.incarnation, index: head.applied.map_or(0, |applied| applied.index) }
    }

    /// The shard's time: no record that is still to be applied has this or an earlier one.
    pub fn time_micros(&self) -> u64 {
        self.machine().head().shard_time_micros
    }

    /// Reads that wait until more is applied.
    pub fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    fn seams(&self) -> &Seams {
        &self.seams
    }

    /// The entity, if it is in memory.
    pub fn resident(&self, key: &EntityKey) -> Option<Resident> {
        let mut machine = self.machine();
        let resident = machine.entities.touch(key, self.residency.tick())?.clone();
        self.report(&machine);
        Some(resident)
    }

    /// Keeps the JSON of an entity's state for the next reader.
    pub fn keep_json(&self, key: &EntityKey, version: Version, json: &Bytes) {
        {
            let mut machine = self.machine();
            machine.entities.keep_json(key, version, json);
            self.report(&machine);
        }
        self.residency.enforce();
    }

    /// Brings entities into memory and returns them as they are now. May be dropped at any time.
    pub async fn load(&self, keys: Vec<EntityKey>) -> Result<HashMap<EntityKey, Resident>, store::Error> {
        let mut loaded = HashMap::with_capacity(keys.len());
        let mut missing = keys;
        while !missing.is_empty() {
            let announced = Announced::new(self, missing);
            let keys: Vec<EntityKey> = announced.loads.iter().map(|(key, _)| key.clone()).collect();
            let (store, registry, id) = (self.store.clone(), self.registry.clone(), self.id);
            let read = self.blocking(move || {
                let stored = store.entities(id, &keys)?;
                let rehydrated = keys.iter().zip(stored).map(|(key, stored)| rehydrate(&registry, key, stored));
                Ok(rehydrated.collect::<Vec<_>>())
            });
            let residents: Result<Vec<Resident>, store::Error> = read.await;
            let (residents, loads) = (residents?, announced.into_loads());
            let mut machine = self.machine();
            let mut overtaken = Vec::new();
            for ((key, ticket), resident) in loads.into_iter().zip(residents) {
                if machine.entities.finish_load(&key, ticket, Some(resident.clone()), self.residency.tick()) {
                    let newest = machine.entities.peek(&key).cloned().unwrap_or(resident);
                    loaded.insert(key, newest);
                } else if let Some(newest) = machine.entities.peek(&key) {
                    loaded.insert(key.clone(), newest.clone());
                } else {
                    overtaken.push(key);
                }
            }
            self.report(&machine);
            drop(machine);
            missing = overtaken;
        }
        self.residency.enforce();
        Ok(loaded)
    }

    /// Stored outcomes; one that has expired meanwhile is left out.
    pub async fn outcomes(&self, rows: Vec<RowId>) -> Result<Vec<OutcomeRow>, store::Error> {
        let (store, id) = (self.store.clone(), self.id);
        let read = self.blocking(move || {
            let outcomes = rows.iter().filter_map(|row| store.outcome(id, row.lane, row.row).transpose());
            outcomes.collect()
        });
        read.await
    }

    /// Applies a batch: what is applied is readable from here on, and its changes are in the store's hands.
    pub async fn apply(&self, log_id: LogId, batch: &Arc<Batch>) -> io::Result<Applied> {
        self.store.room().await.map_err(io::Error::other)?;
        // Only this task applies, so what was loaded stays the newest even if it is passivated again meanwhile. What was
        // resident may be passivated during a load; it is loaded in the next turn, of which there are few, because what was
        // loaded is kept here.
        let mut loaded = HashMap::new();
        let applied = loop {
            let missing = {
                let mut machine = self.machine();
                let mut missing = machine.missing(batch);
                missing.retain(|key| !loaded.contains_key(key));
                if missing.is_empty() {
                    for (key, resident) in loaded {
                        if machine.entities.peek(&key).is_none() {
                            machine.entities.put(key, resident, self.residency.tick());
                        }
                    }
                    let (applied, changes) = machine.apply(log_id, batch, self.residency.tick());
                    self.hand_over(changes)?;
                    self.report(&machine);
                    break applied;
                }
                missing
            };
            loaded.extend(self.load(missing).await.map_err(io::Error::other)?);
        };
        self.residency.enforce();
        if batch.incarnation().is_some() {
            self.waiting.wake_all();
        } else {
            let changed = batch.records().iter().filter(|record| !record.events.is_empty());
            self.waiting.applied(log_id.index, changed.map(|record| &record.key));
        }
        Ok(applied)
    }

    pub async fn apply_blank(&self, log_id: LogId) -> io::Result<()> {
        self.store.room().await.map_err(io::Error::other)?;
        {
            let mut machine = self.machine();
            let changes = machine.apply_blank(log_id);
            self.hand_over(changes)?;
        }
        self.waiting.applied(log_id.index, std::iter::empty());
        Ok(())
    }

    pub async fn apply_membership(&self, log_id: LogId, membership: Bytes) -> io::Result<()> {
        self.store.room().await.map_err(io::Error::other)?;
        {
            let mut machine = self.machine();
            let changes = machine.apply_membership(log_id, membership);
            self.hand_over(changes)?;
        }
        self.waiting.applied(log_id.index, std::iter::empty());
        Ok(())
    }

    /// The shard as the store holds it, to be sent to another replica.
    pub async fn snapshot(&self) -> Result<SnapshotReader, store::Error> {
        self.store.snapshot(self.id).await
    }

    /// Begins to receive the shard as another replica holds it; see [`Self::install`].
    pub async fn stage(&self) -> Result<Staging, store::Error> {
        self.store.stage(self.id).await
    }

    /// Puts a snapshot that was received as a whole in the place of all that the shard holds. Until the store has it on disk
    /// everything stays as it was; then store, head, window and residents change at one moment, and what was being loaded is
    /// loaded anew, so that nobody sees some of both. Who applies must wait until this has returned.
    pub async fn install(&self, staging: Staging) -> Result<(), store::Error> {
        let mut installed = staging.commit().await?;
        let mut window: Window = installed.take_outcomes().into_iter().collect();
        if planted::is(Bug::ForgetKeysInSnapshots) {
            window = Window::default();
        }
        {
            let mut machine = self.machine();
            machine.reset(installed.publish(), window);
            self.report(&machine);
        }
        self.waiting.wake_all();
        Ok(())
    }

    /// Makes everything that is applied durable in the store.
    pub async fn checkpoint(&self) -> io::Result<()> {
        self.store.checkpoint().await.map(drop).map_err(io::Error::other)
    }

    /// Runs a read of the store where it may block.
    async fn blocking<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        self.residency.read(self.seams.spawner, read).await
    }

    /// Under the machine's lock, so that an entity can be passivated only once the store can answer for it.
    fn hand_over(&self, changes: Changes) -> io::Result<()> {
        self.store.write_now(changes).map_err(io::Error::other)
    }

    /// Tells the node's budget what this shard holds in memory now.
    fn report(&self, machine: &Machine) {
        let bytes = machine.entities.bytes();
        let before = self.reported_bytes.swap(bytes, Ordering::Relaxed);
        self.residency.changed(before, bytes);
        self.oldest_use.store(machine.entities.oldest_use().unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Loads that are announced and not finished. Dropped, as they are when nobody waits for them any more, they are given up.
struct Announced<'a> {
    shard: &'a Shard,
    loads: Vec<(EntityKey, LoadTicket)>,
}

impl<'a> Announced<'a> {
    fn new(shard: &'a Shard, keys: Vec<EntityKey>) -> Self {
        let mut machine = shard.machine();
        let announce = |key: EntityKey| {
            let ticket = machine.entities.begin_load(&key);
            (key, ticket)
        };
        let loads = keys.into_iter().map(announce).collect();
        drop(machine);
        Self { shard, loads }
    }

    fn into_loads(mut self) -> Vec<(EntityKey, LoadTicket)> {
        std::mem::take(&mut self.loads)
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        // What was taken out is finished by whoever took it, who may hold the machine.
        if self.loads.is_empty() {
            return;
        }
        let mut machine = self.shard.machine();
        for (key, ticket) in self.loads.drain(..) {
            machine.entities.finish_load(&key, ticket, None, 0);
        }
    }
}

impl Drop for Shard {
    /// What it held counts no more against the node's budget.
    fn drop(&mut self) {
        self.residency.changed(*self.reported_bytes.get_mut(), 0);
    }
}
