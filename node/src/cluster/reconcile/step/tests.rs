//! Which step comes next in each state of a group that was met, and that from any state a group comes to its plan without ever being
//! without a quorum.

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
