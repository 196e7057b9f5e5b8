//! Steps that make nodes, links and terminals, and set up what the program finds open.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, FsWord, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use vaquita_sys::root::openat2;
use vaquita_sys::tty::{self, Size};

use super::mounts::{file_type, filesystem_of};
use super::place::{IN_ROOT, make, open, open_or_make, open_parent};
use super::{At, Failure, State, fail};
use crate::plan::devices::DevicePlan;
use crate::plan::path::Inside;

/// `DEVPTS_SUPER_MAGIC` (linux/magic.h).
const DEVPTS: FsWord = 0x1cd1;

pub(super) fn make_device(state: &State<'_>, device: &DevicePlan) -> Result<(), Failure> {
    let Some(name) = device.path.name() else { return fail("mknodat", Errno::ISDIR) };
    if device.is_of_host {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = open(state.root()?, &device.path, flags)?;
        return if differs(&node, device)? { fail("fstat", Errno::EXIST) } else { Ok(()) };
    }
    let directory = open_parent(state.root()?, &device.path)?;
    let mode = Mode::from_raw_mode(device.mode.unwrap_or(0o666));
    match rustix::fs::mknodat(&directory, name, device.kind, mode, device.number()) {
        Ok(()) => {}
        Err(Errno::EXIST) => return use_device(&directory, name, device),
        Err(errno) => return fail("mknodat", errno),
    }
    let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    if (uid, gid) != (0, 0) {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&directory, name, owner.0, owner.1, flags).at("fchownat")?;
    }
    Ok(())
}

/// A node from the image: as good if it is the same. It keeps its owner and mode unless others were asked for.
#[expect(clippy::disallowed_methods, reason = "one name, not followed")]
fn use_device(directory: &OwnedFd, name: &CStr, device: &DevicePlan) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::io::retry_on_intr(|| rustix::fs::openat(directory, name, flags, Mode::empty()))
        .at("openat")?;
    if !is_same(&node, device)? {
        return fail("mknodat", Errno::EXIST);
    }
    if !differs(&node, device)? {
        return Ok(());
    }
    let (uid, gid) = (device.uid.map(Uid::from_raw), device.gid.map(Gid::from_raw));
    rustix::fs::chownat(&node, c"", uid, gid, AtFlags::EMPTY_PATH).at("fchownat")?;
    match device.mode {
        Some(mode) => vaquita_sys::fs::set_mode(node.as_fd(), mode).at("chmod"),
        None => Ok(()),
    }
}

fn is_same(node: &OwnedFd, device: &DevicePlan) -> Result<bool, Failure> {
    let stat = rustix::fs::fstat(node).at("fstat")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(kind == device.kind && (kind == FileType::Fifo || stat.st_rdev == device.number()))
}

/// Whether the node is another than was asked for, or has another mode or owner.
fn differs(node: &OwnedFd, device: &DevicePlan) -> Result<bool, Failure> {
    let stat = rustix::fs::fstat(node).at("fstat")?;
    let other = |asked: Option<u32>, found| asked.is_some_and(|asked| asked != found);
    Ok(!is_same(node, device)?
        || other(device.mode, stat.st_mode & 0o7777)
        || other(device.uid, stat.st_uid)
        || other(device.gid, stat.st_gid))
}

#[expect(clippy::disallowed_methods, reason = "a node of the host, verified before it is used")]
pub(super) fn bind_device(state: &mut State<'_>, device: &DevicePlan, host: &CStr) -> Result<(), Failure> {
    let node =
        rustix::io::retry_on_intr(|| rustix::fs::open(host, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))
            .at("open")?;
    if !is_same(&node, device)? {
        return fail("fstat", Errno::NODEV);
    }
    let tree = state.trees.copy(node.as_fd(), false)?;
    let place = open_or_make(state.root()?, &device.path)?;
    Ok(state.trees.attach(tree.as_fd(), place.as_fd())?)
}

pub(super) fn link(state: &State<'_>, path: &Inside, target: &CStr) -> Result<(), Failure> {
    let Some(name) = path.name() else { return fail("symlinkat", Errno::ISDIR) };
    let directory = open_parent(state.root()?, path)?;
    match rustix::fs::symlinkat(target, &directory, name) {
        // The image has something there; it stays.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => fail("symlinkat", errno),
    }
}

/// The slave is opened through its master, and bound by descriptor (CVE-2025-52565).
pub(super) fn terminal(
    state: &mut State<'_>,
    devpts: &Inside,
    console: Option<&Inside>,
    size: Size,
) -> Result<(), Failure> {
    let devpts = open(state.root()?, devpts, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
    if filesystem_of(&devpts)? != DEVPTS {
        return fail("fstatfs", Errno::NODEV);
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat2(devpts.as_fd(), c"ptmx", flags, Mode::empty(), resolve).at("openat2(ptmx)")?;
    if rustix::fs::fstat(&master).at("fstat")?.st_rdev != rustix::fs::makedev(5, 2) {
        return fail("fstat", Errno::NODEV);
    }
    rustix::pty::unlockpt(&master).at("ioctl(TIOCSPTLCK)")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).at("ioctl(TIOCGPTPEER)")?;
    if size != Size::default() {
        tty::set_size(&master, size).at("ioctl(TIOCSWINSZ)")?;
    }
    if let Some(console) = console {
        let tree = state.trees.copy(slave.as_fd(), false)?;
        let place = open_or_make(state.root()?, console)?;
        state.trees.attach(tree.as_fd(), place.as_fd())?;
    }
    state.master = Some(master);
    state.slave = Some(slave);
    Ok(())
}

pub(super) fn change_directory(state: &State<'_>, path: &Inside) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match open(state.root()?, path, flags) {
        Err(Failure { errno: Errno::NOENT, .. }) => make(state.root()?, path, true, IN_ROOT)?,
        other => other?,
    };
    rustix::process::fchdir(&directory).at("fchdir")?;
    // Outside of the root the kernel answers "(unreachable)/..." (CVE-2024-21626).
    if vaquita_sys::process::cwd_is_reachable().at("getcwd")? { Ok(()) } else { fail("getcwd", Errno::XDEV) }
}

pub(super) fn use_fds(fds: &[BorrowedFd<'_>; 3], uid: u32) -> Result<(), Failure> {
    for fd in fds {
        give(*fd, uid)?;
    }
    rustix::stdio::dup2_stdin(fds[0]).at("dup2")?;
    rustix::stdio::dup2_stdout(fds[1]).at("dup2")?;
    rustix::stdio::dup2_stderr(fds[2]).at("dup2")
}

pub(super) fn use_terminal(state: &State<'_>, uid: u32) -> Result<(), Failure> {
    let Some(slave) = &state.slave else { return fail("dup2", Errno::BADF) };
    if uid != 0 {
        rustix::fs::fchown(slave, Some(Uid::from_raw(uid)), None).at("fchown")?;
    }
    tty::set_controlling(slave).at("ioctl(TIOCSCTTY)")?;
    rustix::stdio::dup2_stdin(slave).at("dup2")?;
    rustix::stdio::dup2_stdout(slave).at("dup2")?;
    rustix::stdio::dup2_stderr(slave).at("dup2")
}

/// A pipe belongs to its user, who can then open /dev/stdout anew, as many programs do.
fn give(fd: BorrowedFd<'_>, uid: u32) -> Result<(), Failure> {
    if uid == 0 || file_type(fd)? != FileType::Fifo {
        return Ok(());
    }
    match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None) {
        // Not possible with every pipe, nor in every user namespace; the program can write to it all the same.
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(errno) => fail("fchown", errno),
    }
}
