//! Where a request goes: key → shard → owner, by what the gateway knows of the shard map. Pure: it knows no clock, no
//! network and no randomness.

use berth_shared::ids::ShardId;
use berth_shared::key::EntityKey;
use berth_shared::shard_map::{ShardMap, ShardOwner};

/// A snapshot of what is known. Shared by all requests and replaced as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// `None` until a node has said how many shards there are.
    map: Option<ShardMap>,
}

/// The number of shards is fixed when a cluster is first started: somebody is not of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("a node speaks of {said} shards, but the cluster has {known}")]
    OtherShards { known: u16, said: u16 },
    #[error("a node speaks of a cluster without shards")]
    NoShards,
}

impl Table {
    /// The shard of `key` and its owner, as far as they are known.
    pub(crate) fn place(&self, key: &EntityKey) -> Option<(ShardId, Option<&ShardOwner>)> {
        let map = self.map.as_ref()?;
        let shard = key.shard(map.shards());
        Some((shard, map.owner(shard)))
    }

    /// Takes in what a node says; says of which shards it was news.
    pub(crate) fn learn(&mut self, shards: u16, owners: Vec<ShardOwner>) -> Result<Vec<ShardId>, Error> {
        if shards == 0 {
            return Err(Error::NoShards);
        }
        let map = self.map.get_or_insert_with(|| ShardMap::new(shards));
        if map.shards() != shards {
            return Err(Error::OtherShards { known: map.shards(), said: shards });
        }
        Ok(owners.into_iter().filter_map(|owner| Some(owner.shard).filter(|_| map.learn(owner))).collect())
    }

    /// Takes in one owner; says whether it was news.
    pub(crate) fn learn_owner(&mut self, owner: ShardOwner) -> bool {
        self.map.as_mut().is_some_and(|map| map.learn(owner))
    }

    /// The owner of a shard, as far as it is known.
    pub(crate) fn owner(&self, shard: ShardId) -> Option<&ShardOwner> {
        self.map.as_ref()?.owner(shard)
    }

    /// Whether `owner` would be no news.
    pub(crate) fn knows(&self, owner: &ShardOwner) -> bool {
        self.owner(owner.shard).is_some_and(|known| (known.term, known.index) >= (owner.term, owner.index))
    }

    /// How many shards there are, once a node has said so.
    pub(crate) fn shards(&self) -> Option<u16> {
        self.map.as_ref().map(ShardMap::shards)
    }

    /// Whether an owner of every shard is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.map.as_ref().is_some_and(ShardMap::is_complete)
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = &ShardOwner> {
        self.map.iter().flat_map(ShardMap::owners)
    }
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::NodeId;

    use super::*;

    fn owner(shard: u16, node: u64, term: u64) -> ShardOwner {
        ShardOwner { shard: ShardId(shard), node: NodeId(node), address: format!("n{node}:1"), term, index: 1 }
    }

    /// Golden vectors: what the keys of every existing cluster depend on.
    #[test]
    fn a_key_goes_to_the_owner_of_its_shard() {
        let mut table = Table::default();
        let owners = (0..64).map(|shard| owner(shard, u64::from(shard), 1)).collect();
        assert_eq!(table.learn(64, owners).map(|news| news.len()), Ok(64));
        for (kind, id, shard) in [("counter", "a", 46), ("cart", "alice", 19), ("document", "ü/∞", 25)] {
            let key = EntityKey::new(kind, id).unwrap();
            let (placed, owner) = table.place(&key).unwrap();
            assert_eq!(
                (placed, owner.map(|owner| owner.node)),
                (ShardId(shard), Some(NodeId(u64::from(shard)))),
                "{key}"
            );
        }
    }

    #[test]
    fn nothing_is_placed_before_the_number_of_shards_is_known() {
        let mut table = Table::default();
        let key = EntityKey::new("cart", "alice").unwrap();
        assert!(table.place(&key).is_none());
        assert!(!table.learn_owner(owner(19, 1, 1)));
        assert_eq!(table.shards(), None);
        assert_eq!(table.learn(64, vec![]), Ok(vec![]));
        assert_eq!(table.shards(), Some(64));
        assert_eq!(table.place(&key), Some((ShardId(19), None)));
        assert!(!table.is_complete());
    }

    #[test]
    fn another_number_of_shards_is_refused_and_changes_nothing() {
        let mut table = Table::default();
        assert_eq!(table.learn(2, vec![owner(0, 1, 1), owner(1, 1, 1)]), Ok(vec![ShardId(0), ShardId(1)]));
        assert_eq!(table.learn(4, vec![owner(0, 2, 9)]), Err(Error::OtherShards { known: 2, said: 4 }));
        assert_eq!(table.learn(0, vec![]), Err(Error::NoShards));
        assert!(table.is_complete());
        assert!(table.owners().all(|owner| owner.node == NodeId(1)));
    }

    #[test]
    fn only_newer_knowledge_is_news() {
        let mut table = Table::default();
        assert_eq!(table.learn(1, vec![owner(0, 1, 2)]), Ok(vec![ShardId(0)]));
        assert_eq!(table.learn(1, vec![owner(0, 2, 1)]), Ok(vec![]));
        assert!(table.knows(&owner(0, 2, 1)) && table.knows(&owner(0, 1, 2)) && !table.knows(&owner(0, 2, 3)));
        assert!(table.learn_owner(owner(0, 2, 3)));
        assert!(table.knows(&owner(0, 2, 3)));
    }
}
