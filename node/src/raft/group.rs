//! One shard's group on this node: how it starts, and what the shard asks of it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::vote::RaftLeaderId;
use openraft::{Raft, ReadPolicy, SnapshotPolicy, StepDownPolicy};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use berth_shared::ids::{LogId, NodeId, ShardId, Term};
use berth_shared::planted::{self, Bug};
use berth_shared::seam::{BootInstant, Seams};

use super::acknowledged::Acknowledged;
use super::arrival::{Arrivals, Arrived, Heard};
use super::beginning::{begin_log, check};
use super::campaign::{Beginning, Campaigner, View, rank};
use super::granted::Granted;
use super::leadership::Leadership;
use super::level::Speaker;
use super::membership::meet;
use super::message::Vote;
use super::network::Network;
use super::{
    Callback, ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN, Error, HEARTBEAT, Proposal, RaftLogId, RaftOf, Runtime,
    Types, from_raft, log, machine, snapshot,
};
use crate::journal::Journal;
use crate::record::Batch;
use crate::shard::Shard;
use crate::shard::group::{Change, ChangeError, ConfirmedMembership, Done, Group, Level, Observed, Proposed, Status};
use crate::transport::peers::Peers;

/// A heartbeat to a member is left out when an append to it was sent as recently and has been acknowledged.
const HEARTBEAT_SPARED: Duration = Duration::from_millis(75);
/// A leader that has lost its quorum stops its heartbeats, so that members which hear it, but whom it does not hear, elect
/// another one; for so long, and then it tries again for as long.
const QUORUM_LOSS_PROBE: Duration = Duration::from_millis(1200);
/// Entries of one append. Their bytes are bounded by what the log reads at once.
const APPEND_ENTRIES_MAX: u64 = 512;
/// How long the replica that is to own a new shard has to stand before the others do.
const FIRST_OWNER_AHEAD: Duration = Duration::from_secs(3);
/// A replica that has not heard of its leader for so long does not serve. Longer than an election takes, so that a failover
/// alone makes no replica unready.
const LEADER_HEARD_MAX: Duration = Duration::from_millis(1500);
/// How long a quorum has to confirm that this node leads, and what was committed before to be applied.
const CONFIRM_MAX: Duration = Duration::from_secs(1);
/// How long a stopping group may take to apply what it has begun.
const APPLY_END_MAX: Duration = Duration::from_secs(5);
/// How long a checkpoint of the store may take before its purpose is given up.
const SNAPSHOT_MAX: Duration = Duration::from_secs(60);
/// What a compaction leaves of a log, if that is less than a quarter of it: enough for a member that was away for some
/// seconds to catch up without a snapshot.
const LOG_KEPT_BYTES_MAX: u64 = 8 << 20;
/// Messages that may wait for one group.
const GROUP_QUEUE_MAX: u64 = 4096;

/// What a group is started with.
pub(super) struct Start<'a> {
    pub(super) node: NodeId,
    pub(super) shard: Arc<Shard>,
    pub(super) journal: Journal,
    pub(super) peers: Peers,
    pub(super) seams: Seams,
    pub(super) snapshot_turns: Arc<Semaphore>,
    /// Of a group that begins. One that has a log has its members in it.
    pub(super) voters: &'a [(NodeId, String)],
    pub(super) first_owner: bool,
}

pub(super) struct RaftGroup<R: Runtime> {
    pub(super) shard: ShardId,
    pub(super) node: NodeId,
    pub(super) raft: RaftOf<R>,
    metrics: WatchReceiverOf<Types<R>, openraft::metrics::RaftServerMetrics<Types<R>>>,
    machine: Arc<Shard>,
    journal: Journal,
    pub(super) peers: Peers,
    pub(super) leadership: Arc<Leadership<R>>,
    pub(super) granted: Arc<Granted>,
    heard: Arc<Heard>,
    /// Whether this node is a voter by the members that are applied.
    voter: Arc<AtomicBool>,
    /// How far the log of a replica went that was deleted here before this one.
    vote_floor: Option<LogId>,
    campaigner: Mutex<Campaigner>,
    /// The entry of the newest members that this node has made its connections to.
    met: Mutex<Option<RaftLogId>>,
    pub(super) seams: Seams,
    /// Set before the group is told to stop, so that an end without it is noticed as a failure.
    stopping: Arc<AtomicBool>,
    /// Cancelled once nothing is applied any more, which may be after the group has stopped.
    ended: CancellationToken,
}

/// What a node's task does for each of its groups, whatever their runtime.
pub(super) trait Paced: Send + Sync {
    /// Stands for election when the time has come, and sends heartbeats if this replica leads and it is `heartbeat`'s turn.
    fn pulse(&self, now: BootInstant, heartbeat: bool, connected: &[NodeId]);

    /// The connection to `node` is back, so what waits to try again need not wait longer.
    fn returned(&self, node: NodeId);
}

/// A started group, and where its messages go.
pub(super) struct Started<R: Runtime> {
    pub(super) group: Arc<RaftGroup<R>>,
    pub(super) inbox: mpsc::Sender<Arrived>,
}

impl<R: Runtime> RaftGroup<R> {
    pub(super) async fn start(start: Start<'_>) -> Result<Started<R>, Error> {
        let Start { node, shard, journal, peers, seams, snapshot_turns, voters, first_owner } = start;
        let id = shard.id();
        let failed = |reason: String| Error::Start { shard: id, reason };
        check(&shard, &journal).map_err(failed)?;
        let started_at = seams.clock.now();
        let known = journal.vote(id).map_or(0, |vote| vote.term);
        // One that was deleted here is not founded again: it begins blank, like any that comes later.
        let was_here = journal.vote(id).is_some() || journal.vote_floor(id).is_some();
        let is_new = journal.log_state(id).last.is_none() && !was_here;
        if is_new && !voters.is_empty() {
            begin_log(id, &journal, voters).await.map_err(|error| failed(error.to_string()))?;
        }
        let is_blank = journal.log_state(id).last.is_none() && shard.machine().head().applied.is_none();
        let (blank_sender, blank) = watch::channel(0);
        let (sole_voter, ended) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let (voter, speaker) = (Arc::new(AtomicBool::new(false)), Speaker::new());
        let log = log::ShardLog::new(id, journal.clone());
        let drop_guard = ended.clone().drop_guard();
        let alone = sole_voter.clone();
        let machine = machine::ShardMachine::new(node, shard.clone(), blank_sender, alone, voter.clone(), drop_guard)
            .map_err(|error| failed(error.to_string()))?;
        let acknowledged = Arc::new(Acknowledged::new());
        let granted = Arc::new(Granted::new(id, journal.clone()));
        let network = Network {
            shard: id,
            peers: peers.clone(),
            seams: seams.clone(),
            snapshot_turns,
            acknowledged: acknowledged.clone(),
            granted: granted.clone(),
            speaker: speaker.clone(),
            runtime: PhantomData,
        };
        let config = Arc::new(config(id).validate().map_err(|error| failed(error.to_string()))?);
        let raft: RaftOf<R> =
            Raft::new(node.0, config, network, log, machine).await.map_err(|error| failed(error.to_string()))?;
        // Rule R2. Also for a replica that is the only voter: a leader may go on after it has left the voters, and its lease
        // then rests on the one that is left.
        let votes_from =
            if is_new || planted::is(Bug::VoteAfterRestart) { started_at } else { started_at + ELECTION_TIMEOUT_MAX };
        let beginning = match (is_new, first_owner) {
            (true, true) => Beginning::Ours,
            (true, false) => Beginning::AnothersUntil(started_at + FIRST_OWNER_AHEAD),
            (false, _) => Beginning::Open,
        };
        let leadership = Arc::new(Leadership::new(node, &raft, acknowledged, sole_voter, &seams));
        speaker.begin(leadership.clone(), shard.clone(), seams.clock.clone());
        let stopping = Arc::new(AtomicBool::new(false));
        leadership.clone().watch(id, &raft, blank, stopping.clone(), &seams);
        let heard = Arc::new(Heard::default());
        let (of, heard_by) = (raft.clone(), heard.clone());
        let snapshots = snapshot::Receiver::new(shard.clone(), raft.clone(), seams.clone());
        let (vote_floor, seams_of) = (journal.vote_floor(id), seams.clone());
        let arrivals = Arrivals {
            shard: id,
            raft: of,
            votes_from,
            vote_floor,
            known,
            is_blank,
            heard: heard_by,
            snapshots,
            seams: seams_of,
        };
        let inbox = arrivals.start();
        let campaigner = Mutex::new(Campaigner::new(votes_from, beginning));
        let (metrics, machine) = (raft.server_metrics(), shard);
        let group = Self {
            shard: id,
            node,
            raft,
            metrics,
            machine,
            journal,
            peers,
            leadership,
            granted,
            heard,
            voter,
            vote_floor,
            campaigner,
            met: Mutex::new(None),
            seams,
            stopping,
            ended,
        };
        let group = Arc::new(group);
        Ok(Started { group, inbox })
    }

    /// Gives a command to the group's queue. It is only refused when the queue is full, and then there is more to do for
    /// the group than what is asked for here.
    pub(super) fn trigger(
        &self,
        what: &str,
        command: impl Future<Output = Result<(), openraft::errors::Fatal<Types<R>>>>,
    ) {
        match tokio::task::unconstrained(command).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(shard = %self.shard, %error, "{what}: the group has stopped"),
            None => tracing::debug!(shard = %self.shard, "{what}: the group's queue is full"),
        }
    }

    /// Takes a snapshot, which is a checkpoint of the store, and purges the log up to it, but for the newest entries, from
    /// which members that were away shortly catch up.
    async fn make_room(&self) -> Result<(), openraft::errors::Fatal<Types<R>>> {
        let Some(applied) = self.machine.machine().head().applied else { return Ok(()) };
        let sizes = self.journal.shard_sizes();
        let log_bytes = sizes.iter().find(|size| size.shard == self.shard).map_or(0, |size| size.bytes);
        let keep_bytes = (log_bytes / 4).min(LOG_KEPT_BYTES_MAX);
        self.raft.trigger().snapshot().await?;
        let mut metrics = self.raft.data_metrics();
        let taken = async {
            while metrics.borrow_watched().snapshot.as_ref().is_none_or(|taken| taken.index() < applied.index) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if self.seams.spawner.timeout(SNAPSHOT_MAX, taken).await.is_none() {
            tracing::warn!(shard = %self.shard, "the snapshot takes long; the log is purged after the next one");
            return Ok(());
        }
        let Some(upto) = self.journal.entries_to_purge(self.shard, keep_bytes) else { return Ok(()) };
        // No further than the snapshot goes: the library sees to that, and to what a member is being sent just now.
        self.raft.trigger().purge_log(upto).await
    }

    /// Whether every majority that the group needs has its connections to this node. A leader that has lost its quorum is
    /// heard from time to time all the same, because it tries whether the quorum is back.
    fn sees_quorum(&self) -> bool {
        let connected = self.peers.connected();
        let is_here = |voter: &&u64| **voter == self.node.0 || connected.binary_search(&NodeId(**voter)).is_ok();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().get_joint_config().iter();
        voters.all(|voters| voters.iter().filter(is_here).count() > voters.len() / 2)
    }

    pub(super) async fn confirm_leadership(&self, term: Term) -> bool {
        let asked_at = self.seams.clock.now();
        let confirming = async {
            self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await?;
            // The library may take an answer to an older question for one to this.
            self.leadership.acknowledged_since(term, asked_at).await;
            Ok::<_, RaftError<Types<R>, LinearizableReadError<Types<R>>>>(())
        };
        let confirmed = self.seams.spawner.timeout(CONFIRM_MAX, confirming).await;
        // The term has not changed, and terms do not come back: it was this one that was confirmed.
        matches!(confirmed, Some(Ok(()))) && self.vote().term == term && self.term() == Some(term)
    }

    /// Makes the connections that a replica needs which leads its members, before it does: a new leader waits for none then.
    fn meet_members(&self) {
        let members = {
            let metrics = self.metrics.borrow_watched();
            let mut met = self.met.lock();
            if *met == *metrics.membership_config.log_id() {
                return;
            }
            *met = *metrics.membership_config.log_id();
            metrics.membership_config.clone()
        };
        meet(&self.peers, members.membership());
    }

    fn is_voter(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        metrics.membership_config.membership().get_joint_config().iter().any(|voters| voters.contains(&self.node.0))
    }

    pub(super) fn vote(&self) -> Vote {
        Vote::from_raft::<R>(&self.metrics.borrow_watched().vote)
    }
}

fn config(shard: ShardId) -> openraft::Config {
    let millis = |duration: Duration| duration.as_millis() as u64;
    openraft::Config {
        cluster_name: format!("shard {shard}"),
        heartbeat_interval: millis(HEARTBEAT),
        heartbeat_min_interval: Some(millis(HEARTBEAT_SPARED)),
        election_timeout_min: millis(ELECTION_TIMEOUT_MIN),
        // The follower's side of the lease as well.
        election_timeout_max: millis(ELECTION_TIMEOUT_MAX),
        quorum_loss_probe_interval: Some(millis(QUORUM_LOSS_PROBE)),
        // `pulse` does what ticks would.
        enable_tick: false,
        enable_elect: false,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        removed_leader_step_down: StepDownPolicy::Never,
        max_payload_entries: APPEND_ENTRIES_MAX,
        // Entries go to the followers while the leader's own disk writes them in any case; this would send each by itself,
        // and not with those that wait beside it.
        broadcast_submitted_on_append: Some(false),
        // Snapshots are taken when the journal needs room, and what is purged then is counted in bytes: one entry may be
        // half a megabyte.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(GROUP_QUEUE_MAX),
        notification_channel_size: Some(GROUP_QUEUE_MAX),
        ..openraft::Config::default()
    }
}

impl<R: Runtime> Paced for RaftGroup<R> {
    fn pulse(&self, now: BootInstant, heartbeat: bool, connected: &[NodeId]) {
        let (vote, leads) = {
            let metrics = self.metrics.borrow_watched();
            (Vote::from_raft::<R>(&metrics.vote), metrics.state.is_leader())
        };
        self.meet_members();
        if leads && heartbeat {
            self.trigger("a heartbeat", self.raft.trigger().heartbeat());
        }
        let is_connected = vote.node != self.node && connected.binary_search(&vote.node).is_ok();
        let view = View { now, may_stand: !leads, vote, heard: self.heard.at(), is_connected };
        let alive = |node: &NodeId| *node != vote.node && connected.binary_search(node).is_ok();
        let rank = || rank(self.shard, self.node, self.raft.voter_ids().map(NodeId).filter(alive));
        if self.campaigner.lock().is_due(&view, rank, || self.seams.random.next_u64()) && self.is_voter() {
            // A vote is asked for before a term is begun, so that an attempt which cannot win disturbs nobody.
            self.trigger("standing for election", self.raft.trigger().elect(true));
        }
    }

    fn returned(&self, node: NodeId) {
        if self.leadership.term().is_some() {
            self.trigger("trying a member again", self.raft.trigger().reset_backoff([node.0]));
        }
    }
}

impl<R: Runtime> Group for RaftGroup<R> {
    fn leading(&self) -> watch::Receiver<Option<Term>> {
        self.leadership.leading()
    }

    fn term(&self) -> Option<Term> {
        self.leadership.term()
    }

    fn holds_lease(&self, term: Term) -> bool {
        self.leadership.holds_lease(term)
    }

    fn propose(&self, term: Term, batch: Arc<Batch>, done: Done) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let callback = Callback(Box::new(move |result: ClientWriteResult<Types<R>>| match result {
                Ok(written) => match written.data {
                    Some(applied) => done(Proposed::Applied(applied)),
                    None => drop(done),
                },
                Err(ClientWriteError::ForwardToLeader(_)) => done(Proposed::NotLeader),
                // Everything else leaves it open whether the entry will be applied.
                Err(error) => {
                    tracing::debug!(%error, "the fate of a batch is unknown");
                    drop(done);
                }
            }));
            let leader = LeaderId { term, voted_for: self.node.0 }.to_committed();
            let written = self.raft.write(Proposal(batch)).with_leader(leader).responder(callback).await;
            if let Err(error) = written {
                tracing::error!(shard = %self.shard, %error, "the group has stopped");
            }
        })
    }

    fn confirm(&self, term: Term) -> BoxFuture<'_, bool> {
        Box::pin(self.confirm_leadership(term))
    }

    fn transfer(&self, to: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(self.offer_leadership(to))
    }

    fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        Status {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            is_joint: membership.get_joint_config().len() > 1,
            last: self.raft.data_metrics().borrow_watched().last_log.as_ref().map(from_raft),
            sees_quorum: self.sees_quorum(),
            outlived_by: self.heard.outlived_by(),
        }
    }

    fn observe(&self) -> Option<Observed> {
        self.observed()
    }

    fn change(&self, term: Term, change: Change) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(self.change_members(term, change))
    }

    fn confirmed_membership(&self) -> BoxFuture<'_, Option<ConfirmedMembership>> {
        Box::pin(self.confirmed_members())
    }

    fn reach(&self, term: Term, node: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(self.reach_member(term, node))
    }

    fn is_serving(&self) -> bool {
        if self.term().is_some_and(|term| self.holds_lease(term)) {
            return true;
        }
        let now = self.seams.clock.now();
        let hears_leader = self.heard.at().is_some_and(|at| now < at + LEADER_HEARD_MAX);
        hears_leader
            && self.is_voter()
            && self.heard.has_caught_up(self.machine.machine().head().applied)
            && self.sees_quorum()
    }

    /// A voter is one that had nearly everything when it became one, by the very entries that it has applied since. But one that
    /// was a voter before, was deleted and begins anew, takes itself for a voter while it goes through the entries of that time
    /// again: it has to reach the end of what it had. And whoever hears a leader catches up first.
    fn level(&self) -> Option<Level> {
        let applied = self.machine.machine().head().applied?;
        let may_lack = !self.voter.load(Ordering::Acquire)
            || Some(applied) < self.vote_floor
            || self.heard.is_catching_up(Some(applied))
            || self.heard.outlived_by().is_some();
        if may_lack {
            return None;
        }
        let by_others = self.heard.levels.at(applied.index);
        let by_ourselves = self.term().and_then(|term| match self.holds_lease(term) {
            true => Some(self.seams.clock.now()),
            false => self.leadership.acknowledged_at(term),
        });
        Some(Level { at: by_others.max(by_ourselves) })
    }

    fn compact(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.make_room().await {
                tracing::warn!(shard = %self.shard, %error, "the group took no snapshot");
            }
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.stopping.store(true, Ordering::Release);
            if let Err(error) = self.raft.shutdown().await {
                tracing::warn!(shard = %self.shard, %error, "the group did not stop cleanly");
            }
            // What is being applied needs the store, which is closed next.
            if self.seams.spawner.timeout(APPLY_END_MAX, self.ended.cancelled()).await.is_none() {
                tracing::warn!(shard = %self.shard, "the group still applies entries");
            }
        })
    }
}

impl<R: Runtime> fmt::Debug for RaftGroup<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftGroup").field("shard", &self.shard).finish_non_exhaustive()
    }
}
