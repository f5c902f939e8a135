//! Who waits until more of a shard is applied: reads of replicas that are behind, and long polls of an entity's history. They
//! are woken by what applies, and nothing is looked for in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use berth_shared::ids::LogIndex;
use berth_shared::key::EntityKey;

/// What is waited for. The indexes come first, so that all that are reached stand together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Awaited {
    /// That the entry is applied.
    Index(LogIndex),
    /// That the entity has another event.
    Entity(EntityKey),
}

/// Those who wait, of one shard. Bounded by whoever lets them wait.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Invariant: the number of live waiters. Whoever applies looks no further where there are none.
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    places: BTreeMap<Awaited, Place>,
}

/// All who wait for the same.
#[derive(Debug, Default)]
struct Place {
    wake: watch::Sender<()>,
    waiters: usize,
}

/// One who waits, for as long as this lives.
#[derive(Debug)]
pub struct Waiter {
    waiting: Arc<Waiting>,
    awaited: Awaited,
    woken: watch::Receiver<()>,
}

impl Waiting {
    /// Begins to wait; `None` when the replica is not there any more. Whoever looks at the shard after this misses nothing:
    /// what was applied before is seen, and what is applied later wakes.
    pub fn begin(self: &Arc<Self>, awaited: Awaited) -> Option<Waiter> {
        let woken = {
            let mut state = self.state.lock();
            if state.is_closed {
                return None;
            }
            self.count.fetch_add(1, Ordering::SeqCst);
            let place = state.places.entry(awaited.clone()).or_default();
            place.waiters += 1;
            place.wake.subscribe()
        };
        Some(Waiter { waiting: self.clone(), awaited, woken })
    }

    /// Wakes who waits for `index` or an earlier one, or for an event of one of `entities`. To be called once readers see them.
    pub fn applied<'a>(&self, index: LogIndex, entities: impl Iterator<Item = &'a EntityKey>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let state = self.state.lock();
        let reached = state.places.range(..=Awaited::Index(index)).map(|(_, place)| place);
        reached.for_each(|place| place.wake.send_modify(|()| {}));
        for entity in entities {
            if let Some(place) = state.places.get(&Awaited::Entity(entity.clone())) {
                place.wake.send_modify(|()| {});
            }
        }
    }

    /// Wakes everybody: all has become different.
    pub fn wake_all(&self) {
        self.state.lock().places.values().for_each(|place| place.wake.send_modify(|()| {}));
    }

    /// The replica goes. Everybody is woken, nobody waits any more, and what is read from now on may be missing what was there.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.wake_all();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Waiter {
    /// Returns once there is something to look at that was not there when this waiter began, or when it last returned.
    pub async fn woken(&mut self) {
        // The sender lives as long as its waiters.
        let _ = self.woken.changed().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.waiting.state.lock();
        self.waiting.count.fetch_sub(1, Ordering::SeqCst);
        if let Some(place) = state.places.get_mut(&self.awaited) {
            place.waiters -= 1;
            if place.waiters == 0 {
                state.places.remove(&self.awaited);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn entity(id: &str) -> EntityKey {
        EntityKey::new("counter", id).unwrap()
    }

    fn is_woken(waiter: &mut Waiter) -> bool {
        waiter.woken().now_or_never().is_some()
    }

    #[test]
    fn only_those_are_woken_who_wait_for_what_was_applied() {
        let waiting = Arc::new(Waiting::default());
        let mut begin = |awaited| waiting.begin(awaited).unwrap();
        let mut waiters =
            [Awaited::Index(5), Awaited::Index(6), Awaited::Entity(entity("a")), Awaited::Entity(entity("b"))]
                .map(&mut begin);
        waiting.applied(5, [entity("b")].iter());
        assert_eq!(waiters.each_mut().map(is_woken), [true, false, false, true]);
        assert_eq!(waiters.each_mut().map(is_woken), [false; 4], "once");
        waiting.applied(9, [entity("a"), entity("c")].iter());
        assert_eq!(waiters.each_mut().map(is_woken), [true, true, true, false]);
        waiting.wake_all();
        assert_eq!(waiters.each_mut().map(is_woken), [true; 4]);
    }

    #[test]
    fn what_is_applied_between_looking_and_waiting_is_not_missed() {
        let waiting = Arc::new(Waiting::default());
        let mut waiter = waiting.begin(Awaited::Index(3)).unwrap();
        waiting.applied(3, std::iter::empty());
        assert!(is_woken(&mut waiter));
    }

    #[test]
    fn nothing_is_left_of_who_has_gone() {
        let waiting = Arc::new(Waiting::default());
        let first = waiting.begin(Awaited::Entity(entity("a"))).unwrap();
        let mut second = waiting.begin(Awaited::Entity(entity("a"))).unwrap();
        assert_eq!((waiting.len(), waiting.state.lock().places.len()), (2, 1));
        drop(first);
        waiting.applied(1, [entity("a")].iter());
        assert!(is_woken(&mut second));
        drop(second);
        assert!(waiting.is_empty() && waiting.state.lock().places.is_empty());
    }

    #[test]
    fn a_replica_that_goes_wakes_everybody_and_lets_nobody_wait() {
        let waiting = Arc::new(Waiting::default());
        let mut waiter = waiting.begin(Awaited::Entity(entity("a"))).unwrap();
        waiting.close();
        assert!(is_woken(&mut waiter) && waiting.is_closed());
        assert!(waiting.begin(Awaited::Index(1)).is_none());
    }
}
