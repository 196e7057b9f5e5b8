//! Groups of an ordinary user.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use vaquita_sys::Errno;

use super::failed;
use crate::{Error, Kind, Layout, Resources, Result, Version};

/// A path for a new group that the caller may make, and may move its own children into. None where nothing is delegated.
pub(super) fn writable(layout: &Layout, id: &str) -> Result<Option<PathBuf>> {
    let Some(own) = own_group(layout)? else { return Ok(None) };
    let Some(v2) = layout.hierarchies().iter().find(|hierarchy| hierarchy.version == Version::V2) else {
        return Ok(None);
    };
    // A group with processes of its own cannot limit those below it, so a sibling comes first.
    let candidates = own.parent().into_iter().chain([own.as_path()]);
    for parent in candidates {
        let dir = v2.mount.join(parent.strip_prefix("/").unwrap_or(parent));
        // The kernel asks for both: the directory, and the processes of the nearest group above both ends of a move.
        if may_write(&dir)? && may_write(&dir.join("cgroup.procs"))? {
            return Ok(Some(parent.join(format!("vaquita-{id}"))));
        }
    }
    Ok(None)
}

/// Whether the caller may make groups at the top of every hierarchy, and move processes there.
pub(super) fn owns_all(layout: &Layout) -> Result<bool> {
    for hierarchy in layout.hierarchies() {
        if !may_write(&hierarchy.mount)? || !may_write(&hierarchy.mount.join("cgroup.procs"))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The caller's group in the v2 hierarchy, from its root; none where v2 is not the only one with controllers.
pub(crate) fn own_group(layout: &Layout) -> Result<Option<PathBuf>> {
    if !layout.is_v2() {
        return Ok(None);
    }
    let table = vaquita_sys::procfs::Procfs::host()
        .and_then(|procfs| procfs.read("self/cgroup", 64 << 10))
        .map_err(|error| Error::sys("looking for the own control group", error))?;
    Ok(parse_own_group(&String::from_utf8_lossy(&table)))
}

/// Whether the caller, which is in `from`, may move its processes to `to`: for that the nearest group above both must be
/// writable, which is not asked for making the group.
pub(crate) fn may_move(layout: &Layout, from: &Path, to: &Path) -> bool {
    let Some(v2) = layout.hierarchies().iter().find(|hierarchy| hierarchy.version == Version::V2) else {
        return false;
    };
    let common: PathBuf =
        from.components().zip(to.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    let file = |group: &Path| v2.mount.join(group.strip_prefix("/").unwrap_or(group)).join("cgroup.procs");
    may_write(&file(&common)).unwrap_or(false) && may_write(&file(to)).unwrap_or(false)
}

/// Fails when `resources` asks for any limit: without a group none can be set. Rules for devices are none of an ordinary
/// user's: the kernel lets it open what it may open anyway, and make no device nodes.
pub(super) fn check_no_limits(resources: &Resources) -> Result<()> {
    let nothing = Resources { devices: resources.devices.clone(), ..Resources::default() };
    if *resources == nothing {
        return Ok(());
    }
    Err(Error::refused(
        Kind::Denied,
        "limits were asked for, and no control group is delegated to this user that they could be set in: run in a group that \
         is (systemd-run --user --scope -p Delegate=yes), use the systemd driver, or ask for no limits",
    ))
}

fn parse_own_group(table: &str) -> Option<PathBuf> {
    let path = table.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A group outside of the cgroup namespace begins with `/..`.
    (path.starts_with('/') && !path.starts_with("/..")).then(|| PathBuf::from(path))
}

fn may_write(path: &Path) -> Result<bool> {
    match rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(format!("faccessat({path:?}, W_OK)"), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group() {
        assert_eq!(parse_own_group("1:name=systemd:/x\n0::/a/b\n").as_deref(), Some(Path::new("/a/b")));
        assert_eq!(parse_own_group("0::/../x\n"), None);
        assert_eq!(parse_own_group("4:memory:/x\n"), None);
    }

    #[test]
    fn without_a_group_no_limits() {
        check_no_limits(&Resources { devices: Some(Vec::new()), ..Resources::default() }).unwrap();
        let limit = Resources { pids_limit: Some(5), ..Resources::default() };
        assert_eq!(check_no_limits(&limit).unwrap_err().kind(), Kind::Denied);
    }
}
