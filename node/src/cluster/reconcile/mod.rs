//! How shards come to where the plan wants them. The owner of each shard compares the members of its group with the plan and
//! takes one safe step at a time ([`step`] is the pure core, [`owner`] the shell around it); a node that is no member of a
//! group any more, and has no place in the plan, lets its replica go ([`departing`]). Steps derive from what is observed: an
//! owner that begins in the middle of what another one has left goes on from there, so a crash at any moment leaves something
//! that is completed or reverted.
//!
//! ```text
//! plan names a new node → it is asked to open a replica → learner → catches up → voter, in the place of one that goes
//!                                                          │ silent, or wanted no more: learner no more
//! plan names another owner → hand-off: stop deciding → drain → the target has everything and answers → transfer
//! node is no member any more → a quorum confirms it → the replica is deleted
//! ```
//!
//! Where it can, a node that leaves hands over first what it owns, then replicas are copied, and in the end shards go to their
//! planned owners ([`turns`]). The node that a replica comes to bounds how many come at the same time, because it is the one that has the work.

mod departing;
mod moves;
mod owner;
mod step;
mod turns;

use serde::{Deserialize, Serialize};

pub use departing::{Departing, LetGo};
pub use moves::{Current, Last, Moves};
pub use owner::Reconciler;

/// What a node answers that is asked to open a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    Admitted,
    /// As many replicas are on their way there as may be.
    Busy,
    /// The plan that the node knows does not give it the shard; it may know an older one.
    NotPlanned,
    /// The node's files cannot be used.
    Failed,
}
