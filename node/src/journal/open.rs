//! Opens the journal's file: checks all of it and rebuilds the index from its rows.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use berth_shared::ids::{LogIndex, ShardId};

use super::Error;
use super::layout::{self, Metadata};
use super::state::{Recovered, Row, State};
use crate::disk::Backend;

/// Sequence to row.
pub(super) const ROWS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("rows");
/// Shard to what is kept of it besides its entries.
pub(super) const METADATA: TableDefinition<'static, u16, &'static [u8]> = TableDefinition::new("metadata");

/// Blocks.
pub(super) fn open(file: &str, backend: Backend, cache_bytes: usize) -> Result<(Database, State), Error> {
    // A panic of the engine over damaged bytes is one more way of saying that they are damaged.
    catch_unwind(AssertUnwindSafe(|| {
        let database = create(backend, cache_bytes).map_err(|source| Error::database(file, source))?;
        let state = recover(file, &database)?;
        Ok((database, state))
    }))
    .unwrap_or_else(|panic| Err(Error::damaged(file, panic_message(panic.as_ref()))))
}

fn create(backend: Backend, cache_bytes: usize) -> Result<Database, redb::Error> {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    let database = builder.create_with_backend(backend)?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(ROWS)?;
    transaction.open_table(METADATA)?;
    transaction.commit()?;
    Ok(database)
}

/// What was found of one shard.
#[derive(Default)]
struct Found {
    metadata: Metadata,
    rows: BTreeMap<LogIndex, Row>,
}

fn recover(file: &str, database: &Database) -> Result<State, Error> {
    let (shards, next_sequence) = read_all(file, database)?;
    let mut logs = Vec::with_capacity(shards.len());
    for (shard, found) in shards {
        logs.push((shard, check_log(file, shard, found)?));
    }
    Ok(State::recovered(logs, next_sequence))
}

fn read_all(file: &str, database: &Database) -> Result<(BTreeMap<ShardId, Found>, u64), Error> {
    let failed = |source: redb::Error| Error::database(file, source);
    let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
    let mut shards: BTreeMap<ShardId, Found> = BTreeMap::new();
    let mut next_sequence = 0;
    let rows = transaction.open_table(ROWS).map_err(|e| failed(e.into()))?;
    for row in rows.iter().map_err(|e| failed(e.into()))? {
        let (key, value) = row.map_err(|e| failed(e.into()))?;
        let sequence = key.value();
        let header = layout::read_header(sequence, value.value())
            .map_err(|why| Error::damaged(file, format!("row {sequence} is not valid: {why}")))?;
        let row = Row { sequence, term: header.log_id.term, bytes: value.value().len() as u32 };
        let index = header.log_id.index;
        if let Some(other) = shards.entry(header.shard).or_default().rows.insert(index, row) {
            let what =
                format!("rows {} and {sequence} are both entry {index} of shard {}", other.sequence, header.shard);
            return Err(Error::damaged(file, what));
        }
        next_sequence = sequence + 1;
    }
    let metadata = transaction.open_table(METADATA).map_err(|e| failed(e.into()))?;
    for row in metadata.iter().map_err(|e| failed(e.into()))? {
        let (key, value) = row.map_err(|e| failed(e.into()))?;
        let shard = ShardId(key.value());
        shards.entry(shard).or_default().metadata = layout::read_metadata(shard, value.value())
            .map_err(|why| Error::damaged(file, format!("the metadata of shard {shard} is not valid: {why}")))?;
    }
    Ok((shards, next_sequence))
}

/// A log has no gaps, and begins after what was purged.
fn check_log(file: &str, shard: ShardId, found: Found) -> Result<Recovered, Error> {
    let purged_end = found.metadata.purged.map(|purged| purged.index + 1);
    let first = found.rows.keys().next().copied().or(purged_end).unwrap_or(0);
    if purged_end.is_some_and(|end| end != first) {
        let what = format!("shard {shard} is purged up to {:?}, but begins at {first}", found.metadata.purged);
        return Err(Error::damaged(file, what));
    }
    let mut rows = VecDeque::with_capacity(found.rows.len());
    for ((index, row), expected) in found.rows.into_iter().zip(first..) {
        if index != expected {
            return Err(Error::damaged(file, format!("shard {shard} has no entry {expected}, but entry {index}")));
        }
        rows.push_back(row);
    }
    Ok(Recovered { metadata: found.metadata, first, rows })
}

pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the storage engine panicked: {}", text.unwrap_or("without a message"))
}
