//! Bytes of a snapshot on its way to another node, as the room's documentation lays them down, and the check that its rows
//! are a whole shard. Pure: it knows neither the storage engine nor how chunks travel.

use bytes::{Buf, Bytes};

use berth_shared::ids::{LogId, ShardId, Version};
use berth_shared::key::EntityKey;

use super::layout::{self, GENERATION_BYTES, Row, RowError};
use super::model::{Lane, OutcomeIndexRow, OutcomeRow, ShardHead};

/// A chunk is no larger than this, unless one row alone is.
pub(super) const CHUNK_BYTES_MAX: usize = 1 << 20;

const CHUNK_VERSION: u8 = 1;
/// Version and checksum.
const PREFIX_BYTES: usize = 5;
/// All that comes before the rows.
const HEADER_BYTES: usize = PREFIX_BYTES + 8 + 4 + 1;
/// What a row takes beside its key and its fields.
const ROW_HEADER_BYTES: usize = 1 + 1 + 2 + 4;

/// Why a chunk, or what the chunks come to, is not a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("layout version {0} of a chunk is not known")]
    Version(u8),
    #[error("the checksum of a chunk does not match")]
    Checksum,
    #[error("{0} of a chunk is missing or not valid")]
    Field(&'static str),
    #[error("a chunk of another snapshot")]
    Foreign,
    #[error("chunk {found} where chunk {expected} is due")]
    Number { expected: u32, found: u32 },
    #[error("a chunk after the last one")]
    AfterLast,
    #[error("a row of {table}: {error}")]
    Row { table: &'static str, error: RowError },
    /// The rows are intact, but rows that belong with them are missing or elsewhere.
    #[error("{0} is missing or in the wrong place")]
    Place(&'static str),
    #[error("its last chunk has not come")]
    Unfinished,
    #[error("it holds entries up to {snapshot:?}, and the shard up to {shard:?}")]
    NotNewer { snapshot: Option<LogId>, shard: Option<LogId> },
    #[error("another snapshot of the shard is being installed, or the shard is being deleted")]
    Installing,
    #[error("the shard was deleted while the snapshot came")]
    Deleted,
}

/// Gathers rows until a chunk is full.
pub(super) struct ChunkBuilder {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl ChunkBuilder {
    pub(super) fn new(snapshot: u64, number: u32, bytes_max: usize) -> Self {
        let mut bytes = Vec::with_capacity(bytes_max);
        bytes.push(CHUNK_VERSION);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&snapshot.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.push(0);
        Self { bytes, bytes_max }
    }

    /// Adds a row as it is in the file. False when it must go into the next chunk.
    pub(super) fn add(&mut self, kind: Row, key: &[u8], row: &[u8]) -> Result<bool, RowError> {
        let (version, fields) = layout::open(kind, key, row)?;
        let key = own_part(kind, key);
        let bytes = ROW_HEADER_BYTES + key.len() + fields.len();
        if self.bytes.len() > HEADER_BYTES && self.bytes.len() + bytes > self.bytes_max {
            return Ok(false);
        }
        let key_bytes = u16::try_from(key.len()).map_err(|_| RowError::Field("a key"))?;
        let field_bytes = u32::try_from(fields.len()).map_err(|_| RowError::Field("a length"))?;
        self.bytes.push(kind as u8);
        self.bytes.push(version);
        self.bytes.extend_from_slice(&key_bytes.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(&field_bytes.to_le_bytes());
        self.bytes.extend_from_slice(fields);
        Ok(true)
    }

    pub(super) fn finish(mut self, is_last: bool) -> Bytes {
        self.bytes[HEADER_BYTES - 1] = u8::from(is_last);
        let sum = checksum(&self.bytes);
        self.bytes[1..PREFIX_BYTES].copy_from_slice(&sum.to_le_bytes());
        self.bytes.into()
    }
}

/// What has been received of a snapshot. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Received {
    generation: u32,
    /// Which snapshot it is, once its first chunk has come.
    snapshot: Option<u64>,
    /// The number of the next chunk.
    next: u32,
    is_whole: bool,
    content: Content,
}

/// A chunk that fits, and what follows from it.
pub(super) struct Taken {
    pub(super) received: Received,
    pub(super) rows: Vec<FileRow>,
    pub(super) outcomes: Vec<OutcomeIndexRow>,
}

/// A row as it goes into the file.
pub(super) struct FileRow {
    pub(super) kind: Row,
    pub(super) key: Vec<u8>,
    pub(super) row: Vec<u8>,
}

impl Received {
    pub(super) fn new(shard: ShardId, generation: u32) -> Self {
        Self { generation, snapshot: None, next: 0, is_whole: false, content: Content::new(shard) }
    }

    /// The head of the snapshot's shard, in the generation it had where it was read. It is in the first chunk.
    pub(super) fn head(&self) -> Option<&ShardHead> {
        self.content.head.as_ref()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Takes the next chunk apart. When it is refused, nothing of it counts.
    pub(super) fn take(&self, chunk: &Bytes) -> Result<Taken, SnapshotError> {
        let header = Header::read(chunk)?;
        if self.is_whole {
            return Err(SnapshotError::AfterLast);
        }
        if self.snapshot.is_some_and(|snapshot| snapshot != header.snapshot) {
            return Err(SnapshotError::Foreign);
        }
        if header.number != self.next {
            return Err(SnapshotError::Number { expected: self.next, found: header.number });
        }
        let mut received = self.clone();
        received.snapshot = Some(header.snapshot);
        received.next = self.next.checked_add(1).ok_or(SnapshotError::Field("a number"))?;
        received.is_whole = header.is_last;
        let (mut rows, mut outcomes) = (Vec::new(), Vec::new());
        let mut rest = chunk.slice(HEADER_BYTES..);
        while !rest.is_empty() {
            let row = received.read_row(&mut rest)?;
            outcomes.extend(received.content.next(row.kind, &row.key, &row.row)?.map(|outcome| outcome.index_row()));
            // The head comes into the file with the commit that makes the generation the shard's.
            if row.kind != Row::Shard {
                rows.push(row);
            }
        }
        if header.is_last {
            received.content.check_whole()?;
        }
        Ok(Taken { received, rows, outcomes })
    }

    fn read_row(&self, rest: &mut Bytes) -> Result<FileRow, SnapshotError> {
        let header = take(rest, 4, "a row")?;
        let kind = Row::of_number(header[0]).ok_or(SnapshotError::Field("a table"))?;
        let version = header[1];
        let own_part = take(rest, usize::from(u16::from_le_bytes([header[2], header[3]])), "a key")?;
        let field_bytes = take(rest, 4, "a row")?.get_u32_le();
        let fields = take(rest, field_bytes as usize, "a row")?;
        let mut key = Vec::with_capacity(GENERATION_BYTES + own_part.len());
        if kind != Row::Shard {
            key.extend_from_slice(&layout::generation_key(self.content.shard, self.generation));
        }
        key.extend_from_slice(&own_part);
        let row = layout::close(kind, &key, version, &fields);
        Ok(FileRow { kind, key, row })
    }
}

struct Header {
    snapshot: u64,
    number: u32,
    is_last: bool,
}

impl Header {
    fn read(chunk: &Bytes) -> Result<Self, SnapshotError> {
        if chunk.len() < HEADER_BYTES {
            return Err(SnapshotError::Field("the beginning"));
        }
        if chunk[0] != CHUNK_VERSION {
            return Err(SnapshotError::Version(chunk[0]));
        }
        if checksum(chunk).to_le_bytes() != chunk[1..PREFIX_BYTES] {
            return Err(SnapshotError::Checksum);
        }
        let mut fields = &chunk[PREFIX_BYTES..HEADER_BYTES];
        let (snapshot, number) = (fields.get_u64_le(), fields.get_u32_le());
        let is_last = match fields.get_u8() {
            0 => false,
            1 => true,
            _ => return Err(SnapshotError::Field("an end mark")),
        };
        Ok(Self { snapshot, number, is_last })
    }
}

/// Says of every row of a snapshot whether it can be the next one. Who reads a snapshot and who receives it both ask, so
/// that a shard of which rows are missing is neither sent on nor installed. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Content {
    shard: ShardId,
    head: Option<ShardHead>,
    /// The newest entity.
    entity: Option<Entity>,
    /// The newest outcome.
    outcome: Option<(Lane, u64)>,
}

#[derive(Clone, Debug)]
struct Entity {
    /// Without the generation.
    key: Vec<u8>,
    version: Version,
    /// The snapshot that has yet to come; 0 when there is none.
    snapshot_version: Version,
    /// The newest event that has come.
    last_event: Version,
}

impl Content {
    pub(super) fn new(shard: ShardId) -> Self {
        Self { shard, head: None, entity: None, outcome: None }
    }

    /// Checks a row as it is in the file. Returns what it says if it is an outcome.
    pub(super) fn next(&mut self, kind: Row, key: &[u8], row: &[u8]) -> Result<Option<OutcomeRow>, SnapshotError> {
        let damaged = |error| SnapshotError::Row { table: kind.table(), error };
        if self.head.is_some() == (kind == Row::Shard) {
            return Err(SnapshotError::Place("a shard's head"));
        }
        match kind {
            Row::Shard => self.shard(key, row)?,
            Row::Entity => self.entity(key, row)?,
            Row::Snapshot => {
                let version = layout::decode_snapshot(key, row).map_err(damaged)?.version;
                let entity = self.entity_of(own_part(kind, key)).ok_or(SnapshotError::Place("a snapshot"))?;
                if version != entity.snapshot_version {
                    return Err(SnapshotError::Place("a snapshot"));
                }
                entity.snapshot_version = 0;
            }
            Row::Events => {
                let events = layout::decode_events(key, row).map_err(damaged)?;
                let entity_key = layout::entity_of_events_key(own_part(kind, key)).map_err(damaged)?;
                let (first, last) = (events.first().map(|e| e.version), events.last().map(|e| e.version));
                let entity = self.entity_of(entity_key).ok_or(SnapshotError::Place("an event"))?;
                if entity.snapshot_version != 0
                    || first != Some(entity.last_event.saturating_add(1))
                    || last > Some(entity.version)
                {
                    return Err(SnapshotError::Place("an event"));
                }
                entity.last_event = last.unwrap_or(entity.last_event);
            }
            Row::Outcome => return self.outcome(key, row).map(Some),
        }
        Ok(None)
    }

    fn shard(&mut self, key: &[u8], row: &[u8]) -> Result<(), SnapshotError> {
        let damaged = |error| SnapshotError::Row { table: Row::Shard.table(), error };
        if key != layout::shard_key(self.shard) {
            return Err(SnapshotError::Foreign);
        }
        self.head = Some(layout::decode_shard(key, row).map_err(damaged)?);
        Ok(())
    }

    fn entity(&mut self, key: &[u8], row: &[u8]) -> Result<(), SnapshotError> {
        let damaged = |error| SnapshotError::Row { table: Row::Entity.table(), error };
        self.check_whole()?;
        let own = own_part(Row::Entity, key);
        let follows = self.entity.as_ref().is_none_or(|before| before.key.as_slice() < own);
        if !follows || self.outcome.is_some() {
            return Err(SnapshotError::Place("an entity"));
        }
        check_name(own).map_err(damaged)?;
        let head = layout::decode_entity(key, row).map_err(damaged)?;
        if head.version == 0 || head.snapshot_version > head.version {
            return Err(damaged(RowError::Field("a version")));
        }
        let (version, snapshot_version) = (head.version, head.snapshot_version);
        self.entity = Some(Entity { key: own.to_vec(), version, snapshot_version, last_event: 0 });
        Ok(())
    }

    fn outcome(&mut self, key: &[u8], row: &[u8]) -> Result<OutcomeRow, SnapshotError> {
        let damaged = |error| SnapshotError::Row { table: Row::Outcome.table(), error };
        self.check_whole()?;
        let outcome = layout::decode_outcome(key, row).map_err(damaged)?;
        let place = Some((outcome.lane, outcome.row));
        if self.outcome >= place {
            return Err(SnapshotError::Place("an outcome"));
        }
        self.outcome = place;
        Ok(outcome)
    }

    fn entity_of(&mut self, key: &[u8]) -> Option<&mut Entity> {
        self.entity.as_mut().filter(|entity| entity.key == key && self.outcome.is_none())
    }

    /// Whether nothing that belongs to what has come is missing.
    pub(super) fn check_whole(&self) -> Result<(), SnapshotError> {
        if self.head.is_none() {
            return Err(SnapshotError::Place("a shard's head"));
        }
        match &self.entity {
            Some(entity) if entity.snapshot_version != 0 => Err(SnapshotError::Place("a snapshot")),
            Some(entity) if entity.last_event != entity.version => Err(SnapshotError::Place("an event")),
            _ => Ok(()),
        }
    }
}

/// A key without the generation, which every node counts for itself.
fn own_part(kind: Row, key: &[u8]) -> &[u8] {
    match kind {
        Row::Shard => key,
        _ => key.get(GENERATION_BYTES..).unwrap_or_default(),
    }
}

fn check_name(key: &[u8]) -> Result<(), RowError> {
    let end = key.iter().position(|byte| *byte == 0).ok_or(RowError::Field("a key"))?;
    let part = |bytes| std::str::from_utf8(bytes).map_err(|_| RowError::Field("a key"));
    EntityKey::new(part(&key[..end])?, part(&key[end + 1..])?).map(drop).map_err(|_| RowError::Field("a key"))
}

/// Of everything but itself.
fn checksum(chunk: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&chunk[..1]), &chunk[PREFIX_BYTES..])
}

fn take(bytes: &mut Bytes, len: usize, what: &'static str) -> Result<Bytes, SnapshotError> {
    if bytes.len() < len { Err(SnapshotError::Field(what)) } else { Ok(bytes.split_to(len)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::layout::EntityHead;
    use super::super::model::{Snapshot, StoredEvent};
    use super::*;
    use crate::record::{Fingerprint, Outcome, Scope, Status};

    /// Stored once by layout version 1 and never regenerated: a newer node must read the chunks of an older one.
    const SAMPLE_V1: &str = include_str!("samples/chunk-v1.hex");

    const SHARD: ShardId = ShardId(0x0102);
    const GENERATION: u32 = 3;
    const NUMBER: u64 = 0x1122_3344_5566_7788;

    type Stored = (Row, Vec<u8>, Vec<u8>);

    fn head() -> Stored {
        let head =
            ShardHead { applied: Some(LogId { term: 7, index: 9 }), generation: GENERATION, ..ShardHead::default() };
        let key = layout::shard_key(SHARD).to_vec();
        (Row::Shard, key.clone(), layout::encode_shard(&key, &head))
    }

    fn key(id: &str) -> Vec<u8> {
        layout::entity_key(SHARD, GENERATION, &EntityKey::new("cart", id).unwrap())
    }

    fn entity(id: &str, version: Version, snapshot_version: Version) -> Stored {
        let head = EntityHead { version, deleted: false, last_event_time_micros: 5, snapshot_version };
        (Row::Entity, key(id), layout::encode_entity(&key(id), &head))
    }

    fn snapshot(id: &str, version: Version) -> Stored {
        let snapshot = Snapshot { version, state: Bytes::from_static(b"{}") };
        (Row::Snapshot, key(id), layout::encode_snapshot(&key(id), &snapshot))
    }

    fn events(id: &str, versions: std::ops::RangeInclusive<Version>) -> Stored {
        let key = layout::events_key(&key(id), *versions.start());
        let event = |version| StoredEvent {
            version,
            time_micros: version,
            event_type: Bytes::from_static(b"added"),
            data: Bytes::from_static(b"1"),
        };
        let events: Vec<_> = versions.map(event).collect();
        (Row::Events, key.clone(), layout::encode_events(&key, &events))
    }

    fn outcome(lane: Lane, row: u64) -> Stored {
        let key = layout::outcome_key(SHARD, GENERATION, lane, row).to_vec();
        let outcome = Outcome { status: Status::Accepted, reply: Bytes::from_static(b"1"), reason: Bytes::new() };
        let (scope, fingerprint) = (Scope([1; 16]), Fingerprint([2; 16]));
        let row = OutcomeRow { lane, row, scope, fingerprint, expires_micros: 8, version: 1, outcome };
        (Row::Outcome, key.clone(), layout::encode_outcome(&key, &row))
    }

    /// A shard of which every row has its place.
    fn whole() -> Vec<Stored> {
        vec![
            head(),
            entity("a", 4, 2),
            snapshot("a", 2),
            events("a", 1..=3),
            events("a", 4..=4),
            entity("a b", 1, 0),
            events("a b", 1..=1),
            outcome(Lane::Gateway, 6),
            outcome(Lane::Client, 5),
            outcome(Lane::Client, 6),
        ]
    }

    fn chunk(number: u32, rows: &[Stored], is_last: bool) -> Bytes {
        let mut chunk = ChunkBuilder::new(NUMBER, number, CHUNK_BYTES_MAX);
        for (kind, key, row) in rows {
            assert!(chunk.add(*kind, key, row).unwrap());
        }
        chunk.finish(is_last)
    }

    /// Whether `rows` are a whole shard for who receives them.
    fn received(rows: &[Stored]) -> Result<Vec<FileRow>, SnapshotError> {
        Received::new(SHARD, 8).take(&chunk(0, rows, true)).map(|taken| taken.rows)
    }

    /// Whether they are for who reads them.
    fn read(rows: &[Stored]) -> Result<(), SnapshotError> {
        let mut content = Content::new(SHARD);
        for (kind, key, row) in rows {
            content.next(*kind, key, row)?;
        }
        content.check_whole()
    }

    fn from_hex(text: &str) -> Bytes {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        text.trim().as_bytes().chunks(2).map(byte).collect()
    }

    #[test]
    fn a_chunk_of_layout_version_1_reads_the_same_and_is_still_written_the_same() {
        let sample = from_hex(SAMPLE_V1);
        assert_eq!(sample, chunk(0, &whole(), true));
        let taken = Received::new(SHARD, GENERATION).take(&sample).unwrap();
        assert!(taken.received.is_whole());
        let rows: Vec<_> = taken.rows.into_iter().map(|row| (row.kind, row.key, row.row)).collect();
        assert_eq!(rows, whole()[1..], "under the same generation the rows are the same");
        assert_eq!(
            taken.outcomes.iter().map(|row| (row.lane, row.row)).collect::<Vec<_>>(),
            [(Lane::Gateway, 6), (Lane::Client, 5), (Lane::Client, 6)]
        );
    }

    #[test]
    fn rows_come_under_the_generation_of_who_receives_them() {
        for (row, (_, key, _)) in received(&whole()).unwrap().into_iter().zip(whole().into_iter().skip(1)) {
            assert_eq!(layout::generation_of_key(&row.key), Ok((SHARD, 8)));
            assert_eq!(row.key[GENERATION_BYTES..], key[GENERATION_BYTES..]);
            assert!(layout::open(row.kind, &row.key, &row.row).is_ok());
        }
    }

    #[test]
    fn a_shard_that_lacks_a_row_is_neither_read_nor_received() {
        // Whole entities and whole outcomes may be missing, for all that the others say.
        for (missing, is_noticed) in
            [true, true, true, true, true, true, true, false, false, false].into_iter().enumerate()
        {
            let mut rows = whole();
            rows.remove(missing);
            assert_eq!(
                (read(&rows).is_err(), received(&rows).is_err()),
                (is_noticed, is_noticed),
                "without row {missing}"
            );
        }
    }

    #[test]
    fn a_shard_whose_rows_are_out_of_order_or_come_twice_is_neither_read_nor_received() {
        for (one, other) in (0..whole().len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let mut rows = whole();
            rows.swap(one, other);
            assert!(read(&rows).is_err() && received(&rows).is_err(), "rows {one} and {other} swapped");
        }
        for twice in 0..whole().len() {
            let mut rows = whole();
            rows.insert(twice, rows[twice].clone());
            assert!(read(&rows).is_err() && received(&rows).is_err(), "row {twice} twice");
        }
        let extra = |at: usize, row: Stored| {
            let mut rows = whole();
            rows.insert(at, row);
            rows
        };
        for rows in [
            extra(5, events("a", 5..=5)),
            extra(5, snapshot("a", 2)),
            extra(7, snapshot("a b", 1)),
            extra(7, entity("b", 0, 0)),
            extra(7, entity("b", 1, 2)),
            extra(10, entity("b", 1, 0)),
        ] {
            assert!(read(&rows).is_err() && received(&rows).is_err(), "{:?}", rows.len());
        }
    }

    #[test]
    fn a_snapshot_of_another_shard_is_foreign() {
        let chunk = chunk(0, &whole(), true);
        let refused = Received::new(ShardId(9), 1).take(&chunk).map(drop);
        assert_eq!(refused, Err(SnapshotError::Foreign));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let chunk = chunk(0, &whole(), true);
        for bit in 0..chunk.len() * 8 {
            let mut flipped = chunk.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Received::new(SHARD, 1).take(&flipped.into()).is_err(), "bit {bit}");
        }
        for len in 0..chunk.len() {
            assert!(Received::new(SHARD, 1).take(&chunk.slice(..len)).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_row_of_a_newer_layout_is_refused_by_name() {
        let mut newer = chunk(0, &whole(), true).to_vec();
        newer[HEADER_BYTES + 1] = 9;
        let sum = checksum(&newer).to_le_bytes();
        newer[1..PREFIX_BYTES].copy_from_slice(&sum);
        let refused = Received::new(SHARD, 1).take(&newer.into()).map(drop);
        assert_eq!(refused, Err(SnapshotError::Row { table: "shards", error: RowError::Version(9) }));
    }

    proptest! {
        #[test]
        fn hostile_chunks_never_panic(place in 0..600_usize, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut hostile = chunk(0, &whole(), true).to_vec();
            let place = HEADER_BYTES + place % (hostile.len() - HEADER_BYTES);
            for (old, new) in hostile[place..].iter_mut().zip(&bytes) {
                *old = *new;
            }
            if bytes.len() > 30 {
                hostile.truncate(place);
            }
            let sum = checksum(&hostile).to_le_bytes();
            hostile[1..PREFIX_BYTES].copy_from_slice(&sum);
            let _ = Received::new(SHARD, u32::MAX).take(&hostile.into());
        }
    }
}
