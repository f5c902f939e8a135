//! Each promise of [`Plan::next`] against a measure of its own, on random sequences of joins, leaves, and changes of weights and
//! zones.

#![expect(clippy::cast_sign_loss, reason = "no share is below nothing")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::shard::decide::STATE_BYTES_MAX;

fn candidates(count: usize, seed: u64) -> Vec<Candidate> {
    let random = SeededRandom::new(seed);
    (0..count).map(|n| candidate(NodeId(random.next_u64()), n)).collect()
}

fn candidate(node: NodeId, number: usize) -> Candidate {
    Candidate::from(Member { node, address: format!("node-{number}:7400") })
}

fn nodes_of(plan: &Plan, shard: ShardId) -> Vec<NodeId> {
    plan.replicas_of(shard).map(|member| member.node).collect()
}

/// The plan that the first one comes to while nothing changes: the system shard, with which all begin, has as many replicas as
/// the others.
fn begin(candidates: &[Candidate], shards: u16, replicas: u16) -> Plan {
    let first = Plan::first(candidates, shards, replicas);
    assert_eq!(first.epoch, 1);
    assert!(first.is_sound() && first.system_replicas().eq(first.members()), "all of them begin the group");
    let Some(next) = first.next(candidates) else { return first };
    assert!(first.members().len() > replicas.into());
    assert_eq!(next.changes_since(&first), Changes::default());
    assert_eq!(next.owner_of(SYSTEM_SHARD), first.owner_of(SYSTEM_SHARD));
    assert!(shards_of(&first).all(|shard| nodes_of(&next, shard) == nodes_of(&first, shard)));
    next
}

/// How many replicas of users' shards it has.
fn held(plan: &Plan, node: &Candidate) -> usize {
    plan.hosted_by(node.member.node).into_iter().filter(|shard| *shard != SYSTEM_SHARD).count()
}

fn shards_of(plan: &Plan) -> impl Iterator<Item = ShardId> + use<> {
    (0..plan.shards()).map(ShardId)
}

/// A change of who is there, of one node or of several at once.
#[derive(Clone, Debug)]
enum Change {
    Join(usize),
    Leave(Vec<prop::sample::Index>),
    Weight(prop::sample::Index, u32),
    Zone(prop::sample::Index, Option<u8>),
}

/// What the clusters of a test are made of.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// The most, 0 for none.
    zones: u8,
    weight_max: u32,
}

const EQUAL: Kind = Kind { zones: 0, weight_max: 1 };
const ZONED: Kind = Kind { zones: 5, weight_max: 1 };
const WEIGHTED: Kind = Kind { zones: 0, weight_max: 20 };
const MIXED: Kind = Kind { zones: 4, weight_max: 5 };

fn changes(kind: Kind) -> impl Strategy<Value = Vec<Change>> {
    let node = any::<prop::sample::Index>;
    let change = prop_oneof![
        3 => (1_usize..4).prop_map(Change::Join),
        3 => prop::collection::vec(node(), 1..4).prop_map(Change::Leave),
        1 => (node(), 1..=kind.weight_max).prop_map(|(node, weight)| Change::Weight(node, weight)),
        1 => (node(), prop::option::of(0..kind.zones.max(1))).prop_map(|(node, zone)| Change::Zone(node, zone)),
    ];
    prop::collection::vec(change, 1..8)
}

/// The nodes that are there, and how they change.
struct Cluster {
    kind: Kind,
    zones: u64,
    /// Or one in ten does not.
    all_know_their_zones: bool,
    random: SeededRandom,
    nodes: Vec<Candidate>,
}

impl Cluster {
    fn new(kind: Kind, count: usize, seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let zones = 1 + random.next_u64() % u64::from(kind.zones.max(1));
        let all_know_their_zones = random.next_u64().is_multiple_of(2);
        let mut cluster = Self { kind, zones, all_know_their_zones, random, nodes: Vec::new() };
        (0..count).for_each(|_| cluster.join());
        cluster
    }

    fn join(&mut self) {
        let mut node = candidate(NodeId(self.random.next_u64()), self.nodes.len());
        let zone = self.random.next_u64() % self.zones;
        let knows = self.all_know_their_zones || !self.random.next_u64().is_multiple_of(10);
        node.zone = (self.kind.zones > 0 && knows).then(|| format!("zone-{zone}"));
        node.weight = weight(1 + (self.random.next_u64() % u64::from(self.kind.weight_max)) as u32);
        self.nodes.push(node);
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Join(count) => (0..*count).for_each(|_| self.join()),
            Change::Leave(nodes) => {
                for node in nodes {
                    if self.nodes.len() > 1 {
                        self.nodes.remove(node.index(self.nodes.len()));
                    }
                }
            }
            Change::Weight(node, to) => node.get_mut(&mut self.nodes).weight = weight(*to),
            Change::Zone(node, zone) => {
                let zone = zone.filter(|_| self.kind.zones > 0).map(|zone| format!("zone-{zone}"));
                node.get_mut(&mut self.nodes).zone = zone;
            }
        }
    }
}

fn weight(weight: u32) -> NonZeroU32 {
    NonZeroU32::new(weight).unwrap()
}

/// What the shares of a cluster are, computed by halving intervals of floating-point levels until nothing changes.
struct Ideal {
    factor: usize,
    /// How many nodes each zone has.
    sizes: BTreeMap<String, usize>,
    /// The most and the fewest replicas of a shard in a zone.
    bounds: BTreeMap<String, (usize, usize)>,
    zone_of: BTreeMap<NodeId, String>,
    replicas: BTreeMap<NodeId, f64>,
    owned: BTreeMap<NodeId, f64>,
    /// Whether every share is as the weights say.
    is_free: bool,
}

impl Ideal {
    fn new(candidates: &[Candidate], shards: u16, replicas: u16) -> Self {
        let factor = candidates.len().min(replicas.into());
        let name = |node: &Candidate| node.zone.clone().unwrap_or_else(|| format!("alone-{}", node.member.node));
        let zone_of: BTreeMap<_, _> = candidates.iter().map(|node| (node.member.node, name(node))).collect();
        let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
        zone_of.values().for_each(|zone| *sizes.entry(zone.clone()).or_default() += 1);
        // Dealt out one by one, always to a zone that has the fewest.
        let mut dealt: BTreeMap<&String, usize> = sizes.keys().map(|zone| (zone, 0)).collect();
        for _ in 0..factor {
            let open = dealt.iter_mut().filter(|(zone, count)| **count < sizes[**zone]);
            *open.min_by_key(|(_, count)| **count).unwrap().1 += 1;
        }
        let most = dealt.values().copied().max().unwrap();
        let bounds: BTreeMap<_, _> =
            sizes.iter().map(|(zone, size)| (zone.clone(), (most.min(*size), (most - 1).min(*size)))).collect();

        let (shards, mut shares) = (f64::from(shards), BTreeMap::new());
        let mut weights: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for node in candidates {
            let zone = weights.entry(&zone_of[&node.member.node]).or_default();
            zone.push(node.weight.get().into());
        }
        let held =
            |zone: &str, level: f64| weights[zone].iter().map(|weight| (level * weight).min(shards)).sum::<f64>();
        let bounded = |zone: &str, level: f64| {
            let (most, fewest) = bounds[zone];
            held(zone, level).clamp(fewest as f64 * shards, most as f64 * shards)
        };
        let all = |level| sizes.keys().map(|zone| bounded(zone, level)).sum::<f64>();
        let common = level(|level| all(level) < shards * factor as f64);
        for zone in sizes.keys() {
            let wanted = bounded(zone, common);
            let own = level(|level| held(zone, level) < wanted);
            for node in candidates.iter().filter(|node| zone_of[&node.member.node] == *zone) {
                shares.insert(node.member.node, (own * f64::from(node.weight.get())).min(shards));
            }
        }
        let total: f64 = candidates.iter().map(|node| f64::from(node.weight.get())).sum();
        let owned: BTreeMap<_, _> =
            candidates.iter().map(|node| (node.member.node, shards * f64::from(node.weight.get()) / total)).collect();
        let is_free = shares.iter().all(|(node, share)| (share - owned[node] * factor as f64).abs() < 1e-6);
        Self { factor, sizes, bounds, zone_of, replicas: shares, owned, is_free }
    }

    /// The zones of these nodes, by how many of them are in each.
    fn zones(&self, nodes: &[NodeId]) -> BTreeMap<&str, usize> {
        let mut zones: BTreeMap<&str, usize> = self.sizes.keys().map(|zone| (zone.as_str(), 0)).collect();
        nodes.iter().for_each(|node| *zones.get_mut(self.zone_of[node].as_str()).unwrap() += 1);
        zones
    }

    /// How many of a shard's replicas on these nodes can stay for all that zones ask for.
    fn keepable(&self, nodes: &[NodeId]) -> usize {
        let low: usize = self.bounds.values().map(|(_, fewest)| fewest).sum();
        let (mut within, mut above) = (0, 0);
        for (zone, count) in self.zones(nodes) {
            let (most, fewest) = self.bounds[zone];
            within += count.min(fewest);
            above += count.min(most) - count.min(fewest);
        }
        within + above.min(self.factor - low)
    }

    /// The fewest replicas that any plan after `before` would have to move, because of what nodes hold and because of what
    /// each shard may keep in its zones. Whether one plan can do with that is another question.
    fn least(&self, before: &Plan) -> usize {
        let mut held: BTreeMap<NodeId, usize> = self.zone_of.keys().map(|node| (*node, 0)).collect();
        let mut keeps_by_zones = 0;
        for shard in shards_of(before) {
            let nodes: Vec<_> = nodes_of(before, shard).into_iter().filter(|node| held.contains_key(node)).collect();
            nodes.iter().for_each(|node| *held.get_mut(node).unwrap() += 1);
            keeps_by_zones += self.keepable(&nodes);
        }
        let floor = |node: &NodeId| (self.replicas[node] + 1e-6).floor() as usize;
        let all = self.factor * usize::from(before.shards());
        let above = held.iter().filter(|(node, held)| **held > floor(node)).count();
        let rounded_up = all - held.keys().map(floor).sum::<usize>();
        let keeps_by_nodes = held.iter().map(|(node, held)| (*held).min(floor(node))).sum::<usize>();
        all - keeps_by_zones.min(keeps_by_nodes + above.min(rounded_up))
    }
}

/// The highest level that is too low.
fn level(is_too_low: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1e9);
    for _ in 0..90 {
        let middle = f64::midpoint(low, high);
        if is_too_low(middle) { low = middle } else { high = middle }
    }
    high
}

fn counts(ideal: &Ideal, nodes: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, usize> {
    let mut counts: BTreeMap<_, _> = ideal.zone_of.keys().map(|node| (*node, 0)).collect();
    nodes.for_each(|node| *counts.get_mut(&node).unwrap() += 1);
    counts
}

/// Whether `count` is `share`, rounded down or up, or at most `beside` beside that.
fn is_rounded(count: usize, share: f64, beside: f64) -> bool {
    let count = count as f64;
    count >= (share + 1e-6).floor() - beside && count <= (share - 1e-6).ceil() + beside
}

fn check(plan: &Plan, candidates: &[Candidate], shards: u16, replicas: u16) {
    let ideal = Ideal::new(candidates, shards, replicas);
    assert!(plan.is_sound());
    assert_eq!((plan.shards(), plan.replicas, plan.members().len()), (shards, replicas, candidates.len()));
    for shard in shards_of(plan).chain([SYSTEM_SHARD]) {
        let nodes = nodes_of(plan, shard);
        let distinct: BTreeSet<_> = nodes.iter().collect();
        assert_eq!((nodes.len(), distinct.len()), (ideal.factor, ideal.factor), "{shard:?} is on {nodes:?}");
        let zones = ideal.zones(&nodes);
        for (zone, count) in &zones {
            let (most, fewest) = ideal.bounds[*zone];
            assert!((fewest..=most).contains(count), "{shard:?} has {count} in {zone}: {zones:?}");
        }
    }
    let held = counts(&ideal, shards_of(plan).flat_map(|shard| nodes_of(plan, shard)));
    for (node, held) in &held {
        assert!(is_rounded(*held, ideal.replicas[node], 0.0), "{node} holds {held} of {}", ideal.replicas[node]);
    }
    let owned = counts(&ideal, shards_of(plan).filter_map(|shard| Some(plan.owner_of(shard)?.node)));
    let beside = if ideal.is_free { 0.0 } else { 1.0 };
    for (node, owned) in &owned {
        assert!(is_rounded(*owned, ideal.owned[node], beside), "{node} owns {owned} of {}", ideal.owned[node]);
    }
    assert_eq!(plan.next(candidates), None, "it would change itself");
}

/// The system shard keeps its owner, and as many replicas as any placement could that is as good for zones.
fn check_system_moves(plan: &Plan, before: &Plan, candidates: &[Candidate]) {
    let ideal = Ideal::new(candidates, 1, plan.replicas);
    let mut there = nodes_of(before, SYSTEM_SHARD);
    there.retain(|node| ideal.zone_of.contains_key(node));
    let owners = [before, plan].map(|plan| plan.owner_of(SYSTEM_SHARD).unwrap().node);
    assert!(owners[0] == owners[1] || !there.contains(&owners[0]), "{owners:?}");
    assert!(there.is_empty() || there.contains(&owners[1]), "another replica takes over");
    let copied = ideal.factor - ideal.keepable(&there);
    assert_eq!(plan.changes_since(before).system, copied, "{there:?} {:?}", nodes_of(plan, SYSTEM_SHARD));
}

/// Goes through the changes and checks every plan.
fn go_through(kind: Kind, (count, changes, shards, replicas, seed): Sequence) {
    let mut cluster = Cluster::new(kind, count, seed);
    let mut plan = begin(&cluster.nodes, shards, replicas);
    check(&plan, &cluster.nodes, shards, replicas);
    for change in changes {
        cluster.apply(&change);
        if let Some(next) = plan.next(&cluster.nodes) {
            assert_eq!(next.epoch, plan.epoch + 1);
            check_system_moves(&next, &plan, &cluster.nodes);
            plan = next;
        }
        check(&plan, &cluster.nodes, shards, replicas);
    }
}

/// How many nodes there are at first, what changes, how many shards and replicas, and a seed.
type Sequence = (usize, Vec<Change>, u16, u16, u64);

fn sequences(kind: Kind, nodes: usize, shards: u16) -> impl Strategy<Value = Sequence> {
    (1..nodes, changes(kind), 1..shards, prop_oneof![Just(1_u16), Just(3), Just(5)], any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn equal_nodes_hold_and_own_equally_many_within_one(
        count in 1_usize..40, shards in 1_u16..400, replicas in 1_u16..=5, joining in 0_usize..5, leaving in 0_usize..40,
        seed in any::<u64>(),
    ) {
        let mut cluster = Cluster::new(EQUAL, count + joining, seed);
        let first = Plan::first(&cluster.nodes[..count], shards, replicas);
        cluster.nodes.drain(..leaving.min(count - 1));
        let plans = [first.next(&cluster.nodes).unwrap_or_else(|| first.clone()), first];
        for plan in plans {
            let ideal = Ideal::new(&plan.members().iter().cloned().map(Candidate::from).collect::<Vec<_>>(), shards, replicas);
            let held = counts(&ideal, shards_of(&plan).flat_map(|shard| nodes_of(&plan, shard)));
            let owned = counts(&ideal, shards_of(&plan).map(|shard| plan.owner_of(shard).unwrap().node));
            for counts in [held, owned] {
                prop_assert!(counts.values().max().unwrap() - counts.values().min().unwrap() <= 1, "{:?}", counts);
            }
        }
    }

    #[test]
    fn every_plan_of_equal_nodes_keeps_every_promise(sequence in sequences(EQUAL, 20, 150)) {
        go_through(EQUAL, sequence);
    }

    #[test]
    fn every_plan_of_nodes_in_zones_keeps_every_promise(sequence in sequences(ZONED, 20, 150)) {
        go_through(ZONED, sequence);
    }

    #[test]
    fn every_plan_of_weighted_nodes_keeps_every_promise(sequence in sequences(WEIGHTED, 20, 150)) {
        go_through(WEIGHTED, sequence);
    }

    #[test]
    fn every_plan_of_weighted_nodes_in_zones_keeps_every_promise(sequence in sequences(MIXED, 20, 150)) {
        go_through(MIXED, sequence);
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(
        (count, changes, shards, replicas, seed) in sequences(MIXED, 20, 150), turn in any::<prop::sample::Index>(),
    ) {
        let mut cluster = Cluster::new(MIXED, count, seed);
        let first = Plan::first(&cluster.nodes, shards, replicas);
        changes.iter().for_each(|change| cluster.apply(change));
        let mut turned = cluster.nodes.clone();
        turned.rotate_left(turn.index(cluster.nodes.len()));
        turned.push(turned[0].clone());
        prop_assert_eq!(first.next(&cluster.nodes), first.next(&turned));
        prop_assert_eq!(Plan::first(&cluster.nodes, shards, replicas), Plan::first(&turned, shards, replicas));
    }
}

/// The same sequences each time, so that the sums are. Each plan is held against what the flow of the least cost, which may
/// choose among all plans that keep the first three promises, has to move: nodes that are equal and in no zones need not move
/// one replica more, and the others hardly any.
#[test]
fn hardly_more_moves_than_the_best_of_all_plans() {
    for (kind, excess_per_mille) in [(EQUAL, 0), (WEIGHTED, 2), (ZONED, 8), (MIXED, 8)] {
        let mut runner = TestRunner::deterministic();
        let (mut moved_in_all, mut best_in_all) = (0, 0);
        for _ in 0..60 {
            let (count, changes, shards, replicas, seed) =
                sequences(kind, 12, 40).new_tree(&mut runner).unwrap().current();
            let mut cluster = Cluster::new(kind, count, seed);
            let mut plan = Plan::first(&cluster.nodes, shards, replicas);
            for change in changes {
                cluster.apply(&change);
                let ideal = Ideal::new(&cluster.nodes, shards, replicas);
                let (least, best) = (ideal.least(&plan), best(&ideal, &plan));
                let next = plan.next(&cluster.nodes).unwrap_or_else(|| plan.clone());
                let moved = next.changes_since(&plan).replicas;
                assert!(least <= best && best <= moved, "{moved} moves, {best} at best, {least} necessary");
                moved_in_all += moved;
                best_in_all += best;
                plan = next;
            }
        }
        let limit = best_in_all + best_in_all * excess_per_mille / 1000;
        assert!(moved_in_all <= limit, "{kind:?}: {moved_in_all} moves, {best_in_all} at best");
    }
}

/// What the best of all plans after `before` moves: the cost of a flow from shards through zones to nodes, where a replica
/// that was there before costs nothing and any other costs 1.
fn best(ideal: &Ideal, before: &Plan) -> usize {
    // Worth more than all moves together, for what a node must get.
    const MUST: i64 = -1_000_000;
    let zones: Vec<&String> = ideal.sizes.keys().collect();
    let nodes: Vec<NodeId> = ideal.zone_of.keys().copied().collect();
    let shards = usize::from(before.shards());
    let low: usize = ideal.bounds.values().map(|(_, fewest)| fewest).sum();
    // The source, then of each shard itself, what is above the fewest of its zones, and its zones; the nodes; the sink.
    let of = |shard: usize| 1 + shard * (2 + zones.len());
    let (first_node, sink) = (of(shards), of(shards) + nodes.len());
    let mut flow = Flow { edges: Vec::new(), from: vec![Vec::new(); sink + 1] };
    for shard in 0..shards {
        let had = nodes_of(before, ShardId(shard as u16));
        flow.edge(0, of(shard), ideal.factor, 0);
        flow.edge(of(shard), of(shard) + 1, ideal.factor - low, 0);
        for (place, zone) in zones.iter().enumerate() {
            let (most, fewest) = ideal.bounds[*zone];
            flow.edge(of(shard), of(shard) + 2 + place, fewest, 0);
            flow.edge(of(shard) + 1, of(shard) + 2 + place, most - fewest, 0);
        }
        for (place, node) in nodes.iter().enumerate() {
            let zone = zones.iter().position(|zone| **zone == ideal.zone_of[node]).unwrap();
            flow.edge(of(shard) + 2 + zone, first_node + place, 1, i64::from(!had.contains(node)));
        }
    }
    for (place, node) in nodes.iter().enumerate() {
        let share = ideal.replicas[node];
        let (floor, ceil) = ((share + 1e-6).floor() as usize, (share - 1e-6).ceil() as usize);
        flow.edge(first_node + place, sink, floor, MUST);
        flow.edge(first_node + place, sink, ceil - floor, 0);
    }
    let mut cost = 0;
    while let Some(path) = flow.cheapest(sink) {
        cost += path;
    }
    cost.rem_euclid(-MUST) as usize
}

/// Successive cheapest paths, each for one replica.
struct Flow {
    /// Where to, how many more, at what cost; each is followed by its reverse.
    edges: Vec<(usize, usize, i64)>,
    from: Vec<Vec<usize>>,
}

impl Flow {
    fn edge(&mut self, from: usize, to: usize, capacity: usize, cost: i64) {
        self.from[from].push(self.edges.len());
        self.from[to].push(self.edges.len() + 1);
        self.edges.extend([(to, capacity, cost), (from, 0, -cost)]);
    }

    /// Sends one along the cheapest path from 0, and says what it costs (Bellman and Ford).
    fn cheapest(&mut self, sink: usize) -> Option<i64> {
        let mut best: Vec<Option<(i64, usize)>> = vec![None; self.from.len()];
        let mut open = VecDeque::from([0]);
        best[0] = Some((0, usize::MAX));
        while let Some(at) = open.pop_front() {
            let so_far = best[at]?.0;
            for &edge in &self.from[at] {
                let (to, capacity, cost) = self.edges[edge];
                if capacity > 0 && best[to].is_none_or(|(best, _)| so_far + cost < best) {
                    best[to] = Some((so_far + cost, edge));
                    if !open.contains(&to) {
                        open.push_back(to);
                    }
                }
            }
        }
        let (cost, mut edge) = best[sink]?;
        while edge != usize::MAX {
            self.edges[edge].1 -= 1;
            self.edges[edge ^ 1].1 += 1;
            edge = best[self.edges[edge ^ 1].0]?.1;
        }
        Some(cost)
    }
}

#[test]
fn owners_change_only_where_a_replica_goes_or_evenness_asks_for_it() {
    let mut nodes = candidates(6, 5);
    let first = begin(&nodes[..5], 100, 3);
    let joined = first.next(&nodes).unwrap();
    // 20 shards each before and 16 or 17 after: the new node takes over those, and nobody else gets any.
    let changes = joined.changes_since(&first);
    assert_eq!((changes.replicas, changes.owners), (50, 16));
    let left = nodes.remove(2).member.node;
    let next = joined.next(&nodes).unwrap();
    let owned = shards_of(&joined).filter(|shard| joined.owner_of(*shard).unwrap().node == left).count();
    let changes = next.changes_since(&joined);
    assert_eq!((changes.replicas, changes.owners), (50, owned));
}

#[test]
fn there_is_no_other_plan_without_need() {
    let mut nodes = candidates(5, 9);
    let plan = begin(&nodes, 64, 3);
    assert_eq!(plan.next(&nodes), None);
    assert_eq!(plan.next(&[]), None, "there is nobody to move to");
    assert_eq!(Plan::first(&[], 64, 3).next(&nodes), None, "there are no shards");
    // All shares stay the same.
    nodes.iter_mut().for_each(|node| node.weight = weight(7));
    assert_eq!(plan.next(&nodes), None);
    // Everybody should know where the node is now.
    "elsewhere:7400".clone_into(&mut nodes[3].member.address);
    let next = plan.next(&nodes).unwrap();
    assert_eq!((next.epoch, next.changes_since(&plan)), (plan.epoch + 1, Changes::default()));
}

#[test]
fn whoever_is_no_candidate_is_emptied_as_far_as_there_are_others() {
    let nodes = candidates(4, 2);
    let plan = Plan::first(&nodes, 64, 3);
    let two = plan.next(&nodes[..2]).unwrap();
    check(&two, &nodes[..2], 64, 3);
    assert!(shards_of(&two).all(|shard| nodes_of(&two, shard).len() == 2));
    assert!(two.hosted_by(nodes[2].member.node).is_empty());
    let others = two.next(&nodes[2..]).unwrap();
    check(&others, &nodes[2..], 64, 3);
    check(&others.next(&nodes).unwrap(), &nodes, 64, 3);
}

#[test]
fn zones_come_before_evenness() {
    let mut nodes = candidates(8, 4);
    let zones = ["a", "a", "a", "a", "b", "b", "b", "c"];
    nodes.iter_mut().zip(zones).for_each(|(node, zone)| node.zone = Some(zone.to_owned()));
    let plan = begin(&nodes, 60, 3);
    check(&plan, &nodes, 60, 3);
    let held: Vec<usize> = nodes.iter().map(|node| held(&plan, node)).collect();
    assert_eq!(held, [15, 15, 15, 15, 20, 20, 20, 60]);
    // Without the third zone its replicas go to the other two, which share each shard 2 to 1.
    check(&plan.next(&nodes[..7]).unwrap(), &nodes[..7], 60, 3);
}

#[test]
fn more_nodes_than_a_plan_takes_leave_out_those_that_came_last() {
    let nodes = candidates(MEMBERS_MAX + 5, 6);
    let plan = begin(&nodes[5..], 8, 3);
    assert_eq!(plan.next(&nodes), None);
    assert_eq!(Plan::first(&nodes, 8, 3).members().len(), MEMBERS_MAX);
}

#[test]
fn a_plan_of_nobody_has_no_shards() {
    assert_eq!(Plan::first(&[], 64, 3).shards(), 0);
    assert!(!Plan::default().is_sound());
}

#[test]
fn the_system_shard_is_spread_over_zones_when_they_are_known() {
    let mut nodes = candidates(5, 8);
    let first = Plan::first(&nodes, 8, 3);
    let names = ["a", "a", "a", "b", "c"];
    nodes.sort_by_key(|node| node.member.node);
    nodes.iter_mut().zip(names).for_each(|(node, zone)| node.zone = Some(zone.to_owned()));
    let next = first.next(&nodes).unwrap();
    let owner = nodes[0].member.node;
    assert_eq!(nodes_of(&next, SYSTEM_SHARD), [owner, nodes[3].member.node, nodes[4].member.node]);
    // Without the owner another replica takes over, and its zone has another node to replace it.
    let after = next.next(&nodes[1..]).unwrap();
    assert!(nodes[3..].iter().any(|node| after.owner_of(SYSTEM_SHARD) == Some(&node.member)));
    assert_eq!(after.changes_since(&next).system, 1);
    assert!(
        nodes_of(&after, SYSTEM_SHARD).iter().any(|node| nodes[1..3].iter().any(|other| other.member.node == *node))
    );
}

/// Owners must not follow each other around the ring: the shards of a node that fails should not all pass to one other.
#[test]
fn any_two_nodes_share_about_as_many_shards() {
    let nodes = candidates(6, 3);
    let first = Plan::first(&nodes[..5], 1000, 3);
    let replaced = first.next(&nodes[1..]).unwrap();
    for plan in [first, replaced] {
        let mut shared: BTreeMap<(NodeId, NodeId), usize> = BTreeMap::new();
        for shard in shards_of(&plan) {
            let owner = plan.owner_of(shard).unwrap().node;
            for other in plan.replicas_of(shard).skip(1) {
                *shared.entry((owner, other.node)).or_default() += 1;
            }
        }
        // 200 shards owned by each, two further replicas on the four others: 100 each on average.
        assert_eq!(shared.len(), 20);
        assert!(shared.values().all(|count| (50..150).contains(count)), "{shared:?}");
    }
}

#[test]
fn hosted_shards_are_those_that_name_the_node() {
    let plan = Plan::first(&candidates(4, 1), 8, 3);
    let hosted: Vec<ShardId> = plan.members().iter().flat_map(|member| plan.hosted_by(member.node)).collect();
    assert_eq!(hosted.len(), 24 + 4);
    assert_eq!(hosted.iter().filter(|shard| **shard == SYSTEM_SHARD).count(), 4, "all began it");
    assert!(plan.hosted_by(NodeId(0)).is_empty());
    assert_eq!(plan.replicas_of(ShardId(8)).count(), 0);
}

#[test]
fn the_largest_plan_fits_into_an_entity_and_comes_back() {
    let mut nodes = candidates(MEMBERS_MAX, 1);
    let address = format!("{}:65535", "h".repeat(253));
    nodes.iter_mut().for_each(|node| node.member.address.clone_from(&address));
    let plan = Plan::first(&nodes, 16_384, 5);
    let json = serde_json::to_vec(&plan).unwrap();
    assert!(json.len() < 700_000 && json.len() < STATE_BYTES_MAX, "{} bytes", json.len());
    assert_eq!(serde_json::from_slice::<Plan>(&json).unwrap(), plan);
    check(&plan.next(&nodes).unwrap(), &nodes, 16_384, 5);
}
