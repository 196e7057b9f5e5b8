//! Objects in Kubernetes' protobuf encoding, which typed clients (`kubectl create configmap`, `create token`, `auth can-i` …)
//! send without asking first.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` (apimachinery/pkg/runtime/generated.proto): the object's apiVersion
//! and kind, and the message of that type. Field numbers come from the type table. The encoder of Go writes every field that
//! is not behind a pointer, also when it is empty; such a zero means "not set" and is left out here, as it would be in JSON.
//!
//! Unlike protobuf at large, a field that the table does not know is an error, unless it holds nothing: a client of
//! another version shall not believe that its wish was heard.

mod time;
mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use crate::{Error, Field, Kind, Shape, Type, type_named, type_of};
use wire::{Reader, Value as Wire, malformed};

const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may lie within each other. Decoding is recursive, so depth is stack.
const MAX_DEPTH: usize = 64;
/// How many values one object may have. An empty message takes two bytes on the wire and a hundred in memory.
const MAX_VALUES: usize = 300_000;

/// Decodes a body: the apiVersion, the kind, and the object with both in it.
///
/// # Errors
///
/// [`Kind::Malformed`] for what is not in this encoding, is cut off, or does not fit the type; [`Kind::Unsupported`] for a kind
/// without a type and for a body that is compressed; [`Kind::TooLarge`] for more than 300,000 values.
pub fn decode(bytes: &[u8]) -> Result<(String, String, Value), Error> {
    let message = bytes.strip_prefix(MAGIC).ok_or_else(|| {
        malformed(format!(
            "provided data does not appear to be a protobuf message, expected prefix {}",
            go_bytes(MAGIC)
        ))
    })?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader::new(message) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Reader::new(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?.to_owned(),
                        (2, Wire::Bytes(text)) => kind = utf8(text)?.to_owned(),
                        (number, value) => unknown(number, value, "TypeMeta")?,
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            (3, Wire::Bytes([])) => {}
            (3, Wire::Bytes(encoding)) => {
                let message = format!(
                    "the content encoding {:?} of a protobuf body is not supported",
                    String::from_utf8_lossy(encoding)
                );
                return Err(Error::new(Kind::Unsupported, message));
            }
            (4, Wire::Bytes(_)) => {}
            (number, value) => unknown(number, value, "Unknown")?,
        }
    }
    let ty = message_type(&api_version, &kind)?;
    let mut decoder = Decoder { values: 0 };
    let mut object = Map::new();
    object.insert("kind".to_owned(), Value::String(kind.clone()));
    object.insert("apiVersion".to_owned(), Value::String(api_version.clone()));
    decoder.message(raw, ty, &mut object, 0)?;
    Ok((api_version, kind, Value::Object(object)))
}

/// The type behind an apiVersion and a kind. The options of verbs come under any group: their message is that of meta/v1.
fn message_type(api_version: &str, kind: &str) -> Result<&'static Type, Error> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let options = || match kind {
        "CreateOptions" | "DeleteOptions" | "PatchOptions" | "UpdateOptions" => {
            type_named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
        }
        _ => None,
    };
    type_of(group, version, kind).or_else(options).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            format!("no kind {kind:?} is registered for version {api_version:?} in scheme"),
        )
    })
}

/// What one object's decoding has used up.
struct Decoder {
    values: usize,
}

impl Decoder {
    fn message(
        &mut self,
        bytes: &[u8],
        ty: &'static Type,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(malformed(format!(
                "protobuf: messages lie more than {MAX_DEPTH} deep in each other"
            )));
        }
        for field in Reader::new(bytes) {
            let (number, wire) = field?;
            if let Some(field) = ty.numbered(number) {
                self.field(field, wire, into, depth)?;
            } else if let Some(embedded) = ty.embedded.iter().find(|embedded| embedded.number == number) {
                let Wire::Bytes(bytes) = wire else { return Err(wrong_type(embedded.ty.name(), wire)) };
                self.message(bytes, embedded.ty.get(), into, depth + 1)?;
            } else {
                unknown(number, wire, ty.name)?;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &'static Field,
        wire: Wire<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), Error> {
        match &field.shape {
            Shape::List(item) => {
                let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else { return Err(wrong_type(field.name, wire)) };
                if let (Wire::Bytes(packed), Shape::Int32 | Shape::Int64 | Shape::Bool | Shape::Float) =
                    (wire, &**item)
                {
                    let mut reader = Reader::new(packed);
                    while !reader.is_empty() {
                        let wire = if matches!(**item, Shape::Float) {
                            Wire::Fixed64(reader.fixed64()?)
                        } else {
                            Wire::Varint(reader.varint()?)
                        };
                        list.extend(self.value(field, item, wire, depth)?);
                    }
                    return Ok(());
                }
                // An empty item is an item.
                list.push(self.value(field, item, wire, depth)?.unwrap_or(Value::Null));
            }
            Shape::Map(item) => {
                let Wire::Bytes(entry) = wire else { return Err(wrong_type(field.name, wire)) };
                let (key, value) = self.entry(field, item, entry, depth)?;
                let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = map else { return Err(wrong_type(field.name, wire)) };
                map.insert(key, value);
            }
            shape => {
                let Some(value) = self.value(field, shape, wire, depth)? else { return Ok(()) };
                match (into.get_mut(field.name), value) {
                    // A message that comes in pieces is the sum of its pieces.
                    (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                    (_, value) if !field.pointer && is_zero(&value) => drop(into.shift_remove(field.name)),
                    (_, value) => drop(into.insert(field.name.to_owned(), value)),
                }
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        field: &'static Field,
        item: &'static Shape,
        entry: &[u8],
        depth: usize,
    ) -> Result<(String, Value), Error> {
        let (mut key, mut value) = (String::new(), None);
        for part in Reader::new(entry) {
            match part? {
                (1, Wire::Bytes(text)) => key = utf8(text)?.to_owned(),
                // Only a message can hold a list here, and it has it in its first field (`ExtraValue`).
                (2, Wire::Bytes(bytes)) if item.is_list() => {
                    let Shape::List(inner) = item else { continue };
                    let mut items = Vec::new();
                    for part in Reader::new(bytes) {
                        let (number, wire) = part?;
                        if number == 1 {
                            items.extend(self.value(field, inner, wire, depth + 1)?);
                        } else {
                            unknown(number, wire, field.name)?;
                        }
                    }
                    value = Some(Value::Array(items));
                }
                (2, wire) => value = self.value(field, item, wire, depth)?,
                (number, wire) => unknown(number, wire, field.name)?,
            }
        }
        Ok((key, value.unwrap_or_else(|| empty(item))))
    }

    /// The value of one field, item or member; nothing for a time that is not set.
    fn value(
        &mut self,
        field: &'static Field,
        shape: &'static Shape,
        wire: Wire<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Error::new(Kind::TooLarge, format!("the object has more than {MAX_VALUES} values")));
        }
        Ok(Some(match (shape, wire) {
            (Shape::Bool, Wire::Varint(bit)) => Value::Bool(bit != 0),
            // Go keeps the low half of what does not fit, and so does the encoding of a negative number need it.
            (Shape::Int32, Wire::Varint(number)) => Value::from(number as i32),
            (Shape::Int64, Wire::Varint(number)) => Value::from(number as i64),
            (Shape::Float, Wire::Fixed64(bits)) => {
                let number = Number::from_f64(f64::from_bits(bits));
                Value::Number(
                    number.ok_or_else(|| malformed(format!("field {}: not a finite number", field.name)))?,
                )
            }
            (Shape::String, Wire::Bytes(text)) => Value::String(utf8(text)?.to_owned()),
            (Shape::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
            (Shape::Quantity, Wire::Bytes(message)) => {
                Value::String(utf8(only(message, "Quantity")?)?.to_owned())
            }
            (Shape::IntOrString, Wire::Bytes(message)) => int_or_string(message)?,
            (Shape::Time, Wire::Bytes(message)) => return Ok(time::seconds(message)?.map(Value::String)),
            (Shape::MicroTime, Wire::Bytes(message)) => return Ok(time::micros(message)?.map(Value::String)),
            (Shape::Raw | Shape::Json | Shape::Fields, Wire::Bytes(message)) => {
                return raw_json(only(message, field.name)?);
            }
            (Shape::Object(ty), Wire::Bytes(message)) => {
                let mut members = Map::new();
                self.message(message, ty.get(), &mut members, depth + 1)?;
                Value::Object(members)
            }
            _ => return Err(wrong_type(field.name, wire)),
        }))
    }
}

/// What a member of a map is that has no value on the wire.
fn empty(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float => Value::from(0),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) | Shape::Object(_) => Value::Object(Map::new()),
        Shape::Quantity => Value::from("0"),
        Shape::Time | Shape::MicroTime => Value::Null,
        _ => Value::from(""),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(bit) => !bit,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// The first field of a message that has no other.
fn only<'a>(message: &'a [u8], name: &str) -> Result<&'a [u8], Error> {
    let mut content = &[][..];
    for field in Reader::new(message) {
        match field? {
            (1, Wire::Bytes(bytes)) => content = bytes,
            (number, value) => unknown(number, value, name)?,
        }
    }
    Ok(content)
}

fn int_or_string(message: &[u8]) -> Result<Value, Error> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    for field in Reader::new(message) {
        match field? {
            (1, Wire::Varint(kind)) => is_string = kind == 1,
            (2, Wire::Varint(value)) => number = value as i32,
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            (number, value) => unknown(number, value, "IntOrString")?,
        }
    }
    Ok(if is_string { Value::from(text) } else { Value::from(number) })
}

fn raw_json(text: &[u8]) -> Result<Option<Value>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(text)
        .map(Some)
        .map_err(|error| malformed(format!("an embedded object is not JSON: {error}")))
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| malformed("proto: a string field contains invalid UTF-8"))
}

/// A field that no table knows: nothing lost if it holds nothing.
fn unknown(number: u32, value: Wire<'_>, name: &str) -> Result<(), Error> {
    match value {
        Wire::Varint(0) | Wire::Fixed64(0) | Wire::Fixed32(0) | Wire::Bytes([]) => Ok(()),
        _ => Err(malformed(format!("unknown field number {number} in {name}: it is not in Kubernetes 1.36"))),
    }
}

fn wrong_type(field: &str, wire: Wire<'_>) -> Error {
    let wire_type = match wire {
        Wire::Varint(_) => 0,
        Wire::Fixed64(_) => 1,
        Wire::Bytes(_) => 2,
        Wire::Fixed32(_) => 5,
    };
    malformed(format!("proto: wrong wireType = {wire_type} for field {field}"))
}

fn go_bytes(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

#[cfg(test)]
mod tests;
