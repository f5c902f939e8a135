//! What a gateway refused, read from its problem document (RFC 9457). Pure.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

/// Longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// A refusal. Programs go by `code`, and `reason` where the entity itself said no; the rest is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    pub code: Code,
    pub title: String,
    pub detail: String,
    /// The path of the request.
    pub instance: String,
    /// For a look into the cluster's traces.
    pub trace_id: String,
    /// With [`Code::Rejected`]: the kind's own code, such as `insufficient-funds`.
    pub reason: Option<String>,
    /// With [`Code::VersionMismatch`]: the version that the entity has.
    pub current_version: Option<u64>,
    /// With [`Code::InvalidRequest`]: what in the body breaks the command's schema.
    pub errors: Vec<Violation>,
    /// When a retry is welcome. Only seconds are read, and at most an hour is believed.
    pub retry_after: Option<Duration>,
    /// The stored outcome of an earlier request with the same idempotency key.
    pub replayed: bool,
}

/// A place in a command's body, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Violation {
    /// A JSON Pointer (RFC 6901); empty for the body itself.
    #[serde(default)]
    pub pointer: String,
    #[serde(default)]
    pub detail: String,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    UnknownKind,
    UnknownCommand,
    /// The entity has no events.
    NotFound,
    /// The entity is deleted.
    Deleted,
    /// Another request with this idempotency key is still running.
    InProgress,
    VersionMismatch,
    TooLarge,
    /// The entity said no, and [`Problem::reason`] why.
    Rejected,
    /// The idempotency key was used with another request before.
    KeyReused,
    Overloaded,
    Unavailable,
    UnknownOutcome,
    /// The entity's own code failed.
    Internal,
    RequestTimeout,
    /// One that this client does not know, or none: then it was no gateway that answered, but something on the way.
    Other(String),
}

/// The members of the document that are read. All of them may be missing.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    title: String,
    detail: String,
    instance: String,
    code: String,
    trace_id: String,
    reason: Option<String>,
    current_version: Option<u64>,
    errors: Vec<Violation>,
}

impl Problem {
    pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let is_problem = content_type.starts_with(b"application/problem+json");
        // What something on the way has answered may be anything.
        let read = if is_problem { serde_json::from_slice(body).ok() } else { None };
        let document: Document = read.unwrap_or_default();
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Self {
            status: status.as_u16(),
            code: Code::of(&document.code),
            title: document.title,
            detail: document.detail,
            instance: document.instance,
            trace_id: document.trace_id,
            reason: document.reason,
            current_version: document.current_version,
            errors: document.errors,
            retry_after: seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)),
            replayed: headers.get("idempotency-replayed").is_some_and(|value| value == "true"),
        }
    }

    /// Whether the same request may well succeed later. The client has done so already until its deadline.
    pub fn is_retryable(&self) -> bool {
        match &self.code {
            Code::Overloaded | Code::Unavailable | Code::UnknownOutcome | Code::InProgress | Code::RequestTimeout => {
                true
            }
            Code::Other(code) => code.is_empty() && matches!(self.status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }

    /// Whether a command that is answered so may have been applied by the attempt that is answered.
    pub(crate) fn leaves_unknown(&self) -> bool {
        match &self.code {
            Code::UnknownOutcome => true,
            // Only Berth's own code promises that nothing was applied, whatever the status. A proxy that gives up on a gateway says
            // the same 503 as one that never reached it. What is left are redirects and refusals before anything is passed on.
            Code::Other(_) => self.status >= 500 || matches!(self.status, 408 | 409 | 425 | 429),
            _ => false,
        }
    }

    /// Whether this settles what became of a command, earlier attempts included: it was decided behind the check of the key.
    /// That a kind or a command is not known, or that code failed, may be so of one node of another version only.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.code, Code::VersionMismatch | Code::Rejected | Code::KeyReused | Code::NotFound | Code::TooLarge)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.code.as_str())?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        for violation in &self.errors {
            write!(f, "; at {:?}: {}", violation.pointer, violation.detail)?;
        }
        Ok(())
    }
}

impl Code {
    const KNOWN: [Self; 17] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::Forbidden,
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
        Self::RequestTimeout,
    ];

    fn of(text: &str) -> Self {
        Self::KNOWN.into_iter().find(|code| code.as_str() == text).unwrap_or_else(|| Self::Other(text.to_owned()))
    }

    /// As it stands in the document.
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
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
            Self::RequestTimeout => "request-timeout",
            Self::Other(code) => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(status: u16, content_type: &'static str, retry_after: &'static str, body: &str) -> Problem {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(retry_after));
        Problem::read(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn a_problem_document_is_read_whole() {
        let body = r#"{"type":"urn:berth:problem:version-mismatch","title":"Version mismatch","status":412,"detail":"d",
            "instance":"/v1/x","code":"version-mismatch","traceId":"0af7","currentVersion":7,
            "errors":[{"pointer":"/by","detail":"no integer"}],"more":{}}"#;
        let problem = read(412, "application/problem+json", "3", body);
        assert_eq!(problem.code, Code::VersionMismatch);
        assert_eq!((problem.current_version, problem.trace_id.as_str()), (Some(7), "0af7"));
        assert_eq!((problem.errors[0].pointer.as_str(), problem.retry_after), ("/by", Some(Duration::from_secs(3))));
        assert_eq!(problem.to_string(), "412 version-mismatch: d; at \"/by\": no integer");
    }

    #[test]
    fn what_is_no_problem_document_promises_nothing() {
        for (content_type, body) in [
            ("text/html", "<html>Bad gateway</html>"),
            ("application/json", r#"{"code":"unavailable"}"#),
            ("application/problem+json", "{"),
            ("application/problem+json", r#"{"code":7}"#),
        ] {
            let problem = read(503, content_type, "Wed, 21 Oct 2015 07:28:00 GMT", body);
            assert_eq!((&problem.code, problem.retry_after), (&Code::Other(String::new()), None), "{body}");
            assert!(problem.is_retryable() && problem.leaves_unknown() && !problem.is_settled(), "{body}");
        }
        let huge = read(429, "text/plain", "99999999999", "").retry_after;
        assert_eq!(huge, Some(RETRY_AFTER_MAX));
        assert!(!read(404, "text/html", "1", "").is_retryable());
    }

    #[test]
    fn every_code_comes_back_from_its_text() {
        for code in Code::KNOWN {
            assert_eq!(Code::of(code.as_str()), code);
        }
        assert_eq!(Code::of("new"), Code::Other("new".to_owned()));
    }
}
