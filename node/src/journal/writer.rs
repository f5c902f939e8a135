//! The one task that writes the journal: everything queued → one transaction → one commit → all callbacks, over and over.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use redb::{Database, Durability, ReadableTable, Table};

use super::Shared;
use super::layout;
use super::open::{METADATA, ROWS, panic_message};
use super::state::{Operation, Transaction};

/// Rows and bytes that one transaction moves at most, besides one row for each that it inserts.
const MOVED_ROWS_MIN: usize = 32;
const MOVED_BYTES_MAX: usize = 256 * 1024;

/// The least time from the beginning of one commit to that of the next, for each record that the first one holds, and at most.
/// Most of what a commit costs, two fsyncs above all, it costs whatever is in it. So where there is much to write, it is gathered;
/// where there is little, to wait would gather nothing and only make everybody slower. Rows that are removed count as well, so
/// that a large removal, which is cut into pieces, leaves the disk to others in between.
const COMMIT_DISTANCE_PER_RECORD: Duration = Duration::from_micros(100);
const COMMIT_DISTANCE_MAX: Duration = Duration::from_millis(3);
/// Less is not waited for: timers count in milliseconds and round up.
const WAIT_MIN: Duration = Duration::from_micros(500);

/// How often it is written which entries are committed.
const COMMITTED_INTERVAL: Duration = Duration::from_secs(1);

/// Writes until the journal is closed or fails, then closes the file.
pub(super) async fn run(shared: Arc<Shared>, database: Arc<Database>) {
    let clock = &shared.seams.clock;
    let (mut next_commit, mut last_committed) = (clock.now(), clock.now());
    loop {
        // Of what was written meanwhile. It is forgotten before the look that would see whatever was queued since.
        let _ = shared.hurry.notified().now_or_never();
        let (awaited, closing, urgent) = {
            let state = shared.state.lock();
            (state.is_awaited(), state.is_closing(), state.is_urgent())
        };
        if !awaited && !closing {
            shared.wake.notified().await;
            continue;
        }
        let left = next_commit.since(clock.now());
        if left >= WAIT_MIN && !closing && !urgent {
            let left = shared.seams.spawner.sleep(left);
            tokio::select! {
                biased;
                () = shared.hurry.notified() => {}
                () = left => {}
            }
        }
        let now = clock.now();
        let with_committed = now.since(last_committed) >= COMMITTED_INTERVAL;
        if with_committed {
            last_committed = now;
        }
        let transaction = shared.state.lock().take_transaction(with_committed);
        match transaction {
            Some(transaction) => {
                next_commit = next_commit.max(now + distance(transaction.records()));
                if !write(&shared, &database, transaction).await {
                    break;
                }
            }
            None => break,
        }
    }
    // Readers hold the database only while they hold a permit.
    shared.database.lock().take();
    let readers = shared.readers.acquire_many(super::READERS_MAX).await;
    shared.seams.spawner.blocking(move || drop(database)).await;
    drop(readers);
    shared.closed.cancel();
}

fn distance(records: usize) -> Duration {
    let records = u32::try_from(records).unwrap_or(u32::MAX);
    COMMIT_DISTANCE_PER_RECORD.saturating_mul(records).min(COMMIT_DISTANCE_MAX)
}

/// Whether the journal goes on.
async fn write(shared: &Arc<Shared>, database: &Arc<Database>, transaction: Transaction) -> bool {
    let work = {
        let (shared, database) = (shared.clone(), database.clone());
        move || {
            let result = catch_unwind(AssertUnwindSafe(|| commit(&shared, &database, &transaction)))
                .unwrap_or_else(|panic| Err(redb::Error::Corrupted(panic_message(panic.as_ref()))));
            (result, transaction)
        }
    };
    let (result, transaction) = shared.seams.spawner.blocking(work).await;
    match result {
        Ok(()) => {
            shared.state.lock().committed(&transaction, shared.config.tail_bytes_max);
            shared.queue_room.add_permits(transaction.permits);
            for done in transaction.callbacks {
                done(Ok(()));
            }
            true
        }
        Err(error) => {
            fail(shared, transaction, &error);
            false
        }
    }
}

/// What is on disk is unknown after a failed write or fsync, and trying again may report success over lost data.
/// So nothing is retried: the process ends, and the next one reads what the disk really has.
fn fail(shared: &Shared, transaction: Transaction, error: &redb::Error) {
    let message = format!("the journal {} cannot be written: {error}", shared.file);
    let waiting = {
        let mut state = shared.state.lock();
        state.fail(&message);
        state.take_transaction(true)
    };
    shared.queue_room.close();
    (shared.config.fatal)(&message);
    for done in transaction.callbacks.into_iter().chain(waiting.into_iter().flat_map(|waiting| waiting.callbacks)) {
        done(Err(io::Error::other(message.clone())));
    }
}

fn commit(shared: &Shared, database: &Database, queued: &Transaction) -> Result<(), redb::Error> {
    if queued.operations.is_empty() && queued.metadata.is_empty() {
        return Ok(());
    }
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // With one fsync a page of the commit may be missing behind a valid header, which only checksums could tell.
    transaction.set_two_phase_commit(true);
    if !queued.operations.is_empty() {
        let mut rows = transaction.open_table(ROWS)?;
        let mut inserted = 0;
        for operation in &queued.operations {
            inserted += apply(&mut rows, operation)?;
        }
        move_stragglers(shared, &mut rows, inserted)?;
    }
    if !queued.metadata.is_empty() {
        let mut metadata = transaction.open_table(METADATA)?;
        for (shard, value) in &queued.metadata {
            metadata.insert(shard.0, layout::write_metadata(*shard, value).as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// The number of rows inserted. Sequences ascend within a transaction, so inserts fill the tree's last page.
fn apply(rows: &mut Table<'_, u64, &'static [u8]>, operation: &Operation) -> Result<usize, redb::Error> {
    match operation {
        Operation::Insert { shard, first_sequence, entries } => {
            for (entry, sequence) in entries.iter().zip(*first_sequence..) {
                let mut row = rows.insert_reserve(sequence, layout::row_len(entry))?;
                layout::write_row(row.as_mut(), sequence, *shard, entry);
            }
            Ok(entries.len())
        }
        Operation::Remove { sequences } => {
            for sequence in sequences {
                if rows.remove(*sequence)?.is_none() {
                    return Err(redb::Error::Corrupted(format!("row {sequence} is gone")));
                }
            }
            Ok(0)
        }
    }
}

/// Appends the oldest rows anew when they lie far behind the newest: a group that is not purged would otherwise hold
/// nearly empty pages all over the file. The distance allowed grows with the number of live rows, so that in the long run
/// fewer than one row is moved for every two that are appended.
fn move_stragglers(
    shared: &Shared,
    rows: &mut Table<'_, u64, &'static [u8]>,
    inserted: usize,
) -> Result<(), redb::Error> {
    let mut bytes = 0;
    for _ in 0..MOVED_ROWS_MIN + inserted {
        let Some(sequence) = rows.first()?.map(|(key, _)| key.value()) else { return Ok(()) };
        if !is_straggler(shared, sequence) {
            return Ok(());
        }
        let Some(mut row) = rows.get(sequence)?.map(|row| row.value().to_vec()) else { return Ok(()) };
        let header = layout::read_header(sequence, &row)
            .map_err(|why| redb::Error::Corrupted(format!("row {sequence} is not valid: {why}")))?;
        let moved = shared.state.lock().move_row(header.shard, header.log_id.index, sequence);
        // A row that a queued operation deletes stays where that operation looks for it.
        let Some(new_sequence) = moved else { return Ok(()) };
        layout::move_row(&mut row, new_sequence);
        rows.remove(sequence)?;
        rows.insert(new_sequence, row.as_slice())?;
        bytes += row.len();
        if bytes > MOVED_BYTES_MAX {
            return Ok(());
        }
    }
    Ok(())
}

fn is_straggler(shared: &Shared, sequence: u64) -> bool {
    let state = shared.state.lock();
    let distance = shared.config.straggler_distance_min.max(4 * state.live_rows());
    state.next_sequence() - sequence > distance
}
