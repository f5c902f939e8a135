//! Every refusal of the public port as a problem document (RFC 9457): the one place where codes become HTTP statuses.
//! What it shows is written for clients: no address, no internal error text.

use std::borrow::Cow;
use std::time::Duration;

use berth_shared::auth;
use berth_shared::ids::Version;
use berth_shared::message::Refusal;
use berth_shared::problem::Code;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::Body;
use super::header::{BERTH_LAG, BERTH_SESSION, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED};
use super::replica::Lag;
use crate::admission::Full;

/// What a client is told instead of a result. Boxed, because it is the rare arm of many results.
#[derive(Debug)]
pub(crate) struct Problem(Box<Content>);

/// What a problem says, for the protocols that say it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) kind: Kind,
    pub(crate) detail: Cow<'static, str>,
    /// The kind's own code of a rejection.
    pub(crate) reason: Option<Box<str>>,
    pub(crate) current_version: Option<Version>,
    /// What is wrong in a command's body, and where.
    pub(crate) errors: Vec<Violation>,
    /// A stored outcome of an earlier request with the same idempotency key.
    pub(crate) replayed: bool,
    pub(crate) session: Option<HeaderValue>,
    pub(crate) lag: Option<Lag>,
    pub(crate) idempotency_key: Option<HeaderValue>,
    /// After how long to try again, where it is known better than by the kind.
    retry_in: Option<Duration>,
}

impl Content {
    /// After how long the client may try again, if it is asked to.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_in.or_else(|| self.kind.retry_after())
    }
}

/// What went wrong: a code that nodes know too, or one that only HTTP has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Shared(Code),
    MethodNotAllowed {
        allow: &'static str,
    },
    NotAcceptable,
    UnsupportedMediaType,
    HeadersTooLarge,
    RequestTimeout,
    Unauthenticated {
        challenge: &'static str,
    },
    Forbidden {
        challenge: &'static str,
    },
    /// Of a page that may not call.
    CrossOrigin,
}

/// After how long a refused client may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Shared(code), detail)
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    pub(crate) fn method_not_allowed(allow: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::MethodNotAllowed { allow }, detail)
    }

    pub(crate) fn not_acceptable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::NotAcceptable, detail)
    }

    pub(crate) fn unsupported_media_type(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::UnsupportedMediaType, detail)
    }

    pub(crate) fn headers_too_large() -> Self {
        Self::of(Kind::HeadersTooLarge, "the request line and headers may have 8 KiB in all")
    }

    pub(crate) fn request_timeout() -> Self {
        Self::of(Kind::RequestTimeout, "the body did not arrive in time")
    }

    pub(crate) fn cross_origin() -> Self {
        Self::of(Kind::CrossOrigin, "pages of this origin may not call; nothing was applied")
    }

    /// Why the guard of the port lets somebody not in, or not do something.
    pub(crate) fn of_guard(refusal: auth::Refusal) -> Self {
        let challenge = refusal.challenge();
        let kind = match refusal {
            auth::Refusal::Forbidden => Kind::Forbidden { challenge },
            auth::Refusal::NoKeys => Kind::Shared(Code::Unavailable),
            _ => Kind::Unauthenticated { challenge },
        };
        Self::of(kind, refusal.to_string())
    }

    pub(crate) fn version_mismatch(current: Version) -> Self {
        let mut problem = Self::new(Code::VersionMismatch, "the entity is at another version");
        problem.0.current_version = Some(current);
        problem
    }

    /// What a node refused.
    pub(crate) fn refused(refusal: &Refusal<'_>) -> Self {
        let mut problem = Self::new(refusal.code, refusal.detail.to_owned());
        problem.0.reason = refusal.reason.map(Box::from);
        problem.0.current_version = refusal.current_version;
        problem.0.replayed = refusal.replayed;
        let errors = refusal
            .violations
            .iter()
            .map(|violation| Violation { pointer: violation.pointer.to_owned(), detail: violation.detail.to_owned() });
        problem.0.errors = errors.collect();
        problem
    }

    /// What the gateway gave up with.
    pub(crate) fn given_up(code: Code) -> Self {
        let detail = match code {
            Code::Overloaded => {
                "the owner of this entity has too many requests in flight; this request was not applied"
            }
            Code::UnknownOutcome => {
                "the command may or may not have been applied; try again with the same Idempotency-Key to learn which"
            }
            _ => "no owner of this entity answered in time; this request was not applied",
        };
        Self::new(code, detail)
    }

    fn of(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Content {
            kind,
            detail: detail.into(),
            reason: None,
            current_version: None,
            errors: Vec::new(),
            replayed: false,
            session: None,
            lag: None,
            idempotency_key: None,
            retry_in: None,
        }))
    }

    /// The caller has made as many requests as it may, for so many seconds.
    pub(crate) fn quota_exceeded(seconds: u64) -> Self {
        let mut problem =
            Self::new(Code::Overloaded, "this caller has made as many requests as it may; this one was not applied");
        problem.0.retry_in = Some(Duration::from_secs(seconds));
        problem
    }

    /// The gateway serves as much as it may.
    pub(crate) fn full(full: Full) -> Self {
        let detail = match full {
            Full::Gateway => "this gateway has too many requests in flight; nothing was applied",
            Full::Entity => "too many requests for this entity are in flight; this one was not applied",
        };
        Self::new(Code::Overloaded, detail)
    }

    /// With the session token that includes what the refusal rests on.
    pub(crate) fn with_session(mut self, session: Option<HeaderValue>) -> Self {
        self.0.session = session;
        self
    }

    /// With how far behind the refusal may be.
    pub(crate) fn with_lag(mut self, lag: Option<Lag>) -> Self {
        self.0.lag = lag;
        self
    }

    /// With the key to try again with.
    pub(crate) fn with_idempotency_key(mut self, key: HeaderValue) -> Self {
        self.0.idempotency_key = Some(key);
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn into_content(self) -> Content {
        *self.0
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    pub(crate) fn is_unknown_outcome(&self) -> bool {
        self.0.kind == Kind::Shared(Code::UnknownOutcome)
    }

    /// The document, for the request to `instance` in the trace `trace_id`.
    pub(crate) fn into_response(self, instance: &str, trace_id: u128) -> Response<Body> {
        let content = *self.0;
        let (status, title) = content.kind.status_and_title();
        let document = Document {
            problem_type: format!("urn:berth:problem:{}", content.kind.code()),
            title,
            status: status.as_u16(),
            detail: &content.detail,
            instance,
            code: content.kind.code(),
            trace_id: format!("{trace_id:032x}"),
            current_version: content.current_version,
            reason: content.reason.as_deref(),
            errors: &content.errors,
        };
        // A document of text and numbers always serializes; an empty body would still carry the right status.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // Some statuses may be kept by caches unless told otherwise (RFC 9110, 15.1), and what is not there now may be soon.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(time) = content.retry_after() {
            headers.insert(header::RETRY_AFTER, time.as_secs().into());
        }
        let lag = content.lag.map(Lag::header_value);
        let optional = [(BERTH_SESSION, content.session), (BERTH_LAG, lag), (IDEMPOTENCY_KEY, content.idempotency_key)];
        for (name, value) in optional {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        if content.replayed {
            headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        match content.kind {
            Kind::Unauthenticated { challenge } | Kind::Forbidden { challenge } => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Kind::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Kind::UnsupportedMediaType => {
                headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            _ => {}
        }
        response
    }
}

impl Kind {
    /// After how long it may be tried again, where that is of use.
    pub(crate) fn retry_after(self) -> Option<Duration> {
        matches!(self, Self::Shared(Code::Overloaded | Code::Unavailable)).then_some(RETRY_AFTER)
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Shared(code) => code.as_str(),
            Self::MethodNotAllowed { .. } => "method-not-allowed",
            Self::NotAcceptable => "not-acceptable",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::HeadersTooLarge => Code::TooLarge.as_str(),
            Self::RequestTimeout => "request-timeout",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Forbidden { .. } | Self::CrossOrigin => "forbidden",
        }
    }

    fn status_and_title(self) -> (StatusCode, &'static str) {
        match self {
            Self::Shared(code) => shared_status_and_title(code),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "Not acceptable"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type"),
            Self::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request headers too large"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "Request timeout"),
            Self::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, "Unauthenticated"),
            Self::Forbidden { .. } | Self::CrossOrigin => (StatusCode::FORBIDDEN, "Forbidden"),
        }
    }
}

/// How a code that nodes know appears in HTTP, for those who describe it.
#[cfg(test)]
pub(crate) fn status_and_code(code: Code) -> (StatusCode, &'static str) {
    (shared_status_and_title(code).0, code.as_str())
}

fn shared_status_and_title(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidRequest | Code::KeyExpired => (StatusCode::BAD_REQUEST, "Invalid request"),
        Code::UnknownKind => (StatusCode::NOT_FOUND, "Unknown kind"),
        Code::UnknownCommand => (StatusCode::NOT_FOUND, "Unknown command"),
        Code::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        Code::Deleted => (StatusCode::GONE, "Deleted"),
        Code::InProgress => (StatusCode::CONFLICT, "In progress"),
        Code::VersionMismatch => (StatusCode::PRECONDITION_FAILED, "Version mismatch"),
        Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
        Code::Rejected => (StatusCode::UNPROCESSABLE_ENTITY, "Rejected"),
        Code::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "Idempotency key reused"),
        Code::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
        Code::UnknownOutcome => (StatusCode::GATEWAY_TIMEOUT, "Unknown outcome"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
    }
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Problem")]
pub(crate) struct Document<'a> {
    /// `urn:berth:problem:` and the code.
    #[serde(rename = "type")]
    problem_type: String,
    /// The same for every problem with this code.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What was wrong with this request, for people.
    detail: &'a str,
    /// The path of the request.
    instance: &'a str,
    /// What programs go by.
    code: &'a str,
    /// Of the trace that the request belongs to (W3C trace context).
    #[schemars(regex(pattern = "^[0-9a-f]{32}$"))]
    trace_id: String,
    /// With `version-mismatch`: the entity's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_version: Option<Version>,
    /// With `rejected`: the kind's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// With `invalid-request`: what in the body breaks the command's schema, at most 16 places.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

/// A place in the body, and what is wrong there.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Violation {
    /// A JSON Pointer (RFC 6901); empty for the body itself.
    pub(crate) pointer: String,
    /// For people.
    pub(crate) detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_contract() {
        let statuses = Code::ALL.map(|code| shared_status_and_title(code).0.as_u16());
        assert_eq!(statuses, [400, 404, 404, 404, 410, 409, 412, 413, 422, 422, 429, 503, 504, 500, 400]);
    }
}
