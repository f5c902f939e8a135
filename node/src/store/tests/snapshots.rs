//! A shard as a snapshot: what it holds, how it travels, and what of it is refused.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use proptest::prelude::*;

use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::model::{Model, check};
use super::*;

const OTHER: ShardId = ShardId(4);

fn snapshot_error<T: std::fmt::Debug>(result: Result<T, Error>) -> SnapshotError {
    match result {
        Err(Error::Snapshot(error)) => error,
        other => panic!("it was not refused as a snapshot: {other:?}"),
    }
}

fn versions(store: &Store, ids: &[&str]) -> Vec<Option<Version>> {
    let keys: Vec<_> = ids.iter().map(|id| key(id)).collect();
    store.entities(SHARD, &keys).unwrap().into_iter().map(|entity| entity.map(|entity| entity.version)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_holds_what_was_written_before_it_was_asked_for_and_nothing_later() {
    let (source, target) =
        (open_with(&SimulatedDisk::new(), idle_config()).await, open_with(&SimulatedDisk::new(), idle_config()).await);
    source.write(changes(1, vec![added("a", 1, 3, 10)])).await.unwrap();
    source.flush();
    let outcomes = vec![outcome(Lane::Client, 1), outcome(Lane::Client, 2)];
    source.write(Changes { outcomes, ..changes(2, vec![added("b", 1, 1, 10)]) }).await.unwrap();
    let expired = RowBounds { client: 2, gateway: 0 };
    source.write(Changes { expired, ..changes(3, vec![added("a", 4, 4, 10)]) }).await.unwrap();

    let mut reader = source.snapshot(SHARD).await.unwrap();
    source.write(changes(4, vec![added("a", 5, 5, 10), added("c", 1, 1, 10)])).await.unwrap();
    source.flush();
    assert_eq!(reader.head(), &head(3));
    assert_eq!(source.statistics().checkpoints, 0, "reading needs no fsync");
    let chunk = reader.next_chunk().await.unwrap().unwrap();
    assert_eq!(reader.next_chunk().await.unwrap(), None);
    assert_eq!(reader.next_chunk().await.unwrap(), None);

    let installed = install(&target, SHARD, vec![chunk]).await.unwrap();
    let expected = ShardHead { generation: 1, installed: head(3).applied, ..head(3) };
    assert_eq!((target.shard_head(SHARD), &installed), (Some(expected.clone()), &expected));
    assert!(installed.is_as_installed());
    assert_eq!(versions(&target, &["a", "b", "c"]), [Some(4), Some(1), None]);
    assert_eq!(outcome_index(&target, SHARD), [(Lane::Client, 2)], "what had expired does not come back");
    assert_eq!(target.checkpointed().applied[&SHARD].index, 3);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_never_written_has_no_snapshot() {
    let store = open(&SimulatedDisk::new()).await;
    assert!(matches!(store.snapshot(SHARD).await, Err(Error::Absent(SHARD))));
    store.write(changes(1, vec![])).await.unwrap();
    assert!(matches!(store.snapshot(OTHER).await, Err(Error::Absent(OTHER))));
    let chunks = chunks_of(&store, SHARD, 100).await;
    assert_eq!(chunks.len(), 1, "a shard without entities has a head");
    let target = open(&SimulatedDisk::new()).await;
    assert_eq!(install(&target, SHARD, chunks).await.unwrap().applied, head(1).applied);
}

#[tokio::test(start_paused = true)]
async fn chunks_are_bounded_and_a_larger_row_has_one_of_its_own() {
    let source = open_with(&SimulatedDisk::new(), idle_config()).await;
    let large = 3 << 20;
    let snapshot = Some(Snapshot { version: 2, state: vec![b'1'; 700_000].into() });
    let entities = vec![
        EntityChange { snapshot, ..added("a", 1, 400, 10_000) },
        added("b", 1, 1, large),
        added("c", 1, 100, 1_000),
    ];
    source.write(changes(1, entities)).await.unwrap();
    let chunks = chunks_of(&source, SHARD, 1 << 20).await;
    let lengths: Vec<_> = chunks.iter().map(Bytes::len).collect();
    let above: Vec<_> = lengths.iter().filter(|length| **length > 1 << 20).collect();
    assert_eq!(above.len(), 1, "{lengths:?}");
    assert!(*above[0] < large + 200, "it is alone: {lengths:?}");
    assert!(lengths.len() < 12, "chunks are filled: {lengths:?}");
    let mut reader = source.snapshot(SHARD).await.unwrap();
    assert_eq!(reader.next_chunk().await.unwrap().unwrap().len(), lengths[0], "1 MiB is what a reader gives");

    let target = open_with(&SimulatedDisk::new(), idle_config()).await;
    install(&target, SHARD, chunks).await.unwrap();
    for id in ["a", "b", "c"] {
        assert_eq!(target.entity(SHARD, &key(id)).unwrap(), source.entity(SHARD, &key(id)).unwrap());
    }
}

/// A store with entities in rows of several kinds, and its snapshot in many chunks.
async fn source() -> (Store, Vec<Bytes>) {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    for index in 1..=6 {
        let first = index * 3 - 2;
        let snapshot = Some(Snapshot { version: first, state: Bytes::from_static(b"{}") });
        let entities = vec![EntityChange { snapshot, ..added("a", first, first + 2, 40) }, added("b", index, index, 5)];
        let outcomes = vec![outcome(Lane::Client, index), outcome(Lane::Gateway, index)];
        store.write(Changes { outcomes, ..changes(index, entities) }).await.unwrap();
        store.flush();
    }
    let chunks = chunks_of(&store, SHARD, 300).await;
    assert!(chunks.len() > 6, "{}", chunks.len());
    (store, chunks)
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_does_not_belong_is_refused_and_the_right_one_still_taken() {
    let (source, chunks) = source().await;
    let others = chunks_of(&source, SHARD, 300).await;
    source.write(Changes { shard: OTHER, ..changes(1, vec![added("a", 1, 1, 1)]) }).await.unwrap();
    let of_other_shard = chunks_of(&source, OTHER, 300).await;

    let target = open_with(&SimulatedDisk::new(), idle_config()).await;
    let mut staging = target.stage(SHARD).await.unwrap();
    assert_eq!(snapshot_error(staging.add(of_other_shard[0].clone()).await), SnapshotError::Foreign);
    let number = |expected, found| SnapshotError::Number { expected, found };
    assert_eq!(snapshot_error(staging.add(chunks[1].clone()).await), number(0, 1));
    assert_eq!(staging.head(), None);
    staging.add(chunks[0].clone()).await.unwrap();
    assert_eq!(staging.head(), Some(&head(6)));
    for (place, chunk) in (0..).zip(&chunks).skip(1) {
        assert_eq!(snapshot_error(staging.add(chunks[0].clone()).await), number(place, 0), "the first once more");
        assert_eq!(snapshot_error(staging.add(others[place as usize].clone()).await), SnapshotError::Foreign);
        if let Some(later) = chunks.get(place as usize + 1) {
            assert_eq!(snapshot_error(staging.add(later.clone()).await), number(place, place + 1));
        }
        assert_eq!(snapshot_error(staging.add(chunk.slice(..chunk.len() - 1)).await), SnapshotError::Checksum);
        for at in [0, 3, 6, 14, 17, 18, 19, 20, chunk.len() / 2, chunk.len() - 1] {
            let mut damaged = chunk.to_vec();
            damaged[at] ^= 4;
            snapshot_error(staging.add(damaged.into()).await);
        }
        assert!(!staging.is_whole());
        staging.add(chunk.clone()).await.unwrap();
    }
    assert!(staging.is_whole());
    assert_eq!(snapshot_error(staging.add(chunks[0].clone()).await), SnapshotError::AfterLast);
    staging.commit().await.unwrap().publish();
    for id in ["a", "b"] {
        assert_eq!(target.entity(SHARD, &key(id)).unwrap(), source.entity(SHARD, &key(id)).unwrap());
    }
    assert_eq!(outcome_index(&target, SHARD), outcome_index(&source, SHARD));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_which_a_part_is_missing_is_never_installed() {
    let (_, chunks) = source().await;
    let target = open_with(&SimulatedDisk::new(), idle_config()).await;
    target.write(changes(2, vec![added("old", 1, 1, 1)])).await.unwrap();
    for count in 0..chunks.len() {
        let refused = install(&target, SHARD, chunks[..count].to_vec()).await;
        assert_eq!(snapshot_error(refused), SnapshotError::Unfinished, "{count} chunks");
        assert_eq!(target.shard_head(SHARD), Some(head(2)));
        assert_eq!(versions(&target, &["old", "a"]), [Some(1), None]);
    }
    target.write(changes(3, vec![added("old", 2, 2, 1)])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reader_outlives_its_store_but_reads_no_more() {
    let (store, chunks) = source().await;
    let mut reader = store.snapshot(SHARD).await.unwrap().in_chunks_of(300);
    let first = reader.next_chunk().await.unwrap().unwrap();
    // The number of the snapshot is another one, and with it the checksum.
    assert_eq!(first[13..], chunks[0][13..]);
    store.close().await.unwrap();
    assert!(reader.next_chunk().await.is_err(), "a closed file cannot be read");
}

#[tokio::test(start_paused = true)]
async fn readers_and_writers_see_the_former_content_until_the_new_one_is_published() {
    let (source, chunks) = source().await;
    let target = open_with(&SimulatedDisk::new(), idle_config()).await;
    target.write(changes(2, vec![added("a", 1, 2, 1), added("old", 1, 1, 1)])).await.unwrap();
    let mut staging = target.stage(SHARD).await.unwrap();
    for chunk in chunks.clone() {
        staging.add(chunk).await.unwrap();
        assert_eq!(versions(&target, &["a", "b", "old"]), [Some(2), None, Some(1)]);
    }
    target.write(changes(3, vec![added("a", 3, 3, 1)])).await.unwrap();
    let installed = staging.commit().await.unwrap();
    assert_eq!(
        (versions(&target, &["a", "b", "old"]), target.shard_head(SHARD)),
        (vec![Some(3), None, Some(1)], Some(head(3)))
    );
    let refused = target.write(changes(4, vec![added("a", 4, 4, 1)])).await;
    assert!(matches!(refused, Err(Error::Sequence(SequenceError::Installing(SHARD)))), "{refused:?}");
    target.write(Changes { shard: OTHER, ..changes(1, vec![added("a", 1, 1, 1)]) }).await.unwrap();
    let second = install(&target, SHARD, chunks.clone()).await;
    assert_eq!(snapshot_error(second), SnapshotError::Installing);
    assert_eq!(target.checkpoint().await.unwrap().applied[&SHARD].index, 6, "on disk it is there already");

    let published = installed.publish();
    assert_eq!(versions(&target, &["a", "b", "old"]), [Some(18), Some(6), None]);
    assert_eq!(target.events(SHARD, &key("a"), 3, 5, 1 << 20).unwrap().unwrap().events[0].version, 4);
    let refused = target.write(changes(7, vec![added("a", 19, 19, 1)])).await;
    assert!(matches!(refused, Err(Error::Sequence(SequenceError::Generation { .. }))), "{refused:?}");
    let after = ShardHead { applied: head(7).applied, ..published };
    target.write(Changes { head: after, ..changes(7, vec![added("a", 19, 19, 1)]) }).await.unwrap();
    assert!(!target.shard_head(SHARD).unwrap().is_as_installed());
    assert_eq!(versions(&target, &["a", "b", "old"]), [Some(19), Some(6), None]);
    let older = install(&target, SHARD, chunks_of(&source, SHARD, 1 << 20).await).await;
    assert!(matches!(snapshot_error(older), SnapshotError::NotNewer { .. }));
    assert_eq!(versions(&target, &["a", "b", "old"]), [Some(19), Some(6), None]);
}

/// Random content, from node to node: every one had other content of the same shards before, and writes on afterwards.
async fn hand_on(seed: u64, hops: usize) -> Result<usize, String> {
    let random = SeededRandom::new(seed);
    let below = |limit: u64| random.next_u64() % limit;
    let (mut installed, mut kept) = (0, None::<(SimulatedDisk, Store, Model)>);
    for hop in 0..hops {
        let disk = SimulatedDisk::new();
        let store = open_with(&disk, idle_config()).await;
        let mut model = Model::default();
        for _ in 0..below(15) {
            store.write(model.random_changes(&random)).await.unwrap();
        }
        if let Some((_, source, source_model)) = kept.take() {
            for (shard, content) in &source_model.shards {
                let chunks = chunks_of(&source, *shard, [200, 3_000, 1 << 20][below(3) as usize]).await;
                let before = model.shards.get(shard).and_then(|shard| shard.head.applied);
                let head = install(&store, *shard, chunks).await;
                if before >= content.head.applied {
                    assert!(matches!(snapshot_error(head), SnapshotError::NotNewer { .. }));
                    continue;
                }
                let head = head.map_err(|error| error.to_string())?;
                assert_ne!(head.generation, model.shards.get(shard).map_or(0, |shard| shard.head.generation));
                let mut content = content.clone();
                content.head.generation = head.generation;
                content.head.installed = content.head.applied;
                model.shards.insert(*shard, content);
                installed += 1;
                check(&store, &model).map_err(|wrong| format!("hop {hop}, installed: {wrong}"))?;
            }
        }
        for _ in 0..below(25) {
            store.write(model.random_changes(&random)).await.unwrap();
            match below(6) {
                0 => store.flush(),
                1 => drop(store.checkpoint().await.unwrap()),
                _ => {}
            }
        }
        check(&store, &model).map_err(|wrong| format!("hop {hop}, written on: {wrong}"))?;
        if below(2) == 0 {
            store.close().await.unwrap();
            let store = open_with(&disk, idle_config()).await;
            check(&store, &model).map_err(|wrong| format!("hop {hop}, opened again: {wrong}"))?;
            kept = Some((disk, store, model));
        } else {
            kept = Some((disk, store, model));
        }
    }
    Ok(installed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_shard_holds_is_the_same_on_the_next_node(seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let installed = runtime.block_on(hand_on(seed, 6));
        prop_assert!(installed.is_ok(), "{installed:?}");
    }
}

/// On real files, with real threads: a shard is written, read as a whole and installed elsewhere, over and over, while other
/// shards are written there and readers ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_whole_while_all_else_goes_on() {
    const LAST: u64 = 1_500;
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let config = Config {
        flush_interval: Duration::from_millis(1),
        checkpoint_interval: Duration::from_millis(15),
        queue_bytes_max: 30_000,
        ..Config::default()
    };
    let seams = Seams::system();
    let mut stores = Vec::new();
    for directory in &directories {
        let disk = crate::disk::DirectoryDisk::open(directory.path()).unwrap();
        stores.push((Store::open(&disk, flushed_journal(), config.clone(), seams.clone()).await.unwrap(), disk));
    }
    let (source, target) = (stores[0].0.clone(), stores[1].0.clone());
    let write = |store: Store, shard| async move {
        for index in 1..=LAST {
            let entities = vec![added("a", index, index, 300), added("b", index, index, 300)];
            store.write(Changes { shard, ..changes(index, entities) }).await.unwrap();
        }
    };
    let writers = [
        seams.spawner.spawn(write(source.clone(), SHARD)),
        seams.spawner.spawn(write(source.clone(), OTHER)),
        seams.spawner.spawn(write(target.clone(), OTHER)),
    ];
    let read = |store: Store| {
        move || {
            let (mut seen, mut reads) = ([0; 2], 0);
            while seen != [LAST; 2] {
                let entities = store.entities(SHARD, &[key("a"), key("b")]).unwrap();
                let found: Vec<_> =
                    entities.into_iter().map(|entity| entity.map_or(0, |entity| entity.version)).collect();
                assert_eq!(found[0], found[1], "a mixture");
                assert!(found[0] >= seen[0], "{found:?} after {seen:?}");
                (seen, reads) = ([found[0], found[1]], reads + 1);
            }
            reads
        }
    };
    let reader = seams.spawner.spawn(Box::pin(seams.spawner.blocking(read(target.clone()))));
    let (mut newest, mut installs) = (0, 0);
    while newest < LAST {
        let Ok(mut snapshot) = source.snapshot(SHARD).await else { continue };
        let head = snapshot.head().clone();
        let index = head.applied.unwrap().index;
        if index == newest {
            tokio::task::yield_now().await;
            continue;
        }
        let mut staging = target.stage(SHARD).await.unwrap();
        loop {
            // Calls that are given up while a thread works on them change nothing, and can be repeated.
            let chunk = match snapshot.next_chunk().now_or_never() {
                Some(chunk) => chunk,
                None => snapshot.next_chunk().await,
            };
            let Some(chunk) = chunk.unwrap() else { break };
            match staging.add(chunk.clone()).now_or_never() {
                Some(added) => added.unwrap(),
                None => staging.add(chunk).await.unwrap(),
            }
        }
        assert_eq!(staging.head(), Some(&head));
        staging.commit().await.unwrap().publish();
        assert_eq!(target.shard_head(SHARD).unwrap().applied, head.applied);
        (newest, installs) = (index, installs + 1);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let reads = reader.await.unwrap();
    println!("{installs} installs, {reads} reads");
    assert!(installs > 3);
    for shard in [SHARD, OTHER] {
        for id in ["a", "b"] {
            assert_eq!(target.entity(shard, &key(id)).unwrap(), source.entity(shard, &key(id)).unwrap());
        }
    }
    let heads: BTreeMap<_, _> = target.shards().into_iter().map(|shard| (shard, target.shard_head(shard))).collect();
    target.close().await.unwrap();
    let target = Store::open(&stores[1].1, flushed_journal(), config, seams).await.unwrap();
    assert_eq!(
        target.shards().into_iter().map(|shard| (shard, target.shard_head(shard))).collect::<BTreeMap<_, _>>(),
        heads
    );
    assert_eq!(target.entity(SHARD, &key("a")).unwrap().unwrap().version, LAST);
}
