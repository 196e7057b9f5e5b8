//! From the text of a client to an object, with Kubernetes' words for what is wrong.
//!
//! An object is read as Go reads it into its types and comes out as Go would write it again: unknown fields are gone,
//! empty values are where Go writes them and nowhere else, quantities and times have their one form. What Go
//! says of a value of a wrong type is said here; unknown and duplicate fields are an error, a warning or nothing.

use serde_json::Value;
use serde_json::value::RawValue;

use object::By;

use crate::scan::{self, quoted};
use crate::{Error, Kind, Type};

mod object;
#[cfg(test)]
mod tests;
mod yaml;

/// The longest text that is read: what an API server takes.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// They are an error.
    Strict,
    /// They are warned of; unknown ones are left out, the last of duplicate ones counts.
    Warn,
    /// As `Warn` without a word.
    Ignore,
}

/// An object as it was read.
#[derive(Debug)]
pub struct Decoded {
    /// The object.
    pub value: Value,
    /// Fields of the object itself that are kept byte for byte, by name. They are not in `value`.
    pub raw: Vec<(&'static str, Box<RawValue>)>,
    /// `unknown field "spec.x"`, where that is no error.
    pub warnings: Vec<String>,
}

/// Reads an object of a type from JSON.
///
/// # Errors
/// `Malformed` for what is no JSON, `TooLarge` for more than [`MAX_BYTES`], `Type` for values that a field cannot have, `Strict`
/// for unknown and duplicate fields.
pub fn json(bytes: &[u8], ty: &Type, strictness: Strictness) -> Result<Decoded, Error> {
    sized(bytes)?;
    scan::valid(bytes)?;
    object::decode(bytes, ty, strictness, By::Json, Vec::new())
}

/// Reads an object of a type from the first document of a YAML text.
///
/// # Errors
/// As [`json`].
pub fn yaml(bytes: &[u8], ty: &Type, strictness: Strictness) -> Result<Decoded, Error> {
    sized(bytes)?;
    let (json, duplicates) = yaml::to_json(bytes)?;
    let first = yaml::told(&duplicates);
    object::decode(&json, ty, strictness, By::Json, first.into_iter().collect())
}

/// The first document of a YAML text as JSON. Of duplicate keys the last counts.
///
/// # Errors
/// `Malformed` for what is no YAML or has no form in JSON, `TooLarge` for more than [`MAX_BYTES`].
pub fn yaml_to_json(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    sized(bytes)?;
    yaml::to_json(bytes).map(|(json, _)| json)
}

/// Checks an object that was made otherwise, as by a patch, and gives it the form that [`json`] gives. What is warned of is returned.
///
/// # Errors
/// As [`json`].
pub fn check(value: &mut Value, ty: &Type, strictness: Strictness) -> Result<Vec<String>, Error> {
    check_by(value, ty, strictness, By::Json)
}

/// As [`check`], for what a strategic merge patch made: Kubernetes has other words for wrong types there.
///
/// # Errors
/// As [`json`].
pub fn convert(value: &mut Value, ty: &Type, strictness: Strictness) -> Result<Vec<String>, Error> {
    check_by(value, ty, strictness, By::Conversion)
}

fn check_by(value: &mut Value, ty: &Type, strictness: Strictness, by: By) -> Result<Vec<String>, Error> {
    let text = serde_json::to_vec(value).map_err(|error| Error::new(Kind::Malformed, error))?;
    sized(&text)?;
    scan::valid(&text)?;
    let decoded = object::decode(&text, ty, strictness, by, Vec::new())?;
    *value = decoded.value;
    if let Value::Object(object) = value {
        for (name, raw) in decoded.raw {
            let raw = serde_json::from_str(raw.get()).map_err(|error| Error::new(Kind::Malformed, error))?;
            object.insert(name.to_owned(), raw);
        }
    }
    Ok(decoded.warnings)
}

/// apiVersion and kind of an object in JSON; empty where it has none.
///
/// # Errors
/// `Malformed` for what is no JSON, no object, or has something else than strings there.
pub fn peek(bytes: &[u8]) -> Result<(String, String), Error> {
    sized(bytes)?;
    let wrong = |what: &str| {
        Error::new(Kind::Malformed, format!("couldn't get version/kind; json parse error: {what}"))
    };
    scan::valid(bytes).map_err(|error| wrong(&error.to_string()))?;
    let mut reader = scan::Reader::new(bytes);
    let (mut version, mut kind) = (String::new(), String::new());
    match reader.peek() {
        b'{' => {}
        b'n' => return Ok((version, kind)),
        first => {
            let into = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; \
                        Kind string \"json:\\\"kind,omitempty\\\"\" }";
            let what =
                format!("json: cannot unmarshal {} into Go value of type {into}", object::named(first));
            return Err(wrong(&what));
        }
    }
    reader.enter();
    while reader.more() {
        let key = reader.key();
        let target = match key.as_ref() {
            "apiVersion" => &mut version,
            "kind" => &mut kind,
            _ => {
                reader.skip();
                continue;
            }
        };
        match reader.peek() {
            b'"' => *target = reader.string().into_owned(),
            b'n' => {
                reader.skip();
            }
            first => {
                let what = object::named(first);
                return Err(wrong(&format!(
                    "json: cannot unmarshal {what} into Go struct field .{key} of type string"
                )));
            }
        }
    }
    if version.matches('/').count() > 1 {
        return Err(Error::new(Kind::Malformed, format!("unexpected GroupVersion string: {version}")));
    }
    Ok((version, kind))
}

fn sized(bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::new(Kind::TooLarge, format!("Request entity too large: limit is {MAX_BYTES}")));
    }
    Ok(())
}

/// The error or the warnings that strict errors are.
fn judged(found: Vec<String>, strictness: Strictness) -> Result<Vec<String>, Error> {
    match strictness {
        Strictness::Ignore => Ok(Vec::new()),
        Strictness::Strict if !found.is_empty() => {
            Err(Error::new(Kind::Strict, format!("strict decoding error: {}", found.join(", "))))
        }
        Strictness::Strict | Strictness::Warn => Ok(found),
    }
}

/// `unknown field "a.b"`.
fn field_error(what: &str, path: &str, key: &str) -> String {
    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    format!("{what} field {}", quoted(&path))
}
