use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use vaquita_store::{Entry, Key};

use crate::Kind;

/// An object as the store has it: its text and version. Cheap to clone; parsed on demand.
#[derive(Clone, Debug)]
pub struct Object {
    /// What it is.
    pub kind: &'static Kind,
    /// Its version; zero for one that was never stored (dry run).
    pub revision: u64,
    /// Where it is stored.
    pub(crate) key: Arc<Key>,
    /// `{"metadata":{…},…}`, without apiVersion, kind and resourceVersion, in the form of `kind.storage()`.
    pub(crate) body: Bytes,
}

/// An object on its way into the store.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The object; apiVersion and kind may be missing.
    pub value: Value,
    /// The text of top-level fields that are kept byte for byte; these are not in `value`.
    pub raw: Vec<(&'static str, Box<RawValue>)>,
}

const START: &[u8] = b"{\"metadata\":{";

impl Object {
    /// The object as clients know it, with apiVersion, kind and metadata.resourceVersion. Null if the store was damaged.
    #[must_use]
    pub fn value(&self) -> Value {
        let mut value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        if let Some(alias) = &self.kind.stored {
            (alias.export)(&mut value);
        }
        dress(value, self.kind, self.revision)
    }

    /// The object and, apart, the text of its raw fields: what to change and write again.
    #[must_use]
    pub fn draft(&self) -> Draft {
        let mut value = self.value();
        let mut raw = Vec::new();
        if !self.kind.raw.is_empty()
            && let Ok(mut texts) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(&self.body)
        {
            raw.extend(self.kind.raw.iter().filter_map(|field| Some((*field, texts.remove(*field)?))));
            if let Some(fields) = value.as_object_mut() {
                self.kind.raw.iter().for_each(|field| drop(fields.shift_remove(*field)));
            }
        }
        Draft { value, raw }
    }

    /// The object's metadata, with the version; the rest is not parsed.
    #[must_use]
    pub fn metadata(&self) -> Value {
        let mut value = metadata(&self.body);
        if self.revision > 0
            && let Some(fields) = value.as_object_mut()
        {
            fields.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        }
        value
    }

    /// Bytes of the stored text.
    #[expect(clippy::len_without_is_empty, reason = "no object is empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.name()
    }

    /// The object's namespace; empty for one of the cluster.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.key.namespace()
    }

    /// The object's uid.
    #[must_use]
    pub fn uid(&self) -> String {
        metadata(&self.body)["uid"].as_str().unwrap_or_default().to_owned()
    }

    /// The object as JSON text with kind, apiVersion and resourceVersion.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 96);
        let rest = self.begin(&mut out);
        out.extend_from_slice(&rest);
        out
    }

    /// Writes the beginning of [`Self::text`]; the rest is the store's own copy, shared by all who send it.
    pub(crate) fn begin(&self, out: &mut Vec<u8>) -> Bytes {
        out.extend_from_slice(b"{\"kind\":\"");
        out.extend_from_slice(self.kind.name.as_bytes());
        out.extend_from_slice(b"\",\"apiVersion\":\"");
        out.extend_from_slice(self.kind.api_version().as_bytes());
        out.extend_from_slice(b"\",");
        self.splice(out)
    }

    /// The object as an item of a list: without kind and apiVersion.
    pub(crate) fn item(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let rest = self.splice(out);
        out.extend_from_slice(&rest);
    }

    fn splice(&self, out: &mut Vec<u8>) -> Bytes {
        out.extend_from_slice(&START[1..]);
        if self.revision > 0 {
            out.extend_from_slice(b"\"resourceVersion\":\"");
            out.extend_from_slice(self.revision.to_string().as_bytes());
            out.extend_from_slice(b"\",");
        }
        let body = self.form();
        if body.starts_with(START) { body.slice(START.len()..) } else { Bytes::from_static(b"}}") }
    }

    /// The body in the kind's own form.
    fn form(&self) -> Bytes {
        let Some(alias) = &self.kind.stored else { return self.body.clone() };
        let mut value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        (alias.export)(&mut value);
        encode(&value, &[]).into()
    }

    pub(crate) fn stored(kind: &'static Kind, entry: Entry) -> Self {
        Self { kind, revision: entry.revision, key: entry.key, body: entry.body }
    }
}

impl From<Value> for Draft {
    fn from(value: Value) -> Self {
        Self { value, raw: Vec::new() }
    }
}

/// Puts in what the store leaves out.
pub(crate) fn dress(value: Value, kind: &Kind, revision: u64) -> Value {
    let Value::Object(fields) = value else { return value };
    let mut dressed = Map::with_capacity(fields.len() + 2);
    dressed.insert("kind".to_owned(), kind.name.into());
    dressed.insert("apiVersion".to_owned(), kind.api_version().into());
    dressed.extend(fields);
    if revision > 0
        && let Some(metadata) = dressed.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
    Value::Object(dressed)
}

/// The metadata of a stored text; the rest is not looked at.
pub(crate) fn metadata(body: &[u8]) -> Value {
    let text = body.get(START.len() - 1..).unwrap_or_default();
    serde_json::Deserializer::from_slice(text).into_iter().next().and_then(Result::ok).unwrap_or_default()
}

/// The text for the store: metadata first, without what the store leaves out.
pub(crate) fn encode(value: &Value, raw: &[(&'static str, Box<RawValue>)]) -> Vec<u8> {
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    let mut metadata = fields.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.shift_remove("resourceVersion");
    let mut out = b"{\"metadata\":".to_vec();
    out.extend_from_slice(&text(&Value::Object(metadata)));
    for (name, value) in fields {
        if !matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
            field(&mut out, name, &text(value));
        }
    }
    for (name, raw) in raw {
        field(&mut out, name, raw.get().as_bytes());
    }
    out.push(b'}');
    out
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(b',');
    out.extend_from_slice(&text(&Value::from(name)));
    out.push(b':');
    out.extend_from_slice(value);
}

fn text(value: &Value) -> Vec<u8> {
    vaquita_schema::encode::encode(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::CONFIG_MAP;

    #[test]
    fn an_object_is_told_by_splicing() {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "metadata": {"name": "x", "resourceVersion": "3"}});
        let body = encode(&value, &[]);
        assert_eq!(body, br#"{"metadata":{"name":"x"},"data":{"a":"b"}}"#);
        let key = Arc::new(Key::new("configmaps", "d", "x"));
        let object = Object { kind: &CONFIG_MAP, revision: 7, key, body: body.into() };
        assert_eq!(
            String::from_utf8(object.text()).unwrap(),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"x"},"data":{"a":"b"}}"#
        );
        assert_eq!(object.value(), serde_json::from_slice::<Value>(&object.text()).unwrap());
        assert_eq!((object.name(), object.namespace()), ("x", "d"));
        assert_eq!(metadata(&object.body), json!({"name": "x"}));
        assert_eq!(object.metadata(), object.value()["metadata"]);
    }

    #[test]
    fn raw_fields_keep_their_bytes() {
        let raw = RawValue::from_string(r#"{"a": "\u0026"}"#.to_owned()).unwrap();
        let body = encode(&json!({"metadata": {"name": "x"}}), &[("data", raw)]);
        assert_eq!(body, br#"{"metadata":{"name":"x"},"data":{"a": "\u0026"}}"#);
    }
}
