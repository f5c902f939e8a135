//! Reading a shard as a whole, to send it to another node: one transaction, whose own head says what it is the snapshot of.
//! Blocking work goes through the task seam; with what the layers hold it has nothing to do.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{AccessGuard, Range, ReadOnlyTable, ReadTransaction};

use berth_shared::ids::ShardId;
use berth_shared::seam::Spawner;

use super::chunk::{CHUNK_BYTES_MAX, ChunkBuilder, Content};
use super::file::{self, Definition, ENTITIES, EVENTS, OUTCOMES, SHARDS, SNAPSHOTS};
use super::layout::{self, Row, RowError};
use super::model::ShardHead;
use super::{Error, Store};

/// One shard at one moment. While this lives the file keeps that moment's pages, so read it soon, or drop it.
pub struct SnapshotReader {
    source: Arc<Source>,
    cursor: Cursor,
    spawner: Spawner,
}

impl Store {
    /// The shard as it is now: everything that was written until now is part of it, and maybe more, as the head tells. It is
    /// not durable for that.
    pub async fn snapshot(&self, shard: ShardId) -> Result<SnapshotReader, Error> {
        self.bring_to_file(shard).await?;
        let Self { shared, .. } = self.clone();
        let (spawner, number) = (shared.seams.spawner, shared.seams.random.next_u64());
        let source = spawner.blocking(move || Source::open(&shared.begin_read()?, shard, number)).await?;
        let cursor = Cursor { number: 0, last: None, content: Content::new(shard), is_ended: false };
        Ok(SnapshotReader { source: Arc::new(source), cursor, spawner })
    }

    /// Returns when everything that was written of `shard` is in the file, durable or not.
    pub(super) async fn bring_to_file(&self, shard: ShardId) -> Result<(), Error> {
        let wanted = {
            let mut queue = self.shared.queue.lock();
            queue.check_open()?;
            queue.want_in_file(shard)
        };
        let Some(number) = wanted else { return Ok(()) };
        self.shared.work.notify_one();
        loop {
            // Made before looking, so that progress made in between is noticed.
            let progress = self.shared.progress.notified();
            {
                let queue = self.shared.queue.lock();
                queue.check_open()?;
                if queue.is_in_file(number) {
                    return Ok(());
                }
            }
            progress.await;
        }
    }
}

impl SnapshotReader {
    /// What this is the snapshot of. Its generation counts on this node only.
    pub fn head(&self) -> &ShardHead {
        &self.source.head
    }

    /// The next part, of at most about 1 MiB; `None` when all were given. A call that is given up, or that failed, can be
    /// repeated: it gives the same part.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if self.cursor.is_ended {
            return Ok(None);
        }
        let (source, cursor) = (self.source.clone(), self.cursor.clone());
        let (chunk, cursor) = self.spawner.blocking(move || source.chunk(cursor)).await?;
        self.cursor = cursor;
        Ok(Some(chunk))
    }
}

/// How far a reader has come.
#[derive(Clone, Debug)]
struct Cursor {
    /// Of the next chunk.
    number: u32,
    /// The last row that was given, by table and key.
    last: Option<(Row, Vec<u8>)>,
    content: Content,
    is_ended: bool,
}

type Table = ReadOnlyTable<file::Bytes, file::Bytes>;

/// The tables at the snapshot's moment. Their transaction ends when this is dropped.
struct Source {
    shard: ShardId,
    /// Tells this snapshot's chunks from those of others.
    number: u64,
    chunk_bytes_max: usize,
    head: ShardHead,
    head_row: Vec<u8>,
    entities: Table,
    snapshots: Table,
    events: Table,
    outcomes: Table,
}

impl Source {
    fn open(transaction: &ReadTransaction, shard: ShardId, number: u64) -> Result<Self, Error> {
        let open = |table: Definition| transaction.open_table(table).map_err(redb::Error::from);
        let key = layout::shard_key(shard);
        let head_row =
            open(SHARDS)?.get(key.as_slice())?.map(|row| row.value().to_vec()).ok_or(Error::Absent(shard))?;
        let head = layout::decode_shard(&key, &head_row).map_err(|error| Error::damaged("shards", &key, error))?;
        let (entities, snapshots, events) = (open(ENTITIES)?, open(SNAPSHOTS)?, open(EVENTS)?);
        let (outcomes, chunk_bytes_max) = (open(OUTCOMES)?, CHUNK_BYTES_MAX);
        Ok(Self { shard, number, chunk_bytes_max, head, head_row, entities, snapshots, events, outcomes })
    }

    fn chunk(&self, mut cursor: Cursor) -> Result<(Bytes, Cursor), Error> {
        let mut chunk = ChunkBuilder::new(self.number, cursor.number, self.chunk_bytes_max);
        if cursor.last.is_none() {
            let key = layout::shard_key(self.shard);
            cursor.content.next(Row::Shard, &key, &self.head_row)?;
            chunk.add(Row::Shard, &key, &self.head_row).map_err(|error| Error::damaged("shards", &key, error))?;
            cursor.last = Some((Row::Shard, Vec::new()));
        }
        let mut rows = Rows::after(self, cursor.last.as_ref())?;
        while let Some((kind, key, row)) = rows.first()? {
            let damaged = |error| Error::damaged(kind.table(), key, error);
            if !chunk.add(kind, key, row).map_err(damaged)? {
                break;
            }
            cursor.content.next(kind, key, row)?;
            cursor.last = Some((kind, key.to_vec()));
            rows.advance(kind)?;
        }
        cursor.is_ended = rows.first()?.is_none();
        if cursor.is_ended {
            cursor.content.check_whole()?;
        }
        cursor.number += 1;
        Ok((chunk.finish(cursor.is_ended), cursor))
    }
}

/// The rows of a generation in the order in which they are sent: each entity's head, snapshot and events, entity after entity,
/// then the outcomes. The first three tables are in the order of entities, so walking them abreast reads each once.
struct Rows {
    entities: Walk,
    snapshots: Walk,
    events: Walk,
    outcomes: Walk,
}

/// Table, key and row.
type FirstRow<'r> = (Row, &'r [u8], &'r [u8]);

impl Rows {
    fn after(source: &Source, last: Option<&(Row, Vec<u8>)>) -> Result<Self, Error> {
        let first = layout::generation_key(source.shard, source.head.generation);
        let end = layout::end_of_generation(first);
        let (all, none) = (Bound::Included(first.as_slice()), Bound::Excluded(end.as_slice()));
        let [entities, snapshots, events, outcomes] = match last {
            None | Some((Row::Shard, _)) => [all, all, all, all],
            Some((Row::Entity, key)) => {
                [Bound::Excluded(key.as_slice()), Bound::Included(key), Bound::Included(key), all]
            }
            Some((Row::Snapshot, key)) => {
                [Bound::Excluded(key.as_slice()), Bound::Excluded(key), Bound::Included(key), all]
            }
            Some((Row::Events, key)) => {
                let damaged = |error| Error::damaged("events", key, error);
                let entity_key = Bound::Excluded(layout::entity_of_events_key(key).map_err(damaged)?);
                [entity_key, entity_key, Bound::Excluded(key), all]
            }
            Some((Row::Outcome, key)) => [none, none, none, Bound::Excluded(key)],
        };
        Ok(Self {
            entities: Walk::from(&source.entities, entities, &end)?,
            snapshots: Walk::from(&source.snapshots, snapshots, &end)?,
            events: Walk::from(&source.events, events, &end)?,
            outcomes: Walk::from(&source.outcomes, outcomes, &end)?,
        })
    }

    fn first(&self) -> Result<Option<FirstRow<'_>>, Error> {
        let entity = self.entities.row().map(|(key, row)| (key, Row::Entity, key, row));
        let snapshot = self.snapshots.row().map(|(key, row)| (key, Row::Snapshot, key, row));
        let events = match self.events.row() {
            Some((key, row)) => {
                let damaged = |error: RowError| Error::damaged("events", key, error);
                Some((layout::entity_of_events_key(key).map_err(damaged)?, Row::Events, key, row))
            }
            None => None,
        };
        let of_entities = [entity, snapshot, events].into_iter().flatten();
        let first = of_entities.min_by_key(|(entity_key, kind, ..)| (*entity_key, *kind as u8));
        let outcome = || self.outcomes.row().map(|(key, row)| (Row::Outcome, key, row));
        Ok(first.map(|(_, kind, key, row)| (kind, key, row)).or_else(outcome))
    }

    fn advance(&mut self, kind: Row) -> Result<(), Error> {
        match kind {
            Row::Shard => Ok(()),
            Row::Entity => self.entities.advance(),
            Row::Snapshot => self.snapshots.advance(),
            Row::Events => self.events.advance(),
            Row::Outcome => self.outcomes.advance(),
        }
    }
}

type Guard = AccessGuard<'static, file::Bytes>;

/// One table's rows, the next of which can be looked at.
struct Walk {
    rest: Range<'static, file::Bytes, file::Bytes>,
    row: Option<(Guard, Guard)>,
}

impl Walk {
    fn from(table: &Table, start: Bound<&[u8]>, end: &[u8]) -> Result<Self, Error> {
        let mut walk = Self { rest: table.range::<&[u8]>((start, Bound::Excluded(end)))?, row: None };
        walk.advance()?;
        Ok(walk)
    }

    fn row(&self) -> Option<(&[u8], &[u8])> {
        self.row.as_ref().map(|(key, row)| (key.value(), row.value()))
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.row = self.rest.next().transpose()?;
        Ok(())
    }
}

#[cfg(test)]
impl SnapshotReader {
    /// The same with smaller chunks, so that a small shard has many.
    pub(super) fn in_chunks_of(mut self, bytes_max: usize) -> Self {
        if let Some(source) = Arc::get_mut(&mut self.source) {
            source.chunk_bytes_max = bytes_max;
        }
        self
    }
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source { shard, head, .. } = &*self.source;
        f.debug_struct("SnapshotReader").field("shard", shard).field("head", head).finish_non_exhaustive()
    }
}
