//! What client and shim tell each other.

use std::path::{Path, PathBuf};

use crate::{Error, Kind, disk};

/// A set of namespaces that a whole pod can share.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Namespaces {
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Interfaces, addresses, routes, sockets.
    pub net: bool,
    /// Process ids.
    pub pid: bool,
    /// User and group ids.
    pub user: bool,
    /// Host and domain name.
    pub uts: bool,
}

/// User or group ids of a user namespace and who they are on the host, as a line of uid_map (user_namespaces(7)).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct IdMap {
    /// The first id inside.
    pub inside: u32,
    /// The first id of the host.
    pub outside: u32,
    /// How many ids there are, each the next of both.
    pub length: u32,
}

impl IdMap {
    /// Who an id of the namespace is on the host.
    #[must_use]
    pub fn to_host(maps: &[Self], inside: u32) -> Option<u32> {
        maps.iter().find_map(|map| {
            let offset = inside.checked_sub(map.inside).filter(|offset| *offset < map.length)?;
            map.outside.checked_add(offset)
        })
    }
}

/// What the sandbox of a pod shall be. Namespaces that are not new are the host's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SandboxRequest {
    /// The id of the sandbox.
    pub id: String,
    /// Set in the new UTS namespace; empty leaves the host's name.
    pub hostname: String,
    /// The namespaces to be made new for the pod.
    pub new: Namespaces,
    /// The leaf cgroup of the pause process, as a path below the cgroup root such as `/vaquita/<id>/<id>`.
    pub cgroup: PathBuf,
    /// Sysctls as (`net.ipv4.ip_forward`, `1`), set in the new namespaces that they belong to.
    pub sysctls: Vec<(String, String)>,
    /// The user that pause runs as.
    pub uid: u32,
    /// The group that pause runs as.
    pub gid: u32,
    /// The AppArmor profile of the pause process; empty leaves it as the shim is.
    pub apparmor: String,
    /// The SELinux label of the pause process; empty leaves it as the shim is.
    pub selinux: String,
    /// The SELinux label of the pod's files; empty where it has none.
    pub mount_label: String,
    /// `oom_score_adj` of the pause process, if it shall differ from the daemon's.
    pub oom_score_adj: Option<i32>,
    /// Raise that to what this host allows, instead of failing. For hosts that lack `CAP_SYS_RESOURCE`.
    pub restrict_oom_score_adj: bool,
    /// The users of a new user namespace, to which the other new ones belong then.
    pub uid_maps: Vec<IdMap>,
    /// Its groups.
    pub gid_maps: Vec<IdMap>,
}

/// What a container shall be, beside its `config.json` and the mount that is its root.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CreateRequest {
    /// The id of the container.
    pub id: String,
    /// The absolute path of the directory that holds `config.json` (the OCI specification) and gets `exit.json`.
    pub bundle: PathBuf,
    /// The leaf cgroup of the container, as a path below the cgroup root.
    pub cgroup: PathBuf,
    /// The absolute path of the CRI log file. Without it the output is read and thrown away.
    pub log_path: Option<PathBuf>,
    /// Standard input is a pipe that stays open. Without it it is `/dev/null`.
    pub stdin: bool,
    /// Standard input is closed when the first client that attached to it goes. A terminal stays.
    pub stdin_once: bool,
    /// Standard streams are a new terminal.
    pub tty: bool,
    /// The namespaces of the sandbox that the container joins, whatever its specification says of them.
    pub join: Namespaces,
    /// Raise the specification's `oomScoreAdj` to what this host allows, instead of failing.
    pub restrict_oom_score_adj: bool,
    /// How many bytes the log file may get before the shim itself renames it to `<log_path>.<date>-<time>` and begins a new
    /// one, of which renamed ones only the last is kept. 0: only who calls [`crate::client::Client::reopen_log`] rotates.
    pub log_limit: u64,
    /// The OCI runtime that makes the container. Without it the shim does.
    pub runtime: Option<OciRuntime>,
    /// The specification has hooks for the start of the container or its end, or a class of resctrl: what the shim does for
    /// a container of its own beside processes and cgroup.
    pub has_late_work: bool,
}

/// An OCI runtime that is a program of its own, such as runc or crun.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OciRuntime {
    /// The absolute path of the program, which has the command line of runc.
    pub program: PathBuf,
    /// It shall make cgroups by systemd (`--systemd-cgroup`).
    pub systemd_cgroup: bool,
}

/// A process to be run inside a container.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ExecRequest {
    /// The id of the container, which must be running.
    pub container: String,
    /// The name of this exec session, unique in the container while the session lasts.
    pub exec_id: String,
    /// The OCI `process` object as JSON.
    pub process: Vec<u8>,
}

/// Which streams of a container somebody wants to see and to type into.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AttachRequest {
    /// The id of the container, which must not have ended.
    pub container: String,
    /// A way into its standard input.
    pub stdin: bool,
    /// A copy of its standard output, or of its terminal's.
    pub stdout: bool,
    /// A copy of its standard error. A terminal has none.
    pub stderr: bool,
}

/// Who gets a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignalScope {
    /// Every process in the container's cgroup.
    All,
    /// The container's first process.
    Init,
}

/// How a process ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Exit {
    /// The exit code; 128 + the signal if one ended the process.
    pub code: i32,
    /// The signal that ended the process.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because it was out of memory.
    pub oom: bool,
    /// When the process was started, in nanoseconds since 1970. 0 if it never was.
    pub started_at_ns: i64,
    /// When the end of the process was seen, in nanoseconds since 1970.
    pub finished_at_ns: i64,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Set up, waiting to be started.
    Created,
    /// Started and not ended.
    Running,
    /// Ended. Its exit is known.
    Stopped,
}

/// The sandbox as the shim sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SandboxState {
    /// The id that it was created with.
    pub id: String,
    /// The pause process.
    pub pid: i32,
    /// Whether the pause process runs. A sandbox without it is not ready, but its namespaces are still held.
    pub running: bool,
    /// When it was created, in nanoseconds since 1970.
    pub created_at_ns: i64,
}

/// A container as the shim sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerState {
    /// The id that it was created with.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Its first process, which is gone when the container is stopped.
    pub pid: i32,
    /// When it was created, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// When it was started, in nanoseconds since 1970; 0 while it is not.
    pub started_at_ns: i64,
    /// How it ended, once it is stopped.
    pub exit: Option<Exit>,
    /// The ids of the exec sessions that run in it.
    pub execs: Vec<String>,
    /// Bytes of output that could not be written to the log file (disk full), since the creation.
    pub log_lost_bytes: u64,
}

/// The whole pod as the shim sees it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodState {
    /// The sandbox, once it was created.
    pub sandbox: Option<SandboxState>,
    /// The containers in the order of their creation.
    pub containers: Vec<ContainerState>,
}

/// The end of a container's first process, of an exec session or of the pause process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exited {
    /// The container, or the sandbox.
    pub id: String,
    /// The exec session, if it was one.
    pub exec_id: Option<String>,
    /// How it ended.
    pub exit: Exit,
}

/// Something that happened without having been asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A process ended. All output that it wrote is in the log file and `exit.json` is written.
    Exited(Exited),
    /// The connection to the shim is lost: no event will follow. Made by the client, never sent.
    Lost,
}

/// `exit.json` in the bundle of a container: how it ended, written before anybody is told.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
pub struct ExitRecord {
    /// The exit code; 128 + the signal if one ended the process.
    pub code: i32,
    /// The signal that ended the process.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because it was out of memory.
    pub oom: bool,
    /// When the process was started, in nanoseconds since 1970. 0 if it never was.
    pub started_at: i64,
    /// When the end of the process was seen, in nanoseconds since 1970.
    pub finished_at: i64,
}

impl ExitRecord {
    /// The name of the file in the bundle directory.
    pub const FILE: &str = "exit.json";

    /// Reads the record of the container whose bundle this is; none if the container has not ended.
    ///
    /// # Errors
    /// `Corrupt` if the file is not such a record, else the error of the read.
    pub fn read(bundle: &Path) -> Result<Option<Self>, Error> {
        let path = bundle.join(Self::FILE);
        let bytes = match disk::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(error, format_args!("read {}", path.display()))),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(Kind::Corrupt, format!("{} is not an exit record: {error}", path.display()))
                .with_source(error)
        })
    }

    /// The record as the bytes of the file, made without a JSON library to keep the shim small.
    pub(crate) fn to_json(&self) -> String {
        let signal = self.signal.map_or_else(|| "null".to_owned(), |signal| signal.to_string());
        format!(
            "{{\"code\":{},\"signal\":{signal},\"oom\":{},\"started_at\":{},\"finished_at\":{}}}\n",
            self.code, self.oom, self.started_at, self.finished_at
        )
    }
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Self {
        let ExitRecord { code, signal, oom, started_at, finished_at } = record;
        Self { code, signal, oom, started_at_ns: started_at, finished_at_ns: finished_at }
    }
}

impl From<&Exit> for ExitRecord {
    fn from(exit: &Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            oom: exit.oom,
            started_at: exit.started_at_ns,
            finished_at: exit.finished_at_ns,
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use super::*;

    #[test]
    fn exit_record_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ExitRecord::read(dir.path()).unwrap(), None);
        for signal in [None, Some(9)] {
            let record = ExitRecord { code: 137, signal, oom: true, started_at: 5, finished_at: i64::MAX };
            std::fs::write(dir.path().join(ExitRecord::FILE), record.to_json()).unwrap();
            assert_eq!(ExitRecord::read(dir.path()).unwrap(), Some(record));
        }
        std::fs::write(dir.path().join(ExitRecord::FILE), "{").unwrap();
        assert_eq!(ExitRecord::read(dir.path()).unwrap_err().kind(), Kind::Corrupt);
    }
}
