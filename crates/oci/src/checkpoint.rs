//! `checkpoint` and `restore`, by CRIU (criu(8)) where the host has it.
//!
//! CRIU writes the processes of a container to files and makes them again from those. What is the host's and not the
//! container's, bind mounts, device nodes and namespaces that were joined, it is told by name: it leaves them out, and
//! expects them to be there again.

#![expect(
    clippy::disallowed_methods,
    reason = "the bundle and the image, which whoever calls vouches for, and the host's /proc"
)]

mod arguments;
mod mountpoint;
mod stdio;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Pid;
use vaquita_cgroup::Layout;
use vaquita_sys::mount::{MountInfo, parse_mountinfo};
use vaquita_sys::procfs::Procfs;

use self::mountpoint::Mountpoint;
use crate::create::{Create, Request, place, prepare};
use crate::foreground::Signals;
use crate::pid_file::PidFile;
use crate::state::Init;
use crate::{Container, Error, Host, Id, Kind, Status};

/// Of what a container's mountinfo may have, in bytes.
const LONGEST_TABLE: usize = 16 << 20;

/// Where a checkpoint is, and what CRIU is allowed; its manual explains each.
#[derive(Clone, Debug, Default)]
pub struct Criu {
    /// The program.
    pub program: PathBuf,
    /// The directory of the files.
    pub images: PathBuf,
    /// The directory of logs, if another.
    pub work: Option<PathBuf>,
    /// Options that are CRIU's own: established TCP connections, file locks and the like, as it takes them.
    pub options: Vec<String>,
    /// `soft`, `full`, `strict` or `ignore`.
    pub cgroups: String,
}

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
    let pid = container.record.init.map_or(0, |init| init.pid);
    make_directory(&how.criu.images)?;
    let procfs = Procfs::host()?;
    let mounts = mounts(&procfs, pid)?;
    let names = stdio::names(&procfs, pid, &mounts)?;
    let mut arguments = arguments::dump(how, pid, &container.record.rootfs);
    arguments.extend(arguments::external_on_dump(&spec, &Layout::detect()?, &mounts)?);
    arguments.extend(stdio::on_dump(&names));
    call(&how.criu, &arguments, "dump.log", &[])?;
    stdio::write(&how.criu.images, &names)?;
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
    let mut arguments = arguments::restore(how, root.path(), &pid_file.0, container.record.cgroup.path());
    arguments.extend(arguments::external_on_restore(&request.spec, &layout)?);
    call(&how.criu, &arguments, "restore.log", &stdio::read(&how.criu.images)?)?;
    let text = std::fs::read_to_string(&pid_file.0)
        .map_err(|error| Error::io(format!("read({:?})", pid_file.0), &error))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::new(Kind::Other, format!("CRIU wrote {text:?} and no pid")))?;
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

/// The mounts that the process sees.
fn mounts(procfs: &Procfs, pid: i32) -> Result<Vec<MountInfo>, Error> {
    let table = procfs.read(format!("{pid}/mountinfo"), LONGEST_TABLE)?;
    parse_mountinfo(&table).map_err(|line| {
        Error::new(Kind::Other, format!("line {line:?} of /proc/{pid}/mountinfo does not read"))
    })
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

/// Whether CRIU is there and works on this kernel: found out before anything is done to a container.
fn check(criu: &Criu) -> Result<(), Error> {
    if crate::rootless::is_needed()? {
        return Err(Error::new(Kind::Unsupported, "CRIU writes and makes containers of root only: be root"));
    }
    let output = Command::new(&criu.program).arg("check").stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        let program = &criu.program;
        Error::new(
            Kind::Unsupported,
            format!("CRIU is needed, and {program:?} cannot be executed ({error}): install criu, or name it with --criu"),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = last_error(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    let program = &criu.program;
    Err(Error::new(
        Kind::Unsupported,
        format!("{program:?} does not work on this kernel, as `criu check` tells: {said}"),
    ))
}

/// `streams` are names of what CRIU gets of the caller's own standard streams.
fn call(criu: &Criu, arguments: &[String], log: &str, streams: &[String]) -> Result<(), Error> {
    let mut command = Command::new(&criu.program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    stdio::on_restore(&mut command, streams);
    let output = command.spawn().and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|error| Error::io(format!("execve({:?})", criu.program), &error))?;
    if output.status.success() {
        return Ok(());
    }
    let path = criu.work.as_ref().unwrap_or(&criu.images).join(log);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).into_owned());
    let said = last_error(&text);
    Err(Error::new(Kind::Other, format!("criu failed ({}): {said}; see {path:?}", output.status)))
}

/// The last complaint of a log that says more than that it failed, or its last line.
fn last_error(log: &str) -> String {
    let is_error = |line: &&str| line.contains("Error (") && !line.ends_with("FAILED.");
    let line = log.lines().rev().find(is_error).or_else(|| log.lines().last());
    line.unwrap_or("it says nothing").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_counts() {
        let log = "(00.1) Error (a.c:1): first\n(00.2) Error (b.c:2): second\n(00.3) Error (c.c:3): Dumping FAILED.\nDumping FAILED.\n";
        assert_eq!(last_error(log), "(00.2) Error (b.c:2): second");
        assert_eq!(last_error("one\ntwo\n"), "two");
        assert_eq!(last_error(""), "it says nothing");
    }
}
