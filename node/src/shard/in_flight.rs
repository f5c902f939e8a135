//! A proposed batch on its way: the commands that it will answer, and the word to the executor once its fate is known. It
//! answers from wherever the group calls back; it decides nothing.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use berth_shared::ids::Version;
use berth_shared::message::Seen;

use crate::record::Outcome;
use crate::shard::command::Command;
use crate::shard::group::Proposed;
use crate::shard::machine::{Applied, Verdict};
use crate::shard::speculation::BatchNumber;

/// A command and what was decided, which is not to be shown before it is applied.
#[derive(Debug)]
pub struct Decided {
    pub command: Command,
    pub outcome: Outcome,
    pub version: Version,
    pub json: Bytes,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Finished {
    pub batch: BatchNumber,
    /// Set when every record was applied.
    pub applied: Option<Applied>,
    /// Commands whose records were dropped or not appended, to be decided again.
    pub again: Vec<Command>,
}

/// Answers a batch when its fate is known, and tells the executor in any case.
#[derive(Debug)]
pub struct InFlight {
    batch: BatchNumber,
    decided: Abandon,
    /// Taken when the executor is told.
    sender: Option<mpsc::UnboundedSender<Finished>>,
}

/// Gives up the answers of a batch, whose fate is then unknown to those who asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Abandon(Arc<Mutex<Vec<Decided>>>);

impl InFlight {
    pub fn new(batch: BatchNumber, decided: Vec<Decided>, sender: mpsc::UnboundedSender<Finished>) -> Self {
        Self { batch, decided: Abandon(Arc::new(Mutex::new(decided))), sender: Some(sender) }
    }

    pub fn abandon(&self) -> Abandon {
        self.decided.clone()
    }

    pub fn finish(mut self, result: Proposed) {
        let decided = self.decided.take();
        match result {
            Proposed::NotLeader => {
                self.tell(None, decided.into_iter().map(|decided| decided.command).collect());
            }
            Proposed::Applied(applied) => {
                let again = answer_applied(decided, &applied);
                let is_whole = applied.verdicts.iter().all(|verdict| *verdict == Verdict::Applied);
                self.tell(is_whole.then_some(applied), again);
            }
        }
    }

    fn tell(&mut self, applied: Option<Applied>, again: Vec<Command>) {
        if let Some(sender) = self.sender.take() {
            // The executor is gone only when the node is stopping.
            let _ = sender.send(Finished { batch: self.batch, applied, again });
        }
    }
}

impl Drop for InFlight {
    /// Unless it was finished, the batch's fate is unknown: its answers are dropped, which says so to the gateways.
    fn drop(&mut self) {
        drop(self.decided.take());
        self.tell(None, Vec::new());
    }
}

impl Abandon {
    /// Drops the answers unsent. The records may still be applied.
    pub fn abandon(&self) {
        drop(self.take());
    }

    fn take(&self) -> Vec<Decided> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Decided {
    pub fn answer(self, seen: Seen) {
        let state = self.command.wants_state.then_some(&self.json[..]);
        self.command.answer.outcome(&self.outcome, self.version, state, false, seen);
    }
}

/// Answers the applied records of a batch; returns the commands whose records were dropped.
fn answer_applied(decided: Vec<Decided>, applied: &Applied) -> Vec<Command> {
    let seen = Seen { incarnation: applied.incarnation, index: applied.log_id.index };
    let mut again = Vec::new();
    for (decided, verdict) in decided.into_iter().zip(&applied.verdicts) {
        match verdict {
            Verdict::Applied => decided.answer(seen),
            Verdict::WrongTerm | Verdict::KnownKey | Verdict::WrongBase => again.push(decided.command),
        }
    }
    again
}
