//! What a write may change, by the subresource that it goes through.

use serde_json::{Map, Value};

use crate::{Kind, Subresource};

/// A new object has no status yet.
pub(super) fn create(kind: &Kind, object: &mut Value) {
    if kind.has(Subresource::Status)
        && !kind.status_at_creation
        && let Some(fields) = object.as_object_mut()
        && let Some(status) = fields.get_mut("status")
    {
        *status = Value::Object(Map::new());
    }
    (kind.prepare)(object, None, None);
}

/// Takes from the new object what may be changed this way, and the rest from the old one.
pub(super) fn update(kind: &Kind, object: &mut Value, old: &Value, subresource: Option<Subresource>) {
    match subresource {
        None if kind.has(Subresource::Status) => take(object, old, "status"),
        // What changes is decided by the server.
        Some(Subresource::Binding) => {}
        Some(Subresource::Status) => {
            let mut kept = old.clone();
            take(&mut kept, object, "status");
            take(&mut kept, object, "metadata");
            *object = kept;
        }
        Some(Subresource::Finalize) => part(object, old, &["spec", "finalizers"]),
        Some(Subresource::EphemeralContainers) => part(object, old, &["spec", "ephemeralContainers"]),
        Some(Subresource::Resize) => resize(object, old),
        _ => {}
    }
    (kind.prepare)(object, Some(old), subresource);
}

/// Counts a change of what the user wants.
pub(super) fn generation(kind: &Kind, object: &mut Value, old: &Value) {
    if kind.generation && !same_wish(object, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
        super::metadata::of(object).insert("generation".to_owned(), generation.into());
    }
}

fn same_wish(object: &Value, old: &Value) -> bool {
    let empty = Map::new();
    let wish = |value: &Value| -> Map<String, Value> {
        let fields = value.as_object().unwrap_or(&empty).clone();
        let ours = |name: &str| matches!(name, "metadata" | "status" | "apiVersion" | "kind");
        fields.into_iter().filter(|(name, _)| !ours(name)).collect()
    };
    wish(object) == wish(old)
}

fn take(object: &mut Value, from: &Value, field: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.shift_remove(field)),
    }
}

/// The old object with one part of the new one.
fn part(object: &mut Value, old: &Value, path: &[&str]) {
    let mut kept = old.clone();
    take(&mut kept, object, "metadata");
    let new = path.iter().try_fold(&*object, |value, name| value.get(name)).cloned();
    let (last, parents) = (path[path.len() - 1], &path[..path.len() - 1]);
    let parent = parents.iter().fold(&mut kept, |value, name| &mut value[*name]);
    match (new, parent.as_object_mut()) {
        (Some(new), Some(fields)) => drop(fields.insert(last.to_owned(), new)),
        (None, Some(fields)) => drop(fields.shift_remove(last)),
        (Some(new), None) => parent[last] = new,
        (None, None) => {}
    }
    *object = kept;
}

/// The old object with the resources of the new one's containers.
fn resize(object: &mut Value, old: &Value) {
    let mut kept = old.clone();
    take(&mut kept, object, "metadata");
    for list in ["containers", "initContainers"] {
        for container in kept["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let new = object["spec"][list]
                .as_array()
                .into_iter()
                .flatten()
                .find(|one| one["name"] == container["name"]);
            if let Some(new) = new {
                take(container, new, "resources");
                take(container, new, "resizePolicy");
            }
        }
    }
    *object = kept;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KIND: Kind =
        Kind { name: "X", subresources: &[Subresource::Status], generation: true, ..Kind::PLAIN };

    #[test]
    fn status_and_the_rest_are_written_apart() {
        let old = json!({"metadata": {"name": "x"}, "spec": {"a": 1}, "status": {"b": 1}});
        let new = json!({"metadata": {"name": "x", "labels": {}}, "spec": {"a": 2}, "status": {"b": 2}});
        let mut main = new.clone();
        update(&KIND, &mut main, &old, None);
        assert_eq!(main["spec"]["a"], 2);
        assert_eq!(main["status"]["b"], 1);
        let mut status = new;
        update(&KIND, &mut status, &old, Some(Subresource::Status));
        assert_eq!(
            status,
            json!({"metadata": {"name": "x", "labels": {}}, "spec": {"a": 1}, "status": {"b": 2}})
        );
    }

    #[test]
    fn generation_counts_wishes() {
        let old = json!({"metadata": {"generation": 1}, "spec": {"a": 1}});
        let mut same = json!({"metadata": {"generation": 1, "labels": {}}, "spec": {"a": 1}, "status": {}});
        generation(&KIND, &mut same, &old);
        assert_eq!(same["metadata"]["generation"], 1);
        let mut other = json!({"metadata": {"generation": 1}, "spec": {"a": 2}});
        generation(&KIND, &mut other, &old);
        assert_eq!(other["metadata"]["generation"], 2);
    }

    #[test]
    fn debug_containers_are_all_that_their_subresource_writes() {
        let old = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let mut new =
            json!({"metadata": {}, "spec": {"containers": [], "ephemeralContainers": [{"name": "d"}]}});
        update(&KIND, &mut new, &old, Some(Subresource::EphemeralContainers));
        assert_eq!(
            new["spec"],
            json!({"containers": [{"name": "a", "image": "x"}], "ephemeralContainers": [{"name": "d"}]})
        );
        let mut new = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "y", "resources": {"limits": {}}}]}});
        update(&KIND, &mut new, &old, Some(Subresource::Resize));
        assert_eq!(
            new["spec"]["containers"][0],
            json!({"name": "a", "image": "x", "resources": {"limits": {}}})
        );
    }
}
