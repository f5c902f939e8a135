//! Whether a replica leads, and how surely: the term in which it may decide and read, its lease, and their revocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;

use berth_shared::ids::{NodeId, ShardId, Term};
use berth_shared::seam::{BootInstant, Clock, Seams};

use super::acknowledged::Acknowledged;
use super::{LEASE, RaftOf, Runtime, Types};

/// How long the tasks of a runtime that is shut down take to end.
const ENDING_MAX: Duration = Duration::from_millis(100);

type Metrics<R> = WatchReceiverOf<Types<R>, openraft::RaftMetrics<Types<R>>>;

/// What the parts of a group share about its leadership.
pub(super) struct Leadership<R: Runtime> {
    node: NodeId,
    leading: watch::Sender<Option<Term>>,
    /// Nothing of this term or an earlier one counts any more (rule R3).
    revoked: AtomicU64,
    metrics: Metrics<R>,
    acknowledged: Arc<Acknowledged>,
    clock: Arc<dyn Clock>,
    /// Whether the applied members are this node alone. It turns false with the joint configuration that adds another voter,
    /// before that one's votes can count without ours.
    sole_voter: Arc<AtomicBool>,
}

impl<R: Runtime> Leadership<R> {
    pub(super) fn new(
        node: NodeId,
        raft: &RaftOf<R>,
        acknowledged: Arc<Acknowledged>,
        sole_voter: Arc<AtomicBool>,
        seams: &Seams,
    ) -> Self {
        let (leading, metrics, clock) = (watch::Sender::new(None), raft.metrics(), seams.clock.clone());
        Self { node, leading, revoked: AtomicU64::new(0), metrics, acknowledged, clock, sole_voter }
    }

    /// The term in which this node leads and has applied its own blank entry (rule W3).
    pub(super) fn leading(&self) -> watch::Receiver<Option<Term>> {
        self.leading.subscribe()
    }

    pub(super) fn term(&self) -> Option<Term> {
        *self.leading.borrow()
    }

    /// Rule R1. A lease counts from when this node *sent* what a quorum has acknowledged, and a follower counts its promise,
    /// [`super::ELECTION_TIMEOUT_MAX`], from when it *received* it. So no follower of the quorum helps to elect another leader
    /// until that much after the time here, by clocks that run alike; the lease is shorter by what they may run differently.
    ///
    /// That is for the others. This node itself does not vote for another one before that much has passed by what the library
    /// has counted, so the lease must hold by that count as well: it and that this node led in `term` come from one report,
    /// because this node may have lost a term and won another one meanwhile. A report stays true when it is old.
    pub(super) fn holds_lease(&self, term: Term) -> bool {
        if self.term() != Some(term) {
            return false;
        }
        if self.sole_voter.load(Ordering::Acquire) {
            return true;
        }
        let (counted, quorum) = {
            let metrics = self.metrics.borrow_watched();
            let leads = metrics.state.is_leader() && metrics.current_term == term;
            let counted = metrics.last_quorum_acked.filter(|_| leads).map(openraft::metrics::SerdeInstant::into_inner);
            let configurations = metrics.membership_config.membership().get_joint_config();
            (counted, self.acknowledged.quorum(term, self.node, configurations))
        };
        let (library_now, now) = (<R::Instant as openraft::Instant>::now(), self.clock.now());
        counted.is_some_and(|at| library_now < at + LEASE)
            && quorum.is_some_and(|sent| now.since(sent) < LEASE)
            // Looked at last: a revocation that this does not see came after it.
            && self.revoked.load(Ordering::Acquire) < term
    }

    /// When this node sent, as the leader of `term`, the newest of what a quorum has answered; just now where it is the only voter.
    pub(super) fn acknowledged_at(&self, term: Term) -> Option<BootInstant> {
        let quorum = {
            let metrics = self.metrics.borrow_watched();
            let configurations = metrics.membership_config.membership().get_joint_config();
            self.acknowledged.quorum(term, self.node, configurations)
        };
        quorum.map(|sent| sent.min(self.clock.now()))
    }

    /// Returns once a quorum has answered something that this node sent, at `time` or later, as the leader of `term`.
    pub(super) async fn acknowledged_since(&self, term: Term, time: BootInstant) {
        let mut changes = self.acknowledged.changes();
        loop {
            if self.acknowledged_at(term).is_some_and(|sent| sent >= time) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// What the members have answered to this node.
    pub(super) fn acknowledged(&self) -> &Acknowledged {
        &self.acknowledged
    }

    /// From here on this node neither decides nor reads in `term`, for good: once leadership has been offered to another
    /// replica, that one may stand without regard to any lease, and however late.
    pub(super) fn revoke(&self, term: Term) {
        self.revoked.fetch_max(term, Ordering::AcqRel);
        self.say(None);
    }

    pub(super) fn is_revoked(&self, term: Term) -> bool {
        self.revoked.load(Ordering::Acquire) >= term
    }

    /// Under the watch's own lock the newest revocation is seen, so that a late report cannot undo it.
    fn say(&self, leading: Option<Term>) {
        self.leading.send_if_modified(|current| {
            let leading = leading.filter(|term| !self.is_revoked(*term));
            std::mem::replace(current, leading) != leading
        });
    }

    /// Combines what the group reports with the blank entry that the machine has applied, until the group ends.
    pub(super) fn watch(
        self: Arc<Self>,
        shard: ShardId,
        raft: &RaftOf<R>,
        mut blank: watch::Receiver<Term>,
        stopping: Arc<AtomicBool>,
        seams: &Seams,
    ) {
        let mut metrics = raft.server_metrics();
        let spawner = seams.spawner;
        spawner.spawn(async move {
            loop {
                let leading = {
                    let metrics = metrics.borrow_watched();
                    let ours = metrics.vote.is_committed() && metrics.vote.leader_id().voted_for == self.node.0;
                    let term = metrics.vote.leader_id().term;
                    (metrics.state.is_leader() && ours && *blank.borrow_and_update() == term).then_some(term)
                };
                self.say(leading);
                let alive = tokio::select! {
                    biased;
                    changed = metrics.changed() => changed.is_ok(),
                    changed = blank.changed() => changed.is_ok(),
                };
                if !alive {
                    self.say(None);
                    // Where all tasks are ended without waiting, as by a second signal, this one ends here.
                    spawner.sleep(ENDING_MAX).await;
                    if !stopping.load(Ordering::Acquire) {
                        crate::fatal::abort(&format!("the group of shard {shard} has failed"));
                    }
                    return;
                }
            }
        });
    }
}
