//! What a directory holds, to be compared before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Everything that a change to a file below `dir`, or to `dir` itself, would show in: mode, owner, links, times, and the text of
/// files. Symbolic links are not followed.
///
/// # Panics
/// Where something cannot be read, or a file is not UTF-8.
#[must_use]
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).expect("the tree can be read");
        let mut text = format!(
            "{:o} {}:{} {} {}.{} {}.{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        );
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("the directory can be read");
            todo.extend(entries.map(|entry| entry.expect("the directory can be read").path()));
        } else if meta.is_file() {
            text.push_str(&fs::read_to_string(&path).expect("the file can be read"));
        }
        found.insert(path, text);
    }
    found
}
