//! The members of an outer archive, laid down in files that are named by number: nothing the archive says is a path here.

#![expect(clippy::disallowed_methods, reason = "the store's own directory")]

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fd::AsFd;
use rustix::fs::Mode;
use tar::EntryType;

use crate::digest::Hasher;
use crate::manifest::DOCUMENT_LIMIT;
use crate::store::Layout;
use crate::unpack::{HEADER_LIMIT, remove_tree};
use crate::{Digest, Error};

const MEMBER_LIMIT: usize = 10_000;
const LINK_LIMIT: u32 = 8;
/// Where an OCI layout has its blobs; these are hashed while they are written.
const BLOBS: &str = "blobs/sha256/";

/// A directory in the store's `tmp`, which goes when this goes.
pub(super) struct Spool {
    layout: Arc<Layout>,
    name: String,
    next: usize,
    members: HashMap<String, Member>,
}

enum Member {
    File { number: usize, size: u64, digest: Option<Digest> },
    Link(String),
}

/// A member that was found.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) digest: Option<Digest>,
}

impl Spool {
    pub(super) fn new(layout: &Arc<Layout>) -> Result<Self, Error> {
        let name = layout.tmp_name();
        rustix::fs::mkdirat(&layout.tmp, &name, Mode::from_raw_mode(0o700))
            .map_err(|e| Error::kernel(format!("mkdir(tmp/{name})"), e))?;
        Ok(Self { layout: Arc::clone(layout), name, next: 0, members: HashMap::new() })
    }

    /// Lays down all members of a tar stream.
    pub(super) fn fill(&mut self, input: impl Read) -> Result<(), Error> {
        let unsound = |e: std::io::Error| Error::corrupt(format!("the archive is not a sound tar: {e}"));
        let (metered, left) = Metered::new(input);
        let mut archive = tar::Archive::new(metered);
        let mut entries = archive.entries().map_err(unsound)?;
        loop {
            left.set(HEADER_LIMIT);
            let Some(entry) = entries.next() else { return Ok(()) };
            let mut entry = entry.map_err(unsound)?;
            left.set(u64::MAX);
            if self.members.len() >= MEMBER_LIMIT {
                return Err(Error::invalid(format!("the archive has more than {MEMBER_LIMIT} members")));
            }
            let name = normal("", &entry.path_bytes()).unwrap_or_default();
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let member = self.write(&name, &mut entry)?;
                    self.members.insert(name, member);
                }
                EntryType::Symlink | EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    // A symbolic link starts from its own directory, a hard link from the root.
                    let hard = entry.header().entry_type() == EntryType::Link;
                    let base = if hard { "" } else { name.rsplit_once('/').map_or("", |(dir, _)| dir) };
                    if let Some(target) = normal(base, &target) {
                        self.members.insert(name, Member::Link(target));
                    }
                }
                _ => {}
            }
            // What is left of it is skipped here, where it is not taken for a header.
            std::io::copy(&mut entry, &mut std::io::sink()).map_err(unsound)?;
        }
    }

    /// A new empty file, with its path.
    pub(super) fn file(&mut self) -> Result<(File, PathBuf, usize), Error> {
        let number = self.next;
        self.next += 1;
        let path = self.path(number);
        let file = File::create_new(&path)
            .map_err(|e| Error::io(format!("open({}, O_CREAT)", path.display()), &e))?;
        Ok((file, path, number))
    }

    fn write(&mut self, name: &str, input: &mut impl Read) -> Result<Member, Error> {
        let (mut file, path, number) = self.file()?;
        let mut hasher = name.starts_with(BLOBS).then(Hasher::new);
        let mut buffer = vec![0; super::CHUNK];
        let mut size = 0;
        loop {
            let count = input
                .read(&mut buffer)
                .map_err(|e| Error::corrupt(format!("archive member {name:?}: {e}")))?;
            if count == 0 {
                break;
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&buffer[..count]);
            }
            file.write_all(&buffer[..count])
                .map_err(|e| Error::io(format!("write({})", path.display()), &e))?;
            size += count as u64;
        }
        Ok(Member::File { number, size, digest: hasher.map(Hasher::finish) })
    }

    /// The member of this name; links are followed inside the archive.
    pub(super) fn find(&self, name: &str) -> Option<Found> {
        let mut name = normal("", name.as_bytes())?;
        for _ in 0..LINK_LIMIT {
            match self.members.get(&name)? {
                Member::File { number, size, digest } => {
                    return Some(Found { path: self.path(*number), size: *size, digest: *digest });
                }
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// The content of a small member.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let found = self
            .find(name)
            .ok_or_else(|| Error::invalid(format!("the archive has no {name:?}, but refers to it")))?;
        crate::manifest::check_size(name, found.size.min(DOCUMENT_LIMIT + 1))?;
        std::fs::read(&found.path).map_err(|e| Error::io(format!("read({})", found.path.display()), &e))
    }

    /// A blob of an OCI layout, verified while it was laid down.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Found, Error> {
        let name = format!("{BLOBS}{}", digest.hex());
        let found =
            self.find(&name).ok_or_else(|| Error::invalid(format!("the archive has no blob {digest}")))?;
        match found.digest {
            Some(is) if is == *digest => Ok(found),
            Some(is) => Err(Error::corrupt(format!("blob {digest} of the archive has the digest {is}"))),
            None => Err(Error::invalid(format!("blob {digest} of the archive is a link"))),
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.layout.path.join("tmp").join(&self.name).join(number.to_string())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(self.layout.tmp.as_fd(), self.name.as_bytes()) {
            tracing::warn!("tmp/{} stays until the next start: {error}", self.name);
        }
    }
}

/// Counts down what may be read, so that nothing the tar crate keeps in memory grows without bound.
struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R> Metered<R> {
    /// The reader, and what it may read: set to [`HEADER_LIMIT`] before the next entry is asked for, and to no limit
    /// before its content is read.
    fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
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

/// A name from the archive's root, without `.` and `..`; `None` where it leads out or is no text.
fn normal(base: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() < 4096 && !name.contains('\0'))?;
    let mut parts: Vec<&str> = Vec::new();
    let base = if name.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        let text = |base, name: &str| normal(base, name.as_bytes());
        assert_eq!(text("", "./a/../b").as_deref(), Some("b"));
        assert_eq!(text("x", "../y/layer.tar").as_deref(), Some("y/layer.tar"));
        assert_eq!(text("x", "/y").as_deref(), Some("y"));
        assert_eq!(text("x", "../../y"), None);
        assert_eq!(text("", ".."), None);
        assert_eq!(normal("", b"\xff"), None);
    }
}
