//! One daemon per directory.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use vaquita_cri::Config;

/// Another daemon has the directories.
#[derive(Debug)]
pub(crate) struct Busy(String);

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Busy {}

/// Held while a daemon uses its directories; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _state: File,
    _root: File,
}

impl Lock {
    /// Makes both directories (0700) and locks them. `background`: those who use the daemon may start it again.
    ///
    /// # Errors
    /// Where another process has one: its number is in the message, as far as the kernel tells.
    pub(crate) fn take(config: &Config, background: bool) -> Result<Self> {
        let state = hold(&config.state)?;
        let root = hold(&config.root)?;
        let record = serde_json::json!({
            "pid": std::process::id(),
            "started": jiff::Timestamp::now().to_string(),
            "root": config.root,
            "background": background,
        });
        let path = config.state.join("daemon.json");
        let written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        written
            .and_then(|mut file| file.write_all(format!("{record}\n").as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { _state: state, _root: root })
    }
}

fn hold(dir: &Path) -> Result<File> {
    make(dir)?;
    let file = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or_default();
            let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
            let who = owner(&locks, inode)
                .map_or_else(|| "another daemon".to_owned(), |pid| format!("the daemon with pid {pid}"));
            Err(Busy(format!("{who} uses {} already", dir.display())).into())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", dir.display())),
    }
}

fn make(dir: &Path) -> Result<()> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", dir.display())),
    }
}

/// Who holds a flock on the inode, from the text of `/proc/locks` (proc_locks(5)).
fn owner(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else { return None };
        let found: u64 = file.rsplit(':').next()?.parse().ok()?;
        pid.parse().ok().filter(|pid| found == inode && *pid > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_lock_is_found_by_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 5 00:1a:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 1234 00:1a:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 99 00:1a:77 0 EOF\n";
        assert_eq!(owner(locks, 77), Some(1234));
        assert_eq!(owner(locks, 7), None);
    }

    #[test]
    fn a_second_daemon_is_refused_and_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            Config { root: dir.path().join("a/root"), state: dir.path().join("state"), ..Config::default() };
        let lock = Lock::take(&config, false).unwrap();
        let error = Lock::take(&config, false).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        let other = Config { state: dir.path().join("other"), ..config.clone() };
        let error = Lock::take(&other, false).unwrap_err().to_string();
        assert!(error.contains("a/root already"), "{error}");
        drop(lock);
        Lock::take(&config, false).unwrap();
    }
}
