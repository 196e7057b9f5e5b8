//! Creating what is missing of a path inside a root.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Root, create_in, is_symlink, openat2, os_path, read_link_at};
use crate::Result;

/// How many symbolic links that lead to nothing are followed, as many as the kernel follows of the others.
const LINKS: u32 = 40;

/// What has to be at the end of the path.
#[derive(Clone, Copy)]
pub(super) enum What {
    Dir { mode: u32 },
    File,
}

enum Step {
    Done(OwnedFd),
    /// A dangling symbolic link was met: go on with this path instead.
    Elsewhere(PathBuf),
}

impl Root {
    pub(super) fn make(&self, path: &Path, what: What) -> Result<OwnedFd> {
        let mut current = path.to_owned();
        for _ in 0..LINKS {
            match self.make_step(&current, what) {
                Ok(Step::Done(fd)) => return Ok(fd),
                Ok(Step::Elsewhere(next)) => current = next,
                Err(errno) => return Err(self.error(call_name(what), path, "", errno)),
            }
        }
        Err(self.error(call_name(what), path, "", Errno::LOOP))
    }

    fn make_step(&self, path: &Path, what: What) -> core::result::Result<Step, Errno> {
        match self.resolve(path, OFlags::PATH) {
            Ok(fd) => return check_kind(fd, what).map(Step::Done),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let parts: Vec<&OsStr> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                Component::ParentDir => Some(OsStr::new("..")),
                _ => None,
            })
            .collect();
        let (mut dir, existing) = self.deepest(&parts)?;
        for (at, part) in parts.iter().enumerate().skip(existing) {
            let last = at + 1 == parts.len();
            let name = CString::new(part.as_bytes()).map_err(|_| Errno::INVAL)?;
            if *part == ".." {
                return Err(Errno::NOENT); // Of a directory that does not exist.
            }
            let made = match what {
                What::File if last => create_in(dir.as_fd(), &name, 0o644).map(drop),
                What::File => rustix::fs::mkdirat(&dir, name.as_c_str(), Mode::from_bits_truncate(0o755)),
                What::Dir { mode } => {
                    rustix::fs::mkdirat(&dir, name.as_c_str(), Mode::from_bits_truncate(mode))
                }
            };
            match made {
                Ok(()) => {}
                // A symbolic link that leads to nothing, or somebody was faster: what it is now decides.
                Err(Errno::EXIST) if is_symlink(dir.as_fd(), &name) => {
                    let target = read_link_at(dir.as_fd(), &name)?;
                    return Ok(Step::Elsewhere(redirect(&parts[..at], &target, &parts[at + 1..])));
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let mut flags = OFlags::PATH | OFlags::NOFOLLOW;
            flags.set(OFlags::DIRECTORY, !last || matches!(what, What::Dir { .. }));
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            dir = openat2(dir.as_fd(), name.as_c_str(), flags, Mode::empty(), resolve)?;
        }
        check_kind(dir, what).map(Step::Done)
    }

    /// The deepest directory of the path that exists, and how many parts lead to it.
    fn deepest(&self, parts: &[&OsStr]) -> core::result::Result<(OwnedFd, usize), Errno> {
        let mut count = parts.len();
        loop {
            count = count.saturating_sub(1);
            match self.resolve(&os_path(&parts[..count]), OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) if count > 0 => {}
                other => return other.map(|dir| (dir, count)),
            }
        }
    }
}

fn check_kind(fd: OwnedFd, what: What) -> core::result::Result<OwnedFd, Errno> {
    let is_dir = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Directory;
    match (what, is_dir) {
        (What::Dir { .. }, true) | (What::File, false) => Ok(fd),
        (What::Dir { .. }, false) => Err(Errno::NOTDIR),
        (What::File, true) => Err(Errno::ISDIR),
    }
}

/// `before/<link>/after` where the link says `target`.
fn redirect(before: &[&OsStr], target: &Path, after: &[&OsStr]) -> PathBuf {
    let mut path = if target.is_absolute() { OsString::from("/").into() } else { os_path(before) };
    // Not by push alone: an absolute part would replace what is there, which is what is wanted for the target only.
    path.push(target);
    path.extend(after);
    path
}

fn call_name(what: What) -> &'static str {
    match what {
        What::Dir { .. } => "mkdir_all",
        What::File => "ensure_file",
    }
}
