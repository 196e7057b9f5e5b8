//! The three kinds of patch that `kubectl patch --type` knows, applied to an object.
//!
//! A patch never changes the object that it is given: it answers a new one. What comes out is not checked against the
//! object's type; that is the caller's next step.

mod strategic;

use json_patch::{Patch, PatchOperation, PatchOperation as Op};
use serde_json::Value;

pub use strategic::strategic;

use crate::{Error, Kind};

/// The most operations in one JSON patch (`maxJSONPatchOperations` of kube-apiserver).
const MAX_OPERATIONS: usize = 10_000;
/// What the `copy` operations of one JSON patch may add together, in bytes of JSON: as much as a request may carry.
const MAX_COPIED: usize = 3 << 20;
/// How deep an object may become. Objects are read and dropped by recursion, so depth is stack.
const MAX_DEPTH: usize = 128;

/// Applies a JSON patch (RFC 6902), a list of operations.
///
/// # Errors
///
/// [`Kind::Malformed`] for what is no JSON patch, [`Kind::TooLarge`] for more than 10,000 operations,
/// [`Kind::Unprocessable`] for one that does not apply to this object (among them a `test` that fails), without a word on
/// which, as kube-apiserver.
pub fn json(object: &Value, patch: &Value) -> Result<Value, Error> {
    let operations = operations(patch)?;
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in operations {
        let incoming = match &operation {
            Op::Add(add) => Some(&add.value),
            Op::Replace(replace) => Some(&replace.value),
            Op::Copy(copy) => patched.pointer(copy.from.as_str()),
            Op::Move(moved) => patched.pointer(moved.from.as_str()),
            Op::Remove(_) | Op::Test(_) => None,
        };
        if let Some(value) = incoming {
            if operation.path().count() + depth(value) > MAX_DEPTH {
                return Err(does_not_apply());
            }
            if matches!(operation, Op::Copy(_)) {
                copied += size(value);
            }
        }
        if copied > MAX_COPIED {
            return Err(does_not_apply());
        }
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(&operation))
            .map_err(|_| does_not_apply())?;
    }
    Ok(patched)
}

/// Applies a JSON merge patch (RFC 7396): members replace members, `null` removes one, lists are replaced whole.
///
/// # Errors
///
/// [`Kind::Malformed`] if the patch is not an object.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, Error> {
    if !patch.is_object() {
        let message = format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_kind(patch)
        );
        return Err(Error::new(Kind::Malformed, message));
    }
    let mut patched = object.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}

fn operations(patch: &Value) -> Result<Vec<PatchOperation>, Error> {
    let Value::Array(items) = patch else {
        let message = format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            go_kind(patch)
        );
        return Err(Error::new(Kind::Malformed, message));
    };
    if items.len() > MAX_OPERATIONS {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            items.len()
        );
        return Err(Error::new(Kind::TooLarge, message));
    }
    for item in items {
        if !item.is_object() {
            let message = format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                go_kind(item)
            );
            return Err(Error::new(Kind::Malformed, message));
        }
    }
    // kube-apiserver finds an operation without a path, or of an unknown name, only when it applies it.
    let operations: Patch = serde::Deserialize::deserialize(patch).map_err(|_| does_not_apply())?;
    Ok(operations.0)
}

fn does_not_apply() -> Error {
    Error::new(Kind::Unprocessable, "the server rejected our request due to an error in our request")
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// About the bytes of a value's JSON text.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(members) => {
            2 + members.iter().map(|(key, member)| key.len() + 4 + size(member)).sum::<usize>()
        }
        _ => 5,
    }
}

/// The word of Go's JSON decoder for a kind of value.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests;
