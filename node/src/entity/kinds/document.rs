//! `document`: any JSON value, replaced as a whole, merged (RFC 7396) or patched (RFC 6902).

use json_patch::{Patch, PatchErrorKind, PatchOperation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::entity::{Context, DEPTH_MAX, Decision, Entity, Rejection};

/// The state is the value itself, `null` at first. Objects are kept sorted by name; of equal names the last one counts.
/// Whole numbers beyond 64 bits become doubles.
#[derive(Clone, Copy, Debug)]
pub struct Document;

/// A command that leaves the value as it is writes no event; but putting `null` always does, so that the document exists.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Replaces the value.
    Put { value: Value },
    /// Merges by RFC 7396: `null` removes a member, arrays are replaced.
    Merge { patch: Value },
    /// Applies the operations of RFC 6902 in order, all or none; at most 256 of them.
    Patch {
        #[schemars(transform = say_pointers)]
        ops: Patch,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Put { value: Value },
    Merged { patch: Value },
    Patched { ops: Patch },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reply {
    /// Whether the command wrote an event.
    pub changed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("operation {0}, a test, found another value")]
    TestFailed(usize),
    #[error("operation {0} names a place that does not exist or cannot hold the value")]
    InvalidPath(usize),
    #[error("the patch has more than {OPERATIONS_MAX} operations")]
    TooManyOperations,
    #[error("operation {0} would nest the document deeper than {DEPTH_MAX} levels")]
    TooDeep(usize),
    #[error("operation {0} would bring what the patch copies to more than {COPIED_BYTES_MAX} bytes")]
    TooMuchCopied(usize),
}

/// The paths of a patch are JSON Pointers, which its library does not say in its schema.
fn say_pointers(patch: &mut schemars::Schema) {
    let operations = patch.pointer_mut("/items/oneOf").and_then(Value::as_array_mut);
    for operation in operations.into_iter().flatten() {
        for name in ["path", "from"] {
            if let Some(Value::Object(path)) = operation.pointer_mut(&format!("/properties/{name}")) {
                path.insert("format".into(), "json-pointer".into());
            }
        }
    }
}

/// Most operations of one patch.
pub const OPERATIONS_MAX: usize = 256;
/// Most bytes that the `copy` operations of one patch may add. Without it a short patch could double the document again
/// and again.
pub const COPIED_BYTES_MAX: usize = 1024 * 1024;

impl Entity for Document {
    const KIND: &'static str = "document";
    type State = Value;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Rejection = Refusal;

    fn decide(
        &self,
        state: &Value,
        command: &Command,
        _context: &Context<'_>,
    ) -> Result<Decision<Event, Reply>, Refusal> {
        let mut next = state.clone();
        let event = match command {
            Command::Put { value: Value::Null } => {
                return Ok(Decision::event(Event::Put { value: Value::Null }).reply(Reply { changed: true }));
            }
            Command::Put { value } => {
                next.clone_from(value);
                Event::Put { value: value.clone() }
            }
            Command::Merge { patch } => {
                json_patch::merge(&mut next, patch);
                Event::Merged { patch: patch.clone() }
            }
            Command::Patch { ops } => {
                apply(&mut next, ops)?;
                Event::Patched { ops: ops.clone() }
            }
        };
        let changed = next != *state;
        let decision = if changed { Decision::event(event) } else { Decision::no_change() };
        Ok(decision.reply(Reply { changed }))
    }

    fn evolve(state: &mut Value, event: &Event) {
        match event {
            Event::Put { value } => state.clone_from(value),
            Event::Merged { patch } => json_patch::merge(state, patch),
            Event::Patched { ops } => {
                json_patch::patch_unsafe(state, ops).expect("the owner applied the same operations to the same value");
            }
        }
    }
}

/// Applies one operation after the other, each only after a look at how deep and large it would make the document.
fn apply(document: &mut Value, ops: &Patch) -> Result<(), Refusal> {
    if ops.len() > OPERATIONS_MAX {
        return Err(Refusal::TooManyOperations);
    }
    let mut copied_bytes = 0;
    for (place, operation) in ops.iter().enumerate() {
        let inserted = match operation {
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Move(moved) => document.pointer(moved.from.as_str()),
            PatchOperation::Copy(copy) => document.pointer(copy.from.as_str()),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if inserted.is_some_and(|value| operation.path().count() + depth(value) > DEPTH_MAX) {
            return Err(Refusal::TooDeep(place));
        }
        if let (PatchOperation::Copy(_), Some(value)) = (operation, inserted) {
            copied_bytes += size(value);
            if copied_bytes > COPIED_BYTES_MAX {
                return Err(Refusal::TooMuchCopied(place));
            }
        }
        json_patch::patch_unsafe(document, std::slice::from_ref(operation)).map_err(|error| match error.kind {
            PatchErrorKind::TestFailed => Refusal::TestFailed(place),
            _ => Refusal::InvalidPath(place),
        })?;
    }
    Ok(())
}

/// Levels of arrays and objects.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// About the bytes of its JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(members) => 2 + members.iter().map(|(name, member)| 4 + name.len() + size(member)).sum::<usize>(),
        Value::String(text) => 2 + text.len(),
        _ => 4,
    }
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::TestFailed(_) => "test-failed",
            Self::InvalidPath(_) => "invalid-path",
            Self::TooManyOperations => "too-many-operations",
            Self::TooDeep(_) => "too-deep",
            Self::TooMuchCopied(_) => "too-much-copied",
        }
    }
}
