//! The programming model: what a kind of entity is, how the owner decides its commands, and how every replica folds its
//! events. Pure: it knows no clock, randomness, disk, network or async; the executor of a shard passes time in and carries
//! out what is decided.
//!
//! A user writes an [`Entity`]; the four in [`kinds`] are meant to be copied. [`Registry`] checks it and turns it into an
//! [`erased::Kind`], the form without type parameters that shards work with.

mod describe;
pub mod erased;
mod event;
mod json;
pub mod kinds;
pub mod registry;
mod timestamp;
mod variant;
pub mod violations;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use berth_shared::ids::Version;

pub use berth_shared::key::EntityKey;
pub use registry::Registry;
pub use timestamp::Timestamp;

/// A kind of entity. The owner of an entity calls [`decide`](Self::decide) with its state and a command; the events that
/// come out are made durable on a majority of replicas, and every replica folds them with [`evolve`](Self::evolve).
///
/// The value itself (`&self`) holds what deciding needs and state does not have, such as a price table. It is often empty.
///
/// ```
/// use berth_node::entity::{Context, Decision, Entity, Registry};
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// struct Lamp;
///
/// #[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
/// struct State {
///     lit: bool,
/// }
///
/// #[derive(Deserialize, JsonSchema)]
/// #[serde(rename_all = "kebab-case", deny_unknown_fields)]
/// enum Command {
///     Toggle,
/// }
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// #[serde(rename_all = "kebab-case")]
/// enum Event {
///     Toggled { lit: bool },
/// }
///
/// impl Entity for Lamp {
///     const KIND: &'static str = "lamp";
///     type State = State;
///     type Command = Command;
///     type Event = Event;
///     type Reply = bool;
///     type Rejection = std::convert::Infallible;
///
///     fn decide(
///         &self,
///         state: &State,
///         command: &Command,
///         _context: &Context<'_>,
///     ) -> Result<Decision<Event, bool>, Self::Rejection> {
///         match command {
///             Command::Toggle => Ok(Decision::event(Event::Toggled { lit: !state.lit }).reply(!state.lit)),
///         }
///     }
///
///     fn evolve(state: &mut State, event: &Event) {
///         match event {
///             Event::Toggled { lit } => state.lit = *lit,
///         }
///     }
/// }
///
/// let registry = Registry::built_in().add(Lamp)?;
/// assert!(registry.get("lamp").is_some());
/// # Ok::<(), berth_node::entity::registry::Error>(())
/// ```
pub trait Entity: Send + Sync + 'static {
    /// `[a-z][a-z0-9-]{0,63}`: the first part of an entity's address, `kind/id`.
    const KIND: &'static str;

    /// What commands are decided on and what a read answers; `default` is the state before the first event.
    /// It must come back from JSON as it went in. At most 1 MiB of JSON, nested at most
    /// [`STORED_DEPTH_MAX`] deep.
    type State: Default + Clone + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static;

    /// An enum. A variant's name is the command in the URL, its fields are the JSON body; both are checked before the
    /// owner sees them, so that what can never be valid is kept out by types. What its JSON Schema forbids beyond that, by
    /// attributes such as `#[schemars(length(max = 10))]`, is refused as well, at the cost of reading each body of this
    /// command twice. No command is named `events`. Derive with
    /// `#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]`.
    type Command: DeserializeOwned + JsonSchema + Send + Sync + 'static;

    /// An enum. A variant's name is the event's type, its fields are the event's data. Names that start with `berth-` are
    /// reserved. Events are kept for ever: never rename or retype what has been released; add variants, and fields with
    /// `#[serde(default)]`. Leave `deny_unknown_fields` off, so that an older node folds the events of a newer one.
    type Event: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static;

    /// What the caller of a command gets besides version and state; kept for retries, so at most 16 KiB of JSON.
    type Reply: Serialize + JsonSchema;

    /// Why the entity said no.
    type Rejection: Rejection;

    /// Says which events a command causes, or why it may not run. Runs at the owner only, perhaps several times for one
    /// command (a batch that was not committed is decided again), and must not have effects. Time comes from `context`.
    fn decide(
        &self,
        state: &Self::State,
        command: &Self::Command,
        context: &Context<'_>,
    ) -> Result<Decision<Self::Event, Self::Reply>, Self::Rejection>;

    /// Folds one event into the state. Runs on every replica and again after every restart, so it takes nothing but its
    /// arguments: an event carries whatever folding it needs, and nothing is decided here.
    fn evolve(state: &mut Self::State, event: &Self::Event);
}

/// A refusal that a client can act on. `Display` is the text for people.
pub trait Rejection: fmt::Display {
    /// A stable code in the form `[a-z][a-z0-9-]{0,63}`, such as `insufficient-funds`.
    fn code(&self) -> &'static str;
}

/// For kinds that refuse nothing.
impl Rejection for Infallible {
    fn code(&self) -> &'static str {
        match *self {}
    }
}

/// What a command comes to: events in the order in which they happen, and a reply. Without events nothing is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<E, R = ()> {
    events: Vec<E>,
    reply: R,
}

impl<E> Decision<E> {
    /// Nothing changes.
    pub fn no_change() -> Self {
        Self { events: Vec::new(), reply: () }
    }

    pub fn event(event: E) -> Self {
        Self { events: vec![event], reply: () }
    }

    pub fn events(events: impl IntoIterator<Item = E>) -> Self {
        Self { events: events.into_iter().collect(), reply: () }
    }
}

impl<E, R> Decision<E, R> {
    /// The same events with this reply.
    pub fn reply<T>(self, reply: T) -> Decision<E, T> {
        Decision { events: self.events, reply }
    }

    pub fn into_parts(self) -> (Vec<E>, R) {
        (self.events, self.reply)
    }
}

/// What the owner knows about a command besides the state; it is stamped on the record of the command.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time of the events, if there will be any. Strictly increasing in a shard, whoever owns it.
    pub now: Timestamp,
    pub key: &'a EntityKey,
    /// Number of events the entity has had before this command.
    pub version: Version,
    /// Who asks; empty where the cluster runs without authentication.
    pub principal: &'a str,
}

/// How deep the body of a command may be nested. It keeps recursion, ours and that of every client, small.
pub const DEPTH_MAX: usize = 64;

/// How deep the data of an event or a state may be nested: deeper than a body, which a kind may wrap, and less deep than
/// what the parser refuses to read back (128).
pub const STORED_DEPTH_MAX: usize = 100;
