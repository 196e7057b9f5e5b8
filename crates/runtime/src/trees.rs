//! What the maker prepares for the container's mounts: trees of the host, copied before the clone.

mod cgroup;
mod idmap;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags, PROC_SUPER_MAGIC};
use vaquita_cgroup::Cgroup;
use vaquita_sys::mount::{self, Attr, Attributes, Propagation, Recipe, mount_setattr, open_tree_clone};
use vaquita_sys::ns;
use vaquita_sys::selinux;

use self::idmap::IdMaps;
use crate::namespaces::Namespaces;
use crate::plan::devices::DevicePlan;
use crate::plan::mounts::{Change, Filesystem, MountPlan, Source};
use crate::plan::path::Inside;
use crate::steps::{HostTree, MountStep, Step, Tree};
use crate::{Error, Plan};

/// All that the steps of a container borrow.
pub(crate) struct Prepared {
    /// One for each mount of the plan.
    pub(crate) mounts: Vec<PreparedMount>,
    /// For each device of the plan: the host's node, where that is bound instead of making another.
    pub(crate) nodes: Vec<Option<CString>>,
    /// For directories that are masked.
    pub(crate) empty: Filesystem,
    /// Symbolic links in /dev.
    pub(crate) links: Vec<(Inside, &'static CStr)>,
}

/// What goes to a mount point.
pub(crate) enum PreparedMount {
    Tree(Copied),
    New,
    Remount,
    /// cgroup v1: a small tmpfs with one bind for each hierarchy.
    Hierarchies {
        base: Filesystem,
        trees: Vec<(Inside, Copied)>,
        links: Vec<(Inside, &'static CStr)>,
        read_only: bool,
    },
}

/// A tree of the host.
pub(crate) struct Copied {
    /// A detached copy; where there is no such thing, the file itself.
    fd: OwnedFd,
    path: CString,
    shown: String,
    pub(crate) is_dir: bool,
    recursive: bool,
    change: Change,
    propagation: Option<(Propagation, bool)>,
}

impl Copied {
    /// Detached where that can be. Symbolic links in `path` are followed: it is the host's.
    #[expect(clippy::disallowed_methods, reason = "a bind's source is a path of the host by specification")]
    fn new(
        path: &Path,
        recursive: bool,
        change: Change,
        propagation: Option<(Propagation, bool)>,
    ) -> Result<Self, Error> {
        let fd = if mount::is_old() {
            rustix::io::retry_on_intr(|| {
                rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
            })
            .map_err(|errno| Error::kernel(format!("open({path:?}, O_PATH)"), errno))?
        } else {
            let tree = open_tree_clone(rustix::fs::CWD, path, recursive)?;
            set(&tree, change, false)?;
            tree
        };
        let stat =
            rustix::fs::fstat(&fd).map_err(|errno| Error::kernel(format!("fstat({path:?})"), errno))?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        // A path of the system has no NUL character.
        let bytes = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        Ok(Self { fd, path: bytes, shown: format!("{path:?}"), is_dir, recursive, change, propagation })
    }

    pub(crate) fn tree(&self) -> Tree<'_> {
        if mount::is_old() {
            Tree::Host(HostTree {
                path: self.path.clone(),
                same: self.fd.as_fd(),
                recursive: self.recursive,
                change: self.change,
                propagation: self.propagation,
            })
        } else {
            Tree::Ready(self.fd.as_fd(), self.shown.clone())
        }
    }
}

impl PreparedMount {
    pub(crate) fn steps<'a>(&'a self, plan: &'a MountPlan, steps: &mut Vec<Step<'a>>) {
        match self {
            Self::Tree(copied) => {
                steps.push(Step::Mount(MountStep::new(plan, copied.tree(), copied.is_dir)));
            }
            Self::New => {
                let Source::New(filesystem) = &plan.source else { return };
                let attributes = plan.change.set | plan.recursive.set;
                steps.push(Step::Mount(MountStep::new(plan, Tree::New(filesystem, attributes), true)));
            }
            Self::Remount => steps.push(Step::Remount(plan)),
            Self::Hierarchies { base, trees, links, read_only } => {
                let attributes = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
                steps.push(Step::Mount(MountStep::new(plan, Tree::New(base, attributes), true)));
                for (destination, copied) in trees {
                    steps.push(Step::Mount(MountStep {
                        destination,
                        tree: copied.tree(),
                        is_dir: true,
                        strict: false,
                        may_cover_proc: false,
                        propagation: &[],
                    }));
                }
                steps.extend(links.iter().map(|(path, target)| Step::Link(path.clone(), target)));
                if *read_only {
                    steps.push(Step::SetAttributes(plan.destination.clone(), Attributes::RDONLY));
                }
            }
        }
    }
}

/// Opens and copies what the plan's mounts need of the host.
pub(crate) fn prepare(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    namespaces: &Namespaces,
) -> Result<Prepared, Error> {
    check_label(plan)?;
    let link = |path: &str, target| Ok::<_, Error>((Inside::new("path", Path::new(path))?, target));
    let has_devpts = plan.mounts.iter().any(|mount| mount.destination.as_path() == Path::new("/dev/pts"));
    let mut links = vec![
        link("/dev/fd", c"/proc/self/fd")?,
        link("/dev/stdin", c"/proc/self/fd/0")?,
        link("/dev/stdout", c"/proc/self/fd/1")?,
        link("/dev/stderr", c"/proc/self/fd/2")?,
        link("/dev/core", c"/proc/kcore")?,
    ];
    if has_devpts {
        links.push(link("/dev/ptmx", c"pts/ptmx")?);
    }
    let mut maps = IdMaps::new(plan, namespaces);
    let mounts =
        plan.mounts.iter().map(|mount| one(plan, mount, cgroup, &mut maps)).collect::<Result<_, _>>()?;
    // A user namespace cannot make nodes; the host's are bound instead.
    let in_user_namespace = namespaces.contains(ns::Kind::User) || ns::is_in_user_namespace()?;
    let nodes = plan.devices.iter().map(|device| match in_user_namespace {
        true if device.kind != FileType::Fifo && !device.is_of_host => host_node(device).map(Some),
        _ => Ok(None),
    });
    Ok(Prepared {
        mounts,
        nodes: nodes.collect::<Result<_, _>>()?,
        empty: empty(plan.mount_label.as_deref())?,
        links,
    })
}

fn one(
    plan: &Plan,
    mount: &MountPlan,
    cgroup: Option<&Cgroup>,
    maps: &mut IdMaps<'_>,
) -> Result<PreparedMount, Error> {
    if mount::is_old() {
        refuse_on_old_kernels(plan, mount)?;
    }
    match &mount.source {
        Source::New(_) => Ok(PreparedMount::New),
        Source::Remount(_) => Ok(PreparedMount::Remount),
        Source::Bind { path, recursive } => bind(plan, mount, path, *recursive, maps),
        Source::Cgroup => {
            let Some(cgroup) = cgroup else {
                return Err(Error::invalid(format!(
                    "the mount on {}: a view of the cgroup needs a cgroup to be given",
                    mount.destination
                )));
            };
            // Without a namespace the container sees its place in the whole tree, where v2 has one.
            let own = matches!(plan.namespaces.get(&ns::Kind::Cgroup), Some(None));
            cgroup::view(mount, cgroup, own)
        }
    }
}

fn bind(
    plan: &Plan,
    mount: &MountPlan,
    path: &Path,
    recursive: bool,
    maps: &mut IdMaps<'_>,
) -> Result<PreparedMount, Error> {
    let propagation = inherited(plan, mount, recursive);
    let change = match recursive {
        // There is one mount only, for which mount(2) will do.
        false if mount::is_old() => mount.change.and(mount.recursive),
        _ => mount.change,
    };
    let copied = Copied::new(path, recursive, change, propagation)?;
    if mount.destination.as_path() == Path::new("/proc") {
        let kind = rustix::fs::fstatfs(&copied.fd)
            .map_err(|errno| Error::kernel(format!("fstatfs({path:?})"), errno))?;
        if kind.f_type != PROC_SUPER_MAGIC {
            return Err(Error::invalid(format!(
                "the mount of {path:?} on \"/proc\": only procfs can be there"
            )));
        }
    }
    if let Some(idmap) = &mount.idmap {
        maps.apply(&copied.fd, mount, idmap)?;
    }
    let mut deep = mount.recursive;
    if recursive && mount.change.set.contains(Attributes::RDONLY) && is_sysfs(&copied)? {
        // The cgroups below it, which a container without a cgroup namespace could write (CVE-2023-25809).
        deep.set |= Attributes::RDONLY;
        if mount::is_old() {
            return Err(Error::unsupported(format!(
                "the mount on {}: a read-only recursive bind of sysfs needs mount_setattr(2) of Linux 5.12, which is not \
                 to be had here; mount a new sysfs, with a network namespace",
                mount.destination
            )));
        }
    }
    if !mount::is_old() {
        set(&copied.fd, deep, true)?;
        for (propagation, deep) in propagation.iter().chain(&mount.propagation) {
            let attr = Attr { propagation: Some(*propagation), ..Attr::default() };
            mount_setattr(&copied.fd, "", *deep, &attr)?;
        }
    }
    Ok(PreparedMount::Tree(copied))
}

fn is_sysfs(copied: &Copied) -> Result<bool, Error> {
    // linux/magic.h.
    const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;
    let stat = rustix::fs::fstatfs(&copied.fd)
        .map_err(|errno| Error::kernel(format!("fstatfs({})", copied.shown), errno))?;
    Ok(stat.f_type == SYSFS_MAGIC)
}

/// What mount(2) cannot do.
fn refuse_on_old_kernels(plan: &Plan, mount: &MountPlan) -> Result<(), Error> {
    let refuse = |what: &str, call: &str| {
        Err(Error::unsupported(format!(
            "the mount on {}: {what} need {call}, which is not to be had here",
            mount.destination
        )))
    };
    let recursive = match mount.source {
        Source::Bind { recursive, .. } => recursive,
        Source::Remount(_) => true,
        Source::Cgroup | Source::New(_) => false,
    };
    if recursive && !mount.recursive.is_none() {
        return refuse("recursive options (\"rro\" and the like)", "mount_setattr(2) of Linux 5.12");
    }
    if mount.idmap.is_some() {
        return refuse("id mappings", "mount_setattr(2) of Linux 5.12");
    }
    let first = mount.propagation.first().copied().or(plan.root_propagation);
    let is_peer = matches!(first, Some((Propagation::Shared, _)));
    if matches!(mount.source, Source::Bind { .. }) && is_peer && inherited(plan, mount, recursive).is_none() {
        return refuse("mounts that are shared with the host", "open_tree(2) of Linux 5.2");
    }
    Ok(())
}

/// How a copy of a host's mount propagates before its own options act, so that none stays the host's peer by accident: as
/// runc's does, which makes all mounts so (by linux.rootfsPropagation) before it copies any.
fn inherited(plan: &Plan, mount: &MountPlan, recursive: bool) -> Option<(Propagation, bool)> {
    match mount.propagation.first() {
        Some((_, true)) => return None,
        Some((_, false)) if !recursive => return None,
        _ => {}
    }
    match plan.root_propagation {
        None | Some((Propagation::Slave, _)) => Some((Propagation::Slave, true)),
        Some((Propagation::Private | Propagation::Unbindable, _)) => Some((Propagation::Private, true)),
        Some((Propagation::Shared, _)) => None,
    }
}

fn set(tree: &OwnedFd, change: Change, recursive: bool) -> Result<(), Error> {
    if change.is_none() {
        return Ok(());
    }
    Ok(mount_setattr(tree, "", recursive, &Attr { set: change.set, clear: change.clear, ..Attr::default() })?)
}

/// A label that no module enforces would be one that was dropped.
fn check_label(plan: &Plan) -> Result<(), Error> {
    match plan.mount_label.as_deref() {
        None => Ok(()),
        Some(_) if !selinux::is_enabled() => Err(Error::unsupported(
            "linux.mountLabel: SELinux is not active on this host (no selinuxfs on /sys/fs/selinux)",
        )),
        Some(label) => crate::lsm::check_selinux("linux.mountLabel", label),
    }
}

/// The host's node of a device, for a user namespace, which cannot make nodes: at the same path, or as udev lists it.
#[expect(clippy::disallowed_methods, reason = "nodes of the host")]
fn host_node(device: &DevicePlan) -> Result<CString, Error> {
    let path = device.path.as_path();
    let directory = if device.kind == FileType::BlockDevice { "block" } else { "char" };
    let listed = format!("/dev/{directory}/{}:{}", device.major, device.minor);
    for candidate in [path, Path::new(&listed)] {
        let Ok(stat) = rustix::fs::stat(candidate) else { continue };
        if FileType::from_raw_mode(stat.st_mode) != device.kind || stat.st_rdev != device.number() {
            continue;
        }
        let differs = |asked: Option<u32>, found| asked.is_some_and(|asked| asked != found);
        if differs(device.mode, stat.st_mode & 0o7777)
            || differs(device.uid, stat.st_uid)
            || differs(device.gid, stat.st_gid)
        {
            return Err(Error::unsupported(format!(
                "linux.devices: {path:?}: in a user namespace the host's {candidate:?} is bound, with its mode {:o} and its \
                 owner {}:{}; others cannot be given",
                stat.st_mode & 0o7777,
                stat.st_uid,
                stat.st_gid
            )));
        }
        return CString::new(candidate.as_os_str().as_bytes())
            .map_err(|_| Error::invalid(format!("linux.devices: {path:?} has a NUL character")));
    }
    Err(Error::unsupported(format!(
        "linux.devices: {path:?}: a user namespace cannot make nodes, and the host has {}:{} neither there nor at \
         {listed:?}",
        device.major, device.minor
    )))
}

/// A filesystem in which nothing can be made, with this SELinux label.
pub(crate) fn empty(label: Option<&str>) -> Result<Filesystem, Error> {
    let label = label.map(|label| ("context", label));
    let options = [("mode", "0555"), ("nr_blocks", "1"), ("nr_inodes", "1")];
    tmpfs(&label.into_iter().chain(options).collect::<Vec<_>>())
}

pub(crate) fn tmpfs(options: &[(&str, &str)]) -> Result<Filesystem, Error> {
    let mut recipe = Recipe::new("tmpfs")?;
    for (key, value) in options {
        recipe.string(key, value)?;
    }
    Ok(Filesystem { recipe, ..Filesystem::default() })
}
