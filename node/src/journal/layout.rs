//! Bytes of the journal's rows, as laid out in the room's header. Pure. Reading trusts nothing: lengths and checksums are
//! checked, and a checksum covers the row's key, so that a row under a wrong key is noticed.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use berth_shared::ids::{LogId, LogIndex, NodeId, ShardId, Term};

use super::entry::{Entry, Payload, Vote};
use crate::record::{self, Batch};

const LAYOUT_VERSION: u8 = 1;
/// Version 1 knew no deletions, and ended after the purged entry.
const METADATA_VERSION: u8 = 2;
/// Version byte and checksum.
const PREFIX_BYTES: usize = 5;
const ROW_HEADER_BYTES: usize = PREFIX_BYTES + 2 + 8 + 8 + 1;
pub(super) const METADATA_BYTES: usize = PREFIX_BYTES + 1 + 8 * 8;
const METADATA_BYTES_V1: usize = PREFIX_BYTES + 1 + 6 * 8;

const KIND_BLANK: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

const HAS_VOTE: u8 = 1;
const VOTE_IS_COMMITTED: u8 = 2;
const HAS_COMMITTED: u8 = 4;
const HAS_PURGED: u8 = 8;
const HAS_FLOOR: u8 = 16;
const DELETION_HAS_BEGUN: u8 = 32;
const DELETION_IS_DONE: u8 = 64;
const FLAGS_V1: u8 = HAS_VOTE | VOTE_IS_COMMITTED | HAS_COMMITTED | HAS_PURGED;
const FLAGS: u8 = FLAGS_V1 | HAS_FLOOR | DELETION_HAS_BEGUN | DELETION_IS_DONE;

/// Why bytes are not a row.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("it has layout version {found}, and this program knows none after {newest}")]
    LayoutVersion { found: u8, newest: u8 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its length is wrong")]
    Length,
    #[error("its payload kind {0} or its flags are unknown")]
    Unknown(u8),
    #[error(transparent)]
    Batch(#[from] record::Error),
}

/// What the index needs to know of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) shard: ShardId,
    pub(super) log_id: LogId,
    kind: u8,
}

/// What is kept of a shard besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// How far the log of a replica went that was deleted here. What it promised by that still binds this node.
    pub(super) floor: Option<LogId>,
    pub(super) deletion: Deletion,
}

/// Whether what is kept of a shard is that of a replica, or of one that is no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Deletion {
    #[default]
    None,
    /// The replica is no more, and some of its rows are still to be deleted.
    Begun,
    /// There is nothing but its vote and its floor.
    Done,
}

pub(super) fn row_len(entry: &Entry) -> usize {
    ROW_HEADER_BYTES + payload_bytes(entry).len()
}

/// Writes a row into `out`, which has [`row_len`] bytes.
pub(super) fn write_row(out: &mut [u8], sequence: u64, shard: ShardId, entry: &Entry) {
    out[0] = LAYOUT_VERSION;
    out[5..7].copy_from_slice(&shard.0.to_le_bytes());
    out[7..15].copy_from_slice(&entry.log_id.term.to_le_bytes());
    out[15..23].copy_from_slice(&entry.log_id.index.to_le_bytes());
    out[23] = match entry.payload {
        Payload::Blank => KIND_BLANK,
        Payload::Batch(_) => KIND_BATCH,
        Payload::Membership(_) => KIND_MEMBERSHIP,
    };
    out[ROW_HEADER_BYTES..].copy_from_slice(payload_bytes(entry));
    seal(out, &sequence.to_le_bytes());
}

/// Makes a whole row valid under another sequence. Only for rows whose checksum was found right under their own.
pub(super) fn move_row(row: &mut [u8], sequence: u64) {
    seal(row, &sequence.to_le_bytes());
}

/// Checks a row and reads all of it but the payload.
pub(super) fn read_header(sequence: u64, row: &[u8]) -> Result<Header, Error> {
    check(row, &sequence.to_le_bytes(), LAYOUT_VERSION)?;
    let mut input = row.get(PREFIX_BYTES..ROW_HEADER_BYTES).ok_or(Error::Length)?;
    let shard = ShardId(input.get_u16_le());
    let log_id = read_log_id(&mut input);
    let kind = input.get_u8();
    match kind {
        KIND_BLANK if row.len() != ROW_HEADER_BYTES => Err(Error::Length),
        KIND_BLANK | KIND_BATCH | KIND_MEMBERSHIP => Ok(Header { shard, log_id, kind }),
        _ => Err(Error::Unknown(kind)),
    }
}

/// Checks and reads a whole row.
pub(super) fn read_row(sequence: u64, row: &[u8]) -> Result<(ShardId, Entry), Error> {
    let header = read_header(sequence, row)?;
    let bytes = Bytes::copy_from_slice(&row[ROW_HEADER_BYTES..]);
    let payload = match header.kind {
        KIND_BATCH => Payload::Batch(Arc::new(Batch::decode(bytes)?)),
        KIND_MEMBERSHIP => Payload::Membership(bytes),
        _ => Payload::Blank,
    };
    Ok((header.shard, Entry { log_id: header.log_id, payload }))
}

pub(super) fn write_metadata(shard: ShardId, metadata: &Metadata) -> [u8; METADATA_BYTES] {
    let mut out = [0; METADATA_BYTES];
    out[0] = METADATA_VERSION;
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out[5] = flag(metadata.vote.is_some(), HAS_VOTE)
        | flag(metadata.vote.is_some_and(|vote| vote.committed), VOTE_IS_COMMITTED)
        | flag(metadata.committed.is_some(), HAS_COMMITTED)
        | flag(metadata.purged.is_some(), HAS_PURGED)
        | flag(metadata.floor.is_some(), HAS_FLOOR)
        | flag(metadata.deletion == Deletion::Begun, DELETION_HAS_BEGUN)
        | flag(metadata.deletion == Deletion::Done, DELETION_IS_DONE);
    let vote = metadata.vote.map_or([0, 0], |vote| [vote.term, vote.node.0]);
    let log_ids = [metadata.committed, metadata.purged, metadata.floor].map(Option::unwrap_or_default);
    let fields = vote.into_iter().chain(log_ids.into_iter().flat_map(|log_id| [log_id.term, log_id.index]));
    for (field, place) in fields.zip(out[6..].chunks_mut(8)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    seal(&mut out, &shard.0.to_le_bytes());
    out
}

pub(super) fn read_metadata(shard: ShardId, row: &[u8]) -> Result<Metadata, Error> {
    check(row, &shard.0.to_le_bytes(), METADATA_VERSION)?;
    let (bytes, known_flags) = match row[0] {
        LAYOUT_VERSION => (METADATA_BYTES_V1, FLAGS_V1),
        _ => (METADATA_BYTES, FLAGS),
    };
    if row.len() != bytes {
        return Err(Error::Length);
    }
    let flags = row[5];
    let deletion = match flags & (DELETION_HAS_BEGUN | DELETION_IS_DONE) {
        0 => Deletion::None,
        DELETION_HAS_BEGUN => Deletion::Begun,
        DELETION_IS_DONE => Deletion::Done,
        _ => return Err(Error::Unknown(flags)),
    };
    if flags & !known_flags != 0 {
        return Err(Error::Unknown(flags));
    }
    let mut input = &row[6..];
    let vote =
        Vote { term: input.get_u64_le(), node: NodeId(input.get_u64_le()), committed: flags & VOTE_IS_COMMITTED != 0 };
    let mut log_id = |flag: u8| {
        let log_id = if input.is_empty() { LogId::default() } else { read_log_id(&mut input) };
        (flags & flag != 0).then_some(log_id)
    };
    Ok(Metadata {
        vote: (flags & HAS_VOTE != 0).then_some(vote),
        committed: log_id(HAS_COMMITTED),
        purged: log_id(HAS_PURGED),
        floor: log_id(HAS_FLOOR),
        deletion,
    })
}

fn payload_bytes(entry: &Entry) -> &[u8] {
    match &entry.payload {
        Payload::Blank => &[],
        Payload::Batch(batch) => batch.bytes(),
        Payload::Membership(bytes) => bytes,
    }
}

fn read_log_id(input: &mut &[u8]) -> LogId {
    let term: Term = input.get_u64_le();
    let index: LogIndex = input.get_u64_le();
    LogId { term, index }
}

pub(super) fn seal(row: &mut [u8], key: &[u8]) {
    let checksum = checksum(row, key);
    row[1..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Whether a row is whole, and of a layout version up to `newest`.
fn check(row: &[u8], key: &[u8], newest: u8) -> Result<(), Error> {
    match row {
        [found, ..] if !(1..=newest).contains(found) => Err(Error::LayoutVersion { found: *found, newest }),
        [_, c0, c1, c2, c3, _, ..] => {
            let stored = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
            if checksum(row, key) == stored { Ok(()) } else { Err(Error::Checksum) }
        }
        _ => Err(Error::Length),
    }
}

/// Of the key and of everything after the checksum.
fn checksum(row: &[u8], key: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), &row[PREFIX_BYTES..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stored once by layout version 1 and never regenerated: old journals must stay readable.
    const BLANK_V1: &str = include_str!("samples/row-blank-v1.hex");
    const BATCH_V1: &str = include_str!("samples/row-batch-v1.hex");
    const MEMBERSHIP_V1: &str = include_str!("samples/row-membership-v1.hex");
    const METADATA_V1: &str = include_str!("samples/metadata-v1.hex");
    const METADATA_V2: &str = include_str!("samples/metadata-v2.hex");
    const BATCH_PAYLOAD_V1: &str = include_str!("../record/samples/batch-v1.hex");

    const SEQUENCE: u64 = 0x0102_0304_0506_0708;
    const SHARD: ShardId = ShardId(513);

    fn from_hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn samples() -> [(&'static str, Entry); 3] {
        let log_id = LogId { term: 7, index: 300 };
        let batch = Batch::decode(from_hex(BATCH_PAYLOAD_V1).into()).unwrap();
        let membership = Bytes::from_static(b"whatever the adapter writes");
        [
            (BLANK_V1, Entry { log_id, payload: Payload::Blank }),
            (BATCH_V1, Entry { log_id, payload: Payload::Batch(Arc::new(batch)) }),
            (MEMBERSHIP_V1, Entry { log_id, payload: Payload::Membership(membership) }),
        ]
    }

    fn metadata_sample() -> Metadata {
        Metadata {
            vote: Some(Vote { term: 8, node: NodeId(0x00ab_cdef), committed: true }),
            committed: Some(LogId { term: 7, index: 299 }),
            purged: Some(LogId { term: 6, index: 200 }),
            floor: Some(LogId { term: 5, index: 150 }),
            deletion: Deletion::Begun,
        }
    }

    fn row(entry: &Entry) -> Vec<u8> {
        let mut out = vec![0; row_len(entry)];
        write_row(&mut out, SEQUENCE, SHARD, entry);
        out
    }

    #[test]
    fn rows_written_by_layout_version_1_read_the_same_and_are_still_written_the_same() {
        for (hex, entry) in samples() {
            let bytes = from_hex(hex);
            assert_eq!(row(&entry), bytes);
            assert_eq!(read_row(SEQUENCE, &bytes).unwrap(), (SHARD, entry));
        }
    }

    #[test]
    fn metadata_of_both_layout_versions_reads_and_is_still_written_as_version_2() {
        let before_deletions = Metadata { floor: None, deletion: Deletion::None, ..metadata_sample() };
        assert_eq!(read_metadata(SHARD, &from_hex(METADATA_V1)).unwrap(), before_deletions);
        let bytes = from_hex(METADATA_V2);
        assert_eq!(write_metadata(SHARD, &metadata_sample()), bytes.as_slice());
        assert_eq!(read_metadata(SHARD, &bytes).unwrap(), metadata_sample());
    }

    #[test]
    fn metadata_keeps_apart_what_is_there_and_what_is_not() {
        let full = metadata_sample();
        let uncommitted = full.vote.map(|vote| Vote { committed: false, ..vote });
        for metadata in [
            Metadata::default(),
            Metadata { vote: None, ..full },
            Metadata { vote: uncommitted, committed: None, ..full },
            Metadata { purged: None, ..full },
            Metadata { floor: None, deletion: Deletion::Done, ..full },
            Metadata { deletion: Deletion::None, ..full },
        ] {
            assert_eq!(read_metadata(SHARD, &write_metadata(SHARD, &metadata)).unwrap(), metadata);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for (_, entry) in samples() {
            let bytes = row(&entry);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(read_header(SEQUENCE, &damaged).is_err(), "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert!(read_header(SEQUENCE, &bytes[..len]).is_err(), "{len} bytes");
            }
        }
        let bytes = write_metadata(SHARD, &metadata_sample());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_metadata(SHARD, &damaged).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(read_metadata(SHARD, &bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_row_under_a_wrong_key_is_noticed_and_a_moved_one_is_right_under_its_new_key() {
        for (_, entry) in samples() {
            let mut bytes = row(&entry);
            assert!(matches!(read_row(SEQUENCE + 1, &bytes), Err(Error::Checksum)));
            move_row(&mut bytes, SEQUENCE + 1);
            assert_eq!(read_row(SEQUENCE + 1, &bytes).unwrap(), (SHARD, entry));
        }
        let bytes = write_metadata(SHARD, &metadata_sample());
        assert!(matches!(read_metadata(ShardId(1), &bytes), Err(Error::Checksum)));
    }

    #[test]
    fn a_newer_layout_is_refused_by_name() {
        let mut bytes = row(&samples()[0].1);
        bytes[0] = 2;
        assert_eq!(
            read_row(SEQUENCE, &bytes).unwrap_err().to_string(),
            "it has layout version 2, and this program knows none after 1"
        );
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = vec![LAYOUT_VERSION, 0, 0, 0, 0];
            bytes.extend(&body);
            seal(&mut bytes, &SEQUENCE.to_le_bytes());
            let _ = read_row(SEQUENCE, &bytes);
            seal(&mut bytes, &SHARD.0.to_le_bytes());
            let _ = read_metadata(SHARD, &bytes);
            let _ = read_row(SEQUENCE, &body);
            let _ = read_metadata(SHARD, &body);
        }
    }
}
