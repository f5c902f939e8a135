//! Bounds how many commands of one entity are under way at once, so that one that everybody wants leaves disks and processors to
//! the others: its share while commands for others come too, and a multiple of that while it is asked for alone. More wait for
//! their turn, in the order in which they came.
//!
//! What wants to wait has a place of its entity already, so no more wait than there are places.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::key::EntityKey;
use berth_shared::seam::BootInstant;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Others count for so long after they were asked for.
const OTHERS_LAST: Duration = Duration::from_secs(1);
/// So many are under way at least where an entity is alone: with them a log is written about as quickly as it can be, and who comes
/// then does not find many more before it.
const ALONE_MIN: usize = 64;

/// Cheap to clone; clones share the turns.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    share: usize,
    /// What a command takes of its entity's permits while others are asked for. Alone it takes one.
    weight: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of each entity with commands that are under way or wait: how many, and the turns of its share.
    entities: HashMap<EntityKey, (usize, Arc<Semaphore>)>,
    newest: Option<(EntityKey, BootInstant)>,
    /// When any other than the newest was asked for last.
    before: Option<BootInstant>,
}

/// A command may be under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    shared: Arc<Shared>,
    key: EntityKey,
    /// None until it is this one's turn.
    permits: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new(share: usize) -> Self {
        let weight = ALONE_MIN.div_ceil(share);
        Self { shared: Arc::new(Shared { share, weight, state: Mutex::default() }) }
    }

    /// Waits for a turn of this entity.
    pub(super) async fn take(&self, key: &EntityKey, now: BootInstant) -> Turn {
        let (weight, turns) = {
            let mut state = self.shared.state.lock();
            let weight = if state.notice(key, now) { self.shared.weight } else { 1 };
            let turns = || Arc::new(Semaphore::new(self.shared.share * self.shared.weight));
            let (count, turns) = state.entities.entry(key.clone()).or_insert_with(|| (0, turns()));
            *count += 1;
            (weight, turns.clone())
        };
        // From here on, so that whoever waits no more is counted no more.
        let mut turn = Turn { shared: self.shared.clone(), key: key.clone(), permits: None };
        // Never closed.
        turn.permits = turns.acquire_many_owned(weight as u32).await.ok();
        turn
    }
}

impl State {
    /// Takes in that an entity is asked for. Whether others were, of late.
    fn notice(&mut self, key: &EntityKey, now: BootInstant) -> bool {
        match &mut self.newest {
            Some((newest, at)) if newest == key => *at = now,
            newest => self.before = newest.replace((key.clone(), now)).map(|(_, at)| at),
        }
        self.before.is_some_and(|at| now.since(at) < OTHERS_LAST)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if let Some((count, _)) = state.entities.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.entities.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use proptest::prelude::*;

    use super::*;

    const START: BootInstant = BootInstant(1_000_000_000);

    fn key(id: &str) -> EntityKey {
        EntityKey::new("counter", id).unwrap()
    }

    /// The turns that so many commands get at once, and those that wait.
    fn ask(turns: &Turns, id: &str, count: usize, now: BootInstant) -> (Vec<Turn>, Vec<BoxFuture<'static, Turn>>) {
        let (mut taken, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (turns, key) = (turns.clone(), key(id));
            let mut asking = async move { turns.take(&key, now).await }.boxed();
            match (&mut asking).now_or_never() {
                Some(turn) => taken.push(turn),
                None => waiting.push(asking),
            }
        }
        (taken, waiting)
    }

    fn ready(waiting: &mut [BoxFuture<'static, Turn>]) -> Vec<Option<Turn>> {
        waiting.iter_mut().map(FutureExt::now_or_never).collect()
    }

    #[test]
    fn who_is_alone_has_much_and_who_is_not_has_its_share() {
        let turns = Turns::new(2);
        assert_eq!(ask(&turns, "hot", 90, START).0.len(), 64);
        assert_eq!(ask(&turns, "other", 1, START).0.len(), 1);
        assert_eq!(ask(&turns, "hot", 90, START).0.len(), 2);
        assert_eq!(ask(&turns, "hot", 90, START + OTHERS_LAST / 2).0.len(), 2);
        assert_eq!(ask(&turns, "hot", 90, START + OTHERS_LAST).0.len(), 64, "the other was long ago");
        assert_eq!(ask(&Turns::new(100), "hot", 900, START).0.len(), 100, "never fewer than the share");
    }

    #[test]
    fn turns_come_in_order_and_who_goes_away_is_passed_over() {
        let turns = Turns::new(1);
        drop(ask(&turns, "other", 1, START));
        let (mut taken, mut waiting) = ask(&turns, "hot", 4, START);
        assert_eq!((taken.len(), waiting.len()), (1, 3));
        drop(waiting.remove(0));
        taken.clear();
        let mut answers = ready(&mut waiting[..1]);
        assert!(answers[0].is_some(), "the second of those that waited");
        assert!(ready(&mut waiting[1..])[0].is_none());
        answers.clear();
        assert!(ready(&mut waiting[1..])[0].is_some());
    }

    #[test]
    fn what_is_under_way_counts_when_others_come_and_nobody_is_overtaken_when_they_are_gone() {
        let turns = Turns::new(2);
        let mut alone = ask(&turns, "hot", 64, START).0;
        drop(ask(&turns, "other", 1, START));
        let (beside, mut waiting) = ask(&turns, "hot", 3, START);
        assert_eq!(beside.len(), 0);
        let (newer, mut newest) = ask(&turns, "hot", 1, START + OTHERS_LAST);
        assert_eq!(newer.len(), 0, "three came before it");
        alone.truncate(32);
        let first = ready(&mut waiting);
        assert!(first[0].is_some() && first[1].is_none() && ready(&mut newest)[0].is_none());
        alone.clear();
        assert!(ready(&mut waiting[1..2])[0].is_some());
        drop(first);
        assert!(ready(&mut waiting[2..])[0].is_some());
    }

    #[test]
    fn one_that_waits_keeps_no_other_entity_waiting() {
        let turns = Turns::new(1);
        let hot = ask(&turns, "hot", 5, START);
        let others: Vec<_> = (0..5).map(|number| ask(&turns, &format!("other-{number}"), 1, START)).collect();
        assert!(others.iter().all(|(taken, _)| taken.len() == 1));
        drop((hot, others));
        assert!(turns.shared.state.lock().entities.is_empty());
    }

    proptest! {
        /// Whoever comes, goes and stops waiting: no entity has more than its share while others are there, whoever waits gets a
        /// turn, and nothing is left behind.
        #[test]
        fn what_is_given_back_leaves_nothing_behind(steps in prop::collection::vec((0_usize..3, 0_u8..4), 0..200)) {
            let turns = Turns::new(2);
            // So that none is ever alone.
            drop((ask(&turns, "x", 1, START), ask(&turns, "y", 1, START)));
            let mut all: [(Vec<Turn>, Vec<BoxFuture<'static, Turn>>); 3] = Default::default();
            for (entity, step) in steps {
                let (taken, waiting) = &mut all[entity];
                match step {
                    0 => taken.truncate(taken.len().saturating_sub(1)),
                    1 => waiting.truncate(waiting.len().saturating_sub(1)),
                    _ => {
                        let more = ask(&turns, ["a", "b", "c"][entity], 1, START);
                        taken.extend(more.0);
                        waiting.extend(more.1);
                    }
                }
                let mut still = Vec::new();
                for mut asking in waiting.drain(..) {
                    match (&mut asking).now_or_never() {
                        Some(turn) => taken.push(turn),
                        None => still.push(asking),
                    }
                }
                *waiting = still;
                prop_assert!(taken.len() <= 2);
                prop_assert!(waiting.is_empty() || taken.len() == 2);
            }
            drop(all);
            prop_assert!(turns.shared.state.lock().entities.is_empty());
        }
    }
}
