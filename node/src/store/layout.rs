//! Bytes of the store's keys and rows, as the room's documentation lays them down. Pure: it takes bytes apart and puts
//! them together, and knows neither the storage engine nor when anything is written.

use bytes::{Buf, Bytes};

use berth_shared::ids::{LogId, ShardId, Version};
use berth_shared::key::EntityKey;

use super::model::{HashMark, HashMarks, Lane, Membership, OutcomeRow, ShardHead, Snapshot, StoredEvent};
use crate::record::{Fingerprint, Outcome, Scope, Status};

/// Events of one entity that are written together share a row up to this size; a larger event has a row of its own.
pub(super) const EVENT_ROW_BYTES_MAX: usize = 64 * 1024;

/// Version and checksum, in front of every row's fields.
const PREFIX_BYTES: usize = 5;

/// Why a row cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("layout version {0} is not known")]
    Version(u8),
    #[error("its checksum does not match")]
    Checksum,
    #[error("{0} is missing or not valid")]
    Field(&'static str),
}

/// The table a row belongs to. It takes part in the checksum, because entities and snapshots have the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Row {
    Shard = 1,
    Entity = 2,
    Snapshot = 3,
    Events = 4,
    Outcome = 5,
}

impl Row {
    /// The layout version that rows of this table are written in. All versions up to it are read.
    pub(super) fn version(self) -> u8 {
        match self {
            // Version 1 had no installed entry.
            Self::Shard => 2,
            Self::Entity | Self::Snapshot | Self::Events | Self::Outcome => 1,
        }
    }

    pub(super) fn of_number(number: u8) -> Option<Self> {
        [Self::Shard, Self::Entity, Self::Snapshot, Self::Events, Self::Outcome]
            .into_iter()
            .find(|row| *row as u8 == number)
    }

    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Shard => "shards",
            Self::Entity => "entities",
            Self::Snapshot => "snapshots",
            Self::Events => "events",
            Self::Outcome => "outcomes",
        }
    }
}

/// What is stored of an entity beside its events and its snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EntityHead {
    pub(super) version: Version,
    pub(super) deleted: bool,
    pub(super) last_event_time_micros: u64,
    /// 0 when there is no snapshot.
    pub(super) snapshot_version: Version,
}

/// Shard and generation, in front of every key but that of a shard's head.
pub(super) const GENERATION_BYTES: usize = 6;

pub(super) fn generation_key(shard: ShardId, generation: u32) -> [u8; GENERATION_BYTES] {
    let mut out = [0; GENERATION_BYTES];
    out[..2].copy_from_slice(&shard.0.to_be_bytes());
    out[2..].copy_from_slice(&generation.to_be_bytes());
    out
}

/// Above all keys that begin with `generation_key`: what follows there is a kind or a lane.
pub(super) fn end_of_generation(generation_key: [u8; GENERATION_BYTES]) -> [u8; GENERATION_BYTES + 1] {
    let mut out = [0xff; GENERATION_BYTES + 1];
    out[..GENERATION_BYTES].copy_from_slice(&generation_key);
    out
}

pub(super) fn generation_of_key(key: &[u8]) -> Result<(ShardId, u32), RowError> {
    let (shard, rest) = key.split_first_chunk().ok_or(RowError::Field("a shard"))?;
    let generation = rest.first_chunk().ok_or(RowError::Field("a generation"))?;
    Ok((ShardId(u16::from_be_bytes(*shard)), u32::from_be_bytes(*generation)))
}

pub(super) fn shard_key(shard: ShardId) -> [u8; 2] {
    shard.0.to_be_bytes()
}

pub(super) fn shard_of_key(key: &[u8]) -> Result<ShardId, RowError> {
    key.try_into().map(|bytes| ShardId(u16::from_be_bytes(bytes))).map_err(|_| RowError::Field("a shard"))
}

/// Key of an entity's head and of its snapshot. Neither a kind nor an id contains a zero byte.
pub(super) fn entity_key(shard: ShardId, generation: u32, key: &EntityKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + key.as_str().len());
    out.extend_from_slice(&generation_key(shard, generation));
    out.extend_from_slice(key.kind().as_bytes());
    out.push(0);
    out.extend_from_slice(key.id().as_bytes());
    out
}

/// Key of a row of events whose first event has version `first`.
pub(super) fn events_key(entity_key: &[u8], first: Version) -> Vec<u8> {
    let mut out = Vec::with_capacity(entity_key.len() + 9);
    out.extend_from_slice(entity_key);
    out.push(0);
    out.extend_from_slice(&first.to_be_bytes());
    out
}

/// The key of the entity that a row of events belongs to.
pub(super) fn entity_of_events_key(key: &[u8]) -> Result<&[u8], RowError> {
    match key.split_last_chunk::<9>() {
        Some((entity_key, [0, ..])) => Ok(entity_key),
        _ => Err(RowError::Field("an events key")),
    }
}

pub(super) fn first_version_of_events_key(key: &[u8]) -> Result<Version, RowError> {
    key.last_chunk::<8>().map(|bytes| Version::from_be_bytes(*bytes)).ok_or(RowError::Field("a first version"))
}

pub(super) fn outcome_key(shard: ShardId, generation: u32, lane: Lane, row: u64) -> [u8; 15] {
    let mut out = [0; 15];
    out[..6].copy_from_slice(&generation_key(shard, generation));
    out[6] = lane as u8;
    out[7..].copy_from_slice(&row.to_be_bytes());
    out
}

pub(super) fn lane_and_row_of_key(key: &[u8]) -> Result<(Lane, u64), RowError> {
    let key: &[u8; 15] = key.try_into().map_err(|_| RowError::Field("an outcome's key"))?;
    let lane = match key[6] {
        0 => Lane::Gateway,
        1 => Lane::Client,
        _ => return Err(RowError::Field("a lane")),
    };
    let mut row = [0; 8];
    row.copy_from_slice(&key[7..]);
    Ok((lane, u64::from_be_bytes(row)))
}

pub(super) fn encode_shard(key: &[u8], head: &ShardHead) -> Vec<u8> {
    let mut out = start(Row::Shard, 192 + head.membership.bytes.len() + head.hash_marks.as_slice().len() * 24);
    put_log_id(&mut out, head.applied);
    put_log_id(&mut out, head.membership.log_id);
    put_u32_sized(&mut out, &head.membership.bytes);
    out.extend_from_slice(&head.shard_time_micros.to_le_bytes());
    out.extend_from_slice(&head.content_hash.to_le_bytes());
    out.extend_from_slice(&head.incarnation.to_le_bytes());
    out.extend_from_slice(&head.generation.to_le_bytes());
    out.push(head.hash_marks.as_slice().len() as u8);
    for mark in head.hash_marks.as_slice() {
        out.extend_from_slice(&mark.index.to_le_bytes());
        out.extend_from_slice(&mark.content_hash.to_le_bytes());
    }
    put_log_id(&mut out, head.installed);
    seal(Row::Shard, key, out)
}

pub(super) fn decode_shard(key: &[u8], row: &[u8]) -> Result<ShardHead, RowError> {
    let mut fields = Fields::open(Row::Shard, key, row)?;
    let applied = fields.log_id("an applied id")?;
    let membership = Membership { log_id: fields.log_id("a membership")?, bytes: fields.u32_sized("a membership")? };
    let shard_time_micros = fields.u64("a time")?;
    let content_hash = fields.u128("a content hash")?;
    let incarnation = fields.u32("an incarnation")?;
    let generation = fields.u32("a generation")?;
    let count = fields.u8("hash marks")?;
    let mut marks = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        marks.push(HashMark { index: fields.u64("a hash mark")?, content_hash: fields.u128("a hash mark")? });
    }
    let installed = if fields.version > 1 { fields.log_id("an installed entry")? } else { None };
    fields.end()?;
    let hash_marks = HashMarks::from_iter(marks);
    Ok(ShardHead {
        applied,
        membership,
        shard_time_micros,
        content_hash,
        hash_marks,
        incarnation,
        generation,
        installed,
    })
}

pub(super) fn encode_entity(key: &[u8], head: &EntityHead) -> Vec<u8> {
    let mut out = start(Row::Entity, 25);
    out.extend_from_slice(&head.version.to_le_bytes());
    out.push(u8::from(head.deleted));
    out.extend_from_slice(&head.last_event_time_micros.to_le_bytes());
    out.extend_from_slice(&head.snapshot_version.to_le_bytes());
    seal(Row::Entity, key, out)
}

pub(super) fn decode_entity(key: &[u8], row: &[u8]) -> Result<EntityHead, RowError> {
    let mut fields = Fields::open(Row::Entity, key, row)?;
    let head = EntityHead {
        version: fields.u64("a version")?,
        deleted: fields.bool("a deletion mark")?,
        last_event_time_micros: fields.u64("a time")?,
        snapshot_version: fields.u64("a snapshot's version")?,
    };
    fields.end()?;
    Ok(head)
}

pub(super) fn encode_snapshot(key: &[u8], snapshot: &Snapshot) -> Vec<u8> {
    let mut out = start(Row::Snapshot, 12 + snapshot.state.len());
    out.extend_from_slice(&snapshot.version.to_le_bytes());
    put_u32_sized(&mut out, &snapshot.state);
    seal(Row::Snapshot, key, out)
}

pub(super) fn decode_snapshot(key: &[u8], row: &[u8]) -> Result<Snapshot, RowError> {
    let mut fields = Fields::open(Row::Snapshot, key, row)?;
    let snapshot = Snapshot { version: fields.u64("a version")?, state: fields.u32_sized("a state")? };
    fields.end()?;
    Ok(snapshot)
}

/// How many of `events`, at least one, share the first row.
pub(super) fn events_in_first_row(events: &[StoredEvent]) -> usize {
    let mut bytes = 0;
    let fitting = events.iter().take_while(|event| {
        bytes += event.stored_bytes() as usize;
        bytes <= EVENT_ROW_BYTES_MAX
    });
    fitting.count().clamp(1, events.len().max(1))
}

pub(super) fn encode_events(key: &[u8], events: &[StoredEvent]) -> Vec<u8> {
    let bytes: u64 = events.iter().map(StoredEvent::stored_bytes).sum();
    let mut out = start(Row::Events, 4 + bytes as usize);
    out.extend_from_slice(&(events.len() as u32).to_le_bytes());
    for event in events {
        out.extend_from_slice(&event.time_micros.to_le_bytes());
        out.push(event.event_type.len() as u8);
        out.extend_from_slice(&event.event_type);
        put_u32_sized(&mut out, &event.data);
    }
    seal(Row::Events, key, out)
}

/// The events share one copy of `row`.
pub(super) fn decode_events(key: &[u8], row: &[u8]) -> Result<Vec<StoredEvent>, RowError> {
    let first = first_version_of_events_key(key)?;
    let mut fields = Fields::open(Row::Events, key, row)?;
    let count = fields.u32("an event count")?;
    // Room for what can be there at most, whatever the count says.
    let mut events = Vec::with_capacity((count as usize).min(row.len() / 13));
    for place in 0..count {
        events.push(StoredEvent {
            version: first.checked_add(u64::from(place)).ok_or(RowError::Field("a first version"))?,
            time_micros: fields.u64("a time")?,
            event_type: fields.u8_sized("an event type")?,
            data: fields.u32_sized("an event")?,
        });
    }
    fields.end()?;
    if events.is_empty() { Err(RowError::Field("an event")) } else { Ok(events) }
}

pub(super) fn encode_outcome(key: &[u8], row: &OutcomeRow) -> Vec<u8> {
    let mut out = start(Row::Outcome, 54 + row.outcome.reply.len() + row.outcome.reason.len());
    out.extend_from_slice(&row.scope.0);
    out.extend_from_slice(&row.fingerprint.0);
    out.extend_from_slice(&row.expires_micros.to_le_bytes());
    out.push(row.outcome.status as u8);
    out.extend_from_slice(&row.version.to_le_bytes());
    put_u32_sized(&mut out, &row.outcome.reply);
    out.push(row.outcome.reason.len() as u8);
    out.extend_from_slice(&row.outcome.reason);
    seal(Row::Outcome, key, out)
}

pub(super) fn decode_outcome(key: &[u8], row: &[u8]) -> Result<OutcomeRow, RowError> {
    let (lane, number) = lane_and_row_of_key(key)?;
    let mut fields = Fields::open(Row::Outcome, key, row)?;
    let scope = Scope(fields.array("a scope")?);
    let fingerprint = Fingerprint(fields.array("a fingerprint")?);
    let expires_micros = fields.u64("an expiry")?;
    let status = Status::of_number(fields.u8("a status")?).ok_or(RowError::Field("a status"))?;
    let version = fields.u64("a version")?;
    let outcome = Outcome { status, reply: fields.u32_sized("a reply")?, reason: fields.u8_sized("a reason")? };
    fields.end()?;
    Ok(OutcomeRow { lane, row: number, scope, fingerprint, expires_micros, version, outcome })
}

/// A row's layout version and its fields, once its checksum is right.
pub(super) fn open<'r>(kind: Row, key: &[u8], row: &'r [u8]) -> Result<(u8, &'r [u8]), RowError> {
    let (prefix, fields) = row.split_at_checked(PREFIX_BYTES).ok_or(RowError::Field("a checksum"))?;
    if !(1..=kind.version()).contains(&prefix[0]) {
        return Err(RowError::Version(prefix[0]));
    }
    if checksum(kind, key, fields).to_le_bytes() != prefix[1..] {
        return Err(RowError::Checksum);
    }
    Ok((prefix[0], fields))
}

/// The row that [`open`] takes apart, under another key.
pub(super) fn close(kind: Row, key: &[u8], version: u8, fields: &[u8]) -> Vec<u8> {
    let mut row = start(kind, fields.len());
    row[0] = version;
    row.extend_from_slice(fields);
    seal(kind, key, row)
}

fn start(kind: Row, field_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + field_bytes);
    out.push(kind.version());
    out.extend_from_slice(&[0; 4]);
    out
}

fn seal(kind: Row, key: &[u8], mut row: Vec<u8>) -> Vec<u8> {
    let sum = checksum(kind, key, &row[PREFIX_BYTES..]);
    row[1..PREFIX_BYTES].copy_from_slice(&sum.to_le_bytes());
    row
}

/// Covers the key and the table too, so that an intact row in the wrong place is noticed.
fn checksum(kind: Row, key: &[u8], fields: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&[kind as u8]), key), fields)
}

fn put_log_id(out: &mut Vec<u8>, log_id: Option<LogId>) {
    let LogId { term, index } = log_id.unwrap_or_default();
    out.push(u8::from(log_id.is_some()));
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
}

fn put_u32_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The fields of a row whose checksum is right.
struct Fields {
    version: u8,
    rest: Bytes,
}

impl Fields {
    fn open(kind: Row, key: &[u8], row: &[u8]) -> Result<Self, RowError> {
        let (version, fields) = open(kind, key, row)?;
        Ok(Self { version, rest: Bytes::copy_from_slice(fields) })
    }

    fn end(self) -> Result<(), RowError> {
        if self.rest.is_empty() { Ok(()) } else { Err(RowError::Field("the end of the row")) }
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<Bytes, RowError> {
        if self.rest.len() < len { Err(RowError::Field(what)) } else { Ok(self.rest.split_to(len)) }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RowError> {
        let mut out = [0; N];
        if self.rest.len() < N {
            return Err(RowError::Field(what));
        }
        self.rest.copy_to_slice(&mut out);
        Ok(out)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, RowError> {
        self.array(what).map(u8::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, RowError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, RowError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn u128(&mut self, what: &'static str) -> Result<u128, RowError> {
        self.array(what).map(u128::from_le_bytes)
    }

    fn bool(&mut self, what: &'static str) -> Result<bool, RowError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RowError::Field(what)),
        }
    }

    fn log_id(&mut self, what: &'static str) -> Result<Option<LogId>, RowError> {
        let present = self.bool(what)?;
        let log_id = LogId { term: self.u64(what)?, index: self.u64(what)? };
        Ok(present.then_some(log_id))
    }

    fn u8_sized(&mut self, what: &'static str) -> Result<Bytes, RowError> {
        let len = usize::from(self.u8(what)?);
        self.take(len, what)
    }

    fn u32_sized(&mut self, what: &'static str) -> Result<Bytes, RowError> {
        let len = self.u32(what)? as usize;
        self.take(len, what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stored once by layout version 1 and never regenerated: old stores must stay readable.
    const SAMPLES_V1: &str = include_str!("samples/rows-v1.hex");
    /// Likewise by version 2, which only the heads of shards have.
    const SAMPLES_V2: &str = include_str!("samples/rows-v2.hex");

    const SHARD: ShardId = ShardId(0x0102);
    const GENERATION: u32 = 3;

    fn key() -> EntityKey {
        EntityKey::new("cart", "ä/1").unwrap()
    }

    fn head() -> ShardHead {
        ShardHead {
            applied: Some(LogId { term: 7, index: 4097 }),
            membership: Membership {
                log_id: Some(LogId { term: 1, index: 1 }),
                bytes: Bytes::from_static(b"three voters"),
            },
            shard_time_micros: 1_767_225_600_000_001,
            content_hash: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
            hash_marks: [HashMark { index: 1024, content_hash: 5 }, HashMark { index: 2048, content_hash: 6 }]
                .into_iter()
                .collect(),
            incarnation: 2,
            generation: GENERATION,
            installed: Some(LogId { term: 6, index: 4000 }),
        }
    }

    fn entity() -> EntityHead {
        EntityHead { version: 12, deleted: true, last_event_time_micros: 1_767_225_600_000_001, snapshot_version: 9 }
    }

    fn snapshot() -> Snapshot {
        Snapshot { version: 9, state: Bytes::from_static(br#"{"items":{}}"#) }
    }

    fn events() -> Vec<StoredEvent> {
        let event = |version, event_type: &'static [u8], data: &'static [u8]| StoredEvent {
            version,
            time_micros: 1_767_225_600_000_000 + version,
            event_type: Bytes::from_static(event_type),
            data: Bytes::from_static(data),
        };
        vec![event(11, b"item-added", br#"{"sku":"x"}"#), event(12, b"deleted", b"null")]
    }

    fn outcome() -> OutcomeRow {
        OutcomeRow {
            lane: Lane::Client,
            row: 77,
            scope: Scope([1; 16]),
            fingerprint: Fingerprint([2; 16]),
            expires_micros: 1_767_312_000_000_001,
            version: 12,
            outcome: Outcome {
                status: Status::Rejected,
                reply: Bytes::from_static(b"too little"),
                reason: Bytes::from_static(b"insufficient-funds"),
            },
        }
    }

    type IsSound = fn(&[u8], &[u8]) -> bool;

    /// Name, key, row, and whether some bytes read as a row of that table.
    fn rows() -> Vec<(&'static str, Vec<u8>, Vec<u8>, IsSound)> {
        let shard_key = shard_key(SHARD).to_vec();
        let entity_key = entity_key(SHARD, GENERATION, &key());
        let events_key = events_key(&entity_key, 11);
        let outcome_key = outcome_key(SHARD, GENERATION, Lane::Client, 77).to_vec();
        vec![
            ("shard", shard_key.clone(), encode_shard(&shard_key, &head()), |k, r| decode_shard(k, r).is_ok()),
            ("entity", entity_key.clone(), encode_entity(&entity_key, &entity()), |k, r| decode_entity(k, r).is_ok()),
            ("snapshot", entity_key.clone(), encode_snapshot(&entity_key, &snapshot()), |k, r| {
                decode_snapshot(k, r).is_ok()
            }),
            ("events", events_key.clone(), encode_events(&events_key, &events()), |k, r| decode_events(k, r).is_ok()),
            ("outcome", outcome_key.clone(), encode_outcome(&outcome_key, &outcome()), |k, r| {
                decode_outcome(k, r).is_ok()
            }),
        ]
    }

    fn from_hex(text: &str) -> Vec<u8> {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        text.as_bytes().chunks(2).map(byte).collect()
    }

    fn sample(samples: &str, name: &str) -> (Vec<u8>, Vec<u8>) {
        let mut lines = samples.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        (from_hex(lines.next().unwrap()), from_hex(lines.next().unwrap()))
    }

    #[test]
    fn rows_written_by_layout_version_1_read_the_same() {
        let (key, row) = sample(SAMPLES_V1, "shard");
        let head_v1 = ShardHead { installed: None, ..head() };
        assert_eq!((shard_of_key(&key), decode_shard(&key, &row)), (Ok(SHARD), Ok(head_v1)));
        let (key, row) = sample(SAMPLES_V1, "entity");
        assert_eq!(decode_entity(&key, &row), Ok(entity()));
        let (key, row) = sample(SAMPLES_V1, "snapshot");
        assert_eq!(decode_snapshot(&key, &row), Ok(snapshot()));
        let (key, row) = sample(SAMPLES_V1, "events");
        assert_eq!(decode_events(&key, &row), Ok(events()));
        let (key, row) = sample(SAMPLES_V1, "outcome");
        assert_eq!(decode_outcome(&key, &row), Ok(outcome()));
    }

    #[test]
    fn a_head_written_by_layout_version_2_reads_the_same() {
        let (key, row) = sample(SAMPLES_V2, "shard");
        assert_eq!((shard_of_key(&key), decode_shard(&key, &row)), (Ok(SHARD), Ok(head())));
    }

    #[test]
    fn rows_are_still_written_as_the_newest_layout_version() {
        for (name, key, row, _) in rows() {
            let samples = if name == "shard" { SAMPLES_V2 } else { SAMPLES_V1 };
            assert_eq!(sample(samples, name), (key, row), "{name}");
        }
    }

    /// So that a row of version 1 that is sent to another node stays one there.
    #[test]
    fn a_row_under_another_key_keeps_its_layout_version() {
        let (key, row) = sample(SAMPLES_V1, "shard");
        let (version, fields) = open(Row::Shard, &key, &row).unwrap();
        let moved = close(Row::Shard, &shard_key(ShardId(9)), version, fields);
        assert_eq!((moved[0], moved.len()), (1, row.len()));
        assert_eq!(decode_shard(&shard_key(ShardId(9)), &moved), decode_shard(&key, &row));
        assert_eq!(decode_shard(&key, &moved), Err(RowError::Checksum));
    }

    #[test]
    fn every_flipped_bit_of_a_key_or_a_row_is_noticed() {
        for (name, key, row, is_sound) in rows() {
            assert!(is_sound(&key, &row), "{name}");
            for bit in 0..(key.len() + row.len()) * 8 {
                let mut bytes = [key.as_slice(), row.as_slice()].concat();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let (key, row) = bytes.split_at(key.len());
                assert!(!is_sound(key, row), "{name}, bit {bit}");
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        for (name, key, row, is_sound) in rows() {
            for len in 0..row.len() {
                assert!(!is_sound(&key, &row[..len]), "{name}, {len} bytes");
            }
        }
    }

    #[test]
    fn a_row_of_one_table_is_none_of_another() {
        for (name, key, row, _) in rows() {
            for (other, _, _, is_sound) in rows() {
                assert_eq!(is_sound(&key, &row), name == other, "{name} as {other}");
            }
        }
    }

    #[test]
    fn keys_are_in_the_order_of_shard_generation_kind_id_and_version() {
        let key = |kind, id| EntityKey::new(kind, id).unwrap();
        let ordered = [
            events_key(&entity_key(ShardId(1), 9, &key("a", "b")), 1),
            events_key(&entity_key(ShardId(1), 256, &key("a", "b")), 255),
            events_key(&entity_key(ShardId(1), 256, &key("a", "b")), 256),
            events_key(&entity_key(ShardId(1), 256, &key("a", "b ")), 1),
            events_key(&entity_key(ShardId(1), 256, &key("a-", "a")), 1),
            events_key(&entity_key(ShardId(256), 0, &key("a", "a")), 1),
        ];
        assert!(ordered.is_sorted());
        let expiry = |lane, row| outcome_key(SHARD, GENERATION, lane, row);
        assert!(expiry(Lane::Gateway, 255) < expiry(Lane::Gateway, 256));
        assert!(expiry(Lane::Gateway, u64::MAX) < expiry(Lane::Client, 0));
    }

    #[test]
    fn events_share_a_row_up_to_its_bound_and_a_larger_one_has_its_own() {
        let event = |bytes: usize| StoredEvent {
            version: 1,
            time_micros: 1,
            event_type: Bytes::new(),
            data: vec![0; bytes - 13].into(),
        };
        let half = EVENT_ROW_BYTES_MAX / 2;
        assert_eq!(events_in_first_row(&[event(half), event(half), event(half)]), 2);
        assert_eq!(events_in_first_row(&[event(half), event(half + 1)]), 1);
        assert_eq!(events_in_first_row(&[event(EVENT_ROW_BYTES_MAX + 1), event(14)]), 1);
        assert_eq!(events_in_first_row(&[event(14), event(EVENT_ROW_BYTES_MAX + 1)]), 1);
    }

    proptest! {
        #[test]
        fn hostile_rows_never_panic(fields in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in [Row::Shard, Row::Entity, Row::Snapshot, Row::Events, Row::Outcome] {
                let key = outcome_key(SHARD, GENERATION, Lane::Client, u64::MAX);
                let mut row = start(kind, 0);
                row.extend_from_slice(&fields);
                let row = seal(kind, &key, row);
                let _ = decode_shard(&key, &row);
                let _ = decode_entity(&key, &row);
                let _ = decode_snapshot(&key, &row);
                let _ = decode_events(&key, &row);
                let _ = decode_outcome(&key, &row);
            }
        }
    }
}
