//! The directory in which a checkpoint comes to be, and what becomes of one whose maker is gone.

#![expect(
    clippy::disallowed_methods,
    reason = "our own directory, and that of the archive, which the client names"
)]

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde_json::Value;
use vaquita_cgroup::Cgroup;
use vaquita_sys::root::openat2;

use super::archive;
use crate::error::Doing;
use crate::node::{Node, blocking};
use crate::paths::{Paths, private_dir, remove_dir};
use crate::{Error, Kind, Result};

/// Locked by the maker, and by CRIU as long as that runs.
const LOCK: &str = "lock";
/// Has the path of the unfinished archive.
const PARTIAL: &str = "partial";
/// What goes into the archive.
const CONTENT: &str = "content";
/// How often it is looked whether CRIU of a former server has come to its end.
const LOOK: Duration = Duration::from_millis(200);

/// A checkpoint that is being made; nothing of it is left when this is dropped.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    partial: PathBuf,
    lock: File,
}

impl Staging {
    /// Makes the directory. `target` is the archive.
    pub(super) fn make(paths: &Paths, id: &str, target: &(PathBuf, OsString)) -> Result<Self> {
        let all = paths.checkpoints();
        private_dir(&all)?;
        let dir = all.join(id);
        let doing = || format!("make a checkpoint below {}", all.display());
        let whole = target.0.join(&target.1);
        if whole.is_dir() || !target.0.is_dir() {
            let message =
                format!("location: {} cannot be a file there: its directory must exist", whole.display());
            return Err(Error::invalid(message));
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let message = "one that an earlier server has begun is not at its end yet: ask again";
                return Err(Error::new(Kind::Busy, message));
            }
            other => other.doing(doing)?,
        }
        let lock = new_file(&dir.join(LOCK));
        let lock = match lock.and_then(|lock| take(&lock).map(|_| lock)) {
            Ok(lock) => lock,
            Err(error) => {
                let _ = remove_dir(&dir);
                return Err(error);
            }
        };
        let mut name = OsString::from(".");
        name.push(&target.1);
        name.push(format!(".{}", id.get(..12).unwrap_or(id)));
        let made = Self { partial: target.0.join(name), dir, lock };
        std::fs::write(made.dir.join(PARTIAL), made.partial.as_os_str().as_bytes()).doing(doing)?;
        private_dir(&made.content())?;
        private_dir(&made.images())?;
        Ok(made)
    }

    /// What goes into the archive.
    pub(super) fn content(&self) -> PathBuf {
        self.dir.join(CONTENT)
    }

    /// CRIU's files.
    pub(super) fn images(&self) -> PathBuf {
        self.content().join(archive::IMAGES)
    }

    /// Who has this open is not at its end.
    pub(super) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// A new file of the archive.
    pub(super) fn file(&self, name: &str) -> Result<File> {
        new_file(&self.content().join(name))
    }

    /// A document of the archive.
    pub(super) fn write(&self, name: &str, value: &Value) -> Result<()> {
        serde_json::to_writer_pretty(self.file(name)?, value).doing(|| format!("write {name}"))
    }

    /// A copy of a file of the host, as long as it is when this begins; one that is not there is left out.
    ///
    /// No symbolic link is followed: a container that may write in a directory of logs shall not decide what is read. What is
    /// not a regular file is refused.
    pub(super) fn copy(&self, name: &str, from: &Path) -> Result<()> {
        use std::io::Read as _;
        let doing = || format!("copy {}", from.display());
        let source = match open_plain(from) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.doing(doing)?,
        };
        let metadata = source.metadata().doing(doing)?;
        if !metadata.is_file() {
            let message = format!("could not {}: it is not a regular file; remove it", doing());
            return Err(Error::new(Kind::Precondition, message));
        }
        std::io::copy(&mut source.take(metadata.len()), &mut self.file(name)?).doing(doing)?;
        Ok(())
    }

    /// Packs everything, and gives the archive its name when it is whole and on the disk.
    pub(super) fn finish(self, target: &(PathBuf, OsString)) -> Result<()> {
        let partial = &self.partial;
        let whole = target.0.join(&target.1);
        // Of a server that was killed before it could write down more.
        remove_file(partial)?;
        let file = new_file(partial)?;
        archive::pack(&self.content(), &file)?;
        file.sync_all().doing(|| format!("sync {}", partial.display()))?;
        std::fs::rename(partial, &whole)
            .doing(|| format!("rename {} to {}", partial.display(), whole.display()))?;
        let dir = vaquita_sys::fs::open_dir(&target.0).doing(|| "open the directory of the archive")?;
        vaquita_sys::fs::sync_dir(&dir).doing(|| "sync the directory of the archive")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir, &self.partial) {
            tracing::warn!(%error, "a checkpoint is not wholly cleared away");
        }
    }
}

/// What earlier servers have left: the container is woken and the rest removed when CRIU is at its end.
pub(crate) fn sweep(node: &Arc<Node>) -> Result<()> {
    let all = node.paths.checkpoints();
    let doing = || format!("list {}", all.display());
    let entries = match std::fs::read_dir(&all) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.doing(doing)?,
    };
    for entry in entries {
        let entry = entry.doing(doing)?;
        let node = node.clone();
        tokio::spawn(async move {
            let name = entry.file_name();
            if let Err(error) = settle(&node, entry.path(), &name).await {
                tracing::warn!(checkpoint = %entry.path().display(), %error, "an unfinished checkpoint stays");
            }
        });
    }
    Ok(())
}

async fn settle(node: &Arc<Node>, dir: PathBuf, id: &OsStr) -> Result<()> {
    let lock = match File::open(dir.join(LOCK)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(other.doing(|| format!("open the lock of {}", dir.display()))?),
    };
    if let Some(lock) = &lock {
        while !take(lock)? {
            tokio::time::sleep(LOOK).await;
        }
    }
    let container = id.to_str().and_then(|id| node.tables.container(id).ok());
    let node = node.clone();
    blocking("clear a checkpoint away", move || {
        if let Some(container) = container.filter(|container| !container.life().is_over()) {
            let cgroup = &container.record.cgroup;
            let woken = Cgroup::open(&node.layout, cgroup).and_then(|cgroup| cgroup.thaw());
            woken.doing(|| format!("thaw {}", cgroup.display()))?;
        }
        let partial = std::fs::read(dir.join(PARTIAL)).unwrap_or_default();
        remove(&dir, Path::new(&OsString::from_vec(partial)))
    })
    .await
}

/// True when nobody else has it.
fn take(lock: &File) -> Result<bool> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno).doing(|| "lock a checkpoint"),
    }
}

fn remove(dir: &Path, partial: &Path) -> Result<()> {
    let removed = match partial.as_os_str().is_empty() {
        true => Ok(()),
        false => remove_file(partial),
    };
    removed.and(remove_dir(dir))
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", path.display())),
    }
}

/// Opens an absolute path without following a link anywhere in it, and without waiting for who writes to a pipe.
fn open_plain(path: &Path) -> core::result::Result<File, Errno> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let below = path.strip_prefix("/").map_err(|_| Errno::INVAL)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root.as_fd(), below, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty(), resolve).map(File::from)
}

/// For nobody else's eyes: it may have what is in a container's memory.
fn new_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(path);
    made.doing(|| format!("make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::Config { root: dir.path().join("root"), ..crate::Config::default() };
        let paths = Paths::of(&config);
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let target = (out.clone(), OsString::from("a.tar"));
        std::fs::write(out.join("a.tar"), "of another time").unwrap();

        let staging = Staging::make(&paths, "one", &target).unwrap();
        assert_eq!(Staging::make(&paths, "one", &target).unwrap_err().kind(), Kind::Busy);
        let lock = File::open(paths.checkpoints().join("one/lock")).unwrap();
        assert!(!take(&lock).unwrap());
        drop(staging);
        assert!(names(&paths.checkpoints()).is_empty());
        assert_eq!(std::fs::read(out.join("a.tar")).unwrap(), b"of another time");

        let staging = Staging::make(&paths, "one", &target).unwrap();
        staging.write("config.dump", &serde_json::json!({"id": "one"})).unwrap();
        std::fs::write(staging.images().join("pages-1.img"), "memory").unwrap();
        staging.finish(&target).unwrap();
        assert_eq!((names(&out), names(&paths.checkpoints())), (vec!["a.tar".to_owned()], vec![]));

        for bad in [(out.join("missing"), "a.tar".into()), (dir.path().to_owned(), "out".into())] {
            assert_eq!(Staging::make(&paths, "one", &bad).unwrap_err().kind(), Kind::Invalid);
        }
        assert!(names(&paths.checkpoints()).is_empty());
    }
    #[test]
    fn a_log_is_copied_and_nothing_that_is_put_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().canonicalize().unwrap();
        let config = crate::Config { root: here.join("root"), ..crate::Config::default() };
        let staging = Staging::make(&Paths::of(&config), "one", &(here.clone(), "a.tar".into())).unwrap();
        std::fs::create_dir(here.join("logs")).unwrap();
        std::fs::write(here.join("logs/log"), "a line").unwrap();
        std::os::unix::fs::symlink("log", here.join("logs/link")).unwrap();
        std::os::unix::fs::symlink("logs", here.join("elsewhere")).unwrap();
        let fifo = here.join("logs/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();

        staging.copy("log", &here.join("logs/log")).unwrap();
        assert_eq!(std::fs::read(staging.content().join("log")).unwrap(), b"a line");
        staging.copy("none", &here.join("logs/none")).unwrap();
        for (bad, why) in [
            ("logs/link", "symbolic link"),
            ("elsewhere/log", "symbolic link"),
            ("logs/fifo", "not a regular file"),
            ("logs", "not a regular file"),
        ] {
            let error = staging.copy("bad", &here.join(bad)).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains(why), "{error}");
        }
        assert!(!staging.content().join("none").exists() && !staging.content().join("bad").exists());
    }
}
