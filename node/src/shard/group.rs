//! The seam between a shard and its consensus group: who leads, and proposing a batch. The adapter behind it is the only
//! room that names the consensus library; tests put a group of their own here.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use berth_shared::ids::Term;

use crate::record::Batch;
use crate::shard::machine::Applied;

/// What is known about a proposed batch. A callback that is dropped uncalled means: unknown, it may still be applied.
#[derive(Debug)]
pub enum Proposed {
    Applied(Applied),
    /// Not appended, because this node does not lead in the term of the proposal.
    NotLeader,
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

    /// Makes everything applied durable in the store and lets the journal drop what is behind it.
    fn compact(&self) -> BoxFuture<'_, ()>;

    /// Takes no part in the group any more.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
