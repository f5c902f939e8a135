//! What a call comes to when it has no result.

use crate::problem::{Code, Problem};

/// Why there is no result. After each of them but [`Error::UnknownOutcome`], the call has written nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster said no.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// No gateway was reached, or none answered a read, until the deadline.
    #[error("no gateway answered in time: {last}")]
    Unavailable {
        /// How the last attempt ended.
        last: String,
    },
    /// The command may or may not have been applied. The same command with this key finds out, or applies it; a stored
    /// outcome is kept for 24 hours.
    #[error(
        "the command may or may not have been applied ({last}); try again with the idempotency key {idempotency_key}"
    )]
    UnknownOutcome {
        idempotency_key: String,
        /// How the last attempt ended.
        last: String,
    },
    /// What was asked for cannot be asked; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The answer to a read is none that this client understands.
    #[error("an answer that is not to be understood: {0}")]
    Unexpected(String),
}

impl Error {
    /// What the cluster said, where it did.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }

    pub fn code(&self) -> Option<&Code> {
        self.problem().map(|problem| &problem.code)
    }

    /// The kind's own code where the entity said no.
    pub fn reason(&self) -> Option<&str> {
        self.problem()?.reason.as_deref()
    }

    /// Whether the same call may well succeed later. The client has tried until its deadline.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(problem) => problem.is_retryable(),
            Self::Unavailable { .. } | Self::UnknownOutcome { .. } => true,
            Self::Invalid(_) | Self::Unexpected(_) => false,
        }
    }

    /// The key to try a command again with whose outcome is unknown.
    pub fn idempotency_key(&self) -> Option<&str> {
        match self {
            Self::UnknownOutcome { idempotency_key, .. } => Some(idempotency_key),
            _ => None,
        }
    }
}
