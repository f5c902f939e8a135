//! Deleting a shard's content: nothing of it comes back, whatever was on its way, and others go on meanwhile.

use std::collections::BTreeMap;

use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::model::{Model, ModelShard, check_shard};
use super::*;
use crate::disk::Faults;

const OTHER: ShardId = ShardId(1);

/// Of the present generation of the shard, as a replica would write it.
fn following(store: &Store, index: u64, entities: Vec<EntityChange>) -> Changes {
    let generation = store.shard_head(SHARD).unwrap_or_default().generation;
    Changes { head: ShardHead { generation, ..head(index) }, ..changes(index, entities) }
}

/// Lets the flusher clear away what it has to.
async fn cleared() {
    Seams::simulated(1).spawner.sleep(Duration::from_secs(1)).await;
}

fn assert_empty(store: &Store) {
    assert_eq!(store.shard_head(SHARD).and_then(|head| head.applied), None);
    assert_eq!(store.shards(), []);
    assert_eq!(store.entity(SHARD, &key("a")).unwrap(), None);
    assert_eq!(store.events(SHARD, &key("a"), 0, 10, 1000).unwrap(), None);
    assert_eq!(outcome_index(store, SHARD), []);
    assert_eq!(store.outcome(SHARD, Lane::Client, 1).unwrap(), None);
    assert_eq!(store.checkpointed().applied.get(&SHARD), None);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_shard_is_empty_wherever_its_changes_were() {
    for in_file in [false, true] {
        let disk = SimulatedDisk::new();
        let store = open_with(&disk, idle_config()).await;
        let outcomes = vec![outcome(Lane::Client, 1)];
        store.write(Changes { outcomes, ..changes(1, vec![added("a", 1, 3, 5)]) }).await.unwrap();
        if in_file {
            store.checkpoint().await.unwrap();
            store.write(changes(2, vec![added("a", 4, 4, 5)])).await.unwrap();
        }
        store.delete(SHARD).await.unwrap();
        assert_empty(&store);
        cleared().await;
        assert_eq!(generations_in_file(&store), []);
        let store = open_with(&disk.power_cut(2), idle_config()).await;
        assert_empty(&store);
        store.delete(SHARD).await.unwrap();
        store.delete(OTHER).await.unwrap();
        assert_eq!(store.shard_head(OTHER), None);
    }
}

/// The rows of before are still there, under the same keys but for the generation.
#[tokio::test(start_paused = true)]
async fn a_shard_begins_anew_at_once_and_clearing_leaves_what_is_new() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, idle_config()).await;
    let many = (0..5_000).map(|number| added(&format!("e{number}"), 1, 1, 20)).collect();
    store.write(changes(7, many)).await.unwrap();
    for life in 0..3 {
        store.delete(SHARD).await.unwrap();
        store.write(following(&store, 1, vec![added("e7", 1, 2, 1)])).await.unwrap();
        if life == 0 {
            store.checkpoint().await.unwrap();
            assert!(generations_in_file(&store).len() > 1, "clearing has not come far");
        }
        assert_eq!(store.entity(SHARD, &key("e7")).unwrap().unwrap().version, 2);
        assert_eq!(store.entity(SHARD, &key("e8")).unwrap(), None);
    }
    cleared().await;
    store.checkpoint().await.unwrap();
    let generation = store.shard_head(SHARD).unwrap().generation;
    assert_eq!(generations_in_file(&store), [(SHARD, generation)]);
    let store = open_with(&disk.power_cut(1), idle_config()).await;
    assert_eq!((store.shards(), store.shard_head(SHARD).unwrap().applied.unwrap().index), (vec![SHARD], 1));
    assert_eq!(store.entity(SHARD, &key("e7")).unwrap().unwrap().version, 2);
    assert_eq!(store.entity(SHARD, &key("e8")).unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_rows_are_cleared_brings_none_of_them_back() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, idle_config()).await;
    let many = (0..5_000).map(|number| added(&format!("e{number}"), 1, 1, 20)).collect();
    store.write(changes(7, many)).await.unwrap();
    store.delete(SHARD).await.unwrap();
    let store = open_with(&disk.process_killed(), idle_config()).await;
    assert!(generations_in_file(&store).contains(&(SHARD, 0)));
    store.write(following(&store, 1, vec![added("e7", 1, 2, 1)])).await.unwrap();
    assert_eq!(store.entity(SHARD, &key("e8")).unwrap(), None);
    cleared().await;
    store.flush();
    assert_eq!(generations_in_file(&store), [(SHARD, 1)]);
    assert_eq!(store.entity(SHARD, &key("e7")).unwrap().unwrap().version, 2);
}

#[tokio::test(start_paused = true)]
async fn who_held_the_shard_before_can_change_it_no_more() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
    let deleting = store.delete(SHARD);
    let late = async { store.write(changes(2, vec![added("a", 2, 2, 1)])).await };
    let (deleted, late) = futures_util::join!(deleting, late);
    deleted.unwrap();
    assert!(matches!(late, Err(Error::Sequence(SequenceError::Installing(SHARD)))), "{late:?}");
    let later = store.write(changes(2, vec![added("a", 2, 2, 1)])).await;
    assert!(matches!(later, Err(Error::Sequence(SequenceError::Generation { .. }))), "{later:?}");
    assert_empty(&store);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_on_its_way_is_not_installed_and_one_that_begins_later_is() {
    let source = open_with(&SimulatedDisk::new(), idle_config()).await;
    source.write(changes(5, vec![added("b", 1, 2, 20)])).await.unwrap();
    let chunks = chunks_of(&source, SHARD, 20_000).await;
    for had_content in [false, true] {
        let store = open_with(&SimulatedDisk::new(), idle_config()).await;
        if had_content {
            store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
        }
        let mut early = store.stage(SHARD).await.unwrap();
        for chunk in chunks.clone() {
            early.add(chunk).await.unwrap();
        }
        store.delete(SHARD).await.unwrap();
        cleared().await;
        assert_eq!(install(&store, SHARD, chunks.clone()).await.unwrap().applied.unwrap().index, 5);
        store.delete(SHARD).await.unwrap();
        let refused = early.commit().await;
        assert!(matches!(refused, Err(Error::Snapshot(SnapshotError::Deleted))), "{refused:?}");
        assert_empty(&store);
        cleared().await;
        assert_eq!(generations_in_file(&store), []);
        assert!(store.shared.queue.lock().delete(SHARD).unwrap().is_none(), "nothing of the stagings is left");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_not_durable_before_the_journal_has_flushed_and_goes_on_when_nobody_waits() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let journal: JournalFlushed = Arc::new(move || {
        let (done, answer) = tokio::sync::oneshot::channel::<()>();
        asked.send(done).unwrap();
        Box::pin(async move { answer.await.map_err(std::io::Error::other) })
    });
    let store = Store::open(&disk, journal, idle_config(), seams.clone()).await.unwrap();
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
    let given_up = seams.spawner.timeout(Duration::from_secs(1), store.delete(SHARD)).await;
    assert!(given_up.is_none());
    let again = store.delete(SHARD).await;
    assert!(matches!(again, Err(Error::Snapshot(SnapshotError::Installing))), "{again:?}");
    assert_eq!(store.entity(SHARD, &key("a")).unwrap().unwrap().version, 1);
    was_asked.recv().await.unwrap().send(()).unwrap();
    cleared().await;
    assert_empty(&store);
    store.delete(SHARD).await.unwrap();
    assert_empty(&open(&disk.power_cut(1)).await);
}

/// A store whose shard 3 is deleted now and then, and everything that it ever held.
struct Deleter {
    store: Store,
    model: Model,
    /// Of each shard all that it was, oldest first. Empty and at the same generation is the same as another time.
    states: BTreeMap<ShardId, Vec<ModelShard>>,
    /// How many of these are certainly not on disk any more, because a later one is.
    durable: BTreeMap<ShardId, usize>,
    deletions: usize,
}

impl Deleter {
    async fn write(&mut self, shard: ShardId, random: &SeededRandom) -> Option<()> {
        let changes = self.model.random_changes_of(shard, random);
        self.states.get_mut(&shard)?.push(self.model.shards[&shard].clone());
        self.store.write(changes).await.ok()
    }

    async fn checkpoint(&mut self) -> Option<()> {
        let numbers: Vec<_> = self.states.iter().map(|(shard, states)| (*shard, states.len() - 1)).collect();
        self.store.checkpoint().await.ok()?;
        self.durable.extend(numbers);
        Some(())
    }

    async fn delete(&mut self, random: &SeededRandom) -> Option<()> {
        let before = self.model.shards.get(&SHARD).cloned().unwrap_or_default();
        let mut empty = ModelShard::default();
        empty.head.generation = before.head.generation + u32::from(before.head.applied.is_some());
        self.states.get_mut(&SHARD)?.push(empty.clone());
        let number = self.states[&SHARD].len() - 1;
        let store = self.store.clone();
        let mut others = Vec::new();
        for _ in 0..random.next_u64() % 3 {
            others.push(self.model.random_changes_of(OTHER, random));
            self.states.get_mut(&OTHER)?.push(self.model.shards[&OTHER].clone());
        }
        let write_others = async {
            for changes in others {
                store.write(changes).await.ok()?;
            }
            Some(())
        };
        let (deleted, written) = futures_util::join!(store.delete(SHARD), write_others);
        deleted.ok()?;
        written?;
        self.durable.insert(SHARD, number);
        self.deletions += 1;
        self.model.shards.insert(SHARD, empty);
        Some(())
    }

    /// `None` when the power is gone.
    async fn work(&mut self, random: &SeededRandom) -> Option<()> {
        let below = |limit: u64| random.next_u64() % limit;
        for _ in 0..100 {
            match below(14) {
                0 => self.delete(random).await?,
                1 => self.checkpoint().await?,
                2 => Seams::simulated(1).spawner.sleep(Duration::from_millis(below(300))).await,
                3..10 => self.write(SHARD, random).await?,
                _ => self.write(OTHER, random).await?,
            }
        }
        Some(())
    }

    /// Whether `store`, opened after a crash, holds of every shard a whole state, and none that is older than it may be.
    fn check(&self, store: &Store) -> Result<(), String> {
        for (shard, states) in &self.states {
            let found = store.shard_head(*shard).unwrap_or_default();
            let is_found = |state: &ModelShard| state.head == found;
            let number =
                states.iter().rposition(is_found).ok_or_else(|| format!("shard {shard} never was {found:?}"))?;
            let durable = self.durable.get(shard).copied().unwrap_or(0);
            if number < durable {
                return Err(format!("shard {shard} is back at state {number}, and {durable} was durable"));
            }
            check_shard(store, *shard, &states[number]).map_err(|wrong| format!("shard {shard}: {wrong}"))?;
        }
        Ok(())
    }
}

/// How often something happened, so that a test can tell that its cuts came at telling moments.
#[derive(Debug, Default)]
struct Tally {
    deletions: usize,
    empty: usize,
    begun_anew: usize,
    orphans: usize,
}

async fn crash(seed: u64, faults: Faults, tally: &mut Tally) -> Result<(), String> {
    let random = SeededRandom::new(seed);
    let disk = SimulatedDisk::new();
    let config = Config {
        cache_bytes: 100_000,
        flush_bytes: 2_000,
        queue_bytes_max: 10_000,
        checkpoint_bytes: 20_000,
        checkpoint_interval: Duration::from_millis(300),
        ..Fatal::default().config()
    };
    disk.cut_power_after(20 + random.next_u64() % 500);
    disk.set_faults(faults);
    let store = Store::open(&disk, flushed_journal(), config, Seams::simulated(seed)).await;
    let Ok(store) = store else { return Ok(()) };
    let states = [SHARD, OTHER].map(|shard| (shard, vec![ModelShard::default()])).into();
    let (model, durable) = (Model::default(), BTreeMap::new());
    let mut deleter = Deleter { store, model, states, durable, deletions: 0 };
    let _ = deleter.work(&random).await;
    let after = match random.next_u64() % 4 {
        0 => disk.process_killed(),
        _ => disk.power_cut(random.next_u64()),
    };
    after.set_faults(Faults::default());
    let store = Store::open(&after, flushed_journal(), idle_config(), Seams::simulated(seed)).await;
    let store = store.map_err(|error| error.to_string())?;
    deleter.check(&store)?;
    let head = store.shard_head(SHARD).unwrap_or_default();
    tally.deletions += deleter.deletions;
    tally.empty += usize::from(head.generation > 0 && head.applied.is_none());
    tally.begun_anew += usize::from(head.generation > 0 && head.applied.is_some());
    tally.orphans += usize::from(generations_in_file(&store).len() > store.shards().len());

    // The next life: nothing is left over, and the shard begins anew.
    store.delete(SHARD).await.map_err(|error| error.to_string())?;
    store.write(following(&store, 1, vec![added("a", 1, 2, 1)])).await.map_err(|error| error.to_string())?;
    cleared().await;
    store.flush();
    assert_eq!(store.entity(SHARD, &key("a")).unwrap().map(|entity| entity.version), Some(2));
    let current = store.shard_head(SHARD).unwrap_or_default().generation;
    let mut left = generations_in_file(&store);
    left.retain(|(shard, _)| *shard == SHARD);
    if left == [(SHARD, current)] { Ok(()) } else { Err(format!("rows are left of {left:?}")) }
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_a_shard_is_as_it_was_or_deleted_and_the_others_are_untouched() {
    let mut tally = Tally::default();
    for seed in 0..400 {
        if let Err(wrong) = crash(seed, Faults::default(), &mut tally).await {
            panic!("seed {seed}: {wrong}");
        }
    }
    println!("{tally:?}");
    let telling = tally.deletions > 400 && tally.empty > 20 && tally.begun_anew > 100 && tally.orphans > 20;
    assert!(telling, "the cuts came at telling moments: {tally:?}");
}

#[tokio::test(start_paused = true)]
async fn the_check_notices_a_disk_that_lies_about_syncs() {
    let mut noticed = 0;
    for seed in 0..40 {
        let faults = Faults { sync_lies: true, ..Faults::default() };
        noticed += usize::from(crash(seed, faults, &mut Tally::default()).await.is_err());
    }
    println!("{noticed} of 40");
    assert!(noticed > 10, "{noticed} of 40");
}
