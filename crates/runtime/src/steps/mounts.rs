//! Steps that mount. Every path of the container is resolved below its root by openat2(2) and used by descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags};
use vaquita_sys::mount::raw::{mount_setattr, move_mount, open_tree_clone, pivot_root, umount_detached};
use vaquita_sys::mount::{Attr, Attributes, Propagation};

use super::{At, Failure, MountStep, State, Tree, fail};
use crate::plan::mounts::Filesystem;
use crate::plan::path::Inside;

/// How paths of the container are resolved: as if its root were `/`, and never through a magic link of procfs.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = PATH.union(OFlags::DIRECTORY);

#[expect(clippy::disallowed_methods, reason = "the root of all that is mounted; nothing is looked up")]
pub(super) fn isolate() -> Result<(), Failure> {
    rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .at("mount")
}

pub(super) fn attach_root(
    state: &mut State<'_>,
    tree: BorrowedFd<'_>,
    place: Option<&CStr>,
) -> Result<(), Failure> {
    // The masks need the host's node, found while the host's tree is still there.
    state.null = Some(open_node(c"/dev/null", (1, 3))?);
    // A clone of a tree that is shared, as systemd makes all of the host's, is its peer: pivot_root(2) refuses that.
    propagate(tree, Propagation::Slave, true)?;
    match place {
        None => move_mount(tree, CWD, c"/").at("move_mount")?,
        Some(place) => {
            #[expect(
                clippy::disallowed_methods,
                reason = "a path of the host, that the bundle's owner vouches for"
            )]
            let place = rustix::fs::open(place, DIRECTORY, Mode::empty()).at("open")?;
            move_mount(tree, place.as_fd(), c"").at("move_mount")?;
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the tree itself; nothing is looked up")]
    let root = rustix::fs::openat(tree, c".", DIRECTORY, Mode::empty()).at("openat")?;
    state.root = Some(root);
    Ok(())
}

pub(super) fn open_root(state: &mut State<'_>) -> Result<(), Failure> {
    #[expect(clippy::disallowed_methods, reason = "the root itself; nothing is looked up")]
    let root = rustix::fs::open(c"/", DIRECTORY, Mode::empty()).at("open")?;
    state.root = Some(root);
    Ok(())
}

/// Unlike the root that setns(2) gives, this is right while a mount still lies on top of it.
#[expect(clippy::disallowed_methods, reason = "the directory just entered by descriptor")]
pub(super) fn change_root(root: BorrowedFd<'_>) -> Result<(), Failure> {
    rustix::process::fchdir(root).at("fchdir")?;
    rustix::process::chroot(c".").at("chroot")
}

pub(super) fn mount(state: &State<'_>, step: &MountStep<'_>) -> Result<(), Failure> {
    let resolve = if step.strict { IN_ROOT | ResolveFlags::NO_SYMLINKS } else { IN_ROOT };
    let destination = open_or_make(state.root()?, step.destination, step.is_dir, resolve)?;
    if !step.may_cover_proc && filesystem_of(&destination)? == PROC_SUPER_MAGIC {
        // Lexically it is elsewhere: a symbolic link of the image leads into procfs.
        return fail("openat2", Errno::LOOP);
    }
    let made;
    let tree = match step.tree {
        Tree::Ready(tree, _) => tree,
        Tree::New(filesystem, attributes) => {
            made = make(filesystem, attributes)?;
            if let Some((propagation, recursive)) = step.propagation {
                propagate(made.as_fd(), propagation, recursive)?;
            }
            made.as_fd()
        }
    };
    move_mount(tree, destination.as_fd(), c"").at("move_mount")
}

pub(super) fn set_attributes(state: &State<'_>, path: &Inside, set: Attributes) -> Result<(), Failure> {
    let mount = open(state.root()?, path, DIRECTORY)?;
    mount_setattr(mount.as_fd(), c"", false, &Attr { set, ..Attr::default() }).at("mount_setattr")
}

pub(super) fn mask(state: &State<'_>, path: &Inside, empty: &Filesystem) -> Result<(), Failure> {
    let Some(target) = open_if_there(state, path)? else { return Ok(()) };
    let attributes = Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    let tree = if file_type(&target)? == FileType::Directory {
        make(empty, attributes)?
    } else {
        null_mount(state)?
    };
    move_mount(tree.as_fd(), target.as_fd(), c"").at("move_mount")
}

pub(super) fn read_only(state: &State<'_>, path: &Inside) -> Result<(), Failure> {
    let Some(target) = open_if_there(state, path)? else { return Ok(()) };
    let tree = open_tree_clone(target.as_fd(), c"", true).at("open_tree")?;
    let attr = Attr { set: Attributes::RDONLY, ..Attr::default() };
    mount_setattr(tree.as_fd(), c"", true, &attr).at("mount_setattr")?;
    move_mount(tree.as_fd(), target.as_fd(), c"").at("move_mount")
}

#[expect(clippy::disallowed_methods, reason = "the root itself; nothing is looked up")]
pub(super) fn pivot(state: &State<'_>) -> Result<(), Failure> {
    rustix::process::fchdir(state.root()?).at("fchdir")?;
    // Both at one place: the old root lies on top of the new one then, out of sight, until it is detached.
    pivot_root(c".", c".").at("pivot_root")?;
    rustix::process::chdir(c"/").at("chdir")
}

pub(super) fn detach_old_root() -> Result<(), Failure> {
    // Of mounts that lie on each other this means the uppermost, which the lookup of a file in "/" does not.
    umount_detached(c"/").at("umount2")
}

pub(super) fn root_propagation(
    state: &State<'_>,
    propagation: Propagation,
    recursive: bool,
) -> Result<(), Failure> {
    propagate(state.root()?, propagation, recursive)
}

pub(super) fn root_read_only(state: &State<'_>) -> Result<(), Failure> {
    let attr = Attr { set: Attributes::RDONLY, ..Attr::default() };
    mount_setattr(state.root()?, c"", false, &attr).at("mount_setattr")
}

/// A mount of the host's /dev/null, through which its mode and owner cannot be changed.
fn null_mount(state: &State<'_>) -> Result<OwnedFd, Failure> {
    let Some(null) = &state.null else { return fail("open", Errno::NODEV) };
    let tree = open_tree_clone(null.as_fd(), c"", false).at("open_tree")?;
    let set = Attributes::RDONLY | Attributes::NOSUID | Attributes::NOEXEC;
    mount_setattr(tree.as_fd(), c"", false, &Attr { set, ..Attr::default() }).at("mount_setattr")?;
    Ok(tree)
}

fn propagate(tree: BorrowedFd<'_>, propagation: Propagation, recursive: bool) -> Result<(), Failure> {
    let attr = Attr { propagation: Some(propagation), ..Attr::default() };
    mount_setattr(tree, c"", recursive, &attr).at("mount_setattr")
}

fn make(filesystem: &Filesystem, attributes: Attributes) -> Result<OwnedFd, Failure> {
    let context =
        rustix::mount::fsopen(filesystem.kind.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC).at("fsopen")?;
    for (key, value) in &filesystem.strings {
        rustix::mount::fsconfig_set_string(&context, key.as_c_str(), value.as_c_str()).at("fsconfig")?;
    }
    for flag in &filesystem.flags {
        rustix::mount::fsconfig_set_flag(&context, flag.as_c_str()).at("fsconfig")?;
    }
    rustix::mount::fsconfig_create(&context).at("fsconfig(FSCONFIG_CMD_CREATE)")?;
    // All attributes that fsmount takes are in the lower half.
    let bits = u32::try_from(attributes.bits()).unwrap_or(u32::MAX);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(bits))
        .at("fsmount")
}

/// Opens a path of the container without making anything.
pub(super) fn open(root: BorrowedFd<'_>, path: &Inside, flags: OFlags) -> Result<OwnedFd, Failure> {
    resolve(root, &path.path, flags, IN_ROOT).at("openat2")
}

fn open_if_there(state: &State<'_>, path: &Inside) -> Result<Option<OwnedFd>, Failure> {
    match open(state.root()?, path, PATH) {
        Err(Failure { errno: Errno::NOENT | Errno::NOTDIR, .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Opens the directory that `path` is in, making what is missing.
pub(super) fn open_parent(root: BorrowedFd<'_>, path: &Inside) -> Result<OwnedFd, Failure> {
    let parts = path.parts.len().saturating_sub(1);
    directories(root, &path.parts[..parts], IN_ROOT)
}

/// Opens a path of the container; a directory or an empty file is made where nothing is.
pub(super) fn open_or_make(
    root: BorrowedFd<'_>,
    path: &Inside,
    is_dir: bool,
    how: ResolveFlags,
) -> Result<OwnedFd, Failure> {
    match resolve(root, &path.path, PATH, how) {
        Err(Errno::NOENT) => {}
        other => return other.at("openat2"),
    }
    if is_dir {
        return directories(root, &path.parts, how);
    }
    let Some(((_, name), above)) = path.parts.split_last() else { return fail("openat2", Errno::ISDIR) };
    let parent = directories(root, above, how)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    #[expect(
        clippy::disallowed_methods,
        reason = "one name in a directory resolved before, and no link is followed"
    )]
    let made = rustix::fs::openat(&parent, name.as_c_str(), flags, Mode::from_raw_mode(0o644));
    match made {
        // Somebody else's file that appeared just now is as good. A dangling link fails in the next call.
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return fail("openat", errno),
    }
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    resolve(parent.as_fd(), name, PATH, beneath).at("openat2")
}

/// Opens nested directories, making missing ones. Each is made by its name below a descriptor of the one above.
fn directories(
    root: BorrowedFd<'_>,
    parts: &[(std::ffi::CString, std::ffi::CString)],
    how: ResolveFlags,
) -> Result<OwnedFd, Failure> {
    let mut directory = resolve(root, c".", DIRECTORY, how).at("openat2")?;
    for (prefix, name) in parts {
        directory = match resolve(root, prefix, DIRECTORY, how) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&directory, name.as_c_str(), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return fail("mkdirat", errno),
                }
                let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                resolve(directory.as_fd(), name, DIRECTORY, beneath).at("openat2")?
            }
            other => other.at("openat2")?,
        };
    }
    Ok(directory)
}

/// openat2(2), which answers EAGAIN when a rename ran beside it and it cannot say that nothing escaped.
fn resolve(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) if tries < 128 => tries += 1,
            other => return other,
        }
    }
}

/// Opens a node of the host and checks that it is that character device (CVE-2025-31133).
pub(super) fn open_node(path: &CStr, (major, minor): (u32, u32)) -> Result<OwnedFd, Failure> {
    #[expect(clippy::disallowed_methods, reason = "a node of the host's /dev, and checked to be it")]
    let node = rustix::fs::open(path, PATH | OFlags::NOFOLLOW, Mode::empty()).at("open")?;
    let stat = rustix::fs::fstat(&node).at("fstat")?;
    let is_character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_character || stat.st_rdev != rustix::fs::makedev(major, minor) {
        return fail("fstat", Errno::NODEV);
    }
    Ok(node)
}

pub(super) fn file_type(fd: impl AsFd) -> Result<FileType, Failure> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd).at("fstat")?.st_mode))
}

pub(super) fn filesystem_of(fd: &OwnedFd) -> Result<rustix::fs::FsWord, Failure> {
    Ok(rustix::fs::fstatfs(fd).at("fstatfs")?.f_type)
}
