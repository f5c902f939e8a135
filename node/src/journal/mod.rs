//! The journal: the Raft logs of all shards of a node, in one file, so that one fsync serves them all. What is appended is
//! readable at once, from memory; a callback tells when it is on disk. Knows shards, terms and indexes, but not the
//! consensus library, and nothing of what the payloads mean.
//!
//! One task writes. It takes everything queued since its last commit, in the order it was queued, makes one transaction of
//! it, commits it with two fsyncs, and calls all callbacks. A journal that has been idle commits at once; under load
//! commits begin at a distance, because a commit costs far more than one more entry in it. Votes, and the entries that terms
//! begin with, wait for no distance: as long as they do, their shards have no owner. So the file always holds the
//! effect of a whole prefix of all operations of all shards, and a crash loses only operations that were not called back.
//!
//! # Layout
//!
//! A redb file with two tables. All numbers are little-endian, except in redb's own bytes.
//!
//! Table `rows`, one row per log entry. The key is a `u64` *sequence*, which counts the rows of all shards together: new rows
//! of all shards fill one page after another, where a key of shard and index would dirty a page per shard in every commit.
//! Which row is which entry is kept in memory and rebuilt at start.
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | layout version, 1 |
//! | 4 | CRC32C of the key (8 bytes) and of everything after this field |
//! | 2 | shard |
//! | 8 | term of the entry |
//! | 8 | index of the entry |
//! | 1 | kind of payload: 0 blank, 1 batch of records, 2 membership |
//! | … | payload: nothing; a batch as laid out in [`crate::record`]; bytes of the consensus adapter |
//!
//! Table `metadata`, one row per shard. The key is the shard, a `u16`. Fields that are not there are 0.
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | layout version, 2 |
//! | 4 | CRC32C of the key (2 bytes) and of everything after this field |
//! | 1 | bits, from the lowest: has a vote, the vote is committed, has a committed entry, has purged entries, has a floor, its deletion has begun, its deletion is done |
//! | 8 + 8 | vote: term, node |
//! | 8 + 8 | newest entry known to be committed: term, index |
//! | 8 + 8 | last purged entry: term, index |
//! | 8 + 8 | floor, the last entry of a replica that was deleted: term, index; not in version 1, and no deletions either |
//!
//! redb sums every page, and opening checks them all. One bit is beyond that: the one in redb's header that names the newer
//! of its two commits. Flipped in a file that was not closed, it brings back the state before the last commit.
//!
//! # Deletion
//!
//! A replica that its group has removed is deleted in two steps. A mark in its metadata row takes its log away at once, as a
//! whole; then its rows are deleted, so many in each commit that others hardly notice. What a crash leaves of that has the
//! mark, and is finished after the start; [`crate::replica_files`] says how this goes together with the store.
//!
//! Two things stay in the metadata row: the vote, and the *floor*, which is how far the log went. That the replica was no
//! member any more when it was deleted does not make them void. Say a shard's members were A, B and C; B was cut off, D and E
//! took the places of B and C, and C was deleted. Then C becomes a member again, and begins with an empty log. B, which
//! still believes in the first members, comes back and asks for votes. A would refuse, because its log has more than B's; and
//! so would have C, with the log that it had. With an empty log, C would vote for B, and B would lead with entries missing that
//! were acknowledged, while A still leads D and E. So a new replica goes on with the vote of the one before it, and gives no
//! vote to a candidate whose log ends before the floor. By that it votes as if it had never been deleted, which is all that
//! its earlier acknowledgements rest on.

mod entry;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod layout;
mod open;
mod state;
mod writer;

#[cfg(test)]
pub(crate) mod crash;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use berth_shared::ids::{LogId, LogIndex, ShardId};
use berth_shared::seam::Seams;

use crate::disk::{Disk, FileSize};
use state::{Place, State};

pub use entry::{Entry, LogState, Payload, ShardSize, Vote};

/// Reads from disk at the same time, per journal.
const READERS_MAX: u32 = 8;

/// A handle; clones are the same journal. When the last one is dropped, what is queued is still written.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    /// Ends the writer when the last handle goes.
    _last_handle: Arc<CloseOnDrop>,
}

/// Called once, with a sentence, when the journal cannot be written. It should end the process.
pub type FatalHandler = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Clone)]
pub struct Config {
    /// Name of the file on its disk.
    pub file_name: String,
    /// Memory of the storage engine for pages. The engine itself would take 1 GiB.
    pub cache_bytes: usize,
    /// Payload waiting for its commit, per node; `append` waits for room. At least one append is always let in.
    pub queue_bytes_max: usize,
    /// Memory for the newest entries on disk, per node. Entries not yet on disk are in memory in any case.
    pub tail_bytes_max: usize,
    /// Live rows, in bytes, at which [`Journal::is_full`] asks for no more writes. The journal refuses none itself, because
    /// a group whose log refuses an entry stops for good. The file can take about three times as much.
    pub size_bytes_max: u64,
    /// A row is appended anew when this many rows were written after it, or four times the number of live rows if more.
    pub straggler_distance_min: u64,
    pub fatal: FatalHandler,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the journal {file} cannot be opened: {source}")]
    Disk { file: String, source: io::Error },
    #[error("the journal {file} cannot be opened: {source}")]
    Database { file: String, source: Box<redb::Error> },
    #[error("the journal {file} is damaged: {what}")]
    Damaged { file: String, what: String },
}

struct Shared {
    config: Config,
    seams: Seams,
    /// How people find the file.
    file: String,
    file_size: FileSize,
    state: Mutex<State>,
    /// Tells the writer that something is queued, or that the journal closes.
    wake: Notify,
    /// Tells it that something urgent is queued.
    hurry: Notify,
    /// One permit per byte of room in the queue.
    queue_room: Semaphore,
    readers: Semaphore,
    /// For readers. `None` once the writer has ended.
    database: Mutex<Option<Arc<Database>>>,
    /// The file is closed.
    closed: CancellationToken,
}

struct CloseOnDrop(Arc<Shared>);

impl Shared {
    /// Something is queued.
    fn notify(&self, is_urgent: bool) {
        if is_urgent {
            self.hurry.notify_one();
        }
        self.wake.notify_one();
    }
}

impl Journal {
    /// Opens the journal's file, checks every byte of it that is in use, and starts the writer.
    pub async fn open(disk: &dyn Disk, config: Config, seams: Seams) -> Result<Self, Error> {
        let file = disk.describe(&config.file_name);
        // Blocks for a moment, at the start of a node; reading the file, which takes long, goes through the seam below.
        let backend = disk.open(&config.file_name).map_err(|source| Error::Disk { file: file.clone(), source })?;
        let file_size = backend.size();
        let cache_bytes = config.cache_bytes;
        let open = {
            let file = file.clone();
            move || open::open(&file, backend, cache_bytes)
        };
        let (database, state) = seams.spawner.blocking(open).await?;
        let database = Arc::new(database);
        let shared = Arc::new(Shared {
            queue_room: Semaphore::new(config.queue_bytes_max.min(Semaphore::MAX_PERMITS)),
            config,
            seams: seams.clone(),
            file,
            file_size,
            state: Mutex::new(state),
            wake: Notify::new(),
            hurry: Notify::new(),
            readers: Semaphore::new(READERS_MAX as usize),
            database: Mutex::new(Some(database.clone())),
            closed: CancellationToken::new(),
        });
        seams.spawner.spawn(writer::run(shared.clone(), database));
        Ok(Self { _last_handle: Arc::new(CloseOnDrop(shared.clone())), shared })
    }

    /// The shards of which there is a replica, in order: something was written of it, and it was not deleted since.
    pub fn shards(&self) -> Vec<ShardId> {
        self.shared.state.lock().shards()
    }

    pub fn log_state(&self, shard: ShardId) -> LogState {
        self.shared.state.lock().log_state(shard)
    }

    /// The vote saved last, even if it is not on disk yet.
    pub fn vote(&self, shard: ShardId) -> Option<Vote> {
        self.shared.state.lock().metadata(shard).vote
    }

    pub fn committed(&self, shard: ShardId) -> Option<LogId> {
        self.shared.state.lock().metadata(shard).committed
    }

    /// Returns when the vote is on disk.
    pub async fn save_vote(&self, shard: ShardId, vote: Vote) -> io::Result<()> {
        self.queue_and_wait(|state, done| {
            state.set_vote(shard, vote)?;
            state.hurry();
            state.when_flushed(done)
        })
        .await
    }

    /// Remembers that the vote saved last was granted by a majority. It gets to disk with whatever is written next, before
    /// or together with every entry that is appended after this call.
    pub fn commit_vote(&self, shard: ShardId) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        match state.metadata(shard).vote {
            Some(vote) => state.set_vote(shard, Vote { committed: true, ..vote }),
            None => state.check_writable(),
        }
    }

    /// Remembers the newest committed entry. It gets to disk about once a second with what is written then, and when the
    /// journal closes: what is not known to be committed after a crash is found out by the group.
    pub fn save_committed(&self, shard: ShardId, committed: Option<LogId>) {
        self.shared.state.lock().set_committed(shard, committed);
    }

    /// Appends entries, which must follow the shard's last one without a gap. Waits for room in the queue, not for the disk:
    /// when it returns the entries can be read, and `done` is called when they are on disk. An error means that nothing was
    /// appended; `done` is not called then.
    pub async fn append(
        &self,
        shard: ShardId,
        entries: Vec<Entry>,
        done: Box<dyn FnOnce(io::Result<()>) + Send>,
    ) -> io::Result<()> {
        self.append_with(shard, entries, None, done).await
    }

    /// Appends entries together with the vote that they rest on, and returns when both are on disk. A crash leaves both or none.
    pub async fn append_and_vote(&self, shard: ShardId, entries: Vec<Entry>, vote: Vote) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(|result| {
            // The one who waited may have given up.
            let _ = sender.send(result);
        });
        self.append_with(shard, entries, Some(vote), done).await?;
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the journal's writer has ended")))
    }

    async fn append_with(
        &self,
        shard: ShardId,
        entries: Vec<Entry>,
        vote: Option<Vote>,
        done: state::Callback,
    ) -> io::Result<()> {
        let bytes: usize = entries.iter().map(layout::row_len).sum();
        let permits = bytes.min(self.shared.config.queue_bytes_max).min(u32::MAX as usize);
        match self.shared.queue_room.acquire_many(permits as u32).await {
            // The permits come back when the entries are on disk.
            Ok(room) => {
                let is_urgent = {
                    let mut state = self.shared.state.lock();
                    state.append(shard, entries, permits, done)?;
                    if let Some(vote) = vote {
                        state.set_vote(shard, vote)?;
                        state.hurry();
                    }
                    state.is_urgent()
                };
                room.forget();
                self.shared.notify(is_urgent);
                Ok(())
            }
            Err(_) => self.shared.state.lock().check_writable(),
        }
    }

    /// Removes every entry after `last`, or all of them. Queued like an append, and effective for readers at once.
    #[expect(clippy::unused_async, reason = "a change of the log is awaited, whether or not it must wait today")]
    pub async fn truncate_after(&self, shard: ShardId, last: Option<LogId>) -> io::Result<()> {
        self.shared.state.lock().truncate_after(shard, last)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Removes every entry up to `last`, which may lie beyond the last entry. Queued like an append, and effective for readers
    /// at once. The caller sees to it that what is purged is in the store, on disk.
    #[expect(clippy::unused_async, reason = "a change of the log is awaited, whether or not it must wait today")]
    pub async fn purge(&self, shard: ShardId, last: LogId) -> io::Result<()> {
        self.shared.state.lock().purge(shard, last)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The entries of `range` that the log has: all of them, without a gap.
    pub async fn entries(&self, shard: ShardId, range: Range<LogIndex>) -> io::Result<Vec<Entry>> {
        self.entries_within(shard, range, u64::MAX).await
    }

    /// The first entries of `range`, as many as fit into `bytes_max`, but at least one if the log has any of them.
    pub async fn entries_within(
        &self,
        shard: ShardId,
        range: Range<LogIndex>,
        bytes_max: u64,
    ) -> io::Result<Vec<Entry>> {
        let mut missed: Vec<Place> = Vec::new();
        loop {
            let plan = self.shared.state.lock().plan_read(shard, range.clone(), bytes_max);
            if plan.on_disk.is_empty() {
                return Ok(plan.in_memory);
            }
            if plan.on_disk == missed {
                return Err(self.damaged(format!("a row of shard {shard} in {range:?} is gone")));
            }
            if let Some(mut entries) = self.read(shard, plan.on_disk.clone()).await? {
                entries.extend(plan.in_memory);
                return Ok(entries);
            }
            // A row was moved or deleted between the look into memory and the read: look again.
            missed = plan.on_disk;
        }
    }

    /// `None` when a row is not where it was.
    async fn read(&self, shard: ShardId, places: Vec<Place>) -> io::Result<Option<Vec<Entry>>> {
        let closed = || io::Error::other("the journal is closed");
        let _permit = self.shared.readers.acquire().await.map_err(|_| closed())?;
        let database = self.shared.database.lock().clone().ok_or_else(closed)?;
        let read = self.shared.seams.spawner.blocking(move || read_rows(&database, shard, &places)).await;
        read.map_err(|error| self.damaged(error.to_string()))
    }

    fn damaged(&self, what: String) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Error::damaged(&self.shared.file, what))
    }

    /// Returns when everything that was queued or saved before is on disk.
    pub async fn flushed(&self) -> io::Result<()> {
        self.queue_and_wait(State::when_flushed).await
    }

    /// Shards whose deletion has begun and is not done, in order.
    pub fn deleting(&self) -> Vec<ShardId> {
        self.shared.state.lock().deleting()
    }

    /// The mark that a replica is to be deleted, whose store holds entries up to `applied`. When this returns it is on disk, its
    /// log is as if it had never been, but for its vote, and takes nothing before [`Self::delete`] has returned. The file still
    /// has its rows. Nothing happens where there is no replica, or it has its mark already.
    ///
    /// Its group must have stopped, and its node must be no member of it any more.
    pub async fn begin_delete(&self, shard: ShardId, applied: Option<LogId>) -> io::Result<()> {
        self.queue_and_wait(|state, done| state.begin_delete(shard, applied, done)).await
    }

    /// Deletes a shard's log, but for what [`Self::begin_delete`] says. When this returns that is on disk, and the shard may
    /// begin anew. Other shards' appends have their turn all the time. If this future is dropped, the rest stays to be deleted.
    pub async fn delete(&self, shard: ShardId) -> io::Result<()> {
        self.begin_delete(shard, None).await?;
        let mut is_left = true;
        while is_left {
            self.queue_and_wait(|state, done| {
                is_left = state.delete_some(shard, done)?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// How far the log of a replica went that was deleted here; see the room's section on deletion. Where it is later than the
    /// last entry of a candidate, that candidate gets no vote of this node.
    pub fn vote_floor(&self, shard: ShardId) -> Option<LogId> {
        self.shared.state.lock().metadata(shard).floor
    }

    /// Bytes of all live rows.
    pub fn live_bytes(&self) -> u64 {
        self.shared.state.lock().live_bytes()
    }

    /// Bytes of the file, which shrinks late: the engine uses free pages again first.
    pub fn file_bytes(&self) -> u64 {
        self.shared.file_size.bytes()
    }

    /// Whether the journal has reached its size limit, and owners should refuse writes until shards were purged.
    pub fn is_full(&self) -> bool {
        self.live_bytes() >= self.shared.config.size_bytes_max
    }

    /// Whether the shard's log has this entry, or begins after it.
    pub fn has(&self, shard: ShardId, entry: LogId) -> bool {
        self.shared.state.lock().has(shard, entry)
    }

    /// What each shard's log takes, the largest first: the one whose snapshot makes most room.
    pub fn shard_sizes(&self) -> Vec<ShardSize> {
        self.shared.state.lock().shard_sizes()
    }

    /// Up to which entry a shard's log can be purged so that its newest entries stay, no fewer than come to `keep_bytes`, but
    /// no more than that needs. `None` when all of them are needed.
    pub fn entries_to_purge(&self, shard: ShardId, keep_bytes: u64) -> Option<LogIndex> {
        self.shared.state.lock().entries_to_purge(shard, keep_bytes)
    }

    /// Writes what is queued and closes the file. Other handles only get errors from then on.
    pub async fn close(self) {
        self.shared.state.lock().close();
        self.shared.wake.notify_one();
        self.shared.closed.cancelled().await;
    }

    async fn queue_and_wait(
        &self,
        queue: impl FnOnce(&mut State, state::Callback) -> io::Result<()>,
    ) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(|result| {
            // The one who waited may have given up.
            let _ = sender.send(result);
        });
        let is_urgent = {
            let mut state = self.shared.state.lock();
            queue(&mut state, done)?;
            state.is_urgent()
        };
        self.shared.notify(is_urgent);
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the journal's writer has ended")))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file_name: "journal.redb".to_owned(),
            cache_bytes: 16 << 20,
            queue_bytes_max: 32 << 20,
            tail_bytes_max: 64 << 20,
            size_bytes_max: 4 << 30,
            straggler_distance_min: 65_536,
            fatal: Arc::new(crate::fatal::abort),
        }
    }
}

fn read_rows(database: &Database, shard: ShardId, places: &[Place]) -> Result<Option<Vec<Entry>>, redb::Error> {
    let transaction = database.begin_read()?;
    let rows = transaction.open_table(open::ROWS)?;
    let mut entries = Vec::with_capacity(places.len());
    for place in places {
        let mut found = rows.get(place.sequence)?.map(|row| (place.sequence, row));
        if let (None, Some(before)) = (&found, place.sequence_before) {
            found = rows.get(before)?.map(|row| (before, row));
        }
        let Some((sequence, row)) = found else { return Ok(None) };
        let damaged = |why: String| redb::Error::Corrupted(format!("row {sequence} is not valid: {why}"));
        let (of_shard, entry) = layout::read_row(sequence, row.value()).map_err(|why| damaged(why.to_string()))?;
        if of_shard != shard || entry.log_id != place.log_id {
            return Err(damaged(format!(
                "it is {:?} of shard {of_shard}, not {:?} of {shard}",
                entry.log_id, place.log_id
            )));
        }
        entries.push(entry);
    }
    Ok(Some(entries))
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.state.lock().close();
        self.0.wake.notify_one();
    }
}

impl Error {
    fn database(file: &str, source: redb::Error) -> Self {
        Self::Database { file: file.to_owned(), source: Box::new(source) }
    }

    fn damaged(file: &str, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), what: what.into() }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("file_name", &self.file_name).finish_non_exhaustive()
    }
}
