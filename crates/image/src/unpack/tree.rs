//! The directory that a layer is unpacked into.
//!
//! Nobody else writes there, but what has been unpacked so far is hostile: symbolic links may point anywhere. Every
//! parent directory is therefore opened by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` on a path whose links
//! were resolved here, component by component, below the root; last components are never followed.

mod bounds;
mod meta;

use std::collections::VecDeque;
use std::rc::Rc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec};
use rustix::io::Errno;
use vaquita_sys::root::openat2;

use crate::Error;

use super::path::{refused, show};
use super::recipe::Recipe;

use bounds::{Implicit, LookUps};
pub(super) use meta::{Meta, is_allowed};

/// Marks a directory whose content hides that of the layers below (overlayfs documentation, "whiteouts and opaque directories").
const OPAQUE: &str = "trusted.overlay.opaque";
/// Links followed for one path, as many as the kernel does.
const LINK_LIMIT: u32 = 40;
const PATH_LIMIT: usize = 4096;
/// Directories kept open.
const RECENT: usize = 8;
const BLOCK: u64 = 4096;

/// A layer that grows.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    recipe: Rc<Recipe>,
    /// The last directories used: the path as the archive writes it, and what it came to. Oldest first.
    recent: Vec<(Vec<u8>, Parent)>,
    /// Directories that were changed, innermost last, with the time to put back when they are left.
    entered: Vec<(Vec<u8>, Timespec)>,
    implicit: Implicit,
    look_ups: LookUps,
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// Files and directories.
    pub(super) inodes: u64,
}

#[derive(Clone)]
struct Parent {
    dir: Rc<OwnedFd>,
    /// Its path below the root, free of links; empty for the root.
    path: Vec<u8>,
}

/// A name in a directory.
pub(super) struct Place {
    pub(super) dir: Rc<OwnedFd>,
    pub(super) name: Vec<u8>,
    path: Vec<u8>,
}

/// What stood at a place before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Directory,
    Whiteout,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, recipe: Rc<Recipe>) -> Self {
        Self {
            root: Rc::new(root),
            recipe,
            recent: Vec::new(),
            entered: Vec::new(),
            implicit: Implicit::new(),
            look_ups: LookUps::new(),
            bytes: 0,
            inodes: 0,
        }
    }

    /// What is written down of the stream.
    pub(super) fn recipe(&self) -> &Rc<Recipe> {
        &self.recipe
    }

    /// Directories that were made without an entry of their own, in hex.
    pub(super) fn implicit(&self) -> Vec<String> {
        self.implicit.in_hex()
    }

    /// Before each entry: lets it look up as many names as it may.
    ///
    /// # Errors
    /// The entries up to here have used up theirs.
    pub(super) fn begin_entry(&self, path: &[u8]) -> Result<(), Error> {
        self.look_ups.allow_more();
        self.look_ups.check(path)
    }

    /// The layer's root directory gets the metadata of its entry.
    pub(super) fn set_root(&mut self, meta: &Meta) -> Result<(), Error> {
        self.leave_all()?;
        self.implicit.remove(b"");
        meta.apply(self.root.as_fd(), b"/")
    }

    /// Makes a regular file, for the caller to fill, and says its path, free of links; what stood there is replaced.
    #[expect(clippy::disallowed_methods, reason = "one name, not followed")]
    pub(super) fn file(&mut self, parts: &[&[u8]]) -> Result<(OwnedFd, Vec<u8>), Error> {
        let place = self.place(parts)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = rustix::fs::openat(&*place.dir, &place.name[..], flags, Mode::from_raw_mode(0o600));
        if matches!(opened, Err(Errno::EXIST)) {
            self.clear(&place, false)?;
            opened = rustix::fs::openat(&*place.dir, &place.name[..], flags, Mode::from_raw_mode(0o600));
        }
        self.inodes += 1;
        Ok((opened.map_err(|e| place.failed("openat", e))?, place.full()))
    }

    /// Counts the content of a file that was written.
    pub(super) fn count(&mut self, bytes: u64) {
        self.bytes += bytes.next_multiple_of(BLOCK);
    }

    /// Makes a directory, or keeps the one that is there, with this metadata.
    #[expect(clippy::disallowed_methods, reason = "one name, not followed")]
    pub(super) fn directory(&mut self, parts: &[&[u8]], meta: &Meta) -> Result<(), Error> {
        let place = self.place(parts)?;
        let before = match rustix::fs::mkdirat(&*place.dir, &place.name[..], Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                self.count_directory();
                Before::Nothing
            }
            Err(Errno::EXIST) => self.replace_by_directory(&place)?,
            Err(e) => return Err(place.failed("mkdirat", e)),
        };
        let path = place.full();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&*place.dir, &place.name[..], flags, Mode::empty())
            .map_err(|e| place.failed("openat", e))?;
        if before == Before::Whiteout {
            set_opaque(&dir, &path)?;
        }
        if before == Before::Directory {
            self.implicit.remove(&path);
        }
        meta.apply(dir.as_fd(), &path)?;
        // Most likely its files come next.
        self.remember(path.clone(), Parent { dir: Rc::new(dir), path });
        Ok(())
    }

    /// Makes a symbolic link; its target is stored, never followed.
    pub(super) fn symlink(&mut self, parts: &[&[u8]], target: &[u8], meta: &Meta) -> Result<(), Error> {
        let place = self.place(parts)?;
        if target.is_empty() || target.len() >= PATH_LIMIT || target.contains(&0) {
            return Err(refused(
                &place.full(),
                "the link's target is empty, too long, or contains a NUL byte",
            ));
        }
        self.clear(&place, false)?;
        rustix::fs::symlinkat(target, &*place.dir, &place.name[..])
            .map_err(|e| place.failed("symlinkat", e))?;
        self.inodes += 1;
        meta.apply_at(&place)
    }

    /// Makes a device node or a fifo.
    pub(super) fn node(
        &mut self,
        parts: &[&[u8]],
        kind: FileType,
        device: u64,
        meta: &Meta,
    ) -> Result<(), Error> {
        let place = self.place(parts)?;
        self.clear(&place, false)?;
        rustix::fs::mknodat(&*place.dir, &place.name[..], kind, Mode::from_raw_mode(0o600), device)
            .map_err(|e| place.failed("mknodat", e))?;
        self.inodes += 1;
        // The node was made by the line above and is no link, so following is harmless.
        rustix::fs::chmodat(&*place.dir, &place.name[..], meta.mode(), AtFlags::empty())
            .map_err(|e| place.failed("fchmodat", e))?;
        meta.apply_at(&place)
    }

    /// Makes another name for a file that is in this layer already.
    pub(super) fn hardlink(&mut self, parts: &[&[u8]], target: &[&[u8]]) -> Result<(), Error> {
        let place = self.place(parts)?;
        let shown = || show(&target.join(&b'/'));
        let (Some(from), Some((name, parents))) = (self.find(target)?, target.split_last()) else {
            return Err(refused(
                &place.full(),
                &format!("the hard link's target {} is not in this layer", shown()),
            ));
        };
        debug_assert!(!parents.iter().any(|part| *part == b".."));
        let stat = rustix::fs::statat(&from, *name, AtFlags::SYMLINK_NOFOLLOW);
        match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory) => {
                return Err(refused(&place.full(), &format!("a hard link to the directory {}", shown())));
            }
            Ok(_) => {}
            Err(_) => {
                return Err(refused(
                    &place.full(),
                    &format!("the hard link's target {} is not in this layer", shown()),
                ));
            }
        }
        let link = || rustix::fs::linkat(&from, *name, &*place.dir, &place.name[..], AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) if same_file(&from, name, &place) => Ok(()),
            Err(Errno::EXIST) => {
                self.clear(&place, false)?;
                link()
            }
            other => other,
        };
        linked.map_err(|e| place.failed("linkat", e))
    }

    /// Deletes a name of the layers below: a character device 0:0. What this layer itself has there stays.
    pub(super) fn whiteout(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        if self.is_below_a_file(parts.split_last().map_or(&[], |(_, parents)| parents)) {
            return Ok(());
        }
        let place = self.place(parts)?;
        let made =
            rustix::fs::mknodat(&*place.dir, &place.name[..], FileType::CharacterDevice, Mode::empty(), 0);
        match made {
            Ok(()) => {
                self.inodes += 1;
                Ok(())
            }
            Err(Errno::EXIST) => match self.open_beneath(&place.full()) {
                Ok(dir) => set_opaque(&dir, &place.full()),
                Err(_) => Ok(()),
            },
            Err(e) => Err(place.failed("mknodat", e)),
        }
    }

    /// Hides what the layers below have in this directory.
    pub(super) fn opaque(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        if self.is_below_a_file(parts) {
            return Ok(());
        }
        let parent = self.parent(parts)?;
        set_opaque(&parent.dir, &parent.path)
    }

    /// Whether this layer has something else where a directory would have to be, which hides all that is below in the layers
    /// under it. Some builders delete that all the same, one by one.
    fn is_below_a_file(&self, parents: &[&[u8]]) -> bool {
        let path = parents.join(&b'/');
        self.look_ups.count(&path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let opened = openat2(self.root.as_fd(), &path[..], flags, Mode::empty(), resolve);
        matches!(opened, Err(Errno::NOTDIR))
    }

    /// Puts back the times of all directories that were changed.
    pub(super) fn leave_all(&mut self) -> Result<(), Error> {
        while let Some((path, time)) = self.entered.pop() {
            self.leave(&path, time)?;
        }
        Ok(())
    }

    /// The directory and name for an entry; missing parents are made.
    fn place(&mut self, parts: &[&[u8]]) -> Result<Place, Error> {
        let (name, parents) = parts.split_last().ok_or_else(|| refused(b"/", "the root has no name"))?;
        let parent = self.parent(parents)?;
        self.settle(&parent.path, &parent.dir)?;
        Ok(Place { dir: parent.dir, path: parent.path, name: name.to_vec() })
    }

    fn parent(&mut self, parents: &[&[u8]]) -> Result<Parent, Error> {
        let raw = parents.join(&b'/');
        if let Some((_, parent)) = self.recent.iter().find(|(path, _)| *path == raw) {
            return Ok(parent.clone());
        }
        let parent = match self.open_beneath(&raw) {
            Ok(dir) => Parent { dir: Rc::new(dir), path: raw.clone() },
            Err(_) => self.make_parents(parents)?,
        };
        self.remember(raw, parent.clone());
        Ok(parent)
    }

    fn remember(&mut self, raw: Vec<u8>, parent: Parent) {
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((raw, parent));
    }

    /// Walks to a directory, follows links below the root, and makes what is missing.
    fn make_parents(&mut self, parents: &[&[u8]]) -> Result<Parent, Error> {
        let mut todo: VecDeque<Vec<u8>> = parents.iter().map(|part| part.to_vec()).collect();
        let mut path: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    path.truncate(path.iter().rposition(|&b| b == b'/').unwrap_or(0));
                    continue;
                }
                _ => self.look_ups.check(&path)?,
            }
            let dir = Rc::new(self.open_beneath(&path).map_err(|e| failed("openat2", &path, e))?);
            let place = Place { dir, path: path.clone(), name: part };
            if place.full().len() >= PATH_LIMIT {
                return Err(refused(&place.full(), "the path is longer than 4095 bytes"));
            }
            match place.kind()? {
                Some(FileType::Directory) => path = place.full(),
                Some(FileType::Symlink) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(refused(&place.full(), "too many symbolic links"));
                    }
                    let target = rustix::fs::readlinkat(&*place.dir, &place.name[..], Vec::new())
                        .map_err(|e| place.failed("readlinkat", e))?;
                    if target.as_bytes().first() == Some(&b'/') {
                        path.clear();
                    }
                    for part in target.as_bytes().split(|&b| b == b'/').rev() {
                        todo.push_front(part.to_vec());
                    }
                }
                Some(_) if !place.is_whiteout()? => {
                    return Err(refused(&place.full(), "it is used as a directory and is none"));
                }
                _ => path = self.make_implicit(&place)?,
            }
        }
        let dir = self.open_beneath(&path).map_err(|e| failed("openat2", &path, e))?;
        Ok(Parent { dir: Rc::new(dir), path })
    }

    fn make_implicit(&mut self, place: &Place) -> Result<Vec<u8>, Error> {
        self.settle(&place.path, &place.dir)?;
        let before = self.clear(place, true)?;
        let path = place.full();
        rustix::fs::mkdirat(&*place.dir, &place.name[..], Mode::from_raw_mode(0o755))
            .map_err(|e| place.failed("mkdirat", e))?;
        self.count_directory();
        let dir = self.open_beneath(&path).map_err(|e| place.failed("openat2", e))?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(|e| place.failed("fchmod", e))?;
        if before == Before::Whiteout {
            set_opaque(&dir, &path)?;
        } else {
            self.implicit.add(&path)?;
        }
        Ok(path)
    }

    /// The parent directory of an existing path, `None` where there is none.
    fn find(&self, parts: &[&[u8]]) -> Result<Option<OwnedFd>, Error> {
        let Some((_, parents)) = parts.split_last() else { return Ok(None) };
        let path = parents.join(&b'/');
        self.look_ups.count(&path);
        let path = if path.is_empty() { b".".to_vec() } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(self.root.as_fd(), &path[..], flags, Mode::empty(), resolve) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(failed("openat2", &path, e)),
        }
    }

    /// Opens a directory by a path that must be free of links.
    fn open_beneath(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.look_ups.count(path);
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve)
    }

    /// Makes room for something new. With `keep`, a directory stays.
    fn clear(&mut self, place: &Place, keep: bool) -> Result<Before, Error> {
        let Some(kind) = place.kind()? else { return Ok(Before::Nothing) };
        let whiteout = kind == FileType::CharacterDevice && place.is_whiteout()?;
        if kind == FileType::Directory {
            if keep {
                return Ok(Before::Directory);
            }
            let path = place.full();
            // Times of directories that are about to vanish need not be put back.
            self.entered.retain(|(entered, _)| !is_within(entered, &path));
            self.implicit.remove_tree(&path);
            if !self.set_aside(place)? {
                super::remove_tree(place.dir.as_fd(), &place.name)
                    .map_err(|e| place.failed("unlinkat", e))?;
            }
        } else if kind != FileType::RegularFile || !self.set_aside(place)? {
            rustix::fs::unlinkat(&*place.dir, &place.name[..], AtFlags::empty())
                .map_err(|e| place.failed("unlinkat", e))?;
        }
        self.recent.clear();
        Ok(if whiteout { Before::Whiteout } else { Before::Nothing })
    }

    /// Keeps what is replaced, where its bytes are a part of the stream. `false`: it is still there.
    fn set_aside(&self, place: &Place) -> Result<bool, Error> {
        self.recipe
            .set_aside(place.dir.as_fd(), &place.name, &place.full())
            .map_err(|e| place.failed("renameat", e))
    }

    fn replace_by_directory(&mut self, place: &Place) -> Result<Before, Error> {
        let before = self.clear(place, true)?;
        if before != Before::Directory {
            rustix::fs::mkdirat(&*place.dir, &place.name[..], Mode::from_raw_mode(0o700))
                .map_err(|e| place.failed("mkdirat", e))?;
            self.count_directory();
        }
        Ok(before)
    }

    fn count_directory(&mut self) {
        self.inodes += 1;
        self.bytes += BLOCK;
    }

    /// Called before a directory is changed: remembers its time, and puts back those of directories that were left.
    fn settle(&mut self, path: &[u8], dir: &OwnedFd) -> Result<(), Error> {
        while let Some((top, _)) = self.entered.last() {
            if is_within(path, top) {
                if top == path {
                    return Ok(());
                }
                break;
            }
            if let Some((left, time)) = self.entered.pop() {
                self.leave(&left, time)?;
            }
        }
        let stat = rustix::fs::fstat(dir).map_err(|e| failed("fstat", path, e))?;
        self.entered.push((path.to_vec(), meta::mtime(&stat)));
        Ok(())
    }

    fn leave(&self, path: &[u8], time: Timespec) -> Result<(), Error> {
        if let Some((_, parent)) = self.recent.iter().find(|(_, parent)| parent.path == path) {
            return meta::set_time(parent.dir.as_fd(), time).map_err(|e| failed("futimens", path, e));
        }
        match self.open_beneath(path) {
            Ok(dir) => meta::set_time(dir.as_fd(), time).map_err(|e| failed("futimens", path, e)),
            Err(_) => Ok(()),
        }
    }
}

impl Place {
    fn full(&self) -> Vec<u8> {
        if self.path.is_empty() { self.name.clone() } else { [&self.path[..], &self.name[..]].join(&b'/') }
    }

    fn kind(&self) -> Result<Option<FileType>, Error> {
        match rustix::fs::statat(&*self.dir, &self.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.failed("fstatat", e)),
        }
    }

    fn is_whiteout(&self) -> Result<bool, Error> {
        let stat = rustix::fs::statat(&*self.dir, &self.name[..], AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed("fstatat", e))?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
    }

    pub(super) fn failed(&self, call: &str, errno: Errno) -> Error {
        failed(call, &self.full(), errno)
    }
}

fn failed(call: &str, path: &[u8], errno: Errno) -> Error {
    Error::kernel(format!("{call}(<layer>, {})", show(path)), errno)
}

/// Whether `path` is `dir` or below it; the empty `dir` is the root.
fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.first().is_none_or(|&b| b == b'/'))
}

fn same_file(from: &OwnedFd, name: &[u8], place: &Place) -> bool {
    let one = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW);
    let two = rustix::fs::statat(&*place.dir, &place.name[..], AtFlags::SYMLINK_NOFOLLOW);
    matches!((one, two), (Ok(one), Ok(two)) if (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino))
}

fn set_opaque(dir: &OwnedFd, path: &[u8]) -> Result<(), Error> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", rustix::fs::XattrFlags::empty())
        .map_err(|e| failed("fsetxattr", path, e))
}
