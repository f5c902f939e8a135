//! What goes into the store and comes out of it. Plain values; nothing here knows how they are stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use berth_shared::ids::{LogId, LogIndex, ShardId, Version};
use berth_shared::key::EntityKey;

use crate::record::{Fingerprint, Outcome, Scope};

/// What applying some log entries of one shard changed. Becomes durable as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Changes {
    pub shard: ShardId,
    /// The shard's head after these changes.
    pub head: ShardHead,
    pub entities: Vec<EntityChange>,
    pub outcomes: Vec<OutcomeRow>,
    /// Outcomes below these rows are forgotten.
    pub expired: RowBounds,
}

/// How far a shard has been applied, and what goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardHead {
    /// The last log entry whose effects the store holds.
    pub applied: Option<LogId>,
    pub membership: Membership,
    /// The shard's replicated clock, microseconds since 1970, strictly increasing.
    pub shard_time_micros: u64,
    /// Incremental hash of everything applied; equal on all replicas at equal applied index.
    pub content_hash: u128,
    /// Older values of `content_hash`, so that replicas can be compared while they run at different indexes.
    pub hash_marks: HashMarks,
    /// How often an operator has recovered this shard from a lost quorum.
    pub incarnation: u32,
    /// Which generation of rows is this shard's content. A snapshot is installed as a generation of its own.
    pub generation: u32,
    /// The applied entry of the snapshot that this generation began with; `None` where everything was applied here.
    pub installed: Option<LogId>,
}

/// The voters and learners of a shard's group, opaque here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The entry that set it.
    pub log_id: Option<LogId>,
    pub bytes: Bytes,
}

/// Content hashes at earlier indexes, ascending, at most [`HashMarks::COUNT_MAX`]. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashMarks(Arc<[HashMark]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashMark {
    pub index: LogIndex,
    pub content_hash: u128,
}

/// What happened to one entity.
#[derive(Clone, Debug)]
pub struct EntityChange {
    pub key: EntityKey,
    /// The entity's version after this change.
    pub version: Version,
    /// Whether the entity is deleted after this change.
    pub deleted: bool,
    /// Consecutive; the last one's version is `version`. Empty when only a snapshot was taken.
    pub events: Vec<StoredEvent>,
    /// State at some version up to `version`. Replaces an older snapshot; an older one than the stored is ignored.
    pub snapshot: Option<Snapshot>,
}

/// An entity's state at a version, JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub version: Version,
    pub state: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub version: Version,
    /// Microseconds since 1970, strictly increasing in a shard.
    pub time_micros: u64,
    pub event_type: Bytes,
    /// JSON.
    pub data: Bytes,
}

/// All that is needed to bring an entity back to memory: fold `events` over the state in `snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntity {
    pub version: Version,
    pub deleted: bool,
    pub last_event_time_micros: u64,
    pub snapshot: Option<Snapshot>,
    /// Every event after the snapshot. How many there can be is up to who takes the snapshots.
    pub events: Vec<StoredEvent>,
    /// Stored size of `events`.
    pub event_bytes: u64,
}

/// A part of an entity's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsPage {
    pub events: Vec<StoredEvent>,
    /// The `after` of the next page, if there is one.
    pub next: Option<Version>,
}

/// The idempotency window is kept in lanes, in each of which outcomes expire in the order in which they were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Keys made by gateways, kept minutes.
    Gateway = 0,
    /// Keys given by clients, kept hours.
    Client = 1,
}

/// An outcome that is replayed to a retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeRow {
    pub lane: Lane,
    /// Increases within a lane and is never used again.
    pub row: u64,
    pub scope: Scope,
    pub fingerprint: Fingerprint,
    /// In shard time.
    pub expires_micros: u64,
    /// The entity's version when this was decided.
    pub version: Version,
    pub outcome: Outcome,
}

/// What an index in memory needs to know of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeIndexRow {
    pub lane: Lane,
    pub row: u64,
    pub scope: Scope,
    pub expires_micros: u64,
}

/// A row number for each lane; 0 is below all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowBounds {
    pub gateway: u64,
    pub client: u64,
}

/// What a power cut can no longer take away: the last applied entry of every shard that has one. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpointed {
    pub applied: Arc<BTreeMap<ShardId, LogId>>,
}

impl ShardHead {
    /// Whether nothing was applied here after a snapshot was installed. Only then may the journal end before `applied`: see
    /// the room's section on snapshots. Any other store that is ahead of its journal shows that the journal was lost.
    pub fn is_as_installed(&self) -> bool {
        self.applied.is_some() && self.applied == self.installed
    }
}

impl HashMarks {
    pub const COUNT_MAX: usize = 64;

    /// Adds the newest mark, dropping the oldest when there are too many.
    pub fn push(&mut self, mark: HashMark) {
        debug_assert!(self.0.last().is_none_or(|last| last.index < mark.index), "marks ascend");
        let drop = (self.0.len() + 1).saturating_sub(Self::COUNT_MAX);
        self.0 = self.0[drop..].iter().copied().chain([mark]).collect();
    }

    pub fn as_slice(&self) -> &[HashMark] {
        &self.0
    }
}

impl Default for HashMarks {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl FromIterator<HashMark> for HashMarks {
    /// Keeps the last [`HashMarks::COUNT_MAX`].
    fn from_iter<I: IntoIterator<Item = HashMark>>(marks: I) -> Self {
        let marks: Vec<_> = marks.into_iter().collect();
        Self(marks[marks.len().saturating_sub(Self::COUNT_MAX)..].into())
    }
}

impl StoredEvent {
    /// Bytes this event takes in the store.
    pub fn stored_bytes(&self) -> u64 {
        (13 + self.event_type.len() + self.data.len()) as u64
    }
}

impl OutcomeRow {
    pub fn index_row(&self) -> OutcomeIndexRow {
        OutcomeIndexRow { lane: self.lane, row: self.row, scope: self.scope, expires_micros: self.expires_micros }
    }
}

impl Lane {
    pub const ALL: [Self; 2] = [Self::Gateway, Self::Client];
}

impl RowBounds {
    pub fn of(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Gateway => self.gateway,
            Lane::Client => self.client,
        }
    }

    /// The higher bound of both in each lane.
    pub fn max(self, other: Self) -> Self {
        Self { gateway: self.gateway.max(other.gateway), client: self.client.max(other.client) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_hash_marks_are_kept() {
        let mut marks = HashMarks::default();
        for index in 0..100 {
            marks.push(HashMark { index, content_hash: u128::from(index) });
        }
        let kept: Vec<_> = marks.as_slice().iter().map(|mark| mark.index).collect();
        assert_eq!(kept, (36..100).collect::<Vec<_>>());
        assert_eq!(marks, (0..100).map(|index| HashMark { index, content_hash: u128::from(index) }).collect());
    }
}
