//! Staging and installing: what is left of them after power cuts, and what is cleared away.

use std::collections::BTreeMap;
use std::io;

use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::model::{Model, ModelShard, check_shard};
use super::*;
use crate::disk::Faults;

const INSTALLED: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);

fn current_generations(store: &Store) -> Vec<(ShardId, u32)> {
    store.shards().into_iter().map(|shard| (shard, store.shard_head(shard).unwrap().generation)).collect()
}

/// Lets the flusher clear away what it has to.
async fn cleared() {
    Seams::simulated(1).spawner.sleep(Duration::from_secs(1)).await;
}

/// A snapshot of `entities` entities in shard 3, up to entry 5.
async fn chunks_with(entities: usize) -> Vec<Bytes> {
    let source = open_with(&SimulatedDisk::new(), idle_config()).await;
    let all = (0..entities).map(|number| added(&format!("e{number}"), 1, 1, 20)).collect();
    source.write(changes(5, all)).await.unwrap();
    chunks_of(&source, SHARD, 20_000).await
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_staging_that_was_given_up_are_cleared_before_the_next_one_begins() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, idle_config()).await;
    let chunks = chunks_with(3_000).await;
    store.write(changes(1, vec![added("old", 1, 1, 1)])).await.unwrap();
    store.flush();
    let mut staging = store.stage(SHARD).await.unwrap();
    for chunk in chunks[..chunks.len() - 1].iter().cloned() {
        staging.add(chunk).await.unwrap();
    }
    assert_eq!(generations_in_file(&store), [(SHARD, 0), (SHARD, 1)]);
    drop(staging);
    let next = store.stage(SHARD).await.unwrap();
    assert_eq!(generations_in_file(&store), [(SHARD, 0)]);
    drop(next);
    cleared().await;

    install(&store, SHARD, chunks).await.unwrap();
    cleared().await;
    assert_eq!(generations_in_file(&store), current_generations(&store), "the former content is cleared too");
    assert_eq!(store.entity(SHARD, &key("old")).unwrap(), None);
    assert_eq!(store.entity(SHARD, &key("e2999")).unwrap().unwrap().version, 1);
}

#[tokio::test(start_paused = true)]
async fn clearing_takes_turns_with_writing() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let config = Config { flush_bytes: 1, ..idle_config() };
    let store = Store::open(&disk, flushed_journal(), config, seams).await.unwrap();
    let mut staging = store.stage(SHARD).await.unwrap();
    for chunk in chunks_with(6_000).await {
        staging.add(chunk).await.unwrap();
    }
    drop(staging);
    let other = |index| Changes { shard: OTHER, ..changes(index, vec![added("a", index, index, 1)]) };
    let mut turns = 0;
    for index in 1.. {
        store.write(other(index)).await.unwrap();
        store.in_file(OTHER).await;
        turns += 1;
        if generations_in_file(&store) == [(OTHER, 0)] {
            break;
        }
    }
    assert!((3..20).contains(&turns), "{turns}");
}

#[tokio::test(start_paused = true)]
async fn rows_that_a_crash_left_are_cleared_after_the_start() {
    let (disk, chunks) = (SimulatedDisk::new(), chunks_with(3_000).await);
    let store = open_with(&disk, idle_config()).await;
    let mut first = store.stage(SHARD).await.unwrap();
    let mut second = store.stage(SHARD).await.unwrap();
    first.add(chunks[0].clone()).await.unwrap();
    second.add(chunks[0].clone()).await.unwrap();
    store.checkpoint().await.unwrap();
    let disk = disk.process_killed();
    let store = open_with(&disk, idle_config()).await;
    assert_eq!(generations_in_file(&store), [(SHARD, 1), (SHARD, 2)]);
    assert_eq!(store.shard_head(SHARD), None);
    store.write(changes(1, vec![added("e0", 1, 2, 1)])).await.unwrap();
    cleared().await;
    store.flush();
    assert_eq!(generations_in_file(&store), [(SHARD, 0)]);
    assert_eq!(store.entity(SHARD, &key("e0")).unwrap().unwrap().version, 2, "the log came instead");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_written_stops_while_it_stages_and_while_it_installs() {
    let chunks = chunks_with(10).await;
    for fails_in_the_end in [false, true] {
        let (disk, fatal) = (SimulatedDisk::new(), Fatal::default());
        let store = open_with(&disk, Config { fatal: fatal.config().fatal, cache_bytes: 0, ..idle_config() }).await;
        store.write(changes(1, vec![added("old", 1, 1, 1)])).await.unwrap();
        store.checkpoint().await.unwrap();
        let faults = Faults { write: Some(io::ErrorKind::StorageFull), ..Faults::default() };
        let mut staging = store.stage(SHARD).await.unwrap();
        if fails_in_the_end {
            for chunk in chunks.clone() {
                staging.add(chunk).await.unwrap();
            }
            disk.set_faults(faults);
            assert!(matches!(staging.commit().await, Err(Error::File(_))));
        } else {
            disk.set_faults(faults);
            assert!(matches!(staging.add(chunks[0].clone()).await, Err(Error::File(_))));
        }
        disk.set_faults(Faults::default());
        tokio::task::yield_now().await;
        assert_eq!(fatal.said().len(), 1);
        assert!(matches!(store.write(changes(2, vec![])).await, Err(Error::Stopped(_))));
        assert!(matches!(store.stage(SHARD).await, Err(Error::Stopped(_))));
        let store = open(&disk.power_cut(1)).await;
        assert_eq!(store.shard_head(SHARD), Some(head(1)));
    }
}

/// Entries that contradict the snapshot are removed in the journal just before. Were the store ahead of that, it could not
/// start.
#[tokio::test(start_paused = true)]
async fn nothing_is_installed_before_the_journal_has_flushed_what_it_was_given() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let journal: JournalFlushed = Arc::new(move || {
        let (done, answer) = tokio::sync::oneshot::channel::<()>();
        asked.send(done).unwrap();
        Box::pin(async move { answer.await.map_err(io::Error::other) })
    });
    let store = Store::open(&disk, journal, idle_config(), seams.clone()).await.unwrap();
    let chunks = chunks_with(10).await;
    let installing = seams.spawner.spawn({
        let store = store.clone();
        async move { install(&store, SHARD, chunks).await }
    });
    let confirm = was_asked.recv().await.unwrap();
    cleared().await;
    assert!(!installing.is_finished());
    assert_eq!(open(&disk.process_killed()).await.shard_head(SHARD), None);
    confirm.send(()).unwrap();
    let installed = installing.await.unwrap().unwrap();
    assert_eq!(open(&disk.power_cut(1)).await.shard_head(SHARD), Some(installed));
}

/// A store that receives a snapshot, and everything that it ever held.
struct Receiver {
    store: Store,
    model: Model,
    /// Of each shard all that it was, oldest first.
    states: BTreeMap<ShardId, Vec<ModelShard>>,
    /// How many of these are certainly not on disk any more, because a later one is.
    durable: BTreeMap<ShardId, usize>,
    /// The snapshot was made durable.
    is_installed: bool,
}

impl Receiver {
    fn new(store: Store) -> Self {
        let states = [INSTALLED, OTHER].map(|shard| (shard, vec![ModelShard::default()])).into();
        Self { store, model: Model::default(), states, durable: BTreeMap::new(), is_installed: false }
    }

    async fn write(&mut self, random: &SeededRandom) -> Option<()> {
        let changes = self.model.random_changes(random);
        let shard = changes.shard;
        self.states.get_mut(&shard)?.push(self.model.shards[&shard].clone());
        self.store.write(changes).await.ok()?;
        self.note_durable();
        Some(())
    }

    fn note_durable(&mut self) {
        for (shard, applied) in self.store.checkpointed().applied.iter() {
            let states = self.states.get(shard).into_iter().flatten();
            let number = states.take_while(|state| state.head.applied < Some(*applied)).count();
            self.durable.insert(*shard, number);
        }
    }

    /// `None` when the power is gone.
    async fn work(&mut self, chunks: &[Bytes], content: &ModelShard, random: &SeededRandom) -> Option<()> {
        let below = |limit: u64| random.next_u64() % limit;
        let spawner = Seams::simulated(1).spawner;
        for _ in 0..below(12) {
            self.write(random).await?;
        }
        loop {
            let mut staging = self.store.stage(INSTALLED).await.ok()?;
            let given_up_after = if below(4) == 0 { below(chunks.len() as u64) as usize } else { usize::MAX };
            for chunk in chunks.iter().take(given_up_after) {
                staging.add(chunk.clone()).await.ok()?;
                match below(12) {
                    0 => drop(self.store.checkpoint().await.ok()?),
                    1 => spawner.sleep(Duration::from_millis(below(100))).await,
                    2..6 => self.write(random).await?,
                    _ => {}
                }
            }
            if given_up_after == usize::MAX {
                self.install(staging, content, random).await?;
                break;
            }
        }
        for _ in 0..below(15) {
            self.write(random).await?;
            if below(6) == 0 {
                self.store.checkpoint().await.ok()?;
            }
        }
        Some(())
    }

    async fn install(&mut self, staging: Staging, content: &ModelShard, random: &SeededRandom) -> Option<()> {
        let mut content = content.clone();
        content.head.installed = content.head.applied;
        // What the disk holds afterwards may be this, whether or not we learn of it.
        content.head.generation = self.model.shards.get(&INSTALLED).map_or(0, |shard| shard.head.generation) + 1;
        self.states.get_mut(&INSTALLED)?.push(content.clone());
        let number = self.states[&INSTALLED].len() - 1;
        let installing = staging.commit();
        // Others go on meanwhile.
        let mut others = Vec::new();
        for _ in 0..random.next_u64() % 3 {
            others.push(self.model.random_changes_of(OTHER, random));
            self.states.get_mut(&OTHER)?.push(self.model.shards[&OTHER].clone());
        }
        let store = self.store.clone();
        let write_others = async move {
            for changes in others {
                store.write(changes).await.ok()?;
            }
            Some(())
        };
        let (installed, written) = futures_util::join!(installing, write_others);
        written?;
        let installed = installed.ok()?;
        self.durable.insert(INSTALLED, number);
        self.is_installed = true;
        let generation = installed.publish().generation;
        assert_eq!(generation, content.head.generation);
        self.model.shards.insert(INSTALLED, content);
        Some(())
    }

    /// Whether `store`, opened after a crash, holds of every shard a whole state, and none that is older than it may be.
    fn check(&mut self, store: &Store) -> Result<(), String> {
        for (shard, states) in &self.states {
            let applied = store.shard_head(*shard).unwrap_or_default().applied;
            let number = states.iter().rposition(|state| state.head.applied == applied);
            let number = number.ok_or_else(|| format!("shard {shard} is at {applied:?}, where it never was"))?;
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
    before: usize,
    installed: usize,
    written_on: usize,
    orphans: usize,
}

async fn crash(seed: u64, faults: Faults, tally: &mut Tally) -> Result<(), String> {
    let random = SeededRandom::new(seed);
    let source = open_with(&SimulatedDisk::new(), idle_config()).await;
    let mut source_model = Model::default();
    for _ in 0..80 {
        source.write(source_model.random_changes(&random)).await.unwrap();
    }
    let chunks = chunks_of(&source, INSTALLED, 2_000).await;
    let content = source_model.shards[&INSTALLED].clone();

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
    let mut receiver = Receiver::new(store);
    let done = receiver.work(&chunks, &content, &random).await;
    receiver.note_durable();
    let applied = receiver.store.shard_head(INSTALLED).unwrap_or_default();
    let after = match random.next_u64() % 4 {
        0 => disk.process_killed(),
        _ => disk.power_cut(random.next_u64()),
    };
    after.set_faults(Faults::default());
    let store = Store::open(&after, flushed_journal(), idle_config(), Seams::simulated(seed)).await;
    let store = store.map_err(|error| error.to_string())?;
    receiver.check(&store)?;
    tally.before += usize::from(done.is_none() && !receiver.is_installed);
    tally.installed += usize::from(store.shard_head(INSTALLED).is_some_and(|head| head.is_as_installed()));
    tally.written_on += usize::from(receiver.is_installed && !applied.is_as_installed());
    tally.orphans += usize::from(generations_in_file(&store).len() > store.shards().len());

    // The next life: nothing is left over, and the snapshot can be installed if it was not.
    let expected = store.shard_head(INSTALLED).unwrap_or_default();
    if expected.installed.is_none() {
        let before = expected.generation;
        let head = install(&store, INSTALLED, chunks).await.map_err(|error| error.to_string())?;
        assert_eq!(head.generation, before + 1);
        let mut content = content;
        content.head = ShardHead { generation: head.generation, installed: head.applied, ..content.head };
        check_shard(&store, INSTALLED, &content).map_err(|wrong| format!("installed in the next life: {wrong}"))?;
    }
    cleared().await;
    // A shard that was only ever a head, without entities and outcomes, has no rows.
    let mut left = generations_in_file(&store);
    left.retain(|generation| !current_generations(&store).contains(generation));
    if left.is_empty() { Ok(()) } else { Err(format!("rows are left of {left:?}")) }
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_a_shard_is_as_it_was_or_as_installed_and_the_others_are_untouched() {
    let mut tally = Tally::default();
    for seed in 0..400 {
        if let Err(wrong) = crash(seed, Faults::default(), &mut tally).await {
            panic!("seed {seed}: {wrong}");
        }
    }
    println!("{tally:?}");
    assert!(tally.before > 60 && tally.installed > 20 && tally.written_on > 20 && tally.orphans > 20, "{tally:?}");
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
