//! What is known in memory of generations that are not their shard's content: those that snapshots are being staged in, that
//! are about to become content, and that are to be cleared. Part of the queue, and pure like it.

use std::collections::{BTreeMap, BTreeSet};

use berth_shared::ids::ShardId;
use tokio::sync::oneshot;

use super::Error;
use super::chunk::SnapshotError;
use super::model::ShardHead;

/// Invariant: a generation of which the file may hold rows is the one that its shard's head names, or in exactly one of
/// `staged`, `installing` and `garbage`, or in `staged` and `installing`.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// One per staging that lives.
    staged: BTreeSet<(ShardId, u32)>,
    /// Those of `staged` whose shard was deleted since they began: they never become content.
    revoked: BTreeSet<(ShardId, u32)>,
    /// The heads of shards that take no changes, because a staged generation becomes their content.
    installing: BTreeMap<ShardId, ShardHead>,
    /// At most one per shard in `installing`.
    requests: Vec<InstallRequest>,
    garbage: BTreeSet<(ShardId, u32)>,
}

#[derive(Debug)]
pub(super) struct InstallRequest {
    pub(super) shard: ShardId,
    pub(super) head: ShardHead,
    pub(super) answer: oneshot::Sender<Result<(), Error>>,
    /// The generation is empty, and nobody but the file has to be told of it.
    pub(super) is_deletion: bool,
}

impl Generations {
    pub(super) fn new(garbage: BTreeSet<(ShardId, u32)>) -> Self {
        Self { garbage, ..Self::default() }
    }

    /// Takes the first unused generation of a shard whose content is `current`, once nothing of the shard is to be cleared.
    pub(super) fn begin(&mut self, shard: ShardId, current: Option<u32>) -> Option<u32> {
        if self.garbage.iter().any(|(of, _)| *of == shard) {
            return None;
        }
        let staged = self.staged.iter().filter(|(of, _)| *of == shard).map(|(_, generation)| *generation);
        // It only ever counts up; one every second would last 136 years. A shard that has applied nothing yet may begin with
        // generation 0 at any time.
        let generation = staged.chain(current).max().unwrap_or(0) + 1;
        self.staged.insert((shard, generation));
        Some(generation)
    }

    /// The staging of this generation lives no more. Unless it has become content, its rows are cleared.
    pub(super) fn end(&mut self, shard: ShardId, generation: u32, current: Option<u32>) {
        self.staged.remove(&(shard, generation));
        self.revoked.remove(&(shard, generation));
        let is_installing = self.installing.get(&shard).is_some_and(|head| head.generation == generation);
        if !is_installing && current != Some(generation) {
            self.garbage.insert((shard, generation));
        }
    }

    pub(super) fn request(
        &mut self,
        shard: ShardId,
        head: ShardHead,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, SnapshotError> {
        if self.revoked.contains(&(shard, head.generation)) {
            return Err(SnapshotError::Deleted);
        }
        self.push_request(shard, head, false)
    }

    /// Asks for an empty generation to be made the content of a shard whose content is `current`: above all that it has had,
    /// because rows of those may be in the file for a while.
    pub(super) fn request_deletion(
        &mut self,
        shard: ShardId,
        current: Option<u32>,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, SnapshotError> {
        let of_shard = |(of, _): &&(ShardId, u32)| *of == shard;
        let known = self.staged.iter().chain(&self.garbage).filter(of_shard).map(|(_, generation)| *generation);
        let generation = known.chain(current).max().unwrap_or(0) + 1;
        let answer = self.push_request(shard, ShardHead { generation, ..ShardHead::default() }, true)?;
        self.revoked.extend(self.staged.iter().filter(of_shard));
        Ok(answer)
    }

    pub(super) fn is_staged(&self, shard: ShardId) -> bool {
        self.staged.iter().any(|(of, _)| *of == shard)
    }

    fn push_request(
        &mut self,
        shard: ShardId,
        head: ShardHead,
        is_deletion: bool,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, SnapshotError> {
        if self.is_installing(shard) {
            return Err(SnapshotError::Installing);
        }
        let (answer, receiver) = oneshot::channel();
        self.installing.insert(shard, head.clone());
        self.requests.push(InstallRequest { shard, head, answer, is_deletion });
        Ok(receiver)
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn take_requests(&mut self) -> Vec<InstallRequest> {
        std::mem::take(&mut self.requests)
    }

    pub(super) fn is_installing(&self, shard: ShardId) -> bool {
        self.installing.contains_key(&shard)
    }

    pub(super) fn installing(&self) -> &BTreeMap<ShardId, ShardHead> {
        &self.installing
    }

    /// The installed head of `shard` is its head from here on.
    pub(super) fn installed(&mut self, shard: ShardId) -> Option<ShardHead> {
        self.installing.remove(&shard)
    }

    pub(super) fn is_garbage(&mut self, shard: ShardId, generation: u32) {
        self.garbage.insert((shard, generation));
    }

    pub(super) fn to_clear(&self) -> Option<(ShardId, u32)> {
        self.garbage.first().copied()
    }

    pub(super) fn cleared(&mut self, shard: ShardId, generation: u32) {
        self.garbage.remove(&(shard, generation));
    }
}
