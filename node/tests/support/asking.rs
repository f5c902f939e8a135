//! Commands as tests of a shard ask for them, and answers as they compare them.

use std::time::Duration;

use berth_node::entity::erased::Kind;
use berth_node::record::KeyOrigin;
use berth_node::shard::command::Action;
use berth_shared::message::{Precondition, Response};
use berth_shared::problem::Code;
use tokio::sync::oneshot;

/// A command as a test asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) kind: &'a str,
    pub(crate) id: &'a str,
    pub(crate) command: &'a str,
    pub(crate) body: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) origin: Option<KeyOrigin>,
    pub(crate) request_id: Option<u128>,
    pub(crate) attempt: u32,
    pub(crate) precondition: Precondition,
    pub(crate) time: Duration,
}

impl<'a> Ask<'a> {
    /// The first attempt of a request of its own, with a key that a gateway has made just now.
    pub(crate) fn new(kind: &'a str, id: &'a str, command: &'a str, body: &'a str) -> Self {
        Self {
            kind,
            id,
            command,
            body,
            key: None,
            origin: None,
            request_id: None,
            attempt: 1,
            precondition: Precondition::None,
            time: Duration::from_secs(5),
        }
    }

    /// Adds to a counter; `body` such as `{"by":2}`.
    pub(crate) fn add(id: &'a str, body: &'a str) -> Self {
        Self::new("counter", id, "add", body)
    }

    /// Adds one to a counter.
    pub(crate) fn increment(id: &'a str) -> Self {
        Self::add(id, "{}")
    }

    /// Asks for a counter's value by a command that writes no event.
    pub(crate) fn no_op(id: &'a str) -> Self {
        Self::add(id, r#"{"by":0}"#)
    }

    /// Deletes an entity.
    pub(crate) fn delete(kind: &'a str, id: &'a str) -> Self {
        Self::new(kind, id, "", "")
    }

    /// What the executor is asked for.
    pub(crate) fn action(&self, kind: &dyn Kind) -> Action {
        match self.command {
            "" => Action::Delete,
            name => Action::Run(kind.decode(name, self.body.as_bytes()).unwrap()),
        }
    }

    /// With a key that the client gave.
    pub(crate) fn key(self, key: &'a str) -> Self {
        Self { key: Some(key), ..self }
    }

    pub(crate) fn origin(self, origin: KeyOrigin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    pub(crate) fn request(self, request_id: u128) -> Self {
        Self { request_id: Some(request_id), ..self }
    }

    pub(crate) fn attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    pub(crate) fn if_version(self, version: u64) -> Self {
        Self { precondition: Precondition::Versions(vec![version]), ..self }
    }

    pub(crate) fn within(self, time: Duration) -> Self {
        Self { time, ..self }
    }
}

/// The other end of a command's answer.
pub(crate) struct Pending(pub(crate) oneshot::Receiver<Answered>);

impl Pending {
    /// The answer, if it has come.
    pub(crate) fn answered(&mut self) -> Option<Answered> {
        match self.0.try_recv() {
            Ok(answered) => Some(answered),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Answered::Abandoned),
        }
    }

    /// The answer, which must have come.
    pub(crate) fn unwrap(mut self) -> Answered {
        self.answered().expect("it was answered")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Executed {
        version: u64,
        reply: String,
        state: String,
        replayed: bool,
    },
    Refused {
        code: Code,
        reason: Option<String>,
        current_version: Option<u64>,
        replayed: bool,
    },
    WrongOwner,
    /// The answer was dropped unsent: the outcome is unknown.
    Abandoned,
}

impl Answered {
    /// A counter's answer whose reply and state are `value`.
    pub(crate) fn counted(version: u64, value: impl Into<i128>) -> Self {
        let value = value.into();
        let state = format!("{{\"value\":{value}}}");
        Self::Executed { version, reply: value.to_string(), state, replayed: false }
    }

    pub(crate) fn refused(code: Code) -> Self {
        Self::Refused { code, reason: None, current_version: None, replayed: false }
    }

    pub(crate) fn mismatch(current_version: u64) -> Self {
        let (code, current_version) = (Code::VersionMismatch, Some(current_version));
        Self::Refused { code, reason: None, current_version, replayed: false }
    }

    pub(crate) fn rejected(reason: &str) -> Self {
        let reason = Some(reason.to_owned());
        Self::Refused { code: Code::Rejected, reason, current_version: None, replayed: false }
    }

    /// The same as the answer to a retry.
    pub(crate) fn replay(mut self) -> Self {
        match &mut self {
            Self::Executed { replayed, .. } | Self::Refused { replayed, .. } => *replayed = true,
            Self::WrongOwner | Self::Abandoned => panic!("{self:?} is never replayed"),
        }
        self
    }

    pub(crate) fn version(&self) -> u64 {
        match self {
            Self::Executed { version, .. } => *version,
            other => panic!("{other:?} was not executed"),
        }
    }
}

impl From<Response<'_>> for Answered {
    fn from(response: Response<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match response {
            Response::Executed(executed) => Self::Executed {
                version: executed.version,
                reply: text(executed.reply),
                state: text(executed.state.unwrap_or_default()),
                replayed: executed.replayed,
            },
            Response::Refused(refusal) => Self::Refused {
                code: refusal.code,
                reason: refusal.reason.map(str::to_owned),
                current_version: refusal.current_version,
                replayed: refusal.replayed,
            },
            Response::WrongOwner { .. } => Self::WrongOwner,
            other => panic!("{other:?} does not answer a command"),
        }
    }
}
