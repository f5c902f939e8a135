//! Which of its replicas owns each shard: as even as the replicas allow, and otherwise who owned it before. Pure.
//!
//! A node should own its share by weight, rounded down or up. Being over or under costs the square of the difference, which
//! grows by [`Balance::rise`] and falls by [`Balance::fall`] with a shard more or less. As long as there is a chain of shards,
//! each owned by a node that shares it with the next, from a node that would save more than the last would cost, ownership is
//! passed along it. Costs that are convex are the least when there is no such chain.

use std::cmp::Reverse;

use super::chain::{self, Columns, Unreached};
use super::next::Before;

/// The rows with the owners first and the others ascending. `affinity` is the rendezvous weight of a node for a shard.
pub(super) fn choose(
    mut rows: Vec<Vec<usize>>,
    before: &[Before],
    weights: &[u32],
    affinity: impl Fn(usize, usize) -> u64,
) -> Vec<Vec<usize>> {
    let mut balance = Balance::new(&rows, before, weights);
    for shard in 0..rows.len() {
        let kept = before[shard].owner.filter(|owner| rows[shard].contains(owner));
        if let Some(owner) = kept {
            balance.pass(shard, None, owner);
        }
    }
    for shard in (0..rows.len()).filter(|shard| before[*shard].owner.is_none_or(|owner| !rows[*shard].contains(&owner)))
    {
        // A replica that has the data can take over at once.
        let is_new = |node: &usize| !before[shard].replicas.contains(node);
        let rank = |node: &&usize| (balance.rise(**node), is_new(node), Reverse(affinity(**node, shard)));
        if let Some(owner) = rows[shard].iter().min_by_key(rank).copied() {
            balance.pass(shard, None, owner);
        }
    }
    balance.even_out();
    for (node, shards) in balance.owned.iter().enumerate() {
        for shard in shards {
            rows[*shard].sort_unstable_by_key(|replica| (*replica != node, *replica));
        }
    }
    rows
}

/// Who owns what.
struct Balance<'a> {
    /// Sorted, as the owner does not come first yet.
    rows: Vec<Vec<usize>>,
    before: &'a [Before],
    /// The share of each node, rounded down and up.
    shares: Vec<(isize, isize)>,
    /// Of each node.
    owned: Vec<Vec<usize>>,
}

impl<'a> Balance<'a> {
    fn new(rows: &[Vec<usize>], before: &'a [Before], weights: &[u32]) -> Self {
        let mut rows = rows.to_vec();
        rows.iter_mut().for_each(|row| row.sort_unstable());
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let share = |weight: &u32| {
            let parts = rows.len() as u64 * u64::from(*weight);
            ((parts / total).cast_signed() as isize, parts.div_ceil(total).cast_signed() as isize)
        };
        let shares = weights.iter().map(share).collect();
        Self { rows, before, shares, owned: vec![Vec::new(); weights.len()] }
    }

    fn pass(&mut self, shard: usize, from: Option<usize>, to: usize) {
        if let Some(from) = from {
            self.owned[from].retain(|owned| *owned != shard);
        }
        self.owned[to].push(shard);
    }

    /// What one shard more costs this node.
    fn rise(&self, node: usize) -> isize {
        let owned = self.owned[node].len().cast_signed();
        self.cost(node, owned + 1) - self.cost(node, owned)
    }

    /// What one shard less saves this node.
    fn fall(&self, node: usize) -> isize {
        let owned = self.owned[node].len().cast_signed();
        self.cost(node, owned) - self.cost(node, owned - 1)
    }

    fn cost(&self, node: usize, owned: isize) -> isize {
        let (down, up) = self.shares[node];
        (owned - owned.clamp(down, up)).pow(2)
    }

    /// Passes shards on until nothing is saved any more. Those that save the most go first: what can be reached from them
    /// without an end cannot become one by what others do, so that each level is looked at once.
    fn even_out(&mut self) {
        let mut below = isize::MAX;
        loop {
            let nodes = || 0..self.owned.len();
            let saves = nodes().map(|node| self.fall(node)).filter(|saves| *saves < below).max();
            let costs = nodes().map(|node| self.rise(node)).min();
            let (Some(saves), Some(costs)) = (saves, costs) else { return };
            if saves <= costs {
                return;
            }
            while let Some(chain) = chain::find(&Saving { balance: self, saves }) {
                for step in chain.steps {
                    self.pass(step.shard, Some(step.from), step.to);
                }
            }
            below = saves;
        }
    }
}

/// Nodes that save this much seek nodes that it costs less.
struct Saving<'a> {
    balance: &'a Balance<'a>,
    saves: isize,
}

impl Columns for Saving<'_> {
    fn count(&self) -> usize {
        self.balance.owned.len()
    }

    fn starts(&self) -> Vec<usize> {
        (0..self.count()).filter(|node| self.balance.fall(*node) == self.saves).collect()
    }

    fn is_end(&self, node: usize) -> bool {
        self.balance.rise(node) < self.saves
    }

    fn shards(&self, node: usize, freely: bool) -> Vec<usize> {
        let moves = |shard: usize| self.balance.before[shard].owner != Some(node);
        self.balance.owned[node].iter().copied().filter(|shard| moves(*shard) == freely).collect()
    }

    fn targets(&self, shard: usize, _: usize, unreached: &Unreached) -> Vec<usize> {
        self.balance.rows[shard].iter().copied().filter(|to| unreached.contains(*to)).collect()
    }
}
