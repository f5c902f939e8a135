//! What a gateway takes on at once: so many requests in all, as nodes keep up with; so many of one entity; and of one caller
//! so many in a time. What is over a bound is refused at once instead of queued, so that an overloaded gateway answers
//! "overloaded" quickly and keeps serving what it has taken in.
//!
//! Requests that wait for what is yet to happen, as long polls and live histories do, are none of these: they take no place
//! here, and how long they take says nothing of congestion.

mod adaptive;
pub(crate) mod rate;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_shared::entity_places::{EntityPlace, EntityPlaces};
use berth_shared::key::EntityKey;
use berth_shared::seam::BootInstant;
use parking_lot::Mutex;

use adaptive::Adaptive;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// The bounds of how many requests may be in flight; within them it follows how quickly nodes answer.
    pub(crate) in_flight_min: usize,
    pub(crate) in_flight_max: usize,
    pub(crate) in_flight_per_entity_max: usize,
    /// Where more than a tenth of the answers take longer, there are too many requests in flight.
    pub(crate) latency_target: Duration,
}

/// A number of places. Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    places: Arc<Places>,
    entities: EntityPlaces,
}

#[derive(Debug)]
struct Places {
    /// Invariant: the number of live permits.
    taken: AtomicUsize,
    /// How many may be taken. When it becomes lower than what is taken, nobody enters before enough have left.
    limit: AtomicUsize,
    adaptive: Mutex<Adaptive>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    places: Arc<Places>,
    _of_entity: Option<EntityPlace>,
}

/// Which bound a request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Gateway,
    Entity,
}

impl Admission {
    pub(crate) fn new(config: Config) -> Self {
        let Config { in_flight_min, in_flight_max, in_flight_per_entity_max, latency_target } = config;
        let bounds = adaptive::Config { min: in_flight_min.min(in_flight_max), max: in_flight_max, latency_target };
        let adaptive = Adaptive::new(bounds);
        let limit = AtomicUsize::new(adaptive.limit());
        let places = Places { taken: AtomicUsize::new(0), limit, adaptive: Mutex::new(adaptive) };
        Self { places: Arc::new(places), entities: EntityPlaces::new(in_flight_per_entity_max) }
    }

    /// A place for a request that is of no one entity.
    pub(crate) fn enter(&self) -> Result<Permit, Full> {
        self.take(None)
    }

    /// A place for a request of this entity.
    pub(crate) fn enter_for(&self, key: &EntityKey) -> Result<Permit, Full> {
        let of_entity = self.entities.enter(key).ok_or(Full::Entity)?;
        self.take(Some(of_entity))
    }

    fn take(&self, of_entity: Option<EntityPlace>) -> Result<Permit, Full> {
        let limit = self.limit();
        let take = |taken| (taken < limit).then_some(taken + 1);
        self.places.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| Full::Gateway)?;
        Ok(Permit { places: self.places.clone(), _of_entity: of_entity })
    }

    /// Takes in how long a node took for one attempt, which it `answered` or was given up. Not for one that was to wait.
    pub(crate) fn observe(&self, now: BootInstant, took: Duration, answered: bool) {
        let mut adaptive = self.places.adaptive.lock();
        if adaptive.observe(now, took, answered, self.taken()) {
            self.places.limit.store(adaptive.limit(), Ordering::Relaxed);
        }
    }

    pub(crate) fn taken(&self) -> usize {
        self.places.taken.load(Ordering::Relaxed)
    }

    /// How many may be in flight just now.
    pub(crate) fn limit(&self) -> usize {
        self.places.limit.load(Ordering::Relaxed)
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
        Admission::new(Config { in_flight_min: 1, in_flight_max, in_flight_per_entity_max, latency_target })
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
    fn one_entity_has_only_so_many_places_and_keeps_none_of_a_full_gateway() {
        let key = |id| EntityKey::new("counter", id).unwrap();
        let admission = admission(3, 2);
        let hot: Vec<_> = (0..2).map(|_| admission.enter_for(&key("hot")).unwrap()).collect();
        assert_eq!(admission.enter_for(&key("hot")).unwrap_err(), Full::Entity);
        let other = admission.enter_for(&key("other")).unwrap();
        assert_eq!(admission.enter_for(&key("next")).unwrap_err(), Full::Gateway);
        assert_eq!(admission.entities.entities(), 2, "who was not let in holds nothing");
        drop((hot, other));
        assert_eq!((admission.taken(), admission.entities.entities()), (0, 0));
    }

    #[test]
    fn a_lowered_limit_lets_nobody_in_before_enough_have_left() {
        let admission = admission(100, 100);
        let mut held: Vec<_> = (0..100).map(|_| admission.enter().unwrap()).collect();
        for millis in 0..1000 {
            let now = BootInstant(1_000_000_000 + millis * 1_000_000);
            admission.observe(now, Duration::from_secs(1), true);
        }
        let limit = admission.limit();
        assert!((50..80).contains(&limit), "{limit}: some windows of 200 ms");
        held.truncate(limit);
        assert!(admission.enter().is_err());
        held.truncate(limit - 1);
        assert!(admission.enter().is_ok());
    }
}
