//! Where the messages of other members arrive at a group. One task per group hands them to the consensus library in the
//! order they came, without waiting for the answer of one before it hands over the next, so that appends are written
//! together; answers go back as they are ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use berth_shared::ids::ShardId;
use berth_shared::peer::{self, Reply};
use berth_shared::seam::{BootInstant, Seams};

use super::message::{Answer, Append, Appended, Request, Transferred, Vote};
use super::{RaftOf, Runtime, from_raft, snapshot};

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
    pub(super) heard: Arc<Heard>,
    pub(super) snapshots: snapshot::Receiver<R>,
    pub(super) seams: Seams,
}

/// When the leader was last heard: an append of it was taken.
#[derive(Debug, Default)]
pub(super) struct Heard(AtomicU64);

impl Heard {
    pub(super) fn at(&self) -> Option<BootInstant> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            at => Some(BootInstant(at)),
        }
    }

    fn note(&self, at: BootInstant) {
        self.0.fetch_max(at.0, Ordering::Relaxed);
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

    async fn run(self, mut inbox: mpsc::Receiver<Arrived>) {
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
    fn take(&self, arrived: Arrived) -> Option<Answering> {
        let Arrived { message, reply } = arrived;
        let request = match peer::decode::<Request<'_>>(&message) {
            Ok(request) => request,
            Err(error) => {
                answer(reply, &Answer::Failed(format!("the message does not decode: {error}")));
                return None;
            }
        };
        let raft = self.raft.clone();
        let mut handing_over: Answering = match request {
            Request::Append(append) => return self.append(&append, &message, reply),
            Request::Vote(campaign) | Request::PreVote(campaign) if self.is_silent() => {
                tracing::debug!(shard = %self.shard, ?campaign, "no vote is given so soon after a start");
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
        let mut handing_over: Answering = Box::pin(async move {
            let appended = match raft.append_entries(request).await {
                Ok(response) => Appended::from_raft::<R>(&response),
                Err(error) => return answer(reply, &failed(error)),
            };
            if !matches!(appended, Appended::HigherVote(_)) {
                heard.note(arrived_at);
            }
            answer(reply, &Answer::Append(appended));
        });
        begin(&mut handing_over).then_some(handing_over)
    }

    fn is_silent(&self) -> bool {
        self.seams.clock.now() < self.votes_from
    }
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
