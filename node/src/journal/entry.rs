//! What a shard's Raft log is made of.

use std::sync::Arc;

use bytes::Bytes;

use berth_shared::ids::{LogId, NodeId, ShardId, Term};

use crate::record::{Batch, Record};

/// One entry of a shard's log. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub log_id: LogId,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// What a new leader begins its term with.
    Blank,
    /// Decided records, decoded, so that applying recent entries decodes nothing.
    Batch(Arc<Batch>),
    /// Who belongs to the group, in whatever encoding the consensus adapter uses.
    Membership(Bytes),
}

/// Whom this node votes for in a shard's group, or whom it takes for its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    pub term: Term,
    pub node: NodeId,
    /// Whether a majority voted so.
    pub committed: bool,
}

/// Where a shard's log begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    pub last_purged: Option<LogId>,
    /// The newest entry; when there is none, the last purged one.
    pub last: Option<LogId>,
}

/// What a shard's log takes on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSize {
    pub shard: ShardId,
    pub entries: u64,
    pub bytes: u64,
    /// How many rows the node has written, of all shards together, since the first entry of this log was written or moved.
    pub age: u64,
}

impl Entry {
    /// About how much memory the entry takes.
    pub(super) fn memory_bytes(&self) -> usize {
        let payload = match &self.payload {
            Payload::Blank => 0,
            Payload::Batch(batch) => batch.bytes().len() + std::mem::size_of_val(batch.records()) + size_of::<Batch>(),
            Payload::Membership(bytes) => bytes.len(),
        };
        let keys = match &self.payload {
            Payload::Batch(batch) => batch.records().iter().map(key_memory_bytes).sum(),
            Payload::Blank | Payload::Membership(_) => 0,
        };
        size_of::<Self>() + payload + keys
    }
}

fn key_memory_bytes(record: &Record) -> usize {
    record.key.as_str().len() + 2 * size_of::<usize>()
}
