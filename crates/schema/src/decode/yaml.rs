//! YAML as JSON, as Kubernetes reads it: the scalars of YAML 1.1, keys that are no strings written as strings.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use crate::scan::{MAX_DEPTH, quoted};
use crate::{Error, Kind};

/// A key that a map has twice, and the line of its last place.
pub(super) struct Duplicate {
    key: String,
    line: u64,
}

/// The first document as JSON, and the keys that maps have twice, with their lines.
pub(super) fn to_json(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Duplicate>), Error> {
    let wrong = |error: &dyn fmt::Display| Error::new(Kind::Malformed, format!("yaml: {error}"));
    let text = std::str::from_utf8(bytes).map_err(|_| wrong(&"invalid UTF-8"))?;
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let documents: Vec<Tree> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| wrong(&error.without_snippet()))?;
    let mut duplicates = Vec::new();
    let value = documents.into_iter().next().map_or(Value::Null, |tree| tree.json(&mut duplicates, 0));
    let json = serde_json::to_vec(&value).map_err(|error| wrong(&error))?;
    if too_deep(&value) {
        return Err(wrong(&"exceeded max depth"));
    }
    Ok((json, duplicates))
}

/// The strict error for keys that are there twice.
pub(super) fn told(duplicates: &[Duplicate]) -> Option<String> {
    let told = |Duplicate { key, line }: &Duplicate| {
        format!("  line {line}: key {} already set in map", quoted(key))
    };
    let lines: Vec<String> = duplicates.iter().take(100).map(told).collect();
    (!lines.is_empty()).then(|| format!("yaml: unmarshal errors:\n{}", lines.join("\n")))
}

enum Tree {
    Leaf(Value),
    List(Vec<Self>),
    Map(Vec<(Spanned<Key>, Self)>),
}

struct Key(String);

impl Tree {
    fn json(self, duplicates: &mut Vec<Duplicate>, depth: usize) -> Value {
        match self {
            Self::Leaf(value) => value,
            _ if depth > MAX_DEPTH => Value::Null,
            Self::List(items) => {
                Value::Array(items.into_iter().map(|item| item.json(duplicates, depth + 1)).collect())
            }
            Self::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let line = key.referenced.line();
                    let value = value.json(duplicates, depth + 1);
                    if map.insert(key.value.0.clone(), value).is_some() {
                        duplicates.push(Duplicate { key: key.value.0, line });
                    }
                }
                Value::Object(map)
            }
        }
    }
}

fn too_deep(value: &Value) -> bool {
    fn deeper(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(items) => left == 0 || items.iter().any(|item| deeper(item, left - 1)),
            Value::Object(map) => left == 0 || map.values().any(|item| deeper(item, left - 1)),
            _ => false,
        }
    }
    deeper(value, MAX_DEPTH)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Tree::deserialize(deserializer)? {
            Tree::Leaf(Value::String(text)) => Ok(Self(text)),
            Tree::Leaf(value) => Ok(Self(value.to_string())),
            _ => Err(D::Error::custom("a key must be a string, a number or a boolean")),
        }
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::from(value)))
    }

    /// A whole number has no fraction in the JSON that Go makes of it.
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        let number = if value.fract() == 0.0 && value.abs() < 1e15 {
            Some(Number::from(value as i64))
        } else {
            Number::from_f64(value)
        };
        let number = number.ok_or_else(|| E::custom("a number of JSON is finite"))?;
        Ok(Tree::Leaf(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::from(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}
