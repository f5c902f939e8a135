//! The way from a group to its members on other nodes. Entries are sent ahead of their answers, which come back in order;
//! heartbeats and votes travel on connections of their own, so that no entry delays them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use berth_shared::ids::{NodeId, ShardId, Term};
use berth_shared::peer::{self, CallError, Class};
use berth_shared::seam::{BootInstant, Seams};

use super::acknowledged::Acknowledged;
use super::gather::Gathered;
use super::granted::Granted;
use super::level::Speaker;
use super::message::{self, Answer, Append, Appended, Campaign, Request, Transfer};
use super::{ELECTION_TIMEOUT_MIN, Member, RaftLogId, Runtime, SnapshotHandle, Types, from_raft, snapshot, to_raft};
use crate::transport::peers::Peers;
use crate::transport::wire;

/// Appends of one group on their way to one member. With them a follower can be as far behind as the time there and back
/// times the batches that are decided in it, without holding up the leader.
const PIPELINE_MAX: usize = 32;
/// An append that is not answered by then has failed. Generous, because it waits for the follower's disk; a node that is
/// gone or hangs is noticed by its connection.
const APPEND_MAX: Duration = Duration::from_secs(5);
/// Pauses before a member that could not be reached is tried again; the last one repeats. They are cut short when the
/// connection to its node comes back.
const BACKOFF: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
];

/// Makes the connections of one group to its members.
#[derive(Clone, Debug)]
pub(super) struct Network<R: Runtime> {
    pub(super) shard: ShardId,
    pub(super) peers: Peers,
    pub(super) seams: Seams,
    /// Of the whole node.
    pub(super) snapshot_turns: Arc<Semaphore>,
    pub(super) acknowledged: Arc<Acknowledged>,
    pub(super) granted: Arc<Granted>,
    pub(super) speaker: Speaker<R>,
    pub(super) runtime: PhantomData<R>,
}

/// The way to one member.
#[derive(Debug)]
pub(super) struct Link<R: Runtime> {
    /// Shared by what is on its way.
    route: Arc<Route<R>>,
    /// Of appends.
    class: Class,
}

#[derive(Debug)]
pub(super) struct Route<R: Runtime> {
    pub(super) to: NodeId,
    pub(super) network: Network<R>,
}

impl<R: Runtime> Network<R> {
    fn link(&self, target: u64, member: &Member, class: Class) -> Link<R> {
        let to = NodeId(target);
        if !self.peers.knows(to) {
            self.peers.learn(to, &member.address);
        }
        Link { route: Arc::new(Route { to, network: self.clone() }), class }
    }
}

impl<R: Runtime> RaftNetworkFactory<Types<R>> for Network<R> {
    type Network = Link<R>;

    async fn new_client(&mut self, target: u64, member: &Member) -> Link<R> {
        self.link(target, member, Class::Data)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Link<R> {
        self.link(target, member, Class::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, member: &Member) -> Link<R> {
        self.link(target, member, Class::Bulk)
    }
}

type Result<R, T> = std::result::Result<T, RPCError<Types<R>>>;

impl<R: Runtime> RaftNetworkV2<Types<R>> for Link<R> {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<R, AppendEntriesResponse<Types<R>>> {
        match self.route.begin_append(request, self.class).await.finish().await? {
            Ok(_) => Ok(AppendEntriesResponse::Success),
            Err(StreamAppendError::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Err(StreamAppendError::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote)),
        }
    }

    /// Sends without waiting for answers, [`PIPELINE_MAX`] ahead, and gives the answers in the order of the requests. Ends
    /// with the first that is not a success: what was sent after it is void.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<R, BoxStream<'s, Result<R, StreamAppendResult<Types<R>>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let (route, class) = (&self.route, self.class);
            // Connection and room are waited for in the order of the requests, and each is queued on the connection when its
            // turn comes, so they arrive in order. A failure is an item too: the library pauses before it makes a request,
            // and never would if none was asked for.
            let requests = Gathered::<_, R>::new(input, route.network.seams.spawner);
            let sent = requests.then(move |request| route.begin_append(request, class)).map(Sending::finish);
            let answers = sent.buffered(PIPELINE_MAX).scan(false, |over, answer| {
                let this_one = (!*over).then_some(answer);
                *over = !matches!(this_one, Some(Ok(Ok(_))));
                std::future::ready(this_one)
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(&mut self, request: VoteRequest<Types<R>>, option: RPCOption) -> Result<R, VoteResponse<Types<R>>> {
        let response = self.route.vote(Request::Vote(Campaign::from_raft::<R>(&request)), option).await?;
        if let (true, Some(last)) = (response.vote_granted && response.vote == request.vote, &response.last_log_id) {
            let (to, term) = (self.route.to, request.vote.leader_id().term);
            self.route.network.granted.note(to, term, from_raft(last));
        }
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<R, VoteResponse<Types<R>>> {
        self.route.vote(Request::PreVote(Campaign::from_raft::<R>(&request)), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types<R>>,
        snapshot: SnapshotOf<Types<R>, SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> std::result::Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        snapshot::send(&self.route, vote, snapshot, cancel).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<R, TransferLeaderResponse<Types<R>>> {
        // The member waits until its log is on disk before it answers.
        let time = option.hard_ttl().max(ELECTION_TIMEOUT_MIN);
        let request = Request::Transfer(Transfer::from_raft::<R>(&request));
        match self.route.ask(Class::Control, &request, time).await? {
            Answer::Transfer(transferred) => Ok(transferred.to_raft::<R>()),
            other => Err(unexpected(&other)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF[BACKOFF.len() - 1];
        Some(Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last))))
    }
}

/// An append that is encoded and has its turn.
struct Sending<R: Runtime> {
    route: Arc<Route<R>>,
    class: Class,
    payload: Result<R, Bytes>,
    previous: Option<RaftLogId>,
    last: Option<RaftLogId>,
    /// As the leader of which term, and when: it leaves after that.
    term: Term,
    begun_at: BootInstant,
    /// The member has all of it, so nothing is sent.
    is_known: bool,
    _room: Option<OwnedSemaphorePermit>,
}

impl<R: Runtime> Sending<R> {
    /// What is known without an answer is none: nothing is noted as acknowledged for it.
    async fn finish(self) -> Result<R, StreamAppendResult<Types<R>>> {
        if self.is_known {
            return Ok(Ok(self.last));
        }
        let answer = self.route.call(self.class, self.payload?, APPEND_MAX).await?;
        // One whose log differs follows this leader too.
        if let Answer::Append(Appended::Success | Appended::Conflict) = &answer {
            self.route.network.acknowledged.note(self.route.to, self.term, self.begun_at);
        }
        match answer {
            Answer::Append(Appended::Success) => Ok(Ok(self.last)),
            Answer::Append(Appended::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote.to_raft::<R>()))),
            Answer::Append(Appended::Conflict) => match self.previous {
                Some(previous) => Ok(Err(StreamAppendError::Conflict(previous))),
                None => Err(network_error("nothing comes before the first entry, so nothing can differ").into()),
            },
            other => Err(unexpected(&other)),
        }
    }
}

impl<R: Runtime> Route<R> {
    async fn begin_append(self: &Arc<Self>, request: AppendEntriesRequest<Types<R>>, class: Class) -> Sending<R> {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let term = request.vote.leader_id().term;
        let sending = |payload, room, is_known| {
            let begun_at = self.network.seams.clock.now();
            Sending { route: self.clone(), class, payload, previous, last, term, begun_at, is_known, _room: room }
        };
        if class == Class::Data
            && let Some(last) = request.entries.last().map(|entry| from_raft(&entry.log_id))
            && self.network.granted.has(self.to, term, last)
        {
            return sending(Ok(Bytes::new()), None, true);
        }
        if class == Class::Data && !self.network.peers.reach(self.to, class).await {
            return sending(Err(unreachable("there is no connection to the node").into()), None, false);
        }
        let payload = message::memberships::<R>(&request).map_err(|error| network_error(error).into());
        let level = self.network.speaker.level(term);
        let encode =
            |members: Vec<Bytes>| self.encode(&Request::Append(Append::from_raft::<R>(&request, &members, level)));
        let payload = payload.and_then(encode);
        let room = match &payload {
            Ok(payload) if class == Class::Data => self.network.peers.data_room(self.to, payload.len()).await,
            _ => None,
        };
        sending(payload, room, false)
    }

    async fn vote(&self, request: Request<'_>, option: RPCOption) -> Result<R, VoteResponse<Types<R>>> {
        match self.ask(Class::Control, &request, option.hard_ttl()).await? {
            Answer::Vote { vote, granted, last } => {
                Ok(VoteResponse::new(vote.to_raft::<R>(), last.map(to_raft), granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn ask(&self, class: Class, request: &Request<'_>, time: Duration) -> Result<R, Answer> {
        self.call(class, self.encode(request)?, time).await
    }

    fn encode<T: Serialize>(&self, request: &T) -> Result<R, Bytes> {
        let payload = wire::encode_raft(self.to, self.network.shard, request);
        payload.map_err(|error| network_error(format!("a message cannot be encoded: {error}")).into())
    }

    async fn call(&self, class: Class, payload: Bytes, time: Duration) -> Result<R, Answer> {
        let deadline = self.network.seams.clock.now() + time;
        let answer = self.network.peers.call(self.to, class, payload, deadline).await;
        let answer = answer.map_err(|error| match error {
            // The node is away, or has as much to do as it can: to try again at once would not help.
            CallError::NotSent(_) | CallError::Overloaded => RPCError::from(unreachable(error)),
            CallError::Lost | CallError::DeadlinePassed { .. } | CallError::GivenUp { .. } | CallError::Abandoned => {
                network_error(error).into()
            }
        })?;
        peer::decode(&answer).map_err(|error| network_error(format!("an answer does not decode: {error}")).into())
    }
}

fn unreachable<R: Runtime>(why: impl ToString) -> Unreachable<Types<R>> {
    Unreachable::from_string(why)
}

fn network_error<R: Runtime>(why: impl ToString) -> NetworkError<Types<R>> {
    NetworkError::from_string(why)
}

fn unexpected<R: Runtime>(answer: &Answer) -> RPCError<Types<R>> {
    match answer {
        Answer::NotHosted => unreachable("the node hosts no group of this shard").into(),
        Answer::WrongNode => unreachable("another node answers at the member's address").into(),
        Answer::Failed(why) => network_error(why).into(),
        _ => network_error("the answer is one to another request").into(),
    }
}
