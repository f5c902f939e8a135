//! How fresh nodes become one cluster, once.

use serde::{Deserialize, Serialize};

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::report::Member;

/// What the cluster begins with. Accepted once by each of its members, persistently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRecord {
    pub cluster: ClusterId,
    /// Ascending by id.
    pub members: Vec<Member>,
    pub shards: u16,
    pub replicas: u16,
}

/// What one node asks another about bootstrap; answered with [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    Status,
    /// Accept this record. With `force`, in place of one that was accepted and not yet acted on.
    Propose {
        record: InitRecord,
        force: bool,
    },
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeId,
    pub address: String,
    /// The cluster that the node is part of for good.
    pub cluster: Option<ClusterId>,
    /// The record that the node has accepted.
    pub accepted: Option<InitRecord>,
}
