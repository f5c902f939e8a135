//! What a kind adds to the document: a schema for each thing that it takes and gives, and an operation for each command.
//! Names of a kind have a dot, which no other name has: `cart.State`, `cart.add-item`. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::{HttpMethod, PathItem};

use super::document::Paths;
use super::operation::{command, delete, state};

/// A kind as nodes describe it.
#[derive(Deserialize)]
pub(super) struct Description {
    pub(super) kind: String,
    state: Value,
    commands: BTreeMap<String, Value>,
    reply: Value,
}

impl Description {
    pub(super) fn add_paths(&self, paths: Paths) -> Paths {
        let kind = &self.kind;
        let entity = format!("/v1/entities/{kind}/{{id}}");
        let mut item = PathItem::new(HttpMethod::Get, state::of_kind(kind, &self.named("Entity")));
        item.delete = Some(delete::of_kind(kind));
        self.commands.iter().fold(paths.path(&entity, item), |paths, (name, schema)| {
            let description = schema.get("description").and_then(Value::as_str);
            let needs_body = schema.get("required").and_then(Value::as_array).is_some_and(|names| !names.is_empty());
            let arguments = self.named(name);
            let outcome = self.named("Outcome");
            let operation = command::of_kind(kind, name, description, &arguments, needs_body, &outcome);
            paths.path(format!("{entity}/{name}"), PathItem::new(HttpMethod::Post, operation))
        })
    }

    pub(super) fn add_schemas(&self, schemas: &mut Map<String, Value>) {
        for (name, schema) in [("State", &self.state), ("Reply", &self.reply)] {
            schemas.insert(self.named(name), self.component(name, schema));
        }
        for (name, schema) in &self.commands {
            schemas.insert(self.named(name), self.component(name, schema));
        }
        // The general schema of an answer, with what is known of this kind's.
        for name in ["Entity", "Outcome"] {
            let mut schema = schemas.get(name).cloned().unwrap_or_else(|| json!({}));
            for (member, known) in [("kind", None), ("state", Some("State")), ("reply", Some("Reply"))] {
                if let Some(described) = schema.pointer_mut(&format!("/properties/{member}")) {
                    *described = match known {
                        None => json!({ "type": "string", "const": self.kind }),
                        Some(known) => json!({ "$ref": format!("#/components/schemas/{}", self.named(known)) }),
                    };
                }
            }
            schemas.insert(self.named(name), schema);
        }
    }

    fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.kind)
    }

    /// A schema that refers to parts of itself refers from the document's root from now on.
    fn component(&self, name: &str, schema: &Value) -> Value {
        let mut schema = schema.clone();
        move_references(&mut schema, &format!("#/components/schemas/{}", self.named(name)));
        schema
    }
}

fn move_references(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(reference) if name == "$ref" => {
                        if let Some(inside) = reference.strip_prefix('#') {
                            *reference = format!("{root}{inside}");
                        }
                    }
                    member => move_references(member, root),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, root)),
        _ => {}
    }
}
