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
        self.members.get(&node).is_some_and(|member| member.behind <= BEHIND_MAX)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A group that a test moves along, as consensus would.
    #[derive(Clone, Debug)]
    struct World {
        owner: u64,
        voters: BTreeSet<NodeId>,
        joint: Option<BTreeSet<NodeId>>,
        learners: BTreeSet<NodeId>,
        planned: Vec<NodeId>,
        /// Nodes that live.
        alive: BTreeSet<NodeId>,
        behind: BTreeMap<NodeId, LogIndex>,
        /// Nodes that have only just become members.
        new: BTreeSet<NodeId>,
        turns: Turns,
    }

    fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    fn world<const N: usize, const M: usize>(owner: u64, voters: [u64; N], planned: [u64; M]) -> World {
        World {
            owner,
            voters: ids(voters),
            joint: None,
            learners: BTreeSet::new(),
            planned: planned.into_iter().map(NodeId).collect(),
            alive: ids([1, 2, 3, 4, 5, 6]),
            behind: BTreeMap::new(),
            new: BTreeSet::new(),
            turns: Turns { copies_wait: false, owners_wait: false },
        }
    }

    impl World {
        fn without<const N: usize>(mut self, dead: [u64; N]) -> Self {
            self.alive.retain(|node| !dead.contains(&node.0));
            self
        }

        fn next(&self) -> Next {
            let this = NodeId(self.owner);
            let members = self.voters.iter().chain(&self.learners).chain(self.joint.iter().flatten());
            let member = |node: &NodeId| {
                let silent = if self.alive.contains(node) { Duration::ZERO } else { Duration::from_secs(60) };
                let age = if self.new.contains(node) { Duration::ZERO } else { NEW_FOR };
                (*node, Member { behind: self.behind.get(node).copied().unwrap_or(0), silent, age })
            };
            let members = members.filter(|node| **node != this).map(member).collect();
            let configurations: Vec<_> = std::iter::once(self.voters.clone()).chain(self.joint.clone()).collect();
            next(&View {
                this,
                configurations: &configurations,
                learners: &self.learners,
                is_committed: true,
                members: &members,
                planned: &self.planned,
                available: &self.alive,
                turns: self.turns,
            })
        }

        fn apply(&mut self, step: &Step) {
            match step.clone() {
                Step::FinishChange(voters) => (self.voters, self.joint) = (voters, None),
                Step::AddLearner(node) => {
                    self.learners.insert(node);
                    self.behind.insert(node, 10_000);
                }
                Step::CatchUp(node) => drop(self.behind.remove(&node)),
                Step::Promote { node, voters } => {
                    self.learners.remove(&node);
                    self.voters = voters;
                }
                Step::HandOff(node) => self.owner = node.0,
                Step::RemoveVoter { voters, .. } => self.voters = voters,
                Step::RemoveLearner(node) => drop(self.learners.remove(&node)),
            }
        }

        /// The names of all steps until nothing is to be done, and how that ends.
        fn run(&mut self) -> (Vec<String>, Next) {
            let mut steps = Vec::new();
            for _ in 0..100 {
                match self.next() {
                    Next::Do(step) => {
                        steps.push(format!("{} {}", step.name(), step.target().map_or(0, |node| node.0)));
                        self.apply(&step);
                    }
                    end => return (steps, end),
                }
            }
            panic!("it never ends: {steps:?}");
        }
    }

    #[test]
    fn a_group_that_is_as_planned_is_left_alone() {
        assert_eq!(world(1, [1, 2, 3], [1, 2, 3]).next(), Next::Settled);
        let silent = world(1, [1, 2, 3], [1, 2, 3]).without([3]);
        assert_eq!(silent.next(), Next::Wait(Obstacle::Silent(NodeId(3))));
    }

    #[test]
    fn a_replica_is_replaced_by_a_learner_that_becomes_a_voter_in_its_place() {
        let mut moved = world(1, [1, 2, 3], [1, 2, 4]);
        let (steps, end) = moved.run();
        assert_eq!(steps, ["add-learner 4", "catch-up 4", "promote 4"]);
        assert_eq!((end, moved.voters), (Next::Settled, ids([1, 2, 4])));
    }

    #[test]
    fn an_owner_that_goes_hands_the_shard_over_first() {
        let mut moved = world(1, [1, 2, 3], [2, 3, 4]);
        let (steps, end) = moved.run();
        assert_eq!(steps, ["hand-off 2", "add-learner 4", "catch-up 4", "promote 4"]);
        assert_eq!((end, moved.owner, moved.voters), (Next::Settled, 2, ids([2, 3, 4])));
    }

    #[test]
    fn a_shard_of_which_no_planned_replica_is_there_yet_gets_one_first() {
        let mut moved = world(1, [1], [2, 3]);
        let (steps, end) = moved.run();
        let expected =
            ["add-learner 2", "catch-up 2", "promote 2", "hand-off 2", "add-learner 3", "catch-up 3", "promote 3"];
        assert_eq!((steps, end), (expected.map(str::to_owned).to_vec(), Next::Settled));
        assert_eq!(moved.voters, ids([2, 3]));
    }

    #[test]
    fn a_new_owner_gets_the_shard_when_it_has_caught_up() {
        let mut moved = world(1, [1, 2, 3], [4, 1, 2]);
        assert_eq!(moved.run().0, ["add-learner 4", "catch-up 4", "promote 4", "hand-off 4"]);
    }

    #[test]
    fn a_dead_voter_is_replaced_before_a_live_one_goes() {
        let mut moved = world(1, [1, 2, 3], [1, 4, 5]).without([3]);
        let (steps, end) = moved.run();
        let expected = ["add-learner 4", "catch-up 4", "promote 4", "add-learner 5", "catch-up 5", "promote 5"];
        assert_eq!((steps, end), (expected.map(str::to_owned).to_vec(), Next::Settled));
        let mut first = world(1, [1, 2, 3], [1, 4, 5]).without([3]);
        first.learners = ids([4]);
        let Next::Do(Step::Promote { voters, .. }) = first.next() else { panic!() };
        assert_eq!(voters, ids([1, 2, 4]), "3 is dead, and goes first");
    }

    #[test]
    fn no_live_voter_goes_while_another_is_silent() {
        let removing = world(1, [1, 2, 3, 4], [1, 2, 3]).without([3]);
        assert_eq!(removing.next(), Next::Wait(Obstacle::Silent(NodeId(3))));
        let mut swapping = world(1, [1, 2, 3], [1, 3, 5]).without([3]);
        swapping.learners = ids([5]);
        let Next::Do(Step::Promote { voters, .. }) = swapping.next() else { panic!() };
        assert_eq!(voters, ids([1, 2, 3, 5]), "2 stays as long as 3 is silent");
    }

    #[test]
    fn a_move_whose_target_dies_turns_back() {
        let mut moving = world(1, [1, 2, 3], [1, 2, 4]).without([4]);
        assert_eq!(moving.next(), Next::Wait(Obstacle::Absent(NodeId(4))));
        moving.learners = ids([4]);
        assert_eq!(moving.next(), Next::Do(Step::RemoveLearner(NodeId(4))));
        let mut given_up = world(1, [1, 2, 3], [1, 2, 3]);
        given_up.learners = ids([4]);
        assert_eq!(given_up.run().0, ["remove-learner 4"]);
    }

    #[test]
    fn a_change_that_was_left_behind_is_ended_first() {
        let mut joint = world(2, [1, 2, 3], [2, 3, 4]);
        joint.joint = Some(ids([2, 3, 4]));
        let (steps, end) = joint.run();
        assert_eq!((steps, end), (vec!["finish-change 0".to_owned()], Next::Settled));
    }

    #[test]
    fn a_change_that_is_left_to_one_that_goes_is_ended_by_another_or_turned_back() {
        let mut joint = world(1, [1, 2, 3], [2, 3, 4]);
        joint.joint = Some(ids([2, 3, 4]));
        assert_eq!(joint.run(), (vec!["hand-off 2".to_owned(), "finish-change 0".to_owned()], Next::Settled));
        assert_eq!((joint.owner, joint.voters), (2, ids([2, 3, 4])));
        // Two of each half live, and none of those that stay may be given anything.
        let mut alone = world(1, [1, 2, 3], [2, 3, 4]);
        alone.joint = Some(ids([2, 3, 4]));
        alone.behind = [2, 3, 4].map(|node| (NodeId(node), BEHIND_MAX + 1)).into();
        assert_eq!(alone.next(), Next::Do(Step::FinishChange(ids([1, 2, 3]))));
        let lost = alone.clone().without([2, 3]);
        assert_eq!(lost.next(), Next::Wait(Obstacle::Silent(NodeId(2))));
    }

    #[test]
    fn fewer_nodes_than_copies_keep_one_copy_each() {
        let mut leaving = world(1, [1, 2, 3], [2, 3]);
        assert_eq!(leaving.run().0, ["hand-off 2", "remove-voter 1"]);
        let last = world(1, [1], [1]);
        assert_eq!(last.next(), Next::Settled);
    }

    #[test]
    fn a_shard_is_not_handed_to_who_is_silent_far_behind_or_new() {
        let silent = world(1, [1, 2, 3], [2, 1, 3]).without([2]);
        assert_eq!(silent.next(), Next::Wait(Obstacle::Silent(NodeId(2))));
        let mut behind = world(1, [1, 2, 3], [2, 1, 3]);
        behind.behind.insert(NodeId(2), BEHIND_MAX + 1);
        assert_eq!(behind.next(), Next::Wait(Obstacle::Behind(NodeId(2))));
        let mut new = world(1, [1, 2, 3], [2, 1, 3]);
        new.new = ids([2]);
        assert_eq!(new.next(), Next::Wait(Obstacle::New(NodeId(2))));
    }

    #[test]
    fn what_may_stay_as_it_is_for_now_waits_for_its_turn() {
        let waits = |mut world: World| {
            world.turns = Turns { copies_wait: true, owners_wait: true };
            world.next()
        };
        let not_its_turn = Next::Wait(Obstacle::NotItsTurn);
        assert_eq!(waits(world(1, [1, 2, 3], [2, 1, 3])), not_its_turn, "another owner");
        assert_eq!(waits(world(1, [1, 2, 3], [1, 2, 4])), not_its_turn, "another replica");
        let silent = world(1, [1, 2, 3], [1, 2, 4]).without([3]);
        assert_eq!(waits(silent), Next::Do(Step::AddLearner(NodeId(4))), "a replica is lost");
        let leaves = world(1, [1, 2, 3], [2, 3, 4]);
        assert_eq!(waits(leaves), Next::Do(Step::HandOff(NodeId(2))), "the owner goes");
    }

    fn members() -> impl Strategy<Value = Vec<u64>> {
        (prop::sample::subsequence(vec![1_u64, 2, 3, 4, 5, 6], 1..=3)).prop_shuffle()
    }

    proptest! {
        /// Whatever the group and the plan are, and whoever leads: if a quorum lives it comes to what the plan wants, as far
        /// as the planned nodes live, and on the way no step takes the quorum away or goes on without end.
        #[test]
        fn every_group_comes_to_its_plan(
            voters in members(), planned in members(), dead in prop::collection::btree_set(1_u64..=6, 0..=2),
            learners in prop::collection::btree_set(1_u64..=6, 0..=2), joint in prop::option::of(members()),
            who_leads in any::<prop::sample::Index>(),
        ) {
            let set = |nodes: &[u64]| -> BTreeSet<NodeId> { nodes.iter().copied().map(NodeId).collect() };
            let mut world = world(0, [], []);
            world.alive.retain(|node| !dead.contains(&node.0));
            world.voters = set(&voters);
            world.joint = joint.as_deref().map(set);
            let is_member = |node: &NodeId| world.voters.contains(node) || world.joint.iter().flatten().any(|v| v == node);
            world.learners = learners.into_iter().map(NodeId).filter(|node| !is_member(node)).collect();
            world.planned = planned.iter().copied().map(NodeId).collect();
            let lives = |voters: &BTreeSet<NodeId>| voters.intersection(&world.alive).count() > voters.len() / 2;
            prop_assume!(lives(&world.voters) && world.joint.as_ref().is_none_or(lives));
            // Any voter may lead, also one that goes.
            let voters = world.voters.iter().chain(world.joint.iter().flatten());
            let may_lead: BTreeSet<NodeId> = voters.filter(|node| world.alive.contains(node)).copied().collect();
            world.owner = may_lead.iter().nth(who_leads.index(may_lead.len())).unwrap().0;
            let mut ended = Next::Settled;
            for _ in 0..100 {
                ended = world.next();
                let Next::Do(step) = &ended else { break };
                world.apply(step);
                let alive = world.voters.intersection(&world.alive).count();
                prop_assert!(alive > world.voters.len() / 2, "no quorum after {step:?}: {world:?}");
                let is_voter = world.voters.iter().chain(world.joint.iter().flatten()).any(|node| node.0 == world.owner);
                prop_assert!(is_voter, "the owner is no voter after {step:?}");
            }
            prop_assert!(!matches!(ended, Next::Do(_)), "no end: {world:?}");
            if world.planned.iter().all(|node| world.alive.contains(node)) {
                prop_assert_eq!(&ended, &Next::Settled);
                prop_assert_eq!(&world.voters, &set(&planned));
                prop_assert_eq!(world.owner, world.planned[0].0);
                prop_assert!(world.learners.is_empty());
            }
        }
    }
}
