//! The atomic writer: files in a dated directory, `..data` pointing to it, and a link per name.
//!
//! The layout is the kubelet's (`pkg/volume/util/atomic_writer.go`), on which programs that watch for changes rely.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use super::payload::{File, Payload};
use super::set_mode;
use crate::{Error, Result};

/// Writes the files of a volume.
///
/// # Errors
/// The path that could not be written.
pub(super) fn write(dir: &Path, payload: &Payload, group: Option<i64>) -> Result<()> {
    let stamp = format!("..{}", jiff::Zoned::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let data = dir.join(&stamp);
    let group = group.and_then(|group| u32::try_from(group).ok());
    make_dir(&data, group)?;
    let mut tops = BTreeSet::new();
    for (path, file) in &payload.0 {
        let mut parent = data.clone();
        let mut parts = path.split('/').peekable();
        tops.extend(parts.peek().map(|top| (*top).to_owned()));
        while let Some(part) = parts.next() {
            parent.push(part);
            if parts.peek().is_some() && !parent.is_dir() {
                make_dir(&parent, group)?;
            }
        }
        write_file(&parent, file, group)?;
    }
    link(Path::new(&stamp), &dir.join("..data_tmp"))?;
    let (temporary, current) = (dir.join("..data_tmp"), dir.join("..data"));
    std::fs::rename(&temporary, &current).map_err(|error| Error::io("rename", &current, &error))?;
    for top in tops {
        link(&Path::new("..data").join(&top), &dir.join(&top))?;
    }
    if let Some(group) = group {
        std::os::unix::fs::lchown(dir, None, Some(group)).map_err(|error| Error::io("chown", dir, &error))?;
        set_mode(dir, 0o2775)?;
    }
    Ok(())
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
    if let Some(group) = group {
        std::os::unix::fs::lchown(path, None, Some(group))
            .map_err(|error| Error::io("chown", path, &error))?;
        // The group can read what it is given.
        mode |= 0o440;
    }
    set_mode(path, mode)
}

fn link(target: &Path, path: &Path) -> Result<()> {
    symlink(target, path).map_err(|error| Error::io("symlink", path, &error))
}
