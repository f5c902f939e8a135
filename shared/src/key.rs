//! The name of an entity, what a valid name is, and the shard it hashes to. Pure.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::ShardId;

/// Longest id of an entity, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 512;
/// Longest name of a kind, in bytes.
pub const KIND_BYTES_MAX: usize = 64;

/// `kind/id`: the address of one entity. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntityKey {
    /// Invariant: `kind_len` bytes of a valid kind, one `/`, then a valid id.
    text: Arc<str>,
    kind_len: u8,
}

/// Why a name is not one of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a kind is a lower-case letter followed by up to 63 lower-case letters, digits or hyphens")]
    Kind,
    #[error("an id has 1 to 512 bytes")]
    IdLength,
    #[error("an id has no control characters")]
    IdControl,
    #[error("the ids '.' and '..' are not allowed, because clients and proxies rewrite them")]
    IdDots,
}

impl EntityKey {
    pub fn new(kind: &str, id: &str) -> Result<Self, Error> {
        check_kind(kind)?;
        check_id(id)?;
        let mut text = String::with_capacity(kind.len() + 1 + id.len());
        text.push_str(kind);
        text.push('/');
        text.push_str(id);
        Ok(Self { text: text.into(), kind_len: kind.len() as u8 })
    }

    pub fn kind(&self) -> &str {
        &self.text[..usize::from(self.kind_len)]
    }

    pub fn id(&self) -> &str {
        &self.text[usize::from(self.kind_len) + 1..]
    }

    /// `kind/id`, which no other entity has, because a kind has no `/`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn hash64(&self) -> u64 {
        xxh3_64(self.text.as_bytes())
    }

    /// The shard of this entity in a cluster of `shards` shards.
    pub fn shard(&self, shards: u16) -> ShardId {
        shard_of_hash(self.hash64(), shards)
    }
}

/// Spreads 64-bit hashes evenly over `shards` by multiplication (Lemire 2019, "Fast random integer generation in an
/// interval"), so that shard boundaries are ranges of the hash.
pub fn shard_of_hash(hash: u64, shards: u16) -> ShardId {
    debug_assert!(shards > 0);
    ShardId(((u128::from(hash) * u128::from(shards)) >> 64) as u16)
}

pub fn check_kind(kind: &str) -> Result<(), Error> {
    let bytes = kind.as_bytes();
    let first_is_letter = bytes.first().is_some_and(u8::is_ascii_lowercase);
    let all_allowed = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if first_is_letter && all_allowed && bytes.len() <= KIND_BYTES_MAX { Ok(()) } else { Err(Error::Kind) }
}

pub fn check_id(id: &str) -> Result<(), Error> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Error::IdLength);
    }
    if id == "." || id == ".." {
        return Err(Error::IdDots);
    }
    check_prefix(id)
}

/// Whether ids may begin so. Every id may begin with nothing.
pub fn check_prefix(prefix: &str) -> Result<(), Error> {
    if prefix.len() > ID_BYTES_MAX {
        return Err(Error::IdLength);
    }
    if prefix.chars().any(char::is_control) {
        return Err(Error::IdControl);
    }
    Ok(())
}

/// Ordered and hashed like its text.
impl Borrow<str> for EntityKey {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl Hash for EntityKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntityKey({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden vectors: a change here moves every entity of every existing cluster.
    #[test]
    fn keys_hash_to_the_same_shards_for_ever() {
        for (kind, id, hash, shard) in [
            ("counter", "a", 0xb8d1_2468_ddf9_649f, 46),
            ("cart", "alice", 0x4d93_35b0_d06b_df0d, 19),
            ("document", "ü/∞", 0x65fd_9858_5fe9_d965, 25),
        ] {
            let key = EntityKey::new(kind, id).unwrap();
            assert_eq!((key.hash64(), key.shard(64)), (hash, ShardId(shard)), "{key}");
        }
    }

    #[test]
    fn kind_and_id_come_back_apart() {
        let key = EntityKey::new("cart", "a/b/c").unwrap();
        assert_eq!((key.kind(), key.id()), ("cart", "a/b/c"));
    }

    #[test]
    fn hostile_names_are_refused() {
        for kind in ["", "Cart", "1cart", "-a", "a_b", &"a".repeat(65), "ä"] {
            assert_eq!(check_kind(kind), Err(Error::Kind), "{kind:?}");
        }
        assert_eq!(check_id(""), Err(Error::IdLength));
        assert_eq!(check_id(&"x".repeat(513)), Err(Error::IdLength));
        assert_eq!(check_id("."), Err(Error::IdDots));
        assert_eq!(check_id(".."), Err(Error::IdDots));
        assert_eq!(check_id("a\u{0}b"), Err(Error::IdControl));
        assert_eq!(check_id("a\u{85}b"), Err(Error::IdControl));
        assert_eq!(check_id("..."), Ok(()));
        for prefix in ["", ".", "..", "ü/", &"x".repeat(512)] {
            assert_eq!(check_prefix(prefix), Ok(()), "{prefix:?}");
        }
        assert_eq!(check_prefix(&"x".repeat(513)), Err(Error::IdLength));
        assert_eq!(check_prefix("a\n"), Err(Error::IdControl));
    }
}
