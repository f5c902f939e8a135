//! What a shard's owner has decided but not yet seen applied: entities ahead of the machine, running idempotency keys, and
//! the order of batches in flight. Pure; owned by the executor's one task.

use std::collections::VecDeque;

use hashbrown::HashMap;

use berth_shared::ids::RequestId;
use berth_shared::key::EntityKey;
use berth_shared::planted::{self, Bug};

use crate::record::{Fingerprint, Scope};
use crate::shard::command::Command;
use crate::shard::decide::View;

/// Batches of one owner, counted from 1 over the life of the executor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchNumber(pub u64);

#[derive(Debug, Default)]
pub struct Speculation {
    /// Entities as they will be once everything in flight is applied, with the last batch that changes them.
    ahead: HashMap<EntityKey, (BatchNumber, View)>,
    /// Bounded by batches in flight × records per batch.
    running: HashMap<Scope, Running>,
    in_flight: VecDeque<BatchNumber>,
    /// Keys of each batch in flight, to be released together.
    keys: HashMap<BatchNumber, Vec<(Scope, EntityKey)>>,
}

/// A request whose record is proposed and not yet applied.
#[derive(Debug)]
pub struct Running {
    pub fingerprint: Fingerprint,
    pub request_id: RequestId,
    /// Later attempts of the same request, answered when it is. Bounded per request.
    pub joined: Vec<Command>,
}

impl Speculation {
    pub fn view(&self, key: &EntityKey) -> Option<&View> {
        self.ahead.get(key).map(|(_, view)| view)
    }

    /// The batch that an outcome decided on this entity rests on.
    pub fn rests_on(&self, key: &EntityKey) -> Option<BatchNumber> {
        self.ahead.get(key).map(|(batch, _)| *batch)
    }

    pub fn running(&mut self, scope: &Scope) -> Option<&mut Running> {
        self.running.get_mut(scope)
    }

    pub fn running_len(&self) -> usize {
        self.running.len()
    }

    pub fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// A record of `batch` is decided: later decisions see `view`, later attempts see the key as running.
    pub fn record(&mut self, batch: BatchNumber, command: &Command, view: Option<View>) {
        if let Some(view) = view {
            self.ahead.insert(command.key.clone(), (batch, view));
        }
        let request = &command.request;
        let running = Running { fingerprint: request.fingerprint, request_id: command.request_id, joined: Vec::new() };
        self.running.insert(request.scope, running);
        self.keys.entry(batch).or_default().push((request.scope, command.key.clone()));
    }

    pub fn proposed(&mut self, batch: BatchNumber) {
        self.in_flight.push_back(batch);
    }

    /// `batch` has an outcome, known or not. Returns the attempts that had joined its requests.
    pub fn finished(&mut self, batch: BatchNumber) -> Vec<Command> {
        self.in_flight.retain(|b| *b != batch);
        let mut joined = Vec::new();
        for (scope, key) in self.keys.remove(&batch).unwrap_or_default() {
            if let Some(running) = self.running.remove(&scope) {
                joined.extend(running.joined);
            }
            if self.ahead.get(&key).is_some_and(|(last, _)| *last == batch) {
                self.ahead.remove(&key);
            }
        }
        joined
    }

    /// What was decided ahead no longer counts (rule W2). Running keys stay: their records may still be applied.
    pub fn discard_views(&mut self) {
        self.ahead.clear();
    }

    /// The attempts that had joined. The requests they had joined still run.
    pub fn part_joined(&mut self) -> Vec<Command> {
        self.running.values_mut().flat_map(|running| running.joined.drain(..)).collect()
    }

    /// Everything proposed in earlier terms has been applied or truncated. Returns the attempts that had joined.
    pub fn settle_all(&mut self) -> Vec<Command> {
        if !planted::is(Bug::DecideOnLeftovers) {
            self.discard_views();
        }
        self.in_flight.clear();
        self.keys.clear();
        self.running.drain().flat_map(|(_, running)| running.joined).collect()
    }
}
