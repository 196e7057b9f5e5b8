//! Events: what happened to objects, for people who look.

mod correlate;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use vaquita_apiserver::{Cluster, Reason, Status, Write};

use self::correlate::{Correlator, Entry};
use vaquita_apiserver::kinds::EVENT;

/// Notes that wait to be written. More are dropped: the objects say what is, events only how it came to be.
const WAITING: usize = 1000;

/// Takes notes of what happens, and has them written as events in the background. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    notes: mpsc::Sender<Note>,
}

/// What an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// A part of it, such as `spec.containers{web}`.
    pub(crate) field_path: String,
}

impl Reference {
    /// A pod.
    pub(crate) fn pod(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            kind: "Pod",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            field_path: String::new(),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) component: &'static str,
    pub(crate) about: Reference,
    /// `Normal` or `Warning`.
    pub(crate) type_: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

/// Who tells of pods and the node.
pub(crate) const KUBELET: &str = "kubelet";
/// Who tells of pods that get a machine.
pub(crate) const SCHEDULER: &str = "default-scheduler";

impl Recorder {
    /// A recorder, and the work that writes what it takes; that ends when the last recorder is gone.
    pub(crate) fn new(cluster: Cluster, host: String) -> (Self, impl Future<Output = ()> + Send) {
        let (notes, taken) = mpsc::channel(WAITING);
        (Self { notes }, write_all(cluster, host, taken))
    }

    /// Takes a note of something usual. Never waits.
    pub(crate) fn normal(
        &self,
        component: &'static str,
        about: Reference,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.note(component, about, "Normal", reason, message.into());
    }

    /// Takes a note of something that should not be. Never waits.
    pub(crate) fn warning(
        &self,
        component: &'static str,
        about: Reference,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.note(component, about, "Warning", reason, message.into());
    }

    /// Takes a note. Never waits.
    pub(crate) fn note(
        &self,
        component: &'static str,
        about: Reference,
        type_: &'static str,
        reason: &str,
        message: String,
    ) {
        let note = Note { component, about, type_, reason: reason.to_owned(), message, at: Timestamp::now() };
        if let Err(error) = self.notes.try_send(note) {
            tracing::debug!(%error, "an event is dropped");
        }
    }
}

async fn write_all(cluster: Cluster, host: String, mut notes: mpsc::Receiver<Note>) {
    let mut correlator = Correlator::default();
    let write = Write::system("events");
    while let Some(note) = notes.recv().await {
        let Some(entry) = correlator.take(&note) else { continue };
        // Events of what has no namespace are kept in the default one.
        let namespace = if note.about.namespace.is_empty() { "default" } else { &note.about.namespace };
        if entry.again {
            match count_again(&cluster, namespace, &entry, &write).await {
                Err(error) if error.reason == Reason::NotFound => correlator.lost(&entry.name),
                Err(error) => {
                    tracing::debug!(error = %error.message, "an event is not counted");
                    continue;
                }
                Ok(()) => continue,
            }
        }
        let event = event(&note, &entry, namespace, &host);
        if let Err(error) = cluster.create(&EVENT, namespace, event, &write).await {
            // A namespace that ends takes no more.
            tracing::debug!(error = %error.message, reason = note.reason, "an event is not written");
            correlator.lost(&entry.name);
        }
    }
}

async fn count_again(cluster: &Cluster, namespace: &str, entry: &Entry, write: &Write) -> Result<(), Status> {
    let change = |event: &mut Value| {
        event["count"] = entry.count.into();
        event["lastTimestamp"] = seconds(entry.last).into();
        event["message"] = entry.message.as_str().into();
        Ok(true)
    };
    cluster.modify(&EVENT, namespace, &entry.name, None, write, change).await.map(drop)
}

fn event(note: &Note, entry: &Entry, namespace: &str, host: &str) -> Value {
    let mut about =
        json!({"kind": note.about.kind, "name": note.about.name, "uid": note.about.uid, "apiVersion": "v1"});
    if !note.about.namespace.is_empty() {
        about["namespace"] = note.about.namespace.as_str().into();
    }
    if !note.about.field_path.is_empty() {
        about["fieldPath"] = note.about.field_path.as_str().into();
    }
    let mut source = json!({"component": note.component});
    let mut instance = String::new();
    if note.component == KUBELET {
        source["host"] = host.into();
        host.clone_into(&mut instance);
    }
    json!({
        "metadata": {"name": entry.name, "namespace": namespace},
        "involvedObject": about,
        "reason": note.reason,
        "message": entry.message,
        "source": source,
        "firstTimestamp": seconds(entry.first),
        "lastTimestamp": seconds(entry.last),
        "count": entry.count,
        "type": note.type_,
        "eventTime": null,
        "reportingComponent": note.component,
        "reportingInstance": instance,
    })
}

/// A time as objects have it.
pub(crate) fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}
