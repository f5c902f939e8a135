//! How many requests this gateway has in flight at each node: as many as that node keeps up with. Each node has a limit of its
//! own, so that one that is slow is asked less, and costs the others nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::seam::BootInstant;
use parking_lot::Mutex;

use super::adaptive::{self, Adaptive};

/// A node that was not asked for so long is as good as unknown: in that time a limit recovers altogether.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

/// Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub(super) struct NodePlaces {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: adaptive::Config,
    /// By address: of those that have a place taken, and of those that had until a while ago.
    nodes: Mutex<BTreeMap<String, Node>>,
}

#[derive(Debug)]
struct Node {
    /// Invariant: the number of live places of this node.
    taken: usize,
    adaptive: Adaptive,
    /// When a place was last asked for.
    asked: BootInstant,
}

/// One place at a node, given back when dropped.
#[derive(Debug)]
pub(crate) struct NodePlace {
    shared: Arc<Shared>,
    address: String,
}

/// How many requests may be in flight at nodes just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// At all nodes that are known. `None` where none is.
    pub(super) sum: Option<usize>,
    /// At the node with the lowest limit.
    pub(super) least: usize,
}

impl NodePlaces {
    pub(super) fn new(config: adaptive::Config) -> Self {
        Self { shared: Arc::new(Shared { config, nodes: Mutex::default() }) }
    }

    /// A place at the node at `address`, unless as many are taken as it keeps up with. When its limit becomes lower than what is
    /// taken, nobody enters before enough have left.
    pub(super) fn enter(&self, address: &str, now: BootInstant) -> Option<NodePlace> {
        let mut nodes = self.shared.nodes.lock();
        if nodes.get(address).is_none_or(|node| node.is_forgotten(now)) {
            nodes.retain(|_, node| !node.is_forgotten(now));
            let node = Node { taken: 0, adaptive: Adaptive::new(self.shared.config), asked: now };
            nodes.insert(address.to_owned(), node);
        }
        let node = nodes.get_mut(address)?;
        node.asked = now;
        if node.taken >= node.adaptive.limit() {
            return None;
        }
        node.taken += 1;
        Some(NodePlace { shared: self.shared.clone(), address: address.to_owned() })
    }

    pub(super) fn limits(&self) -> Limits {
        let nodes = self.shared.nodes.lock();
        let limits = || nodes.values().map(|node| node.adaptive.limit());
        let sum = (!nodes.is_empty()).then(|| limits().sum());
        Limits { sum, least: limits().min().unwrap_or(self.shared.config.max) }
    }
}

impl Node {
    fn is_forgotten(&self, now: BootInstant) -> bool {
        self.taken == 0 && now.since(self.asked) >= FORGOTTEN_AFTER
    }
}

impl NodePlace {
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Takes in how long the node took for one attempt, which it `answered` or was given up.
    pub(crate) fn observe(&self, now: BootInstant, took: Duration, answered: bool) {
        if let Some(node) = self.shared.nodes.lock().get_mut(&self.address) {
            node.adaptive.observe(now, took, answered, node.taken);
        }
    }
}

impl Drop for NodePlace {
    fn drop(&mut self) {
        if let Some(node) = self.shared.nodes.lock().get_mut(&self.address) {
            node.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: BootInstant = BootInstant(1_000_000_000);

    fn places(min: usize, max: usize) -> NodePlaces {
        NodePlaces::new(adaptive::Config { min, max, latency_target: Duration::from_millis(500) })
    }

    /// All places of a node, which answers slowly until its limit is `limit` or less.
    fn slow_down(places: &NodePlaces, address: &str, limit: usize) -> Vec<NodePlace> {
        let held: Vec<_> = std::iter::from_fn(|| places.enter(address, START)).collect();
        let mut now = START;
        while places.shared.nodes.lock()[address].adaptive.limit() > limit {
            now = now + Duration::from_millis(20);
            held[0].observe(now, Duration::from_secs(1), true);
        }
        held
    }

    #[test]
    fn a_lowered_limit_lets_nobody_in_before_enough_have_left() {
        let places = places(1, 100);
        let mut held = slow_down(&places, "slow", 60);
        let limit = places.limits().least;
        assert_eq!(held.len(), 100);
        held.truncate(limit);
        assert!(places.enter("slow", START).is_none());
        held.truncate(limit - 1);
        assert!(places.enter("slow", START).is_some());
    }

    #[test]
    fn a_slow_node_costs_the_others_nothing() {
        let places = places(4, 100);
        let _held = slow_down(&places, "slow", 4);
        let others: Vec<_> = std::iter::from_fn(|| places.enter("other", START)).collect();
        assert_eq!((others.len(), places.limits()), (100, Limits { sum: Some(104), least: 4 }));
    }

    #[test]
    fn a_node_that_was_not_asked_for_long_is_forgotten_unless_it_is_still_at_work() {
        let places = places(4, 100);
        let held = slow_down(&places, "slow", 4);
        drop(slow_down(&places, "gone", 4));
        let later = START + FORGOTTEN_AFTER;
        drop(places.enter("other", START + FORGOTTEN_AFTER / 2));
        assert_eq!(places.limits().sum, Some(108));
        drop(places.enter("next", later));
        assert_eq!(places.limits().sum, Some(204), "the one that is gone is no longer known");
        assert!(places.enter("slow", later).is_none());
        drop(held);
        drop(places.enter("slow", later + FORGOTTEN_AFTER));
        assert_eq!(places.limits(), Limits { sum: Some(100), least: 100 });
    }

    proptest! {
        /// Whoever comes and goes, and however slow they are: no node has more in flight than its limit was when one entered.
        #[test]
        fn what_is_given_back_is_free_again(
            steps in prop::collection::vec((0_usize..3, 0_u8..3, 0_u64..2000), 0..400),
        ) {
            let places = places(1, 8);
            let mut held: [Vec<NodePlace>; 3] = Default::default();
            let mut now = START;
            for (node, step, millis) in steps {
                now = now + Duration::from_millis(millis / 10);
                let address = ["a", "b", "c"][node];
                match step {
                    0 => held[node].truncate(held[node].len().saturating_sub(1)),
                    1 => held[node].iter().for_each(|place| place.observe(now, Duration::from_millis(millis), true)),
                    _ => held[node].extend(places.enter(address, now)),
                }
                prop_assert!(held[node].len() <= 8);
                let known = places.shared.nodes.lock();
                for (held, address) in held.iter().zip(["a", "b", "c"]) {
                    prop_assert_eq!(known.get(address).map_or(0, |node| node.taken), held.len());
                }
            }
        }
    }
}
