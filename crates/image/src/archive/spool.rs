//! The members of an outer archive, laid down in files that are named by number: nothing the archive says is a path here.

#![expect(clippy::disallowed_methods, reason = "the store's own directory")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fd::AsFd;
use rustix::fs::Mode;

use crate::digest::Hasher;
use crate::manifest::DOCUMENT_LIMIT;
use crate::store::Layout;
use crate::unpack::{Reader, Type, remove_tree};
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
        let mut archive = Reader::new(input);
        while let Some(entry) = archive.next()? {
            if self.members.len() >= MEMBER_LIMIT {
                return Err(Error::invalid(format!("the archive has more than {MEMBER_LIMIT} members")));
            }
            let name = normal("", &entry.path).unwrap_or_default();
            let base = match entry.kind {
                Type::File if entry.is_whole() => {
                    let member = self.write(&name, &mut archive)?;
                    self.members.insert(name, member);
                    continue;
                }
                // A symbolic link starts from its own directory, a hard link from the root.
                Type::Symlink => name.rsplit_once('/').map_or("", |(dir, _)| dir),
                Type::HardLink => "",
                _ => continue,
            };
            if let Some(target) = normal(base, &entry.link) {
                self.members.insert(name, Member::Link(target));
            }
        }
        Ok(())
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

    fn write(&mut self, name: &str, input: &mut Reader<impl Read>) -> Result<Member, Error> {
        let (mut file, path, number) = self.file()?;
        let mut hasher = name.starts_with(BLOBS).then(Hasher::new);
        let mut buffer = vec![0; super::CHUNK];
        let mut size = 0;
        loop {
            let count = input.read(&mut buffer)?;
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
