//! Records into a file.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use super::Timestamp;
use crate::{Error, Kind};

/// The log file of a container.
///
/// Records go into the file that was opened last, wherever it was renamed to since. A record that cannot be written,
/// because the disk is full say, is counted and thrown away: the container must not stand still for it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    fd: OwnedFd,
    lost: u64,
    /// How large it may get; 0 for any size.
    limit: u64,
    /// How much may be written until its size is to be looked at.
    left: u64,
    /// What it was renamed to last, in the same directory.
    rotated: Option<OsString>,
}

impl LogFile {
    /// Opens the file for appending, with mode 0640 if it is new; directories that are missing are made with 0755.
    ///
    /// No symbolic link is followed anywhere in the path, now and when it is opened anew: a container that may write in a
    /// directory of logs shall not decide where the next one goes.
    ///
    /// When it has got `limit` bytes (0: whatever it gets) it is renamed to `<path>.<YYYYMMDD-HHMMSS>`, as kubelet names what
    /// it rotates, and a new one is begun. The one that was renamed before is removed then. While the path is not that of
    /// the file, because somebody else is rotating it, that is left to them.
    ///
    /// # Errors
    /// `Invalid` if the path is not that of a regular file or not absolute and plain; `ELOOP` for a symbolic link in it; else
    /// the error of the call.
    pub fn open(path: &Path, limit: u64) -> Result<Self, Error> {
        let fd = open(path)?;
        let left = left(&fd, limit);
        Ok(Self { path: path.to_owned(), fd, lost: 0, limit, left, rotated: None })
    }

    /// Opens the path anew, and writes there from now on. When that fails nothing has changed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reopen(&mut self) -> Result<(), Error> {
        self.fd = open(&self.path)?;
        self.left = left(&self.fd, self.limit);
        Ok(())
    }

    /// Appends whole records, each ending with a line feed. In the file there are only whole records, whatever fails.
    pub fn write(&mut self, records: &[u8]) {
        let mut rest = records;
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.give_up(records, records.len() - rest.len());
                    return;
                }
            }
        }
        if self.limit > 0 {
            self.left = self.left.saturating_sub(records.len() as u64);
            if self.left == 0 && self.rotate(now_ns()).is_err() {
                // Later, but not at every write.
                self.left = self.limit / 8 + 1;
            }
        }
    }

    /// How many bytes could not be written since the log was opened first.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Begins a new file, if the path is still that of the old one.
    fn rotate(&mut self, now_ns: i64) -> Result<(), Errno> {
        let (dir, name) = parent(&self.path, false)?;
        let (ours, theirs) =
            (rustix::fs::fstat(&self.fd)?, rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?);
        if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino) {
            return Err(Errno::STALE);
        }
        let mut rotated = name.to_owned();
        rotated.push(".");
        rotated.push(Timestamp::from_unix_ns(now_ns).compact());
        let previous = self.rotated.take();
        // What we rotated before goes anyway; what others rotated stays.
        let flags = match previous.as_ref() == Some(&rotated) {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        if let Err(errno) = rustix::fs::renameat_with(&dir, name, &dir, &rotated, flags) {
            self.rotated = previous;
            return Err(errno);
        }
        match open_append(&dir, name) {
            Ok(fd) => self.fd = fd,
            Err(errno) => {
                let _ = rustix::fs::renameat_with(&dir, &rotated, &dir, name, RenameFlags::NOREPLACE);
                self.rotated = previous;
                return Err(errno);
            }
        }
        self.left = self.limit;
        if let Some(previous) = previous.filter(|previous| *previous != rotated) {
            let _ = rustix::fs::unlinkat(&dir, &previous, AtFlags::empty());
        }
        self.rotated = Some(rotated);
        Ok(())
    }

    /// After `written` bytes of `records` writing failed: takes the beginning of a torn record out of the file again, so
    /// that the next one stands at the beginning of a line.
    fn give_up(&mut self, records: &[u8], written: usize) {
        let whole = memchr::memrchr(b'\n', &records[..written]).map_or(0, |end| end + 1);
        self.lost += (records.len() - whole) as u64;
        let torn = (written - whole) as u64;
        // We alone write to this file: with O_APPEND the offset after a write is the file's end.
        if torn > 0
            && let Ok(end) = rustix::fs::seek(&self.fd, SeekFrom::Current(0))
        {
            let _ = rustix::fs::ftruncate(&self.fd, end.saturating_sub(torn));
        }
    }
}

/// How much may be written until the file has reached its limit.
fn left(fd: &OwnedFd, limit: u64) -> u64 {
    let size = rustix::fs::fstat(fd).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or_default());
    limit.saturating_sub(size).max(1)
}

fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let fail = |errno: Errno| Error::io(errno.into(), format_args!("open log file {}", path.display()));
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) || parts.any(|part| !matches!(part, Component::Normal(_))) {
        let message = format!("log path {} is not absolute and without \"..\"", path.display());
        return Err(Error::new(Kind::Invalid, message));
    }
    let (dir, name) = parent(path, true).map_err(fail)?;
    let fd = open_append(dir, name).map_err(fail)?;
    let stat = rustix::fs::fstat(&fd).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(Kind::Invalid, format!("log path {} is not a regular file", path.display())));
    }
    Ok(fd)
}

#[expect(clippy::disallowed_methods, reason = "one name, not followed")]
fn open_append(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    // O_NONBLOCK only matters for what is refused afterwards: opening a FIFO must not wait for its reader.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o640))
}

/// The directory of a log file, opened name by name without following anything, and the file's name in there. With `make`,
/// directories that are missing are made.
#[expect(clippy::disallowed_methods, reason = "the host's root, then one name at a time, not followed")]
fn parent(path: &Path, make: bool) -> Result<(OwnedFd, &OsStr), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = path.file_name().ok_or(Errno::ISDIR)?;
    let mut dir = rustix::fs::open("/", flags, Mode::empty())?;
    for part in path.parent().ok_or(Errno::ISDIR)?.iter().skip(1) {
        let open = || rustix::fs::openat(&dir, part, flags, Mode::empty());
        let next = match open() {
            Err(Errno::NOENT) if make => match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(errno) => Err(errno),
            },
            other => other,
        };
        dir = next.map_err(|errno| {
            let is_link = errno == Errno::NOTDIR && rustix::fs::readlinkat(&dir, part, Vec::new()).is_ok();
            if is_link { Errno::LOOP } else { errno }
        })?;
    }
    Ok((dir, name))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn parents_are_made_and_modes_are_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod/container/0.log");
        let mut log = LogFile::open(&path, 0).unwrap();
        log.write(b"one\n");
        LogFile::open(&path, 0).unwrap().write(b"two\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o640);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn a_renamed_file_gets_the_records_until_it_is_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.old"));
        let mut log = LogFile::open(&path, 0).unwrap();
        log.write(b"one\n");
        std::fs::rename(&path, &old).unwrap();
        log.write(b"two\n");
        log.reopen().unwrap();
        log.write(b"three\n");
        assert_eq!(std::fs::read(&old).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
    }

    #[test]
    fn a_failed_reopen_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 0).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(log.reopen().unwrap_err().errno(), Some(Errno::ISDIR));
        log.write(b"one\n");
        assert_eq!(std::fs::read(dir.path().join("old")).unwrap(), b"one\n");
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(LogFile::open(&fifo, 0).unwrap_err().errno(), Some(Errno::NXIO));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert_eq!(LogFile::open(&link, 0).unwrap_err().errno(), Some(Errno::LOOP));
        assert_eq!(LogFile::open(Path::new("/dev/null"), 0).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(LogFile::open(Path::new("0.log"), 0).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn no_link_leads_out_of_the_directory_of_logs() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, elsewhere) = (dir.path().join("pod"), dir.path().join("elsewhere"));
        let path = pod.join("container/0.log");
        std::fs::create_dir(&elsewhere).unwrap();
        let mut log = LogFile::open(&path, 8).unwrap();
        std::fs::rename(pod.join("container"), pod.join("old")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, pod.join("container")).unwrap();
        assert_eq!(log.reopen().unwrap_err().errno(), Some(Errno::LOOP));
        let below = pod.join("container/made/0.log");
        for path in [&path, &below] {
            assert_eq!(LogFile::open(path, 0).unwrap_err().errno(), Some(Errno::LOOP));
        }
        // Nor when the file is full: the records go on into the one that is open.
        std::os::unix::fs::symlink("/dev/full", elsewhere.join("0.log")).unwrap();
        log.write(b"one and more\n");
        assert_eq!(log.lost(), 0);
        assert_eq!(std::fs::read(pod.join("old/0.log")).unwrap(), b"one and more\n");
        assert_eq!(names(&elsewhere), ["0.log"]);
        let up = pod.join("old/../0.log");
        assert_eq!(LogFile::open(&up, 0).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_full_disk_tears_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&dir.path().join("0.log"), 0).unwrap();
        log.write(b"before\n");
        // A write that ends within a record cannot be had at will from a healthy disk: do what it does, then fail.
        let records = b"whole\ntorn record\nnever\n";
        rustix::io::write(&log.fd, &records[..9]).unwrap();
        log.give_up(records, 9);
        assert_eq!(log.lost(), 18);
        log.write(b"after\n");
        assert_eq!(std::fs::read(&log.path).unwrap(), b"before\nwhole\nafter\n");
        assert_eq!(std::fs::metadata(&log.path).unwrap().size(), 19);
    }

    #[test]
    fn a_failing_write_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&dir.path().join("0.log"), 0).unwrap();
        log.fd = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).unwrap();
        log.write(b"lost\n");
        log.write(b"lost too\n");
        assert_eq!(log.lost(), 14);
    }

    #[test]
    fn a_file_that_is_full_is_renamed_and_one_such_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "ten bytes\n").unwrap();
        let mut log = LogFile::open(&path, 15).unwrap();
        log.write(b"one\n");
        assert_eq!(names(dir.path()), ["0.log"]);
        log.write(b"two\n");
        let [current, first] = &names(dir.path())[..] else { panic!("{:?}", names(dir.path())) };
        assert_eq!(current, "0.log");
        assert!(first.len() == "0.log.20161006-001709".len(), "{first}");
        assert_eq!(std::fs::read(dir.path().join(first)).unwrap(), b"ten bytes\none\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        log.write(b"three\n");
        log.rotate(1_475_713_029_000_000_000).unwrap();
        assert_eq!(names(dir.path()), ["0.log", "0.log.20161006-001709"]);
        // Twice in a second.
        log.write(b"four\n");
        log.rotate(1_475_713_029_500_000_000).unwrap();
        assert_eq!(std::fs::read(dir.path().join("0.log.20161006-001709")).unwrap(), b"four\n");
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn a_file_that_somebody_else_rotates_is_left_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("0.log"), dir.path().join("0.log.theirs"));
        let mut log = LogFile::open(&path, 16).unwrap();
        std::fs::rename(&path, &theirs).unwrap();
        log.write(b"more than it may hold\n");
        assert_eq!(names(dir.path()), ["0.log.theirs"]);
        log.write(b"and more\n");
        log.reopen().unwrap();
        log.write(b"new\n");
        assert_eq!(std::fs::read(&theirs).unwrap(), b"more than it may hold\nand more\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"new\n");
        // And what they have rotated in the same second stays.
        std::fs::write(dir.path().join("0.log.20161006-001709"), "theirs").unwrap();
        assert_eq!(log.rotate(1_475_713_029_000_000_000).unwrap_err(), Errno::EXIST);
        log.write(b"newer\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"new\nnewer\n");
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
