//! Gets a request to the owner of its entity and its answer back, as often as it takes within the deadline. What may be
//! tried again is decided in `verdict`; this is the shell that sends, waits and counts.

pub(crate) mod idempotency_key;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{RequestId, ShardId, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Execute, Precondition, Request, Response};
use berth_shared::peer;
use berth_shared::problem::Code;
use berth_shared::seam::{BootInstant, Seams};
use bytes::Bytes;

use crate::metrics::{CallResult, Metrics};
use crate::nodes::{CallError, Nodes};
use verdict::{Attempt, History, Operation, Verdict};

/// The first pause between two attempts at most; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// What an encoded request has besides its body.
const REQUEST_BYTES: usize = 512;

#[derive(Debug)]
pub(crate) struct Forward<N> {
    nodes: Arc<N>,
    seams: Seams,
    /// How long one attempt may take while there is time for another.
    attempt_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// A command on its way; see [`Execute`].
#[derive(Debug)]
pub(crate) struct Command<'a> {
    pub(crate) key: &'a EntityKey,
    pub(crate) name: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) precondition: Precondition,
    pub(crate) idempotency_key: &'a str,
    /// Whether the client brought the key, which then may have been sent before.
    pub(crate) key_given: bool,
    pub(crate) wants_state: bool,
    pub(crate) traceparent: &'a str,
}

/// To whom a request goes.
#[derive(Clone, Copy, Debug)]
enum Target<'a> {
    Owner(&'a EntityKey),
    /// Any node, another one with every attempt.
    Anyone,
}

impl<N: Nodes> Forward<N> {
    pub(crate) fn new(nodes: Arc<N>, seams: Seams, attempt_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self { nodes, seams, attempt_timeout, metrics }
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
        let mut execute = Execute {
            shard: ShardId(0),
            kind: command.key.kind(),
            id: command.key.id(),
            command: command.name,
            body: command.body,
            precondition: command.precondition,
            principal: "",
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
            // The clone is of a few references and, rarely, a list of versions.
            peer::encode_with_capacity(&Request::Execute(execute.clone()), capacity).ok()
        };
        let fits = |response: &Response<'_>| matches!(response, Response::Executed(_));
        self.attempt(Operation::Command, Target::Owner(command.key), time, encode, fits, deliver).await
    }

    /// Reads the state within `time`; `deliver` gets [`Response::State`] or [`Response::Refused`].
    pub(crate) async fn read<T>(
        &self,
        key: &EntityKey,
        traceparent: &str,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let (kind, id) = (key.kind(), key.id());
        let encode = |shard, _| {
            let consistency = Consistency::Linearizable;
            peer::encode(&Request::Read { shard, kind, id, consistency, traceparent }).ok()
        };
        let fits = |response: &Response<'_>| matches!(response, Response::State { .. });
        self.attempt(Operation::Read, Target::Owner(key), time, encode, fits, deliver).await
    }

    /// Reads a page of the history within `time`; `deliver` gets [`Response::Events`] or [`Response::Refused`].
    pub(crate) async fn events<T>(
        &self,
        key: &EntityKey,
        after: Version,
        limit: u32,
        traceparent: &str,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let (kind, id) = (key.kind(), key.id());
        let encode = |shard, _| {
            let consistency = Consistency::Linearizable;
            peer::encode(&Request::Events { shard, kind, id, after, limit, consistency, traceparent }).ok()
        };
        let fits = |response: &Response<'_>| matches!(response, Response::Events { .. });
        self.attempt(Operation::Read, Target::Owner(key), time, encode, fits, deliver).await
    }

    /// Asks any node for the kinds; `deliver` gets [`Response::Kinds`] or [`Response::Refused`].
    pub(crate) async fn kinds<T>(
        &self,
        time: Duration,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let encode = |_, _| peer::encode(&Request::Kinds).ok();
        let fits = |response: &Response<'_>| matches!(response, Response::Kinds { .. });
        self.attempt(Operation::Read, Target::Anyone, time, encode, fits, deliver).await
    }

    /// `fits` tells the answer that was asked for from one that makes no sense.
    async fn attempt<T>(
        &self,
        operation: Operation,
        target: Target<'_>,
        time: Duration,
        mut encode: impl FnMut(ShardId, u32) -> Option<Bytes>,
        fits: impl Fn(&Response<'_>) -> bool,
        deliver: impl FnOnce(ShardId, Response<'_>) -> T,
    ) -> Result<T, Code> {
        let deadline = self.seams.clock.now() + time;
        let mut history = History::new(operation);
        let mut attempts = 0;
        let mut pauses = 0;
        loop {
            attempts += 1;
            let verdict = match self.call(target, attempts, deadline, &mut encode).await {
                Err(attempt) => {
                    self.metrics.count_call(call_result(attempt));
                    history.judge(attempt)
                }
                Ok((shard, address, frame)) => {
                    let response = peer::decode::<Response<'_>>(&frame).ok();
                    let attempt = self.classify(response.as_ref(), target, &address, &fits);
                    self.metrics.count_call(call_result(attempt));
                    match (history.judge(attempt), response) {
                        (Verdict::Deliver, Some(response)) => return Ok(deliver(shard, response)),
                        (verdict, _) => verdict,
                    }
                }
            };
            match verdict {
                Verdict::GiveUp(code) => return Err(code),
                Verdict::RetryAtOnce if self.seams.clock.now() < deadline => {}
                Verdict::RetryAtOnce => return Err(history.expired()),
                // An answer that cannot be read is never to be delivered.
                Verdict::RetryAfterPause | Verdict::Deliver => {
                    let pause = pause(pauses, self.seams.random.next_u64());
                    pauses += 1;
                    if self.seams.clock.now() + pause >= deadline {
                        return Err(history.expired());
                    }
                    self.seams.spawner.sleep(pause).await;
                }
            }
        }
    }

    /// One call: the shard, who was asked, and the answer's frame.
    async fn call(
        &self,
        target: Target<'_>,
        attempt: u32,
        deadline: BootInstant,
        encode: &mut impl FnMut(ShardId, u32) -> Option<Bytes>,
    ) -> Result<(ShardId, String, Bytes), Attempt> {
        let (shard, address) = match target {
            Target::Owner(key) => {
                let table = self.nodes.table();
                let (shard, owner) = table.place(key).ok_or(Attempt::NoOwner)?;
                (shard, owner.ok_or(Attempt::NoOwner)?.address.clone())
            }
            Target::Anyone => (ShardId(0), self.nodes.anyone(attempt).ok_or(Attempt::NoOwner)?),
        };
        let payload = encode(shard, attempt).ok_or(Attempt::NotExecuted)?;
        let until = deadline.min(self.seams.clock.now() + self.attempt_timeout);
        match self.nodes.call(&address, payload, until).await {
            Ok(frame) => Ok((shard, address, frame)),
            Err(CallError::Busy) => Err(Attempt::NodeBusy),
            Err(CallError::NotExecuted) => Err(Attempt::NotExecuted),
            Err(CallError::MaybeExecuted) => Err(Attempt::MaybeExecuted),
        }
    }

    /// What an answer means for the request; learns the owner that it may name.
    fn classify(
        &self,
        response: Option<&Response<'_>>,
        target: Target<'_>,
        asked: &str,
        fits: impl Fn(&Response<'_>) -> bool,
    ) -> Attempt {
        match response {
            Some(Response::Refused(refusal)) => {
                Attempt::Refused { code: refusal.code, decided: refusal.seen.is_some() || refusal.replayed }
            }
            Some(Response::WrongOwner { owner }) => {
                if let Some(owner) = owner {
                    self.nodes.learn(owner.clone());
                }
                Attempt::WrongOwner { learnt: self.another_is_owner(target, asked) }
            }
            Some(response) if fits(response) => Attempt::Answered,
            _ => Attempt::MaybeExecuted,
        }
    }

    /// Whether by now another node than `asked` is known as the owner.
    fn another_is_owner(&self, target: Target<'_>, asked: &str) -> bool {
        let Target::Owner(key) = target else { return false };
        let table = self.nodes.table();
        let owner = table.place(key).and_then(|(_, owner)| owner);
        owner.is_some_and(|owner| owner.address != asked)
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
        Attempt::WrongOwner { .. } => CallResult::WrongOwner,
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
