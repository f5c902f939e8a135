//! When the writer commits: at once when it was idle, at a distance under load.

use futures_util::future::join_all;

use super::*;

/// Longer than anything that the writer may wait for.
const IDLE: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn an_idle_journal_commits_at_once_and_a_busy_one_gathers_what_comes() {
    let (disk, seams) = (SimulatedDisk::new(), Seams::simulated(1));
    let journal = Journal::open(&disk, config(), seams.clone()).await.unwrap();
    seams.spawner.sleep(IDLE).await;
    let begin = seams.clock.now();
    append(&journal, SHARD, vec![blank(1, 1)]).await.unwrap();
    assert_eq!(seams.clock.now(), begin, "an idle journal waits for nothing");
    let before = disk.operations();
    append(&journal, SHARD, vec![blank(1, 2)]).await.unwrap();
    let one_commit = disk.operations() - before;
    assert!(seams.clock.now().since(begin) >= Duration::from_millis(3), "commits begin at a distance");
    let (before, begin) = (disk.operations(), seams.clock.now());
    let appends = (3..=22).map(|index| append(&journal, SHARD, vec![blank(1, index)]));
    assert!(join_all(appends).await.iter().all(Result::is_ok));
    assert!(seams.clock.now().since(begin) <= Duration::from_millis(6), "all were in one commit, or in two");
    assert!(disk.operations() - before <= 2 * one_commit + 2, "all were in one commit, or in two");
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
