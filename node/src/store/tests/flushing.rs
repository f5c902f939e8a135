//! When and how changes reach the file, and what happens when they cannot.

use std::io;

use futures_util::FutureExt;

use super::*;
use crate::disk::Faults;

fn applied(store: &Store) -> Option<u64> {
    store.shard_head(SHARD)?.applied.map(|applied| applied.index)
}

/// What a start after a power cut finds.
async fn applied_after_power_cut(disk: &SimulatedDisk) -> Option<u64> {
    applied(&open(&disk.power_cut(1)).await)
}

#[tokio::test(start_paused = true)]
async fn changes_are_flushed_after_the_flush_interval_and_durable_after_the_checkpoint_interval() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let store = Store::open(&disk, flushed_journal(), Config::default(), seams.clone()).await.unwrap();
    for index in 1..=10 {
        store.write(changes(index, vec![added("a", index, index, 1)])).await.unwrap();
    }
    seams.spawner.sleep(Duration::from_millis(199)).await;
    assert_eq!(store.statistics().flushes, 0);
    assert!(store.statistics().queued_bytes > 0);
    seams.spawner.sleep(Duration::from_millis(2)).await;
    assert_eq!((store.statistics().flushes, store.statistics().queued_bytes), (1, 0));
    seams.spawner.sleep(Duration::from_millis(4_750)).await;
    assert_eq!(applied_after_power_cut(&disk).await, None);
    seams.spawner.sleep(Duration::from_millis(100)).await;
    assert_eq!(applied_after_power_cut(&disk).await, Some(10));
    assert_eq!(store.checkpointed().applied[&SHARD].index, 10);
    seams.spawner.sleep(Duration::from_mins(1)).await;
    assert_eq!((store.statistics().flushes, store.statistics().checkpoints), (1, 1), "nothing to do, nothing done");
}

#[tokio::test(start_paused = true)]
async fn size_alone_brings_a_flush_and_a_checkpoint() {
    let disk = SimulatedDisk::new();
    let config = Config { flush_bytes: 10_000, checkpoint_bytes: 25_000, ..idle_config() };
    let store = open_with(&disk, config).await;
    let seams = Seams::simulated(1);
    for index in 1..=3 {
        store.write(changes(index, vec![added("a", index, index, 10_000)])).await.unwrap();
        seams.spawner.sleep(Duration::from_millis(1)).await;
        let statistics = store.statistics();
        assert_eq!((statistics.flushes, statistics.checkpoints), (index, u64::from(index == 3)), "{index}");
    }
    assert_eq!(applied_after_power_cut(&disk).await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn writers_wait_when_the_queue_is_full_and_go_on_when_there_is_room() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, Config { queue_bytes_max: 20_000, ..idle_config() }).await;
    store.write(changes(1, vec![added("a", 1, 1, 30_000)])).now_or_never().unwrap().unwrap();
    assert!(store.write(changes(2, vec![added("a", 2, 2, 1)])).now_or_never().is_none(), "full");
    assert_eq!(applied(&store), Some(1), "what was not taken is not there");
    store.write(changes(2, vec![added("a", 2, 2, 1)])).await.unwrap();
    assert_eq!((applied(&store), store.statistics().flushes), (Some(2), 1));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_fixes_its_content_then_waits_for_the_journal_then_commits() {
    let disk = SimulatedDisk::new();
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let journal: JournalFlushed = Arc::new(move || {
        let (done, answer) = tokio::sync::oneshot::channel::<()>();
        asked.send(done).unwrap();
        Box::pin(async move { answer.await.map_err(io::Error::other) })
    });
    let store = Store::open(&disk, journal, idle_config(), Seams::simulated(1)).await.unwrap();
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();

    let checkpoint = Seams::simulated(1).spawner.spawn({
        let store = store.clone();
        async move { store.checkpoint().await }
    });
    let confirm = was_asked.recv().await.unwrap();
    store.write(changes(2, vec![added("a", 2, 2, 1)])).await.unwrap();
    assert_eq!(applied_after_power_cut(&disk).await, None, "the journal has not confirmed");
    assert_eq!(store.entity(SHARD, &key("a")).unwrap().unwrap().version, 2, "readers do not wait for any of this");
    assert!(!checkpoint.is_finished());

    confirm.send(()).unwrap();
    let checkpointed = checkpoint.await.unwrap().unwrap();
    assert_eq!(checkpointed.applied[&SHARD].index, 1, "what came after the journal was asked is not part of it");
    assert_eq!(applied_after_power_cut(&disk).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_confirm_stops_the_store_where_it_was() {
    let (disk, fatal) = (SimulatedDisk::new(), Fatal::default());
    let journal: JournalFlushed = Arc::new(|| Box::pin(async { Err(io::Error::other("gone")) }));
    for is_closing in [false, true] {
        let config = Config { fatal: fatal.config().fatal, ..idle_config() };
        let store = Store::open(&disk, journal.clone(), config, Seams::simulated(1)).await.unwrap();
        store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
        let answer = if is_closing { store.clone().close().await } else { store.checkpoint().await };
        assert!(matches!(answer, Err(Error::Journal(_))));
        tokio::task::yield_now().await;
        assert!(matches!(store.write(changes(2, vec![])).await, Err(Error::Stopped(_))));
        assert_eq!(store.checkpointed(), Checkpointed::default());
        drop(store);
        tokio::task::yield_now().await;
        assert_eq!(applied(&open(&disk.process_killed()).await), None, "dropping must not slip past the journal");
    }
    assert_eq!(fatal.said(), Vec::<String>::new(), "the journal has said it");
}

#[tokio::test(start_paused = true)]
async fn callers_at_the_same_time_share_one_checkpoint() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
    let all = futures_util::future::join_all((0..5).map(|_| store.checkpoint())).await;
    assert!(all.into_iter().all(|checkpointed| checkpointed.unwrap().applied[&SHARD].index == 1));
    assert_eq!(store.statistics().checkpoints, 1);
    store.checkpoint().await.unwrap();
    assert_eq!(store.statistics().checkpoints, 1, "nothing new, nothing to sync");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_dropped_stays_at_its_last_checkpoint() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, idle_config()).await;
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
    store.checkpoint().await.unwrap();
    store.write(changes(2, vec![added("a", 2, 2, 1)])).await.unwrap();
    store.flush();
    drop(store);
    tokio::task::yield_now().await;
    let store = open(&disk.process_killed()).await;
    assert_eq!(applied(&store), Some(1));
    assert_eq!(store.entity(SHARD, &key("a")).unwrap().unwrap().version, 1);
}

#[tokio::test(start_paused = true)]
async fn other_handles_of_a_closed_store_can_do_nothing_any_more() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    let other = store.clone();
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(other.write(changes(2, vec![])).await, Err(Error::Stopped(_))));
    assert!(matches!(other.checkpoint().await, Err(Error::Stopped(_))));
    assert!(matches!(other.entity(SHARD, &key("a")), Err(Error::Stopped(_))));
    assert!(matches!(other.close().await, Err(Error::Stopped(_))));
    assert_eq!(applied(&open(&disk).await), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_fsync_stops_the_store_once_and_for_all() {
    let (disk, fatal) = (SimulatedDisk::new(), Fatal::default());
    let store = open_with(&disk, Config { fatal: fatal.config().fatal, ..idle_config() }).await;
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
    disk.set_faults(Faults { sync: Some(io::ErrorKind::StorageFull), ..Faults::default() });
    assert!(matches!(store.checkpoint().await, Err(Error::File(_))));
    disk.set_faults(Faults::default());
    tokio::task::yield_now().await;
    assert!(matches!(store.write(changes(2, vec![])).await, Err(Error::Stopped(_))), "it is not tried again");
    assert!(matches!(store.checkpoint().await, Err(Error::Stopped(_))));
    assert_eq!(fatal.said().len(), 1, "{:?}", fatal.said());
    drop(store);
    assert_eq!(fatal.said().len(), 1);
    assert_eq!(applied_after_power_cut(&disk).await, None);
}

#[tokio::test(start_paused = true)]
async fn changes_that_do_not_follow_the_file_stop_the_store() {
    let (disk, fatal) = (SimulatedDisk::new(), Fatal::default());
    let store = open_with(&disk, Config { fatal: fatal.config().fatal, ..idle_config() }).await;
    store.write(changes(1, vec![added("a", 2, 2, 1)])).await.unwrap();
    assert!(matches!(store.checkpoint().await, Err(Error::Sequence(_))), "an entity that begins with version 2");
    tokio::task::yield_now().await;
    assert_eq!(fatal.said().len(), 1);
    drop(store);
    assert_eq!(applied(&open(&disk).await), None);
}
