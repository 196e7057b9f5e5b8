//! Work in a mount namespace that nobody else is in.

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use vaquita_sys::ns::unshare;
use vaquita_sys::process::CloneFlags;

const STACK: usize = 256 << 10;

/// Does `work` on a thread that has a mount namespace and a working directory of its own, which both go with it. What it mounts
/// nobody else sees, but what it returns detached.
#[expect(clippy::disallowed_methods, reason = "the root of a mount namespace of its own")]
pub(super) fn apart<T: Send>(work: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    let inside = || {
        unshare(CloneFlags::NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("overlay".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, inside).map_err(|_| Errno::AGAIN)?;
        thread.join().unwrap_or(Err(Errno::IO))
    })
}
