//! What is asked of an entity, by whatever protocol it came and once that has been read: the rules that hold for REST and gRPC
//! alike. Here requests meet the forwarder; what an answer looks like is said by who asks.

use std::time::Duration;

use berth_shared::auth::Principal;
use berth_shared::entity_places::EntityPlace;
use berth_shared::ids::{ShardId, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Event, Executed, Moment, Precondition, Response as Reply};
use berth_shared::problem::Code;
use berth_shared::seam::BootInstant;
use bytes::Bytes;
use http::HeaderValue;

use super::condition::EntityTags;
use super::problem::Problem;
use super::replica::{self, Lag};
use super::session::Session;
use super::streams::Place;
use super::{Api, UNFITTING, body};
use crate::admission::rate::Quota;
use crate::admission::{Access, Full, Permit, Turn};
use crate::forward::{Action, Command, Page, idempotency_key};
use crate::nodes::Nodes;

/// Who is not known, by name.
const NOBODY: &str = "";

/// A command.
#[derive(Debug)]
pub(crate) struct AskedCommand<'a> {
    pub(crate) key: &'a EntityKey,
    pub(crate) action: Action<'a>,
    /// Who asks, and may.
    pub(crate) principal: &'a Principal,
    /// As [`arguments`] gives them.
    pub(crate) body: &'a [u8],
    pub(crate) precondition: Precondition,
    pub(crate) session: &'a Session,
    /// The client's own.
    pub(crate) idempotency_key: Option<HeaderValue>,
    pub(crate) wants_state: bool,
    pub(crate) time: Duration,
    pub(crate) traceparent: &'a str,
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Ran<T> {
    pub(crate) answer: T,
    /// The key under which it ran.
    pub(crate) idempotency_key: HeaderValue,
    /// Whether the gateway made that key.
    pub(crate) is_key_made: bool,
}

/// A read of a state.
#[derive(Debug)]
pub(crate) struct AskedState<'a> {
    pub(crate) key: &'a EntityKey,
    /// Without one, the current state.
    pub(crate) moment: Option<Moment>,
    pub(crate) consistency: Consistency,
    pub(crate) if_match: Option<EntityTags>,
    pub(crate) if_none_match: Option<EntityTags>,
    pub(crate) session: &'a Session,
    pub(crate) time: Duration,
    pub(crate) traceparent: &'a str,
}

/// A state that was read.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) version: Version,
    /// JSON; absent where the client has this version already.
    pub(crate) state: Option<&'a [u8]>,
    pub(crate) session: Option<HeaderValue>,
    /// Of a stale read.
    pub(crate) lag: Option<Lag>,
}

/// A read of a part of the history.
#[derive(Debug)]
pub(crate) struct AskedHistory<'a> {
    pub(crate) key: &'a EntityKey,
    pub(crate) page: Page,
    pub(crate) session: &'a Session,
    pub(crate) time: Duration,
    pub(crate) traceparent: &'a str,
}

/// A part of the history that was read.
#[derive(Debug)]
pub(crate) struct History<'a, 'b> {
    pub(crate) events: &'a [Event<'b>],
    /// After which version the next page starts, if there is one.
    pub(crate) next: Option<Version>,
    pub(crate) session: Option<HeaderValue>,
    /// Of a stale read.
    pub(crate) lag: Option<Lag>,
    /// How what comes later is to be asked for.
    pub(crate) onwards: Page,
}

/// The arguments of a command out of a body. Whether they are the kind's, or JSON at all, is checked once, by the node's decoder.
pub(crate) fn arguments(action: Action<'_>, body: Bytes) -> Result<Bytes, Problem> {
    match action {
        Action::Delete if body.is_empty() => Ok(body),
        Action::Delete => Err(Problem::invalid("a deletion has no body")),
        Action::Run(_) if body.is_empty() => Ok(Bytes::from_static(b"{}")),
        Action::Run(_) => {
            body::check_size(body.len())?;
            body::check_depth(&body)?;
            Ok(body)
        }
    }
}

impl<N: Nodes> Api<N> {
    /// A place among the requests in flight. To be taken before a body is read, so that bodies in memory are bounded too.
    pub(crate) fn admit(&self) -> Result<Permit, Problem> {
        self.admission.enter().map_err(|full| self.refuse_full(full))
    }

    /// A place among the requests of this entity, for one that has a place already. To be taken after the body is read: who
    /// takes long to send it, or sends none, must not keep others from the entity.
    pub(crate) fn admit_entity(&self, key: &EntityKey, access: Access) -> Result<EntityPlace, Problem> {
        self.admission.enter_entity(key, access).map_err(|full| self.refuse_full(full))
    }

    /// Both, for a read, which has no body.
    pub(crate) fn admit_read(&self, key: &EntityKey) -> Result<(Permit, EntityPlace), Problem> {
        Ok((self.admit()?, self.admit_entity(key, Access::Read)?))
    }

    /// The turn of a command that was admitted, and the time that it has left then. It may wait for half of its time: what was sent
    /// with too little left is cut off, and nobody knows what became of it.
    async fn take_turn(&self, key: &EntityKey, time: Duration) -> Result<(Turn, Duration), Problem> {
        let began = self.seams.clock.now();
        let turn = self.seams.spawner.timeout(time / 2, self.admission.take_turn(key, began)).await;
        let turn = turn.ok_or_else(|| self.refuse_full(Full::Entity))?;
        Ok((turn, time.saturating_sub(self.seams.clock.now().since(began))))
    }

    fn refuse_full(&self, full: Full) -> Problem {
        self.metrics.count_full(full);
        Problem::full(full)
    }

    /// Counts a request against the quota of whoever has asked, where there is one: who they are then, unless nothing is left,
    /// and what is. Who is refused before it is known who they are spends what all have who show no credential: otherwise bad
    /// requests, and guesses at credentials, would be free.
    pub(crate) fn spend(
        &self,
        asked: Result<Principal, Problem>,
        now: BootInstant,
    ) -> (Result<Principal, Problem>, Option<Quota>) {
        let Some(rates) = &self.rates else { return (asked, None) };
        let quota = rates.spend(asked.as_ref().map_or(NOBODY, |principal| &*principal.name), now);
        let asked = quota.exceeded().map_or(asked, |seconds| Err(Problem::quota_exceeded(seconds)));
        (asked, Some(quota))
    }

    /// A place among the requests that wait for what is yet to happen.
    pub(crate) fn enter_stream(&self) -> Result<Place, Problem> {
        let overloaded = "this gateway has as many long polls and live histories as it may";
        self.streams.enter().ok_or_else(|| Problem::new(Code::Overloaded, overloaded))
    }

    /// Runs a command that was admitted. `deliver` gets the outcome and the session token that includes it.
    pub(crate) async fn execute<T>(
        &self,
        asked: AskedCommand<'_>,
        deliver: impl FnOnce(&Executed<'_>, Option<HeaderValue>) -> T,
    ) -> Result<Ran<T>, Problem> {
        let (_turn, time) = self.take_turn(asked.key, asked.time).await?;
        let is_key_made = asked.idempotency_key.is_none();
        let (clock, random) = (&self.seams.clock, &self.seams.random);
        let idempotency_key =
            asked.idempotency_key.unwrap_or_else(|| idempotency_key::make(clock.wall_micros(), random.next_u128()));
        let command = Command {
            key: asked.key,
            action: asked.action,
            principal: &asked.principal.name,
            body: asked.body,
            precondition: asked.precondition,
            // Checked, or made, to be visible ASCII.
            idempotency_key: idempotency_key.to_str().unwrap_or_default(),
            key_given: !is_key_made,
            wants_state: asked.wants_state,
            traceparent: asked.traceparent,
        };
        let session = asked.session;
        let cluster = || self.forward.nodes().cluster();
        let outcome = self.forward.execute(command, time, |shard, reply| match reply {
            Reply::Executed(executed) => Ok(deliver(&executed, session.after(cluster(), shard, executed.seen))),
            Reply::Refused(refusal) if is_key_made && refusal.code == Code::KeyExpired => {
                tracing::error!("a node finds the key that was just made too old or too new: the clocks disagree");
                Err(Problem::new(Code::Unavailable, "the clocks of the cluster disagree; this request was not applied"))
            }
            Reply::Refused(refusal) => {
                let session = refusal.seen.and_then(|seen| session.after(cluster(), shard, seen));
                Err(Problem::refused(&refusal).with_session(session))
            }
            _ => Err(Problem::new(Code::UnknownOutcome, UNFITTING)),
        });
        match outcome.await.unwrap_or_else(|code| Err(Problem::given_up(code))) {
            Ok(answer) => Ok(Ran { answer, idempotency_key, is_key_made }),
            Err(problem) if is_key_made || problem.is_unknown_outcome() => {
                Err(problem.with_idempotency_key(idempotency_key))
            }
            Err(problem) => Err(problem),
        }
    }

    /// Reads a state, once admitted.
    pub(crate) async fn read<T>(
        &self,
        asked: AskedState<'_>,
        deliver: impl FnOnce(Found<'_>) -> T,
    ) -> Result<T, Problem> {
        let AskedState { key, moment, consistency, if_match, if_none_match, session, time, traceparent } = asked;
        let answered = |shard, reply: Reply<'_>, lag| match reply {
            Reply::State { version, state, seen } => {
                if if_match.is_some_and(|tags| !tags.match_version(version)) {
                    return Err(mismatch(moment, version).with_lag(lag));
                }
                let session = session.after(self.forward.nodes().cluster(), shard, seen);
                let is_known = if_none_match.is_some_and(|tags| tags.match_version(version));
                Ok(deliver(Found { version, state: (!is_known).then_some(state), session, lag }))
            }
            reply => Err(self.unread(session, shard, &reply).with_lag(lag)),
        };
        let read = match moment {
            None => {
                let consistency = self.consistency(key, consistency, session);
                let answered = |shard, reply: Reply<'_>| {
                    let (reply, lag) = replica::unwrapped(reply);
                    answered(shard, reply, lag)
                };
                self.forward.read(key, consistency, traceparent, time, answered).await
            }
            Some(moment) => {
                let (consistency, lag) = of_the_past(consistency);
                let answered = |shard, reply: Reply<'_>| answered(shard, reply, lag);
                self.forward.past(key, moment, consistency, traceparent, time, answered).await
            }
        };
        read.unwrap_or_else(|code| Err(Problem::given_up(code)))
    }

    /// Reads a page of the history, once admitted or, where it waits, in a place among those that do.
    pub(crate) async fn history<T>(
        &self,
        asked: AskedHistory<'_>,
        deliver: impl FnOnce(History<'_, '_>) -> T,
    ) -> Result<T, Problem> {
        let AskedHistory { key, page, session, time, traceparent } = asked;
        let page = Page { consistency: self.consistency(key, page.consistency, session), ..page };
        let read = self.forward.events(key, page, traceparent, time, |shard, reply| {
            let (reply, lag) = replica::unwrapped(reply);
            match reply {
                Reply::Events { events, next, seen } => {
                    let session = session.after(self.forward.nodes().cluster(), shard, seen);
                    Ok(deliver(History { events: &events, next, session, lag, onwards: page.onwards() }))
                }
                reply => Err(self.unread(session, shard, &reply).with_lag(lag)),
            }
        });
        read.await.unwrap_or_else(|code| Err(Problem::given_up(code)))
    }

    /// What a read got instead of its answer, with the token that includes what that rests on.
    fn unread(&self, session: &Session, shard: ShardId, reply: &Reply<'_>) -> Problem {
        match reply {
            Reply::Refused(refusal) => {
                let session = refusal.seen.and_then(|seen| session.after(self.forward.nodes().cluster(), shard, seen));
                Problem::refused(refusal).with_session(session)
            }
            _ => Problem::new(Code::Unavailable, UNFITTING),
        }
    }
}

/// The client wanted another version than there is, or was at that moment.
fn mismatch(moment: Option<Moment>, version: Version) -> Problem {
    match moment {
        None => Problem::version_mismatch(version),
        // Without the entity's version, which is not looked at here.
        Some(_) => Problem::new(Code::VersionMismatch, "that state has another version"),
    }
}

/// How an earlier state is asked for, and how far behind the answer then is. Only the owner knows what is final, and so it answers
/// whoever would be content with less.
fn of_the_past(wanted: Consistency) -> (Consistency, Option<Lag>) {
    match wanted {
        Consistency::Strict => (Consistency::Strict, None),
        Consistency::Linearizable | Consistency::Session { .. } => (Consistency::Linearizable, None),
        Consistency::Stale => (Consistency::Linearizable, Some(Lag::NONE)),
    }
}
