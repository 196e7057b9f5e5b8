//! A runtime, and the place where all of them work.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_move};
use vaquita_sys::ns::unshare;
use vaquita_sys::process::CloneFlags;

use super::bundle::GROUP;
use crate::AnyError;
use crate::peer::{cgroup_mounts, remove_groups};

/// An OCI runtime with a state directory of its own.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    program: PathBuf,
    root: PathBuf,
}

impl Peer {
    /// The runtime at `path`, known by `name`; the state is kept below `dir`.
    pub(crate) fn new(path: &Path, name: &str, dir: &Path) -> Result<Self, AnyError> {
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        let own = dir.join(name);
        std::fs::create_dir(&own).map_err(|error| format!("{name} is named twice: {error}"))?;
        let program = own.join(name);
        std::os::unix::fs::symlink(path, &program)?;
        Ok(Self { name: name.to_owned(), program, root: own.join("state") })
    }

    /// The first line of `--version`.
    pub(crate) fn version(&self) -> Result<String, AnyError> {
        let output = Command::new(&self.program).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    }

    /// A command of it that gets nothing to read and whose output is dropped.
    pub(crate) fn command(&self, args: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        self.complete(&mut command, args);
        command
    }

    /// The same under another program, which gets it as arguments.
    pub(crate) fn command_under(&self, mut wrapper: Command, args: &[&OsStr]) -> Command {
        wrapper.arg(&self.program);
        self.complete(&mut wrapper, args);
        wrapper
    }

    fn complete(&self, command: &mut Command, args: &[&OsStr]) {
        command.arg("--root").arg(&self.root).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }

    /// Runs a command that must succeed, and says how long it took.
    pub(crate) fn timed(&self, args: &[&OsStr]) -> Result<Duration, AnyError> {
        let mut command = self.command(args);
        let start = Instant::now();
        let status = command.status()?;
        let time = start.elapsed();
        if status.success() {
            return Ok(time);
        }
        // Once more for the reason.
        let output = self.command(args).stderr(Stdio::piped()).output()?;
        let reason = String::from_utf8_lossy(&output.stderr);
        let words: Vec<_> = args.iter().map(|word| word.to_string_lossy()).collect();
        Err(format!("{} {}: {status}: {}", self.name, words.join(" "), reason.trim_end()).into())
    }

    /// Forgets every container of this runtime.
    pub(crate) fn remove_leftovers(&self) {
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let id = entry.file_name();
            let _ = self.command(&["delete".as_ref(), "--force".as_ref(), &id]).status();
        }
    }
}

/// Goes into a mount namespace where crun works: on a hybrid host with the v1 controllers alone.
pub(crate) fn private_control_groups(scratch: &Path) -> Result<(), AnyError> {
    unshare(CloneFlags::NEWNS).map_err(|error| format!("unshare(CLONE_NEWNS): {error}"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let controllers = cgroup_mounts();
    let is_hybrid = controllers.iter().any(|mount| mount.ends_with("unified"));
    if !is_hybrid {
        return Ok(());
    }
    let aside = scratch.join("cgroup");
    std::fs::create_dir(&aside)?;
    let mut moved = Vec::new();
    for controller in controllers.iter().filter(|mount| !mount.ends_with("unified")) {
        let name = controller.file_name().unwrap_or_default();
        std::fs::create_dir(aside.join(name))?;
        mount_bind(controller, aside.join(name))?;
        moved.push(name.to_owned());
    }
    mount("tmpfs", "/sys/fs/cgroup", "tmpfs", MountFlags::empty(), None)?;
    for name in moved {
        let to = Path::new("/sys/fs/cgroup").join(&name);
        std::fs::create_dir(&to)?;
        mount_move(aside.join(&name), to)?;
    }
    std::fs::remove_dir_all(&aside)?;
    Ok(())
}

/// Removes what the runtimes left in the hierarchies.
pub(crate) fn remove_control_groups() {
    for mount in cgroup_mounts() {
        remove_groups(&mount.join(GROUP));
    }
}
