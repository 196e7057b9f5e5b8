//! A YAML document as a tree that knows where everything stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::path::{Path, Segment};

/// A value and where it starts. Lines and columns count from 1.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Position,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    String(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) node: Node,
}

impl Node {
    /// The documents of a text: YAML (1.1 scalars, as Kubernetes reads them) or JSON, which is YAML.
    pub(super) fn parse(text: &str) -> Result<Vec<Self>, (Position, String)> {
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::Error,
            legacy_octal_numbers: true,
            with_snippet: false,
        };
        let documents: Vec<Raw> =
            serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
                let error = error.without_snippet();
                let at = error.location().map(Position::from).unwrap_or_default();
                (at, without_location(&error.to_string()))
            })?;
        Ok(documents.into_iter().map(Self::from).collect())
    }

    /// The value of a key of this map.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Where a field stands, or the innermost part of its path that exists.
    pub(super) fn locate(&self, path: &Path) -> Position {
        let mut node = self;
        let mut at = self.at;
        for segment in path.segments() {
            let next = match (segment, &node.value) {
                (Segment::Field(name) | Segment::Key(name), Value::Map(entries)) => {
                    entries.iter().find(|entry| entry.key == *name).map(|entry| (&entry.node, entry.at))
                }
                (Segment::Index(index), Value::Seq(nodes)) => nodes.get(*index).map(|node| (node, node.at)),
                _ => None,
            };
            let Some((child, place)) = next else { break };
            node = child;
            // A scalar is pointed at itself, anything larger at the key that opens it.
            at = if matches!(child.value, Value::Seq(_) | Value::Map(_) | Value::Null) {
                place
            } else {
                child.at
            };
        }
        at
    }

    /// What it is, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Int(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::String(value) if value.chars().count() <= 40 => format!("the string {value:?}"),
            Value::String(_) => "a string".to_owned(),
            Value::Seq(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// The parser's messages end with the place, which the diagnostic has already, or with advice for programmers.
fn without_location(message: &str) -> String {
    let ends = [" at line ", ", set DuplicateKeyPolicy"];
    let end = ends.iter().filter_map(|end| message.find(end)).min().unwrap_or(message.len());
    message[..end].trim_end_matches([',', ':', ' ']).to_owned()
}

impl From<serde_saphyr::Location> for Position {
    fn from(location: serde_saphyr::Location) -> Self {
        let number = |value: u64| usize::try_from(value).unwrap_or(0);
        Self { line: number(location.line()), column: number(location.column()) }
    }
}

/// What the parser gives: values with spans inside.
struct Raw(Spanned<RawValue>);

enum RawValue {
    Scalar(Value),
    Seq(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl From<Raw> for Node {
    fn from(raw: Raw) -> Self {
        let at = raw.0.referenced.into();
        let value = match raw.0.value {
            RawValue::Scalar(value) => value,
            RawValue::Seq(items) => Value::Seq(items.into_iter().map(Self::from).collect()),
            RawValue::Map(items) => {
                let entry = |(key, value): (Spanned<String>, Raw)| Entry {
                    at: key.referenced.into(),
                    key: key.value,
                    node: Self::from(value),
                };
                Value::Map(items.into_iter().map(entry).collect())
            }
        };
        Self { value, at }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::<RawValue>::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(RawValue::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_entry()? {
            items.push(item);
        }
        Ok(RawValue::Map(items))
    }
}
