//! The adapter to openraft, and the only room that names it: our journal as its log, our shards as its state machines, our
//! clock as its clock, and one Raft group per shard behind the seam [`crate::shard::group::Group`].

mod log;
mod machine;
mod network;
mod runtime;
#[cfg(test)]
mod suite_test;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, OptionalSend, Raft, RaftTypeConfig, SnapshotPolicy, StepDownPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use berth_shared::ids::{LogId, NodeId, ShardId, Term};
use berth_shared::seam::{Seams, Spawner};

use crate::journal::Journal;
use crate::record::Batch;
use crate::shard::Shard;
use crate::shard::group::{Done, Group, Proposed, Status};
use crate::shard::machine::Applied;

pub use runtime::{Runtime, SimulatedRuntime, SystemRuntime};

/// How often an owner tells its replicas that it lives.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Shortest silence after which a replica campaigns.
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(300);
/// Longest silence after which a replica campaigns.
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(600);
/// A lease ends 10 % before the election timeout, for clocks that run at different speeds.
const LEASE: Duration = Duration::from_millis(540);
/// How long a stopping group may take to apply what it has begun.
const APPLY_END_MAX: Duration = Duration::from_secs(5);
/// Messages that may wait for one group.
const GROUP_QUEUE_MAX: u64 = 4096;

/// With one leader per term, a term names it.
type CommittedLeaderId = <LeaderId<u64, u64> as RaftLeaderId>::Committed;

/// The types of a group, over the runtime that gives it time, tasks and randomness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types<R>(PhantomData<R>);

impl<R: Runtime> RaftTypeConfig for Types<R> {
    type D = Proposal;
    /// `None` for entries without records.
    type R = Option<Applied>;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    /// At most one leader per term (rule W5), so that a term names its leader.
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Proposal, u64, Member>;
    type Entry = openraft::Entry<CommittedLeaderId, Self::Payload>;
    type AsyncRuntime = R;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A batch as a log entry; shared, because it is read again when it is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal(pub Arc<Batch>);

/// Where a member of a group is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub address: String,
}

/// Calls back when openraft answers a proposal; dropped uncalled when it never will.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

type SnapshotHandle = machine::SnapshotHandle;
type RaftOf<R> = Raft<Types<R>, machine::ShardMachine<R>>;

/// One shard's group on this node.
pub struct RaftGroup<R: Runtime> {
    shard: ShardId,
    node: NodeId,
    raft: RaftOf<R>,
    leading: watch::Receiver<Option<Term>>,
    /// Whether the applied members are this node alone. It turns false with the joint configuration that adds another voter,
    /// before that one's votes can count without ours.
    sole_voter: Arc<AtomicBool>,
    /// Set before the group is told to stop, so that an end without it is noticed as a failure.
    stopping: Arc<AtomicBool>,
    /// Cancelled once nothing is applied any more, which may be after the group has stopped.
    ended: CancellationToken,
    spawner: Spawner,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the group of shard {shard} did not start: {reason}")]
    Start { shard: ShardId, reason: String },
}

impl<R: Runtime> RaftGroup<R> {
    /// Starts the group of `shard` on this node. A group without a log starts as its only voter.
    pub async fn start(
        node: NodeId,
        address: &str,
        shard: Arc<Shard>,
        journal: Journal,
        seams: &Seams,
    ) -> Result<Self, Error> {
        let id = shard.id();
        let failed = |reason: String| Error::Start { shard: id, reason };
        let (purged, applied) = (journal.log_state(id).last_purged, shard.machine().head().applied);
        let last = journal.log_state(id).last;
        if applied > last || (applied.is_some() && journal.vote(id).is_none()) {
            // A checkpoint waits for the journal, so this is another journal, or none: votes and entries are lost.
            return Err(failed(format!("its store holds entries up to {applied:?}, and its journal ends at {last:?}")));
        }
        if purged > applied {
            // One flipped bit in the store's file can bring back the checkpoint before the last: never start on that.
            return Err(failed(format!(
                "its store holds entries up to {applied:?}, and its journal begins after {purged:?}"
            )));
        }
        let config = openraft::Config {
            cluster_name: format!("shard {id}"),
            heartbeat_interval: HEARTBEAT.as_millis() as u64,
            election_timeout_min: ELECTION_TIMEOUT_MIN.as_millis() as u64,
            election_timeout_max: ELECTION_TIMEOUT_MAX.as_millis() as u64,
            snapshot_policy: SnapshotPolicy::Never,
            // A snapshot is taken only when the journal needs room, and then all of it: one entry may be half a megabyte.
            max_in_snapshot_log_to_keep: 0,
            purge_batch_size: 1,
            api_channel_size: Some(GROUP_QUEUE_MAX),
            notification_channel_size: Some(GROUP_QUEUE_MAX),
            removed_leader_step_down: StepDownPolicy::Never,
            enable_leader_restore: Some(false),
            enable_pre_vote: Some(true),
            ..openraft::Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| failed(error.to_string()))?);
        let (blank_sender, blank) = watch::channel(0);
        let (sole_voter, ended) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let log = log::ShardLog::new(id, journal);
        let machine =
            machine::ShardMachine::new(node, shard, blank_sender, sole_voter.clone(), ended.clone().drop_guard())
                .map_err(|error| failed(error.to_string()))?;
        let raft = Raft::new(node.0, config, network::NoPeers::default(), log, machine)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let initialized = raft.is_initialized().await.map_err(|error| failed(error.to_string()))?;
        if !initialized {
            let members = BTreeMap::from([(node.0, Member { address: address.to_owned() })]);
            raft.initialize(members).await.map_err(|error| failed(error.to_string()))?;
        } else if raft.voter_ids().eq([node.0]) {
            // Nobody else can lead, so there is nothing to wait for.
            raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()))?;
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let leading = watch_leadership(id, &raft, node, blank, stopping.clone(), seams);
        Ok(Self { shard: id, node, raft, leading, sole_voter, stopping, ended, spawner: seams.spawner })
    }
}

impl<R: Runtime> Group for RaftGroup<R> {
    fn leading(&self) -> watch::Receiver<Option<Term>> {
        self.leading.clone()
    }

    fn term(&self) -> Option<Term> {
        *self.leading.borrow()
    }

    fn holds_lease(&self, term: Term) -> bool {
        if self.term() != Some(term) {
            return false;
        }
        if self.sole_voter.load(Ordering::Acquire) {
            return true;
        }
        let acknowledged = self
            .raft
            .data_metrics()
            .borrow_watched()
            .last_quorum_acked
            .map(openraft::metrics::SerdeInstant::into_inner);
        let now = <R::Instant as openraft::Instant>::now();
        acknowledged.is_some_and(|at| now < at + LEASE)
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
        Box::pin(async move {
            let confirmed = self.raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex).await;
            confirmed.is_ok() && self.term() == Some(term)
        })
    }

    fn transfer(&self, _to: NodeId) -> BoxFuture<'_, bool> {
        // A group of one voter has nobody to hand leadership to.
        Box::pin(std::future::ready(false))
    }

    fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        Status {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            last: None,
        }
    }

    fn compact(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.raft.trigger().snapshot().await {
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
            if self.spawner.timeout(APPLY_END_MAX, self.ended.cancelled()).await.is_none() {
                tracing::warn!(shard = %self.shard, "the group still applies entries");
            }
        })
    }
}

/// Starts the group of `shard` on the runtime that goes with `seams`.
pub async fn start(
    node: NodeId,
    address: &str,
    shard: Arc<Shard>,
    journal: Journal,
    seams: &Seams,
) -> Result<Arc<dyn Group>, Error> {
    Ok(match seams.spawner {
        Spawner::Threads => Arc::new(RaftGroup::<SystemRuntime>::start(node, address, shard, journal, seams).await?),
        Spawner::Inline => Arc::new(RaftGroup::<SimulatedRuntime>::start(node, address, shard, journal, seams).await?),
    })
}

/// Combines what the group reports with the blank entry that the machine has applied (rule W3).
fn watch_leadership<R: Runtime>(
    shard: ShardId,
    raft: &RaftOf<R>,
    node: NodeId,
    mut blank: watch::Receiver<Term>,
    stopping: Arc<AtomicBool>,
    seams: &Seams,
) -> watch::Receiver<Option<Term>> {
    let (sender, receiver) = watch::channel(None);
    let mut metrics = raft.server_metrics();
    seams.spawner.spawn(async move {
        loop {
            let leading = {
                let metrics = metrics.borrow_watched();
                let ours = metrics.vote.is_committed() && metrics.vote.leader_id().voted_for == node.0;
                let term = metrics.vote.leader_id().term;
                (metrics.state.is_leader() && ours && *blank.borrow_and_update() == term).then_some(term)
            };
            sender.send_if_modified(|current| std::mem::replace(current, leading) != leading);
            let alive = tokio::select! {
                changed = metrics.changed() => changed.is_ok(),
                changed = blank.changed() => changed.is_ok(),
            };
            if !alive {
                sender.send_replace(None);
                if !stopping.load(Ordering::Acquire) {
                    crate::fatal::abort(&format!("the group of shard {shard} has failed"));
                }
                return;
            }
        }
    });
    receiver
}

impl<C: RaftTypeConfig, T: OptionalSend + 'static> Responder<C, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

impl<R: Runtime> fmt::Debug for RaftGroup<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftGroup").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Callback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.0.records().len())
    }
}

type RaftLogId = openraft::LogId<CommittedLeaderId>;
type Membership = openraft::Membership<u64, Member>;

fn to_raft(id: LogId) -> RaftLogId {
    RaftLogId::new_term_index(id.term, id.index)
}

fn from_raft(id: &RaftLogId) -> LogId {
    LogId { term: **id.committed_leader_id(), index: id.index() }
}

/// Members on disk: postcard of the voter sets (two while membership changes) and of every member's address.
fn encode_membership(membership: &Membership) -> Result<Bytes, postcard::Error> {
    let nodes: Vec<(u64, Member)> = membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
    postcard::to_stdvec(&(membership.get_joint_config(), nodes)).map(Bytes::from)
}

fn decode_membership(bytes: &[u8]) -> std::io::Result<Membership> {
    type Stored = (Vec<std::collections::BTreeSet<u64>>, Vec<(u64, Member)>);
    let (voters, nodes): Stored = postcard::from_bytes(bytes).map_err(std::io::Error::other)?;
    Membership::new(voters, nodes.into_iter().collect::<BTreeMap<_, _>>()).map_err(std::io::Error::other)
}
