//! Power cuts while the store works, and bits that flip while it does not.

use redb::StorageBackend;

use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::model::{Model, check};
use super::*;

/// Of the states that `models` went through, the one that `store` is in.
fn state_of(store: &Store, models: &[Model]) -> Result<usize, String> {
    let applied = |store: &Store| -> u64 {
        let heads = store.shards().into_iter().filter_map(|shard| store.shard_head(shard)?.applied);
        heads.map(|applied| applied.index).sum()
    };
    let number = applied(store) as usize;
    let model = models.get(number).ok_or("more applied than was written")?;
    assert_eq!(model.applied(), number as u64);
    check(store, model).map(|()| number)
}

/// Works until the power goes. Returns every state there was, and the number of the last that a finished checkpoint holds.
async fn work(disk: &SimulatedDisk, seed: u64) -> (Vec<Model>, usize) {
    let (random, seams) = (SeededRandom::new(seed), Seams::simulated(seed));
    let config = Config {
        cache_bytes: 100_000,
        flush_bytes: 2_000,
        queue_bytes_max: 10_000,
        checkpoint_bytes: 20_000,
        checkpoint_interval: Duration::from_millis(500),
        ..Fatal::default().config()
    };
    let (mut models, mut durable) = (vec![Model::default()], 0);
    let Ok(store) = Store::open(disk, flushed_journal(), config, seams.clone()).await else { return (models, durable) };
    while !disk.power_is_off() && models.len() < 300 {
        let mut model = models[models.len() - 1].clone();
        let changes = model.random_changes(&random);
        models.push(model);
        if store.write(changes).await.is_err() {
            break;
        }
        match random.next_u64() % 20 {
            0 => drop(store.checkpoint().await),
            1..4 => seams.spawner.sleep(Duration::from_millis(random.next_u64() % 200)).await,
            _ => {}
        }
        let checkpointed = store.checkpointed().applied;
        durable = durable.max(checkpointed.values().map(|applied| applied.index).sum::<u64>() as usize);
    }
    (models, durable)
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_the_store_is_as_a_checkpoint_left_it() {
    let (mut checkpointed, mut later) = (0, 0);
    for seed in 0..300 {
        let random = SeededRandom::new(!seed);
        let disk = SimulatedDisk::new();
        disk.cut_power_after(random.next_u64() % 400);
        let (models, durable) = work(&disk, seed).await;
        let after = match random.next_u64() % 4 {
            0 => disk.process_killed(),
            _ => disk.power_cut(random.next_u64()),
        };
        let store = open(&after).await;
        let number = state_of(&store, &models).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        assert!(number >= durable, "seed {seed}: {durable} was durable, {number} is there");
        checkpointed += usize::from(durable > 0);
        later += usize::from(number > durable);
    }
    assert!(checkpointed > 100 && later > 2, "the cuts came at telling moments: {checkpointed} {later}");
}

#[tokio::test(start_paused = true)]
async fn the_check_notices_a_disk_that_lies_about_syncs() {
    let mut noticed = 0;
    for seed in 0..30 {
        let disk = SimulatedDisk::new();
        disk.cut_power_after(300);
        disk.set_faults(crate::disk::Faults { sync_lies: true, ..Default::default() });
        let (models, durable) = work(&disk, seed).await;
        let store = Store::open(&disk.power_cut(seed), flushed_journal(), Config::default(), Seams::simulated(1)).await;
        let state = store.map_err(|error| error.to_string()).and_then(|store| state_of(&store, &models));
        noticed += usize::from(!state.is_ok_and(|number| number >= durable));
    }
    assert!(noticed > 20, "{noticed} of 30");
}

/// A store with some entities, at rest; whether it was closed or killed. With what it holds.
async fn at_rest(is_closed: bool) -> (SimulatedDisk, Model) {
    let (disk, random) = (SimulatedDisk::new(), SeededRandom::new(4));
    let store = open_with(&disk, idle_config()).await;
    let mut model = Model::default();
    for number in 0..150 {
        store.write(model.random_changes(&random)).await.unwrap();
        if number % 40 == 39 {
            store.checkpoint().await.unwrap();
        }
    }
    if is_closed {
        store.close().await.unwrap();
    } else {
        store.checkpoint().await.unwrap();
    }
    (disk.process_killed(), model)
}

#[derive(Debug, Default)]
struct Flips {
    refused: usize,
    unreadable: usize,
    right: usize,
}

impl Flips {
    /// Flips `bit` in a copy and counts what comes of it. Answers that are wrong are the test's failure.
    async fn flip(&mut self, disk: &SimulatedDisk, model: &Model, bit: usize) {
        let disk = disk.process_killed();
        disk.flip_bit("store.redb", bit);
        let opened = Store::open(&disk, flushed_journal(), idle_config(), Seams::simulated(1)).await;
        match opened.map(|store| check(&store, model)) {
            Err(_) => self.refused += 1,
            Ok(Ok(())) => self.right += 1,
            Ok(Err(wrong)) if wrong.starts_with("unreadable") => self.unreadable += 1,
            Ok(Err(wrong)) => panic!("bit {bit}: {wrong}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_flipped_bit_makes_the_store_silently_wrong() {
    for is_closed in [true, false] {
        let (disk, model) = at_rest(is_closed).await;
        let backend = disk.open("store.redb").unwrap();
        let mut bytes = vec![0; backend.len().unwrap() as usize];
        backend.read(0, &mut bytes).unwrap();
        let in_use: Vec<_> = (0..bytes.len()).filter(|place| bytes[*place] != 0).collect();
        let random = SeededRandom::new(9);
        let mut flips = Flips::default();
        for number in 0..200 {
            // Every second one where there is something.
            let byte = match number % 2 {
                0 => random.next_u64() as usize % bytes.len(),
                _ => in_use[random.next_u64() as usize % in_use.len()],
            };
            flips.flip(&disk, &model, byte * 8 + random.next_u64() as usize % 8).await;
        }
        assert!(flips.refused + flips.unreadable > 50, "the flips hit something: {flips:?}");
        println!("closed: {is_closed}, {} bytes, {} in use, {flips:?}", bytes.len(), in_use.len());
    }
}
