//! What a pod's actions need to know.

use std::path::PathBuf;
use std::sync::Arc;

use super::host::{Host, Owner};
use super::{Config, Fixed};
use crate::api::{ConfigMap, Pod, Secret};
use crate::{Error, Result};

/// A pod, its surroundings, and where its files are.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) pod: Pod,
    /// What the pod refers to, as far as it was looked up.
    pub(super) objects: Fixed,
    pub(super) config: Arc<Config>,
    pub(super) host: Host,
    pub(super) owner: Owner,
    /// It is a pod of a cluster: it stays after its end, and outlives this process.
    pub(super) kept: bool,
}

impl Context {
    /// The pod's directory.
    pub(super) fn dir(&self) -> PathBuf {
        self.config.root.join(&self.pod.metadata.uid)
    }

    /// Where a volume of the agent's is.
    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.dir().join("volumes").join(name)
    }

    /// The pod's /etc/hosts.
    pub(super) fn hosts_file(&self) -> PathBuf {
        self.dir().join("etc-hosts")
    }

    /// The CRI log directory.
    pub(super) fn log_dir(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// A container's log, relative to the log directory.
    pub(super) fn log_path(container: &str, attempt: u32) -> String {
        format!("{container}/{attempt}.log")
    }

    /// A container's termination message.
    pub(super) fn message_file(&self, container: &str, attempt: u32) -> PathBuf {
        self.dir().join("messages").join(container).join(attempt.to_string())
    }

    /// Where subpaths of volumes are mounted for a container.
    pub(super) fn subpaths(&self, container: &str) -> PathBuf {
        self.dir().join("subpaths").join(container)
    }

    /// A ConfigMap in the pod's namespace; none where it is missing and may be.
    pub(super) fn config_map(&self, name: &str, optional: bool) -> Result<Option<&ConfigMap>> {
        let namespace = &self.pod.metadata.namespace;
        let found = self.objects.find_config_map(namespace, name);
        self.missing(found, "ConfigMap", name, optional)
    }

    /// A Secret in the pod's namespace; none where it is missing and may be.
    pub(super) fn secret(&self, name: &str, optional: bool) -> Result<Option<&Secret>> {
        let namespace = &self.pod.metadata.namespace;
        let found = self.objects.find_secret(namespace, name);
        self.missing(found, "Secret", name, optional)
    }

    fn missing<'a, T>(
        &self,
        found: Option<&'a T>,
        kind: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<&'a T>> {
        if found.is_some() || optional {
            return Ok(found);
        }
        let namespace = &self.pod.metadata.namespace;
        Err(Error::not_found(match self.kept {
            true => format!("{} {name:?} not found", kind.to_lowercase()),
            false => {
                format!("there is no {kind} {name:?} in namespace {namespace:?}: add it to the manifest")
            }
        }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::manifest;

    /// A pod `web` with this spec on a machine that is the same everywhere.
    pub(in crate::agent) fn context(spec: &str) -> Context {
        let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{tier: a}}}}\nspec:\n{spec}---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: conf}}\ndata: {{color: red, size: big}}\nbinaryData: {{raw: AAE=}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: pass}}\nstringData: {{word: s3cret}}\n"
        );
        let mut manifest =
            manifest::read(&[("pod.yaml", &text)]).unwrap_or_else(|problems| panic!("{problems:?}"));
        let mut pod = manifest.pods.remove(0);
        pod.metadata.uid = "11111111-2222-4333-8444-555555555555".to_owned();
        pod.metadata.labels.insert("app".to_owned(), "w\"1".to_owned());
        let mut config = Config::new("/var/lib/vaquita/agent");
        config.node_name = "node".to_owned();
        Context {
            pod,
            objects: Fixed::from(&manifest),
            config: Arc::new(config),
            host: Host {
                name: "node".to_owned(),
                ip: "192.0.2.10".to_owned(),
                memory: 4_000_000_000,
                milli_cpu: 4000,
                unified_memory: true,
                resolv_conf: "search example.com\nnameserver 192.0.2.53\noptions ndots:1 edns0\n".to_owned(),
                hosts: "127.0.0.1 localhost\n".to_owned(),
            },
            owner: Owner { pid: 7, started: 8, boot: "b".to_owned() },
            kept: false,
        }
    }
}
