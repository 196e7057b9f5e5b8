//! Whose a group is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Uid};
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

    /// Gives the group to a user, who may then make groups inside and move its processes among them, but not raise the
    /// group's own limits: the directory and those of its files that the kernel names for this in
    /// `/sys/kernel/cgroup/delegate` (cgroups(7), "delegation"; OCI runtime specification 1.3, "cgroup ownership").
    ///
    /// With v1 controllers that is not safe, and nothing is done.
    ///
    /// # Errors
    /// `Denied`. A file that the kernel names and the group does not have is passed over.
    pub fn give_to(&self, uid: u32) -> Result<()> {
        let Some(v2) = self.v2().filter(|_| self.layout.is_v2()) else { return Ok(()) };
        let owner = Some(Uid::from_raw(uid));
        rustix::fs::fchown(&v2.fd, owner, None)
            .map_err(|errno| error("fchown", &v2.fd, "", &format!(", {uid}, -1"), errno))?;
        let names = std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_default();
        // Before Linux 4.15 it was these.
        let names =
            if names.is_empty() { "cgroup.procs\ncgroup.subtree_control\ncgroup.threads" } else { &names };
        for name in names.lines().filter(|name| !name.contains('/')) {
            match rustix::fs::chownat(&v2.fd, name, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(error("fchownat", &v2.fd, name, &format!(", {uid}, -1"), errno)),
            }
        }
        Ok(())
    }
}
