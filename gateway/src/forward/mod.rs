//! Gets a request to the owner of its entity and its answer back, as often as it takes within the deadline. What may be
//! tried again is decided in `verdict`; this is the shell that sends, waits and counts.

pub(crate) mod idempotency_key;
mod latency;
pub(crate) mod listing;
mod target;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{RequestId, ShardId, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Execute, Moment, Precondition, Request, Response};
use berth_shared::peer;
use berth_shared::planted::{self, Bug};
use berth_shared::problem::Code;
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::shard_map::ShardOwner;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::admission::{Admission, NodePlace};
use crate::metrics::{CallResult, Metrics};
use crate::nodes::{CallError, Nodes};
use latency::Nature;
use target::{Target, Time, at_owner_too, busy, is_at_replica, of_attempt};
use verdict::{Attempt, History, Operation, Verdict};

/// The first pause between two attempts at most; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// No attempt is begun with less time than this left: it could only end as unknown.
const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(5);
/// What an encoded request has besides its body.
const REQUEST_BYTES: usize = 512;

#[derive(Debug)]
pub(crate) struct Forward<N> {
    nodes: Arc<N>,
    seams: Seams,
    /// How long one attempt may take while there is time for another.
    attempt_timeout: Duration,
    /// Listings that are put together at the same time.
    listings: Semaphore,
    metrics: Arc<Metrics>,
    /// Has the places at nodes, and is told how quickly they answer.
    admission: Admission,
}

/// What is done to an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    /// One of its kind's commands, by name.
    Run(&'a str),
    Delete,
}

/// A command on its way; see [`Execute`].
#[derive(Debug)]
pub(crate) struct Command<'a> {
    pub(crate) key: &'a EntityKey,
    pub(crate) action: Action<'a>,
    /// Whose credential the client showed; part of the scope of its keys.
    pub(crate) principal: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) precondition: Precondition,
    pub(crate) idempotency_key: &'a str,
    /// Whether the client brought the key, which then may have been sent before.
    pub(crate) key_given: bool,
    pub(crate) wants_state: bool,
    pub(crate) traceparent: &'a str,
}

/// Which part of an entity's history, and how surely the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The page starts after this version.
    pub(crate) after: Version,
    pub(crate) limit: u32,
    /// Bytes of events past which it is cut; one event is always given.
    pub(crate) bytes_max: u32,
    pub(crate) consistency: Consistency,
    /// How long to wait for an event where there is none.
    pub(crate) wait: Duration,
    /// Whether it is a part of a live history.
    pub(crate) is_live: bool,
}

impl Page {
    /// The same for what comes after a page that was seen: that has the history which the client's token asked for.
    pub(crate) fn onwards(self) -> Self {
        let consistency = match self.consistency {
            Consistency::Session { .. } => Consistency::Session { at_least: None },
            other => other,
        };
        Self { consistency, ..self }
    }
}

impl<N: Nodes> Forward<N> {
    pub(crate) fn new(
        nodes: Arc<N>,
        seams: Seams,
        attempt_timeout: Duration,
        metrics: Arc<Metrics>,
        admission: Admission,
    ) -> Self {
        let listings = Semaphore::new(listing::LISTINGS_MAX);
        Self { nodes, seams, attempt_timeout, listings, metrics, admission }
    }

    pub(crate) fn nodes(&self) -> &N {
        &self.nodes
    }

    /// Runs a command within `time`. `deliver` gets the shard and the outcome, [`Response::Executed`] or
    /// [`Response::Refused`].
    pub(crate) async fn execute<T>(
        &self,
        command: Command<'_>,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let make_other = || idempotency_key::make(self.seams.clock.wall_micros(), self.seams.random.next_u128());
        let other = planted::is(Bug::RetryWithoutKey).then(make_other);
        let mut execute = Execute {
            shard: ShardId(0),
            kind: command.key.kind(),
            id: command.key.id(),
            command: match command.action {
                Action::Run(name) => name,
                Action::Delete => "",
            },
            body: command.body,
            precondition: command.precondition,
            principal: command.principal,
            idempotency_key: command.idempotency_key,
            key_origin: idempotency_key::origin(command.idempotency_key),
            request_id: RequestId(self.seams.random.next_u128()),
            attempt: 0,
            wants_state: command.wants_state,
            traceparent: command.traceparent,
        };
        let capacity = REQUEST_BYTES + command.body.len();
        let encode = |shard, attempt| {
            execute.shard = shard;
            // A given key counts as sent before, also where a gateway made it: then a refusal is stored, so that the earlier
            // attempt, if it is late, does not execute after it.
            execute.attempt = attempt + u32::from(command.key_given);
            if let Some(other) = other.as_ref().filter(|_| attempt > 1) {
                execute.idempotency_key = other.to_str().unwrap_or_default();
            }
            // The clone is of a few references and, rarely, a list of versions.
            let execute = execute.clone();
            let request = match command.action {
                Action::Run(_) => Request::Execute(execute),
                Action::Delete => Request::Delete(execute),
            };
            peer::encode_with_capacity(&request, capacity).ok()
        };
        let fits = |response: &Response<'_>| matches!(response, Response::Executed(_));
        let time = Time::until(self.now() + time);
        self.attempt(Operation::Command, Target::Owner(command.key), time, encode, fits, deliver).await
    }

    /// Reads the state within `time`; `deliver` gets [`Response::State`], [`Response::Refused`], or [`Response::Stale`] with one
    /// of them.
    pub(crate) async fn read<T>(
        &self,
        key: &EntityKey,
        consistency: Consistency,
        traceparent: &str,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let (kind, id) = (key.kind(), key.id());
        let encode = |shard, attempt| {
            let consistency = of_attempt(consistency, attempt);
            peer::encode(&Request::Read { shard, kind, id, consistency, traceparent }).ok()
        };
        let fits = |response: &Response<'_>| matches!(response, Response::State { .. });
        self.attempt(
            Operation::Read,
            self.target(key, consistency),
            Time::until(self.now() + time),
            encode,
            fits,
            deliver,
        )
        .await
    }

    /// Reads an earlier state within `time`; `deliver` gets [`Response::State`] or [`Response::Refused`].
    pub(crate) async fn past<T>(
        &self,
        key: &EntityKey,
        moment: Moment,
        consistency: Consistency,
        traceparent: &str,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let (kind, id) = (key.kind(), key.id());
        let encode = |shard, _| peer::encode(&Request::Past { shard, kind, id, moment, consistency, traceparent }).ok();
        let fits = |response: &Response<'_>| matches!(response, Response::State { .. });
        self.attempt(Operation::LongRead, Target::Owner(key), Time::until(self.now() + time), encode, fits, deliver)
            .await
    }

    /// Reads a page of the history within `time`, of which the wait is a part; `deliver` gets [`Response::Events`],
    /// [`Response::Refused`], or [`Response::Stale`] with one of them.
    pub(crate) async fn events<T>(
        &self,
        key: &EntityKey,
        page: Page,
        traceparent: &str,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let (kind, id) = (key.kind(), key.id());
        let Page { after, limit, bytes_max, consistency, wait, is_live } = page;
        let wait_until = self.now() + wait;
        let encode = |shard, attempt| {
            let consistency = of_attempt(consistency, attempt);
            // However often it is asked, it is waited for so long in all.
            let wait_millis = wait_until.since(self.now()).as_millis() as u32;
            let request =
                Request::Events { shard, kind, id, after, limit, bytes_max, wait_millis, consistency, traceparent };
            peer::encode(&request).ok()
        };
        let fits = |response: &Response<'_>| matches!(response, Response::Events { .. });
        let waits = !wait.is_zero();
        let time = Time {
            deadline: self.now() + time,
            wait_until: waits.then_some(wait_until),
            takes_place: !waits && !is_live,
        };
        self.attempt(Operation::Read, self.target(key, consistency), time, encode, fits, deliver).await
    }

    /// Asks any node for the kinds; `deliver` gets [`Response::Kinds`] or [`Response::Refused`].
    pub(crate) async fn kinds<T>(
        &self,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let encode = |_, _| peer::encode(&Request::Kinds).ok();
        let fits = |response: &Response<'_>| matches!(response, Response::Kinds { .. });
        self.attempt(Operation::Read, Target::Anyone, Time::until(self.now() + time), encode, fits, deliver).await
    }

    /// `fits` tells the answer that was asked for from one that makes no sense.
    async fn attempt<T>(
        &self,
        operation: Operation,
        target: Target<'_>,
        time: Time,
        mut encode: impl FnMut(ShardId, u32) -> Option<Bytes>,
        fits: impl Fn(&Response<'_>) -> bool,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let mut history = History::new(operation);
        let mut attempts = 0;
        let mut pauses = 0;
        let mut place = None;
        while time.deadline.since(self.now()) >= ATTEMPT_TIME_MIN {
            attempts += 1;
            let began = self.now();
            let Call { shard, asked, nature, until, result } =
                self.call(operation, target, attempts, time, &mut place, &mut encode).await;
            let response = result.as_ref().ok().map(|frame| peer::decode::<Response<'_>>(frame).ok());
            let attempt = match (&response, &result) {
                (Some(response), _) => at_owner_too(self.classify(response.as_ref(), &fits), target, attempts),
                (None, Err(attempt)) => *attempt,
                (None, Ok(_)) => Attempt::MaybeExecuted,
            };
            self.metrics.count_call(call_result(attempt));
            if let Some(at) = &place {
                self.observe(at, nature, attempt, began, until);
            }
            let owner = self.owner(target);
            let moved = owner.as_ref().is_some_and(|owner| Some(&owner.address) != asked.as_ref());
            let verdict = history.judge(attempt, moved);
            // What a node may still be at is in flight there, also while it pauses; so one that does not answer cannot gather more
            // requests than its limit.
            place = place.filter(|_| attempt == Attempt::MaybeExecuted || history.is_unsettled());
            match (verdict, response.flatten()) {
                (Verdict::Deliver, Some(response)) => return Ok(deliver(shard, response)),
                (Verdict::GiveUp(code), _) => return Err(code),
                (Verdict::RetryAtOnce, _) => {}
                // An answer that cannot be read is never to be delivered.
                (Verdict::RetryAfterPause | Verdict::Deliver, _) => {
                    let pause = pause(pauses, self.seams.random.next_u64());
                    pauses += 1;
                    let left = time.deadline.since(self.now());
                    self.pause(target, attempt, owner.as_ref(), pause.min(left)).await;
                }
            }
        }
        Err(history.expired())
    }

    /// Tells how long an attempt at a node took that began at `began`, if that says something of how busy it is.
    fn observe(&self, at: &NodePlace, nature: Nature, attempt: Attempt, began: BootInstant, until: BootInstant) {
        let now = self.now();
        match latency::is_answer(nature, attempt) {
            Some(true) => at.observe(now, now.since(began), true),
            // What is cut short because its owner is gone must not look like congestion.
            Some(false) if now >= until => at.observe(now, now.since(began), false),
            Some(false) | None => {}
        }
    }

    /// One call: who was asked, and the answer's frame.
    async fn call(
        &self,
        operation: Operation,
        target: Target<'_>,
        attempt: u32,
        time: Time,
        place: &mut Option<NodePlace>,
        encode: &mut impl FnMut(ShardId, u32) -> Option<Bytes>,
    ) -> Call {
        let mut target = target;
        let (shard, asked) = match target {
            Target::Owner(key) | Target::Replica { key, .. } => match self.nodes.table().place(key) {
                Some((shard, owner)) => (shard, owner.map(|owner| owner.address.clone())),
                None => (ShardId(0), None),
            },
            Target::Anyone => (ShardId(0), self.nodes.anyone(attempt)),
        };
        let replica = match target {
            Target::Replica { start, .. } if is_at_replica(attempt) => self.nodes.replica(shard, start, attempt / 2),
            _ => None,
        };
        // Who is not asked as a replica is asked as the owner.
        if let (None, Target::Replica { key, .. }) = (&replica, target) {
            target = Target::Owner(key);
        }
        let nature = Nature {
            operation,
            is_timed: time.takes_place && !matches!(target, Target::Replica { may_wait: true, .. }),
        };
        let until = time.of_attempt(operation, target, self.now(), self.attempt_timeout);
        let asked = replica.or(asked);
        let result = match &asked {
            None => Err(Attempt::NoOwner),
            Some(address) if time.takes_place && !self.enter(place, address) => Err(busy(target)),
            Some(address) => match encode(shard, attempt) {
                None => Err(Attempt::NotExecuted),
                Some(payload) => self.send(target, address, payload, until, time.wait_until.is_some()).await,
            },
        };
        Call { shard, asked, nature, until, result }
    }

    /// Makes `place` one at the node at `address`, unless it is one already; says whether there is one.
    fn enter(&self, place: &mut Option<NodePlace>, address: &str) -> bool {
        if place.as_ref().is_none_or(|place| place.address() != address) {
            // One at another node is given back.
            *place = self.admission.enter_node(address, self.now());
        }
        place.is_some()
    }

    /// Sends a request to `address` and waits for the answer; no longer than `until`, and not after another node has become
    /// the owner: the one that was asked may be silent for long. `waits` is for one that the node may wait with.
    async fn send(
        &self,
        target: Target<'_>,
        address: &str,
        payload: Bytes,
        until: BootInstant,
        waits: bool,
    ) -> Result<Bytes, Attempt> {
        let has_moved = |owner: Option<&ShardOwner>| owner.is_some_and(|owner| owner.address != address);
        let given_up = async {
            match target {
                Target::Owner(key) => self.nodes.until(key, has_moved).await,
                Target::Replica { .. } | Target::Anyone => std::future::pending().await,
            }
        };
        let sent = match waits {
            false => self.nodes.call(address, payload, until, given_up).await,
            true => self.nodes.poll(address, payload, until, given_up).await,
        };
        sent.map_err(|error| match error {
            CallError::Busy => busy(target),
            CallError::NotExecuted => Attempt::NotExecuted,
            CallError::MaybeExecuted => Attempt::MaybeExecuted,
        })
    }

    fn target<'a>(&self, key: &'a EntityKey, consistency: Consistency) -> Target<'a> {
        Target::of_read(key, consistency, self.seams.random.next_u64())
    }

    fn now(&self) -> BootInstant {
        self.seams.clock.now()
    }

    /// What an answer means for the request; learns the owner that it may name.
    fn classify(&self, response: Option<&Response<'_>>, fits: &impl Fn(&Response<'_>) -> bool) -> Attempt {
        match response {
            Some(Response::Refused(refusal)) => {
                Attempt::Refused { code: refusal.code, decided: refusal.seen.is_some() || refusal.replayed }
            }
            Some(Response::WrongOwner { owner }) => {
                if let Some(owner) = owner {
                    self.nodes.learn(owner.clone());
                }
                Attempt::WrongOwner
            }
            Some(Response::Stale { answer, .. }) => match peer::decode::<Response<'_>>(answer) {
                Ok(Response::Stale { .. } | Response::WrongOwner { .. }) | Err(_) => Attempt::MaybeExecuted,
                Ok(inner) => self.classify(Some(&inner), fits),
            },
            Some(response) if fits(response) => Attempt::Answered,
            _ => Attempt::MaybeExecuted,
        }
    }

    /// Waits, until something else is known of the owner than `known`. Only those who wait for this shard are woken by that,
    /// and they are no more than the gateway admits.
    async fn pause(&self, target: Target<'_>, after: Attempt, known: Option<&ShardOwner>, pause: Duration) {
        let (Target::Owner(key) | Target::Replica { key, .. }) = target else {
            return self.seams.spawner.sleep(pause).await;
        };
        if casts_doubt(after) {
            self.nodes.doubt();
        }
        let news = self.nodes.until(key, |owner| owner != known);
        self.seams.spawner.timeout(pause, news).await;
    }

    fn owner(&self, target: Target<'_>) -> Option<ShardOwner> {
        let (Target::Owner(key) | Target::Replica { key, .. }) = target else { return None };
        self.nodes.table().place(key).and_then(|(_, owner)| owner.cloned())
    }
}

/// What came of one call.
struct Call {
    shard: ShardId,
    /// Who was asked, if anybody was.
    asked: Option<String>,
    nature: Nature,
    /// Until when it might last.
    until: BootInstant,
    /// The answer's frame.
    result: Result<Bytes, Attempt>,
}

/// Whether an attempt ended in a way that another owner would explain. A node that is busy is there.
fn casts_doubt(attempt: Attempt) -> bool {
    match attempt {
        Attempt::NoOwner | Attempt::WrongOwner | Attempt::NotExecuted | Attempt::MaybeExecuted => true,
        Attempt::Refused { code, .. } => code == Code::Unavailable,
        Attempt::Answered | Attempt::NodeBusy => false,
    }
}

/// The pause after `earlier` pauses: twice as long each time up to a limit, of which `random` takes off up to a half, so
/// that the gateways' attempts do not come in step.
fn pause(earlier: u32, random: u64) -> Duration {
    let longest = PAUSE_FIRST.saturating_mul(1 << earlier.min(16)).min(PAUSE_MAX);
    let half = longest / 2;
    half + Duration::from_nanos(random % (half.as_nanos() as u64 + 1))
}

fn call_result(attempt: Attempt) -> CallResult {
    match attempt {
        Attempt::Answered => CallResult::Answered,
        Attempt::Refused { .. } => CallResult::Refused,
        Attempt::WrongOwner => CallResult::WrongOwner,
        Attempt::NoOwner => CallResult::NoOwner,
        Attempt::NodeBusy => CallResult::NodeBusy,
        Attempt::NotExecuted => CallResult::NotExecuted,
        Attempt::MaybeExecuted => CallResult::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_grow_to_a_limit_and_vary(earlier: u32, random: u64) {
            let longest = (10_u64 << earlier.min(4)).min(160);
            let pause = pause(earlier, random);
            prop_assert!(pause >= Duration::from_millis(longest) / 2 && pause <= Duration::from_millis(longest), "{pause:?}");
        }
    }
}
