//! Offers leadership to another voter, and takes the offer back when nothing comes of it.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::raft::VoteRequest;

use berth_shared::ids::{NodeId, Term};

use super::Runtime;
use super::group::RaftGroup;
use super::message::Vote;

/// How long a replica that was offered leadership has to take it.
const TRANSFER_MAX: Duration = Duration::from_millis(500);
/// How often the one that has offered it stands after that, and how long it waits for the answers each time.
const STANDING_MAX: usize = 8;
const STANDING_INTERVAL: Duration = Duration::from_millis(50);

impl<R: Runtime> RaftGroup<R> {
    pub(super) async fn offer_leadership(&self, to: NodeId) -> bool {
        let is_voter = self.raft.voter_ids().any(|voter| voter == to.0);
        match self.leadership.term() {
            Some(term) if is_voter && to != self.node => self.offer(term, to).await,
            _ => false,
        }
    }

    async fn offer(&self, term: Term, to: NodeId) -> bool {
        self.leadership.revoke(term);
        if self.raft.trigger().transfer_leader(to.0).await.is_err() {
            return false;
        }
        let mut metrics = self.raft.metrics();
        let succeeded = async {
            loop {
                let leader = metrics.borrow_watched().current_leader;
                if leader.is_some_and(|leader| leader != self.node.0) {
                    return true;
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        // One whose process has died will not take it. If it has done so before, this does no harm.
        let lost = self.lost(to);
        let decided = async {
            tokio::select! {
                biased;
                succeeded = succeeded => Some(succeeded),
                () = lost => None,
            }
        };
        if let Some(succeeded) = self.seams.spawner.timeout(TRANSFER_MAX, decided).await.flatten() {
            return succeeded;
        }
        self.take_back(term, to).await;
        false
    }

    /// Returns when there is no connection to `node`.
    pub(super) async fn lost(&self, node: NodeId) {
        if let Some(mut connected) = self.peers.watch(node) {
            let _ = connected.wait_for(|connected| !connected).await;
        }
    }

    /// A leader whose offer was not taken neither writes nor sends heartbeats any more, and nothing makes the library forget
    /// the offer but another term. Giving our own vote to the one it was made to begins it, where it has not asked for it
    /// already. From then on we are a replica that may stand, and does so as long as nobody else is known to have stood.
    async fn take_back(&self, term: Term, to: NodeId) {
        tracing::info!(shard = %self.shard, %to, "leadership was not taken over; standing for it again");
        let theirs = Vote { term: term + 1, node: to, committed: false };
        if self.vote().term == term {
            let last_log_id = self.raft.data_metrics().borrow_watched().last_log;
            let mut request = VoteRequest::new(theirs.to_raft::<R>(), last_log_id);
            request.leadership_transfer = true;
            if let Err(error) = self.raft.vote(request).await {
                tracing::warn!(shard = %self.shard, %error, "the group has stopped");
                return;
            }
        }
        for _ in 0..STANDING_MAX {
            if self.vote() != theirs {
                return;
            }
            // It asks whether it would be elected before it begins a term. Those may refuse who have not heard of the offer.
            self.trigger("to stand again", self.raft.trigger().elect(true));
            let mut metrics = self.raft.server_metrics();
            let begun = async { while self.vote() == theirs && metrics.changed().await.is_ok() {} };
            self.seams.spawner.timeout(STANDING_INTERVAL, begun).await;
        }
    }
}
