//! From the tree to typed objects, collecting everything that is wrong on the way.
//!
//! A serde deserializer that does not stop: a value of the wrong type is recorded and stands in as the type's zero
//! value, an unknown field is recorded and left out. `null` is an absent field, as in Kubernetes.

use std::cell::RefCell;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::known;
use super::node::{Entry, Node, Position, Value};
use super::path::Path;
use crate::api::{Bytes, Quantity};

/// Something wrong at a place of a document.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) path: Path,
    pub(super) at: Position,
    pub(super) message: String,
}

/// Decodes a document. What is wrong goes to `problems`; the object is there unless its shape made that impossible.
pub(super) fn decode<T: DeserializeOwned>(node: &Node, path: Path, problems: &mut Vec<Problem>) -> Option<T> {
    let sink = RefCell::new(Vec::new());
    let object = T::deserialize(Decoder { node, path: path.clone(), sink: &sink });
    problems.append(&mut sink.into_inner());
    match object {
        Ok(object) => Some(object),
        Err(Stop::Recorded) => None,
        Err(Stop::Message(message)) => {
            problems.push(Problem { path, at: node.at, message });
            None
        }
    }
}

/// Why a value could not be decoded at all.
#[derive(Debug)]
enum Stop {
    /// The problem is recorded already.
    Recorded,
    Message(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recorded => f.write_str("recorded"),
            Self::Message(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Message(message.to_string())
    }
}

#[derive(Clone)]
struct Decoder<'a> {
    node: &'a Node,
    path: Path,
    sink: &'a RefCell<Vec<Problem>>,
}

impl<'a> Decoder<'a> {
    fn record(&self, message: String) {
        self.sink.borrow_mut().push(Problem { path: self.path.clone(), at: self.node.at, message });
    }

    fn mismatch(&self, expected: &str) {
        let mut message = format!("expected {expected}, found {}", self.node.describe());
        match &self.node.value {
            Value::Bool(_) | Value::Int(_) | Value::Float(_) if expected == "a string" => {
                message.push_str("; put it in quotes");
            }
            Value::String(text) if expected == "a number" && text.parse::<i64>().is_ok() => {
                message.push_str("; remove the quotes");
            }
            Value::String(text)
                if expected == "true or false" && matches!(text.as_str(), "true" | "false") =>
            {
                message.push_str("; remove the quotes");
            }
            _ => {}
        }
        self.record(message);
    }

    fn child(&self, node: &'a Node, path: Path) -> Self {
        Self { node, path, sink: self.sink }
    }

    /// The number, or 0 where there is none; what does not fit is recorded.
    fn integer(&self, min: i128, max: i128) -> i128 {
        let value = match &self.node.value {
            Value::Null => 0,
            Value::Int(value) => *value,
            // JSON numbers such as 3.0 and 1e3 are integers for Kubernetes as well.
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => *value as i128,
            _ => {
                self.mismatch("a number");
                0
            }
        };
        if (min..=max).contains(&value) {
            return value;
        }
        self.record(format!("{value} is out of range"));
        0
    }

    /// Records the fields of an object that do not exist; returns the others.
    fn known_fields(&self, object: &str, fields: &[&str], entries: &'a [Entry]) -> Vec<&'a Entry> {
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let problem = if matches!(entry.node.value, Value::Null) && fields.contains(&entry.key.as_str()) {
                continue;
            } else if let Some(answer) = known::refused(object, &entry.key) {
                // `status: {}` and `creationTimestamp: null` are what kubectl writes where there is nothing.
                match &entry.node.value {
                    Value::Null => continue,
                    Value::Map(inner) if inner.is_empty() && entry.key == "status" => continue,
                    _ => answer.to_owned(),
                }
            } else if fields.contains(&entry.key.as_str()) {
                kept.push(entry);
                continue;
            } else {
                known::unknown_field(&entry.key, fields)
            };
            let path = self.path.field(&entry.key);
            self.sink.borrow_mut().push(Problem { path, at: entry.at, message: problem });
        }
        kept
    }
}

/// Numbers of one width.
macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            let value = self.integer(<$type>::MIN.into(), <$type>::MAX.into());
            visitor.$visit(<$type>::try_from(value).unwrap_or_default())
        })*
    };
}

impl<'de> de::Deserializer<'de> for Decoder<'de> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => match i64::try_from(*value) {
                Ok(value) => visitor.visit_i64(value),
                Err(_) => visitor.visit_str(&value.to_string()),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::Seq(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    integers! {
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Null => visitor.visit_bool(false),
            _ => {
                self.mismatch("true or false");
                visitor.visit_bool(false)
            }
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::Null => visitor.visit_str(""),
            _ => {
                self.mismatch("a string");
                visitor.visit_str("")
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// The scalars with a form of their own are checked before their own visitor sees them, so that a wrong one
    /// does not end the document.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match scalar_problem(name, self.node) {
            None => visitor.visit_newtype_struct(self),
            Some(problem) => {
                self.record(problem);
                let node = if name == "Bytes" { &EMPTY } else { &ZERO };
                visitor.visit_newtype_struct(self.child(node, self.path.clone()))
            }
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let items: &[Node] = match &self.node.value {
            Value::Seq(items) => items,
            Value::Null => &[],
            _ => {
                self.mismatch("a list");
                &[]
            }
        };
        visitor.visit_seq(Elements { parent: self, items, next: 0 })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let entries: Vec<&Entry> = match &self.node.value {
            Value::Map(entries) => entries.iter().collect(),
            Value::Null => Vec::new(),
            _ => {
                self.mismatch("a mapping");
                Vec::new()
            }
        };
        visitor.visit_map(Fields { parent: self, entries, next: 0, free: true })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let entries = match &self.node.value {
            Value::Map(entries) => self.known_fields(name, fields, entries),
            Value::Null => Vec::new(),
            _ => {
                self.mismatch("a mapping");
                Vec::new()
            }
        };
        visitor.visit_map(Fields { parent: self, entries, next: 0, free: false })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let fallback = variants.first().copied().unwrap_or_default();
        let chosen = match &self.node.value {
            Value::String(value) if variants.contains(&value.as_str()) => value.as_str(),
            Value::String(value) => {
                self.record(known::unknown_value(name, value, variants));
                fallback
            }
            _ => {
                self.mismatch("a string");
                fallback
            }
        };
        visitor.visit_enum(chosen.into_deserializer())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

static ZERO: Node = Node { value: Value::Int(0), at: Position { line: 0, column: 0 } };
static EMPTY: Node = Node { value: Value::String(String::new()), at: Position { line: 0, column: 0 } };

/// What is wrong with a scalar that has a form of its own.
fn scalar_problem(name: &str, node: &Node) -> Option<String> {
    let wrong = |expected: &str| Some(format!("expected {expected}, found {}", node.describe()));
    match (name, &node.value) {
        ("Quantity", Value::String(text)) => text.parse::<Quantity>().err().map(|error| error.to_string()),
        ("Quantity", Value::Int(_)) => None,
        ("Quantity", Value::Float(value)) => {
            value.to_string().parse::<Quantity>().err().map(|error| error.to_string())
        }
        ("Quantity", _) => wrong("a quantity"),
        ("IntOrString", Value::String(_)) => None,
        ("IntOrString", Value::Int(value)) => {
            i32::try_from(*value).is_err().then(|| format!("{value} is out of range"))
        }
        ("IntOrString", _) => wrong("a number or a name"),
        ("Bytes", Value::String(text)) => {
            Bytes::deserialize(IntoDeserializer::<de::value::Error>::into_deserializer(text.as_str()))
                .err()
                .map(|error| format!("{error}; plain text belongs in stringData"))
        }
        ("Bytes", Value::Null) => Some("expected base64, found nothing".to_owned()),
        ("Bytes", _) => wrong("base64 in quotes"),
        _ => None,
    }
}

struct Elements<'a> {
    parent: Decoder<'a>,
    items: &'a [Node],
    next: usize,
}

impl<'a> SeqAccess<'a> for Elements<'a> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let path = self.parent.path.index(self.next);
        self.next += 1;
        if matches!(node.value, Value::Null) {
            let child = self.parent.child(node, path.clone());
            child.record("an element of a list is empty".to_owned());
        }
        recorded(&self.parent, node, &path, |decoder| seed.deserialize(decoder)).map(Some)
    }
}

struct Fields<'a> {
    parent: Decoder<'a>,
    entries: Vec<&'a Entry>,
    next: usize,
    /// The keys are the user's, not the schema's.
    free: bool,
}

impl<'a> MapAccess<'a> for Fields<'a> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        seed.deserialize(entry.key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let entry = self.entries[self.next];
        self.next += 1;
        let path =
            if self.free { self.parent.path.key(&entry.key) } else { self.parent.path.field(&entry.key) };
        recorded(&self.parent, &entry.node, &path, |decoder| seed.deserialize(decoder))
    }
}

/// Decodes a child; an error that has no place yet gets the child's.
fn recorded<'a, T>(
    parent: &Decoder<'a>,
    node: &'a Node,
    path: &Path,
    decode: impl FnOnce(Decoder<'a>) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let child = parent.child(node, path.clone());
    decode(child.clone()).map_err(|stop| {
        if let Stop::Message(message) = stop {
            child.record(message);
        }
        Stop::Recorded
    })
}
