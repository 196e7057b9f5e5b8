//! CheckpointContainer: a running container written to an archive by CRIU, while it goes on.
//!
//! The container is frozen from before CRIU looks at its memory until its writable layer is read, so that both are of one time. All is
//! made in a directory of its own below the root directory, on a disk, because memory may be much; its presence says that there is a
//! container to wake, should this process not live to do so ([`sweep`]).

mod archive;
mod documents;
mod staging;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use rustix::process::Pid;
use vaquita_cgroup::Cgroup;
use vaquita_proto::cri;
use vaquita_runtime::criu::{self, Criu, Dump};
use vaquita_sys::ns;

use self::staging::Staging;
use crate::error::Doing;
use crate::model::{Container, ContainerPhase, Sandbox};
use crate::node::{Node, blocking};
use crate::{Error, Kind, Result, spec};

pub(crate) use staging::sweep;

/// Where the client names no limit.
const TIMEOUT: Duration = Duration::from_secs(600);
/// What a container of a pod may have: connections, of which nothing is kept, because another pod has another address; locks of
/// files; ends of sockets that are outside. The network is the whole pod's, and stays open: rules that CRIU makes to close it would
/// also stay when it is killed.
const OPTIONS: [&str; 5] =
    ["--tcp-close", "--skip-in-flight", "--network-lock=skip", "--file-locks", "--ext-unix-sk"];

/// Writes a container to the archive `request.location`.
pub(crate) async fn run(node: &Arc<Node>, request: cri::CheckpointContainerRequest) -> Result<()> {
    let container = node.tables.container(&request.container_id)?;
    let location = location(&request.location)?;
    let timeout = match u64::try_from(request.timeout) {
        Ok(0) => TIMEOUT,
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            return Err(Error::invalid(format!("timeout: {} is less than no time", request.timeout)));
        }
    };
    container.expect_running("a checkpoint")?;
    let sandbox = node.tables.sandbox(&container.record.sandbox)?;
    if node.runtimes.find(&sandbox.record.runtime_handler)?.is_some() {
        let handler = &sandbox.record.runtime_handler;
        let message = format!(
            "containers of the runtime handler {handler:?} cannot be checkpointed, only those of the built-in one"
        );
        return Err(Error::unsupported(message));
    }
    let worker = node.clone();
    // In a task of its own: a client that goes away has still asked, and somebody has to wake the container.
    let task = tokio::spawn(async move {
        let deadline = Instant::now() + timeout;
        let held = container.clone();
        let _one = held.checkpoint.lock().await;
        let id = container.id().to_owned();
        let work = Work { node: worker, sandbox, container, location, deadline };
        blocking("write the checkpoint", move || work.run())
            .await
            .map_err(|error| error.within(format_args!("checkpoint of container {id}")))
    });
    task.await.map_err(|error| Error::new(Kind::Internal, format!("the checkpoint failed: {error}")))?
}

/// Where the archive goes, and how it is called.
fn location(path: &str) -> Result<(PathBuf, OsString)> {
    let whole = Path::new(path);
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) if whole.is_absolute() && !path.ends_with('/') && !path.contains('\0') => {
            Ok((parent.to_owned(), name.to_owned()))
        }
        _ => Err(Error::invalid(format!("location: {path:?} is not the absolute path of a file"))),
    }
}

/// The part that blocks.
struct Work {
    node: Arc<Node>,
    sandbox: Arc<Sandbox>,
    container: Arc<Container>,
    location: (PathBuf, OsString),
    deadline: Instant,
}

impl Work {
    fn run(&self) -> Result<()> {
        let program = self.node.config.criu.clone();
        Criu { program: program.clone(), ..Criu::default() }.check()?;
        let record = &self.container.record;
        let bundle = self.node.paths.container(&record.sandbox, &record.id);
        let spec = spec_of(&bundle)?;
        let staging = Staging::make(&self.node.paths, self.container.id(), &self.location)?;
        let criu = Criu {
            program,
            images: staging.images(),
            work: Some(staging.content()),
            options: OPTIONS.map(str::to_owned).to_vec(),
            cgroups: "soft".to_owned(),
        };
        let frozen = Frozen::freeze(&self.node, &record.cgroup)?;
        self.dump(&criu, &spec, &staging, &frozen)?;
        let layer = self.node.images.open_snapshot(self.container.id())?;
        let changes = layer.write_changes(staging.file("rootfs-diff.tar")?)?;
        frozen.thaw()?;
        if !changes.deleted.is_empty() {
            staging.write("deleted.files", &serde_json::json!(changes.deleted))?;
        }
        documents::write(&self.sandbox, &self.container, &spec, &staging)?;
        if let Some(log) = record.real_log_path.as_ref().or(record.log_path.as_ref()) {
            staging.copy("container.log", log)?;
        }
        staging.finish(&self.location)
    }

    fn dump(&self, criu: &Criu, spec: &Spec, staging: &Staging, frozen: &Frozen) -> Result<()> {
        let life = self.container.life();
        let pid = life.pid.filter(|pid| life.phase == ContainerPhase::Running && frozen.has(*pid));
        let pid = pid.ok_or_else(|| Error::new(Kind::Precondition, "it has ended"))?;
        let limit = self.deadline.saturating_duration_since(Instant::now());
        let freezer = frozen.0.freezer_dir().doing(|| "find the freezer")?;
        let dump = Dump {
            pid,
            leave_running: true,
            freezer: Some(&freezer),
            joined: self.joined(spec, pid)?,
            timeout: Some(limit),
            held: Some(staging.lock()),
            ..Dump::default()
        };
        criu.dump(spec, &dump).map_err(|error| match Instant::now() >= self.deadline {
            true => Error::new(Kind::Timeout, error.to_string()),
            false => error.into(),
        })
    }

    /// The namespaces that it shares with the pod, or with another container, and their inodes.
    fn joined(&self, spec: &Spec, pid: i32) -> Result<Vec<(ns::Kind, u64)>> {
        let shared = spec::pid_namespace(&self.container.record.config, &self.sandbox.record.config)?;
        let shared = spec::joined(&self.sandbox.record.config, shared);
        let mut kinds: Vec<ns::Kind> = criu::joined(spec)?.into_iter().map(|(kind, _)| kind).collect();
        kinds.extend(
            [
                (ns::Kind::Ipc, shared.ipc),
                (ns::Kind::Net, shared.net),
                (ns::Kind::Pid, shared.pid),
                (ns::Kind::User, shared.user),
                (ns::Kind::Uts, shared.uts),
            ]
            .into_iter()
            .filter_map(|(kind, is_shared)| is_shared.then_some(kind)),
        );
        let inode = |kind: ns::Kind| {
            let namespace = ns::open(Pid::from_raw(pid), kind)?;
            Ok((kind, ns::identity(&namespace)?.1))
        };
        let found: Result<_, vaquita_sys::Error> = kinds.into_iter().map(inode).collect();
        found.doing(|| "find its namespaces")
    }
}

#[expect(clippy::disallowed_methods, reason = "our own directory, which no container can write")]
fn spec_of(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let doing = || format!("read {}", path.display());
    let bytes = std::fs::read(&path).doing(doing)?;
    serde_json::from_slice(&bytes).doing(doing)
}

/// A container that stands still. It goes on when this is dropped.
#[derive(Debug)]
struct Frozen(Cgroup);

impl Frozen {
    fn freeze(node: &Node, cgroup: &Path) -> Result<Self> {
        let doing = || format!("freeze {}", cgroup.display());
        let frozen = Self(Cgroup::open(&node.layout, cgroup).doing(doing)?);
        frozen.0.freeze().doing(doing)?;
        Ok(frozen)
    }

    /// Whether a process is in it: what is frozen does not end, so its number is its own.
    fn has(&self, pid: i32) -> bool {
        self.0.procs().is_ok_and(|all| all.contains(&pid))
    }

    fn thaw(self) -> Result<()> {
        self.0.thaw().doing(|| format!("thaw {}", self.0.path().display()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.0.thaw()
            && error.kind() != vaquita_cgroup::Kind::NotFound
        {
            tracing::error!(cgroup = %self.0.path().display(), %error, "a container stays frozen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_an_absolute_path() {
        let (dir, name) = location("/var/lib/kubelet/checkpoints/a.tar").unwrap();
        assert_eq!(
            (dir.as_path(), name.to_str().unwrap()),
            (Path::new("/var/lib/kubelet/checkpoints"), "a.tar")
        );
        for bad in ["", "a.tar", "/", "/a/", "/a/..", "/a\0b"] {
            assert_eq!(location(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
