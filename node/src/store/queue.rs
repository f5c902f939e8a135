//! What is in memory of the store: the layers that are not in the file yet, the heads of all shards, who waits for a
//! checkpoint, and when the next step is due. Pure: the flusher passes time in, and handles lock it for a moment only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{LogId, ShardId};
use berth_shared::key::EntityKey;
use berth_shared::seam::BootInstant;
use tokio::sync::oneshot;

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
    /// When the oldest change in `filling` came.
    filling_since: Option<BootInstant>,
    /// When the oldest change came that the last checkpoint does not cover.
    dirty_since: Option<BootInstant>,
    /// Written to the file since the last checkpoint.
    dirty_bytes: u64,
    /// At most one for each task that waits; they share the next checkpoint.
    waiters: Vec<Waiter>,
    checkpointed: Checkpointed,
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
    Close,
    Stop,
}

impl Queue {
    pub(super) fn new(heads: BTreeMap<ShardId, ShardHead>) -> Self {
        let checkpointed = Checkpointed { applied: Arc::new(applied_of(&heads)) };
        Self {
            heads,
            filling: Layer::default(),
            writing: None,
            filling_since: None,
            dirty_since: None,
            dirty_bytes: 0,
            waiters: Vec::new(),
            checkpointed,
            state: State::Open,
        }
    }

    pub(super) fn head(&self, shard: ShardId) -> Option<&ShardHead> {
        self.heads.get(&shard)
    }

    pub(super) fn shards(&self) -> Vec<ShardId> {
        self.heads.keys().copied().collect()
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
        let flush_in = self.filling_since.map(|since| (since + config.flush_interval).since(now));
        let checkpoint_in = self.dirty_since.map(|since| (since + config.checkpoint_interval).since(now));
        if !self.waiters.is_empty()
            || checkpoint_in == Some(Duration::ZERO)
            || self.dirty_bytes + self.filling.bytes as u64 >= config.checkpoint_bytes as u64
        {
            return Step::Checkpoint;
        }
        if flush_in == Some(Duration::ZERO) || self.filling.bytes >= enough(config) {
            return Step::Flush;
        }
        Step::Wait([flush_in, checkpoint_in].into_iter().flatten().min())
    }

    /// Moves what has gathered to where it is written from. `None` when there is nothing.
    pub(super) fn take_to_write(&mut self) -> Option<Arc<Layer>> {
        debug_assert!(self.writing.is_none(), "one layer is written at a time");
        if self.filling.is_empty() {
            return None;
        }
        let layer = Arc::new(std::mem::take(&mut self.filling));
        self.filling_since = None;
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
        let dirty = self.dirty_since.take().is_some();
        let layer = self.take_to_write();
        let waiters = std::mem::take(&mut self.waiters);
        let checkpointed =
            if dirty { Checkpointed { applied: Arc::new(applied_of(&self.heads)) } } else { self.checkpointed.clone() };
        CheckpointTask { dirty, layer, waiters, checkpointed }
    }

    pub(super) fn finish_checkpoint(&mut self, checkpointed: Checkpointed) {
        self.checkpointed = checkpointed;
        self.dirty_bytes = 0;
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
