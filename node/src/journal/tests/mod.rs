//! What the journal promises its callers, on healthy, slow, failing and damaged disks.

mod deleting;
mod pace;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use smallvec::smallvec;

use berth_shared::ids::NodeId;
use berth_shared::key::EntityKey;
use berth_shared::seam::Spawner;

use super::*;
use crate::disk::{DirectoryDisk, Faults, SimulatedDisk};
use crate::record::{Batch, EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};

const SHARD: ShardId = ShardId(3);
const OTHER: ShardId = ShardId(9);

fn log_id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: log_id(term, index), payload: Payload::Blank }
}

fn membership(term: u64, index: u64, bytes: usize) -> Entry {
    Entry { log_id: log_id(term, index), payload: Payload::Membership(Bytes::from(vec![index as u8; bytes])) }
}

fn batch(term: u64, index: u64) -> Entry {
    let record = Record {
        key: EntityKey::new("counter", &format!("c{index}")).unwrap(),
        request: RequestKey {
            scope: Scope([index as u8; 16]),
            fingerprint: Fingerprint([2; 16]),
            origin: KeyOrigin::Client,
        },
        base_version: index,
        time_micros: index,
        outcome: Outcome { status: Status::Accepted, reply: Bytes::from_static(b"1"), reason: Bytes::new() },
        events: smallvec![EventBody { event_type: Bytes::from_static(b"added"), data: Bytes::from_static(b"{}") }],
    };
    Entry { log_id: log_id(term, index), payload: Payload::Batch(Arc::new(Batch::new(term, vec![record]))) }
}

fn vote(term: u64) -> Vote {
    Vote { term, node: NodeId(5), committed: term.is_multiple_of(2) }
}

/// Panics should the journal fail.
fn config() -> Config {
    let fatal: FatalHandler = Arc::new(|message| panic!("{message}"));
    Config { fatal, ..Config::default() }
}

/// Counts failures and keeps what was said.
fn watched_config() -> (Config, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let fatal: FatalHandler = {
        let said = said.clone();
        Arc::new(move |message: &str| said.lock().push(message.to_owned()))
    };
    (Config { fatal, ..Config::default() }, said)
}

async fn open(disk: &SimulatedDisk) -> Journal {
    Journal::open(disk, config(), Seams::simulated(1)).await.unwrap()
}

fn ignore() -> Box<dyn FnOnce(io::Result<()>) + Send> {
    Box::new(|result| result.unwrap())
}

/// Appends and waits for the disk.
async fn append(journal: &Journal, shard: ShardId, entries: Vec<Entry>) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    journal.append(shard, entries, Box::new(|result| sender.send(result).unwrap())).await?;
    receiver.await.unwrap()
}

/// What anyone can see of a shard.
async fn seen(journal: &Journal, shard: ShardId) -> (LogState, Option<Vote>, Option<LogId>, Vec<Entry>) {
    let entries = journal.entries(shard, 0..u64::MAX).await.unwrap();
    (journal.log_state(shard), journal.vote(shard), journal.committed(shard), entries)
}

#[tokio::test(start_paused = true)]
async fn everything_is_found_again_after_a_restart() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    append(&journal, SHARD, vec![blank(1, 0), batch(1, 1), membership(1, 2, 10)]).await.unwrap();
    append(&journal, OTHER, vec![batch(4, 7), batch(4, 8)]).await.unwrap();
    journal.save_committed(SHARD, Some(log_id(1, 1)));
    journal.save_vote(SHARD, vote(2)).await.unwrap();
    journal.save_vote(ShardId(0), vote(3)).await.unwrap();
    journal.purge(OTHER, log_id(4, 7)).await.unwrap();
    journal.save_committed(OTHER, Some(log_id(4, 8)));
    let mut before = Vec::new();
    for shard in journal.shards() {
        before.push((shard, seen(&journal, shard).await));
    }
    assert_eq!(before.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), [ShardId(0), SHARD, OTHER]);
    assert_eq!(
        before[1].1,
        (
            LogState { last_purged: None, last: Some(log_id(1, 2)) },
            Some(vote(2)),
            Some(log_id(1, 1)),
            vec![blank(1, 0), batch(1, 1), membership(1, 2, 10)]
        )
    );
    assert_eq!(
        before[2].1,
        (
            LogState { last_purged: Some(log_id(4, 7)), last: Some(log_id(4, 8)) },
            None,
            Some(log_id(4, 8)),
            vec![batch(4, 8)]
        )
    );
    journal.close().await;

    let journal = open(&disk).await;
    let mut after = Vec::new();
    for shard in journal.shards() {
        after.push((shard, seen(&journal, shard).await));
    }
    assert_eq!(after, before, "the committed entry saved last is there too, because closing writes it");
    append(&journal, SHARD, vec![blank(3, 3)]).await.unwrap();
    assert_eq!(journal.entries(SHARD, 2..4).await.unwrap(), [membership(1, 2, 10), blank(3, 3)]);
}

#[tokio::test(start_paused = true)]
async fn truncated_entries_are_gone_and_others_take_their_place() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    append(&journal, SHARD, (0..10).map(|index| batch(1, index)).collect()).await.unwrap();
    journal.truncate_after(SHARD, Some(log_id(1, 11))).await.unwrap();
    assert_eq!(journal.log_state(SHARD).last, Some(log_id(1, 9)), "nothing lies after it");
    journal.truncate_after(SHARD, Some(log_id(1, 5))).await.unwrap();
    assert_eq!(journal.log_state(SHARD), LogState { last_purged: None, last: Some(log_id(1, 5)) });
    journal.append(SHARD, vec![batch(2, 6)], ignore()).await.unwrap();
    journal.truncate_after(SHARD, Some(log_id(1, 4))).await.unwrap();
    append(&journal, SHARD, vec![blank(3, 5)]).await.unwrap();
    let expected: Vec<Entry> = (0..5).map(|index| batch(1, index)).chain([blank(3, 5)]).collect();
    assert_eq!(journal.entries(SHARD, 0..100).await.unwrap(), expected);
    journal.close().await;

    let journal = open(&disk).await;
    assert_eq!(journal.entries(SHARD, 0..100).await.unwrap(), expected);
    journal.truncate_after(SHARD, None).await.unwrap();
    assert_eq!(seen(&journal, SHARD).await.3, []);
    assert_eq!(journal.log_state(SHARD), LogState::default());
    assert_eq!(journal.live_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn purging_reaches_beyond_the_end_and_never_goes_back() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    append(&journal, SHARD, (0..10).map(|index| batch(1, index)).collect()).await.unwrap();
    journal.purge(SHARD, log_id(1, 4)).await.unwrap();
    journal.purge(SHARD, log_id(1, 2)).await.unwrap();
    assert_eq!(journal.entries(SHARD, 0..7).await.unwrap(), [batch(1, 5), batch(1, 6)]);
    journal.purge(SHARD, log_id(2, 20)).await.unwrap();
    let state = LogState { last_purged: Some(log_id(2, 20)), last: Some(log_id(2, 20)) };
    assert_eq!((journal.log_state(SHARD), seen(&journal, SHARD).await.3), (state, vec![]));
    let error = append(&journal, SHARD, vec![batch(2, 10)]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "it lies before what is purged");
    append(&journal, SHARD, vec![batch(2, 21)]).await.unwrap();
    journal.close().await;
    let journal = open(&disk).await;
    assert_eq!(seen(&journal, SHARD).await.3, [batch(2, 21)]);
    assert_eq!(journal.log_state(SHARD).last_purged, Some(log_id(2, 20)));
}

/// What installing a snapshot comes to: the entries it covers go, whether or not there were any.
#[tokio::test(start_paused = true)]
async fn a_log_goes_on_behind_a_purge_beyond_its_end_also_after_restarts() {
    for (entries, conflict) in [(0, false), (10, false), (30, true)] {
        let disk = SimulatedDisk::new();
        let journal = open(&disk).await;
        append(&journal, SHARD, (0..entries).map(|index| batch(1, index)).collect()).await.unwrap();
        if conflict {
            journal.truncate_after(SHARD, Some(log_id(1, 5))).await.unwrap();
        }
        journal.purge(SHARD, log_id(3, 20)).await.unwrap();
        let purged = LogState { last_purged: Some(log_id(3, 20)), last: Some(log_id(3, 20)) };
        assert_eq!(journal.log_state(SHARD), purged);
        journal.close().await;

        let journal = open(&disk).await;
        assert_eq!((journal.log_state(SHARD), seen(&journal, SHARD).await.3), (purged, vec![]));
        assert_eq!((journal.live_bytes(), journal.entries_to_purge(SHARD, 0)), (0, None));
        append(&journal, SHARD, vec![batch(3, 20)]).await.unwrap_err();
        append(&journal, SHARD, vec![batch(3, 22)]).await.unwrap_err();
        append(&journal, SHARD, vec![batch(3, 21), batch(4, 22)]).await.unwrap();
        journal.close().await;

        let journal = open(&disk).await;
        append(&journal, SHARD, vec![batch(4, 23)]).await.unwrap();
        assert_eq!(seen(&journal, SHARD).await.3, [batch(3, 21), batch(4, 22), batch(4, 23)]);
        journal.truncate_after(SHARD, Some(log_id(3, 21))).await.unwrap();
        journal.purge(SHARD, log_id(3, 21)).await.unwrap();
        append(&journal, SHARD, vec![batch(5, 22)]).await.unwrap();
        assert_eq!(seen(&journal, SHARD).await.3, [batch(5, 22)]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_purged_leaves_the_newest_entries_of_about_the_size_asked_for() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    assert_eq!(journal.entries_to_purge(SHARD, 0), None, "nothing is known of it");
    let entries = (5..25).map(|index| membership(1, index, 100 * (index as usize % 3 + 1))).collect();
    append(&journal, SHARD, entries).await.unwrap();
    append(&journal, OTHER, vec![membership(1, 1, 50_000)]).await.unwrap();
    let size_after = |index: u64| async move {
        let disk = SimulatedDisk::new();
        let journal = open(&disk).await;
        let entries = (index + 1..25).map(|index| membership(1, index, 100 * (index as usize % 3 + 1))).collect();
        append(&journal, SHARD, entries).await.unwrap();
        journal.live_bytes()
    };
    assert_eq!(journal.entries_to_purge(SHARD, 0), Some(24));
    let all = journal.shard_sizes()[1].bytes;
    assert_eq!((journal.entries_to_purge(SHARD, all), journal.entries_to_purge(SHARD, u64::MAX)), (None, None));
    for keep_bytes in (1..all).step_by(77) {
        let last = journal.entries_to_purge(SHARD, keep_bytes);
        let kept = if let Some(last) = last { size_after(last).await } else { all };
        assert!(kept >= keep_bytes, "{kept} are kept of {keep_bytes}");
        assert!(size_after(last.unwrap_or(4) + 1).await < keep_bytes, "one entry more could go");
    }
    let last = journal.entries_to_purge(SHARD, 1_000).unwrap();
    journal.purge(SHARD, log_id(1, last)).await.unwrap();
    assert_eq!(journal.entries_to_purge(SHARD, 1_000), None, "it is done");
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_refused_and_changes_nothing() {
    let journal = open(&SimulatedDisk::new()).await;
    append(&journal, SHARD, vec![batch(1, 5)]).await.unwrap();
    for wrong in [vec![batch(1, 7)], vec![batch(1, 5)], vec![batch(1, 6), batch(1, 8)]] {
        let called = Arc::new(AtomicBool::new(false));
        let done = called.clone();
        let append = journal.append(SHARD, wrong, Box::new(move |_| done.store(true, Ordering::Relaxed)));
        assert_eq!(append.await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        journal.flushed().await.unwrap();
        assert!(!called.load(Ordering::Relaxed));
    }
    assert_eq!(journal.entries(SHARD, 0..100).await.unwrap(), [batch(1, 5)]);
}

#[tokio::test(start_paused = true)]
async fn reads_span_disk_and_memory_and_keep_to_their_limit() {
    let disk = SimulatedDisk::new();
    // Room for about three entries in memory.
    let config = Config { tail_bytes_max: 2_000, ..config() };
    let journal = Journal::open(&disk, config, Seams::simulated(1)).await.unwrap();
    let all: Vec<Entry> = (1..=50).map(|index| batch(1, index)).collect();
    append(&journal, SHARD, all.clone()).await.unwrap();
    let kept = journal.shared.state.lock().plan_read(SHARD, 0..100, u64::MAX);
    assert!(!kept.on_disk.is_empty() && !kept.in_memory.is_empty(), "{} in memory", kept.in_memory.len());
    assert_eq!(journal.entries(SHARD, 0..100).await.unwrap(), all);
    assert_eq!(journal.entries(SHARD, 10..48).await.unwrap(), all[9..47]);
    assert_eq!(journal.entries(SHARD, 60..70).await.unwrap(), []);
    #[expect(clippy::reversed_empty_ranges, reason = "the caller may be wrong")]
    let backwards = 20..10;
    assert_eq!(journal.entries(SHARD, backwards).await.unwrap(), []);

    let row = layout::row_len(&all[9]) as u64;
    assert_eq!(journal.entries_within(SHARD, 10..100, 1).await.unwrap(), all[9..10], "never less than one");
    assert_eq!(journal.entries_within(SHARD, 10..100, 3 * row).await.unwrap(), all[9..12]);
    assert_eq!(journal.entries_within(SHARD, 10..12, 100 * row).await.unwrap(), all[9..11]);
}

#[tokio::test(start_paused = true)]
async fn memory_of_recent_entries_is_bounded_also_when_they_are_purged_around_a_quiet_shard() {
    let disk = SimulatedDisk::new();
    let config = Config { tail_bytes_max: 100_000, ..config() };
    let journal = Journal::open(&disk, config, Seams::simulated(1)).await.unwrap();
    append(&journal, OTHER, vec![batch(1, 1)]).await.unwrap();
    for round in 0..300 {
        append(&journal, SHARD, (0..10).map(|i| batch(1, round * 10 + i)).collect()).await.unwrap();
        journal.purge(SHARD, log_id(1, round * 10 + 9)).await.unwrap();
    }
    journal.flushed().await.unwrap();
    assert!(journal.shared.state.lock().tail_order_len() < 1100);
    append(&journal, SHARD, (3000..4000).map(|index| batch(1, index)).collect()).await.unwrap();
    assert!(journal.shared.state.lock().tail_bytes() <= 100_000);
    assert_eq!(journal.entries(SHARD, 3000..4000).await.unwrap().len(), 1000);
    assert_eq!(journal.entries(OTHER, 0..2).await.unwrap(), [batch(1, 1)]);
}

/// Blocking work on threads of its own, so that a sync that does not finish blocks nothing else.
fn threaded() -> Seams {
    Seams { spawner: Spawner::Threads, ..Seams::simulated(1) }
}

/// A sync has come to a closed gate.
async fn sync_has_begun(disk: &SimulatedDisk) {
    let disk = disk.clone();
    let begun = Spawner::Threads.blocking(move || disk.wait_for_sync(Duration::from_secs(20))).await;
    assert!(begun, "nothing was synced");
}

#[tokio::test]
async fn an_fsync_that_never_finishes_leaves_entries_readable_and_callbacks_uncalled() {
    let disk = SimulatedDisk::new();
    let journal = Journal::open(&disk, config(), threaded()).await.unwrap();
    append(&journal, SHARD, vec![batch(1, 1)]).await.unwrap();
    let gate = disk.hold_syncs();
    let called = Arc::new(AtomicUsize::new(0));
    for index in 2..5 {
        let called = called.clone();
        let done = Box::new(move |_| {
            called.fetch_add(1, Ordering::SeqCst);
        });
        journal.append(SHARD, vec![batch(1, index)], done).await.unwrap();
    }
    let mut voting = std::pin::pin!(journal.save_vote(SHARD, vote(2)));
    assert!(voting.as_mut().now_or_never().is_none());
    sync_has_begun(&disk).await;
    assert!(voting.as_mut().now_or_never().is_none(), "a vote is not saved before it is on disk");
    assert_eq!(called.load(Ordering::SeqCst), 0);
    let entries: Vec<Entry> = (1..5).map(|index| batch(1, index)).collect();
    assert_eq!(journal.entries(SHARD, 0..10).await.unwrap(), entries);
    assert_eq!(journal.log_state(SHARD).last, Some(log_id(1, 4)));
    let after_cut = open(&disk.power_cut(1)).await;
    assert_eq!(after_cut.log_state(SHARD).last, Some(log_id(1, 1)), "nothing else was on disk");

    drop(gate);
    voting.await.unwrap();
    assert_eq!(called.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_full_queue_makes_append_wait() {
    let disk = SimulatedDisk::new();
    let config = Config { queue_bytes_max: 1_000, ..config() };
    let journal = Journal::open(&disk, config, threaded()).await.unwrap();
    let gate = disk.hold_syncs();
    journal.append(SHARD, vec![membership(1, 1, 600)], ignore()).await.unwrap();
    sync_has_begun(&disk).await;
    assert!(journal.append(SHARD, vec![membership(1, 2, 600)], ignore()).now_or_never().is_none());
    assert_eq!(journal.log_state(SHARD).last, Some(log_id(1, 1)), "an append that gave up left nothing");
    drop(gate);
    journal.append(SHARD, vec![membership(1, 2, 600)], ignore()).await.unwrap();
    append(&journal, SHARD, vec![membership(1, 3, 5_000)]).await.unwrap();
    assert_eq!(journal.log_state(SHARD).last, Some(log_id(1, 3)), "one that is larger than the queue gets in alone");
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_or_sync_is_told_once_and_fails_everything_waiting() {
    for faults in [
        Faults { sync: Some(io::ErrorKind::Other), ..Faults::default() },
        Faults { write: Some(io::ErrorKind::StorageFull), ..Faults::default() },
    ] {
        let disk = SimulatedDisk::new();
        let (config, said) = watched_config();
        let journal = Journal::open(&disk, config, Seams::simulated(1)).await.unwrap();
        append(&journal, SHARD, vec![batch(1, 1)]).await.unwrap();
        disk.set_faults(faults);
        let failures = Arc::new(AtomicUsize::new(0));
        for index in 2..4 {
            let failures = failures.clone();
            let done = Box::new(move |result: io::Result<()>| {
                failures.fetch_add(usize::from(result.is_err()), Ordering::SeqCst);
            });
            journal.append(SHARD, vec![batch(1, index)], done).await.unwrap();
        }
        let error = journal.save_vote(SHARD, vote(2)).await.unwrap_err();
        assert!(error.to_string().contains("injected"), "{error}");
        assert_eq!(failures.load(Ordering::SeqCst), 2);
        disk.set_faults(Faults::default());
        append(&journal, SHARD, vec![batch(1, 4)]).await.unwrap_err();
        journal.save_vote(SHARD, vote(2)).await.unwrap_err();
        journal.flushed().await.unwrap_err();
        journal.purge(SHARD, log_id(1, 1)).await.unwrap_err();
        journal.truncate_after(SHARD, None).await.unwrap_err();
        journal.close().await;
        assert_eq!(said.lock().len(), 1, "{:?}", said.lock());
        assert!(said.lock()[0].contains("journal.redb in memory cannot be written"), "{:?}", said.lock());

        let journal = open(&disk.power_cut(1)).await;
        assert_eq!(journal.entries(SHARD, 1..2).await.unwrap(), [batch(1, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_error_is_the_readers_alone() {
    let disk = SimulatedDisk::new();
    // A cache of nothing, so that reads reach the disk.
    let config = Config { tail_bytes_max: 0, cache_bytes: 0, ..config() };
    let journal = Journal::open(&disk, config, Seams::simulated(1)).await.unwrap();
    append(&journal, SHARD, vec![batch(1, 1)]).await.unwrap();
    disk.set_faults(Faults { read: Some(io::ErrorKind::Other), ..Faults::default() });
    journal.entries(SHARD, 0..5).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_writes_what_was_queued() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    let closed = journal.shared.closed.clone();
    journal.append(SHARD, vec![batch(1, 1)], ignore()).await.unwrap();
    drop(journal.clone());
    assert!(!journal.shared.state.lock().is_closing());
    drop(journal);
    closed.cancelled().await;
    assert_eq!(open(&disk).await.entries(SHARD, 0..5).await.unwrap(), [batch(1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_journal_answers_with_errors() {
    let journal = open(&SimulatedDisk::new()).await;
    append(&journal, SHARD, vec![batch(1, 1)]).await.unwrap();
    let other = journal.clone();
    journal.close().await;
    append(&other, SHARD, vec![batch(1, 2)]).await.unwrap_err();
    other.save_vote(SHARD, vote(1)).await.unwrap_err();
    other.flushed().await.unwrap_err();
    other.close().await;
}

#[tokio::test(start_paused = true)]
async fn sizes_tell_whose_snapshot_makes_most_room() {
    let disk = SimulatedDisk::new();
    let config = Config { size_bytes_max: 20_000, ..config() };
    let journal = Journal::open(&disk, config, Seams::simulated(1)).await.unwrap();
    append(&journal, SHARD, vec![batch(1, 1), batch(1, 2)]).await.unwrap();
    append(&journal, OTHER, vec![membership(1, 1, 10_000)]).await.unwrap();
    let sizes = journal.shard_sizes();
    assert_eq!(
        sizes.iter().map(|size| (size.shard, size.entries, size.age)).collect::<Vec<_>>(),
        [(OTHER, 1, 1), (SHARD, 2, 3)]
    );
    assert_eq!(journal.live_bytes(), sizes[0].bytes + sizes[1].bytes);
    assert!(!journal.is_full());
    append(&journal, OTHER, vec![membership(1, 2, 10_000)]).await.unwrap();
    assert!(journal.is_full());
    journal.purge(OTHER, log_id(1, 1)).await.unwrap();
    assert!(!journal.is_full());
    let live = journal.live_bytes();
    journal.close().await;
    assert_eq!(open(&disk).await.live_bytes(), live, "the same after a restart");
    assert!(disk.file_bytes("journal.redb") > 0);
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_shard_that_is_not_purged_move_along_and_the_file_stays_small() {
    let disk = SimulatedDisk::new();
    let config = Config { straggler_distance_min: 500, tail_bytes_max: 20_000, ..config() };
    let journal = Journal::open(&disk, config, Seams::simulated(1)).await.unwrap();
    let pinned: Vec<Entry> = (1..=100).map(|index| batch(1, index)).collect();
    let mut next = 1;
    let mut size_early = 0;
    for round in 0..600 {
        // The pinned shard's rows lie scattered between others.
        if round < 100 {
            append(&journal, SHARD, vec![pinned[round].clone()]).await.unwrap();
        }
        append(&journal, OTHER, (next..next + 50).map(|index| batch(1, index)).collect()).await.unwrap();
        next += 50;
        journal.purge(OTHER, log_id(1, next - 20)).await.unwrap();
        if round == 200 {
            size_early = journal.file_bytes();
        }
        if round % 37 == 0 {
            let have = pinned.len().min(round + 1);
            assert_eq!(journal.entries(SHARD, 0..1000).await.unwrap(), pinned[..have], "round {round}");
        }
    }
    let age = journal.shard_sizes().iter().map(|size| size.age).max().unwrap();
    assert!(age < 1_000, "rows lie at most about 500 rows back, and not {age}, of {next} written");
    assert!(journal.file_bytes() <= size_early, "{} grew from {size_early}", journal.file_bytes());
    assert_eq!(journal.entries(SHARD, 0..1000).await.unwrap(), pinned);
    journal.purge(SHARD, log_id(1, 40)).await.unwrap();
    journal.truncate_after(SHARD, Some(log_id(1, 90))).await.unwrap();
    journal.close().await;
    let journal = open(&disk).await;
    assert_eq!(journal.entries(SHARD, 0..1000).await.unwrap(), pinned[40..90]);
}

#[tokio::test]
async fn reads_purges_and_moves_at_the_same_time_never_disagree() {
    let disk = SimulatedDisk::new();
    let config = Config { straggler_distance_min: 100, tail_bytes_max: 0, ..config() };
    let journal = Journal::open(&disk, config, threaded()).await.unwrap();
    let pinned: Vec<Entry> = (1..=30).map(|index| batch(1, index)).collect();
    append(&journal, SHARD, pinned.clone()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (journal, stop, pinned) = (journal.clone(), stop.clone(), pinned.clone());
        Spawner::Threads.spawn(async move {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(journal.entries(SHARD, 0..100).await.unwrap(), pinned);
                let others = journal.entries(OTHER, 0..u64::MAX).await.unwrap();
                assert!(others.windows(2).all(|pair| pair[0].log_id.index + 1 == pair[1].log_id.index));
                reads += 1;
            }
            reads
        })
    };
    for round in 0..150 {
        append(&journal, OTHER, (round * 20..round * 20 + 20).map(|index| batch(1, index)).collect()).await.unwrap();
        journal.purge(OTHER, log_id(1, round * 20 + 15)).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
}

#[tokio::test]
async fn a_real_directory_keeps_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let entries: Vec<Entry> = (1..=100).map(|index| batch(1, index)).collect();
    for reopened in [false, true] {
        let disk = DirectoryDisk::open(directory.path()).unwrap();
        let journal = Journal::open(&disk, config(), Seams::system()).await.unwrap();
        if !reopened {
            append(&journal, SHARD, entries.clone()).await.unwrap();
            journal.save_vote(SHARD, vote(4)).await.unwrap();
        }
        assert_eq!(journal.entries(SHARD, 0..1000).await.unwrap(), entries);
        assert_eq!(journal.vote(SHARD), Some(vote(4)));
        assert!(journal.file_bytes() > 0);
        journal.close().await;
    }
}

#[tokio::test]
async fn a_row_can_be_read_while_its_move_is_not_on_disk() {
    let disk = SimulatedDisk::new();
    let config = Config { straggler_distance_min: 45, tail_bytes_max: 0, ..config() };
    let journal = Journal::open(&disk, config, threaded()).await.unwrap();
    let pinned = vec![batch(1, 1), batch(1, 2)];
    append(&journal, SHARD, pinned.clone()).await.unwrap();
    append(&journal, OTHER, (1..=40).map(|index| batch(1, index)).collect()).await.unwrap();
    journal.purge(OTHER, log_id(1, 40)).await.unwrap();
    journal.flushed().await.unwrap();
    let gate = disk.hold_syncs();
    journal.append(OTHER, (41..=45).map(|index| batch(1, index)).collect(), ignore()).await.unwrap();
    sync_has_begun(&disk).await;
    let plan = journal.shared.state.lock().plan_read(SHARD, 0..10, u64::MAX);
    assert!(plan.on_disk.iter().all(|place| place.sequence_before.is_some()), "both rows are being moved: {plan:?}");
    assert_eq!(journal.entries(SHARD, 0..10).await.unwrap(), pinned);
    drop(gate);
    journal.flushed().await.unwrap();
    assert_eq!(journal.entries(SHARD, 0..10).await.unwrap(), pinned);
}

/// Every bit flip is noticed, or hits what is not in use. 200 random ones all over the file.
#[tokio::test(start_paused = true)]
async fn no_flipped_bit_makes_the_journal_silently_wrong() {
    let mut noticed = 0;
    for killed in [false, true] {
        let disk = SimulatedDisk::new();
        let journal = open(&disk).await;
        let entries: Vec<Entry> = (1..=1500).map(|index| batch(1, index)).collect();
        for some in entries.chunks(30) {
            append(&journal, SHARD, some.to_vec()).await.unwrap();
        }
        append(&journal, OTHER, (1..=500).map(|index| membership(2, index, 400)).collect()).await.unwrap();
        journal.purge(OTHER, log_id(2, 450)).await.unwrap();
        journal.save_vote(OTHER, vote(6)).await.unwrap();
        let expected = [seen(&journal, SHARD).await, seen(&journal, OTHER).await];
        let at_rest = disk.process_killed();
        journal.close().await;
        let at_rest = if killed { at_rest } else { disk };

        let bits = at_rest.file_bytes("journal.redb") * 8;
        let random = Seams::simulated(7).random;
        for _ in 0..100 {
            let bit = (random.next_u64() % bits as u64) as usize;
            let damaged = at_rest.process_killed();
            damaged.flip_bit("journal.redb", bit);
            match Journal::open(&damaged, config(), Seams::simulated(1)).await {
                Err(error) => {
                    noticed += 1;
                    assert!(error.to_string().starts_with("the journal journal.redb in memory"), "{error}");
                }
                Ok(journal) => {
                    assert_eq!([seen(&journal, SHARD).await, seen(&journal, OTHER).await], expected, "bit {bit}");
                }
            }
        }
    }
    assert!(noticed > 20, "only {noticed} of 200 flips hit anything in use, so this shows little");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_no_journal_is_refused_with_its_name() {
    let disk = SimulatedDisk::new();
    let file = disk.open("journal.redb").unwrap();
    redb::StorageBackend::write(&file, 0, &[b'x'; 5000]).unwrap();
    drop(file);
    let error = Journal::open(&disk, config(), Seams::simulated(1)).await.unwrap_err();
    assert!(error.to_string().starts_with("the journal journal.redb in memory"), "{error}");
}
