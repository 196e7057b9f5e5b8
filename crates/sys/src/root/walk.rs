//! openat2(2) for kernels before Linux 5.6, and where a filter answers `ENOSYS` to it.
//!
//! The path is walked one name at a time, each opened below the descriptor of the directory before it and not followed
//! (`O_PATH|O_NOFOLLOW`). What turns out to be a symbolic link is read and walked in its turn, from the root if it is
//! absolute. `..` never asks the kernel: the way down to the directory above is walked anew. So every directory on the way
//! was reached from the root by names alone, and no exchange of a directory for a link, at whatever moment, leads out.
//!
//! What differs from openat2(2): a link of procfs counts as a magic one unless it is in procfs's root directory
//! (`self`, `mounts`…); `RESOLVE_NO_XDEV` compares mounts by their ids where statx(2) has them (Linux 5.8), else
//! filesystems by their devices.
//!
//! Safe between clone and exec: no allocation.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Stat, StatxFlags};
use rustix::io::Errno;

/// As many symbolic links as the kernel follows.
const LINKS: u32 = 40;

const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Resolves `path` below `dir`.
///
/// # Errors
/// Those of openat2(2); `ENOSYS` for what is asked by neither `RESOLVE_IN_ROOT` nor `RESOLVE_BENEATH`; `EAGAIN` when
/// something was exchanged on the way.
pub(super) fn open(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    if resolve.is_empty() {
        return rustix::fs::openat(dir, path, flags, mode);
    }
    if !resolve.intersects(ResolveFlags::IN_ROOT | ResolveFlags::BENEATH) {
        return Err(Errno::NOSYS);
    }
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let mut walk = Walk::new(dir, flags, mode, resolve)?;
    walk.rest.prepend(path.to_bytes())?;
    walk.absolute(path.to_bytes())?;
    walk.run()
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
    /// Where it is; none for the root.
    here: Option<OwnedFd>,
    /// The names that lead here, separated by slashes.
    done: Text,
    /// What is left.
    rest: Text,
    links: u32,
    /// The mount that must not be left.
    mount: Option<u64>,
}

impl<'a> Walk<'a> {
    fn new(root: BorrowedFd<'a>, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> Result<Self, Errno> {
        let mount = resolve.contains(ResolveFlags::NO_XDEV).then(|| mount_of(root)).transpose()?;
        let (done, rest) = (Text::new(), Text::new());
        Ok(Self { root, flags, mode, resolve, here: None, done, rest, links: 0, mount })
    }

    fn run(mut self) -> Result<OwnedFd, Errno> {
        loop {
            let mut name = [0; 256];
            let Some(last) = self.rest.take_name(&mut name)? else {
                // The last part was "." or "..", or there was none.
                return rustix::fs::openat(self.here(), c".", self.flags | OFlags::CLOEXEC, self.mode);
            };
            let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::NAMETOOLONG)?;
            match name.to_bytes() {
                b"." => {}
                b".." => self.up()?,
                _ => {
                    if let Some(found) = self.down(name, last)? {
                        return Ok(found);
                    }
                }
            }
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.here.as_ref().map_or(self.root, OwnedFd::as_fd)
    }

    /// Goes into `name`. Some when that was the end of the path.
    fn down(&mut self, name: &CStr, last: Last) -> Result<Option<OwnedFd>, Errno> {
        if last == Last::Yes && self.flags.contains(OFlags::CREATE) {
            return rustix::fs::openat(self.here(), name, self.flags | OFlags::NOFOLLOW, self.mode).map(Some);
        }
        let found = rustix::fs::openat(self.here(), name, PATH, Mode::empty())?;
        let stat = rustix::fs::fstat(&found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            if last == Last::Yes && self.flags.contains(OFlags::NOFOLLOW) {
                return match () {
                    () if self.flags.contains(OFlags::DIRECTORY) => Err(Errno::NOTDIR),
                    () if self.flags.contains(OFlags::PATH) => Ok(Some(found)),
                    () => Err(Errno::LOOP),
                };
            }
            return self.follow(&found).map(|()| None);
        }
        if self.mount.is_some_and(|mount| mount_of(found.as_fd()) != Ok(mount)) {
            return Err(Errno::XDEV);
        }
        let wants_dir = last != Last::Yes || self.flags.contains(OFlags::DIRECTORY);
        if wants_dir && kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if last == Last::Yes {
            return self.finish(name, found, &stat).map(Some);
        }
        self.done.push_name(name.to_bytes())?;
        self.here = Some(found);
        Ok(None)
    }

    /// Opens what was found as it was asked for.
    fn finish(&self, name: &CStr, found: OwnedFd, stat: &Stat) -> Result<OwnedFd, Errno> {
        if self.flags.contains(OFlags::PATH) {
            return Ok(found);
        }
        let flags = self.flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.here(), name, flags, self.mode) {
            Err(Errno::LOOP) => return Err(Errno::AGAIN),
            other => other?,
        };
        let same = rustix::fs::fstat(&file)?;
        // /dev/ptmx and its like give another file than the one that is opened.
        let is_same = (same.st_dev, same.st_ino) == (stat.st_dev, stat.st_ino);
        if is_same || (same.st_rdev != 0 && same.st_rdev == stat.st_rdev) {
            Ok(file)
        } else {
            Err(Errno::AGAIN)
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<(), Errno> {
        if self.resolve.contains(ResolveFlags::NO_SYMLINKS) || self.links == LINKS {
            return Err(Errno::LOOP);
        }
        self.links += 1;
        let is_proc = rustix::fs::fstatfs(link)?.f_type == PROC_SUPER_MAGIC;
        if is_proc && rustix::fs::fstat(self.here())?.st_ino != 1 {
            return Err(Errno::LOOP);
        }
        let mut space = [core::mem::MaybeUninit::uninit(); 4096];
        let (target, _) = rustix::fs::readlinkat_raw(link, c"", &mut space)?;
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        self.rest.prepend(target)?;
        self.absolute(target)
    }

    /// A path that begins with a slash begins at the root.
    fn absolute(&mut self, path: &[u8]) -> Result<(), Errno> {
        if path.first() == Some(&b'/') {
            if self.resolve.contains(ResolveFlags::BENEATH) {
                return Err(Errno::XDEV);
            }
            self.here = None;
            self.done.length = 0;
        }
        Ok(())
    }

    /// To the directory above, by the way that led here.
    fn up(&mut self) -> Result<(), Errno> {
        if self.done.length == 0 {
            // The root of a container is above itself.
            return if self.resolve.contains(ResolveFlags::BENEATH) { Err(Errno::XDEV) } else { Ok(()) };
        }
        self.done.pop_name();
        self.here = None;
        let mut way = Text::new();
        way.prepend(self.done.as_bytes())?;
        let mut name = [0; 256];
        while way.take_name(&mut name)?.is_some() {
            let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::NAMETOOLONG)?;
            match rustix::fs::openat(self.here(), name, PATH | OFlags::DIRECTORY, Mode::empty()) {
                Ok(next) => self.here = Some(next),
                // It was another a moment ago.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(Errno::AGAIN),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// Which mount a file is on, or at least which filesystem.
fn mount_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let wanted = StatxFlags::from_bits_retain(0x1000); // STATX_MNT_ID
    match rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted) {
        Ok(stat) if stat.stx_mask & wanted.bits() != 0 => Ok(stat.stx_mnt_id),
        Ok(_) | Err(Errno::NOSYS) => rustix::fs::fstat(file).map(|stat| stat.st_dev),
        Err(errno) => Err(errno),
    }
}

/// Whether a name is the last of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    No,
    /// But a slash follows: it must be a directory.
    ButSlash,
    Yes,
}

/// A path under construction.
struct Text {
    bytes: [u8; 8192],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 8192], length: 0 }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Puts a path before what is there. An empty rest stays no rest: the end of the link is the end of the path.
    fn prepend(&mut self, path: &[u8]) -> Result<(), Errno> {
        let slash = usize::from(self.length > 0 && self.bytes[0] != b'/');
        let length = path.len() + slash + self.length;
        if length > self.bytes.len() {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.copy_within(..self.length, path.len() + slash);
        self.bytes[..path.len()].copy_from_slice(path);
        if slash == 1 {
            self.bytes[path.len()] = b'/';
        }
        self.length = length;
        Ok(())
    }

    /// Takes the first name off, with a NUL character at its end; none when there is none left.
    fn take_name(&mut self, name: &mut [u8; 256]) -> Result<Option<Last>, Errno> {
        let is_slash = |byte: &u8| *byte == b'/';
        let Some(start) = self.as_bytes().iter().position(|byte| !is_slash(byte)) else { return Ok(None) };
        let end = self.as_bytes()[start..].iter().position(is_slash).map_or(self.length, |at| start + at);
        let text = &self.bytes[start..end];
        name[..].fill(0);
        name.get_mut(..text.len())
            .filter(|_| text.len() < 256)
            .ok_or(Errno::NAMETOOLONG)?
            .copy_from_slice(text);
        let last = match self.as_bytes()[end..].iter().all(is_slash) {
            true if end == self.length => Last::Yes,
            true => Last::ButSlash,
            false => Last::No,
        };
        self.bytes.copy_within(end..self.length, 0);
        self.length -= end;
        Ok(Some(last))
    }

    fn push_name(&mut self, name: &[u8]) -> Result<(), Errno> {
        let end = self.length + 1 + name.len();
        if end > self.bytes.len() {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.length] = b'/';
        self.bytes[self.length + 1..end].copy_from_slice(name);
        self.length = end;
        Ok(())
    }

    fn pop_name(&mut self) {
        self.length = self.as_bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Every path of a tree full of links, with every set of flags: the same answer as the kernel's.
    #[test]
    fn answers_as_openat2_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::create_dir_all(root.join("x")).unwrap();
        std::fs::write(root.join("a/file"), "").unwrap();
        std::fs::write(dir.path().join("secret"), "").unwrap();
        for (link, target) in [
            ("up", "../../../secret"),
            ("absolute", "/a/b"),
            ("relative", "a/b/../file"),
            ("dangling", "/nowhere"),
            ("loop", "loop"),
            ("x/long", "../absolute/c/../../file"),
            ("x/root", "/"),
            ("x/slash", "../a/b/"),
            ("x/file-slash", "../a/file/"),
            ("x/self", "."),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let fd = crate::fs::open_dir(&root).unwrap();
        let mut compared = 0;
        for path in [
            ".",
            "..",
            "/",
            "//",
            "a",
            "/a",
            "a/",
            "a//b",
            "a/b/c/../../file",
            "a/file",
            "a/file/",
            "a/file/..",
            "a/none",
            "none/a",
            "up",
            "absolute",
            "absolute/c",
            "absolute/..",
            "relative",
            "relative/",
            "dangling",
            "dangling/x",
            "loop",
            "x/long",
            "x/root",
            "x/root/a",
            "x/root/..",
            "x/slash",
            "x/slash/c",
            "x/file-slash",
            "x/self/self/long",
            "../../etc/passwd",
            "a/../..",
            "a/b/c/../../../../../a",
        ] {
            let text = std::ffi::CString::new(path).unwrap();
            for flags in [
                OFlags::PATH,
                OFlags::PATH | OFlags::DIRECTORY,
                OFlags::PATH | OFlags::NOFOLLOW,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY,
                OFlags::RDONLY,
                OFlags::RDONLY | OFlags::NOFOLLOW,
            ] {
                for resolve in [
                    ResolveFlags::IN_ROOT,
                    ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
                    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
                    ResolveFlags::BENEATH,
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
                ] {
                    let flags = flags | OFlags::CLOEXEC;
                    let kernel = rustix::fs::openat2(&fd, &text, flags, Mode::empty(), resolve);
                    let ours = open(fd.as_fd(), &text, flags, Mode::empty(), resolve);
                    let identity = |fd: &OwnedFd| {
                        let stat = rustix::fs::fstat(fd).unwrap();
                        (stat.st_dev, stat.st_ino)
                    };
                    let (kernel, ours) = (kernel.as_ref().map(identity), ours.as_ref().map(identity));
                    assert_eq!(ours, kernel, "{path:?}, {flags:?}, {resolve:?}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 1000);
    }

    #[test]
    fn magic_links_and_other_mounts_are_refused() {
        let proc = crate::fs::open_dir("/proc").unwrap();
        let at = |path: &CStr, resolve| open(proc.as_fd(), path, OFlags::PATH, Mode::empty(), resolve);
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        assert_eq!(at(c"self/exe", how).unwrap_err(), Errno::LOOP);
        assert_eq!(at(c"self/root/etc", how).unwrap_err(), Errno::LOOP);
        at(c"self/status", how).unwrap();
        let root = crate::fs::open_dir("/").unwrap();
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        assert_eq!(
            open(root.as_fd(), c"proc/self", OFlags::PATH, Mode::empty(), how).unwrap_err(),
            Errno::XDEV
        );
        assert_eq!(
            open(root.as_fd(), c"a", OFlags::PATH, Mode::empty(), ResolveFlags::NO_XDEV).unwrap_err(),
            Errno::NOSYS
        );
    }

    #[test]
    fn names_and_paths_that_are_too_long() {
        let root = crate::fs::open_dir("/").unwrap();
        let long = std::ffi::CString::new("x".repeat(256)).unwrap();
        let how = ResolveFlags::IN_ROOT;
        let error = open(root.as_fd(), &long, OFlags::PATH, Mode::empty(), how).unwrap_err();
        assert_eq!(error, Errno::NAMETOOLONG);
        let path = std::ffi::CString::new("./".repeat(5000)).unwrap();
        assert_eq!(
            open(root.as_fd(), &path, OFlags::PATH, Mode::empty(), how).unwrap_err(),
            Errno::NAMETOOLONG
        );
    }
}
