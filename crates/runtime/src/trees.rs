//! What the maker prepares for the container's mounts: trees of the host, copied before the clone.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, PROC_SUPER_MAGIC};
use vaquita_cgroup::{Cgroup, Layout, Version};
use vaquita_sys::mount::{Attr, Attributes, mount_setattr, open_tree_clone};
use vaquita_sys::ns;

use crate::plan::mounts::{Change, Filesystem, MountPlan, Source};
use crate::plan::path::Inside;
use crate::steps::{MountStep, Step, Tree};
use crate::{Error, Plan};

/// All that the steps of a container borrow.
pub(crate) struct Prepared {
    /// One for each mount of the plan.
    pub(crate) mounts: Vec<PreparedMount>,
    /// For directories that are masked.
    pub(crate) empty: Filesystem,
    /// Symbolic links in /dev.
    pub(crate) links: Vec<(Inside, &'static CStr)>,
}

/// What goes to a mount point.
pub(crate) enum PreparedMount {
    Tree {
        tree: OwnedFd,
        shown: String,
        is_dir: bool,
    },
    New,
    /// cgroup v1: a small tmpfs with one bind for each hierarchy.
    Hierarchies {
        base: Filesystem,
        trees: Vec<(Inside, OwnedFd)>,
        links: Vec<(Inside, &'static CStr)>,
        read_only: bool,
    },
}

impl PreparedMount {
    pub(crate) fn steps<'a>(&'a self, mount: &'a MountPlan, steps: &mut Vec<Step<'a>>) {
        match self {
            Self::Tree { tree, shown, is_dir } => {
                steps.push(crate::create::ready(mount, tree, shown.clone(), *is_dir))
            }
            Self::New => {
                let Source::New(filesystem) = &mount.source else { return };
                let attributes = mount.change.set | mount.recursive.set;
                steps.push(Step::Mount(MountStep::new(mount, Tree::New(filesystem, attributes), true)));
            }
            Self::Hierarchies { base, trees, links, read_only } => {
                let attributes = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
                steps.push(Step::Mount(MountStep::new(mount, Tree::New(base, attributes), true)));
                for (destination, tree) in trees {
                    steps.push(Step::Mount(MountStep {
                        destination,
                        tree: Tree::Ready(tree.as_fd(), "the cgroup".to_owned()),
                        is_dir: true,
                        strict: false,
                        may_cover_proc: false,
                        propagation: None,
                    }));
                }
                steps.extend(links.iter().map(|(path, target)| Step::Link(path.clone(), target)));
                if *read_only {
                    steps.push(Step::SetAttributes(mount.destination.clone(), Attributes::RDONLY));
                }
            }
        }
    }
}

/// Opens and copies what the plan's mounts need of the host.
pub(crate) fn prepare(plan: &Plan, cgroup: Option<&Cgroup>) -> Result<Prepared, Error> {
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
    let mounts = plan.mounts.iter().map(|mount| one(plan, mount, cgroup)).collect::<Result<_, _>>()?;
    Ok(Prepared {
        mounts,
        empty: tmpfs(&[(c"mode", c"0555"), (c"nr_blocks", c"1"), (c"nr_inodes", c"1")]),
        links,
    })
}

fn one(plan: &Plan, mount: &MountPlan, cgroup: Option<&Cgroup>) -> Result<PreparedMount, Error> {
    match &mount.source {
        Source::New(_) => Ok(PreparedMount::New),
        Source::Bind { path, recursive } => bind(mount, path, *recursive),
        Source::Cgroup => {
            let Some(cgroup) = cgroup else {
                return Err(Error::invalid(format!(
                    "the mount on {}: a view of the cgroup needs a cgroup to be given",
                    mount.destination
                )));
            };
            let layout = cgroup.layout().clone();
            // Without a namespace the container sees its place in the whole tree, where v2 has one.
            let own = matches!(plan.namespaces.get(&ns::Kind::Cgroup), Some(None));
            if layout.is_v2() {
                unified(mount, &layout, own.then_some(cgroup))
            } else {
                hierarchies(mount, &layout, cgroup)
            }
        }
    }
}

fn bind(mount: &MountPlan, path: &Path, recursive: bool) -> Result<PreparedMount, Error> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the source of a bind is a path of the host by specification"
    )]
    let tree = open_tree_clone(rustix::fs::CWD, path, recursive)?;
    let stat = rustix::fs::fstat(&tree).map_err(|errno| Error::kernel(format!("fstat({path:?})"), errno))?;
    if mount.destination.as_path() == Path::new("/proc") {
        let kind =
            rustix::fs::fstatfs(&tree).map_err(|errno| Error::kernel(format!("fstatfs({path:?})"), errno))?;
        if kind.f_type != PROC_SUPER_MAGIC {
            return Err(Error::invalid(format!(
                "the mount of {path:?} on \"/proc\": only procfs can be there"
            )));
        }
    }
    change(&tree, mount.change, false)?;
    change(&tree, mount.recursive, true)?;
    let (propagation, deep) = mount.propagation.unwrap_or((vaquita_sys::mount::Propagation::Slave, true));
    mount_setattr(&tree, "", deep, &Attr { propagation: Some(propagation), ..Attr::default() })?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(PreparedMount::Tree { tree, shown: format!("{path:?}"), is_dir })
}

fn change(tree: &OwnedFd, change: Change, recursive: bool) -> Result<(), Error> {
    if change.is_none() {
        return Ok(());
    }
    Ok(mount_setattr(tree, "", recursive, &Attr { set: change.set, clear: change.clear, ..Attr::default() })?)
}

/// A copy of the cgroup's directory is what a mount made inside the cgroup namespace would show, and can be made before
/// the process is in the cgroup.
fn unified(mount: &MountPlan, layout: &Layout, cgroup: Option<&Cgroup>) -> Result<PreparedMount, Error> {
    let Some(hierarchy) = layout.hierarchies().first() else {
        return Err(Error::unsupported("no cgroup hierarchy"));
    };
    let path = cgroup.map_or_else(|| hierarchy.mount.clone(), |cgroup| directory(&hierarchy.mount, cgroup));
    #[expect(clippy::disallowed_methods, reason = "a control group of the host")]
    let tree = open_tree_clone(rustix::fs::CWD, &path, false)?;
    change(&tree, mount.change, false)?;
    Ok(PreparedMount::Tree { tree, shown: format!("{path:?}"), is_dir: true })
}

#[expect(clippy::disallowed_methods, reason = "control groups of the host")]
fn hierarchies(mount: &MountPlan, layout: &Layout, cgroup: &Cgroup) -> Result<PreparedMount, Error> {
    let mut trees = Vec::new();
    let mut links = Vec::new();
    for hierarchy in layout.hierarchies() {
        let path = directory(&hierarchy.mount, cgroup);
        if !path.is_dir() {
            continue; // Not a controller that the cgroup has.
        }
        let Some(name) = hierarchy.mount.file_name() else { continue };
        let destination = Inside::new("mounts", &mount.destination.as_path().join(name))?;
        let tree = open_tree_clone(rustix::fs::CWD, &path, false)?;
        change(&tree, mount.change, false)?;
        if hierarchy.version == Version::V1 && name.to_string_lossy().contains(',') {
            // Controllers that are mounted together go by their own names too (systemd's file hierarchy).
            for (controller, target) in JOINT {
                if name == *target && hierarchy.controllers.contains(*controller) {
                    let path = mount.destination.as_path().join(controller);
                    links.push((Inside::new("mounts", &path)?, *target));
                }
            }
        }
        trees.push((destination, tree));
    }
    let links = links.into_iter().filter_map(|(path, target)| Some((path, as_c_str(target)?))).collect();
    let read_only = mount.change.set.contains(Attributes::RDONLY);
    Ok(PreparedMount::Hierarchies { base: tmpfs(&[(c"mode", c"755")]), trees, links, read_only })
}

const JOINT: &[(&str, &str)] = &[
    ("cpu", "cpu,cpuacct"),
    ("cpuacct", "cpu,cpuacct"),
    ("net_cls", "net_cls,net_prio"),
    ("net_prio", "net_cls,net_prio"),
];

fn as_c_str(target: &str) -> Option<&'static CStr> {
    match target {
        "cpu,cpuacct" => Some(c"cpu,cpuacct"),
        "net_cls,net_prio" => Some(c"net_cls,net_prio"),
        _ => None,
    }
}

fn directory(mount: &Path, cgroup: &Cgroup) -> PathBuf {
    mount.join(cgroup.path().strip_prefix("/").unwrap_or(cgroup.path()))
}

pub(crate) fn tmpfs(options: &[(&CStr, &CStr)]) -> Filesystem {
    Filesystem {
        kind: c"tmpfs".to_owned(),
        strings: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        flags: Vec::new(),
    }
}
