use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::task::JoinSet;
use vaquita_store::Expect;

use super::{Cluster, Deletion, create, failed, metadata};
use crate::admission::{self, Attributes, Operation};
use crate::{DeleteOptions, Draft, Kind, Object, Propagation, Status, Write, time};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const TRIES: usize = 16;
/// Deletions of a collection that wait for the disk at the same time.
const TOGETHER: usize = 64;

pub(super) async fn delete(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    write: &Write,
) -> Result<Deletion, Status> {
    let mut tries = 0;
    loop {
        let old = cluster.get(kind, namespace, name)?;
        let mut draft = old.draft();
        check(kind, &old, &draft.value, options)?;
        let attributes = Attributes {
            operation: Operation::Delete,
            kind,
            subresource: None,
            namespace,
            name,
            user: &write.user,
            old: Some(&draft.value),
            dry_run: write.dry_run,
        };
        admission::check(cluster, &attributes, &draft.value)?;
        let step = step(kind, &mut draft.value, options);
        match carry_out(cluster, &old, &draft, step, write).await {
            Err(error)
                if error.kind() == vaquita_store::Kind::Conflict
                    && options.version.is_none()
                    && tries < TRIES =>
            {
                tries += 1;
            }
            other => return other.map_err(|error| failed(kind, name, &error)),
        }
    }
}

/// Deletes objects, some at the same time: the store makes together durable what comes together.
pub(super) async fn collection(
    cluster: &Cluster,
    objects: Vec<Object>,
    options: &DeleteOptions,
    write: &Write,
) -> Result<Vec<Object>, Status> {
    let mut waiting = objects.into_iter();
    let mut running = JoinSet::new();
    let mut gone = Vec::new();
    loop {
        while running.len() < TOGETHER
            && let Some(object) = waiting.next()
        {
            let (cluster, options, write) = (cluster.clone(), options.clone(), write.clone());
            running.spawn(async move {
                delete(&cluster, object.kind, object.namespace(), object.name(), &options, &write).await
            });
        }
        match running.join_next().await {
            None => break,
            Some(Ok(Ok(Deletion::Gone(object) | Deletion::Pending(object)))) => gone.push(object),
            Some(Ok(Err(status))) if status.code == 404 => {}
            Some(Ok(Err(status))) => return Err(status),
            Some(Err(error)) => return Err(Status::internal(error)),
        }
    }
    gone.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(gone)
}

/// What a request to delete does to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It goes now.
    Remove,
    /// It is marked, and stays.
    Mark,
    /// It is being deleted already.
    Nothing,
}

async fn carry_out(
    cluster: &Cluster,
    old: &Object,
    draft: &Draft,
    step: Step,
    write: &Write,
) -> Result<Deletion, vaquita_store::Error> {
    let expect = Expect::Revision(old.revision);
    let key = (*old.key).clone();
    match step {
        Step::Nothing => Ok(Deletion::Pending(old.clone())),
        Step::Remove if write.dry_run => Ok(Deletion::Gone(old.clone())),
        Step::Remove => {
            let entry = cluster.store().delete(key, expect, old.body.clone()).await?;
            Ok(Deletion::Gone(Object::stored(old.kind, entry)))
        }
        Step::Mark => {
            let body = create::body(old.kind, draft);
            if write.dry_run {
                return Ok(Deletion::Pending(Object { body, ..old.clone() }));
            }
            let entry = cluster.store().put(key, expect, body).await?;
            Ok(Deletion::Pending(Object::stored(old.kind, entry)))
        }
    }
}

/// The preconditions.
fn check(kind: &Kind, old: &Object, value: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let uid = metadata::text(value, "uid");
    if let Some(asked) = options.uid.as_deref().filter(|asked| *asked != uid) {
        let why = format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(refused(kind, old.name(), &why));
    }
    if let Some(asked) = options.version.filter(|asked| *asked != old.revision) {
        let why = format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record ({}). The object might have been modified",
            old.revision
        );
        return Err(refused(kind, old.name(), &why));
    }
    Ok(())
}

/// A precondition does not hold. Kubernetes names the kind here, not the resource.
fn refused(kind: &Kind, name: &str, why: &str) -> Status {
    let named = Kind { plural: kind.name, group: kind.group, ..Kind::PLAIN };
    Status::conflict(&named, name, why)
}

/// Marks the object as the request asks, and says what is to be done.
fn step(kind: &Kind, object: &mut Value, options: &DeleteOptions) -> Step {
    let asked = options.grace.map(|grace| if grace < 0 { 1 } else { grace });
    let deleted = !metadata::text(object, "deletionTimestamp").is_empty();
    let graceful = match kind.grace {
        Some(_) if deleted => match shorten(object, asked) {
            Some(graceful) => graceful,
            None => return Step::Nothing,
        },
        Some(grace) => {
            let grace = grace(object, asked);
            mark(object, grace);
            Some(grace)
        }
        None => None,
    };
    let before = metadata::finalizers(object);
    let finalizers = finalizers(&before, options.propagation);
    metadata::set_finalizers(object, &finalizers);
    let held = !finalizers.is_empty() || (kind.held)(object);
    if !held && graceful.is_none_or(|grace| grace == 0) {
        return Step::Remove;
    }
    if graceful.is_none() {
        if deleted && before == finalizers {
            return Step::Nothing;
        }
        mark(object, 0);
    }
    (kind.terminate)(object);
    metadata::sort(object);
    Step::Mark
}

/// Sets the time and grace of a deletion. The time is when the grace is over.
fn mark(object: &mut Value, grace: i64) {
    let end = Timestamp::now() + SignedDuration::from_secs(grace.clamp(0, i64::from(u32::MAX)));
    let first = metadata::text(object, "deletionTimestamp").is_empty();
    let fields = metadata::of(object);
    let later = time::parse(fields.get("deletionTimestamp").unwrap_or(&Value::Null))
        .is_some_and(|before| before > end);
    if first || later {
        fields.insert("deletionTimestamp".to_owned(), time::format(end).into());
    }
    fields.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    let generation = fields.get("generation").and_then(Value::as_i64).unwrap_or_default();
    if first && generation > 0 {
        fields.insert("generation".to_owned(), (generation + 1).into());
    }
}

/// A second request may only shorten the grace. None: nothing changes. `Some(None)`: no grace is left at all.
#[expect(
    clippy::option_option,
    reason = "the outer one is whether anything changes, the inner one the grace"
)]
fn shorten(object: &mut Value, asked: Option<i64>) -> Option<Option<i64>> {
    let before = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default();
    if before == 0 {
        return Some(None);
    }
    let asked = asked.filter(|asked| *asked < before)?;
    let now = Timestamp::now();
    let end = time::parse(&object["metadata"]["deletionTimestamp"]).unwrap_or(now);
    let mut end = end - SignedDuration::from_secs(before) + SignedDuration::from_secs(asked);
    let mut grace = asked;
    if end < now {
        end = now;
        grace = asked.min(1);
    }
    let fields = metadata::of(object);
    fields.insert("deletionTimestamp".to_owned(), time::format(end).into());
    fields.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    Some(Some(grace))
}

/// The finalizers by which the collector learns what is to become of what the object owns.
fn finalizers(before: &[String], propagation: Option<Propagation>) -> Vec<String> {
    let Some(propagation) = propagation else { return before.to_vec() };
    let mut after: Vec<String> =
        before.iter().filter(|one| *one != ORPHAN && *one != FOREGROUND).cloned().collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => after.push(FOREGROUND.to_owned()),
        Propagation::Orphan => after.push(ORPHAN.to_owned()),
    }
    after
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PODS: Kind = Kind { name: "Pod", grace: Some(|_, asked| asked.unwrap_or(30)), ..Kind::PLAIN };

    #[test]
    fn what_is_not_held_goes_at_once() {
        let mut object = json!({"metadata": {"name": "x"}});
        assert_eq!(step(&Kind::PLAIN, &mut object, &DeleteOptions::default()), Step::Remove);
        let mut object = json!({"metadata": {"name": "x", "finalizers": ["a/b"], "generation": 1}});
        assert_eq!(step(&Kind::PLAIN, &mut object, &DeleteOptions::default()), Step::Mark);
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(object["metadata"]["generation"], 2);
        assert_eq!(step(&Kind::PLAIN, &mut object, &DeleteOptions::default()), Step::Nothing);
    }

    #[test]
    fn grace_can_only_be_shortened() {
        let mut object = json!({"metadata": {"name": "x"}});
        assert_eq!(step(&PODS, &mut object, &DeleteOptions::default()), Step::Mark);
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 30);
        let grace = |seconds| DeleteOptions { grace: Some(seconds), ..DeleteOptions::default() };
        assert_eq!(step(&PODS, &mut object, &grace(40)), Step::Nothing);
        assert_eq!(step(&PODS, &mut object, &grace(5)), Step::Mark);
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(step(&PODS, &mut object, &grace(0)), Step::Remove);
        let mut object = json!({"metadata": {"name": "x"}});
        assert_eq!(step(&PODS, &mut object, &grace(0)), Step::Remove);
    }

    #[test]
    fn what_is_owned_is_told_by_finalizers() {
        let with = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let mut object = json!({"metadata": {"name": "x", "finalizers": ["orphan"]}});
        assert_eq!(step(&Kind::PLAIN, &mut object, &with(Propagation::Background)), Step::Remove);
        let mut object = json!({"metadata": {"name": "x"}});
        assert_eq!(step(&Kind::PLAIN, &mut object, &with(Propagation::Foreground)), Step::Mark);
        assert_eq!(object["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    }
}
