//! Calls that write: commands and deletions. Each carries an idempotency key from its first attempt on, so that every further
//! one comes to the same outcome.

use std::fmt::Write as _;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use serde::Serialize;

use crate::answer::{self, Deleted, Outcome};
use crate::call::{Answer, Call};
use crate::client::Client;
use crate::error::Error;
use crate::time;

/// A command that runs when it is awaited.
#[derive(Clone, Debug)]
#[must_use = "a command runs when it is awaited"]
pub struct Execute {
    client: Client,
    /// Or why there is none.
    call: Result<Call, Error>,
}

/// A deletion that happens when it is awaited.
#[derive(Clone, Debug)]
#[must_use = "a deletion happens when it is awaited"]
pub struct Delete {
    client: Client,
    call: Result<Call, Error>,
}

impl Execute {
    pub(crate) fn new(client: Client, mut call: Call, arguments: &impl Serialize) -> Self {
        let call = match serde_json::to_vec(arguments) {
            Ok(body) => {
                call.body = if body == b"null" { Bytes::new() } else { body.into() };
                Ok(call)
            }
            Err(error) => Err(Error::Invalid(format!("the arguments cannot be written as JSON: {error}"))),
        };
        Self { client, call }
    }

    /// Leaves the state out of the outcome, which saves sending it.
    pub fn without_state(mut self) -> Self {
        change(&mut self.call, |call| call.wants_state = false);
        self
    }
}

impl Delete {
    pub(crate) fn new(client: Client, call: Call) -> Self {
        Self { client, call: Ok(call) }
    }
}

/// What both kinds of writes can be told.
macro_rules! settings {
    ($($write:ident),*) => { $(impl $write {
        /// The key under which this is done once, however often it is sent, by this process or another: 1 to 255 visible
        /// ASCII characters. Give one where a crash of the caller must not lead to a second effect. Its outcome is kept for
        /// 24 hours.
        pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
            let key = key.into();
            let is_key = (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
            match is_key {
                true => change(&mut self.call, |call| call.idempotency_key = Some(key)),
                false => self.call = Err(Error::Invalid(format!("{key:?} is no idempotency key"))),
            }
            self
        }

        /// Only if the entity is at this version; else it is refused with [`Code::VersionMismatch`](crate::Code).
        pub fn if_version(mut self, version: u64) -> Self {
            change(&mut self.call, |call| call.condition(&format!("\"{version}\""), ""));
            self
        }

        /// Only if the entity exists and is not deleted.
        pub fn if_exists(mut self) -> Self {
            change(&mut self.call, |call| call.condition("*", ""));
            self
        }

        /// Only if the entity does not exist, or is deleted.
        pub fn if_absent(mut self) -> Self {
            change(&mut self.call, |call| call.condition("", "*"));
            self
        }

        /// How long this may take with all its attempts, instead of the client's usual deadline.
        pub fn deadline(mut self, deadline: Duration) -> Self {
            change(&mut self.call, |call| call.deadline = Some(deadline));
            self
        }
    })* };
}
settings!(Execute, Delete);

impl IntoFuture for Execute {
    type Output = Result<Outcome, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { write(&self.client, self.call?, answer::outcome).await })
    }
}

impl IntoFuture for Delete {
    type Output = Result<Deleted, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { write(&self.client, self.call?, answer::deleted).await })
    }
}

async fn write<T>(
    client: &Client,
    mut call: Call,
    read: impl FnOnce(&Answer, &str) -> Result<T, Error>,
) -> Result<T, Error> {
    let key = call.idempotency_key.get_or_insert_with(new_key).clone();
    let answer = client.call(&call).await?;
    read(&answer, &key).map_err(|error| Error::UnknownOutcome { idempotency_key: key, last: error.to_string() })
}

/// 128 bits of chance: nobody else's, ever.
fn new_key() -> String {
    let mut key = String::with_capacity(32);
    for half in [time::random(), time::random()] {
        let _ = write!(key, "{half:016x}");
    }
    key
}

fn change(call: &mut Result<Call, Error>, change: impl FnOnce(&mut Call)) {
    if let Ok(call) = call {
        change(call);
    }
}

impl Call {
    /// The last condition counts; an empty one is none.
    fn condition(&mut self, if_match: &str, if_none_match: &str) {
        for (name, value) in [(IF_MATCH, if_match), (IF_NONE_MATCH, if_none_match)] {
            self.headers.remove(&name);
            if !value.is_empty() {
                self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
            }
        }
    }
}
