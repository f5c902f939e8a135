//! A set of shards, small enough to be sent whole whenever it changes: one bit for each, two KiB for 16,384 shards. Pure.

use serde::{Deserialize, Serialize};

use crate::ids::ShardId;

/// Bit `n % 8` of byte `n / 8` stands for shard `n`; bytes at the end that would be 0 are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSet(Vec<u8>);

impl ShardSet {
    pub fn contains(&self, shard: ShardId) -> bool {
        self.0.get(usize::from(shard.0 / 8)).is_some_and(|byte| byte & bit(shard) != 0)
    }

    pub fn insert(&mut self, shard: ShardId) {
        let place = usize::from(shard.0 / 8);
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] |= bit(shard);
    }

    /// Whether it has no shard from `shards` on, as a set of a cluster with so many has none.
    pub fn fits(&self, shards: u16) -> bool {
        (usize::from(shards)..self.0.len() * 8)
            .all(|shard| u16::try_from(shard).is_ok_and(|n| !self.contains(ShardId(n))))
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::default();
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}

fn bit(shard: ShardId) -> u8 {
    1 << (shard.0 % 8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn its_bytes_are_these() {
        let set: ShardSet = [0, 3, 17].map(ShardId).into_iter().collect();
        assert_eq!(crate::peer::encode(&set).unwrap(), &[3, 0b1001, 0, 0b10][..]);
    }

    proptest! {
        #[test]
        fn it_has_what_was_put_in(shards in proptest::collection::btree_set(0_u16..200, 0..40), count in 1_u16..220) {
            let set: ShardSet = shards.iter().copied().map(ShardId).collect();
            let listed: BTreeSet<u16> = (0..u16::MAX).filter(|n| set.contains(ShardId(*n))).collect();
            prop_assert_eq!(set.fits(count), shards.iter().all(|n| *n < count));
            prop_assert_eq!(listed, shards);
        }
    }
}
