//! The answers that operations share: every refusal of the contract, with its codes, and the headers of answers. Pure.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Header, Ref, Schema};

use super::parameter::{number, text};

/// One way to be refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    when: &'static str,
}

const fn refusal(status: u16, code: &'static str, when: &'static str) -> Refusal {
    Refusal { status, code, when }
}

/// All of the contract's. One status may have several codes.
pub(super) const REFUSALS: [Refusal; 21] = [
    refusal(400, "invalid-request", "a header, parameter, id or body is malformed; `errors` points into the body"),
    refusal(401, "unauthenticated", "the cluster asks for a credential, and there is none that it knows"),
    refusal(403, "forbidden", "the credential does not allow this"),
    refusal(404, "unknown-kind", "no such kind is served"),
    refusal(404, "unknown-command", "the kind has no such command"),
    refusal(404, "not-found", "the entity has no events, or nothing is served at this path"),
    refusal(405, "method-not-allowed", "`Allow` lists the methods that are"),
    refusal(406, "not-acceptable", "`Accept` takes nothing that is served here"),
    refusal(408, "request-timeout", "the body did not arrive in time"),
    refusal(409, "in-progress", "a request with this idempotency key is still running; this one was not applied"),
    refusal(410, "deleted", "the entity is deleted; its history is kept"),
    refusal(412, "version-mismatch", "the entity is at another version, `currentVersion`; no event was written"),
    refusal(413, "too-large", "the body or the state would be larger than 1 MiB; nothing was written"),
    refusal(415, "unsupported-media-type", "the body is not `application/json`, or compressed"),
    refusal(422, "rejected", "the entity said no, for the kind's own `reason`; no event was written"),
    refusal(422, "key-reused", "the idempotency key was used for another request"),
    refusal(429, "overloaded", "a queue, rate or window is full; not applied, to be sent again after `Retry-After`"),
    refusal(431, "too-large", "the request line and headers are larger than 8 KiB in all"),
    refusal(500, "internal", "the entity's own code failed; nothing was written"),
    refusal(503, "unavailable", "no owner or no quorum; not applied, to be sent again after `Retry-After`"),
    refusal(
        504,
        "unknown-outcome",
        "the deadline has passed, and the command may or may not have been applied: send it \
        again with the `Idempotency-Key` of this answer to learn which",
    ),
];

/// What any request may be refused with.
const ANY: [u16; 8] = [400, 401, 403, 406, 429, 431, 500, 503];
/// A read of an entity.
pub(super) const READ: [u16; 1] = [404];
/// A command, and a deletion, which is one.
pub(super) const WRITE: [u16; 5] = [404, 409, 412, 422, 504];
/// What comes with a body.
pub(super) const BODY: [u16; 3] = [408, 413, 415];

/// Adds what any request may be refused with, and `more`.
pub(super) fn refused(operation: OperationBuilder, more: &[u16]) -> OperationBuilder {
    ANY.iter().chain(more).fold(operation, |operation, status| {
        operation.response(status.to_string(), Ref::from_response_name(name(*status)))
    })
}

/// Every refusal by its name in `components/responses`.
pub(super) fn all() -> Vec<(String, Response)> {
    let mut by_status: BTreeMap<u16, Vec<Refusal>> = BTreeMap::new();
    for refusal in REFUSALS {
        by_status.entry(refusal.status).or_default().push(refusal);
    }
    by_status.into_iter().map(|(status, refusals)| (name(status), response(status, &refusals))).collect()
}

fn name(status: u16) -> String {
    format!("Problem{status}")
}

fn response(status: u16, refusals: &[Refusal]) -> Response {
    let lines: Vec<String> = refusals.iter().map(|refusal| format!("`{}`: {}.", refusal.code, refusal.when)).collect();
    let codes = text().enum_values(Some(refusals.iter().map(|refusal| refusal.code)));
    let exactly = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([json!(status)]));
    let members = ObjectBuilder::new().property("status", exactly).property("code", codes);
    let schema = Schema::AllOf(AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(members).build());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new().description(lines.join(" ")).content("application/problem+json", content);
    headers_of(status).into_iter().fold(response, |response, (name, header)| response.header(name, header)).build()
}

fn headers_of(status: u16) -> Vec<(&'static str, Header)> {
    match status {
        405 => vec![("Allow", header("The methods that are served here."))],
        409 | 412 | 413 | 422 => vec![idempotency_replayed(), idempotency_key(), berth_session()],
        429 => [retry_after()].into_iter().chain(rate_limit()).collect(),
        503 => vec![retry_after()],
        504 => vec![idempotency_key()],
        _ => Vec::new(),
    }
}

fn retry_after() -> (&'static str, Header) {
    ("Retry-After", Header::new(number(0).build()))
}

/// What a caller has left, where that is bounded.
fn rate_limit() -> [(&'static str, Header); 2] {
    let limit = "Where requests are limited by credential: how many may be made at once (`r`), and in how many seconds it \
        will be one more (`t`), as in `\"caller\";r=41;t=1`. Then it is on every answer.";
    let policy =
        "How many requests each credential may make (`q`) in how many seconds (`w`), as in `\"caller\";q=100;w=10`.";
    [("RateLimit", header(limit)), ("RateLimit-Policy", header(policy))]
}

pub(super) fn entity_tag() -> (&'static str, Header) {
    ("ETag", header("The entity's version in quotes."))
}

pub(super) fn berth_session() -> (&'static str, Header) {
    ("Berth-Session", header("What the client has seen by now, to send along with its next request."))
}

/// How far behind the answer to `consistency=stale` may be.
pub(super) fn berth_lag() -> (&'static str, Header) {
    ("Berth-Lag", header("Of a stale read: by how many milliseconds it may lag behind, or `unknown`."))
}

pub(super) fn idempotency_key() -> (&'static str, Header) {
    ("Idempotency-Key", header("The key that the gateway made, where the client gave none."))
}

pub(super) fn idempotency_replayed() -> (&'static str, Header) {
    ("Idempotency-Replayed", Header::new(text().enum_values(Some(["true"])).build()))
}

pub(super) fn header(description: &str) -> Header {
    let mut header = Header::new(text().build());
    header.description = Some(description.to_owned());
    header
}

/// An answer of JSON in a schema of `components/schemas`.
pub(super) fn json(description: &str, schema: &str) -> ResponseBuilder {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
    ResponseBuilder::new().description(description).content("application/json", content)
}
