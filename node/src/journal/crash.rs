//! Power cuts during a random workload. The journal promises that its file always holds the effect of a whole prefix of all
//! operations, which reaches at least to the last one that was called back as durable. So a [`History`] keeps every
//! operation in order, and what is found after a cut must be what the history says after one of the operations since. Only
//! the committed entry, which is written once in a while, may be one that was saved earlier.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use berth_shared::ids::NodeId;
use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::*;
use crate::disk::{Faults, SimulatedDisk};

const SHARDS: u16 = 4;

/// What the journal may be asked for.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Append(ShardId, Vec<Entry>),
    TruncateAfter(ShardId, Option<LogId>),
    Purge(ShardId, LogId),
    SaveVote(ShardId, Vote),
    SaveCommitted(ShardId, Option<LogId>),
    BeginDelete(ShardId),
    Delete(ShardId),
}

/// What a shard's log holds, as plainly as it can be said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Log {
    pub(crate) entries: BTreeMap<LogIndex, Entry>,
    pub(crate) purged: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) floor: Option<LogId>,
    pub(crate) is_deleting: bool,
}

/// Everything that was asked of a journal, and how much of it is certainly on disk.
#[derive(Debug, Default)]
pub(crate) struct History {
    start: BTreeMap<ShardId, Log>,
    now: BTreeMap<ShardId, Log>,
    steps: Vec<Step>,
    /// Steps before this one were called back as durable.
    durable: Arc<AtomicUsize>,
}

impl Log {
    fn next(&self) -> LogIndex {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(_, entries) => {
                self.entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
            }
            Step::TruncateAfter(_, last) => {
                let _ = self.entries.split_off(&last.map_or(0, |last| last.index + 1));
            }
            Step::Purge(_, last) => {
                if self.purged.is_none_or(|purged| purged.index < last.index) {
                    self.purged = Some(*last);
                    self.entries = self.entries.split_off(&(last.index + 1));
                }
            }
            Step::SaveVote(_, vote) => self.vote = Some(*vote),
            Step::SaveCommitted(_, committed) => self.committed = *committed,
            Step::BeginDelete(_) => {
                let (vote, floor) = (self.vote, self.floor.max(self.last()));
                *self = Self { vote, floor, is_deleting: true, ..Self::default() };
            }
            Step::Delete(_) => self.is_deleting = false,
        }
    }
}

impl Step {
    fn shard(&self) -> ShardId {
        match self {
            Self::Append(shard, _)
            | Self::TruncateAfter(shard, _)
            | Self::Purge(shard, _)
            | Self::SaveVote(shard, _)
            | Self::SaveCommitted(shard, _)
            | Self::BeginDelete(shard)
            | Self::Delete(shard) => *shard,
        }
    }
}

impl History {
    /// A history that goes on from what was found.
    pub(crate) fn since(start: BTreeMap<ShardId, Log>) -> Self {
        Self { now: start.clone(), start, ..Self::default() }
    }

    /// What the journal holds in memory now.
    pub(crate) fn now(&self) -> &BTreeMap<ShardId, Log> {
        &self.now
    }

    fn after(&self, steps: usize) -> BTreeMap<ShardId, Log> {
        let mut logs = self.start.clone();
        for step in &self.steps[..steps] {
            logs.entry(step.shard()).or_default().apply(step);
        }
        logs
    }

    /// Asks the journal for `step`. An error is for the caller to understand: after a power cut everything fails.
    pub(crate) async fn perform(&mut self, journal: &Journal, step: Step) -> io::Result<()> {
        self.now.entry(step.shard()).or_default().apply(&step);
        self.steps.push(step.clone());
        let number = self.steps.len();
        let durable = self.durable.clone();
        match step {
            Step::Append(shard, entries) => {
                let done = Box::new(move |result: io::Result<()>| {
                    if result.is_ok() {
                        durable.fetch_max(number, Ordering::SeqCst);
                    }
                });
                journal.append(shard, entries, done).await
            }
            Step::TruncateAfter(shard, last) => journal.truncate_after(shard, last).await,
            Step::Purge(shard, last) => journal.purge(shard, last).await,
            Step::SaveVote(shard, vote) => {
                journal.save_vote(shard, vote).await?;
                durable.fetch_max(number, Ordering::SeqCst);
                Ok(())
            }
            Step::SaveCommitted(shard, committed) => {
                journal.save_committed(shard, committed);
                Ok(())
            }
            Step::BeginDelete(shard) => {
                journal.begin_delete(shard, None).await?;
                durable.fetch_max(number, Ordering::SeqCst);
                Ok(())
            }
            Step::Delete(shard) => {
                journal.delete(shard).await?;
                durable.fetch_max(number, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    pub(crate) async fn flush(&mut self, journal: &Journal) -> io::Result<()> {
        let number = self.steps.len();
        journal.flushed().await?;
        self.durable.fetch_max(number, Ordering::SeqCst);
        Ok(())
    }

    /// Whether every committed entry that was found was saved in one of the first `steps`, or earlier.
    fn committed_before(&self, steps: usize, found: &BTreeMap<ShardId, Log>) -> bool {
        found.iter().all(|(shard, log)| {
            let before = self.start.get(shard).and_then(|log| log.committed);
            let saved = self.steps[..steps].iter().filter_map(|step| match step {
                Step::SaveCommitted(of, committed) if of == shard => Some(*committed),
                Step::BeginDelete(of) if of == shard => Some(None),
                _ => None,
            });
            saved.chain([before]).any(|committed| committed == log.committed)
        })
    }

    /// Whether `found` can be what is left: every durable step, and after them any number of the others, in order.
    pub(crate) fn check(&self, found: &BTreeMap<ShardId, Log>) -> Result<(), String> {
        let durable = self.durable.load(Ordering::SeqCst);
        let mut logs = self.after(durable);
        for number in durable..=self.steps.len() {
            if let Some(step) = number.checked_sub(durable + 1).map(|_| &self.steps[number - 1]) {
                logs.entry(step.shard()).or_default().apply(step);
            }
            if same(&logs, found) && self.committed_before(number, found) {
                return Ok(());
            }
        }
        Err(format!("after {durable} durable steps of {}, found {found:#?}", self.steps.len()))
    }
}

/// The same but for what is committed. A shard that nothing was said about, or of which everything was taken back, is as good
/// as one that is not there.
fn same(one: &BTreeMap<ShardId, Log>, other: &BTreeMap<ShardId, Log>) -> bool {
    let log = |logs: &BTreeMap<ShardId, Log>, shard| {
        let log = logs.get(shard).cloned().unwrap_or_default();
        Log { committed: None, ..log }
    };
    one.keys().chain(other.keys()).all(|shard| log(one, shard) == log(other, shard))
}

/// All that a journal answers.
pub(crate) async fn read_all(journal: &Journal) -> io::Result<BTreeMap<ShardId, Log>> {
    let mut logs = BTreeMap::new();
    for shard in (0..SHARDS).map(ShardId) {
        let entries = journal.entries(shard, 0..u64::MAX).await?;
        let state = journal.log_state(shard);
        let log = Log {
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
            purged: state.last_purged,
            vote: journal.vote(shard),
            committed: journal.committed(shard),
            floor: journal.vote_floor(shard),
            is_deleting: journal.deleting().contains(&shard),
        };
        assert_eq!(log.last(), state.last, "shard {shard}");
        logs.insert(shard, log);
    }
    Ok(logs)
}

/// A step that makes sense now. Entries carry random bytes, so that none is taken for another.
pub(crate) fn random_step(random: &SeededRandom, logs: &BTreeMap<ShardId, Log>) -> Step {
    let below = |limit: u64| random.next_u64() % limit;
    let shard = ShardId(below(u64::from(SHARDS)) as u16);
    let empty = Log::default();
    let log = logs.get(&shard).unwrap_or(&empty);
    let some_index = |log: &Log| {
        let first = log.purged.map_or(0, |purged| purged.index);
        first + below(log.next() - first + 2)
    };
    if log.is_deleting {
        return Step::Delete(shard);
    }
    match below(20) {
        _ if log.last().is_some() && below(25) == 0 => Step::BeginDelete(shard),
        0..12 => {
            let term = log.last().map_or(1, |last| last.term) + below(8) / 7;
            let entry = |index| {
                let mut bytes = vec![0; 8 + below(400) as usize];
                bytes[..8].copy_from_slice(&random.next_u64().to_le_bytes());
                Entry { log_id: LogId { term, index }, payload: Payload::Membership(Bytes::from(bytes)) }
            };
            Step::Append(shard, (log.next()..log.next() + 1 + below(5)).map(entry).collect())
        }
        12..14 => {
            let index = some_index(log).max(log.purged.map_or(0, |purged| purged.index));
            let last = LogId { term: 1, index };
            Step::TruncateAfter(shard, (below(8) > 0 || log.purged.is_some()).then_some(last))
        }
        14..16 => Step::Purge(shard, LogId { term: 1, index: some_index(log) }),
        16 => Step::SaveCommitted(shard, log.last()),
        _ => Step::SaveVote(shard, Vote { term: below(9), node: NodeId(below(3)), committed: below(2) == 0 }),
    }
}

/// Works until the power goes, or for `steps`.
async fn work(journal: &Journal, history: &mut History, random: &SeededRandom, steps: usize) {
    for _ in 0..steps {
        let step = random_step(random, history.now());
        let result = history.perform(journal, step).await;
        let result = match random.next_u64() % 6 {
            0 => result.and(history.flush(journal).await),
            1 => {
                tokio::task::yield_now().await;
                result
            }
            _ => result,
        };
        if result.is_err() {
            return;
        }
    }
}

fn config() -> Config {
    Config {
        fatal: Arc::new(|_| {}),
        // Small, so that entries are read from disk, and rows move.
        tail_bytes_max: 2_000,
        straggler_distance_min: 20,
        ..Config::default()
    }
}

/// Several lives of one disk, each ended by a power cut at a random operation.
async fn crash(seed: u64, lives: usize, faults: Faults) -> Result<(), String> {
    let random = SeededRandom::new(seed);
    let mut disk = SimulatedDisk::new();
    let mut history = History::default();
    for life in 0..lives {
        disk.set_faults(faults);
        disk.cut_power_after(random.next_u64() % 300);
        if let Ok(journal) = Journal::open(&disk, config(), Seams::simulated(seed)).await {
            let found = read_all(&journal).await;
            if let Ok(found) = found {
                history.check(&found).map_err(|wrong| format!("life {life}: {wrong}"))?;
                history = History::since(found);
                work(&journal, &mut history, &random, 100).await;
            }
        }
        disk = disk.power_cut(random.next_u64());
    }
    let journal = Journal::open(&disk, config(), Seams::simulated(seed)).await.map_err(|error| error.to_string())?;
    history.check(&read_all(&journal).await.map_err(|error| error.to_string())?)
}

#[tokio::test(start_paused = true)]
async fn whatever_was_called_back_survives_power_cuts_and_nothing_else_appears() {
    for seed in 0..300 {
        if let Err(wrong) = crash(seed, 4, Faults::default()).await {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_check_notices_a_disk_that_lies_about_syncs() {
    let lies = Faults { sync_lies: true, ..Faults::default() };
    let mut noticed = 0;
    for seed in 0..30 {
        noticed += usize::from(crash(seed, 2, lies).await.is_err());
    }
    assert!(noticed > 10, "{noticed} of 30");
}
