//! Deleting a shard's log: what is gone, what stays, and that others go on meanwhile.

use super::*;

/// Rows of all shards in the file.
fn rows_in_file(journal: &Journal) -> Vec<ShardId> {
    let database = journal.shared.database.lock().clone().unwrap();
    let rows = database.begin_read().unwrap().open_table(open::ROWS).unwrap();
    let shard = |row: Result<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &'static [u8]>), _>| {
        let (sequence, row) = row.unwrap();
        layout::read_row(sequence.value(), row.value()).unwrap().0
    };
    redb::ReadableTable::iter(&rows).unwrap().map(shard).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deleted_log_leaves_its_vote_and_its_floor_and_nothing_else() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    append(&journal, SHARD, vec![blank(1, 0), batch(1, 1), membership(2, 2, 10)]).await.unwrap();
    append(&journal, OTHER, vec![blank(1, 0)]).await.unwrap();
    journal.save_vote(SHARD, vote(4)).await.unwrap();
    journal.save_committed(SHARD, Some(log_id(2, 2)));
    journal.purge(SHARD, log_id(1, 0)).await.unwrap();
    assert_eq!((journal.shards(), journal.deleting()), (vec![SHARD, OTHER], vec![]));
    journal.delete(SHARD).await.unwrap();

    let nothing = (LogState::default(), Some(vote(4)), None, vec![]);
    for journal in [journal, open(&disk.power_cut(3)).await] {
        assert_eq!(seen(&journal, SHARD).await, nothing);
        assert_eq!(journal.vote_floor(SHARD), Some(log_id(2, 2)));
        assert_eq!((journal.shards(), journal.deleting()), (vec![OTHER], vec![]));
        assert_eq!(rows_in_file(&journal), [OTHER]);
        assert_eq!(journal.live_bytes(), journal.shard_sizes().iter().map(|size| size.bytes).sum::<u64>());
        assert_eq!(journal.shard_sizes()[0].shard, OTHER);
        assert_eq!((journal.vote_floor(OTHER), journal.vote(OTHER)), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_begins_anew_after_its_deletion_and_keeps_the_highest_floor() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    append(&journal, SHARD, vec![blank(3, 0), batch(3, 1), batch(3, 2)]).await.unwrap();
    journal.save_vote(SHARD, vote(3)).await.unwrap();
    journal.delete(SHARD).await.unwrap();
    journal.save_vote(SHARD, vote(4)).await.unwrap();
    assert_eq!(journal.shards(), [SHARD]);
    append(&journal, SHARD, vec![blank(1, 0), membership(4, 1, 10)]).await.unwrap();
    journal.close().await;

    let journal = open(&disk).await;
    assert_eq!(journal.entries(SHARD, 0..9).await.unwrap(), [blank(1, 0), membership(4, 1, 10)]);
    assert_eq!((journal.vote(SHARD), journal.vote_floor(SHARD)), (Some(vote(4)), Some(log_id(3, 2))));
    assert_eq!(journal.shards(), [SHARD]);
    journal.begin_delete(SHARD, Some(log_id(4, 7))).await.unwrap();
    journal.delete(SHARD).await.unwrap();
    assert_eq!(journal.vote_floor(SHARD), Some(log_id(4, 7)), "the store was ahead of the log");
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_its_mark_takes_nothing_and_a_restart_knows_of_it() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    append(&journal, SHARD, vec![blank(1, 0), batch(1, 1)]).await.unwrap();
    journal.save_vote(SHARD, vote(2)).await.unwrap();
    journal.begin_delete(SHARD, None).await.unwrap();
    for journal in [journal, open(&disk.power_cut(5)).await] {
        assert_eq!((journal.shards(), journal.deleting()), (vec![], vec![SHARD]));
        assert_eq!(seen(&journal, SHARD).await, (LogState::default(), Some(vote(2)), None, vec![]));
        append(&journal, SHARD, vec![blank(1, 2)]).await.unwrap_err();
        journal.save_vote(SHARD, vote(5)).await.unwrap_err();
        journal.purge(SHARD, log_id(1, 1)).await.unwrap_err();
        journal.truncate_after(SHARD, None).await.unwrap();
        journal.save_committed(SHARD, Some(log_id(1, 1)));
        assert_eq!(journal.entries_to_purge(SHARD, 0), None);
        assert_eq!(seen(&journal, SHARD).await, (LogState::default(), Some(vote(2)), None, vec![]));
        journal.delete(SHARD).await.unwrap();
        assert_eq!((journal.deleting(), rows_in_file(&journal)), (vec![], vec![]));
        journal.save_committed(SHARD, Some(log_id(1, 1)));
        assert_eq!(journal.committed(SHARD), None, "it comes too late");
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_what_is_not_there_writes_nothing() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    journal.flushed().await.unwrap();
    let before = disk.operations();
    journal.delete(SHARD).await.unwrap();
    assert_eq!((journal.shards(), journal.deleting(), journal.vote_floor(SHARD)), (vec![], vec![], None));
    assert_eq!(disk.operations(), before);
}

/// Other shards' appends are on disk after a commit or two, however much is to be deleted, and rows that are being deleted
/// may move as stragglers meanwhile.
#[tokio::test(start_paused = true)]
async fn others_have_their_turn_while_much_is_deleted() {
    let disk = SimulatedDisk::new();
    let config = Config { straggler_distance_min: 50, ..config() };
    let journal = Journal::open(&disk, config, Seams::simulated(1)).await.unwrap();
    append(&journal, SHARD, (0..8_000).map(|index| blank(1, index)).collect()).await.unwrap();
    let deleting = journal.clone();
    let deletion = Spawner::Inline.spawn(async move { deleting.delete(SHARD).await });
    let mut turns = 0;
    while !deletion.is_finished() {
        append(&journal, OTHER, vec![blank(1, turns)]).await.unwrap();
        turns += 1;
    }
    deletion.await.unwrap().unwrap();
    assert!((20..80).contains(&turns), "{turns}");
    assert_eq!(rows_in_file(&journal).len() as u64, turns);
    assert_eq!(seen(&open(&disk.power_cut(1)).await, OTHER).await.3.len() as u64, turns);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_given_up_goes_on_when_it_is_asked_for_again() {
    let disk = SimulatedDisk::new();
    let journal = open(&disk).await;
    append(&journal, SHARD, (0..2_000).map(|index| blank(1, index)).collect()).await.unwrap();
    for _ in 0..3 {
        assert!(Spawner::Inline.timeout(Duration::from_millis(7), journal.delete(SHARD)).await.is_none());
    }
    assert_eq!(journal.deleting(), [SHARD]);
    journal.delete(SHARD).await.unwrap();
    assert_eq!((journal.deleting(), rows_in_file(&journal)), (vec![], vec![]));
}
