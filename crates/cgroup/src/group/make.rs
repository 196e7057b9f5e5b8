//! Making a group in one hierarchy.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use vaquita_sys::Errno;

use super::open_dir;
use crate::files::{error, exists, open, read, write, write_quiet};
use crate::{Error, Hierarchy, Kind, Result, Version};

/// Controllers that are switched on in v2 wherever possible, because statistics come from them.
const WANTED: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// The file of v2 that says which controllers the groups below have.
const SWITCHES: &str = "cgroup.subtree_control";

/// What a creation has made so far, for taking it back.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) dirs: Vec<PathBuf>,
    pub(super) parents: BTreeSet<PathBuf>,
    pub(super) existed: bool,
}

/// How often a parent that somebody else removes meanwhile is made again.
const RETRIES: u32 = 100;

/// Makes the group in one hierarchy, and its parents.
pub(super) fn make(
    hierarchy: &Hierarchy,
    parts: &[&OsStr],
    needed: &BTreeSet<&str>,
    made: &mut Made,
) -> Result<OwnedFd> {
    let mut tries = 0;
    if let Some(dir) = make_in_parent(hierarchy, parts, needed, made)? {
        return Ok(dir);
    }
    loop {
        match make_once(hierarchy, parts, needed, made) {
            Err(error) if error.kind() == Kind::NotFound && tries < RETRIES => tries += 1,
            other => return other,
        }
    }
}

/// Makes the group where its parent is there already, as it mostly is. None where it is not.
fn make_in_parent(
    hierarchy: &Hierarchy,
    parts: &[&OsStr],
    needed: &BTreeSet<&str>,
    made: &mut Made,
) -> Result<Option<OwnedFd>> {
    let Some((name, above)) = parts.split_last() else { return Ok(None) };
    let mut path = hierarchy.mount.clone();
    path.extend(above);
    let parent = match open_dir(&path) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        other => other?,
    };
    // What is on here is on all the way up.
    if hierarchy.version == Version::V2 {
        match is_enabled(&parent, hierarchy, needed) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            // The parent was removed meanwhile.
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    path.push(name);
    let note = |is_new| if is_new { made.dirs.push(path) } else { made.existed = true };
    let child = make_child(hierarchy, &parent, name, note).and_then(|(dir, is_whole)| {
        // Somebody else is making the parent.
        if is_whole { Ok(dir) } else { inherit_all(hierarchy, parts).map(|()| dir) }
    });
    match child {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a group inside another. Whether it was not there yet is noted before anything else can fail. Not whole is one
/// whose parent has no processors yet that it could inherit.
fn make_child(
    hierarchy: &Hierarchy,
    parent: &OwnedFd,
    part: &OsStr,
    note: impl FnOnce(bool),
) -> Result<(OwnedFd, bool)> {
    let name = part.to_string_lossy();
    match rustix::fs::mkdirat(parent, part, Mode::from_bits_truncate(0o755)) {
        Ok(()) => note(true),
        Err(Errno::EXIST) => note(false),
        Err(errno) => return Err(error("mkdirat", parent, &name, ", 0755", errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let child =
        open(parent, &name, flags).map_err(|errno| error("openat", parent, &name, ", O_DIRECTORY", errno))?;
    let has_cpuset = hierarchy.version == Version::V1 && hierarchy.controllers.contains("cpuset");
    let is_whole = !has_cpuset || inherit_cpuset(parent, &child)?;
    Ok((child, is_whole))
}

fn make_once(
    hierarchy: &Hierarchy,
    parts: &[&OsStr],
    needed: &BTreeSet<&str>,
    made: &mut Made,
) -> Result<OwnedFd> {
    let mut path = hierarchy.mount.clone();
    let mut dir = open_dir(&path)?;
    for (at, part) in parts.iter().enumerate() {
        let is_leaf = at + 1 == parts.len();
        let parent = path.clone();
        path.push(part);
        let note = |is_new| {
            if is_new {
                made.dirs.push(path.clone());
                if !is_leaf {
                    made.parents.insert(Path::new("/").join(parts[..=at].iter().collect::<PathBuf>()));
                }
            } else {
                made.existed |= is_leaf;
            }
        };
        let (child, _) = make_child(hierarchy, &dir, part, note)?;
        if hierarchy.version == Version::V2 {
            enable_in(&dir, &parent, hierarchy, needed)?;
        }
        dir = child;
    }
    Ok(dir)
}

/// Switches the controllers on that a group needs, all the way down to its parent.
pub(super) fn enable(hierarchy: &Hierarchy, parents: &[&OsStr], needed: &BTreeSet<&str>) -> Result<()> {
    let mut path = hierarchy.mount.clone();
    enable_in(&open_dir(&path)?, &path, hierarchy, needed)?;
    for part in parents {
        path.push(part);
        enable_in(&open_dir(&path)?, &path, hierarchy, needed)?;
    }
    Ok(())
}

fn enable_in(parent: &OwnedFd, path: &Path, hierarchy: &Hierarchy, needed: &BTreeSet<&str>) -> Result<()> {
    let all = with_wanted(hierarchy, needed);
    if all.is_empty() {
        return Ok(());
    }
    let on = read(parent, SWITCHES)?;
    let on: BTreeSet<&str> = on.split_whitespace().collect();
    let off: Vec<&str> = all.difference(&on).copied().collect();
    if off.is_empty() {
        return Ok(());
    }
    if has_processes(parent)? {
        let lacking: Vec<&str> = off.into_iter().filter(|name| needed.contains(name)).collect();
        return if lacking.is_empty() { Ok(()) } else { Err(no_room(path, &lacking)) };
    }
    for name in off {
        let switch = format!("+{name}");
        if needed.contains(name) {
            write(parent, SWITCHES, &switch)?;
        } else {
            let _ = write_quiet(parent, SWITCHES, &switch);
        }
    }
    Ok(())
}

/// Whether the group has processes of its own, and is not the root of the whole tree, where that does no harm.
///
/// Such a group must not be asked: what it can grant all the same (cpu, cpuset and pids) turns it into the root of a
/// threaded subtree, in which no group below can hold processes.
fn has_processes(group: &OwnedFd) -> Result<bool> {
    if !exists(group, "cgroup.type") {
        return Ok(false);
    }
    match read(group, "cgroup.procs") {
        // A threaded group: its threads are those of processes further up.
        Err(error) if error.kind() == Kind::Unsupported => Ok(true),
        procs => Ok(!procs?.is_empty()),
    }
}

fn no_room(group: &Path, controllers: &[&str]) -> Error {
    let message = format!(
        "{} has processes of its own and so cannot limit groups below it ({}; cgroups(7), \"no internal processes\"): move \
         these processes into a group of their own; for a systemd service with Delegate=yes, DelegateSubgroup= does",
        group.display(),
        controllers.join(", ")
    );
    Error::refused(Kind::Busy, message)
}

/// Whether nothing is left to be switched on in this group.
fn is_enabled(parent: &OwnedFd, hierarchy: &Hierarchy, needed: &BTreeSet<&str>) -> Result<bool> {
    let all = with_wanted(hierarchy, needed);
    if all.is_empty() {
        return Ok(true);
    }
    let on = read(parent, SWITCHES)?;
    let on: BTreeSet<&str> = on.split_whitespace().collect();
    Ok(all.is_subset(&on))
}

/// What is needed and what is wanted wherever possible, as far as the hierarchy has it.
fn with_wanted<'a>(hierarchy: &Hierarchy, needed: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    needed.iter().copied().chain(WANTED).filter(|name| hierarchy.controllers.contains(*name)).collect()
}

/// All groups on the way down inherit, each from the one above.
fn inherit_all(hierarchy: &Hierarchy, parts: &[&OsStr]) -> Result<()> {
    let mut path = hierarchy.mount.clone();
    let mut parent = open_dir(&path)?;
    for part in parts {
        path.push(part);
        let child = open_dir(&path)?;
        inherit_cpuset(&parent, &child)?;
        parent = child;
    }
    Ok(())
}

/// Processes cannot enter a group without processors and memory. Whether it has some now.
fn inherit_cpuset(parent: &OwnedFd, child: &OwnedFd) -> Result<bool> {
    let mut has_all = true;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(child, file)?.trim().is_empty() {
            let inherited = read(parent, file)?;
            match inherited.trim() {
                "" => has_all = false,
                value => write(child, file, value)?,
            }
        }
    }
    Ok(has_all)
}
