//! Refusals as gRPC says them: the one place where problems become codes and details (`google.rpc.Status`). What they say, and
//! when, is decided where REST's is.

use std::borrow::Cow;
use std::collections::HashMap;

use berth_shared::problem::Code as Shared;
use berth_shared::telemetry::Traceparent;
use http::{HeaderMap, HeaderValue, Response};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::api::header::{BERTH_LAG, BERTH_SESSION, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED};
use crate::api::problem::{Kind, Problem, Violation};
use crate::api::replica::Lag;
use crate::forward::Action;

/// Whose reasons these are.
const DOMAIN: &str = "berth";
/// Bytes of a text of a refusal. It travels in trailers, of which clients take a few KiB; and it stands there up to three times.
const TEXT_BYTES_MAX: usize = 512;
/// Bytes of what is told of a body that breaks its schema, past the first violation.
const VIOLATIONS_BYTES_MAX: usize = 1024;
/// The field of the message that has a command's body.
const ARGUMENTS: &str = "arguments";

/// A problem, and which field of the message brought it about, where one did.
#[derive(Debug)]
pub(super) struct Refusal {
    problem: Problem,
    field: Option<&'static str>,
}

impl Refusal {
    /// To blame on `field`.
    pub(super) fn at(field: &'static str) -> impl Fn(Problem) -> Self {
        move |problem| Self { problem, field: Some(field) }
    }

    /// What became of a command whose fields are well-formed.
    pub(super) fn of_command(action: Action<'_>) -> impl Fn(Problem) -> Self {
        move |problem| {
            let field = match problem.kind() {
                Kind::Shared(Shared::InvalidRequest) if matches!(action, Action::Run(_)) => Some(ARGUMENTS),
                Kind::Shared(Shared::KeyExpired) => Some("idempotency_key"),
                _ => None,
            };
            Self { problem, field }
        }
    }

    pub(super) fn into_status(self, traceparent: Traceparent) -> Status {
        of(self.problem, self.field, traceparent)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, field: None }
    }
}

/// The status of a call in the trace of `traceparent`.
pub(super) fn of(problem: Problem, field: Option<&'static str>, traceparent: Traceparent) -> Status {
    let content = problem.into_content();
    let code = code_of(content.kind);
    let message = bounded(&content.detail);
    let mut metadata = HashMap::from([("traceId".to_owned(), traceparent.trace_id_text())]);
    if let Some(version) = content.current_version {
        metadata.insert("currentVersion".to_owned(), version.to_string());
    }
    if let Some(reason) = &content.reason {
        metadata.insert("rejection".to_owned(), bounded(reason).into_owned());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(content.kind.code(), DOMAIN, metadata);
    if let Some(time) = content.retry_after() {
        details.set_retry_info(Some(time));
    }
    if let Some(field) = field.filter(|_| code == Code::InvalidArgument && content.errors.is_empty()) {
        details.add_bad_request_violation(field, &*message);
    }
    for (field, description) in violations(&content.errors) {
        details.add_bad_request_violation(field, description);
    }
    let mut trailers = HeaderMap::new();
    let replayed = content.replayed.then(|| HeaderValue::from_static("true"));
    for (name, value) in [
        (BERTH_SESSION, content.session),
        (BERTH_LAG, content.lag.map(Lag::header_value)),
        (IDEMPOTENCY_KEY, content.idempotency_key),
        (IDEMPOTENCY_REPLAYED, replayed),
    ] {
        if let Some(value) = value {
            trailers.insert(name, value);
        }
    }
    Status::with_error_details_and_metadata(code, &*message, details, MetadataMap::from_headers(trailers))
}

/// What the library refuses by itself, before a method of ours has a message, is a message that cannot be read.
pub(super) fn check_read<B>(response: Response<B>) -> Result<Response<B>, Problem> {
    let headers = response.headers();
    let is_refused = headers.get(Status::GRPC_STATUS).is_some_and(|code| code != "0");
    if is_refused && !headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return Err(Problem::invalid("the message is not the one that this method takes"));
    }
    Ok(response)
}

/// The codes, as gRPC means them ("Status codes and their use in gRPC").
fn code_of(kind: Kind) -> Code {
    match kind {
        Kind::Shared(code) => match code {
            Shared::InvalidRequest | Shared::KeyExpired => Code::InvalidArgument,
            Shared::UnknownKind | Shared::UnknownCommand | Shared::NotFound | Shared::Deleted => Code::NotFound,
            // To be tried again after a look at how things are, not as it is.
            Shared::VersionMismatch | Shared::InProgress => Code::Aborted,
            Shared::Rejected | Shared::KeyReused => Code::FailedPrecondition,
            Shared::TooLarge | Shared::Overloaded => Code::ResourceExhausted,
            Shared::Unavailable => Code::Unavailable,
            // Which may be returned even if the operation has completed.
            Shared::UnknownOutcome => Code::DeadlineExceeded,
            Shared::Internal => Code::Internal,
        },
        // Of messages that are compressed, the protocol says so (gRPC's compression.md).
        Kind::MethodNotAllowed { .. } | Kind::UnsupportedMediaType => Code::Unimplemented,
        Kind::NotAcceptable => Code::InvalidArgument,
        Kind::HeadersTooLarge => Code::ResourceExhausted,
        Kind::RequestTimeout => Code::Cancelled,
        Kind::Unauthenticated { .. } => Code::Unauthenticated,
        Kind::Forbidden { .. } | Kind::CrossOrigin => Code::PermissionDenied,
    }
}

/// What in the arguments of a command breaks its schema, as fields of the message and what is wrong there: as many places as there
/// is room for, and the first one always.
fn violations(errors: &[Violation]) -> impl Iterator<Item = (String, String)> {
    let mut bytes = 0;
    let told = errors.iter().map(|violation| {
        let field = bounded(&violation.pointer);
        (format!("{ARGUMENTS}{field}"), bounded(&violation.detail).into_owned())
    });
    told.enumerate()
        .take_while(move |(place, (field, description))| {
            bytes += field.len() + description.len();
            *place == 0 || bytes <= VIOLATIONS_BYTES_MAX
        })
        .map(|(_, violation)| violation)
}

/// As much of a text as there is room for.
fn bounded(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]))
}

#[cfg(test)]
mod tests {
    use berth_shared::message::{Refusal as NodesRefusal, Violation as Place};

    use super::*;

    fn trace() -> Traceparent {
        Traceparent::new(7, 1, false).unwrap()
    }

    /// The name that the protocol gives a code.
    fn name(code: Code) -> String {
        let words = format!("{code:?}");
        let underscored = words.chars().enumerate().map(|(position, letter)| {
            if position > 0 && letter.is_ascii_uppercase() { format!("_{letter}") } else { letter.to_string() }
        });
        underscored.collect::<String>().to_uppercase()
    }

    #[test]
    fn every_code_is_mapped_as_the_protobuf_documents() {
        let proto = include_str!("../../proto/berth/v1/entities.proto");
        let rows: Vec<[&str; 2]> = proto
            .lines()
            .filter_map(|line| {
                line.strip_prefix("// | ")?.split('|').map(str::trim).collect::<Vec<_>>().try_into().ok()
            })
            .map(|[grpc, codes, _]: [&str; 3]| [grpc, codes])
            .collect();
        let shared = Shared::ALL.map(Kind::Shared);
        let http = [
            Kind::MethodNotAllowed { allow: "" },
            Kind::NotAcceptable,
            Kind::UnsupportedMediaType,
            Kind::HeadersTooLarge,
            Kind::RequestTimeout,
            Kind::Unauthenticated { challenge: "" },
            Kind::Forbidden { challenge: "" },
            Kind::CrossOrigin,
        ];
        for kind in shared.into_iter().chain(http) {
            let documented: Vec<&str> = rows
                .iter()
                .filter(|[_, codes]| codes.split([',', ':']).any(|code| code.trim() == kind.code()))
                .map(|[grpc, _]| *grpc)
                .collect();
            assert_eq!(documented, [name(code_of(kind))], "{kind:?}");
        }
    }

    #[test]
    fn a_status_has_what_the_problem_document_has() {
        let refusal = NodesRefusal {
            code: Shared::Rejected,
            detail: "not enough",
            reason: Some("insufficient-funds"),
            current_version: Some(4),
            replayed: true,
            seen: None,
            violations: Vec::new(),
        };
        let problem = Problem::refused(&refusal)
            .with_lag(Some(Lag::Unknown))
            .with_session(Some(HeaderValue::from_static("token")))
            .with_idempotency_key(HeaderValue::from_static("k1"));
        let status = of(problem, Some("arguments"), trace());
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not enough"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("rejected", "berth"));
        let metadata = |name: &str| info.metadata[name].as_str();
        assert_eq!(metadata("traceId"), "00000000000000000000000000000007");
        assert_eq!((metadata("currentVersion"), metadata("rejection")), ("4", "insufficient-funds"));
        assert!(details.bad_request().is_none() && details.retry_info().is_none());
        for (name, value) in [
            ("berth-session", "token"),
            ("berth-lag", "unknown"),
            ("idempotency-key", "k1"),
            ("idempotency-replayed", "true"),
        ] {
            assert_eq!(status.metadata().get(name).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn a_time_to_come_again_is_told_where_rest_tells_one() {
        for code in Shared::ALL {
            let rest = Problem::new(code, "x").into_response("/", 1);
            let grpc = of(Problem::new(code, "x"), None, trace()).get_error_details();
            let seconds = rest.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
            let retry = grpc.retry_info().and_then(|info| info.retry_delay).map(|delay| delay.as_secs());
            assert_eq!(retry, seconds, "{code:?}");
        }
    }

    /// The fields and descriptions of what is told of a body with these places that break its schema.
    fn told(places: &[(&str, &str)]) -> Vec<(String, String)> {
        let violations = places.iter().map(|(pointer, detail)| Place { pointer, detail }).collect();
        let refusal = NodesRefusal {
            code: Shared::InvalidRequest,
            detail: "the body is invalid",
            reason: None,
            current_version: None,
            replayed: false,
            seen: None,
            violations,
        };
        let status = Refusal::of_command(Action::Run("add"))(Problem::refused(&refusal)).into_status(trace());
        assert_eq!(status.message(), "the body is invalid");
        let fields = status.get_error_details().bad_request().unwrap().field_violations.clone();
        fields.into_iter().map(|violation| (violation.field, violation.description)).collect()
    }

    #[test]
    fn what_breaks_a_schema_is_told_by_place_and_within_bounds() {
        let owned = |field: &str, description: &str| (field.to_owned(), description.to_owned());
        assert_eq!(
            told(&[("/quantity", "is too small"), ("/items/0/sku", "is no text"), ("", "lacks a field")]),
            [
                owned("arguments/quantity", "is too small"),
                owned("arguments/items/0/sku", "is no text"),
                owned("arguments", "lacks a field")
            ]
        );
        assert_eq!(told(&[]), [owned("arguments", "the body is invalid")], "nothing is known of places");
        let (pointer, detail) = (format!("/{}", "p".repeat(255)), "d".repeat(256));
        for (count, shown) in [(1, 1), (2, 1), (16, 1)] {
            assert_eq!(told(&vec![(pointer.as_str(), detail.as_str()); count]).len(), shown, "{count}");
        }
        assert_eq!(told(&[("/a", "is wrong"); 16]).len(), 16);
        let long = "ü".repeat(1000);
        assert!(
            told(&[(&long, &long), ("/a", "is wrong")]).iter().all(|(field, text)| field.len() + text.len() < 1050)
        );
    }

    #[test]
    fn a_field_to_blame_is_named_and_texts_are_bounded() {
        let status = Refusal::at("id")(Problem::invalid("ü".repeat(1000))).into_status(trace());
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!((violation.field.as_str(), violation.description.as_str()), ("id", status.message()));
        assert!(status.message().len() < TEXT_BYTES_MAX + 4 && status.message().ends_with("ü…"));
        let not_found = Refusal::at("kind")(Problem::new(Shared::UnknownKind, "no such kind")).into_status(trace());
        assert!(not_found.get_error_details().bad_request().is_none());
    }
}
