//! The executor of a shard: one task that decides its commands in order, ahead of what is durable, and proposes what it
//! decided in batches. It answers nobody before the machine has applied what the answer rests on.
//!
//! It keeps these rules. W1: one task per shard proposes, in the order of decisions, fenced by its term. W2: any refusal,
//! drop or change of leadership voids everything decided ahead. W3: it decides only in a term whose blank entry is applied.
//! W4: an outcome without events waits for every record it was decided on, and for a confirmed leadership.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::{mpsc, watch};

use berth_shared::ids::{Term, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::{Response, Seen};
use berth_shared::planted::{self, Bug};
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::telemetry::Histogram;

use crate::record::{Batch, KeyOrigin, Record, Status};
use crate::shard::Shard;
use crate::shard::command::{Action, Command};
use crate::shard::decide::{self, View, decide};
use crate::shard::entities::Resident;
use crate::shard::group::Group;
use crate::shard::hold::{self, Hold, Holding};
use crate::shard::in_flight::{Abandon, Decided, Finished, InFlight};
use crate::shard::machine::{After, Applied};
use crate::shard::speculation::{BatchNumber, Speculation};
use crate::shard::time::ShardTime;
use crate::shard::window::{RowId, refused_age};
use crate::store::{self, OutcomeRow};

/// Records per batch; more wait for the next one.
const BATCH_RECORDS_MAX: usize = 256;
/// Bytes of events and replies per batch, past which it is closed.
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Bytes of states that are kept until a batch is applied, past which it is closed.
const BATCH_STATE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Outcomes that may wait for batches in flight before no more commands are decided.
const WAITING_MAX: usize = 4096;
/// How often an owner that decides nothing looks whether a quorum still answers it, and for commands that nobody waits for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Attempts that may wait for one running request.
const JOINED_MAX: usize = 64;

#[derive(Clone, Debug)]
pub struct Config {
    /// Commands waiting for one shard; more are refused as overloaded.
    pub mailbox_max: usize,
    /// Batches proposed and not yet applied, per shard.
    pub batches_in_flight_max: usize,
    /// Idempotency keys remembered per shard; more are refused as overloaded, never forgotten early.
    pub window_keys_max: usize,
}

/// Sends commands to an executor.
pub type Mailbox = mpsc::Sender<Command>;

/// A running executor. It ends when the last mailbox is dropped, or its group ends.
#[derive(Clone, Debug)]
pub struct Handle {
    pub mailbox: Mailbox,
    pub hold: Hold,
}

pub struct Executor {
    config: Config,
    shard: Arc<Shard>,
    group: Arc<dyn Group>,
    batch_records: Histogram,
    seams: Seams,
    leading: watch::Receiver<Option<Term>>,
    mailbox: mpsc::Receiver<Command>,
    holding: Holding,
    /// Bounded by batches in flight.
    finished: mpsc::UnboundedReceiver<Finished>,
    finished_sender: mpsc::UnboundedSender<Finished>,
    term: Option<Term>,
    speculation: Speculation,
    /// Set while decisions wait for what is in flight to settle, after some of it was dropped.
    settling: bool,
    /// To be decided before the mailbox is looked at. Bounded by what was in flight, what had joined that, what waited, and
    /// what one mailbox holds.
    again: VecDeque<Command>,
    /// Outcomes without events that rest on a batch in flight, in the order of decisions.
    waiting: VecDeque<Waiting>,
    /// The answers of each batch in flight, to be given up when leadership changes.
    in_flight: VecDeque<(BatchNumber, Abandon)>,
    last_batch: BatchNumber,
    time: ShardTime,
}

struct Waiting {
    rests_on: BatchNumber,
    decided: Decided,
}

/// The batch that is being filled.
#[derive(Default)]
struct Draft {
    records: Vec<Record>,
    after: Vec<Option<After>>,
    decided: Vec<Decided>,
    bytes: usize,
    state_bytes: usize,
}

impl Executor {
    pub fn start(
        config: Config,
        shard: Arc<Shard>,
        group: Arc<dyn Group>,
        batch_records: Histogram,
        seams: Seams,
    ) -> Handle {
        let (mailbox_sender, mailbox) = mpsc::channel(config.mailbox_max);
        let (hold, holding) = hold::channel();
        let (finished_sender, finished) = mpsc::unbounded_channel();
        let executor = Self {
            config,
            shard,
            leading: group.leading(),
            group,
            batch_records,
            seams: seams.clone(),
            mailbox,
            holding,
            finished,
            finished_sender,
            term: None,
            speculation: Speculation::default(),
            settling: false,
            again: VecDeque::new(),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_batch: BatchNumber::default(),
            time: ShardTime::default(),
        };
        seams.spawner.spawn(executor.run());
        Handle { mailbox: mailbox_sender, hold }
    }

    async fn run(mut self) {
        let (mut received, spawner) = (Vec::with_capacity(BATCH_RECORDS_MAX), self.seams.spawner);
        self.leadership_changed();
        loop {
            let has_settled = self.speculation.in_flight_len() == 0 && self.waiting.is_empty();
            let is_held = self.holding.is_held(has_settled);
            let may_decide = self.term.is_none()
                || (!is_held
                    && !self.settling
                    && self.waiting.len() < WAITING_MAX
                    && self.speculation.in_flight_len() < self.config.batches_in_flight_max);
            let decides_again = may_decide && !self.again.is_empty();
            // Commands that wait to be decided again never keep the news out that their decision must rest on.
            tokio::select! {
                biased;
                changed = self.leading.changed() => {
                    if changed.is_err() { return }
                    self.leadership_changed();
                }
                Some(finished) = self.finished.recv() => self.batch_finished(finished),
                () = self.holding.changed() => {}
                () = std::future::ready(()), if decides_again => self.decide_next(&mut received).await,
                count = self.mailbox.recv_many(&mut received, BATCH_RECORDS_MAX), if may_decide => {
                    if count == 0 { return }
                    self.decide_next(&mut received).await;
                }
                () = spawner.sleep(LOOK_INTERVAL), if !may_decide => self.look_around(),
            }
        }
    }

    /// A new term starts with nothing decided ahead; everything of earlier terms is settled, because this node leads only
    /// once it has applied its own blank entry.
    ///
    /// What is in flight becomes unknown at once: the group may keep its callbacks for as long as a partition lasts, while
    /// the gateways could already learn the outcome from the next owner.
    fn leadership_changed(&mut self) {
        self.term = *self.leading.borrow_and_update();
        self.time.restart();
        if !planted::is(Bug::DecideOnLeftovers) {
            self.discard_speculation();
        }
        self.in_flight.drain(..).for_each(|(_, answers)| answers.abandon());
        // A joined attempt wrote nothing itself; its gateway remembers that an earlier one is unsettled.
        let joined = if self.term.is_some() { self.speculation.settle_all() } else { self.speculation.part_joined() };
        self.again.extend(joined);
        if self.term.is_some() {
            self.settling = false;
        }
    }

    /// Nothing that was decided ahead counts any more (rule W2); what rested on it is decided again.
    fn discard_speculation(&mut self) {
        self.speculation.discard_views();
        self.shard.machine().discard_expected();
        self.again.extend(self.waiting.drain(..).map(|waiting| waiting.decided.command));
    }

    fn batch_finished(&mut self, finished: Finished) {
        let Finished { batch, applied, again } = finished;
        if planted::is(Bug::DecideOnLeftovers) && !self.in_flight.iter().any(|(number, _)| *number == batch) {
            return;
        }
        if planted::is(Bug::DecideOnLeftovers) && !again.is_empty() {
            // Or it would be decided on the same again, for ever.
            self.discard_speculation();
        }
        self.in_flight.retain(|(number, _)| *number != batch);
        let joined = self.speculation.finished(batch);
        self.again.extend(again);
        self.again.extend(joined);
        match applied {
            Some(applied) => self.release(batch, &applied),
            None => {
                self.discard_speculation();
                self.settling = true;
            }
        }
        if self.speculation.in_flight_len() == 0 {
            self.settling = false;
        }
    }

    /// Answers the outcomes that rested on `batch`, if this node still surely leads; otherwise they are decided again.
    fn release(&mut self, batch: BatchNumber, applied: &Applied) {
        let leads = self.term.is_some_and(|term| self.group.holds_lease(term));
        let seen = Seen { incarnation: applied.incarnation, index: applied.log_id.index };
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.rests_on <= batch) {
            if leads {
                waiting.decided.answer(seen);
            } else {
                self.again.push_back(waiting.decided.command);
            }
        }
    }

    /// What an owner does that waits. One that is cut off from its quorum refuses what it has not decided: waiting for a batch
    /// that cannot be applied would leave callers in doubt about commands that nobody has looked at. Any other refuses only
    /// what has expired, so that a queue of commands that nobody waits for does not keep others out.
    fn look_around(&mut self) {
        let leads = self.term.is_some_and(|term| self.group.holds_lease(term));
        // However often it looks, no more than one mailbox holds is kept here.
        while (!leads || self.again.len() < self.config.mailbox_max)
            && let Ok(command) = self.mailbox.try_recv()
        {
            self.again.push_back(command);
        }
        if !leads {
            return self.refuse_undecided();
        }
        let now = self.seams.clock.now();
        for command in std::mem::take(&mut self.again) {
            if now > command.deadline {
                refuse_expired(command);
            } else {
                self.again.push_back(command);
            }
        }
    }

    fn refuse_undecided(&mut self) {
        self.again.drain(..).for_each(|command| command.answer.send(Response::WrongOwner { owner: None }));
    }

    async fn decide_next(&mut self, received: &mut Vec<Command>) {
        self.again.extend(received.drain(..));
        let Some(term) = self.term.filter(|term| self.group.holds_lease(*term)) else {
            return self.refuse_undecided();
        };
        let count = self.again.len().min(BATCH_RECORDS_MAX);
        let loaded = match self.load(count).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(shard = %self.shard.id(), %error, "the store cannot be read");
                let refused = self.again.drain(..count);
                return refused
                    .for_each(|command| command.answer.refuse(Code::Unavailable, "the node cannot read its store"));
            }
        };
        if *self.leading.borrow() != Some(term) {
            // Leadership moved while entities were read.
            return self.leadership_changed();
        }
        let batch = BatchNumber(self.last_batch.0 + 1);
        let mut draft = Draft::default();
        for _ in 0..count {
            if draft.bytes > BATCH_BYTES_MAX || draft.state_bytes > BATCH_STATE_BYTES_MAX {
                break;
            }
            let Some(command) = self.again.pop_front() else { break };
            self.decide_one(term, batch, command, &loaded, &mut draft);
        }
        if !draft.records.is_empty() {
            self.last_batch = batch;
            self.propose(term, batch, draft).await;
        }
    }

    fn decide_one(&mut self, term: Term, batch: BatchNumber, command: Command, loaded: &Loaded, draft: &mut Draft) {
        let Some(command) = self.admit(term, command, loaded) else { return };
        let Some(view) = self.view(&command.key, loaded) else {
            // Passivated since it was loaded; it is read again with the next batch.
            self.again.push_back(command);
            return;
        };
        let view = match view {
            Ok(view) => view,
            Err(detail) => return command.answer.refuse(Code::Unavailable, detail),
        };
        let time_micros = self.next_time();
        if matches!(command.action, Action::PassTime(passed) if time_micros <= passed) {
            return command.answer.refuse(Code::InvalidRequest, "the time is not in the past of the entity's shard");
        }
        let verdict = match decide(&view, &command, time_micros) {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::error!(kind = command.key.kind(), %error, "a kind failed to decide a command");
                return command.answer.refuse(Code::Internal, "the entity's code failed; nothing was written");
            }
        };
        let decide::Verdict { outcome, events, state, deleted, json } = verdict;
        let stored = !events.is_empty()
            || matches!(command.request.origin, KeyOrigin::Client)
            || matches!(command.action, Action::PassTime(_))
            || command.attempt > 1;
        let version = view.version + events.len() as Version;
        if !stored {
            let decided = Decided { command, outcome, version, json };
            return self.answer_without_record(term, decided);
        }
        let changed = !events.is_empty();
        let next = View { version, deleted, state: state.clone(), json: Some(json.clone()) };
        self.speculation.record(batch, &command, changed.then_some(next));
        draft.bytes += outcome.reply.len() + events.iter().map(|event| event.data.len()).sum::<usize>();
        draft.state_bytes += if changed { json.len() } else { 0 };
        draft.after.push(changed.then(|| After { state, json: json.clone() }));
        draft.records.push(Record {
            key: command.key.clone(),
            request: command.request,
            base_version: view.version,
            time_micros,
            outcome: outcome.clone(),
            events,
        });
        draft.decided.push(Decided { command, outcome, version, json });
    }

    /// Answers what can be answered without deciding: retries of known keys, and refusals. Gives the command back otherwise.
    fn admit(&mut self, term: Term, command: Command, loaded: &Loaded) -> Option<Command> {
        let request = command.request;
        if let Some(running) = self.speculation.running(&request.scope) {
            if running.fingerprint != request.fingerprint {
                refuse_reused(command);
            } else if running.request_id == command.request_id && running.joined.len() < JOINED_MAX {
                running.joined.push(command);
            } else {
                command.answer.refuse(Code::InProgress, "another request with this idempotency key is running");
            }
            return None;
        }
        let now = self.seams.clock.now();
        if now > command.deadline {
            refuse_expired(command);
            return None;
        }
        let known = self.shard.machine().window.get(&request.scope);
        if let Some(id) = known {
            match loaded.outcomes.iter().find(|row| (row.lane, row.row) == (id.lane, id.row)) {
                Some(row) => self.replay(term, command, row),
                // Unanswered, because the request was executed. What the window names is in the store, unless that is damaged.
                None if loaded.rows.contains(&id) => tracing::error!(?id, "the store has lost an outcome"),
                // Stored since the outcomes were read; it is read with the next batch.
                None => self.again.push_back(command),
            }
            return None;
        }
        let now_micros = self.next_time();
        // One that only passes time is this node's own, and has no key that anybody could send again.
        let is_own = matches!(command.action, Action::PassTime(_));
        if let Some(detail) = refused_age(request.origin, now_micros).filter(|_| !is_own) {
            command.answer.refuse(Code::KeyExpired, detail);
            return None;
        }
        // The next record that is applied makes the window forget what has expired by then. Counting that as well would keep
        // a full window full for ever, because a shard's time stands still while nothing is applied.
        let keys_max = self.config.window_keys_max.saturating_sub(self.speculation.running_len());
        let is_full = {
            let window = &self.shard.machine().window;
            window.len() >= keys_max && window.len_at(now_micros) >= keys_max
        };
        if is_full {
            command.answer.refuse(Code::Overloaded, "the shard remembers as many idempotency keys as it may");
            return None;
        }
        Some(command)
    }

    fn replay(&self, term: Term, command: Command, row: &OutcomeRow) {
        if row.fingerprint != command.request.fingerprint {
            return refuse_reused(command);
        }
        if !self.group.holds_lease(term) {
            return command.answer.send(Response::WrongOwner { owner: None });
        }
        let seen = self.shard.seen();
        let (outcome, version) = (row.outcome.clone(), row.version);
        if !command.wants_state || outcome.status != Status::Accepted {
            return command.answer.outcome(&outcome, version, None, true, seen);
        }
        // The state is not kept with the outcome; it is folded again, which may take a while.
        let shard = self.shard.clone();
        self.seams.spawner.spawn(async move {
            match shard.state_at(&command.key, version).await {
                Ok(Some(state)) => command.answer.outcome(&outcome, version, Some(&state), true, seen),
                // Unanswered: the caller must not take a request that was applied for one that was not.
                Ok(None) => tracing::error!(kind = command.key.kind(), "the state of an earlier outcome is unreadable"),
                Err(error) => tracing::error!(%error, "the store cannot be read"),
            }
        });
    }

    fn answer_without_record(&mut self, term: Term, decided: Decided) {
        match self.speculation.rests_on(&decided.command.key).filter(|_| !planted::is(Bug::ReleaseRefusalEarly)) {
            Some(rests_on) => self.waiting.push_back(Waiting { rests_on, decided }),
            None if self.group.holds_lease(term) => {
                let seen = self.shard.seen();
                decided.answer(seen);
            }
            None => decided.command.answer.send(Response::WrongOwner { owner: None }),
        }
    }

    async fn propose(&mut self, term: Term, number: BatchNumber, mut draft: Draft) {
        if planted::is(Bug::AcknowledgeBeforeCommit) {
            let seen = self.shard.seen();
            draft.decided.drain(..).for_each(|decided| decided.answer(seen));
        }
        self.batch_records.record(draft.records.len() as f64);
        let batch = Arc::new(Batch::new(term, draft.records));
        self.shard.machine().expect(batch.clone(), draft.after);
        self.speculation.proposed(number);
        let sender = self.finished_sender.clone();
        let in_flight = InFlight::new(number, draft.decided, sender);
        self.in_flight.push_back((number, in_flight.abandon()));
        self.group.propose(term, batch, Box::new(move |result| in_flight.finish(result))).await;
    }

    fn next_time(&mut self) -> u64 {
        let applied_micros = self.shard.machine().head().shard_time_micros;
        let clock = &self.seams.clock;
        self.time.next(clock.now(), clock.wall_micros(), applied_micros)
    }

    /// The entity as the next decision must see it; `None` when it is not in memory.
    fn view(&self, key: &EntityKey, loaded: &Loaded) -> Option<Result<View, &'static str>> {
        if let Some(view) = self.speculation.view(key).filter(|_| !planted::is(Bug::DropBaseVersionCheck)) {
            return Some(Ok(view.clone()));
        }
        let resident = self.shard.resident(key).or_else(|| loaded.entities.get(key).cloned())?;
        let Some(state) = resident.state else {
            return Some(Err("this node cannot read the entity's history"));
        };
        Some(Ok(View { version: resident.version, deleted: resident.deleted, state, json: resident.json }))
    }

    /// Reads what the next `count` commands need and memory does not hold.
    async fn load(&mut self, count: usize) -> Result<Loaded, store::Error> {
        let mut keys: Vec<EntityKey> = Vec::new();
        let mut rows: Vec<RowId> = Vec::new();
        {
            let machine = self.shard.machine();
            for command in self.again.iter().take(count) {
                rows.extend(machine.window.get(&command.request.scope));
                let key = &command.key;
                if self.speculation.view(key).is_none() && machine.entities.peek(key).is_none() {
                    keys.push(key.clone());
                }
            }
        }
        if keys.is_empty() && rows.is_empty() {
            return Ok(Loaded::default());
        }
        keys.sort_unstable();
        keys.dedup();
        let entities = self.shard.load(keys).await?;
        let outcomes = if rows.is_empty() { Vec::new() } else { self.shard.outcomes(rows.clone()).await? };
        Ok(Loaded { entities, rows, outcomes })
    }
}

/// What was read from the store for one round of decisions. Entities are as new as the machine's at the time of the read,
/// and cannot have changed since: only this task proposes, and what it has in flight it takes from speculation.
#[derive(Default)]
struct Loaded {
    entities: HashMap<EntityKey, Resident>,
    /// The outcomes that were asked for, and those of them that were found.
    rows: Vec<RowId>,
    outcomes: Vec<OutcomeRow>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("shard", &self.shard.id()).field("term", &self.term).finish_non_exhaustive()
    }
}

fn refuse_expired(command: Command) {
    command.answer.refuse(Code::Unavailable, "the request's deadline passed before it was decided");
}

fn refuse_reused(command: Command) {
    command.answer.refuse(Code::KeyReused, "this idempotency key was used for another request");
}
