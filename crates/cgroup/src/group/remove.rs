//! Removing groups, and finding what is there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use vaquita_sys::Errno;

use super::{Cgroup, children, normal, open_dir, parts};
use crate::files::{error, open};
use crate::{Error, Kind, Layout, Result};

/// How long removal waits for processes that have been killed.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Removes the group, and groups that were made inside it, in every hierarchy. Waits at most 5 seconds for processes
    /// that are on their way out; kill them first. Gone already is fine.
    ///
    /// # Errors
    /// `Busy` when processes stay; what can be removed is, the rest is named.
    pub fn remove(&self) -> Result<()> {
        self.remove_within(PATIENCE)
    }

    /// As [`Self::remove`], with another limit of time.
    ///
    /// # Errors
    /// As there.
    pub fn remove_within(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let Err(first) = self.remove_now() else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if first.kind() != Kind::Busy {
                return Err(first);
            }
            // Without time left it still names who is inside.
            match self.wait_empty(left) {
                // Empty, and yet busy: the kernel is not done with it.
                Ok(()) if left.is_zero() => return Err(first),
                Ok(()) => std::thread::sleep(Duration::from_micros(200)),
                Err(error) if error.kind() == Kind::Timeout => {
                    return Err(Error::refused(
                        Kind::Busy,
                        format!("cannot remove {}: {error}", self.path.display()),
                    ));
                }
                // It vanished under the look at it.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the parents of the group, innermost first, that have no group inside any more, up to but not `up_to`.
    ///
    /// # Errors
    /// As [`remove_empty_parents`].
    pub fn remove_empty_parents(&self, up_to: &Path) -> Result<()> {
        remove_empty_parents(&self.layout, &self.path, up_to)
    }

    /// One attempt in every hierarchy; the first failure is told after all have been tried.
    fn remove_now(&self) -> Result<()> {
        let mut result = Ok(());
        for dir in self.dirs() {
            let path = self.hierarchy(dir).mount.join(normal(&self.path).collect::<PathBuf>());
            let removed = remove_dir(&path);
            if result.is_ok() {
                result = removed;
            }
        }
        result
    }
}

/// Removes the parents of `path`, innermost first, that have neither groups nor processes, up to but not `up_to`.
///
/// # Errors
/// Those of rmdir(2) except that one is in use or gone; `Invalid` when `up_to` is not above `path`.
pub fn remove_empty_parents(layout: &Layout, path: &Path, up_to: &Path) -> Result<()> {
    let all = parts(path)?;
    let keep: Vec<&OsStr> = normal(up_to).collect();
    if !all.starts_with(&keep) {
        let message = format!("{} is not above {}", up_to.display(), path.display());
        return Err(Error::refused(Kind::Invalid, message));
    }
    for hierarchy in layout.hierarchies() {
        for count in (keep.len() + 1..all.len()).rev() {
            let dir = hierarchy.mount.join(all[..count].iter().collect::<PathBuf>());
            match rustix::fs::rmdir(&dir) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::BUSY | Errno::NOTEMPTY) => break,
                Err(errno) => {
                    let call = format!("rmdir({dir:?})");
                    return Err(Error::sys("control group", vaquita_sys::Error::new(call, errno)));
                }
            }
        }
    }
    Ok(())
}

/// Every group below `subtree`, and `subtree` itself, that is in some hierarchy: paths from the root, sorted. None when
/// there is no such group.
///
/// # Errors
/// Those of reading directories.
pub fn list(layout: &Layout, subtree: &Path) -> Result<Vec<PathBuf>> {
    let start: PathBuf = parts(subtree)?.iter().collect();
    let mut found = BTreeSet::new();
    for hierarchy in layout.hierarchies() {
        let mut stack = vec![start.clone()];
        while let Some(group) = stack.pop() {
            let dir = match open_dir(&hierarchy.mount.join(&group)) {
                Err(error) if error.kind() == Kind::NotFound => continue,
                other => other?,
            };
            // A directory that is removed while it is listed has nothing in it.
            stack.extend(children(&dir)?.iter().map(|name| group.join(name)));
            found.insert(Path::new("/").join(group));
        }
    }
    Ok(found.into_iter().collect())
}

/// Removes a group with the groups below it, without waiting.
fn remove_dir(path: &Path) -> Result<()> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // With groups inside the kernel says EBUSY, too.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => {
            let call = format!("rmdir({path:?})");
            return Err(Error::sys("control group", vaquita_sys::Error::new(call, errno)));
        }
    }
    // Post-order, so that one pass removes all that is empty.
    let mut order = vec![open_dir(path)?];
    let mut at = 0;
    let mut edges = Vec::new();
    while at < order.len() {
        for name in children(&order[at])? {
            if let Ok(child) =
                open(&order[at], &name, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY)
            {
                edges.push((at, name));
                order.push(child);
            }
        }
        at += 1;
    }
    for (parent, name) in edges.iter().rev() {
        match rustix::fs::unlinkat(&order[*parent], name.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(error("unlinkat", &order[*parent], name, ", AT_REMOVEDIR", errno)),
        }
    }
    drop(order);
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => {
            let call = format!("rmdir({path:?})");
            Err(Error::sys("control group", vaquita_sys::Error::new(call, errno)))
        }
    }
}
