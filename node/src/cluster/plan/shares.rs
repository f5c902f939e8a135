//! How many replicas each node should hold: its share by weight as far as zones allow, in whole replicas. Pure, and exact: all
//! arithmetic is on integers and fractions of them.

use std::cmp::{Ordering, Reverse};

/// Nodes that may fail together, and how many replicas of one shard they may hold.
#[derive(Debug)]
pub(super) struct Zone {
    /// Never empty.
    pub(super) nodes: Vec<usize>,
    /// Every shard has this many replicas in the zone.
    pub(super) low: usize,
    /// And at most this many. Invariant: `low` or one more.
    pub(super) high: usize,
}

/// What a node brings to its share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) weight: u32,
    /// How many replicas it has of the plan before.
    pub(super) held: usize,
    /// Decides between nodes that are alike.
    pub(super) tie: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// Its share, rounded down.
    pub(super) floor: usize,
    /// How many replicas it gets: the share rounded down or up.
    pub(super) replicas: usize,
}

/// How many replicas a unit of weight gets, as a fraction.
#[derive(Clone, Copy, Debug)]
struct Level {
    over: u128,
    under: u128,
}

/// Sets how many replicas of a shard may be in each zone: as even over zones as their sizes allow, which is as many different
/// zones as there can be and as few replicas in one zone as there can be. `factor` is at most the number of nodes.
pub(super) fn bound(zones: &mut [Zone], factor: usize) {
    let capacity = |zones: &[Zone], most: usize| zones.iter().map(|zone| zone.nodes.len().min(most)).sum::<usize>();
    let most = (1..factor).find(|most| capacity(zones, *most) >= factor).unwrap_or(factor);
    for zone in zones {
        zone.high = zone.nodes.len().min(most);
        zone.low = zone.nodes.len().min(most - 1);
    }
}

/// How many replicas each node gets, of `shards` times `factor`.
///
/// Shares are proportional to weight, except that nobody holds a shard twice, and that a zone gets neither less nor more than
/// its bounds: the nodes at a bound share what it gives them, by weight, and all others share the rest, by weight. A node gets
/// its share rounded down or up, and so does a zone; those round up that lose a replica otherwise.
pub(super) fn quotas(zones: &[Zone], claims: &[Claim], shards: usize, factor: usize) -> Vec<Quota> {
    let zones: Vec<Bounded<'_>> = zones.iter().map(|zone| Bounded::new(zone, claims, shards)).collect();
    let level = common_level(&zones, claims, shards, factor);
    let mut quotas = vec![Quota { floor: 0, replicas: 0 }; claims.len()];
    let mut round_up_too = Vec::new();
    let mut given = 0;
    for zone in &zones {
        let level = level.max(zone.lowest).min(zone.highest);
        let mut fractions = Vec::new();
        for &node in &zone.zone.nodes {
            let (floor, rest) = level.of(claims[node].weight, shards);
            quotas[node] = Quota { floor, replicas: floor };
            if rest {
                fractions.push(node);
            }
        }
        let parts = level.sum(&zone.weights, shards);
        let (whole, rest) = ((parts / level.under) as usize, parts % level.under > 0);
        let floors: usize = zone.zone.nodes.iter().map(|node| quotas[*node].floor).sum();
        fractions.sort_unstable_by_key(|node| rank(&claims[*node], &quotas[*node]));
        let must = whole - floors;
        fractions[..must].iter().for_each(|node| quotas[*node].replicas += 1);
        if rest {
            round_up_too.push(fractions[must]);
        }
        given += whole;
    }
    round_up_too.sort_unstable_by_key(|node| rank(&claims[*node], &quotas[*node]));
    round_up_too[..shards * factor - given].iter().for_each(|node| quotas[*node].replicas += 1);
    quotas
}

/// Who is rounded up first: those that hold more than their floor already.
fn rank(claim: &Claim, quota: &Quota) -> impl Ord + use<> {
    Reverse((claim.held > quota.floor, claim.tie))
}

/// A zone, and between which levels its bounds keep it.
struct Bounded<'a> {
    zone: &'a Zone,
    /// Descending.
    weights: Vec<u32>,
    lowest: Level,
    highest: Level,
}

impl<'a> Bounded<'a> {
    fn new(zone: &'a Zone, claims: &[Claim], shards: usize) -> Self {
        let mut weights: Vec<u32> = zone.nodes.iter().map(|node| claims[*node].weight).collect();
        weights.sort_unstable_by_key(|weight| Reverse(*weight));
        let lowest = Level::reaching(&weights, zone.low * shards, shards);
        let highest = Level::reaching(&weights, zone.high * shards, shards);
        Self { zone, weights, lowest, highest }
    }
}

impl Level {
    const ZERO: Self = Self { over: 0, under: 1 };

    /// The level at which nodes of these weights, descending, hold `replicas` together. Each holds at most `shards`.
    fn reaching(weights: &[u32], replicas: usize, shards: usize) -> Self {
        let mut over = replicas as u128;
        let mut under: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        for weight in weights.iter().map(|weight| u128::from(*weight)) {
            if weight * over < shards as u128 * under {
                return Self { over, under };
            }
            if weight == under {
                // Everybody holds everything.
                return Self { over: shards as u128, under: weight };
            }
            over -= shards as u128;
            under -= weight;
        }
        Self::ZERO
    }

    /// What a node of this weight holds: whole replicas, and whether there is a fraction besides.
    fn of(self, weight: u32, shards: usize) -> (usize, bool) {
        let parts = self.parts(weight, shards);
        ((parts / self.under) as usize, !parts.is_multiple_of(self.under))
    }

    fn sum(self, weights: &[u32], shards: usize) -> u128 {
        weights.iter().map(|weight| self.parts(*weight, shards)).sum()
    }

    /// In parts of a replica, of which `under` are one.
    fn parts(self, weight: u32, shards: usize) -> u128 {
        (self.over * u128::from(weight)).min(shards as u128 * self.under)
    }
}

impl Ord for Level {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.over * other.under).cmp(&(other.over * self.under))
    }
}

impl PartialOrd for Level {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Level {}

/// The level of all zones that are not at a bound.
///
/// What all hold together grows with the level in straight pieces. Between two of the levels at which a zone or a node comes
/// to a bound, it is the sum of those at a bound, which is a whole number, and the level times the weight of the others.
fn common_level(zones: &[Bounded<'_>], claims: &[Claim], shards: usize, factor: usize) -> Level {
    let at_bounds = zones.iter().flat_map(|zone| [zone.lowest, zone.highest]);
    let full = claims.iter().map(|claim| Level { over: shards as u128, under: u128::from(claim.weight) });
    let mut bends: Vec<Level> = at_bounds.chain(full).chain([Level::ZERO]).collect();
    bends.sort_unstable();
    let wanted = (shards * factor) as u128;
    let piece = bends.partition_point(|level| {
        let (fixed, free) = held_at(zones, *level, shards);
        fixed * level.under + level.over * free <= wanted * level.under
    });
    let level = bends[piece.saturating_sub(1)];
    match held_at(zones, level, shards) {
        (_, 0) => level,
        (fixed, free) => Level { over: wanted - fixed, under: free },
    }
}

/// What those at a bound hold at this level, and the weight of the others.
fn held_at(zones: &[Bounded<'_>], level: Level, shards: usize) -> (u128, u128) {
    let (mut fixed, mut free) = (0, 0);
    for zone in zones {
        if level < zone.lowest {
            fixed += (zone.zone.low * shards) as u128;
        } else if level >= zone.highest {
            fixed += (zone.zone.high * shards) as u128;
        } else {
            for weight in zone.weights.iter().map(|weight| u128::from(*weight)) {
                match weight * level.over >= shards as u128 * level.under {
                    true => fixed += shards as u128,
                    false => free += weight,
                }
            }
        }
    }
    (fixed, free)
}
