//! From the entries of a tar stream to files.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::rc::Rc;

use rustix::fd::AsFd as _;
use rustix::fs::{FileType, Timespec};

use crate::Error;

use super::path::{self, Name, refused};
use super::reader::{Entry, Reader, Type};
use super::tree::{Meta, Tree, is_allowed};
use super::{Limits, inflate};

/// Files from this size on are on their way to the disk while the rest comes in; of smaller ones the kernel makes fewer writes later.
const WRITEBACK: u64 = 256 << 10;
const XATTR_LIMIT: usize = 65_536;

/// Unpacks all entries of `stream` and reads it to its end.
pub(super) fn apply(stream: impl Read, mut tree: Tree, limits: Limits) -> Result<Tree, Error> {
    let reader = Reader::new(stream);
    let mut work = Work { reader, limits, written: 0, buffer: vec![0; inflate::CHUNK] };
    let mut count = 0;
    while let Some(entry) = work.reader.next()? {
        count += 1;
        if count > limits.entries {
            return Err(Error::invalid(format!("the layer has more than {} entries", limits.entries)));
        }
        tree.begin_entry(&entry.path)?;
        work.entry(&entry, &mut tree)?;
    }
    work.reader.finish()?;
    tree.leave_all()?;
    Ok(tree)
}

struct Work<R> {
    reader: Reader<R>,
    limits: Limits,
    written: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Work<R> {
    fn entry(&mut self, entry: &Entry, tree: &mut Tree) -> Result<(), Error> {
        let raw = &entry.path[..];
        let parts = match path::read(raw)? {
            Name::Bookkeeping => return Ok(()),
            Name::Opaque(parts) => return tree.opaque(&parts),
            Name::Whiteout(parts) => return tree.whiteout(&parts),
            Name::Root if entry.kind == Type::Directory => return tree.set_root(&meta(entry)?),
            Name::Root => return Err(refused(raw, "the root is not a directory")),
            Name::At(parts) => parts,
        };
        let meta = meta(entry)?;
        let device = || {
            let (major, minor) = entry.device;
            rustix::fs::makedev(major, minor)
        };
        match entry.kind {
            Type::Directory => tree.directory(&parts, &meta),
            Type::File => self.file(entry, tree, &parts, &meta),
            Type::Symlink => tree.symlink(&parts, &entry.link, &meta),
            Type::HardLink => tree.hardlink(&parts, &path::split(&entry.link)?),
            Type::Char => tree.node(&parts, FileType::CharacterDevice, device(), &meta),
            Type::Block => tree.node(&parts, FileType::BlockDevice, device(), &meta),
            Type::Fifo => tree.node(&parts, FileType::Fifo, 0, &meta),
        }
    }

    fn file(&mut self, entry: &Entry, tree: &mut Tree, parts: &[&[u8]], meta: &Meta) -> Result<(), Error> {
        let raw = &entry.path[..];
        if entry.size > self.limits.bytes - self.written {
            return Err(refused(raw, &format!("the layer holds more than {} bytes", self.limits.bytes)));
        }
        self.written += entry.size;
        let (file, path) = tree.file(parts)?;
        let mut file = File::from(file);
        let failed = |e: std::io::Error| Error::io(format!("write(<layer>, {})", path::show(raw)), &e);
        let recipe = Rc::clone(tree.recipe());
        recipe.begin_content(&path);
        let mut end = 0;
        for (offset, length) in &entry.pieces {
            if *offset != end {
                file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                recipe.seek(*offset);
            }
            end = offset + length;
            let mut left = *length;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let count = self.reader.read(&mut self.buffer[..most])?;
                file.write_all(&self.buffer[..count]).map_err(failed)?;
                left -= count as u64;
            }
        }
        recipe.end_content();
        if end != entry.size {
            file.set_len(entry.size).map_err(failed)?;
        }
        if entry.size >= WRITEBACK {
            vaquita_sys::fs::begin_writeback(&file);
        }
        tree.count(entry.size);
        meta.apply(file.as_fd(), raw)
    }
}

/// Owner, mode, time, and the attributes that an image may set.
fn meta(entry: &Entry) -> Result<Meta, Error> {
    let (seconds, nanoseconds) = entry.mtime;
    let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let mut meta = Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime, xattrs: Vec::new() };
    let mut bytes = 0;
    for (name, value) in &entry.xattrs {
        bytes += name.len() + value.len();
        if name.starts_with(b"trusted.overlay.") {
            return Err(refused(&entry.path, "it sets an attribute that belongs to overlayfs"));
        }
        if bytes > XATTR_LIMIT {
            return Err(refused(&entry.path, "its attributes are larger than 64 KiB"));
        }
        if is_allowed(name) {
            meta.xattrs.push((name.clone(), value.clone()));
        }
    }
    Ok(meta)
}
