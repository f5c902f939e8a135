//! What nodes ask of each other, encoded with postcard. It travels on the same protocol as the requests of gateways; which of
//! the two a request is follows from the role of the peer. The answer of each request is the type named beside it.
//!
//! A change of any type here is a change of the wire: raise [`berth_shared::peer::PROTOCOL_VERSION`].

use serde::{Deserialize, Serialize};

use berth_shared::ids::{NodeId, ShardId};

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
}
