//! Bounds the requests in flight, per gateway and per node: what is over the bound is refused at once instead of queued,
//! so that an overloaded gateway answers "overloaded" quickly and keeps serving what it has taken in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of places. Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    places: Arc<Places>,
}

#[derive(Debug)]
struct Places {
    /// Invariant: the number of live permits, and never more than `most` of them.
    taken: AtomicUsize,
    most: usize,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    places: Arc<Places>,
}

impl Admission {
    pub(crate) fn new(most: usize) -> Self {
        Self { places: Arc::new(Places { taken: AtomicUsize::new(0), most }) }
    }

    /// A place, unless all are taken.
    pub(crate) fn enter(&self) -> Option<Permit> {
        let take = |taken| (taken < self.places.most).then_some(taken + 1);
        self.places.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Permit { places: self.places.clone() })
    }

    pub(crate) fn taken(&self) -> usize {
        self.places.taken.load(Ordering::Relaxed)
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

    #[test]
    fn a_place_is_given_back() {
        let admission = Admission::new(2);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert!(admission.enter().is_none());
        drop(first);
        assert_eq!(admission.taken(), 1);
        assert!(admission.clone().enter().is_some());
    }
}
