//! Reads manifests strictly: what cannot be honoured is an error with file, line, column and path.
//!
//! Three steps: the text becomes a tree with positions (YAML as Kubernetes reads it), the tree becomes typed
//! objects, and these are defaulted and validated as an API server would. All problems of a file are reported at
//! once. Nothing is ignored in silence; what one machine satisfies trivially is accepted:
//!
//! | field | because |
//! |---|---|
//! | `tolerations` | the machine has no taints |
//! | `nodeSelector`, `nodeName` | only where this machine's labels (os, arch, hostname) and name satisfy them |
//! | `runtimeClassName` | the name of a runtime handler itself: there are no objects that it could be looked up in |
//! | `schedulerName`, `serviceAccountName` | only with their defaults |
//! | `automountServiceAccountToken` | there are no tokens, so none is mounted |
//! | `enableServiceLinks` | there are no services, so there are no variables of theirs |
//! | `hostUsers: true`, `os: {name: linux}`, `procMount: Default` | that is how it is |
//! | `fsGroupChangePolicy` | as in Kubernetes without effect on volumes that are new with every pod |
//! | `immutable` | nothing changes the objects of a manifest |
//! | `status: {}`, `creationTimestamp: null` | kubectl writes them into new manifests |

mod check;
mod decode;
mod defaults;
mod known;
mod node;
mod path;

use std::collections::BTreeSet;
use std::fmt;

use serde::de::DeserializeOwned;

use self::decode::Problem;
use self::node::{Node, Value};
use self::path::Path;
use crate::api::{ConfigMap, ObjectMeta, Pod, Secret};

/// The objects of one or more files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// Pods, in the order of the files.
    pub pods: Vec<Pod>,
    /// ConfigMaps that the pods can use.
    pub config_maps: Vec<ConfigMap>,
    /// Secrets that the pods can use.
    pub secrets: Vec<Secret>,
}

/// One thing that is wrong with a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Name of the file as it was given.
    pub file: String,
    /// Line, from 1; 0 where it is not known.
    pub line: usize,
    /// Column in characters, from 1; 0 where it is not known.
    pub column: usize,
    /// Path of the field, such as `spec.containers[0].image`; empty for the whole document.
    pub path: String,
    /// What is wrong and, where there is an answer, what to do.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Reads files given as (name, text): YAML with any number of documents, or JSON. `v1 List`s are opened.
///
/// # Errors
/// Everything that is wrong in them, in the order of files and lines.
pub fn read(files: &[(&str, &str)]) -> Result<Manifest, Vec<Diagnostic>> {
    let mut reader = Reader::default();
    for (name, text) in files {
        reader.file(name, text);
    }
    if reader.diagnostics.is_empty() { Ok(reader.manifest) } else { Err(reader.diagnostics) }
}

#[derive(Default)]
struct Reader {
    manifest: Manifest,
    diagnostics: Vec<Diagnostic>,
    names: BTreeSet<(&'static str, String, String)>,
}

impl Reader {
    fn file(&mut self, name: &str, text: &str) {
        let mut problems = Vec::new();
        match Node::parse(text.strip_prefix('\u{feff}').unwrap_or(text)) {
            Ok(documents) if documents.is_empty() => {
                problems.push(Problem {
                    path: Path::default(),
                    at: node::Position::default(),
                    message: "the file is empty: a Pod, ConfigMap or Secret is expected".to_owned(),
                });
            }
            Ok(documents) => {
                documents.iter().for_each(|node| self.document(node, &Path::default(), &mut problems))
            }
            Err((at, message)) => problems.push(Problem { path: Path::default(), at, message }),
        }
        problems.sort_by_key(|problem| problem.at);
        self.diagnostics.extend(problems.into_iter().map(|problem| Diagnostic {
            file: name.to_owned(),
            line: problem.at.line,
            column: problem.at.column,
            path: problem.path.to_string(),
            message: problem.message,
        }));
    }

    fn document(&mut self, node: &Node, path: &Path, problems: &mut Vec<Problem>) {
        if !matches!(node.value, Value::Map(_)) {
            let message = format!("expected an object with apiVersion and kind, found {}", node.describe());
            problems.push(Problem { path: path.clone(), at: node.at, message });
            return;
        }
        let Some((version, kind)) = type_of(node, path, problems) else { return };
        if version != "v1" && matches!(kind, "Pod" | "ConfigMap" | "Secret" | "List") {
            let at = node.locate(&Path::default().field("apiVersion"));
            let message = format!("{version:?}: {kind} is of apiVersion v1");
            problems.push(Problem { path: path.field("apiVersion"), at, message });
            return;
        }
        match kind {
            "Pod" => {
                let pod = object(node, path, problems, defaults::pod, check::pod);
                let Some(pod) = pod else { return };
                self.unique("Pod", &pod.metadata, node, path, problems);
                self.manifest.pods.push(pod);
            }
            "ConfigMap" => {
                let object = object(node, path, problems, defaults::config_map, check::config_map);
                let Some(config_map) = object else { return };
                self.unique("ConfigMap", &config_map.metadata, node, path, problems);
                self.manifest.config_maps.push(config_map);
            }
            "Secret" => {
                let Some(secret) = object(node, path, problems, defaults::secret, check::secret) else {
                    return;
                };
                self.unique("Secret", &secret.metadata, node, path, problems);
                self.manifest.secrets.push(secret);
            }
            "List" => self.list(node, path, problems),
            _ => {
                let at = node.locate(&Path::default().field("kind"));
                problems.push(Problem { path: path.field("kind"), at, message: known::unknown_kind(kind) });
            }
        }
    }

    fn list(&mut self, node: &Node, path: &Path, problems: &mut Vec<Problem>) {
        let Value::Map(entries) = &node.value else { return };
        for entry in entries {
            match (entry.key.as_str(), &entry.node.value) {
                ("items", Value::Seq(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.document(item, &path.field("items").index(index), problems);
                    }
                }
                ("items", _) => {
                    let message = format!("expected a list, found {}", entry.node.describe());
                    problems.push(Problem { path: path.field("items"), at: entry.node.at, message });
                }
                ("apiVersion" | "kind" | "metadata", _) => {}
                (key, _) => {
                    let message = known::unknown_field(key, &["apiVersion", "kind", "metadata", "items"]);
                    problems.push(Problem { path: path.field(key), at: entry.at, message });
                }
            }
        }
    }

    fn unique(
        &mut self,
        kind: &'static str,
        metadata: &ObjectMeta,
        node: &Node,
        path: &Path,
        problems: &mut Vec<Problem>,
    ) {
        if metadata.name.is_empty() {
            return;
        }
        if !self.names.insert((kind, metadata.namespace.clone(), metadata.name.clone())) {
            let at = node.locate(&Path::default().fields(&["metadata", "name"]));
            let message =
                format!("there is another {kind} {:?} in namespace {:?}", metadata.name, metadata.namespace);
            problems.push(Problem { path: path.fields(&["metadata", "name"]), at, message });
        }
    }
}

/// apiVersion and kind of a document.
fn type_of<'a>(node: &'a Node, path: &Path, problems: &mut Vec<Problem>) -> Option<(&'a str, &'a str)> {
    let mut text = |field: &str| match node.entry(field).map(|entry| &entry.node.value) {
        Some(Value::String(value)) if !value.is_empty() => Some(value.as_str()),
        _ => {
            let at = node.locate(&Path::default().field(field));
            problems.push(Problem { path: path.field(field), at, message: "is required".to_owned() });
            None
        }
    };
    let version = text("apiVersion");
    let kind = text("kind");
    Some((version?, kind?))
}

/// Decodes, defaults and validates one object.
fn object<T: DeserializeOwned>(
    node: &Node,
    path: &Path,
    problems: &mut Vec<Problem>,
    defaults: impl Fn(&mut T),
    check: impl Fn(&T) -> check::Report,
) -> Option<T> {
    let mut found: Vec<Problem> = Vec::new();
    let mut object: T = decode::decode(node, path.clone(), &mut found)?;
    defaults(&mut object);
    let undecoded: Vec<Path> = found.iter().map(|problem| problem.path.clone()).collect();
    for (inner, message) in check(&object).0 {
        // A field that could not be decoded stands there with its zero value: one complaint about it is enough.
        let full = inner.segments().iter().fold(path.clone(), Path::join);
        if !undecoded.iter().any(|path| full.starts_with(path)) {
            found.push(Problem { path: full, at: node.locate(&inner), message });
        }
    }
    problems.append(&mut found);
    Some(object)
}

#[cfg(test)]
mod tests;
