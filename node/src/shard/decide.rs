//! Deciding one command on one view of its entity: precondition, the kind's own decision, limits. Pure.

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use berth_shared::ids::Version;
use berth_shared::message::Precondition;

use crate::entity::erased::{self, Accepted, State};
use crate::entity::{Context, Timestamp};
use crate::record::{EventBody, Outcome, Status};
use crate::shard::command::{Action, Command};

/// Largest state of an entity, as JSON.
pub const STATE_BYTES_MAX: usize = 1024 * 1024;

/// An entity as a decision sees it: applied, or speculated on top of what is in flight.
#[derive(Clone, Debug)]
pub struct View {
    pub version: Version,
    pub deleted: bool,
    pub state: State,
    pub json: Option<Bytes>,
}

/// What was decided, not yet durable.
#[derive(Debug)]
pub struct Verdict {
    pub outcome: Outcome,
    pub events: SmallVec<[EventBody; 1]>,
    /// The state after the events; without events, the one that was decided on.
    pub state: State,
    /// Whether the entity is deleted then.
    pub deleted: bool,
    /// Empty with a refusal.
    pub json: Bytes,
}

/// Decides `command`. An error is a failure of the kind's code, not an outcome: nothing is written.
pub fn decide(view: &View, command: &Command, time_micros: u64) -> Result<Verdict, erased::Error> {
    // The state is not shown with a refusal, so its JSON is not made.
    let same = |status, reply: Bytes, reason: Bytes| -> Result<Verdict, erased::Error> {
        let outcome = Outcome { status, reply, reason };
        let (state, deleted) = (view.state.clone(), view.deleted);
        Ok(Verdict { outcome, events: SmallVec::new(), state, deleted, json: Bytes::new() })
    };
    // A condition on what never was would hide that (RFC 9110, 13.2.1).
    if matches!(command.action, Action::Delete) && view.version == 0 {
        return same(Status::NotFound, "the entity has no events".into(), Bytes::new());
    }
    if let Some(detail) = unmet(&command.precondition, view) {
        return same(Status::VersionMismatch, detail.into(), Bytes::new());
    }
    let run = match &command.action {
        Action::Run(run) => run,
        Action::Delete if !view.deleted => return delete(command),
        Action::Delete | Action::PassTime(_) => return unchanged(view, command),
    };
    let context = Context {
        now: Timestamp::from_micros(time_micros),
        key: &command.key,
        version: view.version,
        principal: &command.principal,
    };
    let Accepted { events, reply, state } = match command.kind.decide(&view.state, run, &context) {
        Ok(erased::Verdict::Accepted(accepted)) => accepted,
        Ok(erased::Verdict::Rejected(rejected)) => {
            return same(Status::Rejected, rejected.detail.into(), Bytes::from_static(rejected.reason.as_bytes()));
        }
        Err(error @ erased::Error::TooLarge { .. }) => {
            return same(Status::TooLarge, error.to_string().into(), Bytes::new());
        }
        Err(error) => return Err(error),
    };
    let json = if events.is_empty() { view_json(view, command)? } else { command.kind.state_json(&state)? };
    if json.len() > STATE_BYTES_MAX {
        return same(Status::TooLarge, "the state would be larger than 1 MiB".into(), Bytes::new());
    }
    let outcome = Outcome { status: Status::Accepted, reply, reason: Bytes::new() };
    let deleted = view.deleted && events.is_empty();
    Ok(Verdict { outcome, events, state, deleted, json })
}

/// What comes after a tombstone begins where the entity began.
fn delete(command: &Command) -> Result<Verdict, erased::Error> {
    let state = command.kind.initial();
    let json = command.kind.state_json(&state)?;
    let events = smallvec![EventBody::tombstone()];
    Ok(Verdict { outcome: done(), events, state, deleted: true, json })
}

fn unchanged(view: &View, command: &Command) -> Result<Verdict, erased::Error> {
    let json = view_json(view, command)?;
    let (state, deleted) = (view.state.clone(), view.deleted);
    Ok(Verdict { outcome: done(), events: SmallVec::new(), state, deleted, json })
}

/// Accepted, and there is nothing to say.
fn done() -> Outcome {
    Outcome { status: Status::Accepted, reply: Bytes::from_static(b"null"), reason: Bytes::new() }
}

fn view_json(view: &View, command: &Command) -> Result<Bytes, erased::Error> {
    view.json.clone().map_or_else(|| command.kind.state_json(&view.state), Ok)
}

/// Why the precondition does not hold.
fn unmet(precondition: &Precondition, view: &View) -> Option<&'static str> {
    let exists = view.version > 0 && !view.deleted;
    match precondition {
        Precondition::None => None,
        Precondition::Versions(versions) if versions.contains(&view.version) && exists => None,
        Precondition::Versions(_) => Some("the entity is at another version"),
        Precondition::Exists if exists => None,
        Precondition::Exists => Some("the entity does not exist"),
        Precondition::Absent if !exists => None,
        Precondition::Absent => Some("the entity exists already"),
    }
}
