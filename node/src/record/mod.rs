//! What a shard writes to its log: batches of decided records, in bytes that never change once written. Pure.
//!
//! All numbers are little-endian. A batch is the payload of one log entry:
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | layout version: 2 for a batch that begins an incarnation of its shard, else 1 |
//! | 4 | CRC32C of everything after this field |
//! | 8 | decision term: the Raft term in which the owner decided |
//! | 4 | incarnation; only in version 2 |
//! | 4 | number of records |
//! | … | the records |
//!
//! A record is one decided command:
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | who made the idempotency key: 0 client, 1 gateway |
//! | 8 | when the gateway made it, microseconds since 1970; 0 for a client's key |
//! | 16 | scope of the idempotency key: BLAKE3 of principal, kind, id and key, cut to 128 bits |
//! | 16 | fingerprint of the request: BLAKE3 of command, body and preconditions, cut to 128 bits |
//! | 8 | base version: the entity's version before this record |
//! | 8 | time: microseconds since 1970, strictly increasing in a shard |
//! | 1 + n | kind |
//! | 2 + n | id |
//! | 1 | outcome status, see [`Status`] |
//! | 4 + n | reply, JSON; of a refusal, its detail |
//! | 1 + n | reason, the kind's own code of a rejection |
//! | 2 | number of events; each: 1 + n type, 4 + n data, JSON |

mod codec;

use bytes::Bytes;
use smallvec::SmallVec;

use berth_shared::ids::{Term, Version};
use berth_shared::key::EntityKey;

pub use codec::Error;

/// One log entry's worth of records, all decided by one owner in one term.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    bytes: Bytes,
    decision_term: Term,
    incarnation: Option<u32>,
    records: Vec<Record>,
}

/// One decided command.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub key: EntityKey,
    pub request: RequestKey,
    pub base_version: Version,
    pub time_micros: u64,
    pub outcome: Outcome,
    pub events: SmallVec<[EventBody; 1]>,
}

/// The idempotency key of a request, and what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    pub scope: Scope,
    pub fingerprint: Fingerprint,
    pub origin: KeyOrigin,
}

/// Identity of an idempotency key within its scope (principal, kind, id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(pub [u8; 16]);

/// Two requests with the same fingerprint ask for the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

pub use berth_shared::message::KeyOrigin;

/// What is answered, now and to every retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    /// Reply of the command, JSON; of a refusal, its detail. At most [`REPLY_BYTES_MAX`].
    pub reply: Bytes,
    /// The kind's own code of a rejection; empty otherwise.
    pub reason: Bytes,
}

/// Longest reply that is kept for retries; a command that replies more is refused.
pub const REPLY_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Accepted, with or without events.
    Accepted = 0,
    /// The entity said no.
    Rejected = 1,
    /// A precondition did not hold. The version is the base version.
    VersionMismatch = 2,
    /// State or reply would have become too large.
    TooLarge = 3,
    /// There is nothing to delete, and never was.
    NotFound = 4,
}

impl Status {
    /// The status that is stored as `number`.
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::Accepted, Self::Rejected, Self::VersionMismatch, Self::TooLarge, Self::NotFound]
            .into_iter()
            .find(|status| *status as u8 == number)
    }
}

/// An event as its kind wrote it. Its version and time follow from its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBody {
    pub event_type: Bytes,
    /// JSON.
    pub data: Bytes,
}

/// The type of the event that deletes an entity: the state after it is the one before the first event. No kind can have it
/// for one of its own.
const TOMBSTONE: &[u8] = b"berth-deleted";

impl EventBody {
    pub fn tombstone() -> Self {
        Self { event_type: Bytes::from_static(TOMBSTONE), data: Bytes::from_static(b"{}") }
    }
}

/// Whether an event of this type deletes its entity.
pub fn is_tombstone(event_type: &[u8]) -> bool {
    event_type == TOMBSTONE
}

impl Batch {
    /// Encodes `records` once; the same bytes go to disk and to replicas.
    pub fn new(decision_term: Term, records: Vec<Record>) -> Self {
        Self::encoded(decision_term, None, records)
    }

    /// Begins an incarnation of the shard; see [`crate::recovery`].
    pub fn of_incarnation(decision_term: Term, incarnation: u32) -> Self {
        Self::encoded(decision_term, Some(incarnation), Vec::new())
    }

    fn encoded(decision_term: Term, incarnation: Option<u32>, records: Vec<Record>) -> Self {
        let bytes = codec::encode(decision_term, incarnation, &records);
        Self { bytes, decision_term, incarnation, records }
    }

    /// Checks and reads bytes that came from disk or from a peer. The records share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, Error> {
        let codec::Fields { decision_term, incarnation, records } = codec::decode(&bytes)?;
        Ok(Self { bytes, decision_term, incarnation, records })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn decision_term(&self) -> Term {
        self.decision_term
    }

    /// Which incarnation of the shard begins with this batch, if one does.
    pub fn incarnation(&self) -> Option<u32> {
        self.incarnation
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

impl Record {
    /// The entity's version after this record.
    pub fn version(&self) -> Version {
        self.base_version + self.events.len() as Version
    }

    /// Whether the entity is deleted after this record; one without events changes nothing.
    pub fn deletes(&self) -> bool {
        self.events.last().is_some_and(|event| is_tombstone(&event.event_type))
    }
}

impl Scope {
    /// Fields are length-prefixed, so that no two scopes run together into the same bytes.
    pub fn new(principal: &str, key: &EntityKey, idempotency_key: &str) -> Self {
        Self(digest(&[principal.as_bytes(), key.as_str().as_bytes(), idempotency_key.as_bytes()]))
    }
}

impl Fingerprint {
    /// `precondition` is any encoding that differs where preconditions differ.
    pub fn new(command: &str, body: &[u8], precondition: &[u8]) -> Self {
        Self(digest(&[command.as_bytes(), body, precondition]))
    }
}

fn digest(fields: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_do_not_run_together() {
        let key = EntityKey::new("cart", "a").unwrap();
        assert_ne!(Scope::new("p", &key, "1"), Scope::new("", &key, "p1"));
        assert_eq!(Scope::new("p", &key, "1"), Scope::new("p", &key, "1"));
    }
}
