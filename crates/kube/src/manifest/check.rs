//! Validation as the API server does it, and of what one machine without a cluster cannot give.

mod container;
mod names;
mod pod;
mod probe;
mod security;
mod volume;

use super::path::Path;
use crate::api::{ConfigMap, ObjectMeta, Pod, Secret};

/// Problems of one object, by path.
#[derive(Debug, Default)]
pub(super) struct Report(pub(super) Vec<(Path, String)>);

impl Report {
    fn add(&mut self, path: &Path, message: impl Into<String>) {
        self.0.push((path.clone(), message.into()));
    }

    /// Records the message of a check that failed.
    fn check(&mut self, path: &Path, result: Result<(), String>) {
        if let Err(message) = result {
            self.add(path, message);
        }
    }

    /// A field that must have a value. Returns whether it has.
    fn required(&mut self, path: &Path, value: &str) -> bool {
        if value.is_empty() {
            self.add(path, "is required");
        }
        !value.is_empty()
    }

    /// Exactly one of these fields must be given.
    fn exactly_one(&mut self, path: &Path, fields: &[(&str, bool)]) {
        let given: Vec<&str> = fields.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        let all = || fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        match given.as_slice() {
            [_] => {}
            [] => self.add(path, format!("one of {} is required", all())),
            [first, rest @ ..] => {
                for name in rest {
                    self.add(
                        &path.field(name),
                        format!("cannot be combined with {first}: only one of them may be given"),
                    );
                }
            }
        }
    }
}

/// Everything that is wrong with a pod after defaulting.
pub(super) fn pod(pod: &Pod) -> Report {
    let mut report = Report::default();
    metadata(&mut report, &pod.metadata, true);
    let annotations = Path::default().field("metadata").field("annotations");
    security::annotations(&mut report, &annotations, &pod.metadata.annotations, &pod.spec);
    pod::spec(&mut report, &Path::default().field("spec"), &pod.spec);
    report
}

pub(super) fn config_map(config_map: &ConfigMap) -> Report {
    let mut report = Report::default();
    metadata(&mut report, &config_map.metadata, true);
    let root = Path::default();
    let data = config_map.data.iter().map(|(key, value)| (key, value.len()));
    keys(&mut report, &root.field("data"), data.clone().map(|(key, _)| key));
    let binary = config_map.binary_data.iter().map(|(key, value)| (key, value.0.len()));
    keys(&mut report, &root.field("binaryData"), binary.clone().map(|(key, _)| key));
    for key in config_map.binary_data.keys().filter(|key| config_map.data.contains_key(*key)) {
        report.add(&root.field("binaryData").key(key), "is in data as well");
    }
    size(&mut report, data.chain(binary).map(|(_, len)| len).sum());
    report
}

pub(super) fn secret(secret: &Secret) -> Report {
    let mut report = Report::default();
    metadata(&mut report, &secret.metadata, true);
    let data = Path::default().field("data");
    keys(&mut report, &data, secret.data.keys());
    size(&mut report, secret.data.values().map(|value| value.0.len()).sum());
    let needed: &[&str] = match secret.type_.as_str() {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needed.iter().filter(|key| !secret.data.contains_key(**key)) {
        report.add(&data.key(key), format!("is required in a secret of type {}", secret.type_));
    }
    for key in needed.iter().filter(|key| key.starts_with(".docker")) {
        if let Some(value) = secret.data.get(*key)
            && let Err(error) = serde_json::from_slice::<serde_json::Value>(&value.0)
        {
            report.add(&data.key(key), format!("is not JSON: {error}"));
        }
    }
    report
}

fn metadata(report: &mut Report, metadata: &ObjectMeta, namespaced: bool) {
    let path = Path::default().field("metadata");
    if report.required(&path.field("name"), &metadata.name) {
        report.check(&path.field("name"), names::subdomain(&metadata.name));
    }
    if namespaced {
        report.check(&path.field("namespace"), names::label(&metadata.namespace));
    }
    for (key, value) in &metadata.labels {
        let path = path.field("labels").key(key);
        report.check(&path, names::qualified(key));
        report.check(&path, names::label_value(value));
    }
    for key in metadata.annotations.keys() {
        report.check(&path.field("annotations").key(key), names::qualified(&key.to_lowercase()));
    }
    let bytes: usize = metadata.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > 256 << 10 {
        report.add(&path.field("annotations"), "may have 256 KiB in all");
    }
}

fn keys<'a>(report: &mut Report, path: &Path, keys: impl Iterator<Item = &'a String>) {
    for key in keys {
        report.check(&path.key(key), names::config_key(key));
    }
}

/// The API server's limit for ConfigMaps and Secrets.
fn size(report: &mut Report, bytes: usize) {
    if bytes > 1 << 20 {
        report.add(&Path::default().field("data"), "may have 1 MiB in all");
    }
}
