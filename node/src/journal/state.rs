//! What the journal knows in memory: where every row is, the newest entries themselves, and what waits to be written.
//! It changes at once when an operation is queued; the file follows, in the same order. Knows no file, task or clock.

mod deletion;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;

use berth_shared::ids::{LogId, LogIndex, ShardId, Term};

use super::entry::{Entry, LogState, Payload, ShardSize, Vote};
use super::layout::{self, Deletion, Metadata};

/// Told once whether an operation is on disk.
pub(super) type Callback = Box<dyn FnOnce(io::Result<()>) + Send>;

#[derive(Default)]
pub(super) struct State {
    shards: HashMap<ShardId, Log>,
    /// The sequence of the next row, of all shards together.
    next_sequence: u64,
    /// Rows below this sequence are on disk, unless they were deleted.
    flushed: u64,
    /// Every entry of every tail, oldest first, and some that have left theirs.
    tail_order: VecDeque<(ShardId, u64)>,
    tail_entries: usize,
    tail_bytes: usize,
    /// Rows being moved: new sequence to old. Until the commit readers find such a row under its old sequence.
    moving: HashMap<u64, u64>,
    queue: Queue,
    live_rows: u64,
    live_bytes: u64,
    /// Why nothing can be written any more.
    failed: Option<String>,
    closing: bool,
}

/// What waits for the next transaction.
#[derive(Default)]
struct Queue {
    operations: Vec<Operation>,
    callbacks: Vec<Callback>,
    /// Shards whose metadata changed.
    metadata: HashSet<ShardId>,
    /// Shards of which only the committed entry changed: that can wait for a later transaction.
    committed: HashSet<ShardId>,
    permits: usize,
    /// Whether some of it must not wait for more to come.
    is_urgent: bool,
}

/// One shard's log.
#[derive(Default)]
struct Log {
    /// Index of the first of `rows`.
    first: LogIndex,
    /// One per entry, without gaps.
    rows: VecDeque<Row>,
    /// The newest entries, in memory. Invariant: the last of `tail` belongs to the last of `rows`, and so on backwards;
    /// every entry that is not on disk is here.
    tail: VecDeque<TailEntry>,
    bytes: u64,
    metadata: Metadata,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) sequence: u64,
    pub(super) term: Term,
    pub(super) bytes: u32,
}

struct TailEntry {
    /// The sequence the entry was appended under; its row may have moved since.
    sequence: u64,
    memory_bytes: usize,
    entry: Entry,
}

/// A change of the rows on disk.
pub(super) enum Operation {
    Insert { shard: ShardId, first_sequence: u64, entries: Vec<Entry> },
    Remove { sequences: Vec<u64> },
}

/// Everything queued up to some moment: one transaction.
pub(super) struct Transaction {
    pub(super) operations: Vec<Operation>,
    pub(super) metadata: Vec<(ShardId, Metadata)>,
    pub(super) callbacks: Vec<Callback>,
    /// Room in the queue that is free again afterwards.
    pub(super) permits: usize,
    /// `flushed` afterwards.
    next_sequence: u64,
}

impl Transaction {
    /// How much is in it: what was decided, with entries of other kinds as one each, and rows that are removed.
    pub(super) fn records(&self) -> usize {
        let records = |entry: &Entry| match &entry.payload {
            Payload::Batch(batch) => batch.records().len(),
            Payload::Blank | Payload::Membership(_) => 1,
        };
        let of_operation = |operation: &Operation| match operation {
            Operation::Insert { entries, .. } => entries.iter().map(records).sum(),
            Operation::Remove { sequences } => sequences.len(),
        };
        self.operations.iter().map(of_operation).sum()
    }
}

/// Where one entry is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) log_id: LogId,
    pub(super) sequence: u64,
    /// Where it is as long as its move is not committed.
    pub(super) sequence_before: Option<u64>,
}

/// How to answer a read: entries on disk, followed by entries in memory.
#[derive(Debug)]
pub(super) struct ReadPlan {
    pub(super) on_disk: Vec<Place>,
    pub(super) in_memory: Vec<Entry>,
}

/// A shard's log as found on disk, rows ordered by index.
pub(super) struct Recovered {
    pub(super) metadata: Metadata,
    pub(super) first: LogIndex,
    pub(super) rows: VecDeque<Row>,
}

impl State {
    pub(super) fn recovered(shards: impl IntoIterator<Item = (ShardId, Recovered)>, next_sequence: u64) -> Self {
        let mut state = Self { next_sequence, flushed: next_sequence, ..Self::default() };
        for (shard, Recovered { metadata, first, rows }) in shards {
            let bytes = rows.iter().map(|row| u64::from(row.bytes)).sum();
            state.live_rows += rows.len() as u64;
            state.live_bytes += bytes;
            state.shards.insert(shard, Log { first, rows, tail: VecDeque::new(), bytes, metadata });
        }
        state
    }

    /// Those of which there is a replica, in order.
    pub(super) fn shards(&self) -> Vec<ShardId> {
        self.shards_where(Log::is_replica)
    }

    fn shards_where(&self, holds: impl Fn(&Log) -> bool) -> Vec<ShardId> {
        let mut shards: Vec<_> = self.shards.iter().filter(|(_, log)| holds(log)).map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        shards
    }

    pub(super) fn log_state(&self, shard: ShardId) -> LogState {
        self.shards.get(&shard).filter(|log| log.is_replica()).map_or_else(LogState::default, |log| LogState {
            last_purged: log.metadata.purged,
            last: log.last().or(log.metadata.purged),
        })
    }

    /// Of purged entries, only the last one is known.
    pub(super) fn has(&self, shard: ShardId, entry: LogId) -> bool {
        let Some(log) = self.shards.get(&shard) else { return false };
        let place = entry.index.checked_sub(log.first).and_then(|place| usize::try_from(place).ok());
        let row = place.and_then(|place| log.rows.get(place));
        log.metadata.purged == Some(entry) || row.is_some_and(|row| row.term == entry.term)
    }

    pub(super) fn metadata(&self, shard: ShardId) -> Metadata {
        self.shards.get(&shard).map_or_else(Metadata::default, |log| log.metadata)
    }

    pub(super) fn set_committed(&mut self, shard: ShardId, committed: Option<LogId>) {
        let log = self.shards.entry(shard).or_default();
        // Of a replica that was deleted it comes too late: a new one has a vote before anything of it is committed.
        if log.metadata.deletion == Deletion::None {
            log.metadata.committed = committed;
            self.queue.committed.insert(shard);
        }
    }

    pub(super) fn set_vote(&mut self, shard: ShardId, vote: Vote) -> io::Result<()> {
        self.check_writable()?;
        self.begin_replica(shard)?;
        self.shards.entry(shard).or_default().metadata.vote = Some(vote);
        self.queue.metadata.insert(shard);
        Ok(())
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn live_rows(&self) -> u64 {
        self.live_rows
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn shard_sizes(&self) -> Vec<ShardSize> {
        let mut sizes: Vec<_> = self
            .shards
            .iter()
            .map(|(shard, log)| ShardSize {
                shard: *shard,
                entries: log.rows.len() as u64,
                bytes: log.bytes,
                age: log.rows.front().map_or(0, |row| self.next_sequence - row.sequence),
            })
            .collect();
        sizes.sort_by_key(|size| (std::cmp::Reverse(size.bytes), size.shard));
        sizes
    }

    /// The last entry before the newest ones that come to `keep_bytes`.
    pub(super) fn entries_to_purge(&self, shard: ShardId, keep_bytes: u64) -> Option<LogIndex> {
        let log = self.shards.get(&shard).filter(|log| log.is_replica())?;
        let mut left = log.bytes;
        // From the oldest on, so that over the life of a log each entry is looked at about once.
        let too_many = log.rows.iter().take_while(|row| {
            left = left.saturating_sub(u64::from(row.bytes));
            left >= keep_bytes
        });
        (too_many.count() as u64).checked_sub(1).map(|place| log.first + place)
    }

    /// Fails when the journal is closed or its file is lost.
    pub(super) fn check_writable(&self) -> io::Result<()> {
        match &self.failed {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None if self.closing => Err(io::Error::other("the journal is closed")),
            None => Ok(()),
        }
    }

    /// Queues `entries`, which follow the shard's last one without a gap, and makes them readable.
    pub(super) fn append(
        &mut self,
        shard: ShardId,
        entries: Vec<Entry>,
        permits: usize,
        done: Callback,
    ) -> io::Result<()> {
        self.check_writable()?;
        self.begin_replica(shard)?;
        let log = self.shards.entry(shard).or_default();
        log.check_follows(shard, &entries)?;
        if let (true, Some(first)) = (log.rows.is_empty(), entries.first()) {
            log.first = first.log_id.index;
        }
        let first_sequence = self.next_sequence;
        for (entry, sequence) in entries.iter().zip(first_sequence..) {
            let bytes = layout::row_len(entry) as u32;
            let memory_bytes = entry.memory_bytes();
            log.rows.push_back(Row { sequence, term: entry.log_id.term, bytes });
            log.tail.push_back(TailEntry { sequence, memory_bytes, entry: entry.clone() });
            log.bytes += u64::from(bytes);
            self.tail_order.push_back((shard, sequence));
            self.tail_bytes += memory_bytes;
            self.live_bytes += u64::from(bytes);
        }
        self.next_sequence += entries.len() as u64;
        self.tail_entries += entries.len();
        self.live_rows += entries.len() as u64;
        // A shard has no owner as long as the first entry of a term is on its way.
        self.queue.is_urgent |= entries.iter().any(|entry| matches!(entry.payload, Payload::Blank));
        self.queue.operations.push(Operation::Insert { shard, first_sequence, entries });
        self.queue.callbacks.push(done);
        self.queue.permits += permits;
        Ok(())
    }

    /// Removes every entry after `last`, or all.
    pub(super) fn truncate_after(&mut self, shard: ShardId, last: Option<LogId>) -> io::Result<()> {
        self.check_writable()?;
        let Some(log) = self.shards.get_mut(&shard).filter(|log| log.is_replica()) else { return Ok(()) };
        let keep = last.map_or(0, |last| (last.index + 1).saturating_sub(log.first));
        let keep = usize::try_from(keep).map_or(log.rows.len(), |keep| keep.min(log.rows.len()));
        let removed: Vec<Row> = log.rows.drain(keep..).collect();
        let tail_keep = log.tail.len().saturating_sub(removed.len());
        let forgotten: Vec<TailEntry> = log.tail.drain(tail_keep..).collect();
        self.remove(shard, &removed, &forgotten);
        Ok(())
    }

    /// Removes every entry up to `last`, itself too, and remembers that it did.
    pub(super) fn purge(&mut self, shard: ShardId, last: LogId) -> io::Result<()> {
        self.check_writable()?;
        self.begin_replica(shard)?;
        let log = self.shards.entry(shard).or_default();
        if log.metadata.purged.is_some_and(|purged| purged.index >= last.index) {
            return Ok(());
        }
        log.metadata.purged = Some(last);
        let remove = (last.index + 1).saturating_sub(log.first);
        let remove = usize::try_from(remove).map_or(log.rows.len(), |remove| remove.min(log.rows.len()));
        let removed: Vec<Row> = log.rows.drain(..remove).collect();
        let tail_remove = log.tail.len().saturating_sub(log.rows.len());
        let forgotten: Vec<TailEntry> = log.tail.drain(..tail_remove).collect();
        log.first += remove as u64;
        self.queue.metadata.insert(shard);
        self.remove(shard, &removed, &forgotten);
        Ok(())
    }

    fn remove(&mut self, shard: ShardId, removed: &[Row], forgotten: &[TailEntry]) {
        let bytes: u64 = removed.iter().map(|row| u64::from(row.bytes)).sum();
        if let Some(log) = self.shards.get_mut(&shard) {
            log.bytes -= bytes;
        }
        self.live_bytes -= bytes;
        self.live_rows -= removed.len() as u64;
        self.tail_entries -= forgotten.len();
        self.tail_bytes -= forgotten.iter().map(|entry| entry.memory_bytes).sum::<usize>();
        if !removed.is_empty() {
            let sequences = removed.iter().map(|row| row.sequence).collect();
            self.queue.operations.push(Operation::Remove { sequences });
        }
    }

    /// Has `done` called when all that is queued now is on disk, or at once when it is.
    pub(super) fn when_flushed(&mut self, done: Callback) -> io::Result<()> {
        self.check_writable()?;
        self.queue.callbacks.push(done);
        Ok(())
    }

    /// What is queued is written without delay.
    pub(super) fn hurry(&mut self) {
        self.queue.is_urgent = true;
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.queue.is_urgent
    }

    /// Fails every operation from now on.
    pub(super) fn fail(&mut self, reason: &str) {
        self.failed.get_or_insert_with(|| reason.to_owned());
    }

    /// Lets no operation in any more; what is queued is still written.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Everything queued; of what was committed, only `with_committed`. `None` when nobody waits for anything, unless the
    /// journal closes with metadata unwritten.
    pub(super) fn take_transaction(&mut self, with_committed: bool) -> Option<Transaction> {
        if with_committed || self.closing {
            self.queue.metadata.extend(self.queue.committed.drain());
        }
        if !self.is_awaited() && (!self.closing || self.queue.metadata.is_empty()) {
            return None;
        }
        let committed = std::mem::take(&mut self.queue.committed);
        let queue = std::mem::replace(&mut self.queue, Queue { committed, ..Queue::default() });
        let mut metadata: Vec<_> = queue.metadata.iter().map(|shard| (*shard, self.metadata(*shard))).collect();
        metadata.sort_unstable_by_key(|(shard, _)| *shard);
        Some(Transaction {
            operations: queue.operations,
            metadata,
            callbacks: queue.callbacks,
            permits: queue.permits,
            next_sequence: self.next_sequence,
        })
    }

    /// Whether somebody waits for a transaction.
    pub(super) fn is_awaited(&self) -> bool {
        !self.queue.operations.is_empty() || !self.queue.callbacks.is_empty()
    }

    /// After the commit of `transaction`: its entries need not be in memory any more.
    pub(super) fn committed(&mut self, transaction: &Transaction, tail_bytes_max: usize) {
        self.flushed = transaction.next_sequence;
        self.moving.clear();
        // The order also keeps places of entries that were truncated or purged; twice as many as entries is enough.
        while self.tail_bytes > tail_bytes_max || self.tail_order.len() > 2 * self.tail_entries + 1024 {
            let Some((shard, sequence)) = self.tail_order.pop_front_if(|(_, sequence)| *sequence < self.flushed) else {
                break;
            };
            let log = self.shards.get_mut(&shard);
            if let Some(entry) = log.and_then(|log| log.tail.pop_front_if(|entry| entry.sequence == sequence)) {
                self.tail_bytes -= entry.memory_bytes;
                self.tail_entries -= 1;
            }
        }
    }

    /// Gives a row a new sequence, provided that it is still where it was found.
    pub(super) fn move_row(&mut self, shard: ShardId, index: LogIndex, sequence: u64) -> Option<u64> {
        let log = self.shards.get_mut(&shard)?;
        let place = usize::try_from(index.checked_sub(log.first)?).ok()?;
        let row = log.rows.get_mut(place).filter(|row| row.sequence == sequence)?;
        row.sequence = self.next_sequence;
        self.next_sequence += 1;
        self.moving.insert(row.sequence, sequence);
        Some(row.sequence)
    }

    /// Finds the entries of `range` that the log has, the first of them at least, and no more than `bytes_max` of them.
    pub(super) fn plan_read(&self, shard: ShardId, range: Range<LogIndex>, bytes_max: u64) -> ReadPlan {
        let mut plan = ReadPlan { on_disk: Vec::new(), in_memory: Vec::new() };
        let Some(log) = self.shards.get(&shard).filter(|log| log.is_replica()) else { return plan };
        let start = range.start.max(log.first);
        let end = range.end.min(log.first + log.rows.len() as u64);
        let tail_first = log.first + (log.rows.len() - log.tail.len()) as u64;
        let mut bytes = 0;
        for index in start..end {
            let row = log.rows[(index - log.first) as usize];
            bytes += u64::from(row.bytes);
            if bytes > bytes_max && index > start {
                break;
            }
            if index >= tail_first {
                plan.in_memory.push(log.tail[(index - tail_first) as usize].entry.clone());
            } else {
                plan.on_disk.push(Place {
                    log_id: LogId { term: row.term, index },
                    sequence: row.sequence,
                    sequence_before: self.moving.get(&row.sequence).copied(),
                });
            }
        }
        plan
    }
}

impl Log {
    /// Whether there is anything of a replica, and it is not being deleted.
    fn is_replica(&self) -> bool {
        let Metadata { vote, committed, purged, floor: _, deletion } = self.metadata;
        let holds_anything = !self.rows.is_empty() || vote.is_some() || committed.is_some() || purged.is_some();
        deletion == Deletion::None && holds_anything
    }

    fn last(&self) -> Option<LogId> {
        let row = self.rows.back()?;
        Some(LogId { term: row.term, index: self.first + self.rows.len() as u64 - 1 })
    }

    /// A log that has never had an entry may begin anywhere, because a snapshot may stand before it.
    fn check_follows(&self, shard: ShardId, entries: &[Entry]) -> io::Result<()> {
        let last = self.last().or(self.metadata.purged);
        let mut expected = last.map(|last| last.index + 1);
        for entry in entries {
            let index = entry.log_id.index;
            if expected.is_some_and(|expected| expected != index) {
                let message = format!("entry {index} of shard {shard} does not follow its last one, {last:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            expected = Some(index + 1);
        }
        Ok(())
    }
}

#[cfg(test)]
impl State {
    pub(super) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    pub(super) fn tail_order_len(&self) -> usize {
        self.tail_order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_leaves_memory_only_when_it_is_on_disk() {
        let mut state = State::default();
        let shard = ShardId(1);
        let append = |state: &mut State, index| {
            let entry = Entry { log_id: LogId { term: 1, index }, payload: Payload::Blank };
            state.append(shard, vec![entry], 0, Box::new(|_| {})).unwrap();
            state.take_transaction(true).unwrap()
        };
        let first = append(&mut state, 1);
        let second = append(&mut state, 2);
        state.committed(&first, 0);
        let plan = state.plan_read(shard, 0..10, u64::MAX);
        assert_eq!((plan.on_disk.len(), plan.in_memory.len()), (1, 1));
        state.committed(&second, 0);
        let plan = state.plan_read(shard, 0..10, u64::MAX);
        assert_eq!((plan.on_disk.len(), plan.in_memory.len()), (2, 0));
    }
}
