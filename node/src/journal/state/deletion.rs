//! How a shard's log is deleted: at once for readers, and bit by bit in the file, so that no commit has much to do for it.
//! What binds the node beyond the replica's life stays: its vote, and how far its log went.

use std::io;

use berth_shared::ids::{LogId, ShardId};

use super::super::layout::{Deletion, Metadata};
use super::{Callback, Log, Row, State, TailEntry};

/// Rows, and about so many bytes, that one transaction deletes of a replica that is no more. They may be on pages of their own,
/// each of which the transaction writes anew.
const DELETED_ROWS_MAX: usize = 256;
const DELETED_BYTES_MAX: u64 = 1 << 20;

impl State {
    /// Shards whose deletion has begun and is not done.
    pub(in super::super) fn deleting(&self) -> Vec<ShardId> {
        self.shards_where(Log::is_being_deleted)
    }

    /// From here on there is no replica of `shard`, whose store went up to `applied`. Does nothing where there was none, or
    /// where its deletion has begun already. `done` is called when it is on disk.
    pub(in super::super) fn begin_delete(
        &mut self,
        shard: ShardId,
        applied: Option<LogId>,
        done: Callback,
    ) -> io::Result<()> {
        self.when_flushed(done)?;
        let log = self.shards.entry(shard).or_default();
        if log.is_being_deleted() || (!log.is_replica() && applied.is_none()) {
            return Ok(());
        }
        let Metadata { vote, purged, floor, .. } = log.metadata;
        let floor = log.last().max(purged).max(applied).max(floor);
        log.metadata = Metadata { vote, floor, deletion: Deletion::Begun, ..Metadata::default() };
        let forgotten: Vec<TailEntry> = log.tail.drain(..).collect();
        self.queue.metadata.insert(shard);
        self.remove(shard, &[], &forgotten);
        Ok(())
    }

    /// Deletes some rows of a shard whose deletion has begun, the oldest first. Returns whether some are left; else the deletion
    /// is done. `done` is called when it is on disk.
    pub(in super::super) fn delete_some(&mut self, shard: ShardId, done: Callback) -> io::Result<bool> {
        self.when_flushed(done)?;
        let Some(log) = self.shards.get_mut(&shard).filter(|log| log.is_being_deleted()) else { return Ok(false) };
        let mut bytes = 0;
        let some = log.rows.iter().take(DELETED_ROWS_MAX).take_while(|row| {
            let is_within = bytes < DELETED_BYTES_MAX;
            bytes += u64::from(row.bytes);
            is_within
        });
        let count = some.count();
        let removed: Vec<Row> = log.rows.drain(..count).collect();
        log.first += count as u64;
        let is_left = !log.rows.is_empty();
        if !is_left {
            log.rows.shrink_to_fit();
            log.metadata.deletion = Deletion::Done;
            self.queue.metadata.insert(shard);
        }
        self.remove(shard, &removed, &[]);
        Ok(is_left)
    }

    /// Before anything of a replica is written. One that was deleted here begins anew; one that is being deleted must be gone
    /// first.
    pub(super) fn begin_replica(&mut self, shard: ShardId) -> io::Result<()> {
        let log = self.shards.entry(shard).or_default();
        match log.metadata.deletion {
            Deletion::None => Ok(()),
            Deletion::Begun => Err(io::Error::other(format!("the replica of shard {shard} is being deleted"))),
            Deletion::Done => {
                log.metadata.deletion = Deletion::None;
                self.queue.metadata.insert(shard);
                Ok(())
            }
        }
    }
}

impl Log {
    fn is_being_deleted(&self) -> bool {
        self.metadata.deletion == Deletion::Begun
    }
}
