//! The root directory, with a directory for each container.

#![expect(clippy::disallowed_methods, reason = "the state directory, which only the runtime writes")]

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use vaquita_cgroup::Driver;
use vaquita_sys::fs::Draft;

use crate::{Error, Id, Kind};

/// Where containers are, and how they are made.
#[derive(Clone, Debug)]
pub struct Host {
    /// The directory with a directory for each container. In a tmpfs: what is there does not outlive a reboot.
    pub root: PathBuf,
    /// Who makes the cgroups of new containers.
    pub driver: Driver,
    /// Whether new containers have the cgroups that an ordinary user can have, if any, or those of root; none is found out.
    pub rootless: Option<bool>,
    /// Tells of what failed and changes nothing: hooks that run after the fact.
    pub warn: fn(&Error),
}

impl Host {
    /// The ids of all containers, sorted.
    ///
    /// # Errors
    /// Those of reading the root directory; one that is not there has no containers.
    pub fn ids(&self) -> Result<Vec<Id>, Error> {
        let call = || format!("open({:?})", self.root);
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| Error::io(call(), &error))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io(call(), &error))?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if let Some(id) = entry.file_name().to_str().and_then(|name| Id::new(name).ok())
                && is_dir
            {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }
}

/// The directory of a container.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    id: Id,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Directory {
    /// Makes it, and locks it.
    pub(crate) fn make(host: &Host, id: &Id) -> Result<Self, Error> {
        let path = host.root.join(id.as_str());
        let mode = Mode::RWXU;
        let mut made = rustix::fs::mkdir(&path, mode);
        if made == Err(Errno::NOENT) {
            make_root(&host.root)?;
            made = rustix::fs::mkdir(&path, mode);
        }
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let message = format!(
                    "container with given ID already exists: {id}; delete it first, or use another id"
                );
                return Err(Error::new(Kind::Exists, message));
            }
            Err(errno) => return Err(Error::kernel(format!("mkdir({path:?}, 0700)"), errno)),
        }
        let directory = Self::open_path(path, id)?;
        directory.lock()?;
        Ok(directory)
    }

    /// Opens it.
    pub(crate) fn open(host: &Host, id: &Id) -> Result<Self, Error> {
        Self::open_path(host.root.join(id.as_str()), id)
    }

    fn open_path(path: PathBuf, id: &Id) -> Result<Self, Error> {
        match rustix::io::retry_on_intr(|| rustix::fs::open(&path, DIRECTORY, Mode::empty())) {
            Ok(fd) => Ok(Self { fd, path, id: id.clone() }),
            Err(Errno::NOENT) => Err(Error::not_found(id.as_str())),
            Err(errno) => Err(Error::kernel(format!("open({path:?}, O_DIRECTORY)"), errno)),
        }
    }

    /// Waits until nobody else changes the container. The lock goes with the descriptor.
    pub(crate) fn lock(&self) -> Result<(), Error> {
        rustix::io::retry_on_intr(|| rustix::fs::flock(&self.fd, FlockOperation::LockExclusive))
            .map_err(|errno| Error::kernel(format!("flock({:?}, LOCK_EX)", self.path), errno))?;
        // Whoever held it may have deleted the container.
        if self.is_removed()? { Err(Error::not_found(self.id.as_str())) } else { Ok(()) }
    }

    /// Lets others change the container.
    pub(crate) fn unlock(&self) -> Result<(), Error> {
        rustix::fs::flock(&self.fd, FlockOperation::Unlock)
            .map_err(|errno| Error::kernel(format!("flock({:?}, LOCK_UN)", self.path), errno))
    }

    /// Whether somebody changes the container now.
    pub(crate) fn is_locked(&self) -> Result<bool, Error> {
        // A lock of this descriptor's own would be given up by asking.
        let other =
            rustix::io::retry_on_intr(|| rustix::fs::openat(&self.fd, c".", DIRECTORY, Mode::empty()))
                .map_err(|errno| Error::kernel(format!("openat({:?}, \".\")", self.path), errno))?;
        match rustix::fs::flock(&other, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::AGAIN) => Ok(true),
            Err(errno) => Err(Error::kernel(format!("flock({:?}, LOCK_SH|LOCK_NB)", self.path), errno)),
        }
    }

    fn is_removed(&self) -> Result<bool, Error> {
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|errno| Error::kernel(format!("fstat({:?})", self.path), errno))?;
        Ok(stat.st_nlink == 0)
    }

    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// A path in it, for sockets.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The bytes of a file; none when there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match vaquita_runtime::document::read(&self.file(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file for the first time.
    pub(crate) fn write_new(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let call = || format!("write({:?})", self.file(name));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file =
            rustix::io::retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR))
                .map_err(|errno| Error::kernel(call(), errno))?;
        std::io::Write::write_all(&mut std::fs::File::from(file), bytes)
            .map_err(|error| Error::io(call(), &error))
    }

    /// Replaces a file in one step.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.draft(name, bytes)?.replace()?)
    }

    /// What is to replace a file.
    pub(crate) fn draft<'a>(&'a self, name: &'a str, bytes: &[u8]) -> Result<Draft<'a>, Error> {
        Ok(Draft::write(self.fd.as_fd(), name, bytes, 0o600)?)
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn forget(&self, name: &str) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::kernel(format!("unlink({:?})", self.file(name)), errno)),
        }
    }

    /// Removes it with all that is in it.
    pub(crate) fn remove(self, known: &[&str]) -> Result<(), Error> {
        for name in known {
            self.forget(name)?;
        }
        let remove = || rustix::fs::rmdir(&self.path);
        let failed = |errno| Error::kernel(format!("rmdir({:?})", self.path), errno);
        match remove() {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // What a process that was killed while it wrote has left.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                for name in self.names()? {
                    self.forget_any(&name)?;
                }
                remove().map_err(failed)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// A file, or the mount point that a restore was killed with.
    fn forget_any(&self, name: &str) -> Result<(), Error> {
        let path = self.file(name);
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::BUSY) => {}
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::kernel(format!("unlink({path:?})"), errno)),
        }
        let _ = vaquita_sys::mount::umount(&path, rustix::mount::UnmountFlags::DETACH);
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            .map_err(|errno| Error::kernel(format!("rmdir({path:?})"), errno))
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |errno| Error::kernel(format!("getdents64({:?})", self.path), errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The root directory, and what is missing above it.
fn make_root(root: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    if root.as_os_str() == OsStr::new("") {
        return Err(Error::invalid("the root directory has an empty name: name one with --root"));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .map_err(|error| Error::io(format!("mkdir({root:?}, 0700)"), &error))
}
