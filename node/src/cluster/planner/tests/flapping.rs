//! Random sequences of nodes that come, leave, die and flap, against what is so in truth.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_shared::report::NodeState;
use berth_shared::seam::BootInstant;
use proptest::prelude::*;

use super::world::{LOOK, Node, REPLACE_AFTER, US, World};

#[derive(Clone, Debug)]
enum Act {
    Join,
    Leave(prop::sample::Index),
    Die(prop::sample::Index),
    Flap(prop::sample::Index, Silence, u64),
    /// Another node begins to lead.
    LeadAnew,
}

/// What is cut off from a node for a while.
#[derive(Clone, Copy, Debug)]
enum Silence {
    Gossip,
    Connections,
    Both,
}

fn flap() -> impl Strategy<Value = Act> {
    let longest = REPLACE_AFTER.as_millis() as u64 - 1000;
    let lonely = prop_oneof![Just(Silence::Gossip), Just(Silence::Connections)];
    prop_oneof![
        (any::<prop::sample::Index>(), lonely, 200..100_000_u64).prop_map(|(n, what, time)| Act::Flap(n, what, time)),
        (any::<prop::sample::Index>(), 200..longest).prop_map(|(n, time)| Act::Flap(n, Silence::Both, time)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Join),
        2 => any::<prop::sample::Index>().prop_map(Act::Leave),
        2 => any::<prop::sample::Index>().prop_map(Act::Die),
        6 => flap(),
        1 => Just(Act::LeadAnew),
    ]
}

/// A world, and what is done to it.
struct Trial {
    world: World,
    /// Who is cut off until when.
    flapping: Vec<(u64, BootInstant)>,
    dead: BTreeSet<u64>,
    next: u64,
    /// Changes that a plan may be made for.
    changes: usize,
}

impl Trial {
    fn new(count: u64) -> Self {
        let world = World::new(count);
        Self { world, flapping: Vec::new(), dead: BTreeSet::new(), next: count + 1, changes: 0 }
    }

    /// Any node that lives, but for the one that plans.
    fn choose(&self, index: prop::sample::Index) -> Option<u64> {
        let others: Vec<u64> =
            self.world.nodes.keys().copied().filter(|node| *node != US && !self.dead.contains(node)).collect();
        (!others.is_empty()).then(|| others[index.index(others.len())])
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Join => {
                self.world.nodes.insert(self.next, Node { state: NodeState::Joining, ..Node::new(self.next) });
                self.next += 1;
                self.changes += 1;
            }
            Act::Leave(index) => {
                let Some(node) = self.choose(*index) else { return };
                self.changes += usize::from(self.world.node(node).state != NodeState::Leaving);
                self.world.node(node).state = NodeState::Leaving;
            }
            Act::Die(index) => {
                let Some(node) = self.choose(*index) else { return };
                self.flapping.retain(|(flapping, _)| *flapping != node);
                self.world.node(node).set_silent(true);
                self.dead.insert(node);
                self.changes += 1;
            }
            Act::Flap(index, what, millis) => {
                let Some(node) = self.choose(*index) else { return };
                if self.flapping.iter().any(|(flapping, _)| *flapping == node) {
                    return;
                }
                let seen = self.world.node(node);
                (seen.is_heard, seen.is_connected) = match what {
                    Silence::Gossip => (false, true),
                    Silence::Connections => (true, false),
                    Silence::Both => (false, false),
                };
                self.flapping.push((node, self.world.now + Duration::from_millis(*millis)));
            }
            Act::LeadAnew => self.world.lead_anew(),
        }
    }

    /// Lets time pass in steps of a look, and holds every plan against the truth.
    fn pass(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.world.now + time;
        while self.world.now < end {
            let now = self.world.now;
            for (node, _) in self.flapping.extract_if(.., |(_, until)| *until <= now) {
                self.world.nodes.get_mut(&node).unwrap().set_silent(false);
            }
            let before = self.world.planned();
            let made = self.world.pass(LOOK);
            prop_assert!(made <= 1);
            let after = self.world.planned();
            for node in before.iter().filter(|node| !after.contains(node)) {
                let is_leaving = self.world.node(*node).state == NodeState::Leaving;
                prop_assert!(is_leaving || self.dead.contains(node), "{node} was dropped: {:?}", self.world.made);
            }
            for node in after.iter().filter(|node| !before.contains(node)) {
                let node = self.world.node(*node);
                let is_here = node.is_heard && node.is_connected;
                prop_assert!(is_here || node.state == NodeState::Leaving, "{node:?} was given something");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_change_makes_one_plan_at_most_and_nobody_who_is_there_is_dropped(
        count in 1_u64..8, acts in prop::collection::vec((act(), 200_u64..45_000), 0..25),
    ) {
        let mut trial = Trial::new(count);
        trial.pass(Duration::from_secs(10))?;
        for (act, millis) in &acts {
            trial.act(act);
            trial.pass(Duration::from_millis(*millis))?;
            prop_assert!(trial.world.made.len() <= trial.changes, "{:?}", trial.world.made);
        }
        // All that flaps has come back, and all that died is found dead.
        trial.pass(Duration::from_secs(200))?;
        prop_assert!(trial.world.made.len() <= trial.changes, "{:?}", trial.world.made);
        let stays = |node: &u64| trial.world.nodes[node].state != NodeState::Leaving && !trial.dead.contains(node);
        let staying: Vec<u64> = trial.world.nodes.keys().copied().filter(stays).collect();
        let planned = trial.world.planned();
        if staying.len() >= 2 {
            prop_assert_eq!(planned, staying);
        } else {
            prop_assert!(staying.iter().all(|node| planned.contains(node)), "{:?} without {:?}", planned, staying);
        }
        // Nothing is left to do.
        let made = trial.world.made.len();
        trial.pass(Duration::from_secs(100))?;
        prop_assert_eq!(trial.world.made.len(), made);
    }

    #[test]
    fn flapping_alone_makes_no_plan(
        count in 1_u64..8, acts in prop::collection::vec((flap(), 200_u64..45_000), 0..25),
    ) {
        let mut trial = Trial::new(count);
        for (act, millis) in &acts {
            trial.act(act);
            trial.pass(Duration::from_millis(*millis))?;
        }
        prop_assert_eq!(&trial.world.made, &vec![]);
    }
}
