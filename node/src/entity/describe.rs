//! Describes a kind to its callers, as JSON Schema 2020-12 made from its types, and checks that those types follow the rules
//! of the programming model.

use bytes::Bytes;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, ReplaceBoolSchemas, Transform};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use berth_shared::key;

use super::variant::{self, UnitContent};
use super::violations::{self, BodySchema};
use super::{Entity, event};

/// A kind as its callers see it.
pub(super) struct Description {
    /// `{"kind","state":schema,"commands":{name:schema},"events":{type:schema},"reply":schema}`; each schema stands alone.
    pub(super) json: Bytes,
    /// By name, in order.
    pub(super) commands: Vec<(String, BodySchema)>,
}

/// Why types are not those of a kind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("its {0} are not an enum in serde's external form with at least one variant")]
    NotAnEnum(&'static str),
    #[error(
        "its command '{0}' is not named by a lower-case letter followed by up to 63 lower-case letters, digits or hyphens"
    )]
    CommandName(String),
    #[error("its command '{0}' has the name under which an entity's history is read")]
    ReservedCommand(String),
    #[error("its command '{0}' takes something else than an object")]
    CommandBody(String),
    #[error("the schema of its command '{name}' cannot be used: {message}")]
    CommandSchema { name: String, message: String },
    #[error("its event '{name}' is not allowed: {source}")]
    Event { name: String, source: event::Error },
    #[error("its description is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// `/v1/entities/{kind}/{id}/events` is no command.
const HISTORY: &str = "events";

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Written,
}

pub(super) fn describe<E: Entity>() -> Result<Description, Error> {
    let commands = variants::<E::Command>("commands", Direction::Read)?;
    for (name, schema) in &commands {
        key::check_kind(name).map_err(|_| Error::CommandName(name.clone()))?;
        if name == HISTORY {
            return Err(Error::ReservedCommand(name.clone()));
        }
        if !accepts_object(schema) {
            return Err(Error::CommandBody(name.clone()));
        }
    }
    let events = variants::<E::Event>("events", Direction::Written)?;
    for name in events.keys() {
        event::check_type(name.as_bytes()).map_err(|source| Error::Event { name: name.clone(), source })?;
    }
    let mut bodies = Vec::with_capacity(commands.len());
    for (name, schema) in &commands {
        let stops_at = |body: &Value| {
            let stop = variant::stop::<E::Command>(name, &body.to_string(), UnitContent::Empty);
            stop.map(|(pointer, _)| pointer)
        };
        let body = BodySchema::new(schema, &stops_at);
        let body = body.map_err(|message| Error::CommandSchema { name: name.clone(), message })?;
        bodies.push((name.clone(), body));
    }
    let json = serde_json::to_vec(&json!({
        "kind": E::KIND,
        "state": schema_of::<E::State>(Direction::Written).standing_alone(),
        "commands": commands,
        "events": events,
        "reply": schema_of::<E::Reply>(Direction::Written).standing_alone(),
    }))?;
    Ok(Description { json: json.into(), commands: bodies })
}

/// A schema and the definitions that it may refer to.
struct Schema {
    schema: Value,
    definitions: Map<String, Value>,
}

impl Schema {
    /// One document: a schema that refers to definitions brings them along.
    fn standing_alone(self) -> Value {
        with_definitions(self.schema, &self.definitions)
    }
}

/// Subschemas are written in place, so that definitions are left only where a type contains itself.
fn schema_of<T: JsonSchema>(direction: Direction) -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let settings = match direction {
        Direction::Read => settings.for_deserialize(),
        Direction::Written => settings.for_serialize(),
    };
    let mut generator = settings.into_generator();
    let mut schema = generator.subschema_for::<T>();
    let mut definitions = generator.definitions().clone();
    let mut limit = RecursiveTransform(limit_integers);
    // `{}` means the same as `true`, and more generators of clients know it.
    let mut objects = ReplaceBoolSchemas::default();
    objects.skip_additional_properties = true;
    let mut transform = |schema: &mut schemars::Schema| {
        limit.transform(schema);
        objects.transform(schema);
    };
    transform(&mut schema);
    for definition in definitions.values_mut() {
        if let Ok(definition) = <&mut schemars::Schema>::try_from(definition) {
            transform(definition);
        }
    }
    Schema { schema: schema.to_value(), definitions }
}

/// Says the limits that integers have by their type, which a format alone does not: it is only a remark.
fn limit_integers(schema: &mut schemars::Schema) {
    let Some(limits) = schema.get("format").and_then(Value::as_str).and_then(violations::integer_limits) else {
        return;
    };
    if let Some(keywords) = schema.as_object_mut() {
        for (keyword, limit) in ["minimum", "maximum"].into_iter().zip(limits) {
            keywords.entry(keyword).or_insert(limit);
        }
    }
}

fn with_definitions(mut schema: Value, definitions: &Map<String, Value>) -> Value {
    if refers(&schema)
        && let Value::Object(object) = &mut schema
    {
        object.insert("$defs".into(), Value::Object(definitions.clone()));
    }
    schema
}

fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => object.iter().any(|(key, value)| key == "$ref" || refers(value)),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

/// The schema of each variant's content, by name.
fn variants<T: JsonSchema + DeserializeOwned>(
    what: &'static str,
    direction: Direction,
) -> Result<Map<String, Value>, Error> {
    let Schema { schema, definitions } = schema_of::<T>(direction);
    let forms = match schema.get("oneOf") {
        Some(Value::Array(forms)) => forms.as_slice(),
        Some(_) => &[],
        None => std::slice::from_ref(&schema),
    };
    let mut variants = Map::new();
    for form in forms {
        let found = variants_of_form(form).ok_or(Error::NotAnEnum(what))?;
        variants.extend(found.into_iter().map(|(name, schema)| (name, with_definitions(schema, &definitions))));
    }
    // The schema of a struct with one field looks like an enum with one variant, so the type itself is asked too.
    let is_variant = |name: &str| {
        let read = variant::read::<T>(name, "{}", UnitContent::Empty);
        !matches!(read, Err(variant::Error::UnknownVariant | variant::Error::NotAnEnum))
    };
    if variants.is_empty() || !variants.keys().all(|name| is_variant(name)) {
        return Err(Error::NotAnEnum(what));
    }
    Ok(variants)
}

/// One form of an externally tagged enum: a string for variants without fields, otherwise an object with one property.
fn variants_of_form(form: &Value) -> Option<Vec<(String, Value)>> {
    let description = form.get("description");
    if let Some(names) = form.get("enum") {
        return names.as_array()?.iter().map(|name| Some((name.as_str()?.to_owned(), nothing(description)))).collect();
    }
    if let Some(name) = form.get("const") {
        return Some(vec![(name.as_str()?.to_owned(), nothing(description))]);
    }
    let properties = form.get("properties")?.as_object()?;
    let (name, content) = properties.iter().next()?;
    let is_tagged = properties.len() == 1 && form.get("required")? == &json!([name]);
    let mut content = content.clone();
    if let (Value::Object(content), Some(description)) = (&mut content, description) {
        content.entry("description").or_insert_with(|| description.clone());
    }
    is_tagged.then(|| vec![(name.clone(), content)])
}

/// The content of a variant without fields.
fn nothing(description: Option<&Value>) -> Value {
    let mut schema = json!({ "type": "object", "additionalProperties": false });
    if let (Value::Object(schema), Some(description)) = (&mut schema, description) {
        schema.insert("description".into(), description.clone());
    }
    schema
}

fn accepts_object(schema: &Value) -> bool {
    match schema.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|name| name == "object"),
        Some(name) => name == "object",
    }
}
