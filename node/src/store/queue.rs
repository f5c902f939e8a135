//! What is in memory of the store: the layers that are not in the file yet, the heads of all shards, who waits for a
//! checkpoint, and when the next step is due. Pure: the flusher passes time in, and handles lock it for a moment only.
//! What it knows of generations that are not, or no more, a shard's content is in [`super::generations`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{LogId, ShardId};
use berth_shared::key::EntityKey;
use berth_shared::seam::BootInstant;
use tokio::sync::oneshot;

use super::chunk::SnapshotError;
use super::generations::{Generations, InstallRequest};
use super::layer::{self, Layer, SequenceError};
use super::model::{Changes, Checkpointed, ShardHead};
use super::{Config, Error};

#[derive(Debug)]
pub(super) struct Queue {
    /// The newest heads of all shards, of changes still queued too.
    heads: BTreeMap<ShardId, ShardHead>,
    filling: Layer,
    /// Invariant: dropped only after the transaction that wrote it has committed.
    writing: Option<Arc<Layer>>,
    /// Layers are counted; this is the number of `filling`, and `writing` is the one before.
    filling_number: u64,
    /// Layers up to this number are wanted in the file at once.
    wanted_number: u64,
    /// When the oldest change in `filling` came.
    filling_since: Option<BootInstant>,
    /// When the oldest change came that the last checkpoint does not cover.
    dirty_since: Option<BootInstant>,
    /// Written to the file since the last checkpoint.
    dirty_bytes: u64,
    /// At most one for each task that waits; they share the next checkpoint.
    waiters: Vec<Waiter>,
    checkpointed: Checkpointed,
    generations: Generations,
    /// Rows were cleared since a layer was last written.
    has_cleared: bool,
    state: State,
}

type Waiter = oneshot::Sender<Result<Checkpointed, Error>>;

#[derive(Clone, Debug)]
enum State {
    Open,
    Closing,
    /// With the reason.
    Stopped(Arc<str>),
}

/// What the flusher is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this long, or before somebody calls when it is `None`.
    Wait(Option<Duration>),
    Flush,
    Checkpoint,
    /// Delete some rows of this generation.
    Clear(ShardId, u32),
    Close,
    Stop,
}

impl Queue {
    pub(super) fn new(heads: BTreeMap<ShardId, ShardHead>, generations: Generations) -> Self {
        let checkpointed = Checkpointed { applied: Arc::new(applied_of(&heads)) };
        Self {
            heads,
            filling: Layer::default(),
            writing: None,
            filling_number: 1,
            wanted_number: 0,
            filling_since: None,
            dirty_since: None,
            dirty_bytes: 0,
            waiters: Vec::new(),
            checkpointed,
            generations,
            has_cleared: false,
            state: State::Open,
        }
    }

    pub(super) fn head(&self, shard: ShardId) -> Option<&ShardHead> {
        self.heads.get(&shard)
    }

    /// Those of which there is something; a deleted one has no more than the number of its next generation.
    pub(super) fn shards(&self) -> Vec<ShardId> {
        self.heads.iter().filter(|(_, head)| head.applied.is_some()).map(|(shard, _)| *shard).collect()
    }

    pub(super) fn filling(&self) -> &Layer {
        &self.filling
    }

    pub(super) fn writing(&self) -> Option<&Arc<Layer>> {
        self.writing.as_ref()
    }

    pub(super) fn checkpointed(&self) -> &Checkpointed {
        &self.checkpointed
    }

    /// Memory held by changes that are not in the file yet.
    pub(super) fn bytes(&self) -> usize {
        self.filling.bytes + self.writing.as_ref().map_or(0, |layer| layer.bytes)
    }

    pub(super) fn has_room(&self, config: &Config) -> bool {
        self.bytes() < config.queue_bytes_max
    }

    /// Takes `changes`. Returns whether the flusher has to look again when its next step is due.
    pub(super) fn add(&mut self, changes: Changes, now: BootInstant, config: &Config) -> Result<bool, Error> {
        self.check_open()?;
        self.check_follows(&changes)?;
        let was_small = self.filling.bytes < enough(config);
        let was_idle = self.filling_since.is_none();
        self.heads.insert(changes.shard, changes.head.clone());
        self.filling.add(changes);
        self.filling_since.get_or_insert(now);
        self.dirty_since.get_or_insert(now);
        Ok(was_idle || (was_small && self.filling.bytes >= enough(config)))
    }

    fn check_follows(&self, changes: &Changes) -> Result<(), SequenceError> {
        if self.generations.is_installing(changes.shard) {
            return Err(SequenceError::Installing(changes.shard));
        }
        if let Some(before) = self.heads.get(&changes.shard) {
            let after = &changes.head;
            if before.generation != after.generation {
                return Err(SequenceError::Generation { before: before.generation, after: after.generation });
            }
            if before.applied > after.applied {
                return Err(SequenceError::Applied { before: before.applied, after: after.applied });
            }
        }
        let version = |layer: &Layer, key: &EntityKey| layer.entity(changes.shard, key).map(|entity| entity.version);
        let writing = |key: &EntityKey| self.writing.as_ref().and_then(|layer| version(layer, key));
        layer::check(changes, |key| version(&self.filling, key).or_else(|| writing(key)))
    }

    pub(super) fn next_step(&self, now: BootInstant, config: &Config) -> Step {
        match self.state {
            State::Stopped(_) => return Step::Stop,
            State::Closing => return Step::Close,
            State::Open => {}
        }
        let step = self.next_write(now, config);
        // Clearing is never urgent, but somebody may wait for it, so it has its turn between any two writes too.
        match self.generations.to_clear() {
            Some((shard, generation)) if matches!(step, Step::Wait(_)) || !self.has_cleared => {
                Step::Clear(shard, generation)
            }
            _ => step,
        }
    }

    fn next_write(&self, now: BootInstant, config: &Config) -> Step {
        let flush_in = self.filling_since.map(|since| (since + config.flush_interval).since(now));
        let checkpoint_in = self.dirty_since.map(|since| (since + config.checkpoint_interval).since(now));
        if !self.waiters.is_empty()
            || self.generations.has_requests()
            || checkpoint_in == Some(Duration::ZERO)
            || self.dirty_bytes + self.filling.bytes as u64 >= config.checkpoint_bytes as u64
        {
            return Step::Checkpoint;
        }
        let is_wanted = self.wanted_number >= self.filling_number;
        if is_wanted || flush_in == Some(Duration::ZERO) || self.filling.bytes >= enough(config) {
            return Step::Flush;
        }
        Step::Wait([flush_in, checkpoint_in].into_iter().flatten().min())
    }

    /// Moves what has gathered to where it is written from. `None` when there is nothing.
    pub(super) fn take_to_write(&mut self) -> Option<Arc<Layer>> {
        debug_assert!(self.writing.is_none(), "one layer is written at a time");
        self.has_cleared = false;
        if self.filling.is_empty() {
            return None;
        }
        let layer = Arc::new(std::mem::take(&mut self.filling));
        self.filling_since = None;
        self.filling_number += 1;
        self.writing = Some(layer.clone());
        Some(layer)
    }

    /// The layer that was being written is in the file. Returns it, to be dropped outside the lock.
    pub(super) fn written(&mut self) -> Option<Arc<Layer>> {
        let layer = self.writing.take();
        self.dirty_bytes += layer.as_ref().map_or(0, |layer| layer.bytes as u64);
        layer
    }

    /// Begins a checkpoint, of everything that came until now: what to write, and who waits for it.
    pub(super) fn begin_checkpoint(&mut self) -> CheckpointTask {
        let requests = self.generations.take_requests();
        let dirty = self.dirty_since.take().is_some() || !requests.is_empty();
        let layer = self.take_to_write();
        let waiters = std::mem::take(&mut self.waiters);
        let checkpointed = if dirty {
            let mut applied = applied_of(&self.heads);
            applied.retain(|shard, _| !self.generations.is_installing(*shard));
            applied.extend(applied_of(self.generations.installing()));
            Checkpointed { applied: Arc::new(applied) }
        } else {
            self.checkpointed.clone()
        };
        CheckpointTask { dirty, layer, requests, waiters, checkpointed }
    }

    pub(super) fn finish_checkpoint(&mut self, checkpointed: Checkpointed) {
        self.checkpointed = checkpointed;
        self.dirty_bytes = 0;
    }

    /// The number of the last layer that has changes of `shard`, if it is not in the file yet. It is written at once.
    pub(super) fn want_in_file(&mut self, shard: ShardId) -> Option<u64> {
        if self.filling.shard(shard).is_some() {
            self.wanted_number = self.filling_number;
            return Some(self.filling_number);
        }
        let writing = self.writing.as_ref().and_then(|layer| layer.shard(shard));
        writing.map(|_| self.filling_number - 1)
    }

    pub(super) fn is_in_file(&self, number: u64) -> bool {
        let not_yet = if self.writing.is_some() { self.filling_number - 1 } else { self.filling_number };
        number < not_yet
    }

    /// `None` while rows of the shard are to be cleared.
    pub(super) fn begin_generation(&mut self, shard: ShardId) -> Option<u32> {
        let current = self.heads.get(&shard).map(|head| head.generation);
        self.generations.begin(shard, current)
    }

    pub(super) fn end_generation(&mut self, shard: ShardId, generation: u32) {
        let current = self.heads.get(&shard).map(|head| head.generation);
        self.generations.end(shard, generation, current);
    }

    /// Rows of no shard's content were written or cleared, which the next checkpoint makes durable with all else.
    pub(super) fn wrote(&mut self, bytes: u64, now: BootInstant) {
        self.dirty_bytes += bytes;
        self.dirty_since.get_or_insert(now);
    }

    pub(super) fn cleared(&mut self, shard: ShardId, generation: u32, bytes: u64, is_all: bool, now: BootInstant) {
        self.has_cleared = true;
        self.wrote(bytes, now);
        if is_all {
            self.generations.cleared(shard, generation);
        }
    }

    /// Asks for a staged generation to be made the content of its shard, with the next checkpoint, which is due at once. From
    /// here until [`Self::publish`] the shard takes no changes.
    pub(super) fn install(
        &mut self,
        shard: ShardId,
        head: ShardHead,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        self.check_open()?;
        let before = self.heads.get(&shard).and_then(|head| head.applied);
        if before >= head.applied {
            return Err(SnapshotError::NotNewer { snapshot: head.applied, shard: before }.into());
        }
        Ok(self.generations.request(shard, head)?)
    }

    /// Asks for the shard to be made empty with the next checkpoint, which is due at once. From here until then it takes no
    /// changes. `None` when it is empty.
    pub(super) fn delete(&mut self, shard: ShardId) -> Result<Option<oneshot::Receiver<Result<(), Error>>>, Error> {
        self.check_open()?;
        let head = self.heads.get(&shard);
        if head.is_none_or(|head| head.applied.is_none()) && !self.generations.is_staged(shard) {
            return Ok(None);
        }
        let current = head.map(|head| head.generation);
        Ok(Some(self.generations.request_deletion(shard, current)?))
    }

    /// From here on reads and changes are of the generation that was installed. Its rows and its head are in the file.
    pub(super) fn publish(&mut self, shard: ShardId) -> Option<ShardHead> {
        let head = self.generations.installed(shard)?;
        debug_assert!(self.filling.shard(shard).is_none(), "a shard takes no changes while it is installed");
        if let Some(before) = self.heads.insert(shard, head.clone()) {
            self.generations.is_garbage(shard, before.generation);
        }
        Some(head)
    }

    pub(super) fn wait_for_checkpoint(&mut self) -> Result<oneshot::Receiver<Result<Checkpointed, Error>>, Error> {
        self.check_open()?;
        let (waiter, answer) = oneshot::channel();
        self.waiters.push(waiter);
        Ok(answer)
    }

    pub(super) fn close(&mut self) -> Result<oneshot::Receiver<Result<Checkpointed, Error>>, Error> {
        let answer = self.wait_for_checkpoint()?;
        self.state = State::Closing;
        Ok(answer)
    }

    /// Takes nothing from now on. Returns whether this is news, and who must be told.
    pub(super) fn stop(&mut self, reason: &str) -> (bool, Vec<Waiter>) {
        let is_news = !matches!(self.state, State::Stopped(_));
        // Who asked for one of these learns that there will be no answer.
        self.generations.take_requests();
        if is_news {
            self.state = State::Stopped(reason.into());
        }
        (is_news, std::mem::take(&mut self.waiters))
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        match &self.state {
            State::Open => Ok(()),
            State::Closing => Err(Error::Stopped("it is being closed".into())),
            State::Stopped(reason) => Err(Error::Stopped(reason.clone())),
        }
    }
}

/// One checkpoint on its way. Its content is fixed.
#[derive(Debug)]
pub(super) struct CheckpointTask {
    /// Whether there is anything that the last checkpoint does not cover.
    pub(super) dirty: bool,
    pub(super) layer: Option<Arc<Layer>>,
    /// Generations that become their shards' content with it.
    pub(super) requests: Vec<InstallRequest>,
    pub(super) waiters: Vec<Waiter>,
    /// What will be durable once it is through.
    pub(super) checkpointed: Checkpointed,
}

/// How much is written without waiting for more. A full queue is always enough, or its writers would wait for the clock.
fn enough(config: &Config) -> usize {
    config.flush_bytes.min(config.queue_bytes_max)
}

fn applied_of(heads: &BTreeMap<ShardId, ShardHead>) -> BTreeMap<ShardId, LogId> {
    heads.iter().filter_map(|(shard, head)| Some((*shard, head.applied?))).collect()
}
