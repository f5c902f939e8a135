//! The parameters and request headers of the contract, with their limits. Pure.

use berth_shared::key::ID_BYTES_MAX;
use berth_shared::session;
use serde_json::{Value, json};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{Object, Ref, Required, Schema};

use super::super::header::{DEADLINE_DEFAULT, DEADLINE_SECONDS_MAX, IDEMPOTENCY_KEY_BYTES_MAX};
use super::super::query::{LIMIT_DEFAULT, LIMIT_MAX};

/// Names of kinds and commands.
pub(super) const NAME_PATTERN: &str = "^[a-z][a-z0-9-]{0,63}$";
/// No control characters (Unicode's Cc), and neither `.` nor `..`.
const ID_PATTERN: &str = r"^(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f]+$";
/// What an id may begin with.
pub(super) const PREFIX_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// `*` or a list of entity tags (RFC 9110, 13.1).
const TAGS_PATTERN: &str = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#;

/// One that is described once and referred to: in `components/parameters`, by this name.
macro_rules! shared {
    ($($(#[$doc:meta])* $function:ident => $name:literal, $parameter:expr;)*) => {
        $($(#[$doc])* pub(super) fn $function() -> Ref {
            Ref::new(concat!("#/components/parameters/", $name))
        })*

        /// All that are referred to, by name.
        pub(super) fn all() -> Vec<(&'static str, Parameter)> {
            vec![$(($name, $parameter)),*]
        }
    };
}

shared! {
    kind => "kind", in_path("kind", "The kind of the entity.", name().build(), "cart");
    id => "id", in_path("id", "The id of the entity: 1 to 512 bytes of UTF-8, opaque, never a path; percent-encoded as one segment.",
        text().min_length(Some(1)).max_length(Some(ID_BYTES_MAX)).pattern(Some(ID_PATTERN)).build(), "alice");
    command => "command", in_path("command", "The command.", name().build(), "add-item");
    consistency => "consistency", in_query("consistency", consistency_description(), consistency_levels());
    after => "after", in_query("after", "The version after which the page begins.",
        number(0).maximum(Some(usize::MAX)).default(Some(json!(0))).build());
    limit => "limit", in_query("limit", "Most entries of a page.",
        number(1).maximum(Some(LIMIT_MAX as usize)).default(Some(json!(LIMIT_DEFAULT))).build());
    if_match => "If-Match", in_header("If-Match",
        "Only at this version: its entity tag, a list of them, or `*` for any as long as the entity exists; else 412.",
        entity_tags(), Some(json!("\"3\"")));
    if_none_match => "If-None-Match", in_header("If-None-Match",
        "304 if the version is one of these entity tags, which the client has already.",
        entity_tags(), None);
    if_absent => "If-Absent", in_header("If-None-Match",
        "`*`: only if the entity does not exist or is deleted; else 412.",
        text().enum_values(Some(["*"])).build(), None);
    idempotency_key => "Idempotency-Key", in_header("Idempotency-Key",
        "Runs the command once, however often it is sent with this key: the first outcome is kept for 24 hours. Without it \
         the gateway makes one, and returns it.",
        text().min_length(Some(1)).max_length(Some(IDEMPOTENCY_KEY_BYTES_MAX)).pattern(Some("^[!-~]{1,255}$")).build(),
        None);
    berth_session => "Berth-Session", in_header("Berth-Session",
        "The token of an earlier answer: a read sees at least what that answer did.",
        text().max_length(Some(session::TEXT_BYTES_MAX)).format(Some(SchemaFormat::Custom("berth-session".into()))).build(),
        None);
    prefer => "Prefer", in_header("Prefer", prefer_description(), text().build(), Some(json!("return=minimal, wait=10")));
    prefer_wait => "Prefer-Wait", in_header("Prefer", wait_description(), text().build(), Some(json!("wait=10")));
    traceparent => "traceparent", in_header("traceparent", "The trace to go on with (W3C trace context).",
        text().build(), Some(json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")));
    tracestate => "tracestate", in_header("tracestate", "Passed on with the trace.", text().build(), None);
}

/// What every operation takes.
pub(super) fn common() -> Vec<Ref> {
    vec![traceparent(), tracestate()]
}

pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

pub(super) fn number(minimum: usize) -> ObjectBuilder {
    let format = SchemaFormat::Custom("uint64".into());
    ObjectBuilder::new().schema_type(Type::Integer).format(Some(format)).minimum(Some(minimum))
}

pub(super) fn in_query(name: &str, description: impl Into<String>, schema: impl Into<Schema>) -> Parameter {
    of(ParameterIn::Query, name, description, schema).build()
}

pub(super) fn in_header(
    name: &str,
    description: impl Into<String>,
    schema: impl Into<Schema>,
    example: Option<Value>,
) -> Parameter {
    of(ParameterIn::Header, name, description, schema).example(example).build()
}

fn in_path(name: &str, description: &str, schema: impl Into<Schema>, example: &str) -> Parameter {
    let parameter = of(ParameterIn::Path, name, description, schema);
    parameter.required(Required::True).example(Some(example.into())).build()
}

fn of(place: ParameterIn, name: &str, description: impl Into<String>, schema: impl Into<Schema>) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema.into()))
}

fn name() -> ObjectBuilder {
    text().pattern(Some(NAME_PATTERN))
}

fn entity_tags() -> Object {
    let format = SchemaFormat::Custom("entity-tags".into());
    text().pattern(Some(TAGS_PATTERN)).format(Some(format)).build()
}

fn consistency_levels() -> Schema {
    let levels = ["linearizable", "strict", "session", "stale"];
    text().enum_values(Some(levels)).default(Some(json!("linearizable"))).build().into()
}

fn consistency_description() -> String {
    String::from(
        "`linearizable`: everything that was acknowledged before. `strict`: the same without trust in clocks, confirmed by \
         a quorum. `session`: from any replica that has what `Berth-Session` has seen. `stale`: from any replica; the answer \
         says how far it lags behind.",
    )
}

fn prefer_description() -> String {
    format!("`return=minimal` leaves the state out of the answer. {}", wait_description())
}

fn wait_description() -> String {
    let default = DEADLINE_DEFAULT.as_secs();
    format!(
        "`wait=S`: the deadline of this request in seconds, 1 to {DEADLINE_SECONDS_MAX}; {default} if none is given."
    )
}
