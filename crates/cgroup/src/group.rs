//! A group: a directory of the same path in every hierarchy.

#![expect(
    clippy::disallowed_methods,
    reason = "control groups of the host: nobody can make a link among them"
)]

mod below;
mod claim;
mod creation;
mod entry;
mod kill;
mod make;
mod oom;
mod remove;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use vaquita_sys::Errno;

use crate::files::{error, open, read, read_if_there, write_quiet, write_to};
use crate::settings::{Write, controllers, writes};
use crate::{DeviceRule, Error, Hierarchy, Kind, Layout, Resources, Result, Version, device};

use creation::Rest;
use make::enable;

pub use entry::Entry;
pub use oom::{OomEvent, OomWatch};
pub use remove::{list, remove_empty_parents};

/// A group, held by fd in every hierarchy that has it.
#[derive(Debug)]
pub struct Cgroup {
    layout: Layout,
    path: PathBuf,
    dirs: Vec<Dir>,
    created_parents: Vec<PathBuf>,
    existed: bool,
    user: User,
    /// What [`Cgroup::begin`] has left to [`Cgroup::finish`].
    rest: Option<Box<Rest>>,
}

const KERNEL_MEMORY: &str = "memory.kmem.limit_in_bytes";

/// Whose process works on a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    /// It may clone children into the group, or not.
    Ordinary {
        by_clone: bool,
    },
}

#[derive(Debug)]
struct Dir {
    /// Index in the layout.
    hierarchy: usize,
    fd: OwnedFd,
}

impl Cgroup {
    /// Opens a group in the hierarchies that have it.
    ///
    /// # Errors
    /// `NotFound` when none has.
    pub fn open(layout: &Layout, path: &Path) -> Result<Self> {
        Self::open_where(layout, path, |_| true)
    }

    /// As [`Self::open`], but with no other controllers of v1 than these: for who only wants to know something of them, and
    /// often.
    ///
    /// # Errors
    /// As there.
    pub fn open_for(layout: &Layout, path: &Path, controllers: &[&str]) -> Result<Self> {
        Self::open_where(layout, path, |hierarchy| {
            let wanted = |controller: &&str| hierarchy.controllers.contains(*controller);
            hierarchy.version == Version::V2 || controllers.iter().any(wanted)
        })
    }

    fn open_where(layout: &Layout, path: &Path, wanted: impl Fn(&Hierarchy) -> bool) -> Result<Self> {
        let parts = parts(path)?;
        let relative: PathBuf = parts.iter().collect();
        let mut dirs = Vec::new();
        for (hierarchy, entry) in layout.hierarchies().iter().enumerate() {
            if !wanted(entry) {
                continue;
            }
            match open_dir(&entry.mount.join(&relative)) {
                Ok(fd) => dirs.push(Dir { hierarchy, fd }),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let path = Path::new("/").join(relative);
        if dirs.is_empty() {
            return Err(Error::refused(
                Kind::NotFound,
                format!("there is no control group {}", path.display()),
            ));
        }
        let created_parents = Vec::new();
        let layout = layout.clone();
        Ok(Self { layout, path, dirs, created_parents, existed: true, user: User::Root, rest: None })
    }

    /// The hierarchies that it may be in.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its path from the root of each hierarchy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parents that were made for it in at least one hierarchy, outermost first.
    #[must_use]
    pub fn created_parents(&self) -> Vec<PathBuf> {
        let later = self.later().into_iter().flat_map(|later| &later.made.parents);
        // The outer ones come first in order.
        let all: BTreeSet<&PathBuf> = self.created_parents.iter().chain(later).collect();
        all.into_iter().cloned().collect()
    }

    /// Whether it was there in some hierarchy before it was created.
    #[must_use]
    pub fn existed(&self) -> bool {
        self.existed || self.later().is_some_and(|later| later.made.existed)
    }

    /// Changes the limits that are set in `resources`.
    ///
    /// # Errors
    /// As [`Self::create`]; `Busy` for a memory limit below what is in use and cannot be reclaimed (v1, and v2 where
    /// [`Resources::memory_check_before_update`] asks for it). A value that makes no sense, and a controller that is not there,
    /// are found before anything is written. After any other error the limits in the order cpu, cpuset, memory, pids, huge
    /// pages, IO, network, RDMA, unified, devices are changed up to the one that the error names, and the rest is as before.
    pub fn apply(&self, resources: &Resources) -> Result<()> {
        self.check_memory(resources)?;
        let groups = writes(resources, &self.layout)?;
        if let Some(parent) = self.path.parent()
            && let Some(v2) = self.v2()
        {
            let parts: Vec<&OsStr> = normal(parent).collect();
            enable(self.hierarchy(v2), &parts, &controllers(&groups))?;
        }
        self.write_all(&groups)?;
        resources.devices.iter().try_for_each(|rules| self.set_devices(rules))
    }

    /// Refuses a limit of memory below what is in use, when that is wanted.
    pub(crate) fn check_memory(&self, resources: &Resources) -> Result<()> {
        let (Some(limit @ 1..), true) = (resources.memory_limit, resources.memory_check_before_update) else {
            return Ok(());
        };
        let usage = self.stats()?.memory.map_or(0, |memory| memory.usage);
        if limit.unsigned_abs() >= usage {
            return Ok(());
        }
        let message = format!(
            "memory.limit of {} cannot be {limit}: {usage} bytes are in use (memory.checkBeforeUpdate)",
            self.path.display()
        );
        Err(Error::refused(Kind::Busy, message))
    }

    /// Replaces the rules for devices. See [`Resources::devices`].
    ///
    /// On v2 they hold at once for every process inside, and so for one that was cloned into [`Self::dir_fd`] and still has
    /// device nodes to make: give it its rules when it has made them.
    ///
    /// # Errors
    /// `Unsupported` when the host has neither the devices controller of v1 nor a v2 hierarchy.
    ///
    /// For an ordinary user, who may load no filter, there is none: its containers' processes open what that user may open
    /// anyway, and make no device nodes.
    pub fn set_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        if self.user != User::Root {
            return Ok(());
        }
        if let Ok((dir, Version::V1)) = self.controller("devices") {
            return write_device_rules(dir, rules);
        }
        let Some(v2) = self.v2() else {
            let message =
                "device rules need the devices controller of v1 or a v2 hierarchy, which this host lacks";
            return Err(Error::refused(Kind::Unsupported, message));
        };
        let doing = || format!("device filter of {}", self.path.display());
        let sys = |error| Error::sys(doing(), error);
        let before = vaquita_sys::bpf::device_programs(&v2.fd).map_err(sys)?;
        let program = vaquita_sys::bpf::load_device_program(&device::compile(rules)).map_err(sys)?;
        vaquita_sys::bpf::attach_device(&v2.fd, program).map_err(sys)?;
        // The new one is there: at no moment is the group without a filter.
        before.iter().try_for_each(|old| vaquita_sys::bpf::detach_device(&v2.fd, old)).map_err(sys)
    }

    /// Whether the rules for devices hold only for who has come in by [`Self::entry_after_clone`], so that they can be set
    /// before: they are the v1 controller's.
    #[must_use]
    pub fn rules_devices_by_entry(&self) -> bool {
        matches!(self.controller("devices"), Ok((_, Version::V1)))
    }

    /// Sees to it that groups below this one can be limited in CPU time, memory and processes, as far as the host can at
    /// all. In v1 they always can.
    ///
    /// # Errors
    /// `Busy` names the group that has processes of its own and so can limit none below it.
    pub fn delegate(&self) -> Result<()> {
        let Some(v2) = self.v2() else { return Ok(()) };
        let parts: Vec<&OsStr> = normal(&self.path).collect();
        enable(self.hierarchy(v2), &parts, &["cpu", "memory", "pids"].into())
    }

    /// The processes in the group and in groups below it, as pids of the caller's PID namespace, sorted. Zombies do not count.
    ///
    /// # Errors
    /// Those of reading.
    pub fn procs(&self) -> Result<Vec<i32>> {
        let mut all = BTreeSet::new();
        for dir in self.dirs() {
            self.procs_in(dir, &mut all)?;
        }
        Ok(all.into_iter().collect())
    }

    /// Whether a process is in the group or below it, in any hierarchy.
    ///
    /// # Errors
    /// Those of reading.
    pub fn is_populated(&self) -> Result<bool> {
        if let Some(v2) = self.v2() {
            // A group that somebody has removed holds nobody.
            let events = read_if_there(&v2.fd, "cgroup.events")?.unwrap_or_default();
            if key(&events, "populated") == Some(1) {
                return Ok(true);
            }
            if self.layout.is_v2() {
                return Ok(false);
            }
        }
        Ok(!self.procs()?.is_empty())
    }

    /// How many processes of the group, and of groups below it, the kernel has killed for want of memory.
    ///
    /// # Errors
    /// Those of reading; `Unsupported` without the memory controller.
    pub fn oom_kills(&self) -> Result<u64> {
        let (dir, version) = self.controller("memory")?;
        match version {
            Version::V2 => Ok(key(&read(&dir.fd, "memory.events")?, "oom_kill").unwrap_or_default()),
            Version::V1 => {
                // Each group counts for itself.
                let mut kills = 0;
                descend(&dir.fd, &mut |group| {
                    kills += key(&read(group, "memory.oom_control")?, "oom_kill").unwrap_or_default();
                    Ok(())
                })?;
                Ok(kills)
            }
        }
    }

    /// Statistics, see [`crate::Stats`].
    ///
    /// # Errors
    /// Those of reading. A controller that the host lacks leaves its part empty.
    pub fn stats(&self) -> Result<crate::Stats> {
        crate::stats::read_all(&|name| self.place(name), self.v2().map(|dir| dir.fd.as_fd()))
    }

    /// Statistics in full, see [`crate::Details`]: some thirty files more than [`Self::stats`] reads.
    ///
    /// # Errors
    /// As there.
    pub fn details(&self) -> Result<crate::Details> {
        crate::stats::read_details(&|name| self.place(name), self.stats()?)
    }

    /// What [`Self::details`] tells of memory, and how much IO there was, without the files that other parts are in: for who reads
    /// many groups again and again. Swap, buffers of TCP and the times and queues of IO are left out with v1.
    ///
    /// # Errors
    /// As there.
    pub fn metered(&self) -> Result<crate::Details> {
        crate::stats::read_metered(&|name| self.place(name), self.stats()?)
    }

    fn place(&self, controller: &str) -> Option<(BorrowedFd<'_>, Version)> {
        self.controller(controller).ok().map(|(dir, version)| (dir.fd.as_fd(), version))
    }

    fn controller(&self, name: &str) -> Result<(&Dir, Version)> {
        let missing = || {
            let message = format!("{} has no {name} controller", self.path.display());
            Error::refused(Kind::Unsupported, message)
        };
        let wanted = self.layout.controller(name).ok_or_else(missing)?;
        let dir = self.dirs().find(|dir| self.hierarchy(dir) == wanted).ok_or_else(missing)?;
        Ok((dir, wanted.version))
    }

    /// Its directories that are there.
    fn dirs(&self) -> impl Iterator<Item = &Dir> {
        self.dirs.iter().chain(self.later().into_iter().flat_map(|later| &later.dirs))
    }

    fn hierarchy(&self, dir: &Dir) -> &Hierarchy {
        &self.layout.hierarchies()[dir.hierarchy]
    }

    fn v2(&self) -> Option<&Dir> {
        self.dirs().find(|dir| self.hierarchy(dir).version == Version::V2)
    }

    fn procs_in(&self, dir: &Dir, all: &mut BTreeSet<i32>) -> Result<()> {
        descend(&dir.fd, &mut |group| {
            // A threaded v2 group has no such list; its threads belong to processes listed above it.
            let list = match read(group, "cgroup.procs") {
                Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::NotFound) => return Ok(()),
                other => other?,
            };
            // 0 is a process outside of the caller's PID namespace.
            all.extend(list.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0));
            Ok(())
        })
    }

    fn write_all(&self, groups: &[Vec<Write>]) -> Result<()> {
        for group in groups {
            let forward = group.iter().try_for_each(|write| self.write_one(write));
            if let Err(first) = forward {
                let retry = group.len() > 1 && matches!(first.kind(), Kind::Invalid | Kind::Busy);
                if !retry || group.iter().rev().try_for_each(|write| self.write_one(write)).is_err() {
                    return Err(first);
                }
            }
        }
        Ok(())
    }

    /// Linux 5.16 and later take a limit of kernel memory and do nothing with it.
    fn check_kernel_memory(&self, dir: &Dir) -> Result<()> {
        match read(&dir.fd, KERNEL_MEMORY)?.trim().parse::<u64>() {
            Ok(limit) if limit < crate::stats::UNLIMITED => Ok(()),
            _ => {
                let message = format!(
                    "memory.kernel of {} cannot be set: this kernel ignores {KERNEL_MEMORY} and counts kernel memory into \
                     memory.limit",
                    self.path.display()
                );
                Err(Error::refused(Kind::Unsupported, message))
            }
        }
    }

    fn too_low(&self, dir: &Dir, limit: &str) -> Error {
        let value = |file| read(&dir.fd, file).unwrap_or_default().trim().to_owned();
        let (usage, peak) = (value("memory.usage_in_bytes"), value("memory.max_usage_in_bytes"));
        let message = format!(
            "memory.limit of {} cannot be {limit}: {usage} bytes are in use (at most {peak} were) and cannot be freed",
            self.path.display()
        );
        Error::refused(Kind::Busy, message)
    }

    fn write_one(&self, entry: &Write) -> Result<()> {
        let dir = match entry.controller.as_str() {
            "cgroup" => self.v2(),
            name => Some(self.controller(name)?.0),
        };
        let Some(dir) = dir else { return Ok(()) };
        for (file, value) in &entry.candidates {
            match write_quiet(&dir.fd, file, value) {
                Ok(()) if file == KERNEL_MEMORY => return self.check_kernel_memory(dir),
                Ok(()) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(Errno::BUSY) if file == "memory.limit_in_bytes" => return Err(self.too_low(dir, value)),
                Err(errno) => return Err(error("write", &dir.fd, file, &format!(", {value:?}"), errno)),
            }
        }
        if entry.optional {
            return Ok(());
        }
        let files: Vec<_> = entry.candidates.iter().map(|(file, _)| file.as_str()).collect();
        let message =
            format!("{} has no {}: the kernel was built without it", self.path.display(), files.join(" or "));
        Err(Error::refused(Kind::Unsupported, message))
    }
}

/// Each line is a write of its own.
fn write_device_rules(dir: &Dir, rules: &[DeviceRule]) -> Result<()> {
    let (mut allow, mut deny) = (None, None);
    for (name, line) in device::v1_lines(rules) {
        let file = if name == device::ALLOW { &mut allow } else { &mut deny };
        let file = match file {
            Some(file) => file,
            None => file.insert(
                open(&dir.fd, name, OFlags::WRONLY)
                    .map_err(|errno| error("openat", &dir.fd, name, ", O_WRONLY", errno))?,
            ),
        };
        write_to(file, &line)
            .map_err(|errno| error("write", &dir.fd, name, &format!(", {line:?}"), errno))?;
    }
    Ok(())
}

/// Calls `visit` for the group and every group below it. Groups that vanish meanwhile are passed over.
fn descend(dir: &OwnedFd, visit: &mut impl FnMut(&OwnedFd) -> Result<()>) -> Result<()> {
    let mut stack =
        vec![rustix::io::fcntl_dupfd_cloexec(dir, 3).map_err(|errno| error("dup", dir, "", "", errno))?];
    while let Some(group) = stack.pop() {
        match visit(&group) {
            // ENODEV: the group was removed while its file was open.
            Err(error) if error.kind() == Kind::NotFound => continue,
            other => other?,
        }
        for name in children(&group)? {
            if let Ok(child) = open(&group, &name, OFlags::RDONLY | OFlags::DIRECTORY) {
                stack.push(child);
            }
        }
    }
    Ok(())
}

/// The names of the groups inside.
fn children(dir: &OwnedFd) -> Result<Vec<String>> {
    let failed = |errno| error("getdents64", dir, "", "", errno);
    // The number of links of a directory tells whether there are any, without reading a list of some 60 files.
    if rustix::fs::fstat(dir).map_err(failed)?.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    vaquita_sys::fs::open_dir(path).map_err(|error| Error::sys("control group", error))
}

/// The number behind `name` in a file of such lines.
pub(crate) fn key(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn normal(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

/// The components of a group's path, which must be at least one.
fn parts(path: &Path) -> Result<Vec<&OsStr>> {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_) | Component::CurDir));
    let parts: Vec<&OsStr> = normal(path).collect();
    let clean = parts.iter().all(|part| !part.as_bytes().contains(&b'\n') && part.to_str().is_some());
    if !plain || !clean || parts.is_empty() {
        let message = format!("{path:?} is not the path of a control group below the root");
        return Err(Error::refused(Kind::Invalid, message));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(parts(Path::new("/vaquita/a")).unwrap(), ["vaquita", "a"]);
        assert_eq!(parts(Path::new("vaquita//a/")).unwrap(), ["vaquita", "a"]);
        for path in ["", "/", "/vaquita/../..", "..", "/a\nb"] {
            assert_eq!(parts(Path::new(path)).unwrap_err().kind(), Kind::Invalid, "{path:?}");
        }
    }

    #[test]
    fn keys() {
        assert_eq!(key("oom 3\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(key("oom_kill_disable 1\n", "oom_kill"), None);
    }
}
