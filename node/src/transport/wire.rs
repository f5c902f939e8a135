//! What nodes ask of each other, encoded with postcard. It travels on the same protocol as the requests of gateways; which of
//! the two a request is follows from the role of the peer. The answer of each request is the type named beside it.
//!
//! A change of any type here is a change of the wire: raise [`berth_shared::peer::PROTOCOL_VERSION`].

use berth_shared::ids::{NodeId, ShardId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cluster::bootstrap::Ask;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NodeRequest<'a> {
    /// For the group of `shard` on the node `to`, which refuses what is meant for another one: an address may have been given
    /// to a new node. Request and answer are in the consensus adapter's encoding.
    Raft { to: NodeId, shard: ShardId, message: &'a [u8] },
    /// Answered with [`crate::cluster::bootstrap::Status`].
    Bootstrap(Ask),
    /// Answered with [`berth_shared::report::NodeReport`].
    Report,
    /// A message of the gossip library, of the node with the peer address `from`. Answered with nothing.
    Gossip { from: &'a str, message: &'a [u8] },
    /// Answered with the newest plan that the node knows, as `Option<`[`crate::cluster::plan::Plan`]`>`.
    Plan,
    /// Open a replica of `shard`, as the plan of this epoch or a later one wants. Answered with
    /// [`crate::cluster::reconcile::Admission`].
    Host { shard: ShardId, epoch: u64 },
    /// Bring these entities, as kind and id, into memory. Answered with nothing, when it is done.
    Warm { shard: ShardId, keys: Vec<(String, String)> },
    /// Who the members of the shard's group are, as a quorum confirms now. Answered with an `Option` of
    /// [`crate::shard::group::ConfirmedMembership`].
    Members { shard: ShardId },
    /// What the node has of these shards, which somebody may want to recover. Answered with a list of
    /// [`crate::recovery::survey::Holding`], without those of which it has nothing.
    Holdings { shards: Vec<ShardId> },
}

/// Encodes a [`NodeRequest::Raft`] around a message that is not encoded yet, so that entries are copied once and not twice.
pub fn encode_raft<T: Serialize>(to: NodeId, shard: ShardId, message: &T) -> Result<Bytes, postcard::Error> {
    let message_bytes = postcard::experimental::serialized_size(message)?;
    // The number of the variant, its fields, and the length that goes before bytes.
    let head = (0_u32, to, shard, message_bytes as u64);
    berth_shared::peer::encode_with_capacity(&(head, message), 32 + message_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_encoded_in_place_is_the_same_as_one_encoded_before() {
        for message in [vec![], vec!["a"], vec!["some text"; 1000]] {
            let bytes = postcard::to_stdvec(&message).unwrap();
            let (to, shard) = (NodeId(u64::MAX - 3), ShardId(40_000));
            let whole = berth_shared::peer::encode(&NodeRequest::Raft { to, shard, message: &bytes }).unwrap();
            assert_eq!(encode_raft(to, shard, &message).unwrap(), whole);
        }
    }
}
