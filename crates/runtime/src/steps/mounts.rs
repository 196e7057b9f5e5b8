//! Steps that mount. Every path of the container is resolved below its root by openat2(2) and used by descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use vaquita_sys::mount::raw::{pivot_root, umount_detached};
use vaquita_sys::mount::{Attr, Attributes, Propagation, Trees};

use super::place::{self, DIRECTORY, IN_ROOT, PATH, open, resolve};
use super::{At, Failure, HostTree, MountStep, MoveRoot, RootTree, State, Tree, fail};
use crate::plan::mounts::{Change, Filesystem, Fill, MountPlan, Source};
use crate::plan::path::Inside;

#[expect(clippy::disallowed_methods, reason = "the root of all that is mounted; nothing is looked up")]
pub(super) fn isolate() -> Result<(), Failure> {
    rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .at("mount")
}

pub(super) fn attach_root(
    state: &mut State<'_>,
    root: &RootTree<'_>,
    place: Option<&CStr>,
    (propagation, recursive): (Propagation, bool),
) -> Result<(), Failure> {
    // The masks need the host's node, found while the host's tree is still there.
    state.null = Some(open_node(c"/dev/null", (1, 3))?);
    let made;
    let tree = match root {
        RootTree::Ready(tree) => *tree,
        RootTree::Host(tree) => {
            made = copy(&mut state.trees, tree)?;
            made.as_fd()
        }
        RootTree::New(filesystem, attributes) => {
            made = state.trees.make(&filesystem.recipe, *attributes)?;
            made.as_fd()
        }
    };
    // A copy of a mount that is shared, as systemd makes all of the host's, is its peer: everything mounted on it would
    // be the host's, and pivot_root(2) refuses it.
    let attr = Attr { propagation: Some(propagation), ..Attr::default() };
    state.trees.change(tree, recursive, &attr)?;
    match place {
        None => state.trees.attach_over_root(tree)?,
        Some(place) => {
            #[expect(
                clippy::disallowed_methods,
                reason = "a path of the host, that the bundle's owner vouches for"
            )]
            let place =
                rustix::io::retry_on_intr(|| rustix::fs::open(place, DIRECTORY, Mode::empty())).at("open")?;
            state.trees.attach(tree, place.as_fd())?;
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the tree itself; nothing is looked up")]
    let root = rustix::io::retry_on_intr(|| rustix::fs::openat(tree, c".", DIRECTORY, Mode::empty()))
        .at("openat")?;
    state.root = Some(root);
    Ok(())
}

/// The process's root for as long as somebody has it, and gone with the last of them: nothing is left behind on the host.
/// Needs Linux 6.15, which takes mounts on such a tree.
pub(super) fn copy_root(state: &mut State<'_>, root: &HostTree<'_>) -> Result<(), Failure> {
    state.null = Some(open_node(c"/dev/null", (1, 3))?);
    // What would be mounted by way of this namespace would be seen by all that are in it.
    state.trees.forbid_workshop();
    let tree = copy(&mut state.trees, root)?;
    let attr = Attr { propagation: Some(Propagation::Private), ..Attr::default() };
    state.trees.change(tree.as_fd(), true, &attr)?;
    #[expect(clippy::disallowed_methods, reason = "the tree itself; nothing is looked up")]
    let root = rustix::fs::openat(&tree, c".", DIRECTORY, Mode::empty()).at("openat")?;
    state.root = Some(root);
    state.tree = Some(tree);
    Ok(())
}

pub(super) fn open_root(state: &mut State<'_>) -> Result<(), Failure> {
    #[expect(clippy::disallowed_methods, reason = "the root itself; nothing is looked up")]
    let root = rustix::io::retry_on_intr(|| rustix::fs::open(c"/", DIRECTORY, Mode::empty())).at("open")?;
    state.root = Some(root);
    Ok(())
}

/// Unlike the root that setns(2) gives, this is right while a mount still lies on top of it.
#[expect(clippy::disallowed_methods, reason = "the directory just entered by descriptor")]
pub(super) fn change_root(root: BorrowedFd<'_>) -> Result<(), Failure> {
    rustix::process::fchdir(root).at("fchdir")?;
    rustix::process::chroot(c".").at("chroot")
}

pub(super) fn mount(state: &mut State<'_>, step: &MountStep<'_>) -> Result<(), Failure> {
    let how = if step.strict { IN_ROOT | ResolveFlags::NO_SYMLINKS } else { IN_ROOT };
    let root = state.root()?;
    let (destination, is_new) = match resolve(root, &step.destination.path, PATH, how) {
        Err(Errno::NOENT) => (place::make(root, step.destination, step.is_dir, how)?, true),
        other => (other.at("openat2")?, false),
    };
    if !step.may_cover_proc && filesystem_of(&destination)? == PROC_SUPER_MAGIC {
        // Lexically it is elsewhere: a symbolic link of the image leads into procfs.
        return fail("openat2", Errno::LOOP);
    }
    let made = match &step.tree {
        Tree::Ready(tree, _) => return Ok(state.trees.attach(*tree, destination.as_fd())?),
        Tree::Host(tree) => copy(&mut state.trees, tree)?,
        Tree::New(filesystem, attributes) => {
            let covered = (!is_new).then(|| destination.as_fd());
            make(&mut state.trees, filesystem, *attributes, covered)?
        }
    };
    for (propagation, recursive) in step.propagation {
        propagate(&state.trees, made.as_fd(), *propagation, *recursive)?;
    }
    Ok(state.trees.attach(made.as_fd(), destination.as_fd())?)
}

pub(super) fn remount(state: &State<'_>, plan: &MountPlan) -> Result<(), Failure> {
    let how = if plan.is_strict() { IN_ROOT | ResolveFlags::NO_SYMLINKS } else { IN_ROOT };
    let mount = resolve(state.root()?, &plan.destination.path, PATH, how).at("openat2")?;
    if let Source::Remount(Some(recipe)) = &plan.source {
        state.trees.reconfigure(mount.as_fd(), recipe)?;
    }
    for (change, recursive) in [(plan.change, false), (plan.recursive, true)] {
        if !change.is_none() {
            state.trees.change(mount.as_fd(), recursive, &attr(change))?;
        }
    }
    for (propagation, recursive) in &plan.propagation {
        propagate(&state.trees, mount.as_fd(), *propagation, *recursive)?;
    }
    Ok(())
}

pub(super) fn set_attributes(state: &State<'_>, path: &Inside, set: Attributes) -> Result<(), Failure> {
    let mount = open(state.root()?, path, DIRECTORY)?;
    Ok(state.trees.change(mount.as_fd(), false, &setting(set))?)
}

pub(super) fn mask(state: &mut State<'_>, path: &Inside, empty: &Filesystem) -> Result<(), Failure> {
    let Some(target) = open_if_there(state, path)? else { return Ok(()) };
    let attributes = Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    let tree = if file_type(&target)? == FileType::Directory {
        state.trees.make(&empty.recipe, attributes)?
    } else {
        null_mount(state)?
    };
    Ok(state.trees.attach(tree.as_fd(), target.as_fd())?)
}

pub(super) fn read_only(state: &mut State<'_>, path: &Inside) -> Result<(), Failure> {
    let Some(target) = open_if_there(state, path)? else { return Ok(()) };
    let tree = state.trees.copy(target.as_fd(), true)?;
    // With the old API only the upper mount can be, as in other runtimes.
    let recursive = !state.trees.is_old();
    state.trees.change(tree.as_fd(), recursive, &setting(Attributes::RDONLY))?;
    Ok(state.trees.attach(tree.as_fd(), target.as_fd())?)
}

#[expect(clippy::disallowed_methods, reason = "the root itself; nothing is looked up")]
pub(super) fn pivot(state: &State<'_>) -> Result<(), Failure> {
    rustix::process::fchdir(state.root()?).at("fchdir")?;
    // Both at one place: the old root lies on top of the new one then, out of sight, until it is detached.
    pivot_root(c".", c".").at("pivot_root")?;
    rustix::process::chdir(c"/").at("chdir")
}

#[expect(clippy::disallowed_methods, reason = "the host's own mounts; \".\" is the descriptor of the root")]
pub(super) fn move_root(state: &State<'_>, how: &MoveRoot<'_>) -> Result<(), Failure> {
    for path in how.hide {
        match umount_detached(path) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Locked in a user namespace: what cannot be taken away is covered.
            Err(Errno::INVAL | Errno::PERM) => {
                let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                rustix::mount::mount(c"tmpfs", path.as_c_str(), c"tmpfs", flags, Some(c"size=4k"))
                    .at("mount")?;
            }
            Err(errno) => return fail("umount2", errno),
        }
    }
    if how.is_elsewhere {
        state.trees.attach_over_root(state.root()?)?;
    }
    rustix::process::fchdir(state.root()?).at("fchdir")?;
    rustix::process::chroot(c".").at("chroot")?;
    rustix::process::chdir(c"/").at("chdir")
}

pub(super) fn detach_old_root(state: &State<'_>) -> Result<(), Failure> {
    Ok(state.trees.detach_above_root()?)
}

pub(super) fn root_propagation(
    state: &State<'_>,
    propagation: Propagation,
    recursive: bool,
) -> Result<(), Failure> {
    let attr = Attr { propagation: Some(propagation), ..Attr::default() };
    Ok(state.trees.change_root(state.root()?, recursive, &attr)?)
}

pub(super) fn root_read_only(state: &State<'_>) -> Result<(), Failure> {
    Ok(state.trees.change_root(state.root()?, false, &setting(Attributes::RDONLY))?)
}

/// A mount of the host's /dev/null, through which its mode and owner cannot be changed.
fn null_mount(state: &mut State<'_>) -> Result<OwnedFd, Failure> {
    let Some(null) = &state.null else { return fail("open", Errno::NODEV) };
    let tree = state.trees.copy(null.as_fd(), false)?;
    let set = Attributes::RDONLY | Attributes::NOSUID | Attributes::NOEXEC;
    state.trees.change(tree.as_fd(), false, &setting(set))?;
    Ok(tree)
}

fn propagate(
    trees: &Trees,
    tree: BorrowedFd<'_>,
    propagation: Propagation,
    recursive: bool,
) -> Result<(), Failure> {
    let attr = Attr { propagation: Some(propagation), ..Attr::default() };
    Ok(trees.change(tree, recursive, &attr)?)
}

fn setting(set: Attributes) -> Attr<'static> {
    Attr { set, ..Attr::default() }
}

fn attr(Change { set, clear }: Change) -> Attr<'static> {
    Attr { set, clear, ..Attr::default() }
}

/// A new filesystem, with what it takes over from the directory that it covers, if that was there before.
#[expect(clippy::disallowed_methods, reason = "\".\" is the descriptor")]
fn make(
    trees: &mut Trees,
    filesystem: &Filesystem,
    attributes: Attributes,
    covered: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Failure> {
    let covered = covered.filter(|_| filesystem.fill != Fill::Nothing);
    if covered.is_none() && filesystem.relabel.is_none() {
        return Ok(trees.make(&filesystem.recipe, attributes)?);
    }
    let tree = trees.make(&filesystem.recipe, attributes.without(Attributes::RDONLY))?;
    if let Some(covered) = covered {
        super::fill::fill(tree.as_fd(), covered, filesystem.fill)?;
    }
    if let Some(label) = &filesystem.relabel {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::io::retry_on_intr(|| rustix::fs::openat(&tree, c".", flags, Mode::empty()))
            .at("openat")?;
        rustix::fs::fsetxattr(&root, c"security.selinux", label.to_bytes(), XattrFlags::empty())
            .at("fsetxattr")?;
    }
    if attributes.contains(Attributes::RDONLY) {
        trees.change(tree.as_fd(), false, &setting(Attributes::RDONLY))?;
    }
    Ok(tree)
}

/// A copy of a tree of the host, which is looked for again: mount(2) takes only what is in this mount namespace.
#[expect(
    clippy::disallowed_methods,
    reason = "a path of the host, compared with what was opened there before"
)]
fn copy(trees: &mut Trees, host: &HostTree<'_>) -> Result<OwnedFd, Failure> {
    let found = rustix::io::retry_on_intr(|| rustix::fs::open(host.path.as_c_str(), PATH, Mode::empty()))
        .at("open")?;
    let (same, stat) = (rustix::fs::fstat(host.same).at("fstat")?, rustix::fs::fstat(&found).at("fstat")?);
    if (same.st_dev, same.st_ino) != (stat.st_dev, stat.st_ino) {
        return fail("open", Errno::STALE);
    }
    let tree = trees.copy(found.as_fd(), host.recursive)?;
    if !host.change.is_none() {
        trees.change(tree.as_fd(), false, &attr(host.change))?;
    }
    if let Some((propagation, recursive)) = host.propagation {
        propagate(trees, tree.as_fd(), propagation, recursive)?;
    }
    Ok(tree)
}

fn open_if_there(state: &State<'_>, path: &Inside) -> Result<Option<OwnedFd>, Failure> {
    match open(state.root()?, path, PATH) {
        Err(Failure { errno: Errno::NOENT | Errno::NOTDIR, .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Opens a node of the host and checks that it is that character device (CVE-2025-31133).
pub(super) fn open_node(path: &CStr, (major, minor): (u32, u32)) -> Result<OwnedFd, Failure> {
    #[expect(clippy::disallowed_methods, reason = "a node of the host's /dev, and checked to be it")]
    let node = rustix::io::retry_on_intr(|| rustix::fs::open(path, PATH | OFlags::NOFOLLOW, Mode::empty()))
        .at("open")?;
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
