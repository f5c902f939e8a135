//! The adapter to openraft, and the only room that names it: our journal as its log, our shards as its state machines, our
//! connections as its network, our clock as its clock, and one Raft group per shard behind the seam
//! [`crate::shard::group::Group`]. A node's groups live in [`Groups`].
//!
//! openraft's own ticks are off: one task per node sends the heartbeats of all groups, at the same moment, so that those to
//! one node leave with one write, and decides when a replica stands for election. 64 groups that tick for themselves wake a
//! node three thousand times a second.

mod acknowledged;
mod arrival;
mod beginning;
mod campaign;
mod check;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gather;
mod granted;
mod group;
mod groups;
#[cfg(test)]
mod hostile_test;
mod leadership;
mod level;
mod log;
mod machine;
mod membership;
mod message;
mod network;
#[cfg(test)]
mod restart_test;
mod runtime;
mod snapshot;
#[cfg(test)]
mod suite_test;
mod transfer;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, OptionalSend, Raft, RaftTypeConfig};
use serde::{Deserialize, Serialize};

use berth_shared::ids::{LogId, NodeId, ShardId};

use crate::record::Batch;
use crate::shard::machine::Applied;

pub use groups::Groups;
pub use runtime::{Runtime, SimulatedRuntime, SystemRuntime};

/// How often an owner tells its replicas that it lives.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long votes are waited for, at least.
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(300);
/// How long a replica that has heard of its leader helps to elect no other one, and the silence after which it stands itself.
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(600);
/// A lease ends 10 % before the election timeout, for clocks that run at different speeds.
const LEASE: Duration = Duration::from_millis(540);

/// With one leader per term, a term names it.
type CommittedLeaderId = <LeaderId<u64, u64> as RaftLeaderId>::Committed;

/// The types of a group, over the runtime that gives it time, tasks and randomness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types<R>(PhantomData<R>);

impl<R: Runtime> RaftTypeConfig for Types<R> {
    type D = Proposal;
    /// `None` for entries without records.
    type R = Option<Applied>;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    /// At most one leader per term (rule W5), so that a term names its leader.
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Proposal, u64, Member>;
    type Entry = openraft::Entry<CommittedLeaderId, Self::Payload>;
    type AsyncRuntime = R;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A batch as a log entry; shared, because it is read again when it is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal(pub Arc<Batch>);

/// Where a member of a group is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub address: String,
}

/// Calls back when openraft answers a proposal; dropped uncalled when it never will.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

use snapshot::SnapshotHandle;
type RaftOf<R> = Raft<Types<R>, machine::ShardMachine<R>>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the group of shard {shard} did not start: {reason}")]
    Start { shard: ShardId, reason: String },
}

impl<C: RaftTypeConfig, T: OptionalSend + 'static> Responder<C, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

impl<T> fmt::Debug for Callback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.0.records().len())
    }
}

type RaftLogId = openraft::LogId<CommittedLeaderId>;
type Membership = openraft::Membership<u64, Member>;

fn to_raft(id: LogId) -> RaftLogId {
    RaftLogId::new_term_index(id.term, id.index)
}

fn from_raft(id: &RaftLogId) -> LogId {
    LogId { term: **id.committed_leader_id(), index: id.index() }
}

/// Members on disk: postcard of the voter sets (two while membership changes) and of every member's address.
fn encode_membership(membership: &Membership) -> Result<Bytes, postcard::Error> {
    let nodes: Vec<(u64, Member)> = membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
    postcard::to_stdvec(&(membership.get_joint_config(), nodes)).map(Bytes::from)
}

/// The members of a group that consists of one voter, as its log holds them.
pub(crate) fn sole_voter(node: NodeId, address: &str) -> std::io::Result<Bytes> {
    let members = BTreeMap::from([(node.0, Member { address: address.to_owned() })]);
    let membership = Membership::new(vec![[node.0].into()], members).map_err(std::io::Error::other)?;
    encode_membership(&membership).map_err(std::io::Error::other)
}

fn decode_membership(bytes: &[u8]) -> std::io::Result<Membership> {
    type Stored = (Vec<std::collections::BTreeSet<u64>>, Vec<(u64, Member)>);
    let (voters, nodes): Stored = postcard::from_bytes(bytes).map_err(std::io::Error::other)?;
    Membership::new(voters, nodes.into_iter().collect::<BTreeMap<_, _>>()).map_err(std::io::Error::other)
}
