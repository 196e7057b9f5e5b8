//! A mount point for a while: CRIU wants the root filesystem to be one.

use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::UnmountFlags;
use vaquita_sys::mount;

use crate::Error;

/// A directory with something mounted on it; neither is there any more when it is dropped.
#[derive(Debug)]
pub(super) struct Mountpoint(PathBuf);

impl Mountpoint {
    /// Mounts `tree` on the new directory `path`.
    pub(super) fn make(path: PathBuf, tree: &Path) -> Result<Self, Error> {
        std::fs::create_dir(&path).map_err(|error| Error::io(format!("mkdir({path:?})"), &error))?;
        let point = Self(path);
        let tree = mount::open_tree_clone(CWD, tree, true)?;
        mount::move_mount(&tree, CWD, &point.0)?;
        Ok(point)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        // The container has a mount of its own of it by now.
        let _ = mount::umount(&self.0, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}
