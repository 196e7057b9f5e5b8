//! Paths inside a directory that somebody hostile may be changing: a container's root, a volume.
//!
//! Every path is resolved by the kernel with the directory as its root (openat2(2), `RESOLVE_IN_ROOT`, Linux 5.6):
//! absolute symbolic links and `..` stay inside, magic links are refused, and what was found is used by fd, never by path
//! again. Where the kernel does not have the call, the path is walked here, name by name and without following anything.

mod make;
mod remove;
mod walk;

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Fd, quoted};
use crate::{Error, Result};

/// How often a resolution is tried again that the kernel gave up because something was renamed or mounted meanwhile.
const RETRIES: u32 = 128;

/// A directory in which paths are resolved as if it were the root. Leading slashes make no difference.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens a directory of the host as a root. The path itself must be trusted.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES`.
    pub fn open_host(path: impl AsRef<Path>) -> Result<Self> {
        crate::fs::open_dir(path).map(Self)
    }

    /// Takes a directory, such as a detached mount.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens `path` inside. Symbolic links are followed (inside) unless `flags` has `O_NOFOLLOW`; `O_CLOEXEC` and
    /// `O_NOCTTY` are added.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`; `ELOOP` for a magic link, or a symbolic link with `O_NOFOLLOW`; `EINVAL` for `O_CREAT`, which
    /// [`Self::create_file`] is for; `EAGAIN` when something is renamed all the time.
    pub fn open(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.resolve(path, flags).map_err(|errno| self.error("openat2", path, &format!(", {flags:?}"), errno))
    }

    /// Opens the directory `path` inside, for reading.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The directory `path` inside as a root of its own.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn sub(&self, path: impl AsRef<Path>) -> Result<Self> {
        self.open_dir(path).map(Self)
    }

    /// What `path` is, following symbolic links inside.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let path = path.as_ref();
        let stat = self.resolve(path, OFlags::PATH).and_then(rustix::fs::fstat);
        stat.map_err(|errno| self.error("stat", path, "", errno))
    }

    /// Creates the file `path`, which must not exist, and opens it for reading and writing. Its directory must exist.
    /// `mode` is less the umask.
    ///
    /// # Errors
    /// `EEXIST`, also for a symbolic link wherever it leads; `ENOENT`, `ENOSPC`, `EROFS`.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
        let path = path.as_ref();
        let (dir, name) = self.parent(path)?;
        create_in(dir.as_fd(), &name, mode).map_err(|errno| {
            self.error("openat2", path, &format!(", O_RDWR|O_CREAT|O_EXCL, {mode:#o}"), errno)
        })
    }

    /// Creates the directory `path` and its missing parents, and opens it (`O_PATH`). Symbolic links are followed inside,
    /// those that lead to nothing too: their targets are created. `mode`, less the umask, is that of new directories.
    ///
    /// # Errors
    /// `ENOTDIR` when something else is in the way; as [`Self::open`] and mkdir(2).
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
        self.make(path.as_ref(), make::What::Dir { mode })
    }

    /// Opens (`O_PATH`) what a mount can be attached to at `path`: what is there, following symbolic links inside, if it
    /// is a directory exactly when `is_dir`; else creates an empty directory (mode 0755) or file (0644), with missing
    /// parents.
    ///
    /// # Errors
    /// `ENOTDIR` or `EISDIR` when it is of the other kind; as [`Self::mkdir_all`].
    pub fn ensure_mountpoint(&self, path: impl AsRef<Path>, is_dir: bool) -> Result<OwnedFd> {
        let what = if is_dir { make::What::Dir { mode: 0o755 } } else { make::What::File };
        self.make(path.as_ref(), what)
    }

    /// Creates a symbolic link at `path` to `target`, which is not looked at. The directory must exist.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EROFS`.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (target, path) = (target.as_ref(), path.as_ref());
        let (dir, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, &dir, name.as_c_str())
            .map_err(|errno| self.error("symlinkat", path, &format!(", target {}", quoted(target)), errno))
    }

    /// What the symbolic link at `path` says, at most 4095 bytes.
    ///
    /// # Errors
    /// `EINVAL` when it is not one; as [`Self::open`].
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let (dir, name) = self.parent(path)?;
        read_link_at(dir.as_fd(), &name).map_err(|errno| self.error("readlinkat", path, "", errno))
    }

    /// The content of the regular file `path`. Nothing else is opened for reading: not a FIFO (which would wait), a
    /// device (whose driver would notice), or a symbolic link as the last component.
    ///
    /// # Errors
    /// `EINVAL` for something that is not a regular file, `EFBIG` for one above `limit` bytes; as [`Self::open`].
    pub fn read_bounded(&self, path: impl AsRef<Path>, limit: usize) -> Result<Vec<u8>> {
        self.read(path.as_ref(), OFlags::NOFOLLOW, limit)
    }

    /// As [`Self::read_bounded`], but follows a symbolic link, inside, as the last component.
    ///
    /// # Errors
    /// As there.
    pub fn read_bounded_following(&self, path: impl AsRef<Path>, limit: usize) -> Result<Vec<u8>> {
        self.read(path.as_ref(), OFlags::empty(), limit)
    }

    /// Removes what is at `path`, a directory with all that is in it; nothing there is fine. Symbolic links are removed,
    /// not followed, and other mounts are not entered. The number of fds in use does not depend on the depth.
    ///
    /// # Errors
    /// `EXDEV` or `EBUSY` when something is mounted inside, `ENOTEMPTY` when somebody keeps adding, `EPERM`, `EROFS`.
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<()> {
        self.remove(path.as_ref(), remove::Removal::new(false)).map(|_| ())
    }

    /// As [`Self::remove_tree`], and looks at everything before: returns how many bytes on the disk are free then. A file with
    /// other links takes none.
    ///
    /// # Errors
    /// As there.
    pub fn free_tree(&self, path: impl AsRef<Path>) -> Result<u64> {
        self.remove(path.as_ref(), remove::Removal::new(true))
    }

    fn remove(&self, path: &Path, removal: remove::Removal) -> Result<u64> {
        let (dir, name) = match self.parent(path) {
            Err(error) if error.errno() == Errno::NOENT => return Ok(0),
            other => other?,
        };
        removal.tree(dir.as_fd(), &name).map_err(|errno| self.error("remove_tree", path, "", errno))
    }

    /// The directory that the last component of `path` is in, and that component. Neither `..` nor nothing is one.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, CString)> {
        let refuse = || {
            let call = format!("openat2({}, {})", Fd::of(&self.0), quoted(path));
            Error::refused(call, Errno::INVAL, "the last component is not a name")
        };
        let Some(Component::Normal(name)) = path.components().next_back() else { return Err(refuse()) };
        let name = CString::new(name.as_bytes()).map_err(|_| refuse())?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = self
            .resolve(parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| self.error("openat2", path, ", <parent directory>", errno))?;
        Ok((dir, name))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> core::result::Result<OwnedFd, Errno> {
        if flags.intersects(OFlags::CREATE | OFlags::TMPFILE.difference(OFlags::DIRECTORY)) {
            return Err(Errno::INVAL);
        }
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(self.0.as_fd(), path, flags, Mode::empty(), resolve)
    }

    fn read(&self, path: &Path, follow: OFlags, limit: usize) -> Result<Vec<u8>> {
        let call = || format!("openat2({}, {}, O_RDONLY)", Fd::of(&self.0), quoted(path));
        // Opened as a path first: that touches neither FIFO nor device.
        let found = self.resolve(path, OFlags::PATH | follow).map_err(|errno| Error::new(call(), errno))?;
        let stat = rustix::fs::fstat(&found).map_err(|errno| Error::new(call(), errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(Error::refused(
                call(),
                Errno::INVAL,
                format!("not a regular file but {}", kind_name(kind)),
            ));
        }
        let too_big = || Error::refused(call(), Errno::FBIG, format!("longer than {limit} bytes"));
        if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > limit as u64 {
            return Err(too_big());
        }
        let file = reopen(found.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|errno| Error::new(call(), errno))?;
        read_to_limit(&file, limit).map_err(|errno| match errno {
            Errno::FBIG => too_big(),
            errno => Error::new(format!("read({})", Fd::of(&file)), errno),
        })
    }

    #[cold]
    fn error(&self, call: &str, path: &Path, more: &str, errno: Errno) -> Error {
        Error::new(format!("{call}({}, {}{more}, RESOLVE_IN_ROOT)", Fd::of(&self.0), quoted(path)), errno)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Root> for OwnedFd {
    fn from(root: Root) -> Self {
        root.0
    }
}

/// Opens what an `O_PATH` descriptor stands for, through the magic link of the host's own `/proc`.
///
/// # Errors
/// Those of open(2); `ENOENT` without `/proc`.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> core::result::Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    rustix::io::retry_on_intr(|| {
        rustix::fs::open(&path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
    })
}

/// Reads to the end of the file, `EFBIG` beyond `limit` bytes.
pub(crate) fn read_to_limit(file: impl AsFd, limit: usize) -> core::result::Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    let mut buffer = [0u8; 8192];
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => return Ok(content),
            Ok(n) if content.len() + n > limit => return Err(Errno::FBIG),
            Ok(n) => content.extend_from_slice(&buffer[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// openat2(2), again while the kernel says that something moved under it (128 times); `O_CLOEXEC` and `O_NOCTTY` are
/// added. Where the kernel does not have it (before Linux 5.6), the path is walked here; of `resolve` there must be
/// `RESOLVE_IN_ROOT` or `RESOLVE_BENEATH` then, or nothing.
///
/// Safe between clone and exec for a `CStr` or a path of at most 255 bytes: no allocation.
///
/// # Errors
/// As openat2(2).
pub fn openat2(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> core::result::Result<OwnedFd, Errno> {
    // O_PATH refuses every flag but these.
    let extra = if flags.contains(OFlags::PATH) { OFlags::CLOEXEC } else { OFlags::CLOEXEC | OFlags::NOCTTY };
    let mut tries = 0;
    loop {
        let lacks = LACKS_OPENAT2.load(Ordering::Relaxed);
        let result = if lacks {
            path.into_with_c_str(|path| walk::open(dir, path, flags | extra, mode, resolve))
        } else {
            rustix::fs::openat2(dir, path, flags | extra, mode, resolve)
        };
        match result {
            // Not asked of the flag: another thread may have found out at the same time.
            Err(Errno::NOSYS) if !lacks => LACKS_OPENAT2.store(true, Ordering::Relaxed),
            Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries += 1,
            other => return other,
        }
    }
}

/// The kernel was asked, and does not have it.
static LACKS_OPENAT2: AtomicBool = AtomicBool::new(false);

/// A new regular file called `name` in `dir`.
fn create_in(dir: BorrowedFd<'_>, name: &CString, mode: u32) -> core::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(dir, name.as_c_str(), flags, Mode::from_bits_truncate(mode), resolve)
}

fn read_link_at(dir: BorrowedFd<'_>, name: &CString) -> core::result::Result<PathBuf, Errno> {
    let mut target = Vec::with_capacity(4096);
    let n = rustix::fs::readlinkat_raw(dir, name.as_c_str(), rustix::buffer::spare_capacity(&mut target))?;
    if n == 4096 {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(std::ffi::OsString::from_vec(target).into())
}

fn is_symlink(dir: BorrowedFd<'_>, name: &CString) -> bool {
    rustix::fs::statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::BlockDevice => "a block device",
        FileType::CharacterDevice => "a character device",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::RegularFile => "a regular file",
        FileType::Socket => "a socket",
        FileType::Symlink => "a symbolic link",
        FileType::Unknown => "of an unknown kind",
    }
}

fn os_path(parts: &[&OsStr]) -> PathBuf {
    parts.iter().collect()
}
