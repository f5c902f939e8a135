//! Changes that are not in the file yet: checked, merged, and readable at once. Pure: it holds no lock and does no I/O.
//!
//! There are at most two layers at a time, the one that fills and the one that is being written, and readers put them on
//! top of what the file holds.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use berth_shared::ids::{ShardId, Version};
use berth_shared::key::EntityKey;

use super::model::{Changes, EntityChange, Lane, OutcomeRow, RowBounds, ShardHead, Snapshot, StoredEvent};

/// What an entry takes in memory beside its own bytes, roughly; so that many small ones count too.
const ENTRY_BYTES: usize = 128;

/// Why changes cannot follow what is there already. They were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error("applied goes back from {before:?} to {after:?}")]
    Applied { before: Option<berth_shared::ids::LogId>, after: Option<berth_shared::ids::LogId> },
    #[error("generation {after} does not follow {before}")]
    Generation { before: u32, after: u32 },
    #[error("a snapshot of shard {0} is being installed")]
    Installing(ShardId),
    #[error("{key}: events up to version {after} do not follow version {before}")]
    Version { key: EntityKey, before: Version, after: Version },
    #[error("{key}: its events are not numbered one after the other up to version {version}")]
    Events { key: EntityKey, version: Version },
    #[error("{key}: a snapshot at version {snapshot} of an entity at version {version}")]
    Snapshot { key: EntityKey, snapshot: Version, version: Version },
    #[error("a field of {0} is longer than its row can hold")]
    TooLong(&'static str),
}

#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) shards: HashMap<ShardId, ShardLayer>,
    /// An upper estimate of the memory held.
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct ShardLayer {
    pub(super) head: ShardHead,
    /// Ordered, so that those of a kind that begin alike are found without a look at the others.
    pub(super) entities: BTreeMap<EntityKey, PendingEntity>,
    pub(super) outcomes: BTreeMap<(Lane, u64), OutcomeRow>,
    pub(super) expired: RowBounds,
}

#[derive(Clone, Debug)]
pub(super) struct PendingEntity {
    pub(super) version: Version,
    pub(super) deleted: bool,
    /// Invariant: consecutive, and the last one, if any, has version `version`.
    pub(super) events: Vec<StoredEvent>,
    pub(super) snapshot: Option<Snapshot>,
}

impl Layer {
    pub(super) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    pub(super) fn shard(&self, shard: ShardId) -> Option<&ShardLayer> {
        self.shards.get(&shard)
    }

    pub(super) fn entity(&self, shard: ShardId, key: &EntityKey) -> Option<&PendingEntity> {
        self.shards.get(&shard)?.entities.get(key)
    }

    /// Merges `changes`. They have passed [`Layer::check`].
    pub(super) fn add(&mut self, changes: Changes) {
        self.bytes += bytes_of(&changes);
        let shard = self.shards.entry(changes.shard).or_default();
        shard.head = changes.head;
        for change in changes.entities {
            shard.add_entity(change);
        }
        shard.expired = shard.expired.max(changes.expired);
        for row in changes.outcomes {
            shard.outcomes.insert((row.lane, row.row), row);
        }
        shard.forget_expired();
    }
}

/// Whether `changes` are sound in themselves and follow what waits already: `pending` knows its versions.
pub(super) fn check(changes: &Changes, pending: impl Fn(&EntityKey) -> Option<Version>) -> Result<(), SequenceError> {
    if changes.outcomes.iter().any(|row| row.outcome.reason.len() > usize::from(u8::MAX)) {
        return Err(SequenceError::TooLong("an outcome"));
    }
    // An entity may come more than once; each time must follow the time before.
    let mut versions: HashMap<&EntityKey, Version> = HashMap::with_capacity(changes.entities.len());
    for change in &changes.entities {
        change.check()?;
        let before = versions.insert(&change.key, change.version).or_else(|| pending(&change.key));
        change.check_follows(before)?;
    }
    Ok(())
}

impl ShardLayer {
    /// Outcomes that expire before they were ever written need not be written at all.
    fn forget_expired(&mut self) {
        for lane in Lane::ALL {
            let expired = (lane, 0)..(lane, self.expired.of(lane));
            while let Some(key) = self.outcomes.range(expired.clone()).next().map(|(key, _)| *key) {
                self.outcomes.remove(&key);
            }
        }
    }

    fn add_entity(&mut self, change: EntityChange) {
        let EntityChange { key, version, deleted, events, snapshot } = change;
        match self.entities.get_mut(&key) {
            Some(pending) => {
                pending.version = version;
                pending.deleted = deleted;
                pending.events.extend(events);
                pending.snapshot = newer(pending.snapshot.take(), snapshot);
            }
            None => {
                self.entities.insert(key, PendingEntity { version, deleted, events, snapshot });
            }
        }
    }
}

impl PendingEntity {
    /// The version in the file that these changes follow.
    pub(super) fn base_version(&self) -> Version {
        self.version - self.events.len() as Version
    }
}

impl EntityChange {
    fn check(&self) -> Result<(), SequenceError> {
        let first = self.version.checked_sub(self.events.len() as Version);
        let numbered = |first: Version| self.events.iter().zip(first + 1..).all(|(event, at)| event.version == at);
        if self.version == 0 || !first.is_some_and(numbered) {
            return Err(SequenceError::Events { key: self.key.clone(), version: self.version });
        }
        if self.events.iter().any(|event| event.event_type.len() > usize::from(u8::MAX)) {
            return Err(SequenceError::TooLong("an event type"));
        }
        match &self.snapshot {
            Some(snapshot) if snapshot.version == 0 || snapshot.version > self.version => {
                let (key, snapshot) = (self.key.clone(), snapshot.version);
                Err(SequenceError::Snapshot { key, snapshot, version: self.version })
            }
            _ => Ok(()),
        }
    }

    fn check_follows(&self, before: Option<Version>) -> Result<(), SequenceError> {
        match before {
            Some(before) if before != self.version - self.events.len() as Version => {
                Err(SequenceError::Version { key: self.key.clone(), before, after: self.version })
            }
            _ => Ok(()),
        }
    }
}

/// The snapshot of the higher version.
pub(super) fn newer(one: Option<Snapshot>, other: Option<Snapshot>) -> Option<Snapshot> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.version > other.version { one } else { other }),
        (one, other) => one.or(other),
    }
}

fn bytes_of(changes: &Changes) -> usize {
    let entities: usize = changes.entities.iter().map(entity_bytes).sum();
    let outcome = |row: &OutcomeRow| ENTRY_BYTES + row.outcome.reply.len() + row.outcome.reason.len();
    let outcomes: usize = changes.outcomes.iter().map(outcome).sum();
    ENTRY_BYTES + changes.head.membership.bytes.len() + entities + outcomes
}

fn entity_bytes(change: &EntityChange) -> usize {
    let event = |event: &StoredEvent| ENTRY_BYTES / 2 + event.event_type.len() + event.data.len();
    let events: usize = change.events.iter().map(event).sum();
    let snapshot = change.snapshot.as_ref().map_or(0, |snapshot| snapshot.state.len());
    ENTRY_BYTES + change.key.as_str().len() + events + snapshot
}
