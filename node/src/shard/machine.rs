//! The machine of a shard: what applying a log entry does, alike on every replica. Pure: no clock, randomness, I/O or
//! tasks. Time comes from the records; entities that are not in memory are put there by the caller first.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use berth_shared::ids::{LogId, ShardId, Term};
use berth_shared::key::EntityKey;
use berth_shared::planted::{self, Bug};

use crate::entity::Registry;
use crate::entity::erased::State;
use crate::record::{Batch, EventBody, Outcome, Record, is_tombstone};
use crate::shard::entities::{Entities, Resident, Unsnapshotted};
use crate::shard::window::{RowId, Window, expires_micros, lane_of};
use crate::store::{
    Changes, EntityChange, HashMark, Membership, OutcomeRow, RowBounds, ShardHead, Snapshot, StoredEntity, StoredEvent,
};

/// What became of one record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Applied,
    /// Decided in another term than its log entry's: another owner may have written in between.
    WrongTerm,
    /// Its idempotency key has an outcome already.
    KnownKey,
    /// Its entity is at another version than the one it was decided on.
    WrongBase,
}

/// What applying one batch did.
#[derive(Clone, Debug)]
pub struct Applied {
    pub log_id: LogId,
    pub incarnation: u32,
    /// One per record, in order.
    pub verdicts: SmallVec<[Verdict; 4]>,
}

/// An entity's state after a record, as the owner computed it when it decided.
#[derive(Clone, Debug)]
pub struct After {
    pub state: State,
    pub json: Bytes,
}

/// The replicated state of one shard, and its entities in memory.
#[derive(Debug)]
pub struct Machine {
    shard: ShardId,
    registry: Arc<Registry>,
    head: ShardHead,
    pub window: Window,
    pub entities: Entities,
    /// States the owner computed while deciding the batches now in flight, in order: applying them again would only repeat
    /// the work. Bounded by the executor's batches in flight.
    ///
    /// Invariant: cleared at the first dropped record, because what follows may rest on it.
    expected: VecDeque<(Arc<Batch>, Vec<Option<After>>)>,
}

/// A snapshot is stored when folding would take longer than reading it: after this many events …
const SNAPSHOT_EVENTS: u32 = 256;
/// … or when the events since the last one are this much, and twice the state.
const SNAPSHOT_BYTES_MIN: u64 = 4096;
/// Replicas are compared at log indexes that are multiples of this.
const HASH_MARK_INTERVAL: u64 = 1024;

impl Machine {
    pub fn new(shard: ShardId, registry: Arc<Registry>, head: ShardHead, window: Window) -> Self {
        Self { shard, registry, head, window, entities: Entities::default(), expected: VecDeque::new() }
    }

    pub fn head(&self) -> &ShardHead {
        &self.head
    }

    /// Begins anew where a snapshot ends. Whatever was in memory belongs to the past.
    pub fn reset(&mut self, head: ShardHead, window: Window) {
        self.head = head;
        self.window = window;
        self.entities.clear();
        self.expected.clear();
    }

    /// Hands over what the owner computed for a batch it is about to propose.
    pub fn expect(&mut self, batch: Arc<Batch>, after: Vec<Option<After>>) {
        self.expected.push_back((batch, after));
    }

    /// The owner's speculation is void.
    pub fn discard_expected(&mut self) {
        self.expected.clear();
    }

    /// Entities that must be in memory before `batch` can be applied.
    pub fn missing(&self, batch: &Batch) -> Vec<EntityKey> {
        let mut missing: Vec<EntityKey> = Vec::new();
        for record in batch.records() {
            if self.entities.peek(&record.key).is_none() && !missing.contains(&record.key) {
                missing.push(record.key.clone());
            }
        }
        missing
    }

    /// An entry without records: the blank entry of a new term.
    pub fn apply_blank(&mut self, log_id: LogId) -> Changes {
        self.advance(log_id);
        self.changes(Vec::new(), Vec::new(), RowBounds::default())
    }

    /// A change of the group's members, in the consensus adapter's encoding.
    pub fn apply_membership(&mut self, log_id: LogId, membership: Bytes) -> Changes {
        self.head.membership = Membership { log_id: Some(log_id), bytes: membership };
        self.apply_blank(log_id)
    }

    /// Applies the records that pass the checks and drops the others without a trace. Entities must be in memory.
    pub fn apply(&mut self, log_id: LogId, batch: &Arc<Batch>, tick: u64) -> (Applied, Changes) {
        let mut after = match self.expected.front() {
            Some((expected, _)) if Arc::ptr_eq(expected, batch) => self.expected.pop_front().map(|(_, after)| after),
            _ => {
                self.expected.clear();
                None
            }
        };
        let mut verdicts = SmallVec::new();
        let mut entities: Vec<EntityChange> = Vec::with_capacity(batch.records().len());
        let mut outcomes = Vec::with_capacity(batch.records().len());
        let mut time = self.head.shard_time_micros;
        for (position, record) in batch.records().iter().enumerate() {
            let verdict = self.check(log_id, batch, record);
            verdicts.push(verdict);
            if verdict != Verdict::Applied {
                after = None;
                self.expected.clear();
                continue;
            }
            time = time.max(record.time_micros);
            let known = after.as_mut().and_then(|after| after.get_mut(position)).and_then(Option::take);
            if !record.events.is_empty() {
                self.evolve(record, known, tick, &mut entities);
            }
            outcomes.push(self.remember(log_id, position, record));
            self.head.content_hash = self.head.content_hash.wrapping_add(content_hash(record));
        }
        if let Some(incarnation) = batch.incarnation() {
            self.begin_incarnation(log_id, batch.decision_term(), incarnation);
        }
        self.head.shard_time_micros = time;
        let expired = self.window.expire(time);
        self.advance(log_id);
        let applied = Applied { log_id, incarnation: self.head.incarnation, verdicts };
        (applied, self.changes(entities, outcomes, expired))
    }

    /// An operator has recovered the shard without its quorum. From here on it is another one to whoever has seen it before;
    /// it never goes back. It counts in the content hash, so that a replica of before does not pass for one of after.
    fn begin_incarnation(&mut self, log_id: LogId, decision_term: Term, incarnation: u32) {
        if decision_term == log_id.term && incarnation > self.head.incarnation {
            self.head.incarnation = incarnation;
            let sum = xxh3_128_with_seed(&incarnation.to_le_bytes(), mix(&[log_id.term, log_id.index]));
            self.head.content_hash = self.head.content_hash.wrapping_add(sum);
        }
    }

    fn check(&self, log_id: LogId, batch: &Batch, record: &Record) -> Verdict {
        if batch.decision_term() != log_id.term {
            return Verdict::WrongTerm;
        }
        if self.window.get(&record.request.scope).is_some() {
            return Verdict::KnownKey;
        }
        let version = self.entities.peek(&record.key).map(|resident| resident.version);
        let is_as_decided_on = version == Some(record.base_version) || planted::is(Bug::DropBaseVersionCheck);
        if is_as_decided_on { Verdict::Applied } else { Verdict::WrongBase }
    }

    fn evolve(&mut self, record: &Record, known: Option<After>, tick: u64, changes: &mut Vec<EntityChange>) {
        let Some(resident) = self.entities.touch(&record.key, tick) else { return };
        let mut next = Resident {
            version: record.version(),
            deleted: record.deletes(),
            state: None,
            json: None,
            folded_bytes: resident.json.as_ref().map_or(resident.folded_bytes, Bytes::len),
            unsnapshotted: resident.unsnapshotted,
        };
        let event_bytes = record.events.iter().map(|event| event.data.len()).sum::<usize>();
        match known {
            Some(after) => {
                next.state = Some(after.state);
                next.json = Some(after.json);
            }
            None => {
                let events = record.events.iter().cloned();
                next.state = resident.state.take().and_then(|state| fold(&self.registry, &record.key, state, events));
            }
        }
        next.unsnapshotted.events += record.events.len() as u32;
        next.unsnapshotted.bytes += event_bytes as u64;
        next.folded_bytes += event_bytes;
        let snapshot = snapshot_if_due(&self.registry, &record.key, &mut next);
        let versions = record.base_version + 1..;
        let events = record.events.iter().zip(versions).map(|(event, version)| StoredEvent {
            version,
            time_micros: record.time_micros,
            event_type: event.event_type.clone(),
            data: event.data.clone(),
        });
        changes.push(EntityChange {
            key: record.key.clone(),
            version: next.version,
            deleted: next.deleted && !planted::is(Bug::LoseTombstone),
            events: events.collect(),
            snapshot,
        });
        self.entities.put(record.key.clone(), next, tick);
    }

    fn remember(&mut self, log_id: LogId, position: usize, record: &Record) -> OutcomeRow {
        let lane = lane_of(record.request.origin);
        let id = RowId::new(lane, log_id.index, position);
        let expires_micros = expires_micros(record.request.origin, record.time_micros);
        self.window.insert(id, record.request.scope, expires_micros);
        OutcomeRow {
            lane,
            row: id.row,
            scope: record.request.scope,
            fingerprint: record.request.fingerprint,
            expires_micros,
            version: record.version(),
            outcome: record.outcome.clone(),
        }
    }

    fn advance(&mut self, log_id: LogId) {
        self.head.applied = Some(log_id);
        if log_id.index.is_multiple_of(HASH_MARK_INTERVAL) {
            let mark = HashMark { index: log_id.index, content_hash: self.head.content_hash };
            self.head.hash_marks.push(mark);
        }
    }

    fn changes(&self, entities: Vec<EntityChange>, outcomes: Vec<OutcomeRow>, expired: RowBounds) -> Changes {
        Changes { shard: self.shard, head: self.head.clone(), entities, outcomes, expired }
    }
}

/// Brings a stored entity into memory by folding its events onto its snapshot.
pub fn rehydrate(registry: &Registry, key: &EntityKey, stored: Option<StoredEntity>) -> Resident {
    let initial = registry.get(key.kind()).map(|kind| kind.initial());
    let Some(stored) = stored else {
        return Resident::absent(initial);
    };
    let start = match &stored.snapshot {
        None => initial,
        Some(snapshot) => registry.get(key.kind()).and_then(|kind| {
            let read = kind.state_from_json(&snapshot.state);
            read.inspect_err(|error| tracing::error!(kind = key.kind(), %error, "a stored snapshot is unreadable")).ok()
        }),
    };
    let events = stored.events.iter().map(|e| EventBody { event_type: e.event_type.clone(), data: e.data.clone() });
    let unsnapshotted = Unsnapshotted {
        events: stored.events.len() as u32,
        bytes: stored.events.iter().map(|e| e.data.len() as u64).sum(),
    };
    let state = start.and_then(|start| fold(registry, key, start, events));
    let folded_bytes = stored.snapshot.map_or(0, |snapshot| snapshot.state.len()) + unsnapshotted.bytes as usize;
    let (version, deleted) = (stored.version, stored.deleted);
    Resident { version, deleted, state, json: None, folded_bytes, unsnapshotted }
}

/// The state after `events`; `None` where this program cannot read one of them.
pub fn fold(
    registry: &Registry,
    key: &EntityKey,
    start: State,
    events: impl IntoIterator<Item = EventBody>,
) -> Option<State> {
    let kind = registry.get(key.kind())?;
    let mut state = start;
    for event in events {
        if is_tombstone(&event.event_type) {
            state = kind.initial();
            continue;
        }
        let evolved = kind.evolve(state, &event);
        state =
            evolved.inspect_err(|error| tracing::error!(kind = key.kind(), %error, "an event is unreadable")).ok()?;
    }
    Some(state)
}

/// A stored snapshot bounds how many events a rehydration folds. Whether one is written never changes what is read.
fn snapshot_if_due(registry: &Registry, key: &EntityKey, resident: &mut Resident) -> Option<Snapshot> {
    let debt = resident.unsnapshotted;
    if debt.events < SNAPSHOT_EVENTS && debt.bytes < SNAPSHOT_BYTES_MIN {
        return None;
    }
    if resident.json.is_none() {
        resident.json = resident.state.as_ref().and_then(|s| registry.get(key.kind())?.state_json(s).ok());
    }
    let json = resident.json.clone()?;
    if debt.events < SNAPSHOT_EVENTS && debt.bytes < 2 * json.len() as u64 {
        return None;
    }
    resident.unsnapshotted = Unsnapshotted::default();
    Some(Snapshot { version: resident.version, state: json })
}

/// What a record adds to its shard's content hash: a sum, so that its order of evaluation does not matter, over events and
/// outcomes (xxh3, 128 bits).
fn content_hash(record: &Record) -> u128 {
    let key = record.key.hash64();
    let Outcome { status, reply, .. } = &record.outcome;
    let scope = u64::from_le_bytes(record.request.scope.0[..8].try_into().unwrap_or_default());
    let mut sum = xxh3_128_with_seed(reply, mix(&[key, scope, record.base_version, *status as u64]));
    for (position, event) in record.events.iter().enumerate() {
        let version = record.base_version + 1 + position as u64;
        let event_type = xxhash_rust::xxh3::xxh3_64(&event.event_type);
        sum = sum.wrapping_add(xxh3_128_with_seed(&event.data, mix(&[key, version, record.time_micros, event_type])));
    }
    sum
}

/// Folds numbers into one seed; each step is the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x9e37_79b9_7f4a_7c15, |seed, number| {
        let mut z = seed ^ number;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).wrapping_add(0x9e37_79b9_7f4a_7c15)
    })
}
