use bytes::Bytes;
use serde_json::Value;
use vaquita_store::Expect;

use super::{Cluster, failed, key, metadata, strategy};
use crate::admission::{self, Attributes, Operation};
use crate::object;
use crate::{Draft, Kind, ListOptions, Object, Reason, Status, Write};

/// How often a name is made up before the client hears that they are taken.
const NAMES: usize = 8;

pub(super) async fn create(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    draft: Draft,
    write: &Write,
) -> Result<Object, Status> {
    let mut last = Status::internal("no name was tried");
    for _ in 0..NAMES {
        let (generated, result) = once(cluster, kind, namespace, draft.clone(), write).await;
        match result {
            Err(status) if generated && status.reason == Reason::AlreadyExists => last = status,
            other => return other,
        }
    }
    Err(last)
}

async fn once(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    mut draft: Draft,
    write: &Write,
) -> (bool, Result<Object, Status>) {
    let generated = match begin(kind, namespace, &mut draft.value) {
        Ok(generated) => generated,
        Err(status) => return (false, Err(status)),
    };
    // A quota is checked by counting what there is: nobody may come between that and the store.
    let guard = if quotas(cluster, namespace) { Some(cluster.0.counting.lock().await) } else { None };
    let name = metadata::text(&draft.value, "name").to_owned();
    if let Err(status) = finish(cluster, kind, namespace, &name, &mut draft.value, write) {
        return (generated, Err(status));
    }
    let stored = put(cluster, kind, namespace, &name, &draft, write).await;
    drop(guard);
    let result = stored.map_err(|status| match status.reason {
        Reason::AlreadyExists if generated => Status::generated_name_taken(kind, &name),
        Reason::AlreadyExists => being_deleted(cluster, kind, namespace, &name, status),
        _ => status,
    });
    (generated, result)
}

/// Place, name and what only the server gives; whether the name was made up.
fn begin(kind: &'static Kind, namespace: &str, value: &mut Value) -> Result<bool, Status> {
    metadata::place(kind, value, namespace)?;
    if !metadata::text(value, "resourceVersion").is_empty() {
        return Err(Status::plain(
            500,
            Reason::Unknown,
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let generated = metadata::generate(value);
    metadata::begin(kind, value);
    Ok(generated)
}

fn finish(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    value: &mut Value,
    write: &Write,
) -> Result<(), Status> {
    let attributes = Attributes {
        operation: Operation::Create,
        kind,
        subresource: None,
        namespace,
        name,
        user: &write.user,
        old: None,
        dry_run: write.dry_run,
    };
    (kind.default)(value);
    admission::mutate(cluster, &attributes, value)?;
    strategy::create(kind, value);
    let mut errors = metadata::validate(kind, value);
    errors.extend((kind.validate)(value, None, None));
    if !errors.is_empty() {
        return Err(Status::invalid(kind.storage(), name, &errors));
    }
    write.warnings.extend((kind.warnings)(value, None));
    admission::check(cluster, &attributes, value)?;
    metadata::sort(value);
    Ok(())
}

async fn put(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    draft: &Draft,
    write: &Write,
) -> Result<Object, Status> {
    let key = key(kind, namespace, name);
    let body = body(kind, draft);
    if write.dry_run {
        if cluster.store().get(&key).is_some() {
            return Err(Status::already_exists(kind, name));
        }
        return Ok(Object { kind, revision: 0, key: key.into(), body });
    }
    let entry = cluster.store().put(key, Expect::Absent, body).await;
    entry.map(|entry| Object::stored(kind, entry)).map_err(|error| failed(kind, name, &error))
}

/// The text for the store.
pub(super) fn body(kind: &Kind, draft: &Draft) -> Bytes {
    match &kind.stored {
        Some(alias) => {
            let mut value = draft.value.clone();
            (alias.import)(&mut value);
            object::encode(&value, &draft.raw).into()
        }
        None => object::encode(&draft.value, &draft.raw).into(),
    }
}

/// Says so when the name is taken by something that goes.
fn being_deleted(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    status: Status,
) -> Status {
    let old = cluster.get(kind, namespace, name).map(|old| object::metadata(&old.body));
    match old {
        Ok(metadata) if metadata.get("deletionTimestamp").is_some() => {
            Status { message: format!("object is being deleted: {}", status.message), ..status }
        }
        _ => status,
    }
}

/// Whether a quota counts in the namespace.
fn quotas(cluster: &Cluster, namespace: &str) -> bool {
    let Some(quota) = cluster.kind("", "v1", "resourcequotas").filter(|_| !namespace.is_empty()) else {
        return false;
    };
    let one = ListOptions { limit: 1, ..ListOptions::default() };
    cluster.list(quota, Some(namespace), &one).is_ok_and(|list| !list.items.is_empty())
}
