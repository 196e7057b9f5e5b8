//! Namespaces that only children can be in.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use vaquita_sys::ns;
use vaquita_sys::process::CloneFlags;
use vaquita_sys::procfs::Procfs;

use crate::{Error, Kind};

/// Runs `make` so that the children it makes are in a new time namespace with these offsets.
pub(super) fn in_time_namespace<T: Send>(
    offsets: Option<&str>,
    make: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let Some(offsets) = offsets else { return make() };
    let inside = || {
        // A clone that makes the namespace is in it at once, and with that the offsets are fixed. So this thread makes it
        // for its children, and ends, because only a process of one thread could go back.
        ns::unshare(CloneFlags::NEWTIME).map_err(|errno| match errno {
            Errno::INVAL => Error::unsupported(
                "linux.namespaces: a time namespace needs Linux 5.6 with CONFIG_TIME_NS: unshare(CLONE_NEWTIME): EINVAL",
            ),
            errno => Error::kernel("unshare(CLONE_NEWTIME)", errno),
        })?;
        if !offsets.is_empty() {
            let thread = rustix::thread::gettid();
            Procfs::host()?.write(format!("{thread}/timens_offsets"), offsets)?;
        }
        make()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("time".to_owned()).spawn_scoped(scope, inside);
        let thread = thread.map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
            Error::kernel("clone(<thread for a time namespace>)", errno)
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `make` so that the children it makes are in the PID namespace.
pub(super) fn in_pid_namespace<T>(
    namespace: Option<BorrowedFd<'_>>,
    make: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let Some(namespace) = namespace else { return make() };
    let own = ns::open(None, ns::Kind::Pid)?;
    let join = |fd: BorrowedFd<'_>| match ns::setns(fd, ns::Kind::Pid) {
        // The descriptor is a pidfd of a process that has ended.
        Err(Errno::SRCH) => Err(Error::new(Kind::NotFound, "the container's process is gone".to_owned())),
        other => other.map_err(|errno| Error::kernel("setns(<pid namespace>, CLONE_NEWPID)", errno)),
    };
    join(namespace)?;
    let made = make();
    // Later children of this thread are none of that container's.
    match join(own.as_fd()) {
        // It belongs to a user namespace above, whose right to it was given up. A caller that came from there makes one
        // container or process, and ends.
        Err(error) if error.errno() == Some(Errno::PERM) && ns::is_in_user_namespace()? => {}
        other => other?,
    }
    made
}
