//! `checkpoint` and `restore`, by CRIU (criu(8)) where the host has it.
//!
//! CRIU writes the processes of a container to files and makes them again from those. What is the host's and not the
//! container's, bind mounts, device nodes and namespaces that were joined, it is told by name: it leaves them out, and
//! expects them to be there again.

#![expect(
    clippy::disallowed_methods,
    reason = "the bundle and the image, which whoever calls vouches for, and the host's /proc"
)]

mod mountpoint;

use std::path::{Path, PathBuf};

use vaquita_cgroup::Layout;
use vaquita_runtime::criu::{self, Criu};

use self::mountpoint::Mountpoint;
use crate::create::{Create, Request, place, prepare};
use crate::foreground::Signals;
use crate::pid_file::PidFile;
use crate::state::Init;
use crate::{Container, Error, Host, Id, Kind, Status};

/// How a container is written to files.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Where, and what is allowed.
    pub criu: Criu,
    /// The container goes on afterwards; it is deleted otherwise.
    pub leave_running: bool,
    /// Memory only, and the container goes on.
    pub pre_dump: bool,
    /// The files of a pre-dump before, relative to the directory of the files.
    pub parent: Option<PathBuf>,
}

/// How a container is made from files.
#[derive(Debug, Default)]
pub struct Restore {
    /// Where, and what is allowed.
    pub criu: Criu,
    /// As at create: the bundle and the file for the pid are used.
    pub create: Create,
    /// Return when it runs.
    pub detach: bool,
}

/// Writes a container to files.
///
/// # Errors
/// [`Kind::NotRunning`]; [`Kind::Unsupported`] without CRIU, or with one that does not work on this kernel; what CRIU says.
pub fn checkpoint(host: &Host, id: &Id, how: &Checkpoint) -> Result<(), Error> {
    let container = Container::lock(host, id)?;
    match container.progress()? {
        Status::Running => {}
        status => {
            let message =
                format!("container not running: a {} container cannot be checkpointed", status.as_str());
            return Err(Error::new(Kind::NotRunning, message));
        }
    }
    check(&how.criu)?;
    let spec = container.spec()?;
    make_directory(&how.criu.images)?;
    let mut joined = Vec::new();
    for (kind, namespace) in criu::joined(&spec)? {
        joined.push((kind, vaquita_sys::ns::identity(&namespace)?.1));
    }
    let dump = criu::Dump {
        pid: container.record.init.map_or(0, |init| init.pid),
        root: Some(&container.record.rootfs),
        leave_running: how.leave_running,
        pre_dump: how.pre_dump,
        parent: how.parent.as_deref(),
        joined,
        ..criu::Dump::default()
    };
    how.criu.dump(&spec, &dump).map_err(|error| with_log(error, &how.criu, "dump.log"))?;
    if how.leave_running || how.pre_dump {
        return Ok(());
    }
    crate::delete::clear(host, container)
}

/// Makes a container from files and returns its exit code, 0 with `detach`.
///
/// # Errors
/// As those of create, and of [`checkpoint`].
pub fn restore(host: &Host, id: &Id, how: &Restore) -> Result<i32, Error> {
    check(&how.criu)?;
    let request = Request::read(host, &how.create)?;
    let signals = if how.detach { None } else { Some(Signals::take()?) };
    if !how.detach {
        // CRIU makes the process and is gone: it comes to the one that takes in orphans.
        vaquita_sys::process::set_subreaper()
            .map_err(|errno| Error::kernel("prctl(PR_SET_CHILD_SUBREAPER, 1)", errno))?;
    }
    let mut container = prepare(host, id, &request)?;
    let init = match restore_in(&mut container, how, &request) {
        Ok(init) => init,
        Err(error) => {
            crate::delete::clear(host, container)?;
            return Err(error);
        }
    };
    let Some(signals) = signals else { return Ok(0) };
    container.unlock()?;
    let Some(pidfd) = init.open()? else { return Ok(0) };
    let code = signals.stay_with(&pidfd, None)?;
    container.directory.lock()?;
    crate::delete::clear(host, container)?;
    Ok(code)
}

fn restore_in(container: &mut Container, how: &Restore, request: &Request) -> Result<Init, Error> {
    let layout = Layout::detect()?;
    let plan = request.plan(container.id())?;
    let mut placed = place(container, &layout, &request.spec, &plan)?;
    if let Some(cgroup) = placed.cgroup() {
        cgroup.finish()?;
        // Before anything of it runs: nobody else does it here.
        cgroup.set_devices(plan.device_rules())?;
    }
    container.record.cgroup.note_parents(&placed);
    let root = Mountpoint::make(container.directory.file("criu-root"), &container.record.rootfs)?;
    let pid_file = Temporary(container.directory.file("criu.pid"));
    let made = criu::Restore {
        root: root.path(),
        pid_file: &pid_file.0,
        cgroup: container.record.cgroup.path(),
        joined: criu::joined(&request.spec)?,
    };
    let made = how.criu.restore(&request.spec, &made);
    let pid = made.map_err(|error| with_log(error, &how.criu, "restore.log"))?;
    let init = Init::new(pid)?;
    container.record.init = Some(init);
    container.save()?;
    placed.settle(init.pid)?;
    vaquita_runtime::owner::give(&request.spec, plan.has_other_users(), placed.cgroup(), init.pid)?;
    if let Some(path) = &how.create.pid_file {
        PidFile::open(path)?.write(init.pid)?;
    }
    Ok(init)
}

/// A file that goes when this is dropped, if it is there.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn make_directory(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io(format!("mkdir({path:?}, 0700)"), &error))
        }
        _ => Ok(()),
    }
}

/// Before anything is done to a container.
fn check(criu: &Criu) -> Result<(), Error> {
    if crate::rootless::is_needed()? {
        return Err(Error::new(Kind::Unsupported, "CRIU writes and makes containers of root only: be root"));
    }
    Ok(criu.check()?)
}

/// Where there is more to read than what is told.
fn with_log(error: vaquita_runtime::Error, criu: &Criu, log: &str) -> Error {
    let path = criu.log(log);
    let is_there = path.exists();
    let error = Error::from(error);
    if is_there { Error::new(error.kind(), format!("{error}; see {path:?}")) } else { error }
}
