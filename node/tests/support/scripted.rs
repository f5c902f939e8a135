//! A consensus group whose every step is the test's: it holds what is proposed until the test says what becomes of it, and
//! leads or not, with a lease or not, as it is told. Around it a real shard on a real store.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_node::record::{Batch, Fingerprint, KeyOrigin, RequestKey, Scope};
use berth_node::shard::Shard;
use berth_node::shard::command::{Answer, Command};
use berth_node::shard::executor::{self, Executor, Mailbox};
use berth_node::shard::group::{
    Change, ChangeError, ConfirmedMembership, Done, Group, Level, Observed, Proposed, Status,
};
use berth_node::shard::hold::Hold;
use berth_node::shard::machine::{Applied, Verdict};
use berth_node::shard::reader::{self, Reader};
use berth_node::shard::residency::Residency;
use berth_node::store::{self, Store};
use berth_shared::ids::{LogId, NodeId, RequestId, ShardId, Term};
use berth_shared::key::EntityKey;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{Metrics, SIZE_COUNTS};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{oneshot, watch};

pub(crate) use crate::asking::{Answered, Ask, Pending};

/// The term in which a [`Stage`] starts to lead.
pub(crate) const TERM: Term = 7;

/// The scripted twin of a consensus group.
pub(crate) struct ScriptedGroup {
    leading: watch::Sender<Option<Term>>,
    state: Mutex<GroupState>,
}

#[derive(Default)]
struct GroupState {
    /// The term that a quorum confirms.
    lease: Option<Term>,
    /// The term that a quorum confirms when it is asked (ReadIndex), whatever becomes of the lease.
    confirmed: Option<Term>,
    status: Status,
    level: Option<Level>,
    /// How many more times the lease is confirmed before it passes to another term, or to nobody.
    passes: Option<(usize, Option<Term>)>,
    held: VecDeque<Held>,
}

/// A proposal whose fate is open. Dropping it drops its callback: the outcome is unknown.
pub(crate) struct Held {
    pub(crate) term: Term,
    pub(crate) batch: Arc<Batch>,
    done: Done,
}

impl ScriptedGroup {
    fn new() -> Arc<Self> {
        Arc::new(Self { leading: watch::Sender::new(None), state: Mutex::default() })
    }

    /// Says that this node leads in `term`, with a lease, or that it leads no more.
    pub(crate) fn say_leading(&self, term: Option<Term>) {
        let mut state = self.state.lock();
        state.lease = term;
        state.confirmed = term;
        state.passes = None;
        self.leading.send_replace(term);
    }

    /// The quorum is silent: leadership is not lost, but nothing confirms it.
    pub(crate) fn lose_lease(&self) {
        self.state.lock().lease = None;
    }

    pub(crate) fn regain_lease(&self) {
        self.state.lock().lease = *self.leading.borrow();
    }

    /// Nobody confirms the leadership when asked.
    pub(crate) fn lose_quorum(&self) {
        self.state.lock().confirmed = None;
    }

    /// What the group knows of itself.
    pub(crate) fn say_status(&self, status: Status) {
        self.state.lock().status = status;
    }

    /// The replica may answer reads that are not for the newest, and is as new as that; or it may not.
    pub(crate) fn say_level(&self, level: Option<Level>) {
        self.state.lock().level = level;
    }

    /// The lease is confirmed so many times more and then is that of `term`, or nobody's.
    pub(crate) fn pass_lease_after(&self, confirmations: usize, term: Option<Term>) {
        self.state.lock().passes = Some((confirmations, term));
    }

    /// The oldest proposal that was not taken yet.
    pub(crate) fn take(&self) -> Option<Held> {
        self.state.lock().held.pop_front()
    }

    pub(crate) fn held(&self) -> usize {
        self.state.lock().held.len()
    }
}

impl Group for ScriptedGroup {
    fn leading(&self) -> watch::Receiver<Option<Term>> {
        self.leading.subscribe()
    }

    fn holds_lease(&self, term: Term) -> bool {
        let mut state = self.state.lock();
        match state.passes {
            Some((0, term)) => state.lease = term,
            Some((confirmations, term)) => state.passes = Some((confirmations - 1, term)),
            None => {}
        }
        state.lease == Some(term)
    }

    fn propose(&self, term: Term, batch: Arc<Batch>, done: Done) -> BoxFuture<'_, ()> {
        self.state.lock().held.push_back(Held { term, batch, done });
        Box::pin(std::future::ready(()))
    }

    fn confirm(&self, term: Term) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(self.state.lock().confirmed == Some(term)))
    }

    fn transfer(&self, _to: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    fn status(&self) -> Status {
        self.state.lock().status.clone()
    }

    fn observe(&self) -> Option<Observed> {
        None
    }

    fn change(&self, _term: Term, _change: Change) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(std::future::ready(Err(ChangeError::NotLeader)))
    }

    fn confirmed_membership(&self) -> BoxFuture<'_, Option<ConfirmedMembership>> {
        Box::pin(std::future::ready(None))
    }

    fn reach(&self, _term: Term, _node: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    fn is_serving(&self) -> bool {
        self.term().is_some_and(|term| self.holds_lease(term))
    }

    fn level(&self) -> Option<Level> {
        self.state.lock().level
    }

    fn compact(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Held {
    pub(crate) fn refuse(self) {
        (self.done)(Proposed::NotLeader);
    }

    /// Drops the callback; the batch may be applied all the same.
    pub(crate) fn lose(self) -> Arc<Batch> {
        self.batch
    }

    pub(crate) fn finish(self, applied: Applied) {
        (self.done)(Proposed::Applied(applied));
    }

    pub(crate) fn records(&self) -> usize {
        self.batch.records().len()
    }
}

/// A shard with its executor and reader, and the group that they believe in.
pub(crate) struct Stage {
    pub(crate) seams: Seams,
    pub(crate) shard: Arc<Shard>,
    pub(crate) group: Arc<ScriptedGroup>,
    pub(crate) reader: Reader,
    pub(crate) residency: Arc<Residency>,
    mailbox: Mailbox,
    pub(crate) hold: Hold,
    registry: Arc<Registry>,
    last_index: AtomicU64,
    last_request: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) executor: executor::Config,
    pub(crate) resident_bytes_max: usize,
    pub(crate) registry: Registry,
}

impl Default for Options {
    fn default() -> Self {
        let executor = executor::Config { mailbox_max: 4096, batches_in_flight_max: 4, window_keys_max: 100_000 };
        Self { executor, resident_bytes_max: 256 << 20, registry: Registry::built_in() }
    }
}

impl Stage {
    /// A shard that its node leads in [`TERM`].
    pub(crate) async fn leading() -> Self {
        Self::leading_with(Options::default()).await
    }

    pub(crate) async fn leading_with(options: Options) -> Self {
        let stage = Self::following_with(options).await;
        stage.lead(TERM).await;
        stage
    }

    /// A shard that its node does not lead yet.
    pub(crate) async fn following_with(options: Options) -> Self {
        let seams = Seams::simulated(1);
        let journal: store::JournalFlushed = Arc::new(|| Box::pin(std::future::ready(Ok(()))));
        let config = store::Config { fatal: Arc::new(|line| panic!("{line}")), ..store::Config::default() };
        let store = Store::open(&SimulatedDisk::new(), journal, config, seams.clone()).await.unwrap();
        let residency = Residency::new(options.resident_bytes_max);
        let registry = Arc::new(options.registry);
        let shard = Shard::open(ShardId(0), registry.clone(), store, residency.clone(), seams.clone()).unwrap();
        let group = ScriptedGroup::new();
        let metrics = Metrics::new(&[]).unwrap();
        let batch_records = metrics.histogram("batch_records", "Records per batch.", &SIZE_COUNTS, &[]);
        let executor = Executor::start(options.executor, shard.clone(), group.clone(), batch_records, seams.clone());
        let executor::Handle { mailbox, hold } = executor;
        let reader = Reader { shard: shard.clone(), group: group.clone(), registry: registry.clone() };
        let (last_index, last_request) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { seams, shard, group, reader, residency, mailbox, hold, registry, last_index, last_request }
    }

    /// Lets every task run until all of them wait. Time is paused, so it moves only when nothing else is left to do.
    pub(crate) async fn settle(&self) {
        self.seams.spawner.sleep(Duration::from_micros(10)).await;
    }

    fn next_log_id(&self, term: Term) -> LogId {
        LogId { term, index: self.last_index.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// Becomes the leader of `term`: its blank entry is applied, then the group says so.
    pub(crate) async fn lead(&self, term: Term) {
        self.shard.apply_blank(self.next_log_id(term)).await.unwrap();
        self.group.say_leading(Some(term));
        self.settle().await;
    }

    pub(crate) async fn step_down(&self) {
        self.group.say_leading(None);
        self.settle().await;
    }

    pub(crate) fn try_send(&self, ask: &Ask<'_>) -> Result<Pending, Pending> {
        let (sender, answer) = oneshot::channel();
        let number = self.last_request.fetch_add(1, Ordering::Relaxed);
        let kind = self.registry.get(ask.kind).unwrap();
        let key = EntityKey::new(ask.kind, ask.id).unwrap();
        let own_key = format!("made-{number}");
        let idempotency_key = ask.key.unwrap_or(&own_key);
        let made_now = KeyOrigin::Gateway { created_micros: self.seams.clock.wall_micros() };
        let origin = ask.origin.unwrap_or(if ask.key.is_some() { KeyOrigin::Client } else { made_now });
        let command = Command {
            kind: kind.clone(),
            action: ask.action(kind.as_ref()),
            precondition: ask.precondition.clone(),
            principal: String::new(),
            request: RequestKey {
                scope: Scope::new("", &key, idempotency_key),
                fingerprint: Fingerprint::new(ask.command, ask.body.as_bytes(), b""),
                origin,
            },
            request_id: RequestId(ask.request_id.unwrap_or(1_000_000 + u128::from(number))),
            attempt: ask.attempt,
            wants_state: true,
            deadline: self.seams.clock.now() + ask.time,
            // Nobody listens any more where a test has dropped its end.
            answer: Answer::new(move |response| drop(sender.send(Answered::from(response)))),
            key,
        };
        match self.mailbox.try_send(command) {
            Ok(()) => Ok(Pending(answer)),
            Err(TrySendError::Full(command) | TrySendError::Closed(command)) => {
                drop(command);
                Err(Pending(answer))
            }
        }
    }

    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Puts a command into the mailbox and lets the executor see it.
    pub(crate) async fn send(&self, ask: Ask<'_>) -> Pending {
        let pending = self.try_send(&ask).unwrap_or_else(|_| panic!("the mailbox is full"));
        self.settle().await;
        pending
    }

    /// Puts commands into the mailbox together, so that they are decided together.
    pub(crate) async fn send_all<'a>(&self, asks: impl IntoIterator<Item = Ask<'a>>) -> Vec<Pending> {
        let send = |ask| self.try_send(&ask).unwrap_or_else(|_| panic!("the mailbox is full"));
        let pending = asks.into_iter().map(send).collect();
        self.settle().await;
        pending
    }

    /// The oldest proposal, which must be there.
    pub(crate) fn take(&self) -> Held {
        self.group.take().expect("something was proposed")
    }

    /// How many records everything proposed and not yet taken has.
    pub(crate) fn held_records(&self) -> usize {
        self.group.state.lock().held.iter().map(Held::records).sum()
    }

    /// Applies a batch as the next entry of the log, in `term`.
    pub(crate) async fn apply_in(&self, term: Term, batch: &Arc<Batch>) -> Applied {
        self.shard.apply(self.next_log_id(term), batch).await.unwrap()
    }

    /// Applies the oldest proposal in its own term, tells the executor, and says what became of its records.
    pub(crate) async fn apply_next(&self) -> Vec<Verdict> {
        let held = self.take();
        let term = held.term;
        self.apply_held_in(term, held).await
    }

    /// Applies a proposal as an entry of `term` and tells the executor.
    pub(crate) async fn apply_held_in(&self, term: Term, held: Held) -> Vec<Verdict> {
        let applied = self.apply_in(term, &held.batch).await;
        let verdicts = applied.verdicts.to_vec();
        held.finish(applied);
        self.settle().await;
        verdicts
    }

    /// Applies whatever is proposed, until nothing is.
    pub(crate) async fn apply_all(&self) {
        self.settle().await;
        while self.group.held() > 0 {
            self.apply_next().await;
        }
    }

    /// Sends a command and lets it through.
    pub(crate) async fn run(&self, ask: Ask<'_>) -> Answered {
        let mut pending = self.send(ask).await;
        self.apply_all().await;
        pending.answered().expect("everything that was proposed is applied")
    }

    /// The applied state and version of an entity, whoever leads; `None` where it has no events.
    pub(crate) async fn applied(&self, kind: &str, id: &str) -> Option<(u64, String)> {
        let key = EntityKey::new(kind, id).unwrap();
        let mut loaded = self.shard.load(vec![key.clone()]).await.unwrap();
        let resident = loaded.remove(&key).unwrap();
        let state = self.registry.get(kind).unwrap().state_json(&resident.state.unwrap()).unwrap();
        (resident.version > 0).then(|| (resident.version, String::from_utf8(state.to_vec()).unwrap()))
    }

    pub(crate) async fn counter(&self, id: &str) -> Option<(u64, String)> {
        self.applied("counter", id).await
    }

    pub(crate) async fn read(&self, kind: &str, id: &str) -> Result<(u64, String), reader::Error> {
        let current = self.reader.read(&EntityKey::new(kind, id).unwrap()).await?;
        Ok((current.version, String::from_utf8(current.state.to_vec()).unwrap()))
    }
}

impl fmt::Debug for ScriptedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedGroup").field("leading", &*self.leading.borrow()).finish_non_exhaustive()
    }
}
