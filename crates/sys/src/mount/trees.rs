//! Mounts made where nobody sees them and then put into place, with either of the two mount APIs.
//!
//! With the new one (Linux 5.2, and mount_setattr of 5.12) a tree is detached until it is attached. Where open_tree,
//! move_mount or mount_setattr is missing, or a filter answers `ENOSYS` to it, mount(2) does the same in two moves: a small tmpfs that lies over `/` of
//! this mount namespace is a workshop, out of reach of everybody but this process; a tree is made there, gets its
//! attributes, and is moved (`MS_MOVE`) to where it belongs. Paths that mount(2) wants are those of `/proc/self/fd`, so
//! that here, too, what was resolved and verified is what is used.
//!
//! A filesystem is made by mount(2) in the workshop, too, where only fsopen and its like are missing, or the filesystem
//! has an option for which fsconfig(2) is too narrow; it is attached by whichever API there is.
//!
//! What mount(2) cannot do is an error (`ENOSYS`): attributes of all mounts of a tree at once, and id mappings.
//!
//! All is safe between clone and exec: no allocation.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags};

use super::Recipe;
use super::raw::{self, Attr, Attributes};
use crate::syscall::check;

/// A call that failed, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// `move_mount`, `mount`…
    pub call: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

/// Makes mounts in the mount namespace of this process.
#[derive(Debug, Default)]
pub struct Trees {
    is_old: bool,
    /// The mount namespace is not this process's own: nothing may be mounted in it.
    is_shared: bool,
    workshop: Option<OwnedFd>,
}

/// Whether mount(2) is to be used, because [`fall_back`] has found that the new API is not there.
pub fn is_old() -> bool {
    OLD.load(Ordering::Relaxed)
}

/// Asks the kernel whether it has the calls of the new mount API that nothing else stands in for, one by one. To be called
/// when something failed with `ENOSYS`, or before something is made that only they can use. What [`is_old`] says holds
/// from then on.
pub fn fall_back() {
    // None of them does anything with these arguments but say that they are wrong.
    let calls: [(libc::c_long, [libc::c_long; 5]); 3] = [
        (libc::SYS_open_tree, [-1, 0, -1, 0, 0]),
        (libc::SYS_move_mount, [-1, 0, -1, 0, -1]),
        (libc::SYS_mount_setattr, [-1, 0, 0, 0, 0]),
    ];
    let lacks = calls.iter().any(|(number, arguments)| {
        let [a, b, c, d, e] = *arguments;
        // SAFETY: no descriptor is valid and every pointer is null.
        let result = check(unsafe { libc::syscall(*number, a, b, c, d, e) });
        result == Err(Errno::NOSYS)
    });
    if lacks {
        OLD.store(true, Ordering::Relaxed);
    }
}

static OLD: AtomicBool = AtomicBool::new(false);

impl Trees {
    /// By mount(2) if `is_old`, else by the new API.
    #[must_use]
    pub const fn new(is_old: bool) -> Self {
        Self { is_old, is_shared: false, workshop: None }
    }

    /// From here on nothing is mounted in this process's mount namespace, because others are in it: what needs that fails.
    pub const fn forbid_workshop(&mut self) {
        self.is_shared = true;
    }

    /// Whether mount(2) is used.
    #[must_use]
    pub const fn is_old(&self) -> bool {
        self.is_old
    }

    /// A copy of the tree at `from`, which by mount(2) must be in this mount namespace.
    ///
    /// # Errors
    /// `EINVAL` where it cannot be copied: unbindable; by mount(2) in a user namespace also a directory with mounts below,
    /// without those.
    pub fn copy(&mut self, from: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Failed> {
        if !self.is_old {
            return raw::open_tree_clone(from, c"", recursive).map_err(at("open_tree"));
        }
        let stat = rustix::fs::fstat(from).map_err(at("fstat"))?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let bits = if recursive { libc::MS_BIND | libc::MS_REC } else { libc::MS_BIND };
        let place = if is_dir { DIR } else { FILE };
        let workshop = self.workshop()?;
        mount(Some(FdPath::of(from).as_c_str()), FdPath::below(workshop, place).as_c_str(), None, bits, None)
            .map_err(at("mount(MS_BIND)"))?;
        finished(workshop, place)
    }

    /// A new filesystem.
    ///
    /// # Errors
    /// `ENODEV` for a kind that the kernel does not have; what the filesystem says about its parameters, mostly `EINVAL`;
    /// `E2BIG` when one API is too narrow for a value and the other for another.
    pub fn make(&mut self, recipe: &Recipe, attributes: Attributes) -> Result<OwnedFd, Failed> {
        if !self.is_old && !recipe.only_old {
            match make_new(recipe, attributes) {
                Err(Failed { errno: Errno::NOSYS, .. }) => {}
                other => return other,
            }
        }
        if recipe.only_new {
            // A comma would end the value.
            return Err(Failed { call: "mount", errno: Errno::TOOBIG });
        }
        let workshop = self.workshop()?;
        let place = FdPath::below(workshop, DIR);
        let source = Some(recipe.source_or_kind());
        mount(source, place.as_c_str(), Some(recipe.kind()), recipe.bits, Some(&recipe.data))
            .map_err(at("mount"))?;
        let tree = finished(workshop, DIR)?;
        // The mode of access times is one of several: the others are cleared.
        let attr = Attr { set: attributes, clear: Attributes::ATIME, ..Attr::default() };
        self.change(tree.as_fd(), false, &attr)?;
        Ok(tree)
    }

    /// Changes attributes and propagation of the mount that `tree` is the root of.
    ///
    /// # Errors
    /// `EPERM` for an attribute that is locked; `EINVAL` when it is not the root of a mount, or for an attribute that the
    /// kernel does not know; `ENOSYS` for what mount(2) cannot do.
    pub fn change(&self, tree: BorrowedFd<'_>, recursive: bool, attr: &Attr<'_>) -> Result<(), Failed> {
        if !self.is_old {
            return raw::mount_setattr(tree, c"", recursive, attr).map_err(at("mount_setattr"));
        }
        change_old(tree, FdPath::of(tree).as_c_str(), recursive, attr)
    }

    /// As [`Self::change`], of the root mount of this process, whose directory `root` is.
    ///
    /// # Errors
    /// As there.
    pub fn change_root(&self, root: BorrowedFd<'_>, recursive: bool, attr: &Attr<'_>) -> Result<(), Failed> {
        if !self.is_old {
            return raw::mount_setattr(root, c"", recursive, attr).map_err(at("mount_setattr"));
        }
        // Not by way of /proc, which is the container's by now.
        change_old(root, c"/", recursive, attr)
    }

    /// Gives new parameters to the filesystem that is mounted with its root at `place`.
    ///
    /// # Errors
    /// As [`Self::make`]; `EINVAL` when it is not the root of a mount.
    pub fn reconfigure(&self, place: BorrowedFd<'_>, recipe: &Recipe) -> Result<(), Failed> {
        if !self.is_old && !recipe.only_old {
            match reconfigure_new(place, recipe) {
                Err(Failed { errno: Errno::NOSYS, .. }) => {}
                other => return other,
            }
        }
        if recipe.only_new {
            return Err(Failed { call: "mount", errno: Errno::TOOBIG });
        }
        let bits = libc::MS_REMOUNT | recipe.bits | bits_of(current(place)?);
        mount(None, FdPath::of(place).as_c_str(), None, bits, Some(&recipe.data))
            .map_err(at("mount(MS_REMOUNT)"))
    }

    /// Puts a tree over the file or directory `place`.
    ///
    /// # Errors
    /// `ENOTDIR` for a directory on a file or the reverse, `EPERM`, `ENOENT` when it was removed meanwhile.
    pub fn attach(&self, tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Failed> {
        if !self.is_old {
            return raw::move_mount(tree, place, c"").map_err(at("move_mount"));
        }
        let (tree, place) = (FdPath::of(tree), FdPath::of(place));
        mount(Some(tree.as_c_str()), place.as_c_str(), None, libc::MS_MOVE, None)
            .map_err(at("mount(MS_MOVE)"))
    }

    /// Puts a tree over the root of this mount namespace.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_over_root(&self, tree: BorrowedFd<'_>) -> Result<(), Failed> {
        if !self.is_old {
            return raw::move_mount(tree, CWD, c"/").map_err(at("move_mount"));
        }
        mount(Some(FdPath::of(tree).as_c_str()), c"/", None, libc::MS_MOVE, None)
            .map_err(at("mount(MS_MOVE)"))
    }

    /// Detaches all that lies over this process's root directory after a pivot that put the old root there: that, and
    /// what lies on it. Whether something does is asked before each, because with nothing there umount2(2) takes the root
    /// itself, wherever its mount has a parent, as it has after a pivot. That they go one by one is not to be relied on.
    ///
    /// # Errors
    /// Those of umount2(2) and statx(2); `EXDEV` before Linux 5.8, which has no ids of mounts, when the old root may be
    /// there but is the same directory; `EBUSY` when others keep mounting there.
    pub fn detach_above_root(&self) -> Result<(), Failed> {
        let expected = if self.workshop.is_some() { 2 } else { 1 };
        for detached in 0..ABOVE_ROOT_MAX {
            match above_root().map_err(at("statx"))? {
                Above::Nothing => return Ok(()),
                Above::MayBe if detached >= expected => return Ok(()),
                Above::MayBe => return Err(Failed { call: "statx", errno: Errno::XDEV }),
                // Of mounts that lie on each other this means the uppermost, which the lookup of a file in "/" does not.
                Above::Mount => raw::umount_detached(c"/").map_err(at("umount2"))?,
            }
        }
        Err(Failed { call: "umount2", errno: Errno::BUSY })
    }

    fn workshop(&mut self) -> Result<BorrowedFd<'_>, Failed> {
        if self.is_shared {
            return Err(Failed { call: "mount (in a mount namespace of others)", errno: Errno::OPNOTSUPP });
        }
        if self.workshop.is_none() {
            let bits = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let data = c"size=4k,nr_inodes=8,mode=700";
            mount(Some(c"tmpfs"), c"/", Some(c"tmpfs"), bits, Some(data)).map_err(at("mount"))?;
            // Of what lies on each other at "/", ".." finds the uppermost.
            let top = openat(CWD, c"/..", PATH | OFlags::DIRECTORY, Mode::empty());
            let top = top.map_err(at("openat"))?;
            if rustix::fs::fstatfs(&top).map_err(at("fstatfs"))?.f_type != TMPFS {
                return Err(Failed { call: "fstatfs", errno: Errno::XDEV });
            }
            rustix::fs::mkdirat(&top, c"dir", Mode::RWXU).map_err(at("mkdirat"))?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(top.as_fd(), c"file", flags, Mode::RUSR).map_err(at("openat"))?;
            self.workshop = Some(top);
        }
        self.workshop.as_ref().map(AsFd::as_fd).ok_or(Failed { call: "mount", errno: Errno::BADF })
    }
}

/// What lies over the root directory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Above {
    Nothing,
    Mount,
    /// It is the same directory, of one mount or of two.
    MayBe,
}

/// Of what lies on each other at "/", "/" is the lowest and ".." finds the uppermost.
fn above_root() -> Result<Above, Errno> {
    let wanted = StatxFlags::from_bits_retain(STATX_MNT_ID);
    let (lowest, uppermost) = match [c"/", c"/.."].map(|path| statx(CWD, path, AtFlags::empty(), wanted)) {
        [Ok(lowest), Ok(uppermost)] if lowest.stx_mask & uppermost.stx_mask & STATX_MNT_ID != 0 => {
            (lowest.stx_mnt_id, uppermost.stx_mnt_id)
        }
        [Ok(_), Ok(_)] | [Err(Errno::NOSYS), _] | [_, Err(Errno::NOSYS)] => {
            let (lowest, uppermost) = (rustix::fs::stat(c"/")?, rustix::fs::stat(c"/..")?);
            let is_same = (lowest.st_dev, lowest.st_ino) == (uppermost.st_dev, uppermost.st_ino);
            return Ok(if is_same { Above::MayBe } else { Above::Mount });
        }
        [Err(errno), _] | [_, Err(errno)] => return Err(errno),
    };
    Ok(if lowest == uppermost { Above::Nothing } else { Above::Mount })
}

/// The old root, the workshop, and what the host mounts over its own root in that moment.
const ABOVE_ROOT_MAX: usize = 8;

/// linux/stat.h; Linux 5.8.
const STATX_MNT_ID: u32 = 0x1000;

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// `TMPFS_MAGIC` (linux/magic.h).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// `MS_NOSYMFOLLOW` (Linux 5.10).
const NOSYMFOLLOW: u64 = 256;

/// Where directories and files are mounted in the workshop.
const DIR: &CStr = c"dir";
const FILE: &CStr = c"file";

fn at(call: &'static str) -> impl FnOnce(Errno) -> Failed {
    move |errno| Failed { call, errno }
}

/// The root of what was just mounted in the workshop.
fn finished(workshop: BorrowedFd<'_>, place: &CStr) -> Result<OwnedFd, Failed> {
    openat(workshop, place, PATH, Mode::empty()).map_err(at("openat"))
}

/// openat(2), again when a signal interrupts it.
fn openat(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::openat(dir, path, flags, mode))
}

fn make_new(recipe: &Recipe, attributes: Attributes) -> Result<OwnedFd, Failed> {
    let context = rustix::mount::fsopen(recipe.kind(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen"))?;
    configure(&context, recipe)?;
    rustix::mount::fsconfig_create(&context).map_err(at("fsconfig(FSCONFIG_CMD_CREATE)"))?;
    // All attributes that fsmount takes are in the lower half.
    let bits = u32::try_from(attributes.bits()).unwrap_or(u32::MAX);
    let flags = MountAttrFlags::from_bits_retain(bits);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(at("fsmount"))
}

fn reconfigure_new(place: BorrowedFd<'_>, recipe: &Recipe) -> Result<(), Failed> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = rustix::mount::fspick(place, c"", flags).map_err(at("fspick"))?;
    configure(&context, recipe)?;
    rustix::mount::fsconfig_reconfigure(&context).map_err(at("fsconfig(FSCONFIG_CMD_RECONFIGURE)"))
}

fn configure(context: &OwnedFd, recipe: &Recipe) -> Result<(), Failed> {
    if let Some(source) = recipe.source_given() {
        rustix::mount::fsconfig_set_string(context, c"source", source).map_err(at("fsconfig"))?;
    }
    for (key, value) in &recipe.strings {
        rustix::mount::fsconfig_set_string(context, key.as_c_str(), value.as_c_str())
            .map_err(at("fsconfig"))?;
    }
    for flag in &recipe.flags {
        rustix::mount::fsconfig_set_flag(context, flag.as_c_str()).map_err(at("fsconfig"))?;
    }
    Ok(())
}

fn change_old(tree: BorrowedFd<'_>, path: &CStr, recursive: bool, attr: &Attr<'_>) -> Result<(), Failed> {
    let changes = !attr.set.is_empty() || !attr.clear.is_empty();
    if attr.userns.is_some() || (changes && recursive) {
        return Err(Failed { call: "mount_setattr", errno: Errno::NOSYS });
    }
    if changes {
        let wanted = Attributes::from_bits(current(tree)?.bits() & !attr.clear.bits() | attr.set.bits());
        let bits = libc::MS_REMOUNT | libc::MS_BIND | bits_of(wanted);
        mount(None, path, None, bits, None).map_err(at("mount(MS_REMOUNT)"))?;
        // Kernels before 5.10 ignore it.
        let wants = wanted.contains(Attributes::NOSYMFOLLOW);
        if wants && !current(tree)?.contains(Attributes::NOSYMFOLLOW) {
            return Err(Failed { call: "mount(MS_REMOUNT)", errno: Errno::OPNOTSUPP });
        }
    }
    if let Some(propagation) = attr.propagation {
        let bits = propagation.bits() | if recursive { libc::MS_REC } else { 0 };
        mount(None, path, None, bits, None).map_err(at("mount(MS_SLAVE)"))?;
    }
    Ok(())
}

/// Pairs of attribute, flag of statfs(2), flag of mount(2).
const FLAGS: [(Attributes, u64, u64); 7] = [
    (Attributes::RDONLY, 0x1, libc::MS_RDONLY),
    (Attributes::NOSUID, 0x2, libc::MS_NOSUID),
    (Attributes::NODEV, 0x4, libc::MS_NODEV),
    (Attributes::NOEXEC, 0x8, libc::MS_NOEXEC),
    (Attributes::NOATIME, 0x400, libc::MS_NOATIME),
    (Attributes::NODIRATIME, 0x800, libc::MS_NODIRATIME),
    (Attributes::NOSYMFOLLOW, 0x2000, NOSYMFOLLOW),
];

/// The attributes of the mount that the file is on.
fn current(file: BorrowedFd<'_>) -> Result<Attributes, Failed> {
    let flags = rustix::fs::fstatvfs(file).map_err(at("fstatfs"))?.f_flag.bits();
    let mut attributes = Attributes::NONE;
    for (attribute, bit, _) in FLAGS {
        if flags & bit != 0 {
            attributes |= attribute;
        }
    }
    // ST_RELATIME
    if flags & (0x1000 | 0x400) == 0 {
        attributes |= Attributes::STRICTATIME;
    }
    Ok(attributes)
}

fn bits_of(attributes: Attributes) -> u64 {
    let set = FLAGS.iter().filter(|(attribute, ..)| attributes.contains(*attribute));
    let bits = set.fold(0, |bits, (.., bit)| bits | bit);
    match () {
        () if attributes.contains(Attributes::STRICTATIME) => bits | libc::MS_STRICTATIME,
        () if attributes.contains(Attributes::NOATIME) => bits,
        () => bits | libc::MS_RELATIME,
    }
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    bits: u64,
    data: Option<&CStr>,
) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(core::ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or to a NUL-terminated string.
    check(unsafe {
        libc::syscall(libc::SYS_mount, pointer(source), target.as_ptr(), pointer(kind), bits, pointer(data))
    })
    .map(drop)
}

/// `/proc/self/fd/N`, or a name below it.
pub(crate) struct FdPath([u8; 48]);

impl FdPath {
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Self {
        let mut path = Self([0; 48]);
        path.write(fd);
        path
    }

    fn below(fd: BorrowedFd<'_>, name: &CStr) -> Self {
        let mut path = Self([0; 48]);
        let end = path.write(fd);
        path.0[end] = b'/';
        let name = name.to_bytes();
        path.0[end + 1..][..name.len()].copy_from_slice(name);
        path
    }

    /// Returns where it ends.
    fn write(&mut self, fd: BorrowedFd<'_>) -> usize {
        const START: &[u8] = b"/proc/self/fd/";
        self.0[..START.len()].copy_from_slice(START);
        let number = fd.as_raw_fd().unsigned_abs();
        let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
        let mut rest = number;
        for place in (START.len()..START.len() + digits).rev() {
            self.0[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        START.len() + digits
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_descriptors() {
        let file = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for number in [10, 99, 100] {
            let high = rustix::io::fcntl_dupfd_cloexec(&file, number).unwrap();
            let number = high.as_raw_fd();
            assert_eq!(
                FdPath::of(high.as_fd()).as_c_str().to_str().unwrap(),
                format!("/proc/self/fd/{number}")
            );
            let below = FdPath::below(high.as_fd(), DIR);
            assert_eq!(below.as_c_str().to_str().unwrap(), format!("/proc/self/fd/{number}/dir"));
        }
    }

    #[test]
    fn attributes_and_flags_agree() {
        assert_eq!(bits_of(Attributes::NONE), libc::MS_RELATIME);
        assert_eq!(bits_of(Attributes::NOATIME | Attributes::RDONLY), libc::MS_NOATIME | libc::MS_RDONLY);
        assert_eq!(bits_of(Attributes::STRICTATIME), libc::MS_STRICTATIME);
    }
}
