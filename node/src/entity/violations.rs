//! Says what in the body of a command breaks its JSON Schema, place by place, in bounds. Types are read first and refuse
//! nearly everything; the schema is asked what is wrong with a body that they refused, and has a say of its own only where
//! it forbids what the types would take. Pure.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Value, json};

use super::json::{push_segment, shorten};

/// Most violations that are told of one body.
pub const VIOLATIONS_MAX: usize = 16;
/// Longest pointer. A place further inside is told as the last enclosing one that fits.
const POINTER_BYTES_MAX: usize = 256;
const DETAIL_BYTES_MAX: usize = 256;
/// Longest body of which all violations are looked for: a violation takes more memory than the few bytes that cause it. Of
/// a longer body only the first one is told.
const LISTED_BODY_BYTES_MAX: usize = 4096;

/// A place in the body of a command, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A JSON Pointer (RFC 6901) into the body; empty for the body itself.
    pub pointer: String,
    /// For people.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(pointer: &str, detail: String) -> Self {
        Self { pointer: enclosing(pointer).to_owned(), detail: shorten(detail, DETAIL_BYTES_MAX) }
    }
}

/// The schema of a command's body, compiled.
pub(super) struct BodySchema {
    validator: Validator,
    /// Whether it forbids what the types would take, so that a body which they have read must be held against it too.
    pub(super) is_stricter_than_types: bool,
}

impl BodySchema {
    /// `stops_at` tells where the types stop when they read a body.
    pub(super) fn new(schema: &Value, stops_at: &dyn Fn(&Value) -> Option<String>) -> Result<Self, String> {
        let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(false);
        // This engine takes linear time, whatever the pattern.
        let built = options.with_pattern_options(PatternOptions::regex()).build(schema);
        let validator = built.map_err(|error| error.to_string())?;
        Ok(Self { validator, is_stricter_than_types: !are_enforced(schema, Some(&mut Vec::new()), stops_at) })
    }

    /// What breaks the schema in a body; nothing if it is not JSON.
    pub(super) fn violations(&self, body: &str) -> Vec<Violation> {
        let Ok(value) = serde_json::from_str::<Value>(body) else { return Vec::new() };
        let mut violations = Vec::new();
        if body.len() > LISTED_BODY_BYTES_MAX {
            if let Err(error) = self.validator.validate(&value) {
                tell(&error, &mut violations);
            }
        } else {
            self.validator.iter_errors(&value).for_each(|error| tell(&error, &mut violations));
        }
        violations.truncate(VIOLATIONS_MAX);
        violations
    }
}

fn tell(error: &ValidationError<'_>, violations: &mut Vec<Violation>) {
    let place = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            violations.extend(unexpected.iter().take(VIOLATIONS_MAX).map(|name| {
                let mut pointer = place.to_owned();
                push_segment(&mut pointer, name);
                Violation::new(&pointer, "there is no such property here".to_owned())
            }));
        }
        // The value itself is the client's, and may be long.
        _ => violations.push(Violation::new(place, error.masked_with("the value").to_string())),
    }
}

/// The longest part of `pointer` that is within bounds and points to something.
fn enclosing(pointer: &str) -> &str {
    if pointer.len() <= POINTER_BYTES_MAX {
        return pointer;
    }
    let start = &pointer[..pointer.floor_char_boundary(POINTER_BYTES_MAX + 1)];
    &pointer[..start.rfind('/').unwrap_or(0)]
}

/// Whether types refuse all that `schema`, made from them, forbids. Most of its keywords say what serde does by itself.
/// Limits may stem from the type or from an attribute that serde does not know, so the types are tried with a value just
/// outside. `place` is where the schema holds, if one value can be put there; an array's items stand at 0.
fn are_enforced(schema: &Value, place: Option<&mut Vec<Step>>, stops_at: &dyn Fn(&Value) -> Option<String>) -> bool {
    let Value::Object(keywords) = schema else { return true };
    let mut place = place;
    keywords.iter().all(|(keyword, says)| {
        let refuses = |value: Option<Value>| match (&place, value) {
            (Some(place), Some(value)) => {
                let (pointer, body) = body_with(place, value);
                stops_at(&body) == Some(pointer)
            }
            _ => false,
        };
        match keyword.as_str() {
            "type" | "required" | "enum" | "const" | "title" | "description" | "default" | "examples" | "format"
            | "deprecated" | "readOnly" | "writeOnly" | "$ref" => true,
            "minimum" => is_natural(schema, says, 0) || refuses(below(says)),
            "maximum" => is_natural(schema, says, 1) || refuses(above(says)),
            "minLength" => refuses(says.as_u64().and_then(|length| length.checked_sub(1)).and_then(text)),
            "maxLength" => refuses(says.as_u64().and_then(|length| length.checked_add(1)).and_then(text)),
            "properties" => says.as_object().is_some_and(|properties| {
                properties.iter().all(|(name, schema)| {
                    are_enforced_at(Step::Property(name.clone()), schema, place.as_deref_mut(), stops_at)
                })
            }),
            "items" => are_enforced_at(Step::FirstItem, says, place.as_deref_mut(), stops_at),
            "additionalProperties" => {
                are_enforced_at(Step::Property("any".into()), says, place.as_deref_mut(), stops_at)
            }
            "oneOf" | "anyOf" | "allOf" | "prefixItems" => {
                says.as_array().is_some_and(|all| all.iter().all(|schema| are_enforced(schema, None, stops_at)))
            }
            "$defs" => says.as_object().is_some_and(|all| all.values().all(|one| are_enforced(one, None, stops_at))),
            _ => false,
        }
    })
}

fn are_enforced_at(
    step: Step,
    schema: &Value,
    place: Option<&mut Vec<Step>>,
    stops_at: &dyn Fn(&Value) -> Option<String>,
) -> bool {
    let Some(place) = place else { return are_enforced(schema, None, stops_at) };
    place.push(step);
    let are_enforced = are_enforced(schema, Some(place), stops_at);
    place.pop();
    are_enforced
}

enum Step {
    Property(String),
    FirstItem,
}

/// A body that has nothing but `value` at `place`, and the pointer to it.
fn body_with(place: &[Step], value: Value) -> (String, Value) {
    let mut pointer = String::new();
    for step in place {
        push_segment(&mut pointer, if let Step::Property(name) = step { name } else { "0" });
    }
    let wrap = |inner, step: &Step| match step {
        Step::Property(name) => Value::Object([(name.clone(), inner)].into_iter().collect()),
        Step::FirstItem => Value::Array(vec![inner]),
    };
    (pointer, place.iter().rev().fold(value, wrap))
}

/// Lowest and highest value of integers in the formats of JSON Schemas.
pub(super) fn integer_limits(format: &str) -> Option<[Value; 2]> {
    Some(match format {
        "int8" => [json!(i8::MIN), json!(i8::MAX)],
        "int16" => [json!(i16::MIN), json!(i16::MAX)],
        "int32" => [json!(i32::MIN), json!(i32::MAX)],
        "int64" | "int" => [json!(i64::MIN), json!(i64::MAX)],
        "uint8" => [json!(0), json!(u8::MAX)],
        "uint16" => [json!(0), json!(u16::MAX)],
        "uint32" => [json!(0), json!(u32::MAX)],
        "uint64" | "uint" => [json!(0), json!(u64::MAX)],
        _ => return None,
    })
}

/// Whether a limit is the one of the integer's format.
fn is_natural(schema: &Value, limit: &Value, side: usize) -> bool {
    let limits = schema.get("format").and_then(Value::as_str).and_then(integer_limits);
    limits.is_some_and(|limits| limits[side] == *limit)
}

fn below(limit: &Value) -> Option<Value> {
    limit.as_i64().and_then(|limit| limit.checked_sub(1)).map(Value::from)
}

fn above(limit: &Value) -> Option<Value> {
    limit.as_u64().and_then(|limit| limit.checked_add(1)).map(Value::from)
}

/// Some text of that many characters.
fn text(length: u64) -> Option<Value> {
    (length <= LISTED_BODY_BYTES_MAX as u64).then(|| "a".repeat(length as usize).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_pointer_ends_at_an_enclosing_place() {
        let short = format!("/a/{}", "b".repeat(200));
        assert_eq!(enclosing(&short), short);
        assert_eq!(enclosing(&format!("{short}/{}", "c".repeat(200))), short);
        assert_eq!(enclosing(&format!("/{}", "ä".repeat(400))), "");
        let just = format!("/{}", "b".repeat(POINTER_BYTES_MAX - 1));
        assert_eq!(enclosing(&just), just);
        assert_eq!(enclosing(&format!("{just}/c")), just);
    }
}
