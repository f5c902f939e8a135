//! Kinds without type parameters: one [`Kind`] object per kind, which the executor of a shard and the fold of a replica
//! work with. Commands and states are opaque there; events, replies and snapshots are JSON bytes.
//!
//! All of a kind's own code runs inside `contain`: its panics become [`Error::Panicked`], and the shard goes on.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use berth_shared::key;

use super::describe::{self, Description};
use super::json::{self, shorten};
use super::variant::{self, UnitContent};
use super::violations::{BodySchema, Violation};
use super::{Context, Decision, Entity, Rejection, STORED_DEPTH_MAX, event};
use crate::record::{EventBody, REPLY_BYTES_MAX};

/// Most events of one command.
pub const EVENTS_MAX: usize = 1_024;
/// Most bytes of event data of one command.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Longest text for people: details of refusals and messages of panics.
const DETAIL_BYTES_MAX: usize = 1_024;

/// One kind of entity, made by [`super::Registry::add`].
pub trait Kind: fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// JSON: `{"kind","state":schema,"commands":{name:schema},"events":{type:schema},"reply":schema}`.
    fn description(&self) -> &Bytes;

    /// The state before the first event.
    fn initial(&self) -> State;

    /// Reads a command. Needs no state, so it runs before the command is queued. An empty body stands for `{}`.
    fn decode(&self, command: &str, body: &[u8]) -> Result<Command, CommandError>;

    /// Decides a command. Without events the state that comes back is the one that went in.
    fn decide(&self, state: &State, command: &Command, context: &Context<'_>) -> Result<Verdict, Error>;

    /// Folds an event that was decided earlier, here or elsewhere. Nothing is copied where `state` has no other holder.
    fn evolve(&self, state: State, event: &EventBody) -> Result<State, Error>;

    fn state_json(&self, state: &State) -> Result<Bytes, Error>;

    /// Reads what [`Self::state_json`] wrote.
    fn state_from_json(&self, json: &[u8]) -> Result<State, Error>;
}

/// The state of one entity at one version; never changed while it is shared. Cheap to clone.
#[derive(Clone)]
pub struct State(Arc<dyn Any + Send + Sync>);

/// A command that its kind has read and found well formed.
pub struct Command(Box<dyn Any + Send + Sync>);

/// What the entity says to a command.
#[derive(Clone, Debug)]
pub enum Verdict {
    Accepted(Accepted),
    Rejected(Rejected),
}

#[derive(Clone, Debug)]
pub struct Accepted {
    pub events: SmallVec<[EventBody; 1]>,
    /// JSON.
    pub reply: Bytes,
    /// The state after the events.
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The kind's own code, `[a-z][a-z0-9-]{0,63}`.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

/// Why a command was not read. The texts are for the caller.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Unknown(String),
    #[error("{detail}")]
    Invalid {
        detail: String,
        /// Where the body breaks the command's schema; empty if it is no JSON object at all.
        violations: Vec<Violation>,
    },
    /// The fault of the kind, not of the caller.
    #[error(transparent)]
    Failed(Error),
}

/// A kind did what it must not, or was handed what is not its own. Nothing has been written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("kind {kind} panicked in {action}: {message}")]
    Panicked { kind: &'static str, action: &'static str, message: String },
    #[error("a value of another kind was handed to kind {0}")]
    Foreign(&'static str),
    #[error("an event '{event_type}' of kind {kind} cannot be read: {source}")]
    EventUnreadable { kind: &'static str, event_type: String, source: event::Error },
    #[error("kind {kind} decided an event that cannot be written: {source}")]
    EventUnwritable { kind: &'static str, source: event::Error },
    #[error("kind {kind} made a reply or state that is not JSON: {message}")]
    Unwritable { kind: &'static str, message: String },
    #[error("a state of kind {kind} cannot be read: {message}")]
    StateUnreadable { kind: &'static str, message: String },
    #[error("kind {kind} has a rejection code that is not lower-case words with hyphens: '{code}'")]
    RejectionCode { kind: &'static str, code: &'static str },
    #[error("{what} of kind {kind} would have {size}, but at most {size_max} are kept")]
    TooLarge { kind: &'static str, what: &'static str, size: usize, size_max: usize },
}

/// Gives a typed entity the form without type parameters.
pub(super) struct Erased<E: Entity> {
    entity: E,
    initial: State,
    description: Description,
}

impl<E: Entity> Erased<E> {
    pub(super) fn new(entity: E) -> Result<Self, describe::Error> {
        let description = describe::describe::<E>()?;
        Ok(Self { entity, initial: State::new(E::State::default()), description })
    }

    fn unknown_command(&self) -> CommandError {
        let names: Vec<&str> = self.description.commands.iter().map(|(name, _)| name.as_str()).collect();
        CommandError::Unknown(format!("the commands of kind {} are: {}", E::KIND, names.join(", ")))
    }

    fn read(command: &str, arguments: &str) -> Result<Result<E::Command, variant::Error>, CommandError> {
        let read = || variant::read::<E::Command>(command, arguments, UnitContent::Empty);
        contain(E::KIND, "reading a command", read).map_err(CommandError::Failed)
    }

    /// What the types have to say against a body, and where: all that its schema finds, or where they stopped.
    fn invalid(command: &str, arguments: &str, schema: &BodySchema, error: &variant::Error) -> CommandError {
        let mut violations = schema.violations(arguments);
        if violations.is_empty() && !is_malformed(error) {
            let stop = || variant::stop::<E::Command>(command, arguments, UnitContent::Empty);
            let stop = contain(E::KIND, "reading a command", stop).unwrap_or_default();
            violations.extend(stop.map(|(pointer, error)| Violation::new(&pointer, error.to_string())));
        }
        CommandError::invalid(&error.to_string(), violations)
    }
}

impl CommandError {
    fn invalid(detail: &str, violations: Vec<Violation>) -> Self {
        Self::Invalid { detail: shorten(format!("the body is invalid: {detail}"), DETAIL_BYTES_MAX), violations }
    }
}

/// Not JSON.
fn is_malformed(error: &variant::Error) -> bool {
    matches!(error, variant::Error::Content(error) if error.is_syntax() || error.is_eof())
}

impl<E: Entity> Kind for Erased<E> {
    fn name(&self) -> &'static str {
        E::KIND
    }

    fn description(&self) -> &Bytes {
        &self.description.json
    }

    fn initial(&self) -> State {
        self.initial.clone()
    }

    fn decode(&self, command: &str, body: &[u8]) -> Result<Command, CommandError> {
        let Some((_, schema)) = self.description.commands.iter().find(|(name, _)| name == command) else {
            return Err(self.unknown_command());
        };
        let unreadable =
            |error: json::Error| CommandError::Invalid { detail: error.to_string(), violations: Vec::new() };
        let arguments = json::arguments(body).map_err(unreadable)?;
        let read = match Self::read(command, arguments)? {
            Ok(read) => read,
            Err(variant::Error::UnknownVariant) => return Err(self.unknown_command()),
            Err(error) if is_malformed(&error) => return Err(CommandError::invalid(&error.to_string(), Vec::new())),
            Err(error) => match json::with_whole_numbers(arguments) {
                None => return Err(Self::invalid(command, arguments, schema, &error)),
                Some(arguments) => Self::read(command, &arguments)?
                    .map_err(|error| Self::invalid(command, &arguments, schema, &error))?,
            },
        };
        if schema.is_stricter_than_types {
            let violations = schema.violations(arguments);
            if let Some(first) = violations.first() {
                let detail = format!("{} at '{}'", first.detail, first.pointer);
                return Err(CommandError::invalid(&detail, violations));
            }
        }
        Ok(Command(Box::new(read)))
    }

    fn decide(&self, state: &State, command: &Command, context: &Context<'_>) -> Result<Verdict, Error> {
        let typed_state = state.get::<E>()?;
        let command = command.0.downcast_ref::<E::Command>().ok_or(Error::Foreign(E::KIND))?;
        contain(E::KIND, "decide", || match self.entity.decide(typed_state, command, context) {
            Ok(decision) => accept::<E>(state, &decision).map(Verdict::Accepted),
            Err(rejection) => reject::<E>(&rejection).map(Verdict::Rejected),
        })?
    }

    fn evolve(&self, state: State, event: &EventBody) -> Result<State, Error> {
        let mut state: Arc<E::State> = state.0.downcast().map_err(|_| Error::Foreign(E::KIND))?;
        contain(E::KIND, "evolve", move || {
            let event = read_event::<E>(event)?;
            E::evolve(Arc::make_mut(&mut state), &event);
            Ok(State(state))
        })?
    }

    fn state_json(&self, state: &State) -> Result<Bytes, Error> {
        let state = state.get::<E>()?;
        let json = contain(E::KIND, "writing a state", || write::<E>(state))??;
        if json::is_deeper_than(STORED_DEPTH_MAX, &json) {
            return Err(Error::Unwritable { kind: E::KIND, message: "it is nested too deep".into() });
        }
        Ok(json)
    }

    fn state_from_json(&self, json: &[u8]) -> Result<State, Error> {
        match contain(E::KIND, "reading a state", || serde_json::from_slice::<E::State>(json))? {
            Ok(state) => Ok(State::new(state)),
            Err(error) => Err(Error::StateUnreadable { kind: E::KIND, message: error.to_string() }),
        }
    }
}

/// Writes the events and folds them *as read back from their bytes*, so that the owner's state is by construction the
/// one that every replica will have, and an event that cannot be read back is found before it is written.
fn accept<E: Entity>(state: &State, decision: &Decision<E::Event, E::Reply>) -> Result<Accepted, Error> {
    let reply = write::<E>(&decision.reply)?;
    check_size::<E>("the reply", reply.len(), REPLY_BYTES_MAX)?;
    if decision.events.is_empty() {
        return Ok(Accepted { events: SmallVec::new(), reply, state: state.clone() });
    }
    check_size::<E>("the events", decision.events.len(), EVENTS_MAX)?;
    let mut candidate = state.get::<E>()?.clone();
    let mut events = SmallVec::with_capacity(decision.events.len());
    let mut event_bytes = 0;
    for event in &decision.events {
        let body = event::encode(event).map_err(|source| Error::EventUnwritable { kind: E::KIND, source })?;
        event_bytes += body.data.len();
        check_size::<E>("the event data", event_bytes, EVENT_BYTES_MAX)?;
        E::evolve(&mut candidate, &read_event::<E>(&body)?);
        events.push(body);
    }
    Ok(Accepted { events, reply, state: State::new(candidate) })
}

fn reject<E: Entity>(rejection: &E::Rejection) -> Result<Rejected, Error> {
    let code = rejection.code();
    key::check_kind(code).map_err(|_| Error::RejectionCode { kind: E::KIND, code })?;
    Ok(Rejected { reason: code, detail: shorten(rejection.to_string(), DETAIL_BYTES_MAX) })
}

fn read_event<E: Entity>(event: &EventBody) -> Result<E::Event, Error> {
    event::decode(event).map_err(|source| {
        let event_type = shorten(String::from_utf8_lossy(&event.event_type).into_owned(), DETAIL_BYTES_MAX);
        Error::EventUnreadable { kind: E::KIND, event_type, source }
    })
}

fn write<E: Entity>(value: &impl serde::Serialize) -> Result<Bytes, Error> {
    let json =
        serde_json::to_vec(value).map_err(|error| Error::Unwritable { kind: E::KIND, message: error.to_string() })?;
    Ok(json.into())
}

fn check_size<E: Entity>(what: &'static str, size: usize, size_max: usize) -> Result<(), Error> {
    if size <= size_max { Ok(()) } else { Err(Error::TooLarge { kind: E::KIND, what, size, size_max }) }
}

/// Calls a kind's own code. Unwinding is safe to assert: a state that others can see is never changed (its `Arc` is shared,
/// so folding works on a copy), a state with a single holder has been moved into the call and is dropped by the unwinding,
/// and a half-made decision is dropped likewise. What an entity keeps behind `&self` is its author's to keep consistent.
pub(super) fn contain<T>(kind: &'static str, action: &'static str, call: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Error::Panicked { kind, action, message: shorten(message, DETAIL_BYTES_MAX) }
    })
}

impl State {
    fn new<S: Send + Sync + 'static>(state: S) -> Self {
        Self(Arc::new(state))
    }

    fn get<E: Entity>(&self) -> Result<&E::State, Error> {
        self.0.downcast_ref().ok_or(Error::Foreign(E::KIND))
    }

    /// Whether both are the very same value in memory.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Command")
    }
}

impl<E: Entity> fmt::Debug for Erased<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({})", E::KIND)
    }
}
