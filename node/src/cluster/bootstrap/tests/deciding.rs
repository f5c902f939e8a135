//! The pure core under every order of events that chance comes up with: questions, answers that are old when they arrive,
//! proposals that are lost, late or doubled, and nodes that start late. Nothing is simulated but the messages, so that a test
//! can go through many thousand histories.

use std::collections::{BTreeMap, BTreeSet};

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::super::decide::{Decision, Obstacle, Seen, View, decide, may_accept};
use super::super::{InitRecord, Settings, Status};
use crate::cluster::identity::Identity;

/// Nodes that may lose messages but not what they have accepted.
struct Model {
    random: SeededRandom,
    settings: Settings,
    seeds: Vec<String>,
    nodes: Vec<Identity>,
    started: Vec<bool>,
    /// Everything a node has ever answered, oldest first.
    answered: Vec<Vec<Status>>,
    /// Whether the seeds are a name: each look at them shows any of the nodes, some by a second address.
    is_named: bool,
    /// Proposals under way, and to whom. Any may be delivered at any time, also more than once.
    proposals: Vec<(usize, InitRecord)>,
}

impl Model {
    fn new(seed: u64, count: usize, expect: usize) -> Self {
        let random = SeededRandom::new(seed);
        let seeds: Vec<String> = (0..count).map(|n| format!("n{n}:1")).collect();
        let nodes: Vec<Identity> = seeds.iter().map(|a| Identity::fresh(NodeId(random.next_u64()), a)).collect();
        let settings = Settings { shards: 64, replicas: 3, expect: expect as u16 };
        let (started, answered) = (vec![false; count], vec![Vec::new(); count]);
        let mut model =
            Self { random, settings, seeds, nodes, started, answered, is_named: false, proposals: Vec::new() };
        (0..count).for_each(|node| model.note(node));
        model
    }

    fn below(&self, choices: usize) -> usize {
        (self.random.next_u64() % choices as u64) as usize
    }

    fn status(&self, node: usize) -> Status {
        let Identity { node: id, address, accepted, cluster, .. } = self.nodes[node].clone();
        Status { node: id, address, cluster, accepted, settings: self.settings }
    }

    fn note(&mut self, node: usize) {
        let status = self.status(node);
        self.answered[node].push(status);
    }

    /// What the seeds stand for at some moment: with a name, of every node its address, its second one, both, or neither.
    fn look_at_seeds(&self, honest: bool) -> Vec<String> {
        if !self.is_named || honest {
            return self.seeds.clone();
        }
        let mut seeds = Vec::new();
        for address in &self.seeds {
            seeds.extend((self.below(4) > 0).then(|| address.clone()));
            seeds.extend((self.below(4) == 0).then(|| format!("second-{address}")));
        }
        seeds
    }

    /// What `node` may have gathered at `seeds` and at the members of its record: of every other node nothing, or anything it
    /// has ever said.
    fn view(&self, node: usize, seeds: &[String], honest: bool) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::new();
        let members = self.nodes[node].accepted.iter().flat_map(|record| &record.members);
        let asked: BTreeSet<&String> = seeds.iter().chain(members.map(|member| &member.address)).collect();
        for address in asked.into_iter().filter(|address| **address != self.seeds[node]) {
            let first = address.strip_prefix("second-").unwrap_or(address);
            let other = self.seeds.iter().position(|seed| seed == first).unwrap();
            let silent = !self.started[other] || (!honest && self.below(4) == 0);
            let past = &self.answered[other];
            let answer = if honest || other == node { past.len() - 1 } else { self.below(past.len()) };
            let answer = if silent { Seen::Silent("lost".to_owned()) } else { Seen::Answered(past[answer].clone()) };
            seen.insert(address.clone(), answer);
        }
        seen
    }

    fn decide(&self, node: usize, seeds: &[String], seen: &BTreeMap<String, Seen>) -> Decision {
        decide(&View {
            own: &self.nodes[node],
            settings: self.settings,
            seeds,
            unresolved: &[],
            is_fixed: !self.is_named,
            init: None,
            seen,
            is_settled: true,
        })
    }

    /// Why `node` goes no further although everything arrives.
    fn obstacles(&self, node: usize) -> Vec<Obstacle> {
        match self.decide(node, &self.seeds, &self.view(node, &self.seeds, true)) {
            Decision::Wait(obstacles) | Decision::Propose { obstacles, .. } => obstacles,
            _ => Vec::new(),
        }
    }

    fn act(&mut self, node: usize, honest: bool) {
        if !self.started[node] || self.nodes[node].cluster.is_some() {
            return;
        }
        let seeds = self.look_at_seeds(honest);
        let seen = self.view(node, &seeds, honest);
        match self.decide(node, &seeds, &seen) {
            Decision::Wait(_) => {}
            Decision::Found(members) => {
                let Settings { shards, replicas, .. } = self.settings;
                let cluster = ClusterId(self.random.next_u128());
                self.nodes[node].accepted = Some(InitRecord { cluster, members, shards, replicas });
            }
            Decision::Propose { to, .. } => {
                let record = self.nodes[node].accepted.clone().unwrap();
                let to = to.iter().map(|address| self.seeds.iter().position(|seed| seed == address).unwrap());
                self.proposals.extend(to.map(|to| (to, record.clone())).collect::<Vec<_>>());
            }
            Decision::JoinAsMember(record) => {
                self.nodes[node].cluster = Some(record.cluster);
                self.nodes[node].accepted = Some(record);
            }
            Decision::JoinLater(cluster) => self.nodes[node].cluster = Some(cluster),
            Decision::Refuse(obstacle) => panic!("{obstacle}"),
        }
        self.note(node);
    }

    fn deliver(&mut self) {
        if self.proposals.is_empty() {
            return;
        }
        let which = self.below(self.proposals.len());
        let (to, record) = self.proposals[which].clone();
        if self.below(3) > 0 {
            self.proposals.swap_remove(which);
        }
        if self.started[to] && may_accept(&self.nodes[to], self.settings, &record, false).is_ok() {
            self.nodes[to].accepted = Some(record);
            self.note(to);
        }
    }

    fn step(&mut self, honest: bool) {
        let node = self.below(self.nodes.len());
        match self.below(8) {
            0 => self.started[node] = true,
            1..=4 => self.act(node, honest),
            _ => self.deliver(),
        }
    }

    fn clusters(&self) -> BTreeSet<ClusterId> {
        self.nodes.iter().filter_map(|node| node.cluster).collect()
    }
}

/// Goes through one history and its end, in which every message arrives. Says whether everybody has joined.
fn live_through(mut model: Model, seed: u64) -> bool {
    let (count, expect) = (model.nodes.len(), usize::from(model.settings.expect));
    for _ in 0..200 {
        model.step(false);
        assert!(model.clusters().len() <= 1, "seed {seed}: {:?}", model.clusters());
    }
    model.started.fill(true);
    for _ in 0..400 {
        model.step(true);
    }
    assert!(model.clusters().len() <= 1, "seed {seed}: {:?}", model.clusters());
    let left: Vec<usize> = (0..count).filter(|node| model.nodes[*node].cluster.is_none()).collect();
    if left.is_empty() {
        return true;
    }
    // Only a duel can leave nodes behind, and a duel takes two records.
    let records: BTreeSet<ClusterId> =
        model.nodes.iter().filter_map(|node| node.accepted.as_ref()).map(|record| record.cluster).collect();
    assert!(expect < count && records.len() > 1, "seed {seed}: {:?}", model.nodes);
    for node in left {
        let obstacles = model.obstacles(node);
        let says_why =
            |obstacle: &Obstacle| matches!(obstacle, Obstacle::AcceptedOther { .. } | Obstacle::AwaitsProposal { .. });
        assert!(obstacles.iter().any(says_why), "seed {seed}: {obstacles:?}");
    }
    false
}

fn lives(is_named: bool) -> (usize, usize) {
    let (mut joined, mut stuck) = (0, 0);
    for seed in 0..8_000 {
        let count = 2 + (seed % 4) as usize;
        let majority = count / 2 + 1;
        let expect = majority + (seed / 4) as usize % (count - majority + 1);
        let model = Model { is_named, ..Model::new(seed, count, expect) };
        if live_through(model, seed) { joined += 1 } else { stuck += 1 }
    }
    (joined, stuck)
}

#[test]
fn there_is_never_a_second_cluster_whatever_is_lost_late_or_doubled() {
    let (joined, stuck) = lives(false);
    assert!(joined > 6_000, "{joined} joined, {stuck} got stuck");
}

/// DNS may say something else at every look.
#[test]
fn there_is_never_a_second_cluster_whatever_a_name_stands_for() {
    let (joined, stuck) = lives(true);
    assert!(joined > 5_000 && stuck > 100, "{joined} joined, {stuck} got stuck");
}

#[test]
fn when_all_seeds_are_expected_everybody_becomes_a_member_of_the_same_record() {
    for seed in 0..700 {
        let count = 1 + (seed % 7) as usize;
        let mut model = Model::new(seed, count, count);
        for _ in 0..2_000 {
            model.step(seed % 2 == 0);
        }
        model.started.fill(true);
        for _ in 0..1_000 {
            model.step(true);
        }
        let records: BTreeSet<ClusterId> =
            model.nodes.iter().filter_map(Identity::record).map(|record| record.cluster).collect();
        assert_eq!(records.len(), 1, "seed {seed}: {:?}", model.nodes);
        assert!(model.nodes.iter().all(|node| node.record().is_some_and(|record| record.members.len() == count)));
    }
}

/// A node and two others that answer `b` and `c`.
struct Three {
    own: Identity,
    b: Identity,
    c: Identity,
    settings: Settings,
}

impl Three {
    fn new() -> Self {
        let settings = Settings { shards: 64, replicas: 3, expect: 3 };
        let fresh = |node, address| Identity::fresh(NodeId(node), address);
        Self { own: fresh(1, "a:1"), b: fresh(2, "b:1"), c: fresh(3, "c:1"), settings }
    }

    fn record(&self, cluster: u128) -> InitRecord {
        let member = |identity: &Identity| berth_shared::report::Member {
            node: identity.node,
            address: identity.address.clone(),
        };
        let members = vec![member(&self.own), member(&self.b), member(&self.c)];
        InitRecord { cluster: ClusterId(cluster), members, shards: 64, replicas: 3 }
    }

    fn seen(&self, identity: &Identity) -> Seen {
        let Identity { node, address, accepted, cluster, .. } = identity.clone();
        Seen::Answered(Status { node, address, cluster, accepted, settings: self.settings })
    }

    fn decide_with(&self, change: impl FnOnce(&mut BTreeMap<String, Seen>)) -> Decision {
        let seeds: Vec<String> = ["a:1", "b:1", "c:1"].map(str::to_owned).into();
        let mut seen = BTreeMap::from([("b:1".to_owned(), self.seen(&self.b)), ("c:1".to_owned(), self.seen(&self.c))]);
        change(&mut seen);
        let (own, settings) = (&self.own, self.settings);
        let (unresolved, is_fixed) = (&[], true);
        decide(&View { own, settings, seeds: &seeds, unresolved, is_fixed, init: None, seen: &seen, is_settled: false })
    }

    fn decide(&self) -> Decision {
        self.decide_with(|_| {})
    }
}

#[test]
fn only_the_lowest_id_that_sees_enough_fresh_nodes_proposes() {
    let mut three = Three::new();
    assert_eq!(three.decide(), Decision::Found(three.record(0).members));
    three.own.node = NodeId(9);
    assert!(matches!(&three.decide(), Decision::Wait(why) if matches!(why[0], Obstacle::AwaitsProposal { .. })));
    let silent = |seen: &mut BTreeMap<String, Seen>| {
        seen.insert("c:1".to_owned(), Seen::Silent("gone".to_owned()));
    };
    let Decision::Wait(why) = three.decide_with(silent) else { panic!() };
    assert_eq!(why[0], Obstacle::TooFewFresh { fresh: 2, expect: 3 });
    three.own.node = NodeId(1);
    three.settings.expect = 2;
    let Decision::Wait(why) = three.decide_with(silent) else { panic!() };
    assert_eq!(why[0], Obstacle::Settling { fresh: 2, seeds: 3 });
}

#[test]
fn a_node_that_sees_a_cluster_founds_none() {
    let mut three = Three::new();
    three.b.cluster = Some(ClusterId(5));
    assert_eq!(three.decide(), Decision::JoinLater(ClusterId(5)));
    three.c.cluster = Some(ClusterId(6));
    let Decision::Wait(why) = three.decide() else { panic!() };
    let line = why[0].to_string();
    assert!(line.contains("different clusters") && line.contains("b:1") && line.contains("c:1"), "{line}");
}

#[test]
fn a_node_joins_its_record_when_all_have_accepted_or_anybody_has_joined() {
    let mut three = Three::new();
    let record = three.record(7);
    three.own.accepted = Some(record.clone());
    assert!(matches!(three.decide(), Decision::Propose { to, .. } if to == ["b:1", "c:1"]));
    three.b.accepted = Some(record.clone());
    assert!(matches!(three.decide(), Decision::Propose { to, .. } if to == ["c:1"]));
    three.c.accepted = Some(record.clone());
    assert_eq!(three.decide(), Decision::JoinAsMember(record.clone()));
    three.c.accepted = None;
    three.b.cluster = Some(ClusterId(7));
    assert_eq!(three.decide(), Decision::JoinAsMember(record));
}

#[test]
fn a_node_whose_record_was_left_by_a_member_joins_what_that_one_joined_and_keeps_its_acceptance() {
    let mut three = Three::new();
    three.own.accepted = Some(three.record(7));
    three.b.accepted = Some(three.record(8));
    let Decision::Propose { to, obstacles, .. } = three.decide() else { panic!() };
    assert_eq!(to, ["c:1"]);
    assert!(obstacles[0].to_string().contains("has accepted the record of another cluster"), "{}", obstacles[0]);
    three.b.accepted = None;
    three.b.cluster = Some(ClusterId(8));
    assert_eq!(three.decide(), Decision::JoinLater(ClusterId(8)));
    // One that is no member of the record says nothing about it.
    let mut stranger = Identity::fresh(NodeId(77), "d:1");
    stranger.cluster = Some(ClusterId(8));
    three.b = Three::new().b;
    let stranger = three.seen(&stranger);
    assert!(matches!(three.decide_with(|seen| _ = seen.insert("d:1".to_owned(), stranger)), Decision::Propose { .. }));
}

#[test]
fn one_record_is_accepted_and_no_other_unless_by_force_and_never_after_joining() {
    let mut three = Three::new();
    let (first, second) = (three.record(1), three.record(2));
    let accept = |three: &Three, record: &InitRecord, force| may_accept(&three.own, three.settings, record, force);
    assert_eq!(accept(&three, &first, false), Ok(()));
    let mut without_us = first.clone();
    without_us.members.remove(0);
    let mut moved = first.clone();
    moved.members[0].address = "z:1".to_owned();
    let mut unsorted = first.clone();
    unsorted.members.reverse();
    for unusable in [&without_us, &moved, &unsorted, &InitRecord { shards: 32, ..first.clone() }] {
        assert!(accept(&three, unusable, true).is_err(), "{unusable:?}");
    }
    three.own.accepted = Some(first.clone());
    assert_eq!(accept(&three, &first, false), Ok(()));
    assert!(accept(&three, &second, false).is_err());
    assert_eq!(accept(&three, &second, true), Ok(()));
    three.own.cluster = Some(ClusterId(1));
    assert!(accept(&three, &second, true).is_err() && accept(&three, &first, false).is_err());
    three.settings.expect = 5;
    three.own = Three::new().own;
    assert!(accept(&three, &first, false).is_err(), "fewer members than this node expects");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let mut three = Three::new();
    three.settings.shards = 32;
    let other = three.seen(&three.b);
    three.settings.shards = 64;
    let Decision::Wait(why) = three.decide_with(|seen| _ = seen.insert("b:1".to_owned(), other)) else { panic!() };
    assert_eq!(why[1].to_string(), "b:1 is configured differently: cluster.shards is 32 there and 64 here");

    let copy = three.seen(&Identity::fresh(NodeId(1), "b:1"));
    let Decision::Wait(why) = three.decide_with(|seen| _ = seen.insert("b:1".to_owned(), copy)) else { panic!() };
    let line = why[0].to_string();
    assert!(line.contains("a:1 and b:1 both say that they are node 0000000000000001"), "{line}");

    three.own.accepted = Some(three.record(7));
    let replaced = three.seen(&Identity::fresh(NodeId(9), "b:1"));
    let decision = three.decide_with(|seen| _ = seen.insert("b:1".to_owned(), replaced));
    let Decision::Propose { obstacles, .. } = decision else { panic!() };
    let line = obstacles[0].to_string();
    assert!(line.contains("node 0000000000000002") && line.contains("is gone: node 0000000000000009"), "{line}");

    // An old copy of a directory that has voted since.
    let mut three = Three::new();
    three.b.accepted = Some(three.record(7));
    three.b.cluster = Some(ClusterId(7));
    let Decision::Wait(why) = three.decide() else { panic!() };
    assert_eq!(why, [Obstacle::Forgotten { cluster: ClusterId(7) }]);
}
