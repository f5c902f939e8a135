//! Calls that read: states, pages of history, and listings.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use http::Method;

use crate::answer::{self, History, Listing, State};
use crate::call::Call;
use crate::client::Client;
use crate::error::Error;

/// What a read promises to include.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Everything that was acknowledged before. It trusts that clocks of different nodes run at nearly the same speed.
    #[default]
    Linearizable,
    /// The same without that trust, at the price of a round trip between nodes.
    Strict,
    /// Everything that this client's session has written and read, from any replica.
    Session,
    /// Whatever some replica has; the answer tells how far behind it may be.
    Stale,
}

impl Consistency {
    /// The value of the parameter, where it is not the default.
    pub(crate) fn parameter(self) -> Option<&'static str> {
        match self {
            Self::Linearizable => None,
            Self::Strict => Some("strict"),
            Self::Session => Some("session"),
            Self::Stale => Some("stale"),
        }
    }
}

/// A read of an entity's state, done when it is awaited.
#[derive(Clone, Debug)]
#[must_use = "it is read when it is awaited"]
pub struct Get {
    client: Client,
    call: Call,
}

/// A read of a page of an entity's history, done when it is awaited.
#[derive(Clone, Debug)]
#[must_use = "it is read when it is awaited"]
pub struct ReadHistory {
    client: Client,
    call: Call,
}

/// A read of a page of the entities of a kind, in the byte order of their ids, done when it is awaited. Pages are no snapshot:
/// they go on behind an id, whatever is written meanwhile.
///
/// ```no_run
/// # async fn run(client: berth_client::Client) -> Result<(), berth_client::Error> {
/// let mut page = client.list("cart").prefix("eu-").await?;
/// loop {
///     for cart in &page.entities {
///         println!("{} at version {}", cart.id, cart.version);
///     }
///     let Some(next) = page.next else { break };
///     page = client.list("cart").prefix("eu-").cursor(next).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is read when it is awaited"]
pub struct List {
    client: Client,
    call: Call,
}

impl Get {
    pub(crate) fn new(client: Client, call: Call) -> Self {
        Self { client, call }
    }

    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.call.consistency = consistency;
        self
    }

    /// The state as of this version.
    pub fn version(mut self, version: u64) -> Self {
        self.call.parameter("version", &version.to_string());
        self
    }

    /// The state as of this time, in RFC 3339, which must be more than a second ago.
    pub fn at(mut self, time: &str) -> Self {
        self.call.parameter("at", time);
        self
    }
}

impl ReadHistory {
    pub(crate) fn new(client: Client, call: Call) -> Self {
        Self { client, call }
    }

    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.call.consistency = consistency;
        self
    }

    /// From after the event with this number; from the first one unless set.
    pub fn after(mut self, version: u64) -> Self {
        self.call.parameter("after", &version.to_string());
        self
    }

    /// At most so many events: 1 to 1000.
    pub fn limit(mut self, limit: u32) -> Self {
        self.call.parameter("limit", &limit.to_string());
        self
    }

    /// Where there is no such event yet, wait for it: up to 30 whole seconds.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.call.wait = wait;
        self.call.parameter("wait", &wait.as_secs().to_string());
        self
    }
}

impl List {
    pub(crate) fn new(client: Client, kind: &str) -> Self {
        Self { client, call: Call::new(Method::GET, &["entities", kind]) }
    }

    /// Only ids that begin so.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.call.parameter("prefix", prefix);
        self
    }

    /// At most so many entities: 1 to 1000.
    pub fn limit(mut self, limit: u32) -> Self {
        self.call.parameter("limit", &limit.to_string());
        self
    }

    /// From where an earlier page with the same prefix ended: its `next`.
    pub fn cursor(mut self, cursor: impl AsRef<str>) -> Self {
        self.call.parameter("cursor", cursor.as_ref());
        self
    }
}

macro_rules! reads {
    ($($read:ident -> $output:ident by $parse:path),*) => { $(
        impl $read {
            /// How long this may take with all its attempts, instead of the client's usual deadline.
            pub fn deadline(mut self, deadline: Duration) -> Self {
                self.call.deadline = Some(deadline);
                self
            }
        }

        impl IntoFuture for $read {
            type Output = Result<$output, Error>;
            type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(async move { $parse(&self.client.call(&self.call).await?) })
            }
        }
    )* };
}
reads!(Get -> State by answer::state, ReadHistory -> History by answer::json, List -> Listing by answer::json);
