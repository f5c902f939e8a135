//! Plans a large cluster through what happens to clusters, and shows how long each plan took, how even it is, and how much it
//! moves beside the least that any plan as even would have to move. That measure is right where zones leave all nodes equal
//! shares: with no zones, or with more of them, also after the loss of one, than replicas.
//!
//! `cargo run --release -p berth-node --example plan_simulation [nodes] [shards] [zones] [replicas]`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use berth_node::cluster::plan::{Candidate, Changes, Plan};
use berth_shared::ids::{NodeId, ShardId};
use berth_shared::report::Member;
use berth_shared::seam::random::SeededRandom;
use berth_shared::seam::{Random, Seams};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u16| arguments.next().map_or(Ok(otherwise), |text| text.parse());
    let (nodes, shards, zones, replicas) = (number(1000)?, number(16_384)?, number(5)?, number(3)?);
    println!("{nodes} nodes in {zones} zones, {shards} shards, {replicas} replicas of each\n");
    println!("{TITLE}");
    let mut simulation = Simulation::new(shards, zones, replicas);
    simulation.run(nodes, |step| println!("{step}"));
    Ok(())
}

const TITLE: &str = "what happens         plans  slowest replicas/node owners/node in one zone  moved  least  owners";

/// A cluster of equal nodes, spread evenly over zones.
struct Simulation {
    seams: Seams,
    random: SeededRandom,
    shards: u16,
    zones: u16,
    replicas: u16,
    nodes: Vec<Candidate>,
    joined: u16,
    plan: Option<Plan>,
}

/// One line of the table: one plan, or the sum of several.
#[derive(Default)]
struct Step {
    what: &'static str,
    plans: usize,
    slowest: Duration,
    /// The fewest and the most of a node.
    held: (usize, usize),
    owned: (usize, usize),
    /// The most replicas of a shard in one zone.
    in_zone: usize,
    changes: Changes,
    least: usize,
}

impl Simulation {
    fn new(shards: u16, zones: u16, replicas: u16) -> Self {
        let (seams, random) = (Seams::system(), SeededRandom::new(1));
        Self { seams, random, shards, zones, replicas, nodes: Vec::new(), joined: 0, plan: None }
    }

    fn run(&mut self, nodes: u16, mut show: impl FnMut(&Step)) {
        (0..nodes).for_each(|_| self.join());
        show(&self.step("the first plan", |_, _| {}, 1));
        show(&self.step("a node leaves", |cluster, _| cluster.leave(), 1));
        show(&self.step("a node joins", |cluster, _| cluster.join(), 1));
        let tenth = nodes.div_ceil(10);
        show(&self.step("a tenth leaves", |cluster, _| (0..tenth).for_each(|_| cluster.leave()), 1));
        // A new node first, in the zone of the old one, as a rollout does it.
        let replace = |cluster: &mut Self, turn: usize| match turn.is_multiple_of(2) {
            true => {
                let zone = cluster.nodes[0].zone.clone();
                cluster.join();
                cluster.nodes.last_mut().expect("one has joined").zone = zone;
            }
            false => drop(cluster.nodes.remove(0)),
        };
        show(&self.step("a tenth is replaced", replace, 2 * usize::from(tenth)));
        show(&self.step("a tenth joins", |cluster, _| (0..tenth).for_each(|_| cluster.join()), 1));
        if self.zones == 0 {
            return;
        }
        show(&self.step("a zone goes", |cluster, _| cluster.lose_zone("zone-0"), 1));
        let zone = nodes - self.nodes.len() as u16;
        let return_of = move |cluster: &mut Self, _| (0..zone).for_each(|_| cluster.join_in(0));
        show(&self.step("the zone comes back", return_of, 1));
    }

    fn join(&mut self) {
        self.join_in(self.joined % self.zones.max(1));
    }

    fn join_in(&mut self, zone: u16) {
        self.joined += 1;
        let node = NodeId(self.random.next_u64());
        let mut candidate = Candidate::from(Member { node, address: format!("{node}:7400") });
        candidate.zone = (self.zones > 0).then(|| format!("zone-{zone}"));
        self.nodes.push(candidate);
    }

    fn leave(&mut self) {
        let place = self.random.next_u64() % self.nodes.len() as u64;
        self.nodes.remove(place as usize);
    }

    fn lose_zone(&mut self, zone: &str) {
        self.nodes.retain(|node| node.zone.as_deref() != Some(zone));
    }

    /// Plans after each of `count` changes.
    fn step(&mut self, what: &'static str, mut change: impl FnMut(&mut Self, usize), count: usize) -> Step {
        let mut step = Step { what, ..Step::default() };
        for turn in 0..count {
            change(self, turn);
            let start = self.seams.clock.now();
            let next = match &self.plan {
                Some(plan) => plan.next(&self.nodes),
                None => Some(Plan::first(&self.nodes, self.shards, self.replicas)),
            };
            step.slowest = step.slowest.max(self.seams.clock.now().since(start));
            let Some(next) = next else { continue };
            let before = self.plan.take().unwrap_or_default();
            let changes = next.changes_since(&before);
            step.plans += 1;
            step.changes.replicas += changes.replicas;
            step.changes.owners += changes.owners;
            step.least += self.least(&before);
            self.measure(&next, &mut step);
            self.plan = Some(next);
        }
        step
    }

    fn measure(&self, plan: &Plan, step: &mut Step) {
        let shards = || (0..plan.shards()).map(ShardId);
        let nodes = |shard| plan.replicas_of(shard).map(|member| member.node);
        step.held = self.extremes(shards().flat_map(nodes));
        step.owned = self.extremes(shards().filter_map(|shard| nodes(shard).next()));
        let zone_of: BTreeMap<NodeId, &str> =
            self.nodes.iter().filter_map(|node| Some((node.member.node, node.zone.as_deref()?))).collect();
        let most = |shard| {
            let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
            nodes(shard).filter_map(|node| zone_of.get(&node)).for_each(|zone| *zones.entry(zone).or_default() += 1);
            zones.into_values().max().unwrap_or(1)
        };
        step.in_zone = shards().map(most).max().unwrap_or_default();
    }

    /// The fewest and the most of any node.
    fn extremes(&self, nodes: impl Iterator<Item = NodeId>) -> (usize, usize) {
        let counts = self.counts(nodes);
        (counts.values().copied().min().unwrap_or_default(), counts.values().copied().max().unwrap_or_default())
    }

    fn counts(&self, nodes: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, usize> {
        let mut counts: BTreeMap<NodeId, usize> = self.nodes.iter().map(|node| (node.member.node, 0)).collect();
        for node in nodes {
            if let Some(count) = counts.get_mut(&node) {
                *count += 1;
            }
        }
        counts
    }

    /// The fewest moves of any plan that is even within one: those of the replicas that no node may keep.
    fn least(&self, before: &Plan) -> usize {
        let (all, nodes) = (usize::from(self.shards) * usize::from(self.replicas), self.nodes.len());
        let (floor, rounded_up) = (all / nodes, all % nodes);
        let held = self.counts((0..before.shards()).map(ShardId).flat_map(|shard| {
            let nodes: Vec<NodeId> = before.replicas_of(shard).map(|member| member.node).collect();
            nodes
        }));
        let above = held.values().filter(|held| **held > floor).count();
        all - held.values().map(|held| floor.min(*held)).sum::<usize>() - above.min(rounded_up)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, plans, slowest, held, owned, in_zone, changes, least } = self;
        let (held, owned) = (format!("{}–{}", held.0, held.1), format!("{}–{}", owned.0, owned.1));
        let (milliseconds, moved, owners) = (slowest.as_millis(), changes.replicas, changes.owners);
        write!(f, "{what:<20} {plans:>5} {milliseconds:>5} ms {held:>13} {owned:>11} {in_zone:>11}")?;
        write!(f, " {moved:>6} {least:>6} {owners:>7}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cluster_stays_even_and_moves_little() {
        for zones in [0, 5] {
            let mut simulation = Simulation::new(512, zones, 3);
            simulation.run(30, |step| {
                assert!(step.held.1 - step.held.0 <= 1 && step.owned.1 - step.owned.0 <= 1, "{zones} zones: {step}");
                assert!(step.changes.replicas >= step.least, "{zones} zones: {step}");
                assert!(step.changes.replicas <= step.least + step.least / 20, "{zones} zones: {step}");
            });
        }
    }
}
