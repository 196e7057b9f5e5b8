//! Whose a group is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vaquita_sys::Errno;

use super::Cgroup;
use crate::Result;
use crate::files::error;

/// The extended attribute that says whose a group is.
const CLAIM: &str = "trusted.vaquita";

impl Cgroup {
    /// Who claims the group, if anybody does: see [`Self::claim`].
    ///
    /// # Errors
    /// Those of reading.
    pub fn claimant(&self) -> Result<Option<PathBuf>> {
        let Some(dir) = self.dirs.first() else { return Ok(None) };
        let mut owner = vec![0; 4096];
        match rustix::fs::fgetxattr(&dir.fd, CLAIM, owner.as_mut_slice()) {
            Ok(length) => {
                owner.truncate(length);
                Ok(Some(PathBuf::from(OsStr::from_bytes(&owner))))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(error("fgetxattr", &dir.fd, "trusted.vaquita", "", errno)),
        }
    }

    /// Writes down whose group this is, in the extended attribute `trusted.vaquita` (xattr(7)) of its directory: it goes
    /// with the group and stays when the process that wrote it ends. `owner` is a directory that names the owner.
    ///
    /// # Errors
    /// `Denied` without `CAP_SYS_ADMIN`; those of writing.
    pub fn claim(&self, owner: &Path) -> Result<()> {
        let Some(dir) = self.dirs.first() else { return Ok(()) };
        rustix::fs::fsetxattr(&dir.fd, CLAIM, owner.as_os_str().as_bytes(), rustix::fs::XattrFlags::empty())
            .map_err(|errno| error("fsetxattr", &dir.fd, "trusted.vaquita", "", errno))
    }
}
