//! From the entries of a tar stream to files.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::rc::Rc;

use rustix::fd::AsFd;
use rustix::fs::{FileType, Timespec};
use tar::{Entry, EntryType};

use crate::{Error, Kind};

use super::path::{self, Name, refused};
use super::tree::{Meta, Tree, is_allowed};
use super::{Limits, inflate};

/// Bytes that the description of one entry may take: long names, extended headers, maps of sparse files.
pub(crate) const HEADER_LIMIT: u64 = 1 << 20;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
const XATTR_LIMIT: usize = 65_536;

/// Unpacks all entries of `stream` and reads it to its end.
pub(super) fn apply(stream: impl Read, mut tree: Tree, limits: Limits) -> Result<Tree, Error> {
    let (metered, left) = Metered::new(stream);
    let mut archive = tar::Archive::new(metered);
    let mut entries = archive.entries().map_err(|e| explain(&e))?;
    let mut work = Work { limits, written: 0, buffer: vec![0; inflate::CHUNK] };
    let mut count = 0;
    loop {
        left.set(HEADER_LIMIT);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|e| explain(&e))?;
        left.set(u64::MAX);
        count += 1;
        if count > limits.entries {
            return Err(Error::invalid(format!("the layer has more than {} entries", limits.entries)));
        }
        work.entry(&mut entry, &mut tree)?;
        // What an entry has and its kind does not need is skipped here, where it is not taken for a header.
        work.skip(&mut entry)?;
    }
    left.set(u64::MAX);
    let mut rest = archive.into_inner();
    while rest.read(&mut work.buffer).map_err(|e| explain(&e))? != 0 {}
    tree.leave_all()?;
    Ok(tree)
}

struct Work {
    limits: Limits,
    written: u64,
    buffer: Vec<u8>,
}

impl Work {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, tree: &mut Tree) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let parts = match path::read(&raw)? {
            Name::Bookkeeping => return Ok(()),
            Name::Opaque(parts) => return tree.opaque(&parts),
            Name::Whiteout(parts) => return tree.whiteout(&parts),
            Name::Root if kind == EntryType::Directory => {
                let meta = meta(entry, &raw)?;
                return tree.set_root(&meta);
            }
            Name::Root => return Err(refused(&raw, "the root is not a directory")),
            Name::At(parts) => parts,
        };
        let meta = meta(entry, &raw)?;
        match kind {
            EntryType::Directory => tree.directory(&parts, &meta),
            // Before ustar, a directory was a file with a slash at its end.
            EntryType::Regular if raw.ends_with(b"/") && entry.size() == 0 => tree.directory(&parts, &meta),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, tree, &parts, &meta, &raw)
            }
            EntryType::Symlink => tree.symlink(&parts, &link_name(entry, &raw)?, &meta),
            EntryType::Link => {
                let target = link_name(entry, &raw)?;
                tree.hardlink(&parts, &path::split(&target)?)
            }
            EntryType::Char => tree.node(&parts, FileType::CharacterDevice, device(entry, &raw)?, &meta),
            EntryType::Block => tree.node(&parts, FileType::BlockDevice, device(entry, &raw)?, &meta),
            EntryType::Fifo => tree.node(&parts, FileType::Fifo, 0, &meta),
            other => Err(refused(&raw, &format!("unknown entry type {:?}", char::from(other.as_byte())))),
        }
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        tree: &mut Tree,
        parts: &[&[u8]],
        meta: &Meta,
        raw: &[u8],
    ) -> Result<(), Error> {
        if entry.size() > self.limits.bytes - self.written {
            return Err(refused(raw, &format!("the layer holds more than {} bytes", self.limits.bytes)));
        }
        let (file, path) = tree.file(parts)?;
        let mut file = File::from(file);
        let recipe = Rc::clone(tree.recipe());
        let mut size = 0;
        recipe.begin_content(&path);
        loop {
            recipe.seek(size);
            let count = entry.read(&mut self.buffer).map_err(|e| explain(&e))?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count])
                .map_err(|e| Error::io(format!("write(<layer>, {})", path::show(raw)), &e))?;
            size += count as u64;
        }
        recipe.end_content();
        if size != entry.size() {
            return Err(Error::corrupt(format!("layer entry {} is cut off", path::show(raw))));
        }
        self.written += size;
        tree.count(size);
        meta.apply(file.as_fd(), raw)
    }

    fn skip<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Error> {
        while entry.read(&mut self.buffer).map_err(|e| explain(&e))? != 0 {}
        Ok(())
    }
}

/// Counts down what may be read, so that nothing the tar crate keeps in memory grows without bound.
pub(crate) struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R> Metered<R> {
    /// The reader, and what it may read: set to [`HEADER_LIMIT`] before the next entry is asked for, and to no limit
    /// before its content is read.
    pub(crate) fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
        let left = Rc::new(Cell::new(HEADER_LIMIT));
        (Self { inner, left: Rc::clone(&left) }, left)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(out)?;
        match self.left.get().checked_sub(count as u64) {
            Some(left) => {
                self.left.set(left);
                Ok(count)
            }
            None => Err(std::io::Error::other("the description of an entry is larger than 1 MiB")),
        }
    }
}

/// An error of the tar reader: the bytes are at fault, never the kernel.
fn explain(error: &std::io::Error) -> Error {
    Error::corrupt(format!("the layer is not a sound tar archive: {error}"))
}

fn meta<R: Read>(entry: &mut Entry<'_, R>, raw: &[u8]) -> Result<Meta, Error> {
    let wrong = |what: &str| refused(raw, &format!("malformed {what}"));
    let header = entry.header();
    // A field without a digit is 0, as GNU tar and Go have it.
    let or_blank = |number: std::io::Result<u64>, field: &[u8], what: &str| match number {
        Err(_) if field.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
        number => number.map_err(|_| wrong(what)),
    };
    let old = header.as_old();
    let id = |id: std::io::Result<u64>, field: &[u8], what: &str| {
        let id = or_blank(id, field, what)?;
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| wrong(what))
    };
    let mut meta = Meta {
        mode: u32::try_from(or_blank(header.mode().map(u64::from), &old.mode, "mode")? & 0o7777).unwrap_or(0),
        uid: id(header.uid(), &old.uid, "uid")?,
        gid: id(header.gid(), &old.gid, "gid")?,
        mtime: Timespec {
            tv_sec: header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0),
            tv_nsec: 0,
        },
        xattrs: Vec::new(),
    };
    let mut xattr_bytes = 0;
    let Some(extensions) = entry.pax_extensions().map_err(|e| explain(&e))? else { return Ok(meta) };
    for extension in extensions {
        let extension = extension.map_err(|e| explain(&e))?;
        let (key, value) = (extension.key_bytes(), extension.value_bytes());
        if key == b"mtime" {
            meta.mtime = pax_time(value).ok_or_else(|| wrong("mtime"))?;
        } else if key == b"uid" || key == b"gid" {
            // The reader took over the number where it is one; here the others are refused.
            let text = std::str::from_utf8(value).ok();
            text.and_then(|t| t.parse::<u32>().ok()).ok_or_else(|| wrong("uid or gid"))?;
        } else if key.starts_with(b"GNU.sparse.") {
            return Err(Error::new(
                Kind::Unsupported,
                format!("layer entry {}: sparse files in the PAX format are not supported", path::show(raw)),
            ));
        } else if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            xattr_bytes += name.len() + value.len();
            if name.starts_with(b"trusted.overlay.") || name.contains(&0) {
                return Err(refused(raw, "it sets an attribute that belongs to overlayfs"));
            }
            if xattr_bytes > XATTR_LIMIT {
                return Err(refused(raw, "its attributes are larger than 64 KiB"));
            }
            if is_allowed(name) {
                meta.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(meta)
}

/// Seconds since 1970 as PAX writes them: `-12.5`, `1700000000.123456789`.
fn pax_time(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanos) = (whole.parse::<i64>().ok()?, digits.parse::<i64>().ok()?);
    if whole.starts_with('-') && nanos > 0 {
        return Some(Timespec { tv_sec: seconds.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanos });
    }
    Some(Timespec { tv_sec: seconds, tv_nsec: nanos })
}

fn link_name<R: Read>(entry: &Entry<'_, R>, raw: &[u8]) -> Result<Vec<u8>, Error> {
    entry
        .link_name_bytes()
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| refused(raw, "the link has no target"))
}

fn device<R: Read>(entry: &Entry<'_, R>, raw: &[u8]) -> Result<u64, Error> {
    let header = entry.header();
    match (header.device_major(), header.device_minor()) {
        (Ok(Some(major)), Ok(Some(minor))) => Ok(rustix::fs::makedev(major, minor)),
        _ => Err(refused(raw, "malformed device number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let time = |text: &str| pax_time(text.as_bytes()).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time("1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("1.1234567899"), Some((1, 123_456_789)));
        for wrong in ["", "x", "1.x", "99999999999999999999", "1.-5"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
