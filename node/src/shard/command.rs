//! A command on its way through a shard: what arrives in the mailbox, and how it is answered.

use std::fmt;
use std::sync::Arc;

use berth_shared::ids::{RequestId, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::{Executed, Precondition, Refusal, Response, Seen};
use berth_shared::problem::Code;
use berth_shared::seam::BootInstant;

use crate::entity::erased::{self, Kind};
use crate::record::{Outcome, RequestKey, Status};

/// A decoded command. It is kept until it is answered, because it may have to be decided again.
pub struct Command {
    pub key: EntityKey,
    pub kind: Arc<dyn Kind>,
    pub action: Action,
    pub precondition: Precondition,
    pub principal: String,
    pub request: RequestKey,
    pub request_id: RequestId,
    pub attempt: u32,
    pub wants_state: bool,
    /// Nobody waits for the answer after this.
    pub deadline: BootInstant,
    pub answer: Answer,
}

/// What a command asks for.
#[derive(Debug)]
pub enum Action {
    /// One of the kind's own commands.
    Run(erased::Command),
    /// A tombstone, unless the entity is deleted already.
    Delete,
    /// That the shard's time passes this one, in microseconds since 1970: no event can have it or an earlier one then.
    /// Nothing of the entity changes.
    PassTime(u64),
}

/// Where the answer goes. Dropped without an answer, the other side learns that the outcome is unknown.
pub struct Answer(Box<dyn FnOnce(Response<'_>) + Send>);

impl Answer {
    pub fn new(send: impl FnOnce(Response<'_>) + Send + 'static) -> Self {
        Self(Box::new(send))
    }

    pub fn send(self, response: Response<'_>) {
        (self.0)(response);
    }

    /// Refuses before anything was decided: not applied.
    pub fn refuse(self, code: Code, detail: &str) {
        self.send(Response::Refused(Refusal {
            code,
            detail,
            reason: None,
            current_version: None,
            replayed: false,
            seen: None,
            violations: Vec::new(),
        }));
    }

    /// Answers with what was decided. `version` is the entity's after the decision.
    pub fn outcome(self, outcome: &Outcome, version: Version, state: Option<&[u8]>, replayed: bool, seen: Seen) {
        let code = match outcome.status {
            Status::Accepted => {
                let reply = &outcome.reply;
                return self.send(Response::Executed(Executed { version, reply, state, replayed, seen }));
            }
            Status::Rejected => Code::Rejected,
            Status::VersionMismatch => Code::VersionMismatch,
            Status::TooLarge => Code::TooLarge,
            Status::NotFound => Code::NotFound,
        };
        let reason = std::str::from_utf8(&outcome.reason).ok().filter(|reason| !reason.is_empty());
        self.send(Response::Refused(Refusal {
            code,
            detail: std::str::from_utf8(&outcome.reply).unwrap_or_default(),
            reason,
            current_version: (outcome.status == Status::VersionMismatch).then_some(version),
            replayed,
            seen: Some(seen),
            violations: Vec::new(),
        }));
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("key", &self.key).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
