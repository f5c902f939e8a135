//! The refusals that gateway and node know by name. A gateway maps each to an HTTP status in one place; nodes know no HTTP.

use serde::{Deserialize, Serialize};

/// Why a request was not answered with a result. `as_str` is the `code` of the public problem document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    InvalidRequest,
    UnknownKind,
    UnknownCommand,
    NotFound,
    Deleted,
    InProgress,
    VersionMismatch,
    TooLarge,
    Rejected,
    KeyReused,
    Overloaded,
    Unavailable,
    UnknownOutcome,
    /// The entity's own code failed. Nothing was written.
    Internal,
    /// A key that a gateway made is too old, or from the future: never executed.
    KeyExpired,
}

impl Code {
    pub const ALL: [Self; 15] = [
        Self::InvalidRequest,
        Self::UnknownKind,
        Self::UnknownCommand,
        Self::NotFound,
        Self::Deleted,
        Self::InProgress,
        Self::VersionMismatch,
        Self::TooLarge,
        Self::Rejected,
        Self::KeyReused,
        Self::Overloaded,
        Self::Unavailable,
        Self::UnknownOutcome,
        Self::Internal,
        Self::KeyExpired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::KeyExpired => "invalid-request",
            Self::UnknownKind => "unknown-kind",
            Self::UnknownCommand => "unknown-command",
            Self::NotFound => "not-found",
            Self::Deleted => "deleted",
            Self::InProgress => "in-progress",
            Self::VersionMismatch => "version-mismatch",
            Self::TooLarge => "too-large",
            Self::Rejected => "rejected",
            Self::KeyReused => "key-reused",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::UnknownOutcome => "unknown-outcome",
            Self::Internal => "internal",
        }
    }
}
