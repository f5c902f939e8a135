//! What a fuzzer tries on the calls of gRPC; see `loadtests/fuzz`. It takes any bytes, and panics where something that must hold does
//! not.

use std::fmt::Debug;
use std::time::Duration;

use berth_shared::auth::Principal;
use berth_shared::message::{Moment, Precondition as Wanted};
use berth_shared::seam::BootInstant;
use berth_shared::telemetry::{TraceContext, Traceparent};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header as names};
use prost::Message;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_types::StatusExt;

use super::call::Call;
use super::method::Method;
use super::protobuf::precondition::Condition;
use super::protobuf::{DeleteRequest, ExecuteRequest, GetRequest, Precondition, WatchRequest};
use super::service;
use super::status::Refusal;
use crate::api::header;
use crate::forward::Action;

/// 2026-01-01.
const NOW_MICROS: u64 = 1_767_225_600_000_000;
const BEGAN: BootInstant = BootInstant(1_000_000_000_000);

/// A call, after a byte that says what of it: one of the messages, or its metadata.
pub fn message(data: &[u8]) {
    let Some((part, rest)) = data.split_first() else { return };
    match part % 6 {
        0 => execute(rest),
        1 => delete(rest),
        2 => get(rest),
        3 => watch(rest),
        4 => metadata(rest),
        _ => beside(rest),
    }
}

fn execute(data: &[u8]) {
    let Some(asked) = read::<ExecuteRequest>(data) else { return };
    check_entity(&asked.kind, &asked.id);
    if let Some(body) = accepted(service::arguments(Action::Run(&asked.command), asked.arguments.clone())) {
        assert_eq!(body, if asked.arguments.is_empty() { "{}" } else { &*asked.arguments });
    }
    check_precondition(asked.precondition);
    check_key(&asked.idempotency_key);
    accepted(service::session(&asked.session));
}

fn delete(data: &[u8]) {
    let Some(asked) = read::<DeleteRequest>(data) else { return };
    check_entity(&asked.kind, &asked.id);
    check_precondition(asked.precondition);
    check_key(&asked.idempotency_key);
    accepted(service::session(&asked.session));
}

fn get(data: &[u8]) {
    let Some(asked) = read::<GetRequest>(data) else { return };
    check_entity(&asked.kind, &asked.id);
    accepted(service::check_length("known_versions", &asked.known_versions));
    if let Some(Some(Moment::Time(micros))) = accepted(service::moment(asked.moment, NOW_MICROS)) {
        assert!(micros < NOW_MICROS, "what is to come is not final");
    }
    accepted(service::consistency(asked.consistency));
    accepted(service::session(&asked.session));
}

fn watch(data: &[u8]) {
    let Some(asked) = read::<WatchRequest>(data) else { return };
    check_entity(&asked.kind, &asked.id);
    accepted(service::consistency(asked.consistency));
    accepted(service::session(&asked.session));
}

/// Metadata: lines that begin with a byte for the name.
fn metadata(data: &[u8]) {
    let known = [
        HeaderName::from_static("grpc-timeout"),
        super::ENCODING,
        names::CONTENT_TYPE,
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
    ];
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(16) {
        let Some((name, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(known[usize::from(*name) % known.len()].clone(), value);
    }
    let has_timeout = headers.contains_key("grpc-timeout");
    let state = header::tracestate(&headers);
    let received = header::trace_context(&headers, &state);
    let traceparent = trace().text();
    let passed_on = TraceContext::text_with(&traceparent, received.map_or("", |received| received.state));
    let call = Call::parse(&headers, trace(), &passed_on, Principal::nobody(), BEGAN);
    if let Some(call) = accepted(call.map_err(Refusal::from)) {
        let later = BEGAN + Duration::from_secs(7);
        assert!(call.time_left(BEGAN) <= Duration::from_secs(30) && call.time_left(later) <= call.time_left(BEGAN));
        assert_eq!(call.lifetime_left(BEGAN).is_some(), has_timeout);
        assert!(call.lifetime_left(later) <= call.lifetime_left(BEGAN));
        assert!(TraceContext::parse(&call.passed_on).is_some(), "{passed_on:?}");
    }
    let _ = super::check_encoding(&headers);
    let mut request = Request::new(());
    *request.headers_mut() = headers;
    assert!(!super::is_asked(&request), "there are no trailers in HTTP/1.1");
    *request.version_mut() = Version::HTTP_2;
    let _ = super::is_asked(&request);
}

/// What the services beside ours read, and the names of methods.
fn beside(data: &[u8]) {
    let _ = (read::<HealthCheckRequest>(data), read::<ServerReflectionRequest>(data));
    if let Ok(path) = std::str::from_utf8(data) {
        let method = Method::of(path);
        assert!(!method.is_ours() || path == format!("/{}", method.span()), "{path:?}");
    }
}

/// A message. What was read is written so that it reads the same.
fn read<T: Message + Default + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let message = T::decode(data).ok()?;
    assert_eq!(T::decode(&*message.encode_to_vec()).as_ref(), Ok(&message));
    Some(message)
}

/// What is refused is so with a status that fits into trailers, and that is for the caller to change.
fn accepted<T>(result: Result<T, Refusal>) -> Option<T> {
    let refusal = match result {
        Ok(accepted) => return Some(accepted),
        Err(refusal) => refusal,
    };
    let status = refusal.into_status(trace());
    let codes = [Code::InvalidArgument, Code::NotFound, Code::ResourceExhausted];
    assert!(codes.contains(&status.code()), "{status:?}");
    assert!(!status.message().is_empty() && status.details().len() < 4096, "{status:?}");
    assert!(status.get_error_details().error_info().is_some(), "{status:?}");
    None
}

fn check_entity(kind: &str, id: &str) {
    if let Some(key) = accepted(service::entity_key(kind, id)) {
        assert_eq!((key.kind(), key.id()), (kind, id));
        assert!((1..=64).contains(&kind.len()) && (1..=512).contains(&id.len()));
    }
}

fn check_key(text: &str) {
    if let Some(Some(key)) = accepted(service::idempotency_key(text)) {
        assert_eq!(key.as_bytes(), text.as_bytes());
        assert!((1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

fn check_precondition(asked: Option<Precondition>) {
    let Some(wanted) = accepted(service::precondition(asked.clone())) else { return };
    match asked.and_then(|asked| asked.condition) {
        None => assert_eq!(wanted, Wanted::None),
        Some(Condition::Exists(_)) => assert_eq!(wanted, Wanted::Exists),
        Some(Condition::Absent(_)) => assert_eq!(wanted, Wanted::Absent),
        Some(Condition::Versions(versions)) => {
            assert!(versions.versions.len() <= 1024);
            assert_eq!(wanted, Wanted::Versions(versions.versions));
        }
    }
}

/// Any.
fn trace() -> Traceparent {
    Traceparent::new(7, 1, false).unwrap_or_else(|| unreachable!("neither is zero"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        crate::replay::replay("grpc_message", super::message);
    }
}
