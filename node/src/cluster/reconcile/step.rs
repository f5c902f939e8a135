//! What the owner of a shard should do next to bring its group to what the plan wants. Pure, and a function of what is
//! observed only: an owner that begins in the middle of what another one has left goes on from there.
//!
//! In this order: end a change of members that is under way, or hand the shard to somebody who can; let go of learners that
//! the plan does not want, or that are silent; hand the shard to somebody who stays, if this node does not; bring in one
//! missing replica at a time, as a learner that follows and then as a voter, in the place of a silent voter or of one that
//! goes; let go of voters that the plan does not want; hand the shard to its planned owner.
//!
//! No live voter goes while another one is silent: the silent one is replaced first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_shared::ids::{LogIndex, NodeId};
use berth_shared::planted::{self, Bug};

use super::turns::Turns;

/// How far a learner may be behind to be made a voter, and a voter to be given the shard, in entries.
pub(super) const BEHIND_MAX: LogIndex = 256;
/// A member of a group that has answered nothing for this long is silent.
pub(super) const SILENT_AFTER: Duration = Duration::from_millis(1500);
/// A replica takes no shard so shortly after it has become a member: for an election's time after its start it neither votes
/// nor stands (rule R2), and would let an offer pass.
pub(super) const NEW_FOR: Duration = Duration::from_millis(700);
/// A learner that has answered nothing for this long is given up.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

/// A shard as its owner sees it.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    /// This node, which leads the group.
    pub(super) this: NodeId,
    /// The voters; two sets while a change is under way.
    pub(super) configurations: &'a [BTreeSet<NodeId>],
    pub(super) learners: &'a BTreeSet<NodeId>,
    pub(super) is_committed: bool,
    /// Of every member but this node.
    pub(super) members: &'a BTreeMap<NodeId, Member>,
    /// The nodes that should have a replica, the owner first.
    pub(super) planned: &'a [NodeId],
    /// Nodes that are there and may be given replicas or shards.
    pub(super) available: &'a BTreeSet<NodeId>,
    pub(super) turns: Turns,
}

/// What is known of a member of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Entries that it is not known to have.
    pub(super) behind: LogIndex,
    /// Since when it has answered nothing, or been asked nothing.
    pub(super) silent: Duration,
    /// How long it is known to be a member.
    pub(super) age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The group is what the plan wants.
    Settled,
    Do(Step),
    /// There is something to do, and this keeps it from being done.
    Wait(Obstacle),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ends a change of members that a former owner has begun.
    FinishChange(BTreeSet<NodeId>),
    /// Has the node open a replica, and lets it follow.
    AddLearner(NodeId),
    /// Waits until the learner has almost everything.
    CatchUp(NodeId),
    /// Makes a learner a voter; these are the voters then.
    Promote {
        node: NodeId,
        voters: BTreeSet<NodeId>,
    },
    HandOff(NodeId),
    /// These are the voters then.
    RemoveVoter {
        node: NodeId,
        voters: BTreeSet<NodeId>,
    },
    RemoveLearner(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A change of members is not committed yet.
    Committing,
    /// The node is not there.
    Absent(NodeId),
    /// The voter does not answer.
    Silent(NodeId),
    /// The voter is far behind.
    Behind(NodeId),
    /// The voter has only just begun.
    New(NodeId),
    /// Another shard comes first; see [`Turns`].
    NotItsTurn,
}

impl Step {
    /// As it is called in reports and logs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::FinishChange(_) => "finish-change",
            Self::AddLearner(_) => "add-learner",
            Self::CatchUp(_) => "catch-up",
            Self::Promote { .. } => "promote",
            Self::HandOff(_) => "hand-off",
            Self::RemoveVoter { .. } => "remove-voter",
            Self::RemoveLearner(_) => "remove-learner",
        }
    }

    /// The node that it is about.
    pub(super) fn target(&self) -> Option<NodeId> {
        match self {
            Self::FinishChange(_) => None,
            Self::AddLearner(node)
            | Self::CatchUp(node)
            | Self::Promote { node, .. }
            | Self::HandOff(node)
            | Self::RemoveVoter { node, .. }
            | Self::RemoveLearner(node) => Some(*node),
        }
    }
}

/// What comes next.
pub(super) fn next(view: &View<'_>) -> Next {
    let (Some(newest), Some(voters)) = (view.configurations.last(), view.configurations.first()) else {
        return Next::Wait(Obstacle::Committing);
    };
    if view.configurations.len() > 1 {
        return view.finish_change(voters, newest);
    }
    if !view.is_committed {
        return Next::Wait(Obstacle::Committing);
    }
    let planned: BTreeSet<NodeId> = view.planned.iter().copied().collect();
    if planned.is_empty() {
        return Next::Settled;
    }
    let unwanted = |node: &&NodeId| !planned.contains(node) || view.silent(**node) >= GIVEN_UP_AFTER;
    if let Some(learner) = view.learners.iter().find(unwanted) {
        return Next::Do(Step::RemoveLearner(*learner));
    }
    let surplus: BTreeSet<NodeId> = voters.difference(&planned).copied().collect();
    let handed_to = view.planned.iter().find(|node| voters.contains(node) && view.may_take(**node));
    if let (true, Some(node)) = (surplus.contains(&view.this), handed_to) {
        return Next::Do(Step::HandOff(*node));
    }
    let missing: Vec<NodeId> = view.planned.iter().filter(|node| !voters.contains(node)).copied().collect();
    if !missing.is_empty() {
        return view.bring_in(voters, &surplus, &missing);
    }
    if !surplus.is_empty() {
        return view.let_go(voters, &surplus);
    }
    view.give_back(voters)
}

impl View<'_> {
    fn silent(&self, node: NodeId) -> Duration {
        self.members.get(&node).map_or(Duration::MAX, |member| member.silent)
    }

    /// Whether the member, or this node, does its part.
    fn is_live(&self, node: NodeId) -> bool {
        node == self.this || self.silent(node) < SILENT_AFTER
    }

    fn is_close(&self, node: NodeId) -> bool {
        let is_close = |member: &Member| member.behind <= BEHIND_MAX || planted::is(Bug::SkipCatchUp);
        self.members.get(&node).is_some_and(is_close)
    }

    fn is_new(&self, node: NodeId) -> bool {
        self.members.get(&node).is_none_or(|member| member.age < NEW_FOR)
    }

    /// Whether the shard may be handed to this voter.
    fn may_take(&self, node: NodeId) -> bool {
        node != self.this
            && self.is_live(node)
            && self.is_close(node)
            && !self.is_new(node)
            && self.available.contains(&node)
    }

    /// One that keeps these voters from being as many as they look.
    fn silent_one(&self, voters: &BTreeSet<NodeId>) -> Option<NodeId> {
        voters.iter().copied().find(|node| !self.is_live(*node))
    }

    fn has_quorum(&self, voters: &BTreeSet<NodeId>) -> bool {
        voters.iter().filter(|node| self.is_live(**node)).count() > voters.len() / 2
    }

    /// Whoever takes over in the middle of a change may be one that goes. It cannot finish the change, because nobody leads a
    /// group that it is no voter of: it hands over to one that stays, or turns the change back where there is none.
    fn finish_change(&self, before: &BTreeSet<NodeId>, newest: &BTreeSet<NodeId>) -> Next {
        if newest.contains(&self.this) {
            return Next::Do(Step::FinishChange(newest.clone()));
        }
        if !self.is_committed {
            return Next::Wait(Obstacle::Committing);
        }
        let planned = self.planned.iter().filter(|node| newest.contains(node));
        match planned.chain(newest).find(|node| self.may_take(**node)) {
            Some(node) => Next::Do(Step::HandOff(*node)),
            None if self.has_quorum(before) => Next::Do(Step::FinishChange(before.clone())),
            None => Next::Wait(self.silent_one(before).map_or(Obstacle::Committing, Obstacle::Silent)),
        }
    }

    fn bring_in(&self, voters: &BTreeSet<NodeId>, surplus: &BTreeSet<NodeId>, missing: &[NodeId]) -> Next {
        if let Some(node) = missing.iter().copied().find(|node| self.learners.contains(node)) {
            if !self.is_live(node) || !self.is_close(node) {
                return Next::Do(Step::CatchUp(node));
            }
            let mut voters = voters.clone();
            voters.insert(node);
            // Whoever goes does so in the same change: first one that is silent, otherwise any, if nobody else is.
            let goes = surplus.iter().find(|node| !self.is_live(**node));
            let goes = goes.or_else(|| surplus.iter().find(|node| **node != self.this));
            let rest: Option<BTreeSet<NodeId>> =
                goes.map(|goes| voters.iter().copied().filter(|node| node != goes).collect());
            let may_go = |rest: &BTreeSet<NodeId>| match goes {
                Some(goes) if !self.is_live(*goes) => self.has_quorum(rest),
                _ => self.silent_one(rest).is_none(),
            };
            if let Some(rest) = rest.filter(may_go) {
                voters = rest;
            }
            return if self.has_quorum(&voters) {
                Next::Do(Step::Promote { node, voters })
            } else {
                Next::Wait(self.silent_one(&voters).map_or(Obstacle::Committing, Obstacle::Silent))
            };
        }
        match missing.iter().find(|node| self.available.contains(node)) {
            Some(_) if self.turns.copies_wait && self.silent_one(voters).is_none() => Next::Wait(Obstacle::NotItsTurn),
            Some(node) => Next::Do(Step::AddLearner(*node)),
            None => Next::Wait(Obstacle::Absent(missing[0])),
        }
    }

    fn let_go(&self, voters: &BTreeSet<NodeId>, surplus: &BTreeSet<NodeId>) -> Next {
        let without = |gone: NodeId| -> BTreeSet<NodeId> { voters.iter().copied().filter(|v| *v != gone).collect() };
        if let Some(node) = self.silent_one(surplus) {
            let voters = without(node);
            return if self.has_quorum(&voters) {
                Next::Do(Step::RemoveVoter { node, voters })
            } else {
                Next::Wait(self.silent_one(&voters).map_or(Obstacle::Committing, Obstacle::Silent))
            };
        }
        // This node goes last, by another's hand; it waits for somebody that may take the shard.
        let Some(node) = surplus.iter().copied().find(|node| *node != self.this) else {
            return Next::Wait(self.cannot_take(self.planned[0]));
        };
        let voters = without(node);
        match self.silent_one(&voters) {
            None => Next::Do(Step::RemoveVoter { node, voters }),
            Some(silent) => Next::Wait(Obstacle::Silent(silent)),
        }
    }

    /// All members are those of the plan. The owner should be, too.
    fn give_back(&self, voters: &BTreeSet<NodeId>) -> Next {
        let owner = self.planned[0];
        if owner != self.this {
            return match self.may_take(owner) {
                true if self.turns.owners_wait => Next::Wait(Obstacle::NotItsTurn),
                true => Next::Do(Step::HandOff(owner)),
                false => Next::Wait(self.cannot_take(owner)),
            };
        }
        self.silent_one(voters).map_or(Next::Settled, |node| Next::Wait(Obstacle::Silent(node)))
    }

    /// Why the shard is not handed to this voter.
    fn cannot_take(&self, node: NodeId) -> Obstacle {
        if !self.is_live(node) {
            Obstacle::Silent(node)
        } else if !self.is_close(node) {
            Obstacle::Behind(node)
        } else if self.is_new(node) {
            Obstacle::New(node)
        } else {
            Obstacle::Absent(node)
        }
    }
}

#[cfg(test)]
mod tests;
