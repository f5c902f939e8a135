//! Who is in the cluster just now, by gossip: every node says some [`Facts`] of itself, and keeps a list of all members with
//! the newest of what each has said, and with whom it has not heard of for a while. A hint and never more: nothing that must
//! be right rests on it, and what it is used for has to come out right when it is late, wrong or silent.
//!
//! [`Gossip`] is the seam. [`Chitchat`] is gossip in earnest, over the connections between nodes; [`Simulated`] is its twin in
//! a deterministic simulation. What a member list is made of is in `view`, how facts are written in `facts`.

mod chitchat;
mod facts;
mod names;
mod simulated;
#[cfg(test)]
mod tests;
mod transport;
mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId, ShardId, Term};
use berth_shared::report::{self, Edition, Load, NodeState, Sighting};
use berth_shared::seam::{BootInstant, Clock, Seams};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::transport::peers::Peers;

pub use chitchat::Chitchat;
pub use simulated::Simulated;

/// How long a member that is not heard of stays in the list. It may come back for all that.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// How often a node gossips.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long whoever is leaving goes on for the others to hear of it.
const FAREWELL: Duration = Duration::from_millis(150);

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Peer address, `host:port`.
    pub address: String,
    pub zone: Option<String>,
    pub state: NodeState,
    /// Epoch of the newest plan that it knows; 0 for none.
    pub plan: u64,
    /// How many of the shards that it leads do not have exactly the voters that the plan wants, all of them live.
    pub unsettled: u32,
    /// How much of the replicas it should hold, relative to others.
    pub weight: NonZeroU32,
    /// Name and version of the program.
    pub version: String,
    pub load: Load,
    /// The shards that it owns, each with its term; ascending.
    pub led: Vec<(ShardId, Term)>,
    /// The term in which it leads the system shard, if it does.
    pub system: Option<Term>,
}

/// A node of the cluster, as this one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub facts: Arc<Facts>,
    pub edition: Edition,
    /// Since when it has not been heard of, and so may be dead.
    pub suspected: Option<BootInstant>,
}

/// All members, this node among them once it has said anything. Whoever has not been heard of for [`FORGOTTEN_AFTER`] is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// By id.
    list: BTreeMap<NodeId, Member>,
}

/// One node's part in gossip. It ends with [`Gossip::stop`].
pub trait Gossip: Send + Sync + fmt::Debug {
    /// From now on this is what the node says of itself.
    fn publish(&self, facts: Facts);

    /// The members as they change. What the leader of the system shard is to make candidates of.
    fn members(&self) -> watch::Receiver<Arc<Members>>;

    /// Takes in what the node at `from` has sent here. Does not block; what is too much is dropped.
    fn receive(&self, from: &str, message: Bytes);

    /// Says these last facts, and waits a moment for others to hear them.
    fn leave(&self, facts: Facts) -> BoxFuture<'_, ()>;

    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// A way to gossip.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Begins, with these facts.
    fn join(&self, here: Here, facts: Facts) -> Arc<dyn Gossip>;
}

/// Who gossips, and with whom it begins.
#[derive(Clone, Debug)]
pub struct Here {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Peer address, `host:port`.
    pub address: String,
    /// Peer addresses of nodes that may be there.
    pub seeds: Vec<String>,
    pub peers: Peers,
    pub seams: Seams,
}

impl FromIterator<Member> for Members {
    fn from_iter<T: IntoIterator<Item = Member>>(members: T) -> Self {
        Self { list: members.into_iter().map(|member| (member.node, member)).collect() }
    }
}

impl Members {
    /// Ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.values()
    }

    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.list.get(&node)
    }

    /// Where each of them is reached, ascending by id.
    pub fn addresses(&self) -> Vec<report::Member> {
        let address = |member: &Member| report::Member { node: member.node, address: member.facts.address.clone() };
        self.iter().map(address).collect()
    }

    /// What a report tells of them.
    pub fn sightings(&self, clock: &dyn Clock) -> Vec<Sighting> {
        let (now, wall) = (clock.now(), clock.wall_micros());
        let sighting = |member: &Member| Sighting {
            node: member.node,
            address: member.facts.address.clone(),
            edition: member.edition,
            zone: member.facts.zone.clone(),
            state: member.facts.state,
            plan_epoch: member.facts.plan,
            software: member.facts.version.clone(),
            load: member.facts.load,
            led: member.facts.led.len() as u32,
            suspected_micros: member.suspected.map(|since| wall.saturating_sub(now.since(since).as_micros() as u64)),
        };
        self.iter().map(sighting).collect()
    }
}
