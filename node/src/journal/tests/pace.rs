//! When the writer commits: at once where there is little to write, at a distance under load.

use futures_util::future::join_all;

use super::*;

/// Longer than anything that the writer may wait for.
const IDLE: Duration = Duration::from_secs(2);
const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_journal_with_little_to_write_commits_at_once_and_a_busy_one_gathers_what_comes() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let journal = Journal::open(&disk, config(), seams.clone()).await.unwrap();
    seams.spawner.sleep(IDLE).await;
    let begin = seams.clock.now();
    append(&journal, SHARD, vec![batch(1, 1)]).await.unwrap();
    let before = disk.operations();
    append(&journal, SHARD, vec![batch(1, 2)]).await.unwrap();
    let one_commit = disk.operations() - before;
    append(&journal, SHARD, (3..=6).map(|index| batch(1, index)).collect()).await.unwrap();
    append(&journal, SHARD, vec![batch(1, 7)]).await.unwrap();
    assert_eq!(seams.clock.now(), begin, "it waits for nothing");
    append(&journal, SHARD, (8..=27).map(|index| batch(1, index)).collect()).await.unwrap();
    append(&journal, SHARD, vec![batch(1, 28)]).await.unwrap();
    assert_eq!(seams.clock.now().since(begin), 2 * MILLISECOND, "twenty records at 0.1 ms each");
    append(&journal, SHARD, (29..=90).map(|index| batch(1, index)).collect()).await.unwrap();
    let (before, begin) = (disk.operations(), seams.clock.now());
    let appends = (91..=110).map(|index| append(&journal, SHARD, vec![batch(1, index)]));
    assert!(join_all(appends).await.iter().all(Result::is_ok));
    assert!(seams.clock.now().since(begin) >= 3 * MILLISECOND, "commits begin at a distance");
    assert!(seams.clock.now().since(begin) <= 6 * MILLISECOND, "all were in one commit, or in two");
    assert!(disk.operations() - before <= 2 * one_commit + 2, "all were in one commit, or in two");
}

/// One entry that holds so many records.
fn batch_of(index: u64, records: usize) -> Entry {
    let Payload::Batch(one) = batch(1, index).payload else { unreachable!() };
    let records = vec![one.records()[0].clone(); records];
    Entry { payload: Payload::Batch(Arc::new(Batch::new(1, records))), ..batch(1, index) }
}

#[tokio::test(start_paused = true)]
async fn the_distance_is_that_of_records_and_not_of_entries_and_that_of_removed_rows() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let journal = Journal::open(&disk, config(), seams.clone()).await.unwrap();
    let passed_after = async |entry| {
        let begin = seams.clock.now();
        append(&journal, SHARD, vec![entry]).await.unwrap();
        seams.clock.now().since(begin)
    };
    assert_eq!(passed_after(batch_of(1, 20)).await, Duration::ZERO);
    assert_eq!(passed_after(batch_of(2, 4)).await, 2 * MILLISECOND, "after twenty");
    assert_eq!(passed_after(batch_of(3, 5)).await, Duration::ZERO, "after four");
    assert_eq!(passed_after(batch_of(4, 1)).await, MILLISECOND, "after five, rounded up");
    append(&journal, SHARD, (5..=60).map(|index| batch(1, index)).collect()).await.unwrap();
    seams.spawner.sleep(IDLE).await;
    journal.purge(SHARD, log_id(1, 50)).await.unwrap();
    journal.flushed().await.unwrap();
    assert_eq!(passed_after(batch(1, 61)).await, 3 * MILLISECOND, "after fifty rows were removed");
}

#[tokio::test(start_paused = true)]
async fn votes_and_the_first_entries_of_terms_wait_for_no_distance() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let journal = Journal::open(&disk, config(), seams.clone()).await.unwrap();
    append(&journal, SHARD, (1..=30).map(|index| batch(1, index)).collect()).await.unwrap();
    let begin = seams.clock.now();
    journal.save_vote(OTHER, vote(2)).await.unwrap();
    append(&journal, OTHER, vec![blank(2, 1)]).await.unwrap();
    assert_eq!(seams.clock.now(), begin);
    // One that waits for its distance goes with the vote that comes meanwhile.
    let (other, of) = (journal.clone(), seams.clone());
    let waiting = seams.spawner.spawn(async move {
        append(&other, SHARD, vec![batch(1, 31)]).await.unwrap();
        of.clock.now()
    });
    seams.spawner.sleep(Duration::from_millis(1)).await;
    assert!(!waiting.is_finished());
    journal.save_vote(OTHER, vote(3)).await.unwrap();
    assert_eq!((waiting.await.unwrap().since(begin), seams.clock.now().since(begin)), (MILLISECOND, MILLISECOND));
    append(&journal, SHARD, vec![batch(1, 32)]).await.unwrap();
    assert_eq!(seams.clock.now().since(begin), 3 * MILLISECOND, "the others keep their distance");
}

/// A vote that turns out to be granted is not waited for, and is on disk with the first entry of its term, or before.
#[tokio::test(start_paused = true)]
async fn a_granted_vote_is_on_disk_with_what_is_written_next() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let journal = Journal::open(&disk, config(), seams.clone()).await.unwrap();
    let cast = Vote { committed: false, ..vote(2) };
    let granted = Vote { committed: true, ..vote(2) };
    journal.save_vote(SHARD, cast).await.unwrap();
    journal.commit_vote(SHARD).unwrap();
    assert_eq!(journal.vote(SHARD), Some(granted), "it is known at once");
    seams.spawner.sleep(IDLE).await;
    assert_eq!(open(&disk.power_cut(1)).await.vote(SHARD), Some(cast), "nothing was written for it");
    append(&journal, SHARD, vec![blank(2, 1)]).await.unwrap();
    assert_eq!(open(&disk.power_cut(1)).await.vote(SHARD), Some(granted));
    journal.commit_vote(OTHER).unwrap();
    assert_eq!(journal.vote(OTHER), None, "there is none that could be granted");
}

/// What is committed is written once in a while, and not with every commit.
#[tokio::test(start_paused = true)]
async fn the_committed_entry_is_on_disk_a_second_later_with_what_is_written_then() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let journal = Journal::open(&disk, config(), seams.clone()).await.unwrap();
    for index in 1..=2 {
        append(&journal, SHARD, vec![blank(1, index)]).await.unwrap();
        journal.save_committed(SHARD, Some(log_id(1, index)));
        append(&journal, OTHER, vec![blank(1, index)]).await.unwrap();
        assert_eq!(journal.committed(SHARD), Some(log_id(1, index)), "it is known at once");
        seams.spawner.sleep(IDLE).await;
    }
    let found = open(&disk.power_cut(1)).await;
    assert_eq!(found.committed(SHARD), Some(log_id(1, 1)), "the second has come too late for the last commit");
    assert_eq!(found.log_state(SHARD).last, Some(log_id(1, 2)));
    journal.save_vote(SHARD, vote(2)).await.unwrap();
    assert_eq!(open(&disk.power_cut(1)).await.committed(SHARD), Some(log_id(1, 2)));
}
