//! A place in an object: a value and its path, for checks that say where.

use serde_json::Value;

static NOTHING: Value = Value::Null;

/// A value and the path that leads to it. What is absent is a place as well, with nothing there.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> At<'a> {
    /// The object itself.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// A value that is not at its place in the object, as one that was changed for comparison.
    pub(crate) fn elsewhere(&self, value: &'a Value) -> Self {
        Self { value, path: self.path.clone() }
    }

    /// The object as a whole in the words of Kubernetes, whose path of an empty name is written so.
    pub(crate) fn whole(&self) -> Self {
        Self { value: self.value, path: "[]".to_owned() }
    }

    /// A field.
    pub(crate) fn at(&self, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { value: self.value.get(name).unwrap_or(&NOTHING), path: format!("{}{dot}{name}", self.path) }
    }

    /// The value of a key of a map.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self { value: self.value.get(key).unwrap_or(&NOTHING), path: format!("{}[{key}]", self.path) }
    }

    /// An item of a list.
    pub(crate) fn index(&self, index: usize) -> Self {
        Self { value: self.value.get(index).unwrap_or(&NOTHING), path: format!("{}[{index}]", self.path) }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    /// The items of a list; none if it is none.
    pub(crate) fn items(&self) -> impl Iterator<Item = At<'a>> + use<'a, '_> {
        (0..self.len()).map(|index| self.index(index))
    }

    /// The keys and values of a map; none if it is none.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a, '_> {
        let fields = self.value.as_object().into_iter().flatten();
        fields.map(|(key, _)| (key.as_str(), self.key(key)))
    }

    /// How many items, fields or bytes there are.
    pub(crate) fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is anything, though it may be empty.
    pub(crate) fn given(&self) -> bool {
        !self.value.is_null()
    }

    /// The text; empty if there is none.
    pub(crate) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub(crate) fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The number; 0 if there is none.
    pub(crate) fn number(&self) -> i64 {
        self.int().unwrap_or_default()
    }

    /// Whether it is `true`.
    pub(crate) fn yes(&self) -> bool {
        self.value.as_bool() == Some(true)
    }
}

/// Shorthands for reading an object without its paths.
pub(crate) trait Read {
    /// The value at a path of field names; nothing if any is absent.
    fn dig(&self, path: &[&str]) -> &Value;
    /// The text at a path; empty if there is none.
    fn text(&self, path: &[&str]) -> &str;
    /// The number at a path; 0 if there is none.
    fn number(&self, path: &[&str]) -> i64;
    /// Whether there is `true`.
    fn yes(&self, path: &[&str]) -> bool;
    /// The items of the list at a path.
    fn list(&self, path: &[&str]) -> &[Value];
    /// The field of a map, made if it is absent or null.
    fn make(&mut self, name: &str, value: impl FnOnce() -> Value) -> &mut Value;
    /// The field of a map, which is made an object if it is none.
    fn object(&mut self, name: &str) -> &mut Value;
    /// Sets a field if it is absent, null or empty text.
    fn or_set(&mut self, name: &str, value: impl Into<Value>);
    /// Sets a field if it is absent, null or 0.
    fn or_number(&mut self, name: &str, value: i64);
    /// The items of a list of this object that may be changed; none if there is no list.
    fn list_mut(&mut self, name: &str) -> &mut [Value];
}

impl Read for Value {
    fn dig(&self, path: &[&str]) -> &Self {
        path.iter().fold(self, |value, name| value.get(name).unwrap_or(&NOTHING))
    }

    fn text(&self, path: &[&str]) -> &str {
        self.dig(path).as_str().unwrap_or_default()
    }

    fn number(&self, path: &[&str]) -> i64 {
        self.dig(path).as_i64().unwrap_or_default()
    }

    fn yes(&self, path: &[&str]) -> bool {
        self.dig(path).as_bool() == Some(true)
    }

    fn list(&self, path: &[&str]) -> &[Self] {
        self.dig(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn make(&mut self, name: &str, value: impl FnOnce() -> Self) -> &mut Self {
        if !self.is_object() {
            *self = object();
        }
        let field = &mut self[name];
        if field.is_null() {
            *field = value();
        }
        field
    }

    fn object(&mut self, name: &str) -> &mut Self {
        let field = self.make(name, object);
        if !field.is_object() {
            *field = object();
        }
        field
    }

    fn or_set(&mut self, name: &str, value: impl Into<Self>) {
        let field = self.make(name, || Self::Null);
        if field.is_null() || field.as_str() == Some("") {
            *field = value.into();
        }
    }

    fn or_number(&mut self, name: &str, value: i64) {
        let field = self.make(name, || Self::Null);
        if field.as_i64().unwrap_or_default() == 0 {
            *field = value.into();
        }
    }

    fn list_mut(&mut self, name: &str) -> &mut [Self] {
        self.get_mut(name).and_then(Self::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
    }
}

/// An empty object.
pub(crate) fn object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// An empty list.
pub(crate) fn list() -> Value {
    Value::Array(Vec::new())
}

/// Removes a field; nothing if there is none.
pub(crate) fn remove(value: &mut Value, name: &str) {
    if let Some(fields) = value.as_object_mut() {
        // `remove` would move the last field to its place.
        fields.shift_remove(name);
    }
}

/// Gives `new` the field of `old`, or none if `old` has none.
pub(crate) fn keep(new: &mut Value, old: &Value, name: &str) {
    match (old.get(name), new.as_object_mut()) {
        (Some(value), Some(fields)) => drop(fields.insert(name.to_owned(), value.clone())),
        _ => remove(new, name),
    }
}
