use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use vaquita_store::Entry;

use crate::object::{self, Object};
use crate::{FieldSelector, Kind, LabelSelector};

/// What a list or watch is for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) kind: &'static Kind,
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
}

impl Wanted {
    /// Whether everything is wanted.
    pub(super) fn all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an entry is wanted. Reads no more of the text than the selectors ask for.
    pub(super) fn matches(&self, entry: &Entry) -> bool {
        (self.fields.is_empty() || self.fields_match(entry))
            && (self.labels.is_empty() || self.labels.matches(&object::metadata(&entry.body)["labels"]))
    }

    fn fields_match(&self, entry: &Entry) -> bool {
        let mut parsed = None;
        self.fields.matches(|path| match path {
            "metadata.name" => entry.key.name().to_owned(),
            "metadata.namespace" => entry.key.namespace().to_owned(),
            path if self.kind.stored.is_some() => {
                let value = parsed.get_or_insert_with(|| Object::stored(self.kind, entry.clone()).value());
                path.split('.').try_fold(&*value, |value, name| value.get(name)).map(text).unwrap_or_default()
            }
            path => read(&entry.body, path),
        })
    }
}

/// A field with what it is when it is not there.
fn read(body: &[u8], path: &str) -> String {
    let text = dig(body, path);
    match path {
        "spec.hostNetwork" | "spec.unschedulable" if text.is_empty() => "false".to_owned(),
        "source" if text.is_empty() => dig(body, "reportingComponent"),
        _ => text,
    }
}

/// The text of the value at a path, without parsing what is beside it.
fn dig(body: &[u8], path: &str) -> String {
    let mut current: Cow<'_, str> = match std::str::from_utf8(body) {
        Ok(body) => Cow::Borrowed(body),
        Err(_) => return String::new(),
    };
    for name in path.split('.') {
        let Ok(fields) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(&current) else {
            return String::new();
        };
        let Some(next) = fields.get(name).map(|raw| raw.get().to_owned()) else { return String::new() };
        current = Cow::Owned(next);
    }
    serde_json::from_str(&current).map(|value: Value| text(&value)).unwrap_or_default()
}

/// A value as field selectors compare it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        // A core event's `source` stands for the component in it.
        Value::Object(fields) => fields.get("component").map(text).unwrap_or_default(),
        Value::Array(_) | Value::Null => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vaquita_store::Key;

    use super::*;
    use crate::kinds::CONFIG_MAP;

    #[test]
    fn entries_are_matched_by_their_text() {
        let body = r#"{"metadata":{"name":"x","labels":{"a":"b"}},"spec":{"nodeName":"n1","on":true},"source":{"component":"c"}}"#;
        let entry = Entry {
            key: Arc::new(Key::new("configmaps", "d", "x")),
            revision: 1,
            body: body.as_bytes().to_vec().into(),
        };
        let wanted = |labels: &str, fields: &str| Wanted {
            kind: &CONFIG_MAP,
            labels: labels.parse().unwrap(),
            fields: fields.parse().unwrap(),
        };
        for (labels, fields) in [
            ("a=b", "metadata.name=x,metadata.namespace=d"),
            ("", "spec.nodeName=n1,spec.on=true,source=c"),
            ("", "spec.nodeName!=n2,spec.none=,none.at.all=,spec.hostNetwork=false"),
        ] {
            assert!(wanted(labels, fields).matches(&entry), "{labels} {fields}");
        }
        for (labels, fields) in [("a=c", ""), ("a=b", "spec.nodeName=n2"), ("", "metadata.name!=x")] {
            assert!(!wanted(labels, fields).matches(&entry), "{labels} {fields}");
        }
    }
}
