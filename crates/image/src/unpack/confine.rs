//! What the unpacking process gives up before it reads the first byte of a layer.
//!
//! Whoever finds a way to make the process do what he likes is to find nothing in it but the layer's own directory:
//!
//! * **Files.** The directory becomes the root of the process, on a copy of its mount that nobody else sees: no path leads
//!   out, no device file in it can be opened, no program in it can be run. Landlock says so once more: beneath that
//!   directory files may be made, written, linked and removed, not read or executed, and nowhere else anything at all.
//! * **Network.** There is no call that makes a socket, and nobody has given the process one. A network namespace of its own
//!   would take away nothing further, and costs the kernel 0.7 ms for each layer. Landlock denies TCP besides.
//! * **Other processes.** No call that signals, traces or looks into another process; none that makes one or executes a
//!   program; no memory becomes executable. Landlock denies signals besides.
//! * **Privileges.** The capabilities that files of any owner and kind need, and `CAP_SYS_ADMIN` for one reason: overlayfs
//!   wants `trusted.overlay.opaque`. What else that would allow are calls that the filter does not have.
//! * **Resources.** Bounded: heap, descriptors, the size of a file; no core dump.
//!
//! The filter of calls is never left out. Of the rest, what the kernel is too old for is told in the log.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use vaquita_sys::cap::{self, CapSet, Capability};
use vaquita_sys::landlock::{self, Ruleset, file};
use vaquita_sys::mount::raw::{Attr, Attributes, mount_setattr, open_tree_clone};
use vaquita_sys::seccomp;

use super::calls;
use crate::Error;

/// Most heap of the process: a zstd window of 32 MiB, buffers, and room to spare.
const HEAP: u64 = 192 << 20;
/// Most descriptors.
const FILES: u64 = 64;
/// The version of Landlock that can have files linked from one directory to another (Linux 5.19).
const LANDLOCK: u32 = 2;

/// Confines the calling process, which must have one thread, to `dir` for good, and returns that directory, to be used from
/// here on. No file may become larger than `size`.
///
/// # Errors
/// [`Kind::Kernel`](crate::Kind::Kernel) with the call that failed; the process must end then.
#[expect(clippy::disallowed_methods, reason = "the root of a mount that was just made")]
pub fn confine(dir: OwnedFd, size: u64) -> Result<OwnedFd, Error> {
    let call = |what: &'static str| move |e: Errno| Error::kernel(what, e);
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(call("prctl(PR_SET_PDEATHSIG)"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(call("prctl(PR_SET_DUMPABLE)"))?;
    rustix::thread::set_no_new_privs(true).map_err(call("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    limit(size).map_err(call("setrlimit"))?;

    let tree =
        open_tree_clone(dir.as_fd(), c"", false).map_err(call("open_tree(<layer>, OPEN_TREE_CLONE)"))?;
    drop(dir);
    let set = Attributes::NODEV | Attributes::NOEXEC | Attributes::NOSUID;
    match mount_setattr(tree.as_fd(), c"", false, &Attr { set, ..Attr::default() }) {
        Ok(()) | Err(Errno::NOSYS) => {}
        Err(e) => return Err(Error::kernel("mount_setattr(<layer>)", e)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::openat(&tree, ".", flags, Mode::empty()).map_err(call("openat(<layer>, \".\")"))?;
    rustix::process::fchdir(&root).map_err(call("fchdir(<layer>)"))?;
    rustix::process::chroot(".").map_err(call("chroot(<layer>)"))?;

    if let Some(version) = landlock::version().filter(|version| *version >= LANDLOCK) {
        let ruleset = Ruleset::everything(version).map_err(call("landlock_create_ruleset"))?;
        ruleset.allow_beneath(root.as_fd(), BENEATH).map_err(call("landlock_add_rule(<layer>)"))?;
        ruleset.restrict_self().map_err(call("landlock_restrict_self"))?;
    }
    let keep: CapSet = KEPT.into_iter().collect();
    let held = cap::held().map_err(call("capget"))?;
    let keep = keep.intersection(held.permitted);
    cap::set(keep, keep, CapSet::EMPTY).map_err(call("capset"))?;
    // Where the processor is slowed down for a filter (before Linux 5.16), it would be for no secret of this process.
    seccomp::install(&seccomp::filter(&calls::rules()), seccomp::FLAG_SPEC_ALLOW).map_err(call("seccomp"))?;
    Ok(root)
}

/// Tells, once, what of [`confine`] this kernel is too old for.
pub(crate) fn tell_gaps() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let gaps = gaps();
        if !gaps.is_empty() {
            tracing::warn!(
                "the processes that unpack layers are confined without {}",
                gaps.join(" and without ")
            );
        }
    });
}

fn gaps() -> Vec<&'static str> {
    let mut gaps = Vec::new();
    if landlock::version().is_none_or(|version| version < LANDLOCK) {
        gaps.push("Landlock (Linux 5.19, and in the kernel's list of security modules)");
    }
    // Nothing is to be changed, so the call only says whether it is there.
    if mount_setattr(rustix::fs::CWD, c".", false, &Attr::default()) == Err(Errno::NOSYS) {
        gaps.push("a mount where no device file can be opened (Linux 5.12)");
    }
    gaps
}

/// What may be done beneath the directory.
const BENEATH: u64 = file::WRITE_FILE
    | file::READ_DIR
    | file::REMOVE_DIR
    | file::REMOVE_FILE
    | file::MAKE_CHAR
    | file::MAKE_DIR
    | file::MAKE_REG
    | file::MAKE_FIFO
    | file::MAKE_BLOCK
    | file::MAKE_SYM
    | file::REFER
    | file::TRUNCATE;

const KEPT: [Capability; 7] = [
    Capability::CHOWN,
    Capability::DAC_OVERRIDE,
    Capability::FOWNER,
    Capability::FSETID,
    Capability::MKNOD,
    Capability::SETFCAP,
    Capability::SYS_ADMIN,
];

/// The number of processes is not among them: the kernel does not count those of root. The filter makes none.
fn limit(size: u64) -> Result<(), Errno> {
    let limits = [
        (Resource::Core, 0),
        (Resource::Data, HEAP),
        (Resource::Fsize, size),
        (Resource::Memlock, 0),
        (Resource::Nofile, FILES),
    ];
    for (resource, limit) in limits {
        let old = rustix::process::getrlimit(resource);
        let limit = old.maximum.map_or(limit, |maximum| maximum.min(limit));
        rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}
