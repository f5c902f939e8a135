//! Reading: what the file holds, with the layers on top that are not in it yet. These calls block.
//!
//! A reader first takes what it needs of the layers, the one being written before the one that fills, and only then begins
//! its transaction. So what has left the layers is in the transaction. What is in both is taken once: versions only grow.
//! A shard whose content was replaced by a snapshot in between is looked at again, because the rows of its former content may
//! be gone from the transaction.

use std::ops::ControlFlow;
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction};

use berth_shared::ids::{ShardId, Version};
use berth_shared::key::EntityKey;

use super::file::{self, EntityTables};
use super::layer::{Layer, PendingEntity, newer};
use super::layout::{self, EntityHead, RowError};
use super::model::{EventsPage, Lane, OutcomeIndexRow, OutcomeRow, RowBounds, StoredEntity, StoredEvent};
use super::queue::Queue;
use super::{Error, Store};

type Tables = EntityTables<ReadOnlyTable<file::Bytes, file::Bytes>>;

impl Store {
    /// One entity; `None` when it never had an event. Blocks.
    pub fn entity(&self, shard: ShardId, key: &EntityKey) -> Result<Option<StoredEntity>, Error> {
        let entities = self.entities(shard, std::slice::from_ref(key))?;
        Ok(entities.into_iter().next().flatten())
    }

    /// Many entities of one shard, at one moment. Blocks.
    pub fn entities(&self, shard: ShardId, keys: &[EntityKey]) -> Result<Vec<Option<StoredEntity>>, Error> {
        let look = |queue: &Queue| {
            let layers = [queue.writing().map(Arc::as_ref), Some(queue.filling())];
            keys.iter().map(|key| pending_of(&layers, shard, key, |_| true)).collect::<Vec<_>>()
        };
        let Some(View { generation, pending, transaction }) = self.view(shard, look)? else {
            return Ok(vec![None; keys.len()]);
        };
        let tables = EntityTables::open(&transaction)?;
        let with_pending = keys.iter().zip(pending);
        with_pending
            .map(|(key, pending)| read_entity(&tables, &layout::entity_key(shard, generation, key), pending))
            .collect()
    }

    /// At most `limit` events after version `after`, as many as come to `bytes_max` stored bytes, and at least one if there
    /// is one. `None` when the entity never had an event. Blocks.
    pub fn events(
        &self,
        shard: ShardId,
        key: &EntityKey,
        after: Version,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Option<EventsPage>, Error> {
        let limit = limit.max(1);
        let last = after.saturating_add(limit as Version);
        let look = |queue: &Queue| {
            let layers = [queue.writing().map(Arc::as_ref), Some(queue.filling())];
            pending_of(&layers, shard, key, |event| event.version > after && event.version <= last)
        };
        let Some(View { generation, pending, transaction }) = self.view(shard, look)? else { return Ok(None) };
        let tables = EntityTables::open(&transaction)?;
        let entity_key = layout::entity_key(shard, generation, key);
        let head = tables.head(&entity_key)?;
        let newest = pending.iter().map(|pending| pending.version).chain(head.map(|head| head.version)).max();
        let Some(newest) = newest else { return Ok(None) };

        let mut page = Page { events: Vec::new(), next: after.saturating_add(1), limit, bytes_left: bytes_max };
        if let Some(head) = head {
            tables.visit_events(&entity_key, &head, after, &mut |event| page.add(event))?;
        }
        for event in pending.into_iter().flat_map(|pending| pending.events) {
            // What the file held of it is in the page already.
            if event.version == page.next && page.add(event).is_break() {
                break;
            }
        }
        if page.events.is_empty() && after < newest {
            return Err(Error::damaged("events", &entity_key, RowError::Field("an event")));
        }
        let last = page.events.last().map_or(after, |event| event.version);
        Ok(Some(EventsPage { events: page.events, next: (last < newest).then_some(last) }))
    }

    /// One outcome; `None` when it was never stored or has expired. Blocks.
    pub fn outcome(&self, shard: ShardId, lane: Lane, row: u64) -> Result<Option<OutcomeRow>, Error> {
        let look = |queue: &Queue| {
            for layer in [Some(queue.filling()), queue.writing().map(Arc::as_ref)].into_iter().flatten() {
                let Some(pending) = layer.shard(shard) else { continue };
                if row < pending.expired.of(lane) {
                    return Pending::Expired;
                }
                if let Some(outcome) = pending.outcomes.get(&(lane, row)) {
                    return Pending::Stored(outcome.clone());
                }
            }
            Pending::Unknown
        };
        let Some(View { generation, pending, transaction }) = self.view(shard, look)? else { return Ok(None) };
        match pending {
            Pending::Expired => return Ok(None),
            Pending::Stored(outcome) => return Ok(Some(outcome)),
            Pending::Unknown => {}
        }
        file::outcome(&transaction, &layout::outcome_key(shard, generation, lane, row))
    }

    /// Visits every outcome of a shard's window, each lane by ascending row: for rebuilding an index at start. Blocks.
    pub fn outcomes(&self, shard: ShardId, visit: &mut dyn FnMut(OutcomeIndexRow)) -> Result<(), Error> {
        let look = |queue: &Queue| {
            let layers = [queue.writing().map(Arc::as_ref), Some(queue.filling())];
            let layers = || layers.iter().flatten().filter_map(|layer| layer.shard(shard));
            let expired = layers().fold(RowBounds::default(), |expired, layer| expired.max(layer.expired));
            let pending: Vec<_> =
                layers().flat_map(|layer| layer.outcomes.values().map(OutcomeRow::index_row)).collect();
            (expired, pending)
        };
        let Some(View { generation, pending: (expired, pending), transaction }) = self.view(shard, look)? else {
            return Ok(());
        };
        // Rows increase within a lane, so what is pending comes after what the file holds.
        let first_pending = |lane: Lane| pending.iter().filter(|row| row.lane == lane).map(|row| row.row).min();
        let ends = Lane::ALL.map(|lane| first_pending(lane).unwrap_or(u64::MAX));
        file::visit_outcomes(&transaction, shard, generation, &mut |outcome| {
            if (expired.of(outcome.lane)..ends[outcome.lane as usize]).contains(&outcome.row) {
                visit(outcome.index_row());
            }
        })?;
        pending.into_iter().filter(|row| row.row >= expired.of(row.lane)).for_each(visit);
        Ok(())
    }

    /// What `look` takes from the layers, and a transaction on top of which it belongs. `None` when nothing of the shard was
    /// ever written.
    fn view<T>(&self, shard: ShardId, look: impl Fn(&Queue) -> T) -> Result<Option<View<T>>, Error> {
        let generation_now = |queue: &Queue| queue.head(shard).map(|head| head.generation);
        loop {
            let (generation, pending) = {
                let queue = self.shared.queue.lock();
                let Some(generation) = generation_now(&queue) else { return Ok(None) };
                (generation, look(&queue))
            };
            let transaction = self.shared.begin_read()?;
            // Rows of a generation are cleared only after the head has left it.
            if generation_now(&self.shared.queue.lock()) == Some(generation) {
                return Ok(Some(View { generation, pending, transaction }));
            }
        }
    }
}

struct View<T> {
    generation: u32,
    pending: T,
    transaction: ReadTransaction,
}

/// What the layers know of an outcome.
enum Pending {
    Stored(OutcomeRow),
    Expired,
    Unknown,
}

/// What the layers, older first, hold of an entity: with those of its events that are wanted.
fn pending_of(
    layers: &[Option<&Layer>],
    shard: ShardId,
    key: &EntityKey,
    wanted: impl Fn(&StoredEvent) -> bool,
) -> Vec<PendingEntity> {
    let of_layer = |layer: &&Layer| {
        let PendingEntity { version, deleted, events, snapshot } = layer.entity(shard, key)?;
        let events = events.iter().filter(|event| wanted(event)).cloned().collect();
        Some(PendingEntity { version: *version, deleted: *deleted, events, snapshot: snapshot.clone() })
    };
    layers.iter().flatten().filter_map(of_layer).collect()
}

fn read_entity(tables: &Tables, entity_key: &[u8], pending: Vec<PendingEntity>) -> Result<Option<StoredEntity>, Error> {
    let head = tables.head(entity_key)?;
    if head.is_none() && pending.is_empty() {
        return Ok(None);
    }
    let head = head.unwrap_or_default();
    let EntityHead { mut version, mut deleted, mut last_event_time_micros, .. } = head;
    let mut snapshot = tables.snapshot(entity_key, &head)?;
    for pending in &pending {
        if pending.version >= version {
            version = pending.version;
            deleted = pending.deleted;
            last_event_time_micros = pending.events.last().map_or(last_event_time_micros, |event| event.time_micros);
        }
        snapshot = newer(snapshot, pending.snapshot.clone());
    }

    let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.version);
    let mut events = Vec::new();
    tables.visit_events(entity_key, &head, after, &mut |event| {
        events.push(event);
        ControlFlow::Continue(())
    })?;
    for event in pending.into_iter().flat_map(|pending| pending.events) {
        if event.version == after + 1 + events.len() as Version {
            events.push(event);
        }
    }
    if after + events.len() as Version != version {
        return Err(Error::damaged("events", entity_key, RowError::Field("an event")));
    }
    let event_bytes = events.iter().map(StoredEvent::stored_bytes).sum();
    Ok(Some(StoredEntity { version, deleted, last_event_time_micros, snapshot, events, event_bytes }))
}

/// A page that fills up.
struct Page {
    events: Vec<StoredEvent>,
    next: Version,
    limit: usize,
    bytes_left: usize,
}

impl Page {
    fn add(&mut self, event: StoredEvent) -> ControlFlow<()> {
        let bytes = event.stored_bytes() as usize;
        if self.events.len() == self.limit || (bytes > self.bytes_left && !self.events.is_empty()) {
            return ControlFlow::Break(());
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.next = event.version + 1;
        self.events.push(event);
        ControlFlow::Continue(())
    }
}
