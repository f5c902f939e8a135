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
        if let Some(succeeded) = self.seams.spawner.timeout(TRANSFER_MAX, succeeded).await {
            return succeeded;
        }
        self.take_back(term, to).await;
        false
    }

    /// A leader whose offer was not taken neither writes nor sends heartbeats any more, and nothing makes the library forget
    /// the offer but another term. Giving our own vote to the one it was made to begins it: that is what it would have asked
    /// for, had it stood. From then on we are a replica that may stand like any other.
    async fn take_back(&self, term: Term, to: NodeId) {
        tracing::info!(shard = %self.shard, %to, "leadership was not taken over; standing for it again");
        let last = self.raft.metrics().borrow_watched().vote;
        let still_ours = last.leader_id().term == term;
        if !still_ours {
            return;
        }
        let last_log_id = self.raft.data_metrics().borrow_watched().last_log;
        let vote = Vote { term: term + 1, node: to, committed: false };
        let mut request = VoteRequest::new(vote.to_raft::<R>(), last_log_id);
        request.leadership_transfer = true;
        if let Err(error) = self.raft.vote(request).await {
            tracing::warn!(shard = %self.shard, %error, "the group has stopped");
            return;
        }
        self.trigger("to stand again", self.raft.trigger().elect(true));
    }
}
