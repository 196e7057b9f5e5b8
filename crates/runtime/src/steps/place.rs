//! Places in the container's root: found by openat2(2) below it, made where they are missing, and used by descriptor.
//!
//! A mount point that is a symbolic link to nothing is followed as the kernel would follow it in the container, and what is
//! missing is made where it leads: images have `/etc/resolv.conf` as a link to a file of systemd-resolved. Each name is made
//! below the descriptor of a directory that was reached inside the root, so nothing is made elsewhere, whatever is exchanged
//! meanwhile. The same goes for the working directory. Devices, links and the console are not made by way of such a link.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use vaquita_sys::root::openat2;

use super::{At, Failure, fail};
use crate::plan::path::{Inside, PATH_MAX};

/// How paths of the container are resolved: as if its root were `/`, and never through a magic link of procfs.
pub(super) const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

pub(super) const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
pub(super) const DIRECTORY: OFlags = PATH.union(OFlags::DIRECTORY);

/// How one name is opened that was just made.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// A link that is not followed, or too many of them.
const LOOP: Failure = Failure { call: "openat2", errno: Errno::LOOP };

/// How many symbolic links that lead to nothing are followed, as many as the kernel follows of the others.
const LINKS: u32 = 40;

/// Opens a path of the container without making anything.
pub(super) fn open(root: BorrowedFd<'_>, path: &Inside, flags: OFlags) -> Result<OwnedFd, Failure> {
    resolve(root, &path.path, flags, IN_ROOT).at("openat2")
}

/// Opens the directory that `path` is in, making what is missing.
pub(super) fn open_parent(root: BorrowedFd<'_>, path: &Inside) -> Result<OwnedFd, Failure> {
    let name = path.name().map_or(0, CStr::count_bytes);
    let parent = &path.path.to_bytes()[..path.path.count_bytes() - name];
    Way::new(parent)?.step(root, true, IN_ROOT, Links::Refused)?.ok_or(LOOP)
}

/// Opens a path of the container; an empty file is made where nothing is.
pub(super) fn open_or_make(root: BorrowedFd<'_>, path: &Inside) -> Result<OwnedFd, Failure> {
    match resolve(root, &path.path, PATH, IN_ROOT) {
        Err(Errno::NOENT) => {
            let mut way = Way::new(path.path.to_bytes())?;
            way.step(root, false, IN_ROOT, Links::Refused)?.ok_or(LOOP)
        }
        other => other.at("openat2"),
    }
}

/// Makes a directory or an empty file, and the directories that lead there, where nothing is. Links that lead to
/// nothing are followed, unless `how` says that none is.
pub(super) fn make(
    root: BorrowedFd<'_>,
    path: &Inside,
    is_dir: bool,
    how: ResolveFlags,
) -> Result<OwnedFd, Failure> {
    let mut way = Way::new(path.path.to_bytes())?;
    let links = if how.contains(ResolveFlags::NO_SYMLINKS) { Links::Refused } else { Links::Followed };
    for _ in 0..LINKS {
        if let Some(place) = way.step(root, is_dir, how, links)? {
            return Ok(place);
        }
    }
    Err(LOOP)
}

pub(super) fn resolve(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    openat2(dir, path, flags, Mode::empty(), how)
}

/// What becomes of links that lead to nothing.
#[derive(Clone, Copy, PartialEq)]
enum Links {
    Followed,
    Refused,
}

/// A path inside the root that changes with each link that leads to nothing. No allocation: this is between clone and exec.
struct Way {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Way {
    fn new(path: &[u8]) -> Result<Self, Failure> {
        let mut way = Self { bytes: [0; PATH_MAX], length: 0 };
        way.redirect(0, 0, path).at("openat2")?;
        Ok(way)
    }

    /// Opens what is at the end, making what is missing. None when a link led to nothing, and the way is another now.
    fn step(
        &mut self,
        root: BorrowedFd<'_>,
        is_dir: bool,
        how: ResolveFlags,
        links: Links,
    ) -> Result<Option<OwnedFd>, Failure> {
        let mut here = resolve(root, c".", DIRECTORY, how).at("openat2")?;
        let mut buffer = [0; PATH_MAX];
        let mut next = self.part(0);
        if next.is_none() && !is_dir {
            return fail("openat2", Errno::ISDIR);
        }
        while let Some((start, end)) = next {
            next = self.part(end);
            let makes_file = next.is_none() && !is_dir;
            let flags = if makes_file { PATH } else { DIRECTORY };
            let (prefix, name) = self.names(start, end, &mut buffer).at("openat2")?;
            here = match resolve(root, prefix, flags, how) {
                Err(Errno::NOENT) => {
                    let made = make_one(here.as_fd(), name, makes_file)?;
                    if !made && links == Links::Followed {
                        let mut target = [0; PATH_MAX];
                        if let Some(target) = read_link(here.as_fd(), name, &mut target)? {
                            self.redirect(start, end, target).at("openat2")?;
                            return Ok(None);
                        }
                    }
                    resolve(here.as_fd(), name, flags, BENEATH).at("openat2")?
                }
                other => other.at("openat2")?,
            };
        }
        Ok(Some(here))
    }

    /// Where the next name begins and ends.
    fn part(&self, from: usize) -> Option<(usize, usize)> {
        let bytes = &self.bytes[..self.length];
        let start = from + bytes.get(from..)?.iter().position(|byte| *byte != b'/')?;
        let end = bytes[start..].iter().position(|byte| *byte == b'/').map_or(self.length, |at| start + at);
        Some((start, end))
    }

    /// The path up to the end of a name, relative, and that name.
    fn names<'a>(
        &self,
        start: usize,
        end: usize,
        buffer: &'a mut [u8; PATH_MAX],
    ) -> Result<(&'a CStr, &'a CStr), Errno> {
        buffer[..end].copy_from_slice(&self.bytes[..end]);
        *buffer.get_mut(end).ok_or(Errno::NAMETOOLONG)? = 0;
        let text = |from: usize| CStr::from_bytes_with_nul(&buffer[from..=end]).map_err(|_| Errno::INVAL);
        Ok((text(0)?, text(start)?))
    }

    /// Puts what a link says in the place of its name.
    fn redirect(&mut self, start: usize, end: usize, target: &[u8]) -> Result<(), Errno> {
        // An absolute one begins at the root.
        let start = if target.first() == Some(&b'/') { 0 } else { start };
        let rest = self.length - end;
        let length = start + target.len() + rest;
        if length >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.copy_within(end..self.length, start + target.len());
        self.bytes[start..start + target.len()].copy_from_slice(target);
        self.length = length;
        Ok(())
    }
}

/// Makes an empty file or a directory. False if there is something of that name.
fn make_one(directory: BorrowedFd<'_>, name: &CStr, is_file: bool) -> Result<bool, Failure> {
    if matches!(name.to_bytes(), b"." | b"..") {
        // What it is the directory of is not there any more.
        return fail("openat2", Errno::NOENT);
    }
    let made = if is_file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        #[expect(
            clippy::disallowed_methods,
            reason = "one name in a directory resolved before, and no link is followed"
        )]
        let made = rustix::io::retry_on_intr(|| {
            rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644))
        });
        made.map(drop)
    } else {
        rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))
    };
    match made {
        Ok(()) => Ok(true),
        // A link that leads to nothing. Or somebody was faster, and theirs is as good.
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => fail(if is_file { "openat" } else { "mkdirat" }, errno),
    }
}

/// What a symbolic link says; none for what is not one, or is gone.
fn read_link<'a>(
    directory: BorrowedFd<'_>,
    name: &CStr,
    buffer: &'a mut [u8; PATH_MAX],
) -> Result<Option<&'a [u8]>, Failure> {
    match rustix::fs::readlinkat_raw(directory, name, &mut buffer[..]) {
        Ok(length) if length == PATH_MAX => fail("readlinkat", Errno::NAMETOOLONG),
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => fail("readlinkat", errno),
    }
}
