//! Where the messages of other members arrive at a group. One task per group hands them to the consensus library in the
//! order they came, without waiting for the answer of one before it hands over the next, so that appends are written
//! together; answers go back as they are ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use berth_shared::ids::{LogId, NodeId, ShardId, Term};
use berth_shared::peer::{self, Reply};
use berth_shared::seam::{BootInstant, Seams};

use super::check::{self, Ours};
use super::level::Levels;
use super::message::{Answer, Append, Appended, Request, Transferred, Vote};
use super::{RaftOf, Runtime, from_raft, snapshot};
use crate::recovery::is_of_earlier_incarnation;

/// Messages that wait for their group. One more is not answered.
const INBOX_MAX: usize = 512;
/// Messages handed over whose answers are not ready.
const ANSWERING_MAX: usize = 512;

/// A message and the way back.
pub(super) struct Arrived {
    pub(super) message: Bytes,
    pub(super) reply: Reply,
}

/// The group's side of a connection.
pub(super) struct Arrivals<R: Runtime> {
    pub(super) shard: ShardId,
    pub(super) raft: RaftOf<R>,
    /// Rule R2: until then this node may have promised a leader, before it was started anew, not to help elect another one.
    pub(super) votes_from: BootInstant,
    /// How far the log of a replica went that was deleted here. It would have given no vote to a candidate with less.
    pub(super) vote_floor: Option<LogId>,
    /// The term that this replica knew of when it was started, or that of a later message that was handed over.
    pub(super) known: Term,
    /// Whether it has nothing yet, so that it may become part of any incarnation.
    pub(super) is_blank: bool,
    pub(super) heard: Arc<Heard>,
    pub(super) snapshots: snapshot::Receiver<R>,
    pub(super) seams: Seams,
}

/// What was heard of leaders since the start: appends of theirs that were taken.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When the last one came; 0 before the first.
    at: AtomicU64,
    /// One more than the index that is to be applied for this replica to have caught up; 0 while that is not known.
    ///
    /// Invariant: it is set once, by the first leader that said to have committed an entry of its own term. Only then does
    /// a leader know of everything that was committed before it; what it said earlier may be far behind.
    target: AtomicU64,
    /// Who has last written as a member of a later incarnation.
    outlived_by: Mutex<Option<NodeId>>,
    /// What leaders said of how new their logs are.
    pub(super) levels: Levels,
}

impl Heard {
    pub(super) fn outlived_by(&self) -> Option<NodeId> {
        *self.outlived_by.lock()
    }

    pub(super) fn at(&self) -> Option<BootInstant> {
        match self.at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(BootInstant(at)),
        }
    }

    /// Whether so much is applied as was committed when a leader was first heard.
    pub(super) fn has_caught_up(&self, applied: Option<LogId>) -> bool {
        let target = self.target.load(Ordering::Relaxed);
        target > 0 && applied.is_some_and(|applied| applied.index.saturating_add(1) >= target)
    }

    /// Whether it is known that this replica has yet to apply what was committed when a leader was first heard.
    pub(super) fn is_catching_up(&self, applied: Option<LogId>) -> bool {
        self.target.load(Ordering::Relaxed) > 0 && !self.has_caught_up(applied)
    }

    fn note(&self, at: BootInstant, term: Term, committed: Option<LogId>) {
        self.at.fetch_max(at.0, Ordering::Relaxed);
        if let Some(committed) = committed.filter(|committed| committed.term == term) {
            let target = committed.index.saturating_add(1);
            // Fails where it is set already.
            let _ = self.target.compare_exchange(0, target, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

type Answering = BoxFuture<'static, ()>;

impl<R: Runtime> Arrivals<R> {
    /// Starts the task; it ends when the sender is dropped.
    pub(super) fn start(self) -> mpsc::Sender<Arrived> {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        self.seams.spawner.spawn(self.run(inbox));
        sender
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Arrived>) {
        let mut answering: FuturesUnordered<Answering> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                arrived = inbox.recv(), if answering.len() < ANSWERING_MAX => match arrived {
                    Some(arrived) => answering.extend(self.take(arrived)),
                    None => return,
                },
                Some(()) = answering.next(), if !answering.is_empty() => {}
            }
        }
    }

    /// Hands a message over; what it returns sends the answer.
    fn take(&mut self, arrived: Arrived) -> Option<Answering> {
        let Arrived { message, reply } = arrived;
        let request = match peer::decode::<Request<'_>>(&message) {
            Ok(request) => request,
            Err(error) => {
                answer(reply, &Answer::Failed(format!("the message does not decode: {error}")));
                return None;
            }
        };
        let ours = ours::<R>(&self.raft);
        let known = ours.vote.term.max(self.known);
        if is_of_earlier_incarnation(request.term(), known) {
            // Any answer would tell the sender of our term, by which it could depose our leader.
            tracing::debug!(shard = %self.shard, "a member of an earlier incarnation is not answered");
            return None;
        }
        if !self.is_blank && is_of_earlier_incarnation(known, request.term()) {
            // What is here may contradict what is there, even where it was committed.
            tracing::debug!(shard = %self.shard, from = %request.sender(), "the shard was recovered without this replica");
            *self.heard.outlived_by.lock() = Some(request.sender());
            answer(reply, &failed("this replica is of an earlier incarnation of the shard"));
            return None;
        }
        let checked = match &request {
            Request::Append(append) => check::append(&ours, append),
            Request::Vote(campaign) | Request::PreVote(campaign) => check::campaign(&ours, campaign),
            Request::Transfer(transfer) => check::transfer(&ours, transfer),
            Request::Snapshot(part) => check::leader(&ours, part.vote),
        };
        if let Err(why) = checked {
            tracing::error!(shard = %self.shard, why, "a message that no member sends is refused");
            answer(reply, &failed(why));
            return None;
        }
        if !matches!(request, Request::PreVote(_)) {
            self.known = known.max(request.term());
            self.is_blank &= matches!(request, Request::Vote(_));
        }
        let raft = self.raft.clone();
        let mut handing_over: Answering = match request {
            Request::Append(append) => return self.append(&append, &message, reply),
            Request::Vote(campaign) | Request::PreVote(campaign) if self.is_silent() => {
                tracing::debug!(shard = %self.shard, ?campaign, "no vote is given so soon after a start");
                return None;
            }
            Request::Vote(campaign) | Request::PreVote(campaign) if campaign.last < self.vote_floor => {
                tracing::debug!(shard = %self.shard, ?campaign, "no vote is given to one who lacks what was here");
                return None;
            }
            Request::Transfer(_) if self.is_silent() => return None,
            Request::Vote(campaign) => Box::pin(async move {
                answer(reply, &voted::<R, _>(raft.vote(campaign.to_raft::<R>()).await));
            }),
            Request::PreVote(campaign) => Box::pin(async move {
                answer(reply, &voted::<R, _>(raft.pre_vote(campaign.to_raft::<R>()).await));
            }),
            Request::Transfer(transfer) => Box::pin(async move {
                let transferred = raft.handle_transfer_leader(transfer.to_raft::<R>()).await;
                let transferred = transferred.map(|response| Answer::Transfer(Transferred::from_raft::<R>(&response)));
                answer(reply, &transferred.unwrap_or_else(failed));
            }),
            Request::Snapshot(part) => {
                self.snapshots.take(&part, &message, reply);
                return None;
            }
        };
        begin(&mut handing_over).then_some(handing_over)
    }

    fn append(&self, append: &Append<'_>, message: &Bytes, reply: Reply) -> Option<Answering> {
        let request = match append.to_raft::<R>(message) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(shard = %self.shard, %error, "entries of another member are damaged");
                answer(reply, &failed(error));
                return None;
            }
        };
        let (raft, heard, arrived_at) = (self.raft.clone(), self.heard.clone(), self.seams.clock.now());
        let (term, committed, level) = (append.vote.term, append.committed, append.level);
        let mut handing_over: Answering = Box::pin(async move {
            let appended = match raft.append_entries(request).await {
                Ok(response) => Answer::from_append::<R>(&response),
                Err(error) => return answer(reply, &failed(error)),
            };
            if !matches!(appended, Answer::Append(Appended::HigherVote(_))) {
                heard.note(arrived_at, term, committed);
                if let Some(level) = level {
                    heard.levels.note(level, arrived_at);
                }
            }
            answer(reply, &appended);
        });
        begin(&mut handing_over).then_some(handing_over)
    }

    fn is_silent(&self) -> bool {
        self.seams.clock.now() < self.votes_from
    }
}

/// What messages are checked against. It may be behind the library, which has not taken up yet what waits in its queue.
pub(super) fn ours<R: Runtime>(raft: &RaftOf<R>) -> Ours {
    let committed = raft.data_metrics().borrow_watched().local_committed.as_ref().map(from_raft);
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    Ours { node: NodeId(metrics.id), vote: Vote::from_raft::<R>(&metrics.vote), committed }
}

/// Begins a hand-over, which puts the message into the group's queue: in the order of these calls, whatever the tasks'
/// budgets are. False when it has ended already.
fn begin(handing_over: &mut Answering) -> bool {
    tokio::task::unconstrained(handing_over).now_or_never().is_none()
}

fn voted<R: Runtime, E: std::fmt::Display>(
    response: Result<openraft::raft::VoteResponse<super::Types<R>>, E>,
) -> Answer {
    response.map_or_else(failed, |response| Answer::Vote {
        vote: Vote::from_raft::<R>(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(from_raft),
    })
}

fn failed(error: impl std::fmt::Display) -> Answer {
    Answer::Failed(error.to_string())
}

pub(super) fn answer(reply: Reply, answer: &Answer) {
    match peer::encode(answer) {
        Ok(payload) => reply.send(payload),
        Err(error) => tracing::error!(%error, "an answer cannot be encoded"),
    }
}
