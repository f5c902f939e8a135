//! Reads of whatever the replica has applied, and long polls of an entity's history, which are woken by what is applied.

use std::time::Duration;

use berth_node::shard::group::Level;
use berth_node::shard::polling::{Poll, Polled};
use berth_node::shard::reader;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Seen};
use tokio::task::JoinHandle;

use crate::scripted::{Ask, Stage, TERM};

type Polling = JoinHandle<Result<Polled, reader::Error>>;

const SECOND: Duration = Duration::from_secs(1);

impl Stage {
    fn poll(&self, id: &str, after: u64, consistency: Consistency, wait: Duration) -> Polling {
        let (reader, key) = (self.reader.clone(), EntityKey::new("counter", id).unwrap());
        let poll = Poll { after, limit: 10, bytes_max: 1 << 20, consistency, wait, patience: SECOND };
        self.seams.spawner.spawn(async move { reader.poll(&key, &poll).await })
    }

    /// The replica may be read, and is as new as it can be.
    fn is_level(&self) {
        self.group.say_level(Some(Level { at: Some(self.seams.clock.now()) }));
    }

    async fn here(&self, id: &str, at_least: Option<Seen>, patience: Duration) -> Result<u64, reader::Error> {
        let key = EntityKey::new("counter", id).unwrap();
        self.reader.read_here(&key, at_least, patience).await.map(|current| current.version)
    }

    fn waits(&self) -> usize {
        self.shard.waiting().len()
    }
}

fn versions(polled: Polled) -> Vec<u64> {
    polled.page.events.iter().map(|event| event.version).collect()
}

fn at(index: u64) -> Seen {
    Seen { incarnation: 0, index }
}

#[tokio::test(start_paused = true)]
async fn a_poll_returns_with_the_next_event_and_not_before_it_is_applied() {
    let stage = Stage::leading().await;
    stage.is_level();
    stage.run(Ask::increment("a")).await;
    for consistency in
        [Consistency::Linearizable, Consistency::Strict, Consistency::Session { at_least: None }, Consistency::Stale]
    {
        let before = stage.read("counter", "a").await.unwrap().0;
        let polling = stage.poll("a", before, consistency, 20 * SECOND);
        stage.settle().await;
        stage.run(Ask::increment("b")).await;
        let write = stage.send(Ask::increment("a")).await;
        stage.seams.spawner.sleep(3 * SECOND).await;
        assert!(!polling.is_finished() && stage.waits() == 1, "it is decided, and nobody has seen it");
        let began = stage.seams.clock.now();
        stage.apply_all().await;
        assert_eq!(write.unwrap().version(), before + 1);
        assert_eq!(versions(polling.await.unwrap().unwrap()), [before + 1]);
        assert!(stage.seams.clock.now().since(began) < Duration::from_millis(10));
        assert_eq!(stage.waits(), 0, "nothing is left of it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_without_an_event_is_an_empty_page_at_its_end() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let began = stage.seams.clock.now();
    let polled = stage.poll("a", 1, Consistency::Linearizable, 7 * SECOND).await.unwrap().unwrap();
    assert!(polled.page.events.is_empty() && polled.page.next.is_none());
    let waited = stage.seams.clock.now().since(began);
    assert!((7 * SECOND..8 * SECOND).contains(&waited), "{waited:?}");
    let none = stage.poll("none", 0, Consistency::Linearizable, 7 * SECOND).await.unwrap();
    assert!(matches!(none, Err(reader::Error::NotFound)), "nobody waits for what does not exist");
    assert_eq!(versions(stage.poll("a", 0, Consistency::Linearizable, 7 * SECOND).await.unwrap().unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_poll_ends_at_once_when_the_shard_moves() {
    for consistency in [Consistency::Linearizable, Consistency::Strict] {
        let stage = Stage::leading().await;
        stage.run(Ask::increment("a")).await;
        let polling = stage.poll("a", 1, consistency, 20 * SECOND);
        stage.settle().await;
        let began = stage.seams.clock.now();
        stage.step_down().await;
        assert!(matches!(polling.await.unwrap(), Err(reader::Error::NotOwner)));
        assert!(stage.seams.clock.now().since(began) < Duration::from_millis(10));
        assert_eq!(stage.waits(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_at_an_owner_that_nobody_answers_any_more_ends_soon() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let polling = stage.poll("a", 1, Consistency::Linearizable, 20 * SECOND);
    stage.seams.spawner.sleep(5 * SECOND).await;
    assert!(!polling.is_finished());
    stage.group.lose_lease();
    let began = stage.seams.clock.now();
    assert!(matches!(polling.await.unwrap(), Err(reader::Error::NotOwner)));
    assert!(stage.seams.clock.now().since(began) <= SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_poll_goes_on_in_the_next_term_of_the_same_owner() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let polling = stage.poll("a", 1, Consistency::Linearizable, 20 * SECOND);
    stage.settle().await;
    stage.lead(TERM + 1).await;
    assert!(!polling.is_finished());
    stage.run(Ask::increment("a")).await;
    assert_eq!(versions(polling.await.unwrap().unwrap()), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_poll_ends_when_the_replica_goes() {
    let stage = Stage::leading().await;
    stage.is_level();
    stage.run(Ask::increment("a")).await;
    for consistency in [Consistency::Stale, Consistency::Linearizable] {
        let polling = stage.poll("a", 1, consistency, 20 * SECOND);
        stage.settle().await;
        stage.shard.waiting().close();
        assert!(matches!(polling.await.unwrap(), Err(reader::Error::NotOwner)) || stage.waits() == 0);
    }
    assert!(matches!(stage.here("a", None, SECOND).await, Err(reader::Error::NotOwner)), "it may be deleted by now");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_polls_of_one_entity_all_get_its_next_event() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let polls: Vec<Polling> = (0..1000).map(|_| stage.poll("a", 1, Consistency::Linearizable, 20 * SECOND)).collect();
    stage.settle().await;
    assert_eq!(stage.waits(), 1000);
    stage.run(Ask::increment("a")).await;
    for poll in polls {
        assert_eq!(versions(poll.await.unwrap().unwrap()), [2]);
    }
    assert_eq!(stage.waits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_dropped_leaves_nothing() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let polling = stage.poll("a", 1, Consistency::Linearizable, 20 * SECOND);
    stage.settle().await;
    assert_eq!(stage.waits(), 1);
    polling.abort();
    stage.settle().await;
    assert_eq!(stage.waits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_not_applied_enough_waits_until_it_has_and_never_answers_less() {
    let stage = Stage::leading().await;
    stage.is_level();
    stage.run(Ask::increment("a")).await;
    let seen = stage.shard.seen().index;
    // The owner has applied what this replica has not.
    stage.step_down().await;
    assert_eq!(stage.here("a", Some(at(seen)), Duration::ZERO).await.unwrap(), 1);
    let began = stage.seams.clock.now();
    assert!(matches!(stage.here("a", Some(at(seen + 1)), SECOND).await, Err(reader::Error::Behind)));
    assert_eq!(stage.seams.clock.now().since(began).as_millis(), 1000);
    assert_eq!(stage.waits(), 0);
    let reader = stage.reader.clone();
    let waiting = stage.seams.spawner.spawn(async move {
        let key = EntityKey::new("counter", "a").unwrap();
        reader.read_here(&key, Some(at(seen + 3)), SECOND).await.map(|current| (current.version, current.seen.index))
    });
    stage.settle().await;
    stage.lead(TERM + 1).await;
    assert!(!waiting.is_finished());
    stage.run(Ask::increment("b")).await;
    assert!(!waiting.is_finished(), "one is still lacking");
    stage.run(Ask::increment("a")).await;
    assert_eq!(waiting.await.unwrap().unwrap(), (2, seen + 3));
}

#[tokio::test(start_paused = true)]
async fn what_is_of_another_incarnation_is_for_the_owner() {
    let stage = Stage::leading().await;
    stage.is_level();
    stage.run(Ask::increment("a")).await;
    for index in [0, 1, u64::MAX] {
        let other = Some(Seen { incarnation: 1, index });
        assert!(matches!(stage.here("a", other, 5 * SECOND).await, Err(reader::Error::NotOwner)));
    }
    let poll = stage.poll("a", 0, Consistency::Session { at_least: Some(Seen { incarnation: 1, index: 0 }) }, SECOND);
    assert!(matches!(poll.await.unwrap(), Err(reader::Error::NotOwner)));
}

/// That something is not there would be a lie.
#[tokio::test(start_paused = true)]
async fn a_replica_that_may_lack_what_has_long_been_there_does_not_answer() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    for id in ["a", "none"] {
        assert!(matches!(stage.here(id, None, SECOND).await, Err(reader::Error::NotOwner)));
        for wait in [Duration::ZERO, SECOND] {
            let polled = stage.poll(id, 0, Consistency::Stale, wait).await.unwrap();
            assert!(matches!(polled, Err(reader::Error::NotOwner)));
        }
    }
    stage.is_level();
    assert!(matches!(stage.here("none", None, SECOND).await, Err(reader::Error::NotFound)));
}

/// Also when it becomes one in the middle of a read.
#[tokio::test(start_paused = true)]
async fn a_stale_poll_ends_when_the_replica_may_not_be_read_any_more() {
    let stage = Stage::leading().await;
    stage.is_level();
    stage.run(Ask::increment("a")).await;
    let polling = stage.poll("a", 1, Consistency::Stale, 20 * SECOND);
    stage.settle().await;
    stage.group.say_level(None);
    let began = stage.seams.clock.now();
    assert!(matches!(polling.await.unwrap(), Err(reader::Error::NotOwner)));
    assert!(stage.seams.clock.now().since(began) <= SECOND);
}
