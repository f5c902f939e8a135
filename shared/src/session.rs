//! The session token: how much of each shard's history a client has seen, in a form it can carry in an HTTP header. A
//! read with the token answers at least that much. Pure.
//!
//! To clients a token is opaque. It is base64url without padding (RFC 4648) of these bytes; numbers are little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | layout version, 1 |
//! | 4 | CRC32C of everything after this field |
//! | 16 | cluster id |
//! | 1 | flags: bit 0 = overflowed, see below; the others are 0 |
//! | 1 | number of entries, at most [`ENTRIES_MAX`] |
//! | 14 each | shard (2), incarnation (4), index (8); strictly ascending by shard |
//!
//! The checksum finds mistakes, not forgeries: a made-up token can only make its own client's reads wait, so whoever
//! waits for an index bounds the wait.
//!
//! A token that has seen more shards than it may list is *overflowed*: it lists the lowest ones, and of every other shard
//! it says only that it may have been seen. Such a shard is read at its owner, which has seen everything, and stays
//! unlisted, because a later sight of it may be of less (from a stale replica) than what was left out. With up to
//! [`ENTRIES_MAX`] shards in a cluster this never happens.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, BufMut};

use crate::ids::{ClusterId, ShardId};
use crate::message::Seen;

/// Shards that one token lists at most; it then has 2420 characters, well within what proxies allow a header.
pub const ENTRIES_MAX: usize = 128;

const LAYOUT_VERSION: u8 = 1;
/// Version and checksum.
const PREFIX_BYTES: usize = 5;
/// Prefix, cluster, flags and number of entries.
const HEADER_BYTES: usize = PREFIX_BYTES + 18;
const ENTRY_BYTES: usize = 14;
const OVERFLOWED: u8 = 1;
/// Longest text of a token; longer ones are not even decoded.
pub const TEXT_BYTES_MAX: usize = (HEADER_BYTES + ENTRIES_MAX * ENTRY_BYTES).div_ceil(3) * 4;

/// What a client has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    cluster: ClusterId,
    /// Invariant: strictly ascending by shard, at most [`ENTRIES_MAX`].
    entries: Vec<(ShardId, Seen)>,
    /// Shards without an entry may have been seen too.
    overflowed: bool,
}

/// What a read of one shard owes to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The client has seen nothing of this shard: any replica will do.
    Nothing,
    /// A replica that has applied at least this. In another incarnation only the owner can answer.
    AtLeast(Seen),
    /// The token cannot tell: the owner must answer.
    Owner,
}

/// Why text is not a session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a session token has at most {TEXT_BYTES_MAX} characters")]
    TooLong,
    #[error("a session token is base64url without padding")]
    Text,
    #[error("the session token has layout version {0}, and this program knows only {LAYOUT_VERSION}")]
    LayoutVersion(u8),
    #[error("the session token is cut short or too long for what it lists")]
    Length,
    #[error("the session token's checksum is wrong")]
    Checksum,
    #[error("the session token's fields contradict each other")]
    Field,
}

impl Token {
    /// The token of a client that has seen one shard.
    pub fn single(cluster: ClusterId, shard: ShardId, seen: Seen) -> Self {
        Self { cluster, entries: vec![(shard, seen)], overflowed: false }
    }

    /// The token of a client that has seen all of these, of each shard the highest.
    pub fn of(cluster: ClusterId, seen: impl IntoIterator<Item = (ShardId, Seen)>) -> Self {
        let mut shards: BTreeMap<ShardId, Seen> = BTreeMap::new();
        for (shard, seen) in seen {
            let highest = shards.entry(shard).or_insert(seen);
            if rank(seen) > rank(*highest) {
                *highest = seen;
            }
        }
        let overflowed = shards.len() > ENTRIES_MAX;
        Self { cluster, entries: shards.into_iter().take(ENTRIES_MAX).collect(), overflowed }
    }

    /// A token of another cluster says nothing about this one: the owner answers and the client gets a new token.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub fn requirement(&self, shard: ShardId) -> Requirement {
        match self.entries.binary_search_by_key(&shard, |entry| entry.0) {
            Ok(place) => Requirement::AtLeast(self.entries[place].1),
            Err(_) if self.overflowed => Requirement::Owner,
            Err(_) => Requirement::Nothing,
        }
    }

    /// Adds what `newer` has seen: per shard the higher (incarnation, index) stays. When that is more than
    /// [`ENTRIES_MAX`] shards, the lowest are listed and the token is overflowed. A `newer` of another cluster replaces
    /// everything, because the old cluster's history means nothing there.
    pub fn merge(&mut self, newer: &Self) {
        if self.cluster != newer.cluster {
            self.clone_from(newer);
            return;
        }
        let mut shards: Vec<ShardId> = self.entries.iter().chain(&newer.entries).map(|entry| entry.0).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut entries = Vec::with_capacity(shards.len().min(ENTRIES_MAX));
        let mut overflowed = self.overflowed || newer.overflowed;
        for shard in shards {
            match self.requirement(shard).both(newer.requirement(shard)) {
                Requirement::AtLeast(seen) if entries.len() < ENTRIES_MAX => entries.push((shard, seen)),
                _ => overflowed = true,
            }
        }
        self.entries = entries;
        self.overflowed = overflowed;
    }

    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        bytes.put_u8(LAYOUT_VERSION);
        bytes.put_u32_le(0);
        bytes.put_u128_le(self.cluster.0);
        bytes.put_u8(if self.overflowed { OVERFLOWED } else { 0 });
        bytes.put_u8(self.entries.len() as u8);
        for (shard, seen) in &self.entries {
            bytes.put_u16_le(shard.0);
            bytes.put_u32_le(seen.incarnation);
            bytes.put_u64_le(seen.index);
        }
        let checksum = crc32c::crc32c(&bytes[PREFIX_BYTES..]);
        bytes[1..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn decode(text: &str) -> Result<Self, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Error::Text)?;
        match bytes.first() {
            Some(&LAYOUT_VERSION) => {}
            Some(&other) => return Err(Error::LayoutVersion(other)),
            None => return Err(Error::Length),
        }
        let mut input = &bytes[1..];
        let checksum = input.try_get_u32_le().map_err(|_| Error::Length)?;
        if crc32c::crc32c(input) != checksum {
            return Err(Error::Checksum);
        }
        if bytes.len() < HEADER_BYTES {
            return Err(Error::Length);
        }
        let cluster = ClusterId(input.get_u128_le());
        let flags = input.get_u8();
        let count = usize::from(input.get_u8());
        if flags & !OVERFLOWED != 0 || count > ENTRIES_MAX {
            return Err(Error::Field);
        }
        if input.len() != count * ENTRY_BYTES {
            return Err(Error::Length);
        }
        let entry = |mut entry: &[u8]| {
            let shard = ShardId(entry.get_u16_le());
            (shard, Seen { incarnation: entry.get_u32_le(), index: entry.get_u64_le() })
        };
        let entries: Vec<_> = input.chunks_exact(ENTRY_BYTES).map(entry).collect();
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::Field);
        }
        Ok(Self { cluster, entries, overflowed: flags & OVERFLOWED != 0 })
    }
}

impl Requirement {
    /// What satisfies both.
    fn both(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Owner, _) | (_, Self::Owner) => Self::Owner,
            (Self::AtLeast(a), Self::AtLeast(b)) => Self::AtLeast(if rank(a) >= rank(b) { a } else { b }),
        }
    }
}

/// A later incarnation of a shard comes after every index of an earlier one.
fn rank(seen: Seen) -> (u32, u64) {
    (seen.incarnation, seen.index)
}

#[cfg(any(test, fuzzing))]
pub mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

    fn seen(incarnation: u32, index: u64) -> Seen {
        Seen { incarnation, index }
    }

    fn token(entries: impl IntoIterator<Item = (u16, Seen)>) -> Token {
        let entries: BTreeMap<_, _> = entries.into_iter().map(|(s, seen)| (ShardId(s), seen)).collect();
        Token { cluster: CLUSTER, entries: entries.into_iter().collect(), overflowed: false }
    }

    /// Stored once by layout version 1 and never regenerated: tokens outlive upgrades in clients' hands.
    const SAMPLE_V1: &str = "AXtKVOt3ZlVEMyIRAO_Nq4lnRSMBAAIDAAEAAABNAAAAAAAAAD8AAgAAAAAAAAAAAQAA";

    #[test]
    fn a_token_written_by_layout_version_1_reads_the_same() {
        let expected = token([(3, seen(1, 77)), (63, seen(2, 1 << 40))]);
        assert_eq!(Token::decode(SAMPLE_V1), Ok(expected.clone()));
        assert_eq!(expected.encode(), SAMPLE_V1, "and is still written the same");
    }

    #[test]
    fn merging_keeps_the_highest_of_each_shard() {
        let mut merged = token([(1, seen(1, 10)), (2, seen(2, 5)), (4, seen(1, 1))]);
        merged.merge(&token([(1, seen(1, 11)), (2, seen(1, 900)), (3, seen(1, 1))]));
        assert_eq!(merged, token([(1, seen(1, 11)), (2, seen(2, 5)), (3, seen(1, 1)), (4, seen(1, 1))]));
    }

    #[test]
    fn a_token_of_many_lists_the_highest_of_each_and_overflows_as_merged_ones_do() {
        let of = |entries: &[(u16, Seen)]| Token::of(CLUSTER, entries.iter().map(|(s, seen)| (ShardId(*s), *seen)));
        let expected = token([(1, seen(2, 1)), (3, seen(1, 8))]);
        assert_eq!(of(&[(3, seen(1, 8)), (1, seen(1, 90)), (3, seen(1, 7)), (1, seen(2, 1))]), expected);
        let many: Vec<_> = (0..=ENTRIES_MAX as u16).rev().map(|shard| (shard, seen(1, 5))).collect();
        let mut merged = of(&many[..1]);
        many[1..].iter().for_each(|entry| merged.merge(&of(&[*entry])));
        assert_eq!((of(&many), merged.overflowed), (merged, true));
    }

    #[test]
    fn a_token_of_another_cluster_replaces_the_old_one() {
        let mut merged = token([(1, seen(1, 10))]);
        let other = Token::single(ClusterId(9), ShardId(2), seen(1, 1));
        merged.merge(&other);
        assert_eq!(merged, other);
    }

    #[test]
    fn a_full_token_sends_reads_of_unlisted_shards_to_the_owner() {
        let mut full = token((0..ENTRIES_MAX as u16).map(|s| (s, seen(1, 1))));
        assert_eq!(full.requirement(ShardId(500)), Requirement::Nothing);
        full.merge(&Token::single(CLUSTER, ShardId(500), seen(1, 7)));
        assert_eq!(full.requirement(ShardId(500)), Requirement::Owner, "what was left out");
        assert_eq!(full.requirement(ShardId(0)), Requirement::AtLeast(seen(1, 1)));
        full.merge(&Token::single(CLUSTER, ShardId(0), seen(1, 2)));
        assert_eq!(full.requirement(ShardId(0)), Requirement::AtLeast(seen(1, 2)), "what is listed goes on");

        let mut with_room = Token { overflowed: true, ..token([(1, seen(1, 1))]) };
        with_room.merge(&Token::single(CLUSTER, ShardId(500), seen(1, 2)));
        assert_eq!(with_room.requirement(ShardId(500)), Requirement::Owner, "more than this may have been left out");

        let text = full.encode();
        assert_eq!(Token::decode(&text).as_ref(), Ok(&full));
        assert!(text.len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn hostile_texts_are_refused_by_name() {
        assert_eq!(Token::decode(&"A".repeat(TEXT_BYTES_MAX + 1)), Err(Error::TooLong));
        for text in ["%", "AQ==", "ü", "A"] {
            assert_eq!(Token::decode(text), Err(Error::Text), "{text}");
        }
        assert_eq!(Token::decode(""), Err(Error::Length));
        assert_eq!(Token::decode("AQ"), Err(Error::Length));
        assert_eq!(Token::decode("Ag"), Err(Error::LayoutVersion(2)));
    }

    /// Puts a right checksum before a body, so that what lies behind the checksum is reached.
    fn checksummed(body: &[u8]) -> String {
        let mut bytes = vec![LAYOUT_VERSION];
        bytes.extend(crc32c::crc32c(body).to_le_bytes());
        bytes.extend(body);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn contradicting_fields_are_refused() {
        let body = |flags: u8, count: u8, shards: &[u16]| {
            let mut body = CLUSTER.0.to_le_bytes().to_vec();
            body.extend([flags, count]);
            for shard in shards {
                body.extend(shard.to_le_bytes());
                body.extend([0; 12]);
            }
            checksummed(&body)
        };
        assert!(Token::decode(&body(0, 2, &[1, 2])).is_ok());
        assert_eq!(Token::decode(&body(0, 2, &[2, 1])), Err(Error::Field));
        assert_eq!(Token::decode(&body(0, 2, &[1, 1])), Err(Error::Field));
        assert_eq!(Token::decode(&body(2, 1, &[1])), Err(Error::Field));
        assert_eq!(Token::decode(&body(0, 3, &[1, 2])), Err(Error::Length));
        assert_eq!(Token::decode(&body(0, 1, &[1, 2])), Err(Error::Length));
        assert_eq!(Token::decode(&body(0, 129, &[1])), Err(Error::Field));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = URL_SAFE_NO_PAD.decode(token([(3, seen(1, 77)), (9, seen(1, 5))]).encode()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Token::decode(&URL_SAFE_NO_PAD.encode(damaged)).is_err(), "bit {bit}");
        }
    }

    fn any_token() -> impl Strategy<Value = Token> {
        let entry = (0_u16..300, (0_u32..3, 0_u64..100).prop_map(|(incarnation, index)| seen(incarnation, index)));
        (proptest::collection::vec(entry, 0..=ENTRIES_MAX), any::<bool>())
            .prop_map(|(entries, overflowed)| Token { overflowed, ..token(entries) })
    }

    proptest! {
        #[test]
        fn a_token_comes_back_from_its_text(token in any_token()) {
            let text = token.encode();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert!(text.len() <= TEXT_BYTES_MAX);
            prop_assert_eq!(Token::decode(&text), Ok(token));
        }

        /// Whatever either token asks of a shard, the merged one asks too, and of a listed shard no more.
        #[test]
        fn merging_forgets_nothing(older in any_token(), newer in any_token()) {
            let mut merged = older.clone();
            merged.merge(&newer);
            prop_assert!(merged.entries.len() <= ENTRIES_MAX);
            prop_assert!(merged.entries.is_sorted_by(|a, b| a.0 < b.0));
            for shard in (0..300).map(ShardId) {
                let asked = [older.requirement(shard), newer.requirement(shard)];
                match merged.requirement(shard) {
                    Requirement::Owner => prop_assert!(merged.overflowed),
                    Requirement::Nothing => prop_assert_eq!(asked, [Requirement::Nothing; 2]),
                    Requirement::AtLeast(kept) => {
                        prop_assert!(!asked.contains(&Requirement::Owner));
                        let ranks = asked.iter().filter_map(|one| match one {
                            Requirement::AtLeast(seen) => Some(rank(*seen)),
                            _ => None,
                        });
                        prop_assert_eq!(ranks.max(), Some(rank(kept)));
                    }
                }
            }
            let mut other_way = newer.clone();
            other_way.merge(&older);
            prop_assert_eq!(other_way, merged, "in either order");
        }

        #[test]
        fn hostile_texts_never_panic(text in "[A-Za-z0-9_-]{0,200}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Token::decode(&text);
            let _ = Token::decode(&checksummed(&body));
        }
    }
}
