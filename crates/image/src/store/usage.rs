//! What takes which part of the disk: a walk over everything below the store's directory, as du(1) does it.

#![expect(clippy::disallowed_methods, reason = "the store's own directories, by names that it gave")]

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::{Digest, Error, Image};

use super::layout::names;
use super::{Inner, Store, blocking};

/// What the store's directory takes, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskUsage {
    /// The store's directory.
    pub dir: PathBuf,
    /// These add up to what du(1) says of the directory.
    pub parts: Vec<Part>,
    /// The images, with what their layers take.
    pub images: Vec<ImageUsage>,
    /// Bytes of each snapshot, by its id.
    pub snapshots: Vec<(String, u64)>,
}

/// A part of what is below the store's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// What it is for.
    pub purpose: Purpose,
    /// Bytes of disk blocks.
    pub bytes: u64,
    /// How many: layers, snapshots, files.
    pub count: u64,
}

/// What a part of the store is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Files of layers.
    Layers,
    /// What makes the tar of a layer from its files again.
    Recipes,
    /// Files that later entries of the same layer replaced; saving the image needs them.
    Replaced,
    /// What containers have written.
    Writable,
    /// Manifests and configurations.
    Documents,
    /// What is written down of each layer beside its files.
    Notes,
    /// Beginnings of layers whose download broke off.
    Partial,
    /// Layers and archives that are coming in, and layers that wait for the next pull of an image that has them.
    Unfinished,
    /// The transaction log.
    Database,
    /// Kept back for the day on which the disk is full.
    Reserve,
    /// Directories themselves.
    Directories,
    /// What the store has not made.
    Foreign,
}

/// What an image takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageUsage {
    /// Which one.
    pub image: Arc<Image>,
    /// Its layers.
    pub layers: usize,
    /// Bytes of layers that other images have, too.
    pub shared: u64,
    /// Bytes of layers that no other image has.
    pub exclusive: u64,
}

impl DiskUsage {
    /// All parts together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

impl Store {
    /// Walks over everything that the store has on the disk.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel) for a directory that cannot be read.
    pub async fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.disk_usage()).await
    }
}

#[derive(Default)]
struct Count {
    parts: HashMap<Purpose, (u64, u64)>,
    /// Bytes of each layer that is used, by its number.
    layers: HashMap<u32, u64>,
    snapshots: Vec<(String, u64)>,
}

impl Inner {
    fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let used: HashSet<u32> = {
            let state = self.state();
            let of_images = state.images.values().flat_map(|stored| &stored.layers);
            let of_snapshots = state.snapshots.values().flat_map(|held| &held.layers);
            of_images.chain(of_snapshots).map(|layer| layer.record.number).collect()
        };
        let top = open_dir(rustix::fs::CWD, self.layout.path.as_os_str().as_encoded_bytes())
            .map_err(|e| failed(&self.layout.path.to_string_lossy(), e))?;
        let mut count = Count::default();
        count.add(Purpose::Directories, own(top.as_fd())?, 1);
        for name in names(top.as_fd())? {
            count.top(top.as_fd(), &name, &used)?;
        }
        Ok(self.explain(count))
    }

    fn explain(&self, count: Count) -> DiskUsage {
        let state = self.state();
        let mut users: HashMap<Digest, usize> = HashMap::new();
        for layer in state.images.values().flat_map(|stored| &stored.layers) {
            *users.entry(layer.chain).or_default() += 1;
        }
        let usage = |stored: &super::state::Stored| {
            let (mut shared, mut exclusive) = (0, 0);
            for layer in &stored.layers {
                let bytes = count.layers.get(&layer.record.number).copied().unwrap_or_default();
                let alone = users.get(&layer.chain).is_none_or(|users| *users < 2);
                *(if alone { &mut exclusive } else { &mut shared }) += bytes;
            }
            ImageUsage { image: Arc::clone(&stored.image), layers: stored.layers.len(), shared, exclusive }
        };
        let images = state.images.values().map(usage).collect();
        let mut parts: Vec<Part> =
            count.parts.into_iter().map(|(purpose, (bytes, count))| Part { purpose, bytes, count }).collect();
        parts.sort_by_key(|part| part.purpose);
        DiskUsage { dir: self.layout.path.clone(), parts, images, snapshots: count.snapshots }
    }
}

impl Count {
    fn add(&mut self, purpose: Purpose, bytes: u64, count: u64) {
        let part = self.parts.entry(purpose).or_default();
        *part = (part.0 + bytes, part.1 + count);
    }

    /// Something in the store's own directory.
    fn top(&mut self, top: BorrowedFd<'_>, name: &[u8], used: &HashSet<u32>) -> Result<(), Error> {
        let purpose = match name {
            b"blobs" => return self.blobs(top),
            b"layers" => return self.each(top, name, |count, dir, name| count.layer(dir, name, used)),
            b"snapshots" => return self.each(top, name, Self::snapshot),
            b"notes" => Purpose::Notes,
            b"partial" => Purpose::Partial,
            b"tmp" => Purpose::Unfinished,
            b"empty" => Purpose::Directories,
            b"reserve" => Purpose::Reserve,
            // And what is kept of one that was damaged.
            name if name.starts_with(b"store.redb") => Purpose::Database,
            _ => Purpose::Foreign,
        };
        match purpose {
            Purpose::Notes | Purpose::Partial | Purpose::Unfinished => {
                self.each(top, name, |count, dir, name| {
                    let bytes = tree(dir, name)?;
                    count.add(purpose, bytes, 1);
                    Ok(())
                })
            }
            _ => {
                self.add(purpose, tree(top, name)?, 1);
                Ok(())
            }
        }
    }

    /// Goes over what is in a directory, which is counted as one.
    fn each(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        mut entry: impl FnMut(&mut Self, BorrowedFd<'_>, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let dir = match open_dir(parent, name) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(failed(&name.escape_ascii(), e)),
        };
        self.add(Purpose::Directories, own(dir.as_fd())?, 1);
        names(dir.as_fd())?.iter().try_for_each(|name| entry(self, dir.as_fd(), name))
    }

    fn blobs(&mut self, top: BorrowedFd<'_>) -> Result<(), Error> {
        self.each(top, b"blobs", |count, dir, name| {
            count.each(dir, name, |count, dir, name| {
                let bytes = tree(dir, name)?;
                count.add(Purpose::Documents, bytes, 1);
                Ok(())
            })
        })
    }

    fn layer(&mut self, dir: BorrowedFd<'_>, name: &[u8], used: &HashSet<u32>) -> Result<(), Error> {
        let all = tree(dir, name)?;
        let number = std::str::from_utf8(name).ok().and_then(|name| name.parse::<u32>().ok());
        let Some(number) = number.filter(|number| used.contains(number)) else {
            self.add(Purpose::Unfinished, all, 1);
            return Ok(());
        };
        // A file may have names in both the tree and what was replaced: it counts for the tree.
        let part = |part: &str| tree(dir, &[name, b"/", part.as_bytes()].concat());
        let home = open_dir(dir, name).map_or(Ok(0), |home| own(home.as_fd()))?;
        let (files, recipe) = (part("fs")?, part("recipe")?);
        self.add(Purpose::Directories, home, 1);
        self.add(Purpose::Layers, files, 1);
        self.add(Purpose::Recipes, recipe, u64::from(recipe > 0));
        let replaced = all.saturating_sub(home + files + recipe);
        if replaced > 0 {
            self.add(Purpose::Replaced, replaced, 1);
        }
        self.layers.insert(number, all);
        Ok(())
    }

    fn snapshot(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Error> {
        let bytes = tree(dir, name)?;
        self.add(Purpose::Writable, bytes, 1);
        self.snapshots.push((String::from_utf8_lossy(name).into_owned(), bytes));
        Ok(())
    }
}

/// Bytes of a file, or of a directory with all that is in it; 0 for what is gone.
fn tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<u64, Error> {
    match open_dir(parent, name) {
        Ok(dir) => {
            let inside =
                vaquita_sys::fs::disk_usage(&dir).map_err(|e| failed(&name.escape_ascii(), e.errno()))?;
            Ok(own(dir.as_fd())? + inside.0)
        }
        Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            Ok(stat) => Ok(blocks(&stat)),
            Err(_) => Ok(0),
        },
        Err(Errno::NOENT) => Ok(0),
        Err(e) => Err(failed(&name.escape_ascii(), e)),
    }
}

fn own(dir: BorrowedFd<'_>) -> Result<u64, Error> {
    rustix::fs::fstat(dir).map(|stat| blocks(&stat)).map_err(|e| Error::kernel("fstat(image store)", e))
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

fn open_dir(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn failed(name: &impl std::fmt::Display, errno: Errno) -> Error {
    Error::kernel(format!("disk usage of {name} in the image store"), errno)
}
