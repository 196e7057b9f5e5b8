//! Where things are, and how records get there.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vaquita_shim::ExitRecord;

use crate::error::Doing;
use crate::model::{ContainerRecord, Ended, SandboxRecord, is_id};
use crate::{Config, Result};

/// The directories of one server.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    state: PathBuf,
}

const SANDBOX_RECORD: &str = "sandbox.json";
const CONTAINER_RECORD: &str = "container.json";

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
    let fd = vaquita_sys::fs::open_dir(dir).doing(doing)?;
    vaquita_sys::fs::write_atomic(&fd, name, &bytes, 0o600, false).doing(doing)
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
    let doing = || format!("list {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(doing),
    };
    let mut ids = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.doing(doing)?.file_name().into_string()
            && is_id(&name)
        {
            ids.push(name);
        }
    }
    Ok(ids)
}
