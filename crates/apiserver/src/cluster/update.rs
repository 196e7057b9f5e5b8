use bytes::Bytes;
use serde_json::Value;
use vaquita_store::Expect;

use super::{Cluster, create, failed, metadata, strategy};
use crate::admission::{self, Attributes, Operation};
use crate::{Draft, FieldError, Kind, Object, Patch, Reason, Status, Subresource, Write, schema};

/// How often a write is tried again that others came between.
const TRIES: usize = 16;

/// What is changed, and by whom.
pub(super) struct Target<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) kind: &'static Kind,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) subresource: Option<Subresource>,
    pub(super) write: &'a Write,
}

impl Target<'_> {
    pub(super) async fn update(&self, draft: Draft) -> Result<Object, Status> {
        let mut draft = draft;
        metadata::place(self.kind, &mut draft.value, self.namespace)?;
        let own = metadata::text(&draft.value, "name");
        if !own.is_empty() && own != self.name {
            return Err(misnamed(own, self.name));
        }
        let asked = version(&draft.value)?;
        let mut tries = 0;
        loop {
            let old = match self.cluster.get(self.kind, self.namespace, self.name) {
                Err(status)
                    if status.code == 404 && self.kind.create_on_update && self.subresource.is_none() =>
                {
                    metadata::of(&mut draft.value).shift_remove("resourceVersion");
                    return self.cluster.create(self.kind, self.namespace, draft, self.write).await;
                }
                other => other?,
            };
            if asked.is_none() && !self.kind.unconditional_update {
                return Err(self.unconditional());
            }
            if asked.is_some_and(|asked| asked != old.revision) {
                return Err(Status::modified(self.kind, self.name));
            }
            self.check_uid(&draft.value, &old)?;
            match self.store(&old, old.draft(), draft.clone()).await {
                Err(status)
                    if status.reason == Reason::Conflict
                        && asked.is_none()
                        && tries < TRIES
                        && raced(&status) =>
                {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    pub(super) async fn patch(&self, patch: &Patch) -> Result<Object, Status> {
        let mut tries = 0;
        loop {
            let old = self.cluster.get(self.kind, self.namespace, self.name)?;
            let before = old.draft();
            let (value, warnings) = schema::patched(self.kind, &before.value, patch, self.write.validation)?;
            let asked = version(&value)?;
            if asked.is_some_and(|asked| asked != old.revision) {
                return Err(Status::modified(self.kind, self.name));
            }
            let own = metadata::text(&value, "name");
            if !own.is_empty() && own != self.name {
                return Err(misnamed(own, self.name));
            }
            let draft = Draft { value, raw: before.raw.clone() };
            match self.store(&old, before, draft).await {
                Err(status) if raced(&status) && tries < TRIES && !names_version(patch) => tries += 1,
                other => {
                    self.write.warnings.extend(warnings);
                    return other;
                }
            }
        }
    }

    pub(super) async fn modify(
        &self,
        change: &mut (dyn FnMut(&mut Value) -> Result<bool, Status> + Send),
    ) -> Result<Object, Status> {
        let mut tries = 0;
        loop {
            let old = self.cluster.get(self.kind, self.namespace, self.name)?;
            let before = old.draft();
            let mut draft = before.clone();
            if !change(&mut draft.value)? {
                return Ok(old);
            }
            match self.store(&old, before, draft).await {
                Err(status) if raced(&status) && tries < TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// That the object is the one that the writer means.
    fn check_uid(&self, value: &Value, old: &Object) -> Result<(), Status> {
        let (uid, own) = (metadata::text(value, "uid"), old.uid());
        if uid.is_empty() || uid == own {
            return Ok(());
        }
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        Err(Status::conflict(self.kind, self.name, &why))
    }

    fn unconditional(&self) -> Status {
        let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
        Status::invalid_named(self.kind.group, self.kind.plural, self.name, &[error])
    }

    /// Brings the draft into the place of the old object.
    async fn store(&self, old: &Object, before: Draft, mut draft: Draft) -> Result<Object, Status> {
        self.prepare(&before.value, &mut draft.value)?;
        if draft.raw.is_empty() {
            let missing = |(field, _): &&(&str, _)| draft.value.get(*field).is_none();
            let kept: Vec<_> = before.raw.iter().filter(missing).cloned().collect();
            draft.raw = kept;
        }
        let key = (*old.key).clone();
        let expect = Expect::Revision(old.revision);
        if self.is_last(&before.value, &draft.value) {
            let body = create::body(self.kind, &draft);
            if !self.write.dry_run {
                let gone = self.cluster.store().delete(key, expect, old.body.clone()).await;
                gone.map_err(|error| failed(self.kind, self.name, &error))?;
            }
            return Ok(Object { body, ..old.clone() });
        }
        if same(&before, &draft) {
            return Ok(old.clone());
        }
        let body: Bytes = create::body(self.kind, &draft);
        if self.write.dry_run {
            return Ok(Object { body, ..old.clone() });
        }
        let entry = self.cluster.store().put(key, expect, body).await;
        entry
            .map(|entry| Object::stored(self.kind, entry))
            .map_err(|error| failed(self.kind, self.name, &error))
    }

    fn prepare(&self, old: &Value, value: &mut Value) -> Result<(), Status> {
        let (kind, name) = (self.kind, self.name);
        let attributes = Attributes {
            operation: Operation::Update,
            kind,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            user: &self.write.user,
            old: Some(old),
            dry_run: self.write.dry_run,
        };
        metadata::keep(value, old);
        (kind.default)(value);
        admission::mutate(self.cluster, &attributes, value)?;
        strategy::update(kind, value, old, self.subresource);
        // Which node a pod gets is no new wish of the user's.
        if self.subresource != Some(Subresource::Binding) {
            strategy::generation(kind, value, old);
        }
        let mut errors = metadata::validate(kind, value);
        errors.extend(metadata::validate_update(value, old));
        errors.extend((kind.validate)(value, Some(old), self.subresource));
        if !errors.is_empty() {
            return Err(Status::invalid(kind.storage(), name, &errors));
        }
        if self.subresource.is_none() {
            self.write.warnings.extend((kind.warnings)(value, Some(old)));
        }
        admission::check(self.cluster, &attributes, value)?;
        metadata::sort(value);
        Ok(())
    }

    /// Whether the change takes away the last thing that kept a deleted object.
    fn is_last(&self, old: &Value, value: &Value) -> bool {
        let grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default();
        let going = !metadata::text(old, "deletionTimestamp").is_empty() && grace == 0;
        going && metadata::finalizers(value).is_empty() && !(self.kind.held)(value)
    }
}

/// Whether the store refused the write because another came first.
fn raced(status: &Status) -> bool {
    status.reason == Reason::Conflict && status.message.contains("the object has been modified")
}

fn misnamed(own: &str, name: &str) -> Status {
    Status::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({name})"))
}

/// The version that the writer saw; None if it does not say.
fn version(value: &Value) -> Result<Option<u64>, Status> {
    let text = metadata::text(value, "resourceVersion");
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let quoted = crate::status::quote(text);
        Status::plain(500, Reason::Unknown, format!("strconv.ParseUint: parsing {quoted}: invalid syntax"))
    })
}

fn names_version(patch: &Patch) -> bool {
    match patch {
        Patch::Merge(value) | Patch::Strategic(value) => value["metadata"].get("resourceVersion").is_some(),
        Patch::Json(operations) => {
            operations.as_array().into_iter().flatten().any(|one| one["path"] == "/metadata/resourceVersion")
        }
        Patch::Apply(_) => false,
    }
}

fn same(before: &Draft, after: &Draft) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        metadata::of(&mut value).shift_remove("resourceVersion");
        if let Some(fields) = value.as_object_mut() {
            fields.shift_remove("kind");
            fields.shift_remove("apiVersion");
        }
        value
    };
    let raw = |draft: &Draft| -> Vec<(&str, String)> {
        draft.raw.iter().map(|(field, text)| (*field, text.get().to_owned())).collect()
    };
    strip(&before.value) == strip(&after.value) && raw(before) == raw(after)
}
