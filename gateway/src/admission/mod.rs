//! What a gateway takes on at once: so many requests in all, which bounds its memory; at each node so many as that keeps up
//! with; so many of one entity; and of one caller so many in a time. What is over a bound is refused at once instead of
//! queued, so that an overloaded gateway answers "overloaded" quickly and keeps serving what it has taken in. Only commands of an
//! entity that everybody wants wait, where it has a place for them, until it is their turn.
//!
//! Requests that wait for what is yet to happen, as long polls and live histories do, are none of these: they take no place
//! here, and how long they take says nothing of congestion.

mod adaptive;
mod nodes;
pub(crate) mod rate;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_shared::entity_places::{EntityPlace, EntityPlaces};
use berth_shared::key::EntityKey;
use berth_shared::seam::BootInstant;

use nodes::NodePlaces;
use turns::Turns;

pub(crate) use nodes::NodePlace;
pub(crate) use turns::Turn;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) in_flight_max: usize,
    /// The bounds of how many requests may be in flight at one node; within them it follows how quickly the node answers.
    pub(crate) in_flight_min: usize,
    pub(crate) in_flight_per_node_max: usize,
    /// Commands, and as many reads.
    pub(crate) in_flight_per_entity_max: usize,
    /// Of the commands of one entity: how many are under way at once while others are asked for too.
    pub(crate) entity_share: usize,
    /// Where more than a tenth of the answers take longer, there are too many requests in flight.
    pub(crate) latency_target: Duration,
}

/// A number of places. Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    places: Arc<Places>,
    /// Apart, so that reads that take long, as of a long history, leave room for commands.
    commands: EntityPlaces,
    reads: EntityPlaces,
    turns: Turns,
    nodes: NodePlaces,
}

#[derive(Debug)]
struct Places {
    /// Invariant: the number of live permits, and never more than `most`.
    taken: AtomicUsize,
    most: usize,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    places: Arc<Places>,
}

/// What a request does to its entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Command,
    Read,
}

/// Which bound a request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Gateway,
    Entity,
}

impl Admission {
    pub(crate) fn new(config: Config) -> Self {
        let most = config.in_flight_max;
        let max = config.in_flight_per_node_max.min(most);
        let of_node =
            adaptive::Config { min: config.in_flight_min.min(max), max, latency_target: config.latency_target };
        Self {
            places: Arc::new(Places { taken: AtomicUsize::new(0), most }),
            commands: EntityPlaces::new(config.in_flight_per_entity_max),
            reads: EntityPlaces::new(config.in_flight_per_entity_max),
            turns: Turns::new(config.entity_share),
            nodes: NodePlaces::new(of_node),
        }
    }

    /// A place for a request.
    pub(crate) fn enter(&self) -> Result<Permit, Full> {
        let take = |taken| (taken < self.places.most).then_some(taken + 1);
        self.places.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| Full::Gateway)?;
        Ok(Permit { places: self.places.clone() })
    }

    /// A place of this entity, for a request that has one of the gateway's.
    pub(crate) fn enter_entity(&self, key: &EntityKey, access: Access) -> Result<EntityPlace, Full> {
        let places = match access {
            Access::Command => &self.commands,
            Access::Read => &self.reads,
        };
        places.enter(key).ok_or(Full::Entity)
    }

    /// The turn of a command that has one of its entity's places. It may have to wait for that.
    pub(crate) async fn take_turn(&self, key: &EntityKey, now: BootInstant) -> Turn {
        self.turns.take(key, now).await
    }

    /// A place at the node at `address`, unless as many are taken as it keeps up with.
    pub(crate) fn enter_node(&self, address: &str, now: BootInstant) -> Option<NodePlace> {
        self.nodes.enter(address, now)
    }

    pub(crate) fn taken(&self) -> usize {
        self.places.taken.load(Ordering::Relaxed)
    }

    /// How many may be in flight just now: as many as all nodes keep up with that are known, where these are fewer.
    pub(crate) fn limit(&self) -> usize {
        self.nodes.limits().sum.map_or(self.places.most, |sum| sum.min(self.places.most))
    }

    /// How many may be in flight just now at the node with the lowest limit.
    pub(crate) fn least_node_limit(&self) -> usize {
        self.nodes.limits().least
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(in_flight_max: usize, in_flight_per_entity_max: usize) -> Admission {
        let latency_target = Duration::from_millis(500);
        let (in_flight_min, in_flight_per_node_max) = (1, in_flight_max);
        Admission::new(Config {
            in_flight_max,
            in_flight_min,
            in_flight_per_node_max,
            in_flight_per_entity_max,
            entity_share: in_flight_per_entity_max,
            latency_target,
        })
    }

    #[test]
    fn a_place_is_given_back() {
        let admission = admission(2, 2);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert_eq!(admission.enter().unwrap_err(), Full::Gateway);
        drop(first);
        assert_eq!(admission.taken(), 1);
        assert!(admission.clone().enter().is_ok());
    }

    #[test]
    fn one_entity_has_only_so_many_places_and_its_reads_leave_those_of_commands() {
        let key = |id| EntityKey::new("counter", id).unwrap();
        let admission = admission(9, 2);
        let mut held = Vec::new();
        for access in [Access::Read, Access::Command] {
            held.extend((0..2).map(|_| admission.enter_entity(&key("hot"), access).unwrap()));
            assert_eq!(admission.enter_entity(&key("hot"), access).unwrap_err(), Full::Entity);
            held.push(admission.enter_entity(&key("other"), access).unwrap());
        }
        drop(held);
        assert_eq!((admission.reads.entities(), admission.commands.entities()), (0, 0));
    }

    #[test]
    fn the_limit_is_what_all_known_nodes_keep_up_with() {
        let admission = admission(100, 100);
        let now = |millis: u64| BootInstant(1_000_000_000 + millis * 1_000_000);
        assert_eq!((admission.limit(), admission.least_node_limit()), (100, 100), "nobody is known");
        let slow: Vec<_> = (0..100).map(|_| admission.enter_node("slow", now(0)).unwrap()).collect();
        (0..30_000).step_by(10).for_each(|millis| slow[0].observe(now(millis), Duration::from_secs(1), true));
        assert_eq!((admission.limit(), admission.least_node_limit()), (1, 1));
        let _quick = admission.enter_node("quick", now(30_000)).unwrap();
        assert_eq!((admission.limit(), admission.least_node_limit()), (100, 1));
    }
}
