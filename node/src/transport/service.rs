//! The node's side of the peer protocol: decodes a request, finds its shard, and hands it to executor or reader. It never
//! blocks a connection: commands go to a mailbox, reads that are not in memory to a task of their own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::entity_places::{EntityPlace, EntityPlaces};
use berth_shared::ids::ShardId;
use berth_shared::key::EntityKey;
use berth_shared::message::{self, Consistency, Execute, Precondition, Refusal, Request, Response};
use berth_shared::peer::{self, Class, Handler, Identity, Incoming, PushSender, Reply, Role};
use berth_shared::problem::Code;
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::shard_map::ShardOwner;
use berth_shared::telemetry::{self, TraceContext, Tracing};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{Instrument, Span};

use crate::cluster::bootstrap::Answerer;
use crate::cluster::membership::Gossip;
use crate::cluster::plan::Plan;
use crate::cluster::plans::Plans;
use crate::cluster::reconcile::Admission;
use crate::entity::Registry;
use crate::entity::erased::CommandError;
use crate::entity::violations::Violation;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::raft::Groups;
use crate::record::{Fingerprint, RequestKey, Scope};
use crate::recovery::survey::Holding;
use crate::report::Reporter;
use crate::shard::command::{Action, Answer, Command};
use crate::shard::polling::Poll;
use crate::transport::answering::Answering;
use crate::transport::backlog::{Backlog, Room};
use crate::transport::hosting::{Hosted, Hosting};
use crate::transport::owners::Owners;
use crate::transport::past::Asked;

/// Events per page, whatever is asked for.
const EVENTS_MAX: u32 = 1000;
/// Longest wait for an event, whatever is asked for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a replica that is behind may hold up a read, however much time that has.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

pub struct Service {
    pub seams: Seams,
    pub tracing: Tracing,
    pub registry: Arc<Registry>,
    pub hosting: Arc<Hosting>,
    pub owners: Arc<Owners>,
    pub metrics: Metrics,
    /// Refuses writes when it is at its size limit.
    pub journal: Journal,
    /// Bounds the memory of commands that are not answered yet.
    pub backlog: Backlog,
    /// Bounds the commands of one entity that are not answered yet.
    pub places: EntityPlaces,
    pub reporter: Arc<Reporter>,
    /// The groups that other nodes have messages for.
    pub groups: Groups,
    /// Answers nodes that have not found the cluster yet.
    pub answerer: Answerer,
    pub gossip: Arc<dyn Gossip>,
    pub plans: Plans,
    /// Opens replicas for owners that bring their shards here.
    pub admit: Admit,
    /// What this node has of shards that another one has lost the quorum of.
    pub holdings: Holdings,
    /// Bounds the long polls of histories.
    pub polls: Arc<Semaphore>,
}

/// Tells what is here of these shards.
pub type Holdings = Arc<dyn Fn(Vec<ShardId>) -> BoxFuture<'static, Vec<Holding>> + Send + Sync>;

/// Opens a replica of the shard, if the plan wants it here.
pub type Admit = Arc<dyn Fn(ShardId, Option<Arc<Plan>>) -> BoxFuture<'static, Admission> + Send + Sync>;

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("hosting", &self.hosting).finish_non_exhaustive()
    }
}

impl Handler for Service {
    fn handle(&self, incoming: Incoming) {
        if incoming.peer.role == Role::Node {
            return self.handle_node(incoming);
        }
        let Incoming { payload, deadline, reply, .. } = incoming;
        match peer::decode::<Request<'_>>(&payload) {
            Ok(Request::Execute(execute)) => self.execute(&execute, false, deadline, reply),
            Ok(Request::Delete(execute)) => self.execute(&execute, true, deadline, reply),
            Ok(Request::Read { shard, kind, id, consistency, traceparent }) => {
                let span = self.span("read", traceparent);
                span.in_scope(|| self.read(shard, kind, id, consistency, deadline, reply));
            }
            Ok(Request::Events { shard, kind, id, after, limit, bytes_max, wait_millis, consistency, traceparent }) => {
                let span = self.span("events", traceparent);
                let poll = Poll {
                    after,
                    limit: limit.clamp(1, EVENTS_MAX) as usize,
                    bytes_max: bytes_max as usize,
                    consistency,
                    wait: Duration::from_millis(wait_millis.into()).min(WAIT_MAX),
                    patience: self.patience(deadline),
                };
                span.in_scope(|| self.events(shard, kind, id, poll, deadline, reply));
            }
            Ok(Request::Past { shard, kind, id, moment, consistency, traceparent }) => {
                let span = self.span("past", traceparent);
                let asked = Asked { moment, consistency, deadline };
                span.in_scope(|| self.past(shard, kind, id, asked, reply));
            }
            Ok(Request::List(list)) => {
                let span = self.span("list", list.traceparent);
                span.in_scope(|| self.list(&list, deadline, reply));
            }
            Ok(Request::Kinds) => send(reply, &Response::Kinds { json: &self.registry.descriptions() }),
            Ok(Request::Report) => send(reply, &Response::Report(Box::new(self.reporter.report()))),
            Ok(Request::Owners) => {
                let (shards, owners) = (self.owners.shards(), self.owners.known());
                send(reply, &Response::Owners { shards, owners });
            }
            Err(error) => {
                tracing::warn!(%error, "a gateway sent a request that does not decode");
                refuse(reply, Code::InvalidRequest, "the request does not decode");
            }
        }
    }

    fn connected(&self, peer: &Arc<Identity>, class: Class, pushes: PushSender) {
        if peer.role == Role::Gateway && class == Class::Data {
            self.owners.listen(pushes);
        }
    }
}

impl Service {
    fn execute(&self, execute: &Execute<'_>, deletes: bool, deadline: BootInstant, reply: Reply) {
        let Some((key, hosted)) = self.locate(execute.shard, execute.kind, execute.id) else {
            return self.refuse_unlocated(execute.shard, execute.kind, execute.id, reply);
        };
        let Some(kind) = self.registry.get(execute.kind) else {
            return refuse(reply, Code::UnknownKind, "no node knows this kind");
        };
        let Some(room) = self.backlog.enter(execute.body.len()) else {
            return refuse(reply, Code::Overloaded, "the node holds as many unanswered commands as it may");
        };
        let Some(place) = self.places.enter(&key) else {
            return refuse(reply, Code::Overloaded, "too many commands wait for this entity");
        };
        // No command has the empty name, so that the fingerprint of a deletion is that of no command either.
        let decoded =
            if deletes { Ok(Action::Delete) } else { kind.decode(execute.command, execute.body).map(Action::Run) };
        let (name, body) = if deletes { ("", &b""[..]) } else { (execute.command, execute.body) };
        let action = match decoded {
            Ok(action) => action,
            Err(CommandError::Unknown(detail)) => return refuse(reply, Code::UnknownCommand, &detail),
            Err(CommandError::Invalid { detail, violations }) => {
                return refuse_body(reply, Code::InvalidRequest, &detail, &violations);
            }
            Err(CommandError::Failed(error)) => {
                tracing::error!(kind = execute.kind, %error, "a kind failed to read a command");
                return refuse(reply, Code::Internal, "the entity's code failed; nothing was written");
            }
        };
        if self.journal.is_full() {
            return refuse(reply, Code::Overloaded, "the node's journal is full");
        }
        let request = RequestKey {
            scope: Scope::new(execute.principal, &key, execute.idempotency_key),
            fingerprint: Fingerprint::new(name, body, &encode_precondition(&execute.precondition)),
            origin: execute.key_origin,
        };
        let command = Command {
            key,
            kind: kind.clone(),
            action,
            precondition: execute.precondition.clone(),
            principal: execute.principal.to_owned(),
            request,
            request_id: execute.request_id,
            attempt: execute.attempt,
            wants_state: execute.wants_state,
            deadline,
            answer: self.answer(execute.shard, execute.traceparent, (room, place), reply),
        };
        match hosted.mailbox.try_send(command) {
            Ok(()) => self.metrics.commands.increment(),
            Err(TrySendError::Full(command)) => {
                command.answer.refuse(Code::Overloaded, "too many commands wait for the entity's shard");
            }
            // The replica was let go, or the node stops. Somebody else has the shard, or will have it.
            Err(TrySendError::Closed(command)) => command.answer.send(Response::WrongOwner { owner: None }),
        }
    }

    /// Sends the answer back, inside a span of its own when traces are exported. What the command has taken is given back
    /// with it, or when the command is dropped.
    fn answer(&self, shard: ShardId, traceparent: &str, taken: (Room, EntityPlace), reply: Reply) -> Answer {
        let (span, owners) = (self.span("execute", traceparent), self.owners.clone());
        Answer::new(move |response| {
            span.in_scope(|| match response {
                // The executor knows only that it is not this node.
                Response::WrongOwner { owner: None } => {
                    send(reply, &Response::WrongOwner { owner: elsewhere(&owners, shard) });
                }
                response => send(reply, &response),
            });
            drop(taken);
        })
    }

    /// Lasts as long as the request; disabled when traces are not exported.
    fn span(&self, name: &'static str, traceparent: &str) -> Span {
        if !self.tracing.exports() {
            return Span::none();
        }
        let received = TraceContext::parse(traceparent);
        self.tracing.request(name, telemetry::Role::Server, received, &*self.seams.random).span
    }

    fn read(
        &self,
        shard: ShardId,
        kind: &str,
        id: &str,
        consistency: Consistency,
        deadline: BootInstant,
        reply: Reply,
    ) {
        let Some((key, hosted)) = self.locate(shard, kind, id) else {
            return self.refuse_unlocated(shard, kind, id, reply);
        };
        if self.registry.get(kind).is_none() {
            return refuse(reply, Code::UnknownKind, "no node knows this kind");
        }
        self.metrics.reads.increment();
        let answering = Answering { reader: hosted.reader.clone(), owners: self.owners.clone(), lag: None };
        if consistency == Consistency::Linearizable
            && let Some(answer) = hosted.reader.try_read(&key)
        {
            return answering.current(reply, answer);
        }
        let (clock, patience) = (self.seams.clock.clone(), self.patience(deadline));
        let read = async move {
            let reader = &answering.reader;
            let level_at = if consistency == Consistency::Stale { reader.level_at() } else { None };
            let answer = match consistency {
                Consistency::Linearizable => reader.read(&key).await,
                Consistency::Strict => reader.read_strict(&key).await,
                Consistency::Session { at_least } => reader.read_here(&key, at_least, patience).await,
                Consistency::Stale => reader.read_here(&key, None, patience).await,
            };
            answering.at_level(consistency, level_at, &*clock).current(reply, answer);
        };
        self.spawn_until(deadline, read);
    }

    /// How long a replica that is behind may hold up a read: a part of its time, so that there is enough to ask the owner.
    fn patience(&self, deadline: BootInstant) -> Duration {
        (deadline.since(self.seams.clock.now()) / 2).min(PATIENCE_MAX)
    }

    fn events(&self, shard: ShardId, kind: &str, id: &str, poll: Poll, deadline: BootInstant, reply: Reply) {
        let Some((key, hosted)) = self.locate(shard, kind, id) else {
            return self.refuse_unlocated(shard, kind, id, reply);
        };
        if self.registry.get(kind).is_none() {
            return refuse(reply, Code::UnknownKind, "no node knows this kind");
        }
        self.metrics.reads.increment();
        // Taken for as long as it may wait, and given back with the answer, or when nobody waits for that any more.
        let place = match poll.wait.is_zero() {
            true => None,
            false => match self.polls.clone().try_acquire_owned() {
                Ok(place) => Some((place, reply.given_up())),
                Err(_) => return refuse(reply, Code::Overloaded, "the node has as many long polls as it may"),
            },
        };
        let answering = Answering { reader: hosted.reader.clone(), owners: self.owners.clone(), lag: None };
        let clock = self.seams.clock.clone();
        let read = async move {
            let begun_at = if poll.consistency == Consistency::Stale { answering.reader.level_at() } else { None };
            let polling = answering.reader.poll(&key, &poll);
            let polled = match place {
                None => polling.await,
                Some((_place, given_up)) => match given_up.run_until_cancelled(polling).await {
                    Some(polled) => polled,
                    None => return,
                },
            };
            let level_at = polled.as_ref().map_or(begun_at, |polled| polled.level_at);
            answering.at_level(poll.consistency, level_at, &*clock).page(reply, polled);
        };
        self.spawn_until(deadline, read);
    }

    /// Runs a read in a task of its own, until nobody waits for it any more: what still waits for its turn then is not begun.
    fn spawn_until(&self, deadline: BootInstant, read: impl Future<Output = ()> + Send + 'static) {
        let Seams { clock, spawner, .. } = &self.seams;
        let (left, spawner) = (deadline.since(clock.now()), *spawner);
        spawner.spawn(async move { spawner.timeout(left, read).await }.in_current_span());
    }

    /// The entity's key and its shard, if the request is sound and this node hosts the shard.
    pub(super) fn locate(&self, shard: ShardId, kind: &str, id: &str) -> Option<(EntityKey, Arc<Hosted>)> {
        let key = EntityKey::new(kind, id).ok()?;
        if key.shard(self.hosting.shards()) != shard {
            return None;
        }
        self.hosting.get(shard).map(|hosted| (key, hosted))
    }

    pub(super) fn refuse_unlocated(&self, shard: ShardId, kind: &str, id: &str, reply: Reply) {
        match EntityKey::new(kind, id) {
            Err(error) => refuse(reply, Code::InvalidRequest, &error.to_string()),
            Ok(key) if key.shard(self.hosting.shards()) != shard => {
                refuse(reply, Code::InvalidRequest, "the gateway counts other shards than this cluster has");
            }
            Ok(_) => send(reply, &Response::WrongOwner { owner: self.owners.owner(shard) }),
        }
    }
}

fn encode_precondition(precondition: &Precondition) -> Bytes {
    // An enum of numbers always encodes.
    peer::encode(precondition).unwrap_or_default()
}

/// The owner to send a request on to that this node has refused. Never this node itself, which may own the shard without a
/// valid lease just now.
pub(super) fn elsewhere(owners: &Owners, shard: ShardId) -> Option<ShardOwner> {
    owners.owner(shard).filter(|owner| owner.node != owners.node())
}

pub(super) fn refuse(reply: Reply, code: Code, detail: &str) {
    send(reply, &refusal(code, detail));
}

/// Refuses a command for what is wrong in its body.
fn refuse_body(reply: Reply, code: Code, detail: &str, violations: &[Violation]) {
    let mut response = refusal(code, detail);
    if let Response::Refused(refusal) = &mut response {
        let places = violations.iter().map(|Violation { pointer, detail }| message::Violation { pointer, detail });
        refusal.violations.extend(places);
    }
    send(reply, &response);
}

pub(super) fn refusal(code: Code, detail: &str) -> Response<'_> {
    Response::Refused(Refusal {
        code,
        detail,
        reason: None,
        current_version: None,
        replayed: false,
        seen: None,
        violations: Vec::new(),
    })
}

/// Room for an answer's fields besides its bodies.
const ANSWER_BYTES: usize = 64;
/// Room for a listed entity's length and version.
const LISTED_BYTES: usize = 12;

pub(super) fn send(reply: Reply, response: &Response<'_>) {
    let bodies = match response {
        Response::Executed(executed) => executed.reply.len() + executed.state.map_or(0, <[u8]>::len),
        Response::State { state, .. } => state.len(),
        Response::Listed(listed) => listed.entities.iter().map(|entity| entity.id.len() + LISTED_BYTES).sum(),
        Response::Stale { answer, .. } => answer.len(),
        _ => 256,
    };
    match peer::encode_with_capacity(response, ANSWER_BYTES + bodies) {
        Ok(payload) => reply.send(payload),
        Err(error) => tracing::error!(%error, "an answer cannot be encoded"),
    }
}
