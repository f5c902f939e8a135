//! Generations in the file: writing the rows of one that is being staged, making one the shard's, and clearing those that
//! no head names. Blocking, and without any notion of when.

use std::collections::{BTreeMap, BTreeSet};

use redb::{Database, Durability, ReadTransaction, ReadableTable};

use berth_shared::ids::ShardId;

use super::Error;
use super::chunk::FileRow;
use super::file::{self, ENTITIES, EVENTS, OUTCOMES, SHARDS, SNAPSHOTS, Written};
use super::layout::{self, Row};
use super::model::ShardHead;

/// Rows and bytes cleared in one transaction; one row may be larger.
const CLEARED_ROWS_MAX: usize = 1024;
const CLEARED_BYTES_MAX: usize = 1 << 20;

/// Writes rows in one transaction that no fsync has to confirm yet. Nobody reads them before a head names their generation.
pub(super) fn stage(database: &Database, rows: &[FileRow]) -> Result<Written, Error> {
    let transaction = file::begin_write(database, Durability::None)?;
    let mut written = Written::default();
    for (kind, table) in
        [(Row::Entity, ENTITIES), (Row::Snapshot, SNAPSHOTS), (Row::Events, EVENTS), (Row::Outcome, OUTCOMES)]
    {
        let mut table = transaction.open_table(table).map_err(redb::Error::from)?;
        for FileRow { key, row, .. } in rows.iter().filter(|row| row.kind == kind) {
            file::insert(&mut table, &mut written, key, row)?;
        }
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(written)
}

/// Makes everything written so far durable, and with it `heads` the heads of their shards.
pub(super) fn sync(database: &Database, heads: &BTreeMap<ShardId, ShardHead>) -> Result<(), Error> {
    let transaction = file::begin_write(database, Durability::Immediate)?;
    if !heads.is_empty() {
        let mut table = transaction.open_table(SHARDS).map_err(redb::Error::from)?;
        for (shard, head) in heads {
            let key = layout::shard_key(*shard);
            file::insert(&mut table, &mut Written::default(), &key, &layout::encode_shard(&key, head))?;
        }
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

/// Generations of which the file holds rows, and that are not their shard's content.
pub(super) fn orphans(
    transaction: &ReadTransaction,
    heads: &BTreeMap<ShardId, ShardHead>,
) -> Result<BTreeSet<(ShardId, u32)>, Error> {
    let mut found = BTreeSet::new();
    for (kind, table) in
        [(Row::Entity, ENTITIES), (Row::Snapshot, SNAPSHOTS), (Row::Events, EVENTS), (Row::Outcome, OUTCOMES)]
    {
        let table = transaction.open_table(table).map_err(redb::Error::from)?;
        let mut from = Vec::new();
        // One look per generation, not one per row.
        while let Some(row) = table.range::<&[u8]>(from.as_slice()..)?.next() {
            let (key, _) = row?;
            let generation = layout::generation_of_key(key.value());
            let (shard, generation) = generation.map_err(|error| Error::damaged(kind.table(), key.value(), error))?;
            found.insert((shard, generation));
            from = layout::end_of_generation(layout::generation_key(shard, generation)).to_vec();
        }
    }
    found.retain(|(shard, generation)| heads.get(shard).is_none_or(|head| head.generation != *generation));
    Ok(found)
}

/// How far one turn of clearing came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cleared {
    pub(super) bytes: usize,
    /// Nothing of the generation is left.
    pub(super) is_all: bool,
}

/// Deletes some rows of a generation, in one transaction that no fsync has to confirm.
pub(super) fn clear(database: &Database, shard: ShardId, generation: u32) -> Result<Cleared, Error> {
    let transaction = file::begin_write(database, Durability::None)?;
    let first = layout::generation_key(shard, generation);
    let end = layout::end_of_generation(first);
    let (mut rows, mut bytes, mut is_all) = (0, 0, true);
    for table in [ENTITIES, SNAPSHOTS, EVENTS, OUTCOMES] {
        let mut table = transaction.open_table(table).map_err(redb::Error::from)?;
        let mut keys = Vec::new();
        for row in table.range::<&[u8]>(first.as_slice()..end.as_slice())? {
            if rows >= CLEARED_ROWS_MAX || bytes >= CLEARED_BYTES_MAX {
                is_all = false;
                break;
            }
            let (key, row) = row?;
            rows += 1;
            bytes += key.value().len() + row.value().len();
            keys.push(key.value().to_vec());
        }
        for key in keys {
            table.remove(key.as_slice())?;
        }
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(Cleared { bytes, is_all })
}
