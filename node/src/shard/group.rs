//! The seam between a shard and its consensus group: who leads, and proposing a batch. The adapter behind it is the only
//! room that names the consensus library; tests put a group of their own here.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use berth_shared::ids::{LogId, NodeId, Term};

use crate::record::Batch;
use crate::shard::machine::Applied;

/// What is known about a proposed batch. A callback that is dropped uncalled means: unknown, it may still be applied.
#[derive(Debug)]
pub enum Proposed {
    Applied(Applied),
    /// Not appended, because this node does not lead in the term of the proposal.
    NotLeader,
}

/// A group as one of its members sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub term: Term,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// Whether the voters are those of two sets, between which the group changes.
    pub is_joint: bool,
    /// The last entry of this member's log.
    pub last: Option<LogId>,
}

pub type Done = Box<dyn FnOnce(Proposed) + Send>;

pub trait Group: Send + Sync + fmt::Debug {
    /// The term in which this node leads and has applied its own blank entry, so that it has seen everything committed
    /// before it (rule W3); `None` while it does not.
    fn leading(&self) -> watch::Receiver<Option<Term>>;

    /// The newest value of [`Self::leading`].
    fn term(&self) -> Option<Term> {
        *self.leading().borrow()
    }

    /// Whether a quorum has confirmed the leadership of `term` recently enough that no other node can lead now.
    fn holds_lease(&self, term: Term) -> bool;

    /// Appends `batch` if this node still leads in `term`. Proposals are appended in the order of these calls.
    fn propose(&self, term: Term, batch: Arc<Batch>, done: Done) -> BoxFuture<'_, ()>;

    /// Has a quorum confirm that this node leads in `term`, and waits until everything that was committed before is applied
    /// (ReadIndex, Ongaro 2014, §6.4). False when that cannot be had soon.
    fn confirm(&self, term: Term) -> BoxFuture<'_, bool>;

    /// Hands leadership to `to`, a voter. The lease is given up first (rule R3), so from the call on this node neither
    /// decides nor reads. True once another node leads; false when that did not come about, and this node leads on.
    fn transfer(&self, to: NodeId) -> BoxFuture<'_, bool>;

    /// What this node knows of the group.
    fn status(&self) -> Status;

    /// Whether this replica does its part: it leads under a lease, or it has heard of a leader lately that has a quorum, as far
    /// as can be seen from here, and has applied at least once what that leader had committed.
    fn is_serving(&self) -> bool;

    /// Makes everything applied durable in the store and lets the journal drop what is behind it.
    fn compact(&self) -> BoxFuture<'_, ()>;

    /// Takes no part in the group any more.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
