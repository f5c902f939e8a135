//! Bytes of batches, as laid out in the room's header. Reading trusts nothing: every length is checked.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use berth_shared::ids::Term;
use berth_shared::key::{self, EntityKey};

use super::{EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};

const LAYOUT_VERSION: u8 = 1;
/// With an incarnation. Other batches are still written in version 1, which programs before this one read too.
const LAYOUT_VERSION_WITH_INCARNATION: u8 = 2;
/// Version byte and checksum.
const PREFIX_BYTES: usize = 5;

/// Why bytes are not a batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the batch has layout version {0}, and this program knows none after {LAYOUT_VERSION_WITH_INCARNATION}")]
    LayoutVersion(u8),
    #[error("the batch's checksum is wrong")]
    Checksum,
    #[error("the batch ends in the middle of {0}")]
    Short(&'static str),
    #[error("the batch has bytes after its last record")]
    TrailingBytes,
    #[error("{0} is not valid")]
    Field(&'static str),
    #[error("a record's entity key is not valid: {0}")]
    Key(#[from] key::Error),
}

/// What the bytes of a batch say.
pub(super) struct Fields {
    pub(super) decision_term: Term,
    pub(super) incarnation: Option<u32>,
    pub(super) records: Vec<Record>,
}

pub(super) fn encode(decision_term: Term, incarnation: Option<u32>, records: &[Record]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + 16 + records.iter().map(encoded_len).sum::<usize>());
    out.put_u8(incarnation.map_or(LAYOUT_VERSION, |_| LAYOUT_VERSION_WITH_INCARNATION));
    out.put_u32_le(0);
    out.put_u64_le(decision_term);
    if let Some(incarnation) = incarnation {
        out.put_u32_le(incarnation);
    }
    out.put_u32_le(records.len() as u32);
    for record in records {
        encode_record(&mut out, record);
    }
    let checksum = crc32c::crc32c(&out[PREFIX_BYTES..]);
    out[1..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
    out.freeze()
}

fn encoded_len(record: &Record) -> usize {
    let events: usize = record.events.iter().map(|e| 5 + e.event_type.len() + e.data.len()).sum();
    68 + record.key.as_str().len() + record.outcome.reply.len() + record.outcome.reason.len() + events
}

fn encode_record(out: &mut BytesMut, record: &Record) {
    let (origin, created) = match record.request.origin {
        KeyOrigin::Client => (0, 0),
        KeyOrigin::Gateway { created_micros } => (1, created_micros),
    };
    out.put_u8(origin);
    out.put_u64_le(created);
    out.put_slice(&record.request.scope.0);
    out.put_slice(&record.request.fingerprint.0);
    out.put_u64_le(record.base_version);
    out.put_u64_le(record.time_micros);
    out.put_u8(record.key.kind().len() as u8);
    out.put_slice(record.key.kind().as_bytes());
    out.put_u16_le(record.key.id().len() as u16);
    out.put_slice(record.key.id().as_bytes());
    out.put_u8(record.outcome.status as u8);
    out.put_u32_le(record.outcome.reply.len() as u32);
    out.put_slice(&record.outcome.reply);
    out.put_u8(record.outcome.reason.len() as u8);
    out.put_slice(&record.outcome.reason);
    out.put_u16_le(record.events.len() as u16);
    for event in &record.events {
        out.put_u8(event.event_type.len() as u8);
        out.put_slice(&event.event_type);
        out.put_u32_le(event.data.len() as u32);
        out.put_slice(&event.data);
    }
}

pub(super) fn decode(bytes: &Bytes) -> Result<Fields, Error> {
    let mut input = bytes.clone();
    let version = take(&mut input, 1, "its version")?.get_u8();
    if !(LAYOUT_VERSION..=LAYOUT_VERSION_WITH_INCARNATION).contains(&version) {
        return Err(Error::LayoutVersion(version));
    }
    let checksum = take(&mut input, 4, "its checksum")?.get_u32_le();
    if crc32c::crc32c(&input) != checksum {
        return Err(Error::Checksum);
    }
    let decision_term = take(&mut input, 8, "its term")?.get_u64_le();
    let incarnation = match version {
        LAYOUT_VERSION_WITH_INCARNATION => Some(take(&mut input, 4, "its incarnation")?.get_u32_le()),
        _ => None,
    };
    let count = take(&mut input, 4, "its record count")?.get_u32_le() as usize;
    // Room for what can be there at most, whatever the count says.
    let mut records = Vec::with_capacity(count.min(input.len() / 68 + 1));
    for _ in 0..count {
        records.push(decode_record(&mut input)?);
    }
    if input.has_remaining() { Err(Error::TrailingBytes) } else { Ok(Fields { decision_term, incarnation, records }) }
}

fn decode_record(input: &mut Bytes) -> Result<Record, Error> {
    let origin = take(input, 1, "an origin")?.get_u8();
    let created_micros = take(input, 8, "an origin")?.get_u64_le();
    let origin = match origin {
        0 => KeyOrigin::Client,
        1 => KeyOrigin::Gateway { created_micros },
        _ => return Err(Error::Field("an origin")),
    };
    let mut scope = [0; 16];
    take(input, 16, "a scope")?.copy_to_slice(&mut scope);
    let mut fingerprint = [0; 16];
    take(input, 16, "a fingerprint")?.copy_to_slice(&mut fingerprint);
    let base_version = take(input, 8, "a version")?.get_u64_le();
    let time_micros = take(input, 8, "a time")?.get_u64_le();
    let kind = take_u8_sized(input, "a kind")?;
    let id_len = take(input, 2, "an id")?.get_u16_le() as usize;
    let id = take(input, id_len, "an id")?;
    let status = Status::of_number(take(input, 1, "a status")?.get_u8()).ok_or(Error::Field("a status"))?;
    let reply = take_u32_sized(input, "a reply")?;
    let reason = take_u8_sized(input, "a reason")?;
    let event_count = take(input, 2, "an event count")?.get_u16_le();
    if base_version.checked_add(event_count.into()).is_none() {
        return Err(Error::Field("a version"));
    }
    let mut events = SmallVec::new();
    for _ in 0..event_count {
        let event_type = take_u8_sized(input, "an event type")?;
        let data = take_u32_sized(input, "an event")?;
        events.push(EventBody { event_type, data });
    }
    let kind = std::str::from_utf8(&kind).map_err(|_| Error::Field("a kind"))?;
    let id = std::str::from_utf8(&id).map_err(|_| Error::Field("an id"))?;
    Ok(Record {
        key: EntityKey::new(kind, id)?,
        request: RequestKey { scope: Scope(scope), fingerprint: Fingerprint(fingerprint), origin },
        base_version,
        time_micros,
        outcome: Outcome { status, reply, reason },
        events,
    })
}

fn take(input: &mut Bytes, len: usize, what: &'static str) -> Result<Bytes, Error> {
    if input.len() < len { Err(Error::Short(what)) } else { Ok(input.split_to(len)) }
}

fn take_u8_sized(input: &mut Bytes, what: &'static str) -> Result<Bytes, Error> {
    let len = take(input, 1, what)?.get_u8() as usize;
    take(input, len, what)
}

fn take_u32_sized(input: &mut Bytes, what: &'static str) -> Result<Bytes, Error> {
    let len = take(input, 4, what)?.get_u32_le() as usize;
    take(input, len, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;
    use crate::record::Batch;

    fn sample() -> Vec<Record> {
        vec![
            Record {
                key: EntityKey::new("cart", "alice").unwrap(),
                request: RequestKey {
                    scope: Scope([1; 16]),
                    fingerprint: Fingerprint([2; 16]),
                    origin: KeyOrigin::Gateway { created_micros: 77 },
                },
                base_version: 4,
                time_micros: 1_767_225_600_000_001,
                outcome: Outcome { status: Status::Accepted, reply: Bytes::from_static(b"null"), reason: Bytes::new() },
                events: smallvec![EventBody {
                    event_type: Bytes::from_static(b"item-added"),
                    data: Bytes::from_static(br#"{"sku":"x","quantity":1,"unitPriceCents":5}"#),
                }],
            },
            Record {
                key: EntityKey::new("account", "ü").unwrap(),
                request: RequestKey {
                    scope: Scope([3; 16]),
                    fingerprint: Fingerprint([4; 16]),
                    origin: KeyOrigin::Client,
                },
                base_version: 9,
                time_micros: 1_767_225_600_000_002,
                outcome: Outcome {
                    status: Status::Rejected,
                    reply: Bytes::from_static(b"too little"),
                    reason: Bytes::from_static(b"insufficient-funds"),
                },
                events: smallvec![],
            },
        ]
    }

    /// Stored once by layout version 1 and never regenerated: old journals must stay readable.
    const SAMPLE_V1: &str = include_str!("samples/batch-v1.hex");
    const SAMPLE_V2: &str = include_str!("samples/batch-v2.hex");

    fn from_hex(text: &str) -> Bytes {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect::<Vec<u8>>().into()
    }

    #[test]
    fn a_batch_written_by_layout_version_1_reads_the_same() {
        let batch = Batch::decode(from_hex(SAMPLE_V1)).unwrap();
        assert_eq!(batch.decision_term(), 7);
        assert_eq!(batch.records(), sample());
        assert_eq!(Batch::new(7, sample()).bytes(), batch.bytes(), "and is still written the same");
    }

    #[test]
    fn a_batch_that_begins_an_incarnation_reads_the_same_and_is_still_written_the_same() {
        let batch = Batch::decode(from_hex(SAMPLE_V2)).unwrap();
        assert_eq!((batch.decision_term(), batch.incarnation(), batch.records().len()), (7, Some(258), 0));
        assert_eq!(Batch::of_incarnation(7, 258).bytes(), batch.bytes());
        assert_eq!(Batch::new(7, sample()).incarnation(), None);
    }

    #[test]
    fn a_record_whose_events_have_no_versions_left_is_refused() {
        let [mut record, _] = sample().try_into().unwrap();
        record.base_version = u64::MAX - 1;
        assert_eq!(
            Batch::decode(Batch::new(7, vec![record.clone()]).bytes().clone()).unwrap().records()[0].version(),
            u64::MAX
        );
        record.base_version = u64::MAX;
        let refused = Batch::decode(Batch::new(7, vec![record]).bytes().clone());
        assert!(matches!(refused, Err(Error::Field("a version"))), "{refused:?}");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for batch in [Batch::new(7, sample()), Batch::of_incarnation(7, 258)] {
            let bytes = batch.bytes().to_vec();
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Batch::decode(damaged.into()).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        for batch in [Batch::new(7, sample()), Batch::of_incarnation(7, 258)] {
            let bytes = batch.bytes();
            for len in 0..bytes.len() {
                assert!(Batch::decode(bytes.slice(..len)).is_err(), "{len} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(version in 1_u8..3, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = vec![version];
            bytes.extend(crc32c::crc32c(&body).to_le_bytes());
            bytes.extend(body);
            let _ = Batch::decode(bytes.into());
        }
    }
}
