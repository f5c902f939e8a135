//! The requests that wait for what is yet to happen: long polls and live histories. They have places of their own, apart from
//! those of requests that are answered at once, and end when the gateway does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    places: Arc<Places>,
    ending: CancellationToken,
}

#[derive(Debug)]
struct Places {
    /// Invariant: the number of live [`Place`]s, and never more than `most`.
    taken: AtomicUsize,
    most: usize,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    ending: CancellationToken,
}

impl Streams {
    pub(crate) fn new(most: usize) -> Self {
        Self { places: Arc::new(Places { taken: AtomicUsize::new(0), most }), ending: CancellationToken::new() }
    }

    /// A place, unless all are taken.
    pub(crate) fn enter(&self) -> Option<Place> {
        let take = |taken| (taken < self.places.most).then_some(taken + 1);
        self.places.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Place { places: self.places.clone(), ending: self.ending.clone() })
    }

    pub(crate) fn taken(&self) -> usize {
        self.places.taken.load(Ordering::Relaxed)
    }

    /// Ends all that wait, and those that come.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }
}

impl Place {
    /// Cancelled when the gateway ends.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.ending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_and_hears_of_the_end() {
        let streams = Streams::new(2);
        let first = streams.enter().unwrap();
        let second = streams.enter().unwrap();
        assert!(streams.enter().is_none());
        drop(first);
        assert_eq!(streams.taken(), 1);
        assert!(!second.ending().is_cancelled());
        streams.end();
        assert!(second.ending().is_cancelled() && streams.enter().unwrap().ending().is_cancelled());
    }
}
