//! The schemas of what is answered, made by schemars from types. Most answers are written byte by byte elsewhere; what is
//! described here is held against them by tests. Pure.
#![expect(dead_code, reason = "these types are never made; they describe what is written elsewhere")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::problem::Document as Problem;

/// The current state of an entity.
#[derive(JsonSchema)]
struct Entity {
    kind: String,
    id: String,
    /// The number of events that the entity has had.
    version: u64,
    /// As the kind defines it.
    state: Value,
}

/// What a command came to.
#[derive(JsonSchema, Serialize)]
struct Outcome {
    kind: String,
    id: String,
    /// The number of events that the entity has had, those of this command included.
    version: u64,
    /// As the kind defines it.
    reply: Value,
    /// The state after the command; left out with `Prefer: return=minimal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
}

/// One page of an entity's history.
#[derive(JsonSchema)]
struct History {
    kind: String,
    id: String,
    events: Vec<Event>,
    /// The `after` of the next page; null on the last one.
    next: Option<u64>,
}

/// Something that has happened to an entity.
#[derive(JsonSchema)]
struct Event {
    /// Of the entity after the event: 1, 2, 3 … without a gap.
    version: u64,
    /// The kind's name of it.
    r#type: String,
    /// RFC 3339 in UTC; strictly increasing.
    #[schemars(extend("format" = "date-time"))]
    time: String,
    /// As the kind defines it.
    data: Value,
}

/// The kinds of this cluster.
#[derive(JsonSchema)]
struct Kinds {
    kinds: Vec<Kind>,
}

/// A kind, with a JSON Schema (2020-12) for everything that it takes and gives.
#[derive(JsonSchema)]
#[expect(clippy::struct_field_names, reason = "the names are those of the answer")]
struct Kind {
    kind: String,
    state: JsonSchemaDocument,
    /// The bodies of its commands, by name.
    commands: BTreeMap<String, JsonSchemaDocument>,
    /// The data of its events, by type.
    events: BTreeMap<String, JsonSchemaDocument>,
    /// What a command's answer has as `reply`.
    reply: JsonSchemaDocument,
}

/// A JSON Schema: an object, or true for anything.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum JsonSchemaDocument {
    Keywords(Map<String, Value>),
    Any(bool),
}

/// Some of the living entities of a kind, in the byte order of their ids.
#[derive(JsonSchema)]
struct Listing {
    kind: String,
    entities: Vec<Listed>,
    /// The `cursor` of the next page; null on the last one.
    next: Option<String>,
}

/// An entity of a listing.
#[derive(JsonSchema)]
struct Listed {
    id: String,
    version: u64,
}

/// The schemas that operations refer to, by name.
pub(super) fn all() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut generator =
        settings.with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator();
    generator.subschema_for::<Problem<'_>>();
    generator.subschema_for::<Entity>();
    generator.subschema_for::<Outcome>();
    generator.subschema_for::<History>();
    generator.subschema_for::<Kinds>();
    generator.subschema_for::<Listing>();
    generator.take_definitions(false)
}
