//! The atomic writer: files in a dated directory, `..data` pointing to it, and a link per name.
//!
//! The layout is the kubelet's (`pkg/volume/util/atomic_writer.go`), on which programs that watch for changes rely: new content
//! comes in a new directory, and `..data` is exchanged in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Component, Path};

use rustix::io::Errno;
use vaquita_sys::mount;
use vaquita_sys::root::Root;

use super::payload::{File, Payload};
use super::{set_mode, system};
use crate::{Error, Kind, Result};

/// The link to what is there now.
const CURRENT: &str = "..data";
/// The one that takes its place.
const NEXT: &str = "..data_tmp";
/// More bytes than any file of a ConfigMap or Secret has.
const FILE_BYTES: usize = 4 << 20;

/// Makes a volume show these files. Returns whether anything had to be written.
///
/// # Errors
/// The path that could not be written; the volume is as it was.
pub(super) fn write(dir: &Path, payload: &Payload, group: Option<i64>) -> Result<bool> {
    let root = Root::open_host(dir).map_err(|error| system(&error))?;
    let group = group.and_then(|group| u32::try_from(group).ok());
    let old = current(&root)?;
    if let Some(old) = &old
        && is_same(&root, old, payload)
    {
        show(dir, payload)?;
        return Ok(false);
    }
    let stamp = format!("..{}", jiff::Zoned::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let placed = fill(&dir.join(&stamp), payload, group).and_then(|()| swap(dir, &stamp));
    if let Err(error) = placed {
        let _ = root.remove_tree(&stamp);
        return Err(error);
    }
    show(dir, payload)?;
    if let Some(group) = group {
        std::os::unix::fs::lchown(dir, None, Some(group)).map_err(|error| Error::io("chown", dir, &error))?;
        set_mode(dir, 0o2775)?;
    }
    hide(dir, payload)?;
    sweep(dir, &root, &stamp)?;
    Ok(true)
}

/// Whether there has been something written.
pub(super) fn is_written(dir: &Path) -> bool {
    std::fs::read_link(dir.join(CURRENT)).is_ok()
}

/// The directory that `..data` leads to.
fn current(root: &Root) -> Result<Option<String>> {
    match root.read_link(CURRENT) {
        Ok(target) => {
            let name = target.to_str().filter(|name| is_stamp(OsStr::new(name)));
            let message =
                || format!("{CURRENT} leads to {}, which is none of its directories", target.display());
            name.map(|name| Some(name.to_owned())).ok_or_else(|| Error::new(Kind::Failed, message()))
        }
        Err(error) if error.errno() == Errno::NOENT => Ok(None),
        Err(error) => Err(system(&error)),
    }
}

/// `..2026_11_21_21_30_00.123456789`, in the volume itself.
fn is_stamp(name: &OsStr) -> bool {
    let Some(date) = name.to_str().and_then(|name| name.strip_prefix("..")) else { return false };
    date.starts_with(|c: char| c.is_ascii_digit())
        && date.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'_' | b'.'))
}

/// Whether a directory has exactly these files.
fn is_same(root: &Root, stamp: &str, payload: &Payload) -> bool {
    let mut found = BTreeMap::new();
    let Ok(top) = root.sub(stamp) else { return false };
    read_all(&top, Path::new(""), &mut found).is_ok()
        && found.len() == payload.0.len()
        && found
            .iter()
            .zip(&payload.0)
            .all(|((name, bytes), (path, file))| name == path && *bytes == file.bytes)
}

fn read_all(root: &Root, below: &Path, found: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let path = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let dir = root.open_dir(path).map_err(|error| system(&error))?;
    let failed = |errno: Errno| Error::new(Kind::Failed, format!("read {}: {errno}", below.display()));
    for entry in rustix::fs::Dir::read_from(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let path = below.join(name);
        let stat = root.stat(&path).map_err(|error| system(&error))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            read_all(root, &path, found)?;
        } else {
            let bytes = root.read_bounded(&path, FILE_BYTES).map_err(|error| system(&error))?;
            found.insert(path.to_string_lossy().into_owned(), bytes);
        }
    }
    Ok(())
}

fn fill(data: &Path, payload: &Payload, group: Option<u32>) -> Result<()> {
    make_dir(data, group)?;
    for (path, file) in &payload.0 {
        let mut parent = data.to_owned();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            parent.push(part);
            if parts.peek().is_some() && !parent.is_dir() {
                make_dir(&parent, group)?;
            }
        }
        write_file(&parent, file, group)?;
    }
    Ok(())
}

fn swap(dir: &Path, stamp: &str) -> Result<()> {
    let (next, current) = (dir.join(NEXT), dir.join(CURRENT));
    // Of a run that was killed.
    let _ = std::fs::remove_file(&next);
    link(Path::new(stamp), &next)?;
    std::fs::rename(&next, &current).map_err(|error| {
        let _ = std::fs::remove_file(&next);
        Error::io("rename", &current, &error)
    })
}

/// What is seen at the top of the volume: the first part of each path.
fn tops(payload: &Payload) -> BTreeSet<&str> {
    payload.0.keys().map(|path| path.split('/').next().unwrap_or(path)).collect()
}

fn show(dir: &Path, payload: &Payload) -> Result<()> {
    for top in tops(payload) {
        let (target, path) = (Path::new(CURRENT).join(top), dir.join(top));
        if std::fs::read_link(&path).is_ok_and(|found| found == target) {
            continue;
        }
        link(&target, &path)?;
    }
    Ok(())
}

/// Takes away links to what is there no more.
fn hide(dir: &Path, payload: &Payload) -> Result<()> {
    let tops = tops(payload);
    for entry in entries(dir)? {
        let name = entry.file_name();
        let is_wanted = name.to_str().is_some_and(|name| name.starts_with("..") || tops.contains(name));
        let leads = std::fs::read_link(entry.path());
        if !is_wanted && leads.is_ok_and(|target| target == Path::new(CURRENT).join(&name)) {
            std::fs::remove_file(entry.path()).map_err(|error| Error::io("remove", &entry.path(), &error))?;
        }
    }
    Ok(())
}

/// Removes directories of earlier content, but for those that a container has a part of mounted: that does not change.
fn sweep(dir: &Path, root: &Root, stamp: &str) -> Result<()> {
    let old: Vec<_> = entries(dir)?
        .into_iter()
        .map(|entry| entry.file_name())
        .filter(|name| is_stamp(name) && name != stamp)
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    let mounts = mount::mountinfo().map_err(|error| system(&error))?;
    let is_used = |name: &OsStr| {
        mounts.iter().any(|mount| mount.root.components().any(|part| part == Component::Normal(name)))
    };
    for name in old.iter().filter(|name| !is_used(name)) {
        root.remove_tree(name).map_err(|error| system(&error))?;
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<std::fs::DirEntry>> {
    let all = std::fs::read_dir(dir).and_then(Iterator::collect);
    all.map_err(|error| Error::io("read", dir, &error))
}

fn make_dir(path: &Path, group: Option<u32>) -> Result<()> {
    std::fs::DirBuilder::new().mode(0o755).create(path).map_err(|error| Error::io("mkdir", path, &error))?;
    if let Some(group) = group {
        std::os::unix::fs::lchown(path, None, Some(group))
            .map_err(|error| Error::io("chown", path, &error))?;
    }
    set_mode(path, if group.is_some() { 0o2775 } else { 0o755 })
}

fn write_file(path: &Path, file: &File, group: Option<u32>) -> Result<()> {
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let result = open.and_then(|mut open| std::io::Write::write_all(&mut open, &file.bytes));
    result.map_err(|error| Error::io("write", path, &error))?;
    let mut mode = file.mode;
    if file.owner.is_some() || group.is_some() {
        std::os::unix::fs::lchown(path, file.owner, group)
            .map_err(|error| Error::io("chown", path, &error))?;
    }
    if group.is_some() {
        // The group can read what it is given.
        mode |= 0o440;
    }
    set_mode(path, mode)
}

fn link(target: &Path, path: &Path) -> Result<()> {
    symlink(target, path).map_err(|error| Error::io("symlink", path, &error))
}
