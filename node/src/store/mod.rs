//! The store: events, heads and snapshots of entities, the idempotency window, and how far each shard has been applied, of
//! all shards of a node in one file. What is written is readable at once, from memory, and goes to the file in batches
//! without an fsync; a checkpoint makes all of it durable together. Applying decides what changes; the store never does.
//!
//! # What holds
//!
//! 1. After a power cut the store is as one checkpoint left it, the last one that finished or a later one.
//! 2. A checkpoint fixes its content, then waits until the journal has flushed all it was given, then commits. A store
//!    whose applied entries were missing in the journal could not start.
//! 3. Everything of one [`Changes`] is in the same transaction as the head that counts it as applied.
//! 4. A write or fsync error stops the store for good and calls [`Config::fatal`]; nothing is tried again, because a
//!    failed fsync may have thrown the data away and the next would not say so.
//! 5. Memory for what is not in the file yet is bounded by [`Config::queue_bytes_max`]; beyond it, writers wait.
//! 6. A shard's content is replaced as a whole, in one commit, or not at all. Until then it is as it was.
//!
//! # Layout of the file
//!
//! A redb database with five tables from bytes to bytes. Numbers in keys are big-endian, so that ranges are in order;
//! numbers in rows are little-endian. A kind or id contains no zero byte, so one can end it. A *generation* is one whole
//! content of a shard: the head says which one is the shard's. Rows of others are of snapshots that are being received, or
//! are to be deleted, which happens bit by bit beside the other work.
//!
//! | table | key |
//! | --- | --- |
//! | `shards` | shard (2) |
//! | `entities` | shard (2), generation (4), kind, a zero byte, id |
//! | `snapshots` | like `entities` |
//! | `events` | like `entities`, a zero byte, version of the row's first event (8) |
//! | `outcomes` | shard (2), generation (4), lane (1): 0 keys made by gateways, 1 keys given by clients; row (8) |
//!
//! Every row begins with a layout version (1 byte: 2 in `shards`, else 1) and a CRC32C (4 bytes) of the table's number
//! (1 byte: 1 to 5 in the order above), the key and everything after the checksum. Then come, with `n` standing for a length
//! in the bytes before:
//!
//! | row | bytes | field |
//! | --- | --- | --- |
//! | `shards` | 1 + 8 + 8 | applied entry: 1 if there is one, term, index |
//! | | 1 + 8 + 8 | the entry that set the membership, likewise |
//! | | 4 + n | membership |
//! | | 8 | shard time, microseconds since 1970 |
//! | | 16 | content hash |
//! | | 4 | incarnation |
//! | | 4 | generation |
//! | | 1 + n × (8 + 16) | earlier content hashes: index, hash |
//! | | 1 + 8 + 8 | the last entry of the snapshot that the generation began with, like the applied entry; not in version 1 |
//! | `entities` | 8 | version |
//! | | 1 | 1 if deleted |
//! | | 8 | time of the last event, microseconds since 1970 |
//! | | 8 | version of the snapshot, 0 if there is none |
//! | `snapshots` | 8 | version |
//! | | 4 + n | state, JSON |
//! | `events` | 4 | number of events, at least 1; their versions are consecutive; each: |
//! | | 8 | time, microseconds since 1970 |
//! | | 1 + n | type |
//! | | 4 + n | data, JSON |
//! | `outcomes` | 16 | scope of the idempotency key |
//! | | 16 | fingerprint of the request |
//! | | 8 | when it expires, in shard time |
//! | | 1 | status, see [`crate::record::Status`] |
//! | | 8 | version of the entity |
//! | | 4 + n | reply |
//! | | 1 + n | reason |
//!
//! Events of one entity that are written in the same batch share rows of up to 64 KiB, so that a hot entity costs few
//! rows. A row of events is never changed. The snapshot is not part of its entity's row, so that a head that changes with
//! every batch does not carry a state of up to a megabyte along.
//!
//! # Snapshots
//!
//! A shard goes to another node as chunks of at most 1 MiB, more only where one row alone is larger. Numbers are little-endian,
//! except in keys.
//!
//! | bytes | field of a chunk |
//! | --- | --- |
//! | 1 | layout version, 1 |
//! | 4 | CRC32C of everything else in the chunk |
//! | 8 | the snapshot, a random number |
//! | 4 | number of the chunk in the snapshot, from 0 |
//! | 1 | 1 if it is the last |
//! | … | rows; each: |
//! | 1 | table, 1 to 5 as above |
//! | 1 | layout version of the row |
//! | 2 + n | the row's key; all but the first row's without shard and generation |
//! | 4 + n | the row's fields |
//!
//! The first row is the shard's head. Then come, entity by entity in the order of their keys, its head, its snapshot if it has
//! one, and all its events; then the outcomes, by lane and row. Who reads and who receives both check that no row is missing,
//! so that a damaged copy does not spread. Everything is read in one transaction. Changes are in the file together with the
//! head that counts them (3) and with the deletion of what expired by them, so the head says exactly what the snapshot holds,
//! and what is still to expire in a layer above is still in the window of that head.
//!
//! An installed snapshot is ahead of this node's journal, which learns of it only afterwards. The commit that makes it the
//! shard's content still waits for the journal (2): the vote for the sender, and the removal of entries that contradict the
//! snapshot, are queued there before, so they are on disk by then. A crash before the journal has purged what the snapshot
//! covers leaves one of two things: a journal that ends before the applied entry, with the head saying that it came by a
//! snapshot ([`ShardHead::is_as_installed`]), which a start completes by purging up to it; or one that contains the applied
//! entry. Everything that is applied later follows the purge in the journal, so any other store that is ahead of its journal
//! means that the journal was lost.
//!
//! # Deletion
//!
//! A deleted shard is one whose content was replaced by an empty generation, with a number above all that it has had, so it
//! may begin anew while rows of before are still being cleared. Its head stays: it holds that number, and says that nothing
//! is applied. The journal must know of the deletion before and must not forget it until afterwards, as
//! [`crate::replica_files`] has it: a store whose journal is gone, or the other way round, could not start.
//!
//! # Damage
//!
//! A row that is not what was written is an error of the one who reads it. But a damaged inner page can hide rows, and what
//! is there would read as something that never was; without a check 3 of 1,200 random bit flips did that. So every page in
//! use is verified when the file is opened, and a file that fails is refused. This reads the used part of the file once:
//! measured with 200,000 entities of 2 events and a snapshot and 200,000 outcomes, 110 MB of rows in a file of 540 MB, an
//! open took 0.7 s instead of 0.3 s. With it 0 of 400 random flips, half of them where the file is in use, went unnoticed.
//! What it cannot tell is one bit of the header that names the older of the two last checkpoints: whole, only older. Who
//! replays the journal notices that by its last purged entry, which must not be newer than the store's applied one.

mod chunk;
mod config;
mod error;
mod file;
mod flush;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod generation;
mod generations;
mod layer;
mod layout;
mod list;
mod model;
mod queue;
mod read;
mod snapshot;
mod staging;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::sync::{Notify, watch};

use berth_shared::ids::ShardId;
use berth_shared::seam::Seams;

use crate::disk::{Backend, Disk, FileSize};
use file::Written;
use gate::{Gate, GateSwitch};
use generations::Generations;
use queue::Queue;

pub use chunk::SnapshotError;
pub use config::{Config, FatalHandler, JournalFlushed};
pub use error::Error;
pub use layer::SequenceError;
pub use layout::RowError;
pub use list::{Span, Stretch};
pub use model::{
    Changes, Checkpointed, EntityChange, EventsPage, HashMark, HashMarks, Lane, Membership, OutcomeIndexRow,
    OutcomeRow, RowBounds, ShardHead, Snapshot, StoredEntity, StoredEvent,
};
pub use snapshot::SnapshotReader;
pub use staging::{Installed, Staging};

/// What the store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub file_bytes: u64,
    /// Memory held by changes that are not in the file yet.
    pub queued_bytes: usize,
    pub flushes: u64,
    pub rows_written: u64,
    pub bytes_written: u64,
    pub checkpoints: u64,
    /// How long the last checkpoint took, the wait for the journal included.
    pub checkpoint_last: Duration,
}

/// A handle; clones are of the same store. When the last one is dropped without [`Store::close`] the file stays as the
/// last checkpoint left it, as in a crash.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
    _abandon: Arc<Abandon>,
}

struct Shared {
    /// Locked for moments, never across an await.
    queue: Mutex<Queue>,
    /// `None` once it is closed.
    database: RwLock<Option<Database>>,
    gate: GateSwitch,
    file_size: FileSize,
    /// Calls the flusher.
    work: Notify,
    /// Calls those who wait for room, for a layer in the file, or for rows to be cleared, when there may be some, and when
    /// there will be none any more.
    progress: Notify,
    counters: Counters,
    journal_flushed: JournalFlushed,
    config: Config,
    seams: Seams,
}

#[derive(Debug, Default)]
struct Counters {
    flushes: AtomicU64,
    rows_written: AtomicU64,
    bytes_written: AtomicU64,
    checkpoints: AtomicU64,
    checkpoint_last_nanos: AtomicU64,
}

/// Dropped with the last handle.
#[derive(Debug)]
struct Abandon {
    shared: Arc<Shared>,
    flusher: tokio::task::AbortHandle,
}

impl Store {
    /// Opens the store's file on `disk`, or makes a new one. What is read from it is durable.
    pub async fn open(
        disk: &dyn Disk,
        journal_flushed: JournalFlushed,
        config: Config,
        seams: Seams,
    ) -> Result<Self, Error> {
        let spawner = seams.spawner;
        let backend = disk.open(&config.file_name).map_err(|error| Error::Disk(Arc::new(error)))?;
        let open = move || Shared::open(backend, journal_flushed, config, seams);
        let shared = Arc::new(spawner.blocking(open).await?);
        let (ended_sender, ended) = watch::channel(false);
        let flusher = spawner.spawn(flush::run(shared.clone(), ended_sender)).abort_handle();
        let abandon = Arc::new(Abandon { shared: shared.clone(), flusher });
        Ok(Self { shared, ended, _abandon: abandon })
    }

    /// The newest head of a shard. `None` when nothing of the shard was ever written.
    pub fn shard_head(&self, shard: ShardId) -> Option<ShardHead> {
        self.shared.queue.lock().head(shard).cloned()
    }

    /// Every shard of which something was applied and that was not deleted since, ascending.
    pub fn shards(&self) -> Vec<ShardId> {
        self.shared.queue.lock().shards()
    }

    /// Takes changes, which are readable once this returns, and durable with a later checkpoint. Waits while the queue is
    /// full. Calls for one shard must follow each other.
    pub async fn write(&self, changes: Changes) -> Result<(), Error> {
        self.room().await?;
        self.write_now(changes)
    }

    /// Waits until the queue is below its bound. Callers of [`Self::write_now`] wait here first, so that the queue exceeds
    /// its bound by no more than one change per caller.
    pub async fn room(&self) -> Result<(), Error> {
        loop {
            // Made before looking, so that progress made in between is noticed.
            let progress = self.shared.progress.notified();
            {
                let queue = self.shared.queue.lock();
                queue.check_open()?;
                if queue.has_room(&self.shared.config) {
                    return Ok(());
                }
            }
            progress.await;
        }
    }

    /// [`Self::write`] without the wait, for callers that hold the lock under which the changes were made.
    pub fn write_now(&self, changes: Changes) -> Result<(), Error> {
        let now = self.shared.seams.clock.now();
        let wakes_flusher = self.shared.queue.lock().add(changes, now, &self.shared.config)?;
        if wakes_flusher {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// Makes everything written until now durable. Callers at the same time share one checkpoint.
    pub async fn checkpoint(&self) -> Result<Checkpointed, Error> {
        let answer = self.shared.queue.lock().wait_for_checkpoint()?;
        self.shared.work.notify_one();
        answer.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }

    /// What the last checkpoint made durable, whoever asked for it: up to there a journal may be purged.
    pub fn checkpointed(&self) -> Checkpointed {
        self.shared.queue.lock().checkpointed().clone()
    }

    /// Makes the shard as if nothing of it had ever been written. When this returns that is on disk, and the shard may begin
    /// anew at once; the rows that it had are deleted from the file afterwards, bit by bit beside the other work. Who used it
    /// before must have stopped: changes that still come are refused, and so is a snapshot that was on its way.
    ///
    /// An error is that a snapshot is just being installed, or another call of this is under way, or the store has stopped. A
    /// call that is given up may still take effect.
    pub async fn delete(&self, shard: ShardId) -> Result<(), Error> {
        let Some(answer) = self.shared.queue.lock().delete(shard)? else { return Ok(()) };
        self.shared.work.notify_one();
        answer.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }

    pub fn statistics(&self) -> Statistics {
        let counters = &self.shared.counters;
        Statistics {
            file_bytes: self.shared.file_size.bytes(),
            queued_bytes: self.shared.queue.lock().bytes(),
            flushes: counters.flushes.load(Ordering::Relaxed),
            rows_written: counters.rows_written.load(Ordering::Relaxed),
            bytes_written: counters.bytes_written.load(Ordering::Relaxed),
            checkpoints: counters.checkpoints.load(Ordering::Relaxed),
            checkpoint_last: Duration::from_nanos(counters.checkpoint_last_nanos.load(Ordering::Relaxed)),
        }
    }

    /// A last checkpoint, then the file is closed. Other handles can do nothing any more. The journal must still run.
    pub async fn close(mut self) -> Result<Checkpointed, Error> {
        let answer = self.shared.queue.lock().close()?;
        self.shared.work.notify_one();
        let checkpointed = answer.await.unwrap_or_else(|_| Err(self.shared.stopped()));
        // The flusher drops its end when it was aborted, and then the file is not open either.
        let _ = self.ended.wait_for(|ended| *ended).await;
        checkpointed
    }
}

impl Shared {
    fn open(backend: Backend, journal_flushed: JournalFlushed, config: Config, seams: Seams) -> Result<Self, Error> {
        let file_size = backend.size();
        let gate = GateSwitch::default();
        let database = file::open(Gate::new(backend, gate.clone()), &config)?;
        let transaction = database.begin_read().map_err(redb::Error::from)?;
        let heads = file::shard_heads(&transaction)?;
        let orphans = generation::orphans(&transaction, &heads)?;
        drop(transaction);
        Ok(Self {
            queue: Mutex::new(Queue::new(heads, Generations::new(orphans))),
            database: RwLock::new(Some(database)),
            gate,
            file_size,
            work: Notify::new(),
            progress: Notify::new(),
            counters: Counters::default(),
            journal_flushed,
            config,
            seams,
        })
    }

    fn begin_read(&self) -> Result<ReadTransaction, Error> {
        self.with_database(|database| Ok(database.begin_read().map_err(redb::Error::from)?))
    }

    fn with_database<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        match &*self.database.read() {
            Some(database) => work(database),
            None => Err(self.stopped()),
        }
    }

    /// Writes to the file beside the flusher. An error stops the store, and so does a panic.
    fn write_beside<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        let panicked = |_| Err(Error::Stopped("a task that writes it panicked".into()));
        let written = catch_unwind(AssertUnwindSafe(|| self.with_database(work))).unwrap_or_else(panicked);
        if let Err(error) = &written {
            self.fail(error.clone());
        }
        written
    }

    fn close_database(&self) -> Result<(), Error> {
        match self.database.write().take() {
            Some(database) => Ok(database.close().map_err(redb::Error::from)?),
            None => Ok(()),
        }
    }

    /// The store can no longer be written. Unless that is known already, says so once.
    fn fail(&self, error: Error) {
        if self.stop(&error.to_string()) {
            (self.config.fatal)(&format!("the store cannot be written any more: {error}"));
        }
    }

    /// Takes nothing from now on. Returns whether it did until now.
    fn stop(&self, reason: &str) -> bool {
        let (is_news, waiters) = self.queue.lock().stop(reason);
        drop(waiters);
        self.progress.notify_waiters();
        is_news
    }

    fn stopped(&self) -> Error {
        let open = self.queue.lock().check_open();
        open.err().unwrap_or_else(|| Error::Stopped("its task has ended".into()))
    }
}

impl Counters {
    fn count_flush(&self, written: Written) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.rows_written.fetch_add(written.rows, Ordering::Relaxed);
        self.bytes_written.fetch_add(written.bytes, Ordering::Relaxed);
    }

    fn count_checkpoint(&self, duration: Duration) {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.checkpoint_last_nanos.store(duration.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.shared.stop("it was dropped");
        self.shared.gate.shut();
        self.flusher.abort();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
