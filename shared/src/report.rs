//! What a node says of itself and of the replicas it holds, for operators: the raw material of the cluster's admin calls.
//! Gateways and nodes gather reports of all nodes and lay them side by side. Plain values; they travel between pods.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, LogIndex, NodeId, ShardId, Term};

/// One node, as it sees itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Peer address, `host:port`.
    pub address: String,
    pub state: NodeState,
    /// Name and version of the program.
    pub software: String,
    /// Epoch of the newest plan that the node has applied; 0 before the first.
    pub plan_epoch: u64,
    /// The nodes that the plan knows.
    pub members: Vec<Member>,
    pub replicas: Vec<ReplicaReport>,
}

/// A node of the cluster and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    pub node: NodeId,
    /// Peer address, `host:port`.
    pub address: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// Part of the cluster, without a place in the plan.
    Joining,
    /// In the plan, and not all of its replicas serve: some have not caught up since the node's start, or hear no leader that
    /// has a quorum.
    Recovering,
    /// In the plan, and all of its replicas serve.
    Ready,
    Leaving,
}

/// One shard's replica on the reporting node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    pub shard: ShardId,
    /// Whether the reporting node owns the shard, under a valid lease.
    pub owns: bool,
    /// Who leads the shard's group as far as this replica knows.
    pub leader: Option<NodeId>,
    pub term: Term,
    /// The members of the group, as far as this replica knows.
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub applied: LogIndex,
    /// Hash of everything applied up to `applied`.
    pub content_hash: u128,
    /// The same at earlier indexes, ascending, so that replicas can be compared while they run at different ones.
    pub marks: Vec<HashMark>,
    /// Commands that wait in the shard's mailbox.
    pub queued: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashMark {
    pub index: LogIndex,
    pub content_hash: u128,
}
