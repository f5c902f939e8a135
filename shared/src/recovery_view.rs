//! What the admin port of a node says of shards that have lost their quorum, and what it is told to recover one: in JSON, for
//! operators and their tools. Plain values.

use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, NodeId, Term};
use crate::shown;

/// `GET /v1/recovery`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryView {
    /// The node that says it, and its peer address.
    #[serde(with = "shown::id")]
    pub node: NodeId,
    pub address: String,
    /// The shards whose groups have no quorum, as far as can be seen from this node, the system shard first.
    pub shards: Vec<LostShard>,
    /// Peer addresses, or ids where those are not known, of the nodes that could not be asked what they have.
    pub silent: Vec<String>,
}

/// A replica whose group has no quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostShard {
    /// A number, or `system`: as it stands in the path of a recovery.
    pub shard: String,
    /// The last entry of the replica's log.
    pub last: Entry,
    /// Up to where it is known that entries were committed.
    pub applied_index: LogIndex,
    /// How often the shard was recovered before.
    pub incarnation: u32,
    /// When the last write that the replica has was decided, as RFC 3339; null where it has none.
    pub last_write: Option<String>,
    /// The voters of the group, as far as the replica knows, and those of them that are not connected.
    #[serde(with = "shown::all")]
    pub voters: Vec<NodeId>,
    #[serde(with = "shown::all")]
    pub missing: Vec<NodeId>,
    /// The replicas of other nodes that answered.
    pub others: Vec<OtherReplica>,
    /// Why the shard is not to be recovered on this node.
    pub obstacle: Option<String>,
    /// What an operator has to say who wants it nevertheless; null where there is an obstacle.
    pub confirm: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherReplica {
    #[serde(with = "shown::id")]
    pub node: NodeId,
    /// Its peer address, where that is known.
    pub address: Option<String>,
    pub last: Entry,
    pub incarnation: u32,
    /// Whether it sees a quorum of its group.
    pub sees_quorum: bool,
}

/// An entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub term: Term,
    pub index: LogIndex,
}

/// The body of `POST /v1/recovery/{shard}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    pub confirm: String,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveredView {
    pub shard: String,
    #[serde(with = "shown::id")]
    pub node: NodeId,
    /// The incarnation that has begun.
    pub incarnation: u32,
    /// The last entry of before: what the shard had acknowledged after it is lost.
    pub kept: Entry,
    /// The entry that begins the incarnation.
    pub begins: Entry,
}

impl From<crate::ids::LogId> for Entry {
    fn from(id: crate::ids::LogId) -> Self {
        Self { term: id.term, index: id.index }
    }
}
