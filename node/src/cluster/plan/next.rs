//! Where the replicas of the next plan are, from where they were and who the members are now. Pure: no clock, randomness, I/O
//! or async, and the same wherever it is computed. [`super::Plan::next`] says what holds of the result.
//!
//! # How
//!
//! [`shares`] says how many replicas each node gets. What was is kept, except for what the bounds of zones forbid. Then replicas
//! are given directly: those that are missing to nodes that have room, and those that a node has too many to such nodes as
//! well, where the choice of the shard is free. What cannot be given directly, because the nodes with room hold the shard
//! already or are in its zones, is given along a chain: one node takes it and passes another shard on, until one with room is
//! reached. Chains that pass on what moves anyway are preferred.
//!
//! Chains are sought twice, and each time there is one for every missing replica. Between zones: a flow whose capacities are
//! the bounds and the totals of the zones, and the shares themselves, spread evenly over the shards, are a fractional solution
//! of it, so that a whole one exists, which augmenting paths find (Ford and Fulkerson 1956). Then among the nodes of one zone,
//! where the shards have `low` or `low + 1` replicas each: no node is to hold more than all shards once, and as row sums that
//! differ by at most one are majorized by all others, the condition of Gale and Ryser (1957) holds.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use berth_shared::ids::NodeId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::chain::{self, Columns, Unreached};
use super::shares::{self, Claim, Quota, Zone};
use super::{Candidate, owners};

/// A shard of the plan before, as places among the candidates; replicas on other nodes are gone.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) replicas: Vec<usize>,
    pub(super) owner: Option<usize>,
}

/// The replicas of every shard, as places among the candidates, the owner first and the others ascending. The candidates are
/// ascending by id and not none, and `replicas` is not 0.
pub(super) fn place(candidates: &[Candidate], before: &[Before], replicas: usize) -> Vec<Vec<usize>> {
    let mut placing = Placing::new(candidates, before, replicas.min(candidates.len()));
    placing.drop_what_zones_forbid();
    placing.give_missing();
    placing.relieve();
    placing.give_missing();
    placing.spread_over_zones();
    placing.spread_within_zones();
    let rows = placing.rows.into_iter().map(|row| row.into_iter().map(|replica| replica.node).collect()).collect();
    let weights: Vec<u32> = candidates.iter().map(|candidate| candidate.weight.get()).collect();
    owners::choose(rows, before, &weights, |node, shard| affinity(candidates[node].member.node, shard))
}

/// The rendezvous weight of a node for a shard.
pub(super) fn affinity(node: NodeId, shard: usize) -> u64 {
    xxh3_64_with_seed(&node.0.to_le_bytes(), shard as u64)
}

#[derive(Clone, Copy, Debug)]
struct Replica {
    node: usize,
    is_new: bool,
}

struct Placing<'a> {
    before: &'a [Before],
    ids: Vec<NodeId>,
    factor: usize,
    zones: Vec<Zone>,
    /// Of each node.
    zone_of: Vec<usize>,
    quotas: Vec<Quota>,
    /// How many replicas of a shard may be above the `low` of their zones.
    above_low_max: usize,
    /// Of each shard.
    rows: Vec<Vec<Replica>>,
    /// Of each shard, the zones that are to give it one more replica. Empty until chains between zones are sought.
    promised: Vec<Vec<usize>>,
    /// Of each node, the shards that it holds.
    ///
    /// Invariant: the same as `rows`.
    holds: Vec<Vec<usize>>,
}

impl<'a> Placing<'a> {
    fn new(candidates: &[Candidate], before: &'a [Before], factor: usize) -> Self {
        let (mut zones, zone_of) = zones(candidates);
        shares::bound(&mut zones, factor);
        let mut holds = vec![Vec::new(); candidates.len()];
        let mut rows = Vec::with_capacity(before.len());
        for (shard, before) in before.iter().enumerate() {
            before.replicas.iter().for_each(|node| holds[*node].push(shard));
            rows.push(before.replicas.iter().map(|node| Replica { node: *node, is_new: false }).collect());
        }
        let ids: Vec<NodeId> = candidates.iter().map(|candidate| candidate.member.node).collect();
        let claim = |(node, candidate): (usize, &Candidate)| Claim {
            weight: candidate.weight.get(),
            held: holds[node].len(),
            tie: affinity(ids[node], usize::MAX),
        };
        let claims: Vec<Claim> = candidates.iter().enumerate().map(claim).collect();
        let quotas = shares::quotas(&zones, &claims, before.len(), factor);
        let above_low_max = factor - zones.iter().map(|zone| zone.low).sum::<usize>();
        let promised = vec![Vec::new(); before.len()];
        Self { before, ids, factor, zones, zone_of, quotas, above_low_max, rows, promised, holds }
    }

    fn drop_what_zones_forbid(&mut self) {
        for shard in 0..self.rows.len() {
            while let Some(node) = self.forbidden(shard) {
                self.remove(shard, node);
            }
        }
    }

    /// A replica of the shard that the bounds of zones do not leave to it: the one whose node has the most too many.
    fn forbidden(&self, shard: usize) -> Option<usize> {
        let tally = self.tally(shard, None);
        let excess = |node: usize| self.holds[node].len().cast_signed() - self.quotas[node].replicas.cast_signed();
        let why = |node: usize| {
            let (zone, count) = (&self.zones[self.zone_of[node]], tally.count(self.zone_of[node]));
            (count > zone.high, count > zone.low && tally.above_low > self.above_low_max)
        };
        let places = self.rows[shard].iter().map(|replica| replica.node).filter(|node| why(*node) != (false, false));
        places.max_by_key(|node| (why(*node), excess(*node), self.loss(shard, *node)))
    }

    /// How little it matters that this node loses this shard: an owner should stay, and then the one that ranks higher.
    fn loss(&self, shard: usize, node: usize) -> impl Ord + use<> {
        (self.before[shard].owner != Some(node), Reverse(affinity(self.ids[node], shard)))
    }

    /// Gives missing replicas to nodes that may have them: the emptiest first, and of those the one that ranks highest.
    fn give_missing(&mut self) {
        let mut open = self.nodes_with_room();
        for shard in 0..self.rows.len() {
            while self.rows[shard].len() < self.factor {
                let tally = self.tally(shard, None);
                let fits = |node: &&usize| !self.has(shard, **node) && self.admits(&tally, self.zone_of[**node]);
                let best = |nodes: &Vec<usize>| {
                    nodes.iter().filter(fits).copied().max_by_key(|node| affinity(self.ids[*node], shard))
                };
                let Some(node) = open.values().find_map(best) else { break };
                self.take_room(&mut open, node, |placing| placing.add(shard, node));
            }
        }
    }

    /// Has nodes that hold too much pass it to nodes with room, the emptiest first, or drop it.
    fn relieve(&mut self) {
        let mut open = self.nodes_with_room();
        for from in 0..self.holds.len() {
            if self.holds[from].len() <= self.quotas[from].replicas {
                continue;
            }
            let shards = self.least_needed_first(from);
            // What one node could not take it cannot take later either.
            let mut tried = vec![0; self.holds.len()];
            while self.holds[from].len() > self.quotas[from].replicas {
                let passable =
                    |to: &usize| self.passable(from, *to, &shards, &mut tried[*to]).map(|shard| (shard, *to));
                let Some((shard, to)) = open.values().flatten().find_map(passable) else { break };
                self.take_room(&mut open, to, |placing| {
                    placing.remove(shard, from);
                    placing.add(shard, to);
                });
            }
            let too_many = self.holds[from].len() - self.quotas[from].replicas;
            let held: Vec<usize> = shards.into_iter().filter(|shard| self.has(*shard, from)).take(too_many).collect();
            held.into_iter().for_each(|shard| self.remove(shard, from));
        }
    }

    /// What a node holds, beginning with shards of which nothing moves yet and that it does not own.
    fn least_needed_first(&self, node: usize) -> Vec<usize> {
        let moves = |shard: usize| self.rows[shard].iter().filter(|replica| replica.is_new).count();
        let is_missing = |shard: usize| self.rows[shard].len() < self.factor;
        let mut shards = self.holds[node].clone();
        shards
            .sort_by_cached_key(|shard| (is_missing(*shard), moves(*shard), Reverse(self.loss(*shard, node)), *shard));
        shards
    }

    /// The next of these shards that `from` still holds and can pass to `to`.
    fn passable(&self, from: usize, to: usize, shards: &[usize], tried: &mut usize) -> Option<usize> {
        let (leaving, zone) = (Some(self.zone_of[from]), self.zone_of[to]);
        let fits = |shard: &usize| {
            self.has(*shard, from) && !self.has(*shard, to) && self.admits(&self.tally(*shard, leaving), zone)
        };
        let next = shards[*tried..].iter().position(fits);
        *tried = next.map_or(shards.len(), |next| *tried + next + 1);
        next.map(|_| shards[*tried - 1])
    }

    /// Nodes that hold less than they should, by how full they are.
    fn nodes_with_room(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for node in (0..self.holds.len()).filter(|node| self.has_room(*node)) {
            open.entry(self.fullness(node)).or_default().push(node);
        }
        open
    }

    fn take_room(&mut self, open: &mut BTreeMap<usize, Vec<usize>>, node: usize, take: impl FnOnce(&mut Self)) {
        let fullness = self.fullness(node);
        if let Some(nodes) = open.get_mut(&fullness) {
            nodes.retain(|other| *other != node);
            if nodes.is_empty() {
                open.remove(&fullness);
            }
        }
        take(self);
        if self.has_room(node) {
            open.entry(self.fullness(node)).or_default().push(node);
        }
    }

    /// Which part of its share a node holds. Of the share rounded down, which is equal for equal nodes, so that those that are
    /// rounded up do not go first together.
    fn fullness(&self, node: usize) -> usize {
        (self.holds[node].len() << 20) / self.quotas[node].floor.max(1)
    }

    fn has_room(&self, node: usize) -> bool {
        self.holds[node].len() < self.quotas[node].replicas
    }

    /// Has zones promise what is still missing, passing other shards on among zones.
    fn spread_over_zones(&mut self) {
        for shard in 0..self.rows.len() {
            while self.rows[shard].len() + self.promised[shard].len() < self.factor {
                let Some(chain) = chain::find(&Zones::new(self, shard)) else {
                    debug_assert!(false, "the shares are a fractional solution");
                    break;
                };
                self.promised[shard].push(chain.first);
                for step in chain.steps {
                    self.leave_zone(step.shard, step.from);
                    self.promised[step.shard].push(step.to);
                }
            }
        }
    }

    fn leave_zone(&mut self, shard: usize, zone: usize) {
        if let Some(promise) = self.promised[shard].iter().position(|promised| *promised == zone) {
            self.promised[shard].swap_remove(promise);
            return;
        }
        let here = self.rows[shard].iter().filter(|replica| self.zone_of[replica.node] == zone);
        let leaving = here.max_by_key(|replica| (replica.is_new, self.loss(shard, replica.node)));
        if let Some(node) = leaving.map(|replica| replica.node) {
            self.remove(shard, node);
        }
    }

    /// Keeps the promises of zones, passing other shards on among the nodes of the zone.
    fn spread_within_zones(&mut self) {
        for shard in 0..self.rows.len() {
            while let Some(zone) = self.promised[shard].pop() {
                let Some(chain) = chain::find(&Nodes { placing: self, shard, zone }) else {
                    debug_assert!(false, "the condition of Gale and Ryser holds");
                    continue;
                };
                for step in &chain.steps {
                    self.remove(step.shard, step.from);
                }
                for step in &chain.steps {
                    self.add(step.shard, step.to);
                }
                self.add(shard, chain.first);
            }
        }
    }

    fn add(&mut self, shard: usize, node: usize) {
        let is_new = !self.before[shard].replicas.contains(&node);
        self.rows[shard].push(Replica { node, is_new });
        self.holds[node].push(shard);
    }

    fn remove(&mut self, shard: usize, node: usize) {
        self.rows[shard].retain(|replica| replica.node != node);
        self.holds[node].retain(|held| *held != shard);
    }

    fn has(&self, shard: usize, node: usize) -> bool {
        self.rows[shard].iter().any(|replica| replica.node == node)
    }

    /// The zones that the shard's replicas are in or promised by, without one of those in `leaving`.
    fn tally(&self, shard: usize, leaving: Option<usize>) -> Tally {
        let mut tally = Tally { zones: Vec::with_capacity(self.factor), above_low: 0 };
        let mut leaving = leaving;
        let zones = self.rows[shard].iter().map(|replica| self.zone_of[replica.node]);
        for zone in zones.chain(self.promised[shard].iter().copied()) {
            if leaving == Some(zone) {
                leaving = None;
                continue;
            }
            tally.above_low += usize::from(tally.count(zone) >= self.zones[zone].low);
            tally.zones.push(zone);
        }
        tally
    }

    /// Whether a shard with these replicas may have one more in `zone`.
    fn admits(&self, tally: &Tally, zone: usize) -> bool {
        let (count, Zone { low, high, .. }) = (tally.count(zone), &self.zones[zone]);
        count < *low || (count < *high && tally.above_low < self.above_low_max)
    }
}

/// The zones of a shard's replicas.
struct Tally {
    zones: Vec<usize>,
    /// How many of them are above the `low` of their zones.
    above_low: usize,
}

impl Tally {
    fn count(&self, zone: usize) -> usize {
        self.zones.iter().filter(|other| **other == zone).count()
    }
}

/// The zones, and that of each candidate. One without a zone is a zone by itself: nothing is known that it would share.
pub(super) fn zones(candidates: &[Candidate]) -> (Vec<Zone>, Vec<usize>) {
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    let mut zones: Vec<Zone> = Vec::new();
    let mut zone_of = Vec::with_capacity(candidates.len());
    for (node, candidate) in candidates.iter().enumerate() {
        let fresh = zones.len();
        let zone = candidate.zone.as_deref().map_or(fresh, |name| *named.entry(name).or_insert(fresh));
        if zone == fresh {
            zones.push(Zone { nodes: Vec::new(), low: 0, high: 0 });
        }
        zones[zone].nodes.push(node);
        zone_of.push(zone);
    }
    (zones, zone_of)
}

/// A shard seeks a zone, and shards change zones.
struct Zones<'a> {
    placing: &'a Placing<'a>,
    shard: usize,
    /// Of each zone, the shards that it has promised a replica.
    promises: Vec<Vec<usize>>,
}

impl<'a> Zones<'a> {
    fn new(placing: &'a Placing<'a>, shard: usize) -> Self {
        let mut promises = vec![Vec::new(); placing.zones.len()];
        for (shard, zones) in placing.promised.iter().enumerate() {
            zones.iter().for_each(|zone| promises[*zone].push(shard));
        }
        Self { placing, shard, promises }
    }

    fn sum(&self, zone: usize, of: impl Fn(usize) -> usize) -> usize {
        self.placing.zones[zone].nodes.iter().map(|node| of(*node)).sum()
    }
}

impl Columns for Zones<'_> {
    fn count(&self) -> usize {
        self.placing.zones.len()
    }

    fn starts(&self) -> Vec<usize> {
        let tally = self.placing.tally(self.shard, None);
        (0..self.count()).filter(|zone| self.placing.admits(&tally, *zone)).collect()
    }

    fn is_end(&self, zone: usize) -> bool {
        let held = self.sum(zone, |node| self.placing.holds[node].len()) + self.promises[zone].len();
        held < self.sum(zone, |node| self.placing.quotas[node].replicas)
    }

    fn shards(&self, zone: usize, freely: bool) -> Vec<usize> {
        let placing = self.placing;
        let moves = |shard: usize| {
            let mut here = placing.rows[shard].iter().filter(|replica| placing.zone_of[replica.node] == zone);
            here.any(|replica| replica.is_new) || placing.promised[shard].contains(&zone)
        };
        let held = placing.zones[zone].nodes.iter().flat_map(|node| placing.holds[*node].iter().copied());
        held.chain(self.promises[zone].iter().copied()).filter(|shard| moves(*shard) == freely).collect()
    }

    fn targets(&self, shard: usize, from: usize, unreached: &Unreached) -> Vec<usize> {
        let tally = self.placing.tally(shard, Some(from));
        unreached.iter().filter(|to| *to != from && self.placing.admits(&tally, *to)).collect()
    }
}

/// A shard seeks a node of a zone, and shards change nodes within the zone.
struct Nodes<'a> {
    placing: &'a Placing<'a>,
    shard: usize,
    zone: usize,
}

impl Columns for Nodes<'_> {
    fn count(&self) -> usize {
        self.placing.holds.len()
    }

    fn starts(&self) -> Vec<usize> {
        let nodes = self.placing.zones[self.zone].nodes.iter().copied();
        nodes.filter(|node| !self.placing.has(self.shard, *node)).collect()
    }

    fn is_end(&self, node: usize) -> bool {
        self.placing.has_room(node)
    }

    fn shards(&self, node: usize, freely: bool) -> Vec<usize> {
        let is_new =
            |shard: usize| self.placing.rows[shard].iter().any(|replica| replica.node == node && replica.is_new);
        self.placing.holds[node].iter().copied().filter(|shard| is_new(*shard) == freely).collect()
    }

    fn targets(&self, shard: usize, _: usize, unreached: &Unreached) -> Vec<usize> {
        let nodes = self.placing.zones[self.zone].nodes.iter().copied();
        nodes.filter(|to| unreached.contains(*to) && !self.placing.has(shard, *to)).collect()
    }
}
