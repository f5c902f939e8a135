//! What calls bring, read from the contract's JSON.

use std::time::Duration;

use http::HeaderMap;
use http::header::ETAG;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::Answer;
use crate::error::Error;

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The entity's version after it.
    pub version: u64,
    #[serde(default)]
    pub reply: Value,
    /// The entity's state, unless [`without_state`](crate::Execute::without_state) was asked for.
    pub state: Option<Value>,
    /// This is the stored outcome of an earlier request with the same key: of this call or another.
    #[serde(skip)]
    pub replayed: bool,
    #[serde(skip)]
    pub idempotency_key: String,
}

/// What a deletion came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// The entity's version after it, where the answer tells.
    pub version: Option<u64>,
    pub replayed: bool,
    pub idempotency_key: String,
}

/// An entity's state.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct State {
    pub version: u64,
    pub state: Value,
    /// Of a stale read: how far behind the answer may be, where that is known.
    #[serde(skip)]
    pub lag: Option<Duration>,
}

/// A page of an entity's history.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct History {
    pub events: Vec<Event>,
    /// What the next page comes after; none at the end of the history.
    pub next: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Its number: 1, 2, 3 … without a gap.
    pub version: u64,
    #[serde(rename = "type")]
    pub event_type: String,
    /// RFC 3339, in UTC.
    pub time: String,
    #[serde(default)]
    pub data: Value,
}

/// A page of the entities of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Listing {
    pub entities: Vec<Listed>,
    /// The cursor of the next page; none on the last one.
    pub next: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Listed {
    pub id: String,
    pub version: u64,
}

impl Outcome {
    /// The reply as a type of one's own.
    pub fn reply_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.reply)
    }

    /// The state as a type of one's own. Where there is none, it is read as `null`.
    pub fn state_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(self.state.as_ref().unwrap_or(&Value::Null))
    }
}

impl State {
    /// The state as a type of one's own.
    pub fn state_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.state)
    }
}

pub(crate) fn json<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|error| Error::Unexpected(error.to_string()))
}

pub(crate) fn outcome(answer: &Answer, key: &str) -> Result<Outcome, Error> {
    let outcome: Outcome = json(answer)?;
    Ok(Outcome { replayed: is_replayed(&answer.headers), idempotency_key: key.to_owned(), ..outcome })
}

#[expect(clippy::unnecessary_wraps, reason = "both writes are read alike")]
pub(crate) fn deleted(answer: &Answer, key: &str) -> Result<Deleted, Error> {
    let tag = answer.headers.get(ETAG).and_then(|tag| tag.to_str().ok()?.split('"').nth(1)?.parse().ok());
    Ok(Deleted { version: tag, replayed: is_replayed(&answer.headers), idempotency_key: key.to_owned() })
}

pub(crate) fn state(answer: &Answer) -> Result<State, Error> {
    let lag = answer.headers.get("berth-lag").and_then(|lag| lag.to_str().ok()?.parse().ok());
    Ok(State { lag: lag.map(Duration::from_millis), ..json(answer)? })
}

fn is_replayed(headers: &HeaderMap) -> bool {
    headers.get("idempotency-replayed").is_some_and(|value| value == "true")
}
