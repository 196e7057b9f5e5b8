//! Where things are, and how records get there.

#![expect(clippy::disallowed_methods, reason = "our own directories, which no container can write")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vaquita_shim::ExitRecord;

use crate::error::Doing;
use crate::model::{ContainerRecord, Ended, SandboxRecord, is_id};
use crate::{Config, Error, Kind, Result};

/// The directories of one server.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    state: PathBuf,
}

const SANDBOX_RECORD: &str = "sandbox.json";
const CONTAINER_RECORD: &str = "container.json";
const SPEC: &str = "config.json";
const POD_CIDR: &str = "pod-cidr";

impl Paths {
    /// Those that a configuration names.
    pub(crate) fn of(config: &Config) -> Self {
        Self { root: config.root.clone(), state: config.state.clone() }
    }

    /// The image store.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Checkpoints that are being made, one directory for each container.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The address leases.
    pub(crate) fn leases(&self) -> PathBuf {
        self.net().join("leases")
    }

    /// The records of what CNI plugins have done. What these give out survives a reboot, and so does this.
    pub(crate) fn cni(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// What is known of the network as a whole.
    pub(crate) fn net(&self) -> PathBuf {
        self.state.join("net")
    }

    /// All pods.
    pub(crate) fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// One pod.
    pub(crate) fn pod(&self, sandbox: &str) -> PathBuf {
        self.pods().join(sandbox)
    }

    /// `/etc/hosts` of a pod.
    pub(crate) fn hosts(&self, sandbox: &str) -> PathBuf {
        self.pod(sandbox).join("hosts")
    }

    /// `/etc/hostname` of a pod.
    pub(crate) fn hostname(&self, sandbox: &str) -> PathBuf {
        self.pod(sandbox).join("hostname")
    }

    /// `/etc/resolv.conf` of a pod.
    pub(crate) fn resolv(&self, sandbox: &str) -> PathBuf {
        self.pod(sandbox).join("resolv.conf")
    }

    /// `/dev/shm` of a pod.
    pub(crate) fn shm(&self, sandbox: &str) -> PathBuf {
        self.pod(sandbox).join("shm")
    }

    /// All containers of a pod.
    pub(crate) fn containers(&self, sandbox: &str) -> PathBuf {
        self.pod(sandbox).join("containers")
    }

    /// The bundle of a container.
    pub(crate) fn container(&self, sandbox: &str, id: &str) -> PathBuf {
        self.containers(sandbox).join(id)
    }

    /// Writes the record of a sandbox.
    pub(crate) fn write_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        write(&self.pod(&record.id), SANDBOX_RECORD, record)
    }

    /// Writes the record of a container.
    pub(crate) fn write_container(&self, record: &ContainerRecord) -> Result<()> {
        write(&self.container(&record.sandbox, &record.id), CONTAINER_RECORD, record)
    }

    /// Whether a container has a directory.
    pub(crate) fn has_container(&self, sandbox: &str, id: &str) -> bool {
        self.container(sandbox, id).exists()
    }

    /// Writes the OCI specification of a container. It holds the environment, secrets included: for nobody else's eyes.
    pub(crate) fn write_spec(&self, sandbox: &str, id: &str, spec: &Spec) -> Result<()> {
        let dir = self.container(sandbox, id);
        let doing = || format!("write {}", dir.join(SPEC).display());
        write_file(&dir, SPEC, &serde_json::to_vec(spec).doing(doing)?)
    }

    /// The OCI specification that a container was made with.
    pub(crate) fn read_spec<T: DeserializeOwned>(&self, sandbox: &str, id: &str) -> Result<T> {
        let path = self.container(sandbox, id).join(SPEC);
        read(&path)?.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no {}", path.display())))
    }

    /// Keeps the range that the client has for the pods of this node.
    pub(crate) fn write_pod_cidr(&self, text: &str) -> Result<()> {
        private_dir(&self.net())?;
        // Whole or not at all: the beginning of a range is another range.
        write_file(&self.net(), POD_CIDR, text.as_bytes())
    }

    /// The range that the client has for the pods of this node, if it said so.
    pub(crate) fn read_pod_cidr(&self) -> Option<String> {
        std::fs::read_to_string(self.net().join(POD_CIDR)).ok()
    }

    /// The record of a sandbox. None when there is none: its intent was never written.
    pub(crate) fn read_sandbox(&self, id: &str) -> Result<Option<SandboxRecord>> {
        read(&self.pod(id).join(SANDBOX_RECORD))
    }

    /// The record of a container. None when there is none: its intent was never written.
    pub(crate) fn read_container(&self, sandbox: &str, id: &str) -> Result<Option<ContainerRecord>> {
        read(&self.container(sandbox, id).join(CONTAINER_RECORD))
    }

    /// How a container ended, as its shim recorded it.
    pub(crate) fn read_exit(&self, sandbox: &str, id: &str) -> Result<Option<(Ended, i64)>> {
        let record = ExitRecord::read(&self.container(sandbox, id)).doing(|| "read an exit record")?;
        Ok(record.map(|record| {
            let exit = vaquita_shim::Exit::from(record);
            (Ended::seen(&exit), exit.started_at_ns)
        }))
    }

    /// The ids of the pods that have a directory.
    pub(crate) fn pod_ids(&self) -> Result<Vec<String>> {
        ids(&self.pods())
    }

    /// The ids of the containers of a pod that have a directory.
    pub(crate) fn container_ids(&self, sandbox: &str) -> Result<Vec<String>> {
        ids(&self.containers(sandbox))
    }
}

/// Makes a directory that only we may look into, whatever the umask is.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let doing = || format!("make the directory {}", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).doing(doing)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).doing(doing)
}

/// Makes a directory that only we may look into, where there is none yet.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    match path.exists() {
        true => Ok(()),
        false => private_dir(path),
    }
}

/// Makes room for a socket: removes one that nobody listens on any more.
pub(crate) fn remove_socket(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", path.display())),
    }
}

/// Leaves a socket to its owner alone.
pub(crate) fn keep_private(socket: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .doing(|| format!("set the mode of {}", socket.display()))
}

/// Removes a directory and what is in it. One that is not there is no error.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", path.display())),
    }
}

/// Seen whole or not at all. Not forced to the disk: the state directory dies with a reboot.
fn write(dir: &Path, name: &str, record: &impl Serialize) -> Result<()> {
    let doing = || format!("write {}", dir.join(name).display());
    let mut bytes = serde_json::to_vec(record).doing(doing)?;
    bytes.push(b'\n');
    write_file(dir, name, &bytes)
}

fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let doing = || format!("write {}", dir.join(name).display());
    let fd = vaquita_sys::fs::open_dir(dir).doing(doing)?;
    vaquita_sys::fs::write_atomic(&fd, name, bytes, 0o600, false).doing(doing)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let doing = || format!("read the record {}", path.display());
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).doing(doing).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(doing),
    }
}

fn ids(dir: &Path) -> Result<Vec<String>> {
    let names = names(dir)?.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| is_id(name)).collect())
}

/// The names in a directory. One that is not there has none.
pub(crate) fn names(dir: &Path) -> Result<Vec<OsString>> {
    let doing = || format!("list {}", dir.display());
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.doing(doing)?.file_name())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).doing(doing),
    }
}
