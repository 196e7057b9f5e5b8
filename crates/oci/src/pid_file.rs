//! `--pid-file`.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use vaquita_sys::fs::Draft;

use crate::Error;

/// A file that gets a pid, so that a reader sees all of it or nothing.
#[derive(Debug)]
pub(crate) struct PidFile<'a> {
    dir: OwnedFd,
    name: &'a str,
}

impl<'a> PidFile<'a> {
    /// Opens the directory that it is to be in.
    #[expect(clippy::disallowed_methods, reason = "a file that whoever calls names")]
    pub(crate) fn open(path: &'a Path) -> Result<Self, Error> {
        let name = path.file_name().and_then(OsStr::to_str).filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| Error::invalid(format!("--pid-file: {path:?} is not the name of a file")))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().as_bytes().is_empty());
        let dir = vaquita_sys::fs::open_dir(dir.unwrap_or(Path::new("."))).map_err(failed)?;
        Ok(Self { dir, name })
    }

    /// Writes it, but for the name.
    pub(crate) fn draft(&self, pid: i32) -> Result<Draft<'_>, Error> {
        Draft::write(self.dir.as_fd(), self.name, pid.to_string().as_bytes(), 0o644).map_err(failed)
    }

    /// Writes it.
    pub(crate) fn write(&self, pid: i32) -> Result<(), Error> {
        publish(self.draft(pid)?)
    }
}

/// Gives a draft its name.
pub(crate) fn publish(draft: Draft<'_>) -> Result<(), Error> {
    draft.replace().map_err(failed)
}

#[cold]
fn failed(error: vaquita_sys::Error) -> Error {
    Error::from(error).while_doing("--pid-file")
}
