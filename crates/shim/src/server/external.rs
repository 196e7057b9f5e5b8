//! Containers that another OCI runtime makes: its command line in the place of what this program does itself.
//!
//! This is work of a creator (`creator`). The runtime makes the container's process as a child of its own and ends; the
//! process becomes the shim's, which takes in orphans. All that the runtime needs and keeps lies in [`HOME`] in the
//! container's bundle, and the root is mounted there in a mount namespace of the creator alone: nothing of it is left when
//! both are gone.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::process::Pid;
use vaquita_cgroup::{Cgroup, Layout, Resources};
use vaquita_sys::mount::{Attr, Propagation};
use vaquita_sys::process::{CloneFlags, open_pidfd};
use vaquita_sys::{mount, ns, socket};

use super::creator::{Made, Streams, Target, or_null, read_spec};
use crate::{CreateRequest, Error, Kind, OciRuntime, disk};

/// The directory in a bundle that the runtime works in.
const HOME: &str = "runtime";
/// How long a call may take.
const PATIENCE: Timespec = Timespec { tv_sec: 100, tv_nsec: 0 };
/// Where a runtime finds its own helpers.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The runtime of one container, about to be called.
struct Runtime<'a> {
    how: &'a OciRuntime,
    home: PathBuf,
    id: &'a str,
}

/// A socket that the runtime sends the master side of a terminal to, at a path short enough for an address.
struct Console {
    listener: UnixListener,
    path: PathBuf,
    _dir: OwnedFd,
}

/// Makes a container. The other descriptor is the master side of its terminal, if it has one.
pub(super) fn make_container(
    request: &CreateRequest,
    how: &OciRuntime,
    layout: &Layout,
    rootfs: &OwnedFd,
    streams: Streams,
    join: &[(ns::Kind, OwnedFd)],
) -> Result<Made, Error> {
    let runtime = Runtime { how, home: request.bundle.join(HOME), id: &request.id };
    let root = runtime.home.join("rootfs");
    make_dir(&runtime.home)?;
    make_dir(&root)?;
    let spec = translated(read_spec(&request.bundle)?, request, &root, join)?;
    runtime.write("config.json", &spec)?;
    attach_privately(rootfs, &root)?;
    // Of a scope the runtime has systemd make it.
    let cgroup = match how.systemd_cgroup {
        true => None,
        false => Some(Cgroup::create(layout, &request.cgroup, &Resources::default())?),
    };
    let mut command = runtime.command("create");
    command.arg("--bundle").arg(&runtime.home);
    let made = runtime.make(command, streams);
    if made.is_err() {
        let _ = runtime.delete();
        let _ = cgroup.map(|cgroup| cgroup.remove());
    }
    made
}

/// Runs a process in a container. The other descriptor is the master side of its terminal, if it has one.
pub(super) fn make_exec(
    container: &Target,
    how: &OciRuntime,
    id: &str,
    process: &[u8],
    stdio: [Option<OwnedFd>; 3],
) -> Result<Made, Error> {
    let runtime = Runtime { how, home: container.bundle.join(HOME), id };
    let spec: oci_spec::runtime::Process = vaquita_runtime::document::parse("process", process)?;
    let streams = match spec.terminal().unwrap_or_default() {
        true => Streams::Terminal,
        false => {
            let [stdin, stdout, stderr] = stdio;
            Streams::Fds([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?])
        }
    };
    let file = format!("process.{}", std::process::id());
    runtime.write(&file, process)?;
    let mut command = runtime.command("exec");
    command.arg("--detach").arg("--process").arg(runtime.home.join(&file));
    let made = runtime.make(command, streams);
    disk::remove(&runtime.home.join(&file));
    made
}

/// Starts a container that was created.
pub(super) fn start(container: &Target, how: &OciRuntime, id: &str) -> Result<(), Error> {
    let runtime = Runtime { how, home: container.bundle.join(HOME), id };
    runtime.call(runtime.command("start"), &[])
}

/// Sends a signal to the first process of a container.
pub(super) fn kill(container: &Target, how: &OciRuntime, id: &str, signal: i32) -> Result<(), Error> {
    let runtime = Runtime { how, home: container.bundle.join(HOME), id };
    runtime.call(runtime.command("kill"), &[&signal.to_string()])
}

/// Has the runtime forget a container that has ended, and forgets what it kept.
pub(super) fn delete(container: &Target, how: &OciRuntime, id: &str) -> Result<(), Error> {
    let runtime = Runtime { how, home: container.bundle.join(HOME), id };
    let deleted = runtime.delete();
    // With what it kept of a container that it does not know any more, it can do nothing either.
    let removed = disk::remove_dir(&runtime.home)
        .map_err(|error| Error::io(error, format_args!("remove {}", runtime.home.display())));
    deleted.and(removed)
}

impl Runtime<'_> {
    /// A call of the runtime, up to the name of the command.
    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.how.program);
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.arg("--root").arg(self.home.join("state"));
        command.arg("--log").arg(self.log()).args(["--log-format", "json"]);
        if self.how.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.arg(what);
        command
    }

    /// Each call writes into a file of its own: several are made at a time.
    fn log(&self) -> PathBuf {
        self.home.join(format!("log.{}", std::process::id()))
    }

    fn delete(&self) -> Result<(), Error> {
        let mut command = self.command("delete");
        command.arg("--force");
        self.call(command, &[])
    }

    /// Makes a call that has a process as its result.
    fn make(&self, mut command: Command, streams: Streams) -> Result<Made, Error> {
        let pid_file = self.home.join(format!("pid.{}", std::process::id()));
        command.arg("--pid-file").arg(&pid_file);
        let console = match streams {
            Streams::Terminal => {
                let console = Console::new(&self.home)?;
                command.arg("--console-socket").arg(&console.path);
                Some(console)
            }
            Streams::Fds([stdin, stdout, stderr]) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
        };
        let made = self.call(command, &[]).and_then(|()| {
            let text = disk::read(&pid_file)
                .map_err(|error| Error::io(error, format_args!("read {}", pid_file.display())))?;
            let (pid, pidfd) = child_of_parent(&String::from_utf8_lossy(&text))?;
            let others = console.as_ref().map(Console::terminal).transpose()?.into_iter().collect();
            Ok(Made { pid, pidfd, others })
        });
        disk::remove(&pid_file);
        made
    }

    /// Runs a call to its end. The id and `rest` are its last arguments.
    fn call(&self, mut command: Command, rest: &[&str]) -> Result<(), Error> {
        command.arg(self.id).args(rest);
        let program = self.how.program.display();
        // Whoever ends this copy ends the runtime with it.
        let _ = rustix::process::setpgid(None, None);
        let child = command.spawn().map_err(|error| Error::io(error, format_args!("execute {program}")))?;
        let ended = wait(child);
        let said = disk::read(&self.log()).map(|log| last_error(&log)).unwrap_or_default();
        disk::remove(&self.log());
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let said = said.unwrap_or_else(|| format!("it ended with {status}, and said nothing"));
                Err(Error::new(kind_of(&said), format!("{program}: {said}")))
            }
            Err(error) => Err(Error::new(error.kind(), format!("{program}: {error}"))),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        Ok(disk::write(&self.home, name, bytes)?)
    }
}

impl Console {
    fn new(home: &Path) -> Result<Self, Error> {
        let dir = disk::directory(home)
            .map_err(|errno| Error::kernel(errno, format_args!("open {}", home.display())))?;
        // By way of the open directory: an address has room for 107 bytes.
        let pid = std::process::id();
        let path = PathBuf::from(format!("/proc/{pid}/fd/{}/console.{pid}", dir.as_raw_fd()));
        let listener = UnixListener::bind(&path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|error| Error::io(error, format_args!("listen at {}", path.display())))?;
        Ok(Self { listener, path, _dir: dir })
    }

    /// What the runtime sent before it ended.
    fn terminal(&self) -> Result<OwnedFd, Error> {
        let none = |why: &dyn core::fmt::Display| {
            Error::new(Kind::Corrupt, format!("the runtime sent no terminal: {why}"))
        };
        let (stream, _) = self.listener.accept().map_err(|error| none(&error))?;
        stream.set_nonblocking(true).map_err(|error| none(&error))?;
        let (_, fds) = socket::recv(&stream, &mut [0; 4096], 1).map_err(|errno| none(&errno))?;
        fds.into_iter().next().ok_or_else(|| none(&"no descriptor"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        disk::remove(&self.path);
    }
}

/// The specification as others understand it: with the root and the namespaces by path.
fn translated(
    mut spec: Spec,
    request: &CreateRequest,
    root: &Path,
    join: &[(ns::Kind, OwnedFd)],
) -> Result<Vec<u8>, Error> {
    // All that is newer is optional, and some refuse a version that they do not know.
    spec.set_version("1.0.2".to_owned());
    let mut old_root = spec.root().clone().unwrap_or_default();
    old_root.set_path(root.to_owned());
    spec.set_root(Some(old_root));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for (kind, fd) in join {
        let (kind, flag) = match kind {
            ns::Kind::Ipc => (LinuxNamespaceType::Ipc, "ipc"),
            ns::Kind::Net => (LinuxNamespaceType::Network, "net"),
            ns::Kind::Pid => (LinuxNamespaceType::Pid, "pid"),
            ns::Kind::Uts => (LinuxNamespaceType::Uts, "uts"),
            other => {
                let message = format!(
                    "a pod with a {} namespace of its own needs the built-in runtime",
                    other.file_name()
                );
                return Err(Error::new(Kind::Unsupported, message));
            }
        };
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let namespace = LinuxNamespaceBuilder::default().typ(kind).path(path).build();
        namespaces.retain(|namespace| namespace.typ() != kind);
        namespaces.push(namespace.map_err(|error| Error::new(Kind::Invalid, format!("{flag}: {error}")))?);
    }
    linux.set_namespaces(Some(namespaces));
    linux.set_cgroups_path(Some(match request.runtime.as_ref().is_some_and(|how| how.systemd_cgroup) {
        true => scope(&request.cgroup)?,
        false => request.cgroup.clone(),
    }));
    spec.set_linux(Some(linux));
    if let Some(mut process) = spec.process().clone()
        && request.restrict_oom_score_adj
        && let Some(wanted) = process.oom_score_adj()
    {
        let lowest = disk::of_process("self", "oom_score_adj").unwrap_or_default();
        process.set_oom_score_adj(Some(wanted.max(lowest.trim().parse().unwrap_or(wanted))));
        spec.set_process(Some(process));
    }
    serde_json::to_vec(&spec)
        .map_err(|error| Error::new(Kind::Invalid, format!("write the specification: {error}")))
}

/// A scope's path as `slice:prefix:name`: `/a.slice/a-b.slice/vaquita-x.scope` is `a-b.slice:vaquita:x`.
fn scope(cgroup: &Path) -> Result<PathBuf, Error> {
    let slice = cgroup.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let name = cgroup.file_name().and_then(|name| name.to_str()?.strip_suffix(".scope")?.split_once('-'));
    match (slice, name) {
        (Some(slice), Some((prefix, name))) if slice.ends_with(".slice") => {
            Ok(format!("{slice}:{prefix}:{name}").into())
        }
        _ => {
            let message = format!("the cgroup {} is not that of a scope in a slice", cgroup.display());
            Err(Error::new(Kind::Invalid, message))
        }
    }
}

/// Mounts the root where the runtime finds it and nobody else does. Mounts of the host stay shared with it, so that a
/// container that shares some can do so.
fn attach_privately(rootfs: &OwnedFd, at: &Path) -> Result<(), Error> {
    ns::unshare(CloneFlags::NEWNS).map_err(|errno| Error::kernel(errno, "unshare(CLONE_NEWNS)"))?;
    let private = Attr { propagation: Some(Propagation::Private), ..Attr::default() };
    let mut last = None;
    for above in at.ancestors() {
        match mount::mount_setattr(CWD, above, false, &private) {
            Ok(()) => {
                mount::move_mount(rootfs, CWD, at)?;
                return Ok(());
            }
            // Not the root of a mount: what it is on begins further up.
            Err(error) if error.errno() == Errno::INVAL => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or_else(|| Error::new(Kind::Invalid, "the bundle is on no mount"), Error::from))
}

/// The process that the runtime has written down and that is now a child of who has started this copy.
fn child_of_parent(text: &str) -> Result<(i32, OwnedFd), Error> {
    let wrong = |why: &str| Error::new(Kind::Corrupt, format!("the runtime left {text:?} as pid: {why}"));
    let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| wrong("that is none"))?;
    let number = pid.as_raw_nonzero().get();
    let pidfd = open_pidfd(pid);
    let stat = disk::of_process(&pid.to_string(), "stat");
    let (Ok(pidfd), Some(stat)) = (pidfd, stat) else {
        // It has ended, and the shim has reaped it and keeps in mind how it ended. This copy of the shim ends, too: to send
        // it a signal will do as little.
        return Ok((number, open_pidfd(rustix::process::getpid())?));
    };
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    if parent.and_then(Pid::from_raw) != rustix::process::getppid() {
        return Err(wrong("it is no child of the shim"));
    }
    Ok((number, pidfd))
}

fn wait(mut child: Child) -> Result<std::process::ExitStatus, Error> {
    let failed = |error| Error::io(error, "wait for it");
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        && let Ok(pidfd) = open_pidfd(pid)
    {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        if matches!(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE))), Ok(0)) {
            let _ = child.kill();
            let _ = child.wait();
            let message = format!("it did not end within {} seconds, and was killed", PATIENCE.tv_sec);
            return Err(Error::new(Kind::Timeout, message));
        }
    }
    child.wait().map_err(failed)
}

/// The text of the last error in a log of one JSON object per line, as runc and crun write it.
fn last_error(log: &[u8]) -> Option<String> {
    let lines = log.split(|byte| *byte == b'\n');
    let mut errors = lines.filter_map(|line| {
        let entry: serde_json::Value = serde_json::from_slice(line).ok()?;
        (entry["level"] == "error" || entry["level"] == "fatal")
            .then(|| entry["msg"].as_str().map(str::to_owned))?
    });
    errors.next_back()
}

/// Runtimes tell in words only that there is no such program.
fn kind_of(said: &str) -> Kind {
    if said.contains("executable file") && said.contains("not found")
        || said.contains("no such file or directory") && said.contains("exec")
    {
        Kind::Exec(Errno::NOENT)
    } else if said.contains("permission denied") && said.contains("exec") {
        Kind::Exec(Errno::ACCESS)
    } else {
        Kind::Unavailable
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    disk::make_dir(path).map_err(|error| Error::io(error, format_args!("make {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_named_for_systemd() {
        let path = "/kubepods.slice/kubepods-pod1.slice/vaquita-0a-b.scope";
        assert_eq!(scope(Path::new(path)).unwrap(), Path::new("kubepods-pod1.slice:vaquita:0a-b"));
        for bad in ["/vaquita/x", "/a.slice/x", "/a.slice/x.scope", "/vaquita-x.scope", "/"] {
            assert_eq!(scope(Path::new(bad)).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn the_last_error_of_a_log_is_told() {
        let log = br#"{"level":"warning","msg":"w","time":"t"}
{"level":"error","msg":"first","time":"t"}
no JSON
{"msg":"exec: \"nope\": executable file not found in $PATH","level":"error","time":"t"}
"#;
        let said = last_error(log).unwrap();
        assert_eq!(said, "exec: \"nope\": executable file not found in $PATH");
        assert_eq!(kind_of(&said), Kind::Exec(Errno::NOENT));
        assert_eq!(last_error(b""), None);
        assert_eq!(kind_of("something else"), Kind::Unavailable);
    }
}
