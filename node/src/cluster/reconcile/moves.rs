//! What this node's shards are doing at present to get to where the plan wants them, and what each of them did last, for whoever
//! wants to know.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use berth_shared::ids::{NodeId, ShardId};

/// Shared by who moves shards and who reports it.
#[derive(Debug, Default)]
pub struct Moves {
    current: Mutex<BTreeMap<ShardId, Current>>,
    /// Kept when a shard has gone to another owner, who knows nothing of it. At most one for each shard of the cluster.
    last: Mutex<BTreeMap<ShardId, Last>>,
}

/// The step that a shard is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    pub step: &'static str,
    pub target: NodeId,
    /// Wall clock, in microseconds since 1970.
    pub from_micros: u64,
}

/// A step that a shard has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub step: &'static str,
    pub target: NodeId,
    /// Wall clock, in microseconds since 1970.
    pub ended_micros: u64,
}

impl Moves {
    /// The step that `shard` is at, if it is owned here and moves.
    pub fn current(&self, shard: ShardId) -> Option<Current> {
        self.current.lock().get(&shard).copied()
    }

    /// The last step that this node, as the owner, has brought to its end.
    pub fn last(&self, shard: ShardId) -> Option<Last> {
        self.last.lock().get(&shard).copied()
    }

    /// How many moves go on.
    pub fn len(&self) -> usize {
        self.current.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on the shard is at this step. Says whether that is news.
    pub(super) fn begin(&self, shard: ShardId, step: &'static str, target: NodeId, wall_micros: u64) -> bool {
        let mut current = self.current.lock();
        let is_same = |known: &Current| (known.step, known.target) == (step, target);
        if current.get(&shard).is_some_and(is_same) {
            return false;
        }
        current.insert(shard, Current { step, target, from_micros: wall_micros });
        true
    }

    /// The step under way has succeeded.
    pub(super) fn done(&self, shard: ShardId, step: &'static str, wall_micros: u64) {
        let Some(Current { target, .. }) = self.current(shard).filter(|current| current.step == step) else { return };
        self.last.lock().insert(shard, Last { step, target, ended_micros: wall_micros });
    }

    pub(super) fn end(&self, shard: ShardId) {
        self.current.lock().remove(&shard);
    }

    /// Only those shards are owned here.
    pub(super) fn retain(&self, is_owned: impl Fn(ShardId) -> bool) {
        self.current.lock().retain(|shard, _| is_owned(*shard));
    }
}
