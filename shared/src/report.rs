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
    /// Epoch of the newest plan that the node knows; 0 before the first.
    pub plan_epoch: u64,
    /// The nodes that it knows of, by the plan or by gossip.
    pub members: Vec<Member>,
    /// What it knows of them by gossip, itself included.
    pub sightings: Vec<Sighting>,
    pub replicas: Vec<ReplicaReport>,
}

/// A node as another one knows it by gossip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    pub node: NodeId,
    /// Peer address, `host:port`.
    pub address: String,
    /// Of two sightings of one node the one with the higher edition is the newer.
    pub edition: Edition,
    pub zone: Option<String>,
    pub state: NodeState,
    /// Epoch of the newest plan that it knows, by its own word.
    pub plan_epoch: u64,
    /// Name and version of the program.
    pub software: String,
    pub load: Load,
    /// How many shards it owns, by its own word.
    pub led: u32,
    /// Since when nothing was heard of it, in microseconds since 1970 on the wall clock of who reports this.
    pub suspected_micros: Option<u64>,
}

/// Which of the things that a node says of itself are the newest: those of its last start, and of these the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edition {
    /// Milliseconds since 1970 on the node's wall clock, at its start.
    pub generation: u64,
    pub revision: u64,
}

/// How much a node has to do, to two digits, so that it is news only when it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Of its process, in hundredths of one processor.
    pub cpu_percent: u32,
    /// Entities in memory, estimated.
    pub resident_bytes: u64,
    pub requests_per_second: u64,
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
    /// How often the shard was recovered without a quorum, as far as this replica has applied.
    pub incarnation: u32,
    /// Hash of everything applied up to `applied`.
    pub content_hash: u128,
    /// The same at earlier indexes, ascending, so that replicas can be compared while they run at different ones.
    pub marks: Vec<HashMark>,
    /// Commands that wait in the shard's mailbox.
    pub queued: u32,
    /// Whether the group is between two sets of members, of which both must agree until the change is finished.
    pub is_joint: bool,
    /// Where the newest plan that the reporting node knows wants the shard to be.
    pub planned: Option<Placement>,
    /// What the reporting node, as the shard's owner, does at present so that the shard is where the plan wants it.
    pub movement: Option<Movement>,
    /// The last step that the reporting node has brought to its end since its start, when it owned the shard.
    pub last_movement: Option<LastMovement>,
}

/// Where a plan wants a shard to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub owner: NodeId,
    pub replicas: Vec<NodeId>,
}

/// A step of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Movement {
    /// In the words of the log: `add-learner`, `catch-up`, `promote`, `hand-off`, `remove-voter`, `remove-learner` or
    /// `finish-change`.
    pub step: String,
    /// The node that gets or loses a replica, or becomes the owner.
    pub target: NodeId,
    /// When the step began, in microseconds since 1970 on the wall clock of who reports this.
    pub from_micros: u64,
    /// How much of the log the target is known to have.
    pub matched: LogIndex,
    /// Where the log ends.
    pub last: LogIndex,
}

/// A step of a move that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastMovement {
    /// As in [`Movement`].
    pub step: String,
    pub target: NodeId,
    /// Microseconds since 1970 on the wall clock of who reports this.
    pub ended_micros: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashMark {
    pub index: LogIndex,
    pub content_hash: u128,
}
