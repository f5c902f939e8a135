//! The seam between a shard and its consensus group: who leads, and proposing a batch. The adapter behind it is the only
//! room that names the consensus library; tests put a group of their own here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use berth_shared::ids::{LogId, LogIndex, NodeId, Term};
use berth_shared::seam::BootInstant;

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
    /// Whether enough of the voters are connected to this node that they could elect a leader, this member among them.
    pub sees_quorum: bool,
    /// Who has written to this member as one of a later incarnation of the shard, which was recovered without it. What this
    /// member has is void then.
    pub outlived_by: Option<NodeId>,
}

/// A group as the one sees it that leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub term: Term,
    /// The voters: one set, or two while they change from the first to the second (joint consensus, Ongaro 2014, §4.3), when a
    /// majority of each is needed.
    pub configurations: Vec<BTreeSet<NodeId>>,
    /// They are sent the log, and do not count.
    pub learners: BTreeSet<NodeId>,
    /// Whether these members are committed. Nothing changes them before that.
    pub is_committed: bool,
    /// The last entry of the leader's log.
    pub last: LogIndex,
    /// All members but the leader.
    pub followers: BTreeMap<NodeId, Follower>,
}

/// A member as its leader sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// Up to where its log is known to be the leader's, on its disk.
    pub matched: Option<LogIndex>,
    /// When the newest of what it has answered was sent: it lived at that time or later.
    pub answered: Option<BootInstant>,
}

/// How new what a replica has applied is, where it may answer reads at all that are not for the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Everything that was acknowledged before this moment is applied here. `None` where no leader has said enough yet to tell.
    pub at: Option<BootInstant>,
}

/// A change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// From then on the node is sent the log. Nothing is changed where it is a member already.
    AddLearner { node: NodeId, address: String },
    /// Of a learner only. Nothing is changed where it is no member.
    RemoveLearner(NodeId),
    /// Exactly these vote afterwards, all of them members before. Who does not any more is no member at all. This also ends a
    /// change that a former leader has left half done, in either direction or to another set.
    Voters(BTreeSet<NodeId>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// What was begun may have been done, or done in part.
    #[error("this node does not lead the group in that term, or not any more")]
    NotLeader,
    /// Or it is changed by somebody else at this moment.
    #[error("the change before is not committed yet")]
    InProgress,
    #[error("{0}")]
    Refused(String),
}

/// The members of a group at a moment at which a quorum has confirmed who leads it: one set of voters, committed.
///
/// Who is none of them may delete its replica, provided that its own log, once its group has been stopped, does not end after
/// `last` (by term first, and then by index): else it may have become a member again since, and may be counted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmedMembership {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// The last entry of the leader's log.
    pub last: LogId,
}

pub type Done = Box<dyn FnOnce(Proposed) + Send>;

impl Observed {
    /// Whether `node` is a voter, of either set.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.configurations.iter().any(|voters| voters.contains(&node))
    }

    /// How many entries `node` lacks at most; `None` as long as it is not known that it has any.
    pub fn behind(&self, node: NodeId) -> Option<u64> {
        let matched = self.followers.get(&node)?.matched?;
        Some(self.last.saturating_sub(matched))
    }
}

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

    /// The group, as long as this node leads it; `None` as long as [`Self::term`] is.
    fn observe(&self) -> Option<Observed>;

    /// Changes the members, if this node still leads in `term`. It returns once the change is committed as a whole, which may
    /// never be, where members are away; to drop it then is safe. What has become of it is seen by [`Self::observe`]: it may
    /// be done, or half done (two sets of voters), and may still be done later.
    fn change(&self, term: Term, change: Change) -> BoxFuture<'_, Result<(), ChangeError>>;

    /// The members that a quorum confirms now, where this node leads; so a node that is none of them can ask whether it may
    /// delete its replica. `None` also while the members change.
    fn confirmed_membership(&self) -> BoxFuture<'_, Option<ConfirmedMembership>>;

    /// Asks `node` for a sign of life: returns once it has answered something that was sent after this call, and has all
    /// entries of this node's log. False when this node does not lead in `term` any more, or is not connected to `node`;
    /// nothing at all while `node` stays silent or behind.
    fn reach(&self, term: Term, node: NodeId) -> BoxFuture<'_, bool>;

    /// Whether this replica does its part: it leads under a lease, or it has heard of a leader lately that has a quorum, as far
    /// as can be seen from here, and has applied at least once what that leader had committed.
    fn is_serving(&self) -> bool;

    /// How new what this replica has applied is. `None` where it may lack what has long been there, and so must not say that
    /// something is not: a learner, one that is blank or is made anew, one that the shard was recovered without.
    fn level(&self) -> Option<Level>;

    /// Makes everything applied durable in the store and lets the journal drop what is behind it.
    fn compact(&self) -> BoxFuture<'_, ()>;

    /// Takes no part in the group any more.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
