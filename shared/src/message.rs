//! The requests and answers between gateways and nodes, encoded with postcard. Text and bodies are borrowed from the
//! frame they arrived in, so that nothing is copied on the way.
//!
//! A change of any type here is a change of the wire: raise [`crate::peer::PROTOCOL_VERSION`].

use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, RequestId, ShardId, Version};
use crate::problem::Code;
use crate::report::{Member, NodeReport};
use crate::shard_map::ShardOwner;
use crate::shard_set::ShardSet;

/// What a gateway asks of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request<'a> {
    #[serde(borrow)]
    Execute(Execute<'a>),
    /// The state. `traceparent` is W3C trace context as [`crate::telemetry::TraceContext`] writes it, empty when there is none.
    Read { shard: ShardId, kind: &'a str, id: &'a str, consistency: Consistency, traceparent: &'a str },
    /// One page of an entity's history: at most `limit` events after version `after`.
    Events {
        shard: ShardId,
        kind: &'a str,
        id: &'a str,
        after: Version,
        limit: u32,
        /// Bytes of events past which the page is cut, at most; one event is always given.
        bytes_max: u32,
        /// How long the node may wait for the first event after `after` when there is none yet. Then the page is empty.
        wait_millis: u32,
        consistency: Consistency,
        traceparent: &'a str,
    },
    /// The kinds that this node runs, with their schemas; answered with [`Response::Kinds`].
    Kinds,
    /// What the node says of itself and its replicas; answered with [`Response::Report`].
    Report,
    /// Who leads the shards that this node has replicas of, as far as it knows; answered with [`Response::Owners`]. What a
    /// gateway asks when the owner that it knows does not answer.
    Owners,
    /// Deletes an entity, by the way of a command, as [`Response::Executed`] or [`Response::Refused`] then tell. Command and
    /// body are empty.
    Delete(Execute<'a>),
    /// An earlier state, at the owner; answered with [`Response::State`].
    Past { shard: ShardId, kind: &'a str, id: &'a str, moment: Moment, consistency: Consistency, traceparent: &'a str },
    /// Entities of a kind that exist now; answered with [`Response::Listed`].
    List(List<'a>),
}

/// Which of an entity's states is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The state after so many events.
    Version(Version),
    /// The state after all events up to this time, microseconds since 1970.
    Time(u64),
}

/// The first entities, in the byte order of their ids, over `shards`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<'a> {
    pub shards: Vec<ShardId>,
    pub kind: &'a str,
    /// What their ids begin with.
    pub prefix: &'a str,
    /// They come after this one; empty for the first of all.
    pub after: &'a str,
    pub limit: u32,
    /// As of [`Request::Read`].
    pub traceparent: &'a str,
}

/// What a read promises. The first two see everything that was acknowledged before the read began, and only the owner gives
/// them; the others any replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// The owner answers from memory, under its lease: it trusts that clocks of different nodes run at nearly the same speed.
    #[default]
    Linearizable,
    /// The owner first has a quorum confirm that it still leads (ReadIndex): it trusts no clock.
    Strict,
    /// As much of the shard's history as this, in the same incarnation; a replica that has less waits for a part of the
    /// request's time. Nothing in particular without it.
    Session { at_least: Option<Seen> },
    /// Whatever the replica has applied. Answered with [`Response::Stale`].
    Stale,
}

/// Runs a command. The scope of `idempotency_key` is (`principal`, `kind`, `id`, key).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execute<'a> {
    pub shard: ShardId,
    pub kind: &'a str,
    pub id: &'a str,
    pub command: &'a str,
    /// JSON arguments.
    pub body: &'a [u8],
    pub precondition: Precondition,
    pub principal: &'a str,
    pub idempotency_key: &'a str,
    pub key_origin: KeyOrigin,
    /// All attempts of one gateway at one client request carry the same id: a later attempt joins a running one.
    pub request_id: RequestId,
    /// 1 for the first attempt under a key that nobody can have sent before; higher for any other.
    pub attempt: u32,
    /// Whether the answer should carry the state.
    pub wants_state: bool,
    /// As of [`Request::Read`].
    pub traceparent: &'a str,
}

/// Who made an idempotency key, which decides how long its outcome is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyOrigin {
    /// The client's own: kept 24 hours.
    Client,
    /// Made by a gateway at this time (microseconds since 1970): kept 2 minutes, refused when it is older.
    Gateway { created_micros: u64 },
}

/// `If-Match` and `If-None-Match` of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    #[default]
    None,
    /// `If-Match: "3"` or a list.
    Versions(Vec<Version>),
    /// `If-Match: *`: the entity exists and is not deleted.
    Exists,
    /// `If-None-Match: *`: the entity does not exist or is deleted.
    Absent,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response<'a> {
    #[serde(borrow)]
    Executed(Executed<'a>),
    State {
        version: Version,
        /// JSON.
        state: &'a [u8],
        seen: Seen,
    },
    Events {
        events: Vec<Event<'a>>,
        /// The `after` of the next page, if there is one.
        next: Option<Version>,
        seen: Seen,
    },
    /// JSON: an array of kind descriptions.
    Kinds {
        json: &'a [u8],
    },
    Report(Box<NodeReport>),
    /// Owners this node knows; see [`Push::Owners`]. One that was named by another node may still be on its way to own.
    Owners {
        shards: u16,
        owners: Vec<ShardOwner>,
    },
    Refused(Refusal<'a>),
    /// This node does not own the shard, or its replica may not answer: not applied. Carries the owner, if this node knows it.
    WrongOwner {
        owner: Option<ShardOwner>,
    },
    Listed(Listed<'a>),
    /// The answer to a read with [`Consistency::Stale`], encoded by itself: [`Response::State`], [`Response::Events`] or
    /// [`Response::Refused`].
    Stale {
        /// Whatever was acknowledged longer ago than this is in the answer; `None` where the replica cannot tell.
        lag_micros: Option<u64>,
        answer: &'a [u8],
    },
}

/// What a node says to [`List`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed<'a> {
    /// Ascending by id; those of every shard that was asked for and is not among `not_owned`.
    #[serde(borrow)]
    pub entities: Vec<ListedEntity<'a>>,
    /// There may be more, all of them after this id, up to which none is missing. It need not be one that is listed.
    pub more_after: Option<&'a str>,
    /// Shards that this node does not own, ascending; nothing of theirs is listed.
    pub not_owned: Vec<ShardId>,
    /// The owners of those, as far as this node knows them.
    pub owners: Vec<ShardOwner>,
    /// Of the other shards, how much of their history may be in what is listed.
    pub seen: Vec<(ShardId, Seen)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedEntity<'a> {
    pub id: &'a str,
    pub version: Version,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Executed<'a> {
    pub version: Version,
    /// JSON.
    pub reply: &'a [u8],
    /// JSON; absent when it was not wanted.
    pub state: Option<&'a [u8]>,
    /// The stored outcome of an earlier request with the same idempotency key.
    pub replayed: bool,
    pub seen: Seen,
}

/// How much of a shard's history an answer includes; it becomes part of the session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub incarnation: u32,
    pub index: LogIndex,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event<'a> {
    pub version: Version,
    pub event_type: &'a str,
    /// Microseconds since 1970, strictly increasing per shard.
    pub time_micros: u64,
    /// JSON.
    pub data: &'a [u8],
}

/// Not executed, or decided against. Every code but `UnknownOutcome` promises that no event was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal<'a> {
    pub code: Code,
    /// For people.
    pub detail: &'a str,
    /// The kind's own code of a rejection, such as `insufficient-funds`.
    pub reason: Option<&'a str>,
    pub current_version: Option<Version>,
    pub replayed: bool,
    /// Set where the refusal is an outcome decided by the entity, and so rests on what the shard has applied.
    pub seen: Option<Seen>,
    /// Where the body of a command breaks its schema.
    pub violations: Vec<Violation<'a>>,
}

/// A place in the body of a command, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation<'a> {
    /// A JSON Pointer (RFC 6901) into the body.
    pub pointer: &'a str,
    /// For people.
    pub detail: &'a str,
}

/// What a node tells a connected gateway unasked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Push {
    /// Owners this node knows, each replacing what the gateway has if it is newer.
    Owners { shards: u16, owners: Vec<ShardOwner> },
    /// All nodes of the cluster, as far as this node knows; replaces what the gateway has from it.
    Members { members: Vec<Member> },
    /// The shards of which this node has a replica that answers reads, and where the node runs, if that was configured;
    /// replaces what the gateway has from it.
    Replicas { shards: u16, readable: ShardSet, zone: Option<String> },
}
