//! The store's file: its tables, reading rows out of a transaction and writing a layer into one. Blocking, and without any
//! notion of when: callers decide that. With [`super::generation`], [`super::snapshot`] and [`super::gate`] the only place
//! of the store that names the storage engine.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use berth_shared::ids::{ShardId, Version};
use berth_shared::key::EntityKey;

use super::gate::Gate;
use super::layer::{Layer, PendingEntity, SequenceError, ShardLayer};
use super::layout::{self, EntityHead, RowError};
use super::model::{Lane, OutcomeRow, ShardHead, Snapshot, StoredEvent};
use super::{Config, Error};

pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const SHARDS: Definition = Definition::new("shards");
pub(super) const ENTITIES: Definition = Definition::new("entities");
pub(super) const SNAPSHOTS: Definition = Definition::new("snapshots");
pub(super) const EVENTS: Definition = Definition::new("events");
pub(super) const OUTCOMES: Definition = Definition::new("outcomes");

/// Opens the file, or makes a new one, and brings it to disk: what can be read from here on is durable.
///
/// Without that a process that was killed between writing and syncing a checkpoint could, once started again, read
/// that checkpoint from the page cache and purge its journal up to it, and a power cut would then lose both.
pub(super) fn open(backend: Gate, config: &Config) -> Result<Database, Error> {
    let mut builder = Builder::new();
    builder.set_cache_size(config.cache_bytes).set_check_integrity_on_open(config.check_integrity_on_open);
    let database = builder.create_with_backend(backend).map_err(redb::Error::from)?;
    let transaction = begin_write(&database, Durability::Immediate)?;
    for table in [SHARDS, ENTITIES, SNAPSHOTS, EVENTS, OUTCOMES] {
        transaction.open_table(table).map_err(redb::Error::from)?;
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(database)
}

pub(super) fn begin_write(database: &Database, durability: Durability) -> Result<WriteTransaction, Error> {
    let mut transaction = database.begin_write().map_err(redb::Error::from)?;
    transaction.set_durability(durability).map_err(redb::Error::from)?;
    if let Durability::Immediate = durability {
        // Two phases, so that no mixture of two commits can pass for one; and the state of the page allocator with
        // every checkpoint, so that a start after a crash need not walk the file to find the free pages.
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
    }
    Ok(transaction)
}

pub(super) fn shard_heads(transaction: &ReadTransaction) -> Result<BTreeMap<ShardId, ShardHead>, Error> {
    let table = transaction.open_table(SHARDS).map_err(redb::Error::from)?;
    let mut heads = BTreeMap::new();
    for row in table.range::<&[u8]>(..)? {
        let (key, value) = row?;
        let shard = layout::shard_of_key(key.value()).map_err(|error| Error::damaged("shards", key.value(), error))?;
        let head = layout::decode_shard(key.value(), value.value());
        heads.insert(shard, head.map_err(|error| Error::damaged("shards", key.value(), error))?);
    }
    Ok(heads)
}

/// One consistent view of entities and their histories.
pub(super) struct EntityTables<T> {
    entities: T,
    snapshots: T,
    events: T,
}

pub(super) type Bytes = &'static [u8];

impl EntityTables<ReadOnlyTable<Bytes, Bytes>> {
    pub(super) fn open(transaction: &ReadTransaction) -> Result<Self, Error> {
        let open = |table: Definition| transaction.open_table(table).map_err(redb::Error::from);
        Ok(Self { entities: open(ENTITIES)?, snapshots: open(SNAPSHOTS)?, events: open(EVENTS)? })
    }
}

impl<T: ReadableTable<Bytes, Bytes>> EntityTables<T> {
    pub(super) fn head(&self, entity_key: &[u8]) -> Result<Option<EntityHead>, Error> {
        let Some(row) = self.entities.get(entity_key)? else { return Ok(None) };
        let head = layout::decode_entity(entity_key, row.value());
        head.map(Some).map_err(|error| Error::damaged("entities", entity_key, error))
    }

    /// The snapshot that `head` says there is.
    pub(super) fn snapshot(&self, entity_key: &[u8], head: &EntityHead) -> Result<Option<Snapshot>, Error> {
        if head.snapshot_version == 0 {
            return Ok(None);
        }
        let missing = || Error::damaged("snapshots", entity_key, RowError::Field("the whole row"));
        let row = self.snapshots.get(entity_key)?.ok_or_else(missing)?;
        let snapshot = layout::decode_snapshot(entity_key, row.value());
        let snapshot = snapshot.map_err(|error| Error::damaged("snapshots", entity_key, error))?;
        if snapshot.version != head.snapshot_version {
            return Err(Error::damaged("snapshots", entity_key, RowError::Field("the version its entity names")));
        }
        Ok(Some(snapshot))
    }

    /// Visits the events after version `after` in order until `visit` breaks. Checks that none is missing up to
    /// `head.version`, unless `visit` broke before.
    pub(super) fn visit_events(
        &self,
        entity_key: &[u8],
        head: &EntityHead,
        after: Version,
        visit: &mut dyn FnMut(StoredEvent) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        if after >= head.version {
            return Ok(());
        }
        let lowest = layout::events_key(entity_key, 0);
        let wanted = layout::events_key(entity_key, after + 1);
        let highest = layout::events_key(entity_key, Version::MAX);
        // The row that holds the first wanted event starts at or before it.
        let start = match self.events.range::<&[u8]>(lowest.as_slice()..=wanted.as_slice())?.next_back() {
            Some(row) => row?.0.value().to_vec(),
            None => wanted,
        };
        let mut next = after + 1;
        for row in self.events.range::<&[u8]>(start.as_slice()..=highest.as_slice())? {
            let (key, value) = row?;
            let events = layout::decode_events(key.value(), value.value());
            let events = events.map_err(|error| Error::damaged("events", key.value(), error))?;
            for event in events {
                if event.version < next {
                    continue;
                }
                if event.version != next {
                    return Err(Error::damaged("events", key.value(), RowError::Field("the event before it")));
                }
                next += 1;
                if visit(event).is_break() {
                    return Ok(());
                }
            }
        }
        if next != head.version + 1 {
            return Err(Error::damaged("events", entity_key, RowError::Field("the newest event")));
        }
        Ok(())
    }
}

/// The outcome under a key made by [`layout::outcome_key`].
pub(super) fn outcome(transaction: &ReadTransaction, key: &[u8]) -> Result<Option<OutcomeRow>, Error> {
    let table = transaction.open_table(OUTCOMES).map_err(redb::Error::from)?;
    let Some(row) = table.get(key)? else { return Ok(None) };
    let outcome = layout::decode_outcome(key, row.value());
    outcome.map(Some).map_err(|error| Error::damaged("outcomes", key, error))
}

/// Visits all outcomes of a shard, lane by lane, by ascending row.
pub(super) fn visit_outcomes(
    transaction: &ReadTransaction,
    shard: ShardId,
    generation: u32,
    visit: &mut dyn FnMut(OutcomeRow),
) -> Result<(), Error> {
    let table = transaction.open_table(OUTCOMES).map_err(redb::Error::from)?;
    let lowest = layout::outcome_key(shard, generation, Lane::Gateway, 0);
    let highest = layout::outcome_key(shard, generation, Lane::Client, u64::MAX);
    for row in table.range::<&[u8]>(lowest.as_slice()..=highest.as_slice())? {
        let (key, value) = row?;
        let outcome = layout::decode_outcome(key.value(), value.value());
        visit(outcome.map_err(|error| Error::damaged("outcomes", key.value(), error))?);
    }
    Ok(())
}

/// What one layer came to in the file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Writes `layer` in one transaction that no fsync has to confirm yet.
pub(super) fn write(database: &Database, layer: &Layer) -> Result<Written, Error> {
    let transaction = begin_write(database, Durability::None)?;
    let mut written = Written::default();
    {
        let open = |table: Definition| transaction.open_table(table).map_err(redb::Error::from);
        let tables = EntityTables { entities: open(ENTITIES)?, snapshots: open(SNAPSHOTS)?, events: open(EVENTS)? };
        let mut writer = Writer { shards: open(SHARDS)?, tables, outcomes: open(OUTCOMES)?, written: &mut written };
        // In the order of the keys, so that neighbours meet in the cache.
        let mut shards: Vec<_> = layer.shards.iter().collect();
        shards.sort_unstable_by_key(|(shard, _)| **shard);
        for (shard, changes) in shards {
            writer.shard(*shard, changes)?;
        }
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(written)
}

struct Writer<'t> {
    shards: Table<'t, Bytes, Bytes>,
    tables: EntityTables<Table<'t, Bytes, Bytes>>,
    outcomes: Table<'t, Bytes, Bytes>,
    written: &'t mut Written,
}

impl Writer<'_> {
    fn shard(&mut self, shard: ShardId, changes: &ShardLayer) -> Result<(), Error> {
        let generation = changes.head.generation;
        let keyed = |(key, entity)| (layout::entity_key(shard, generation, key), key, entity);
        let mut entities: Vec<(Vec<u8>, &EntityKey, &PendingEntity)> = changes.entities.iter().map(keyed).collect();
        entities.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        for (entity_key, key, entity) in entities {
            self.entity(&entity_key, key, entity)?;
        }
        self.outcomes(shard, changes)?;
        let key = layout::shard_key(shard);
        insert(&mut self.shards, self.written, &key, &layout::encode_shard(&key, &changes.head))
    }

    fn entity(&mut self, entity_key: &[u8], key: &EntityKey, entity: &PendingEntity) -> Result<(), Error> {
        let before = self.tables.head(entity_key)?.unwrap_or_default();
        if before.version != entity.base_version() {
            let (before, after) = (before.version, entity.version);
            return Err(SequenceError::Version { key: key.clone(), before, after }.into());
        }
        let snapshot = entity.snapshot.as_ref().filter(|snapshot| snapshot.version > before.snapshot_version);
        let head = EntityHead {
            version: entity.version,
            deleted: entity.deleted,
            last_event_time_micros: entity.events.last().map_or(before.last_event_time_micros, |e| e.time_micros),
            snapshot_version: snapshot.map_or(before.snapshot_version, |snapshot| snapshot.version),
        };
        let mut events = entity.events.as_slice();
        while let Some(first) = events.first() {
            let (row, rest) = events.split_at(layout::events_in_first_row(events));
            let events_key = layout::events_key(entity_key, first.version);
            let row = layout::encode_events(&events_key, row);
            insert(&mut self.tables.events, self.written, &events_key, &row)?;
            events = rest;
        }
        if let Some(snapshot) = snapshot {
            let row = layout::encode_snapshot(entity_key, snapshot);
            insert(&mut self.tables.snapshots, self.written, entity_key, &row)?;
        }
        insert(&mut self.tables.entities, self.written, entity_key, &layout::encode_entity(entity_key, &head))
    }

    fn outcomes(&mut self, shard: ShardId, changes: &ShardLayer) -> Result<(), Error> {
        let generation = changes.head.generation;
        for lane in Lane::ALL {
            let lowest = layout::outcome_key(shard, generation, lane, 0);
            let kept = layout::outcome_key(shard, generation, lane, changes.expired.of(lane));
            if lowest != kept {
                self.outcomes.retain_in::<&[u8], _>(lowest.as_slice()..kept.as_slice(), |_, _| false)?;
            }
        }
        for ((lane, row), outcome) in &changes.outcomes {
            let key = layout::outcome_key(shard, generation, *lane, *row);
            insert(&mut self.outcomes, self.written, &key, &layout::encode_outcome(&key, outcome))?;
        }
        Ok(())
    }
}

pub(super) fn insert(
    table: &mut Table<'_, Bytes, Bytes>,
    written: &mut Written,
    key: &[u8],
    row: &[u8],
) -> Result<(), Error> {
    table.insert(key, row)?;
    written.rows += 1;
    written.bytes += (key.len() + row.len()) as u64;
    Ok(())
}
