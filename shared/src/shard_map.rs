//! Which node owns each shard, as far as somebody knows. Newer knowledge, by (term, index), replaces older. Pure.

use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, NodeId, ShardId, Term};

/// One row of the shard map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardOwner {
    pub shard: ShardId,
    pub node: NodeId,
    /// Peer address of the node, `host:port`.
    pub address: String,
    /// The term in which the node owns the shard.
    pub term: Term,
    /// The index the owner had applied when it said so.
    pub index: LogIndex,
}

/// Shard → owner. A gateway caches one; nodes push their part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    owners: Vec<Option<ShardOwner>>,
}

impl ShardMap {
    pub fn new(shards: u16) -> Self {
        Self { owners: vec![None; usize::from(shards)] }
    }

    pub fn shards(&self) -> u16 {
        self.owners.len() as u16
    }

    pub fn owner(&self, shard: ShardId) -> Option<&ShardOwner> {
        self.owners.get(usize::from(shard.0))?.as_ref()
    }

    pub fn owners(&self) -> impl Iterator<Item = &ShardOwner> {
        self.owners.iter().flatten()
    }

    /// Whether every shard has an owner.
    pub fn is_complete(&self) -> bool {
        self.owners.iter().all(Option::is_some)
    }

    /// Takes `owner` in if it is newer than what is known; says whether the map changed.
    pub fn learn(&mut self, owner: ShardOwner) -> bool {
        let Some(slot) = self.owners.get_mut(usize::from(owner.shard.0)) else {
            return false;
        };
        let newer = slot.as_ref().is_none_or(|known| (owner.term, owner.index) > (known.term, known.index));
        if newer {
            *slot = Some(owner);
        }
        newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(node: u64, term: Term, index: LogIndex) -> ShardOwner {
        ShardOwner { shard: ShardId(1), node: NodeId(node), address: format!("n{node}:1"), term, index }
    }

    #[test]
    fn the_highest_term_and_index_wins() {
        let mut map = ShardMap::new(2);
        assert!(map.learn(owner(1, 2, 5)));
        assert!(!map.learn(owner(2, 1, 9)), "an older term");
        assert!(!map.learn(owner(2, 2, 5)), "nothing new");
        assert!(map.learn(owner(2, 3, 1)));
        assert_eq!(map.owner(ShardId(1)).map(|o| o.node), Some(NodeId(2)));
        assert!(!map.is_complete());
    }

    #[test]
    fn a_shard_beyond_the_map_is_not_learnt() {
        let mut map = ShardMap::new(1);
        assert!(!map.learn(owner(1, 1, 1)));
    }
}
