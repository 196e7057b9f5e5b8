//! Helpers: children that report by their exit code, files to play with.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use vaquita_sys::mount::{Filesystem, move_mount};
use vaquita_sys::process::{Clone, CloneFlags, Exit, Forked, clone3, exit_now, wait_pidfd};
use vaquita_testing::{TempDir, temp_dir};

/// Runs `body` in a child made with these flags; the child's exit code is its result. The body must not panic or
/// allocate: other tests' threads may hold locks at the moment of the clone.
pub(crate) fn in_child(flags: CloneFlags, body: impl FnOnce() -> i32) -> Exit {
    let how = Clone { flags, ..Clone::default() };
    // SAFETY: the child runs code that neither allocates nor locks, and exits.
    match unsafe { clone3(&how) }.unwrap() {
        Forked::Child => exit_now(body()),
        Forked::Parent { pidfd, .. } => wait_pidfd(pidfd).unwrap(),
    }
}

/// 0, or the error number: for exit codes.
pub(crate) fn code(result: Result<(), vaquita_sys::Errno>) -> i32 {
    result.map_or_else(|errno| errno.raw_os_error(), |()| 0)
}

/// A tmpfs that only this thread sees, so that nothing is left on the host.
pub(crate) fn detached_tmpfs() -> OwnedFd {
    Filesystem::open("tmpfs").unwrap().create().unwrap()
}

/// Runs a test body on a thread with a mount namespace of its own, in which `/` does not propagate.
pub(crate) fn with_own_mounts(body: impl FnOnce(&Path) + Send) {
    let dir = temp_dir();
    let path = dir.path().to_owned();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            unshare_mounts();
            let tmpfs = detached_tmpfs();
            move_mount(&tmpfs, rustix::fs::CWD, &path).unwrap();
            body(&path);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A directory with a root to resolve in, and a canary beside it that must not change.
pub(crate) struct Yard {
    _dir: TempDir,
    pub(crate) root: PathBuf,
    pub(crate) outside: PathBuf,
}

impl Yard {
    pub(crate) fn new() -> Self {
        let dir = temp_dir();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "alive").unwrap();
        Self { _dir: dir, root, outside }
    }

    pub(crate) fn open(&self) -> vaquita_sys::root::Root {
        vaquita_sys::root::Root::open_host(&self.root).unwrap()
    }

    /// Whether the outside is as it was.
    pub(crate) fn assert_intact(&self) {
        let names: Vec<_> =
            std::fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["canary"]);
        assert_eq!(std::fs::read(self.outside.join("canary")).unwrap(), b"alive");
    }
}

/// Where an open file is, as the kernel says.
pub(crate) fn place(fd: impl AsFd) -> PathBuf {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd());
    std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()
}

fn unshare_mounts() {
    use vaquita_sys::mount::{Attr, Propagation, mount_setattr};
    // A thread may have its own mounts once it does not share its working directory with the others.
    // SAFETY: this thread opened no file that others use; only cwd, root and umask stop being shared.
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS | rustix::thread::UnshareFlags::NEWNS)
    }
    .unwrap();
    let private = Attr { propagation: Some(Propagation::Private), ..Attr::default() };
    mount_setattr(rustix::fs::CWD, "/", true, &private).unwrap();
}
