//! Images that do not come from a registry: archives and synthesised ones.

use std::path::PathBuf;

/// One file of a synthesised image.
#[derive(Clone, Debug)]
pub struct BuiltinFile {
    /// Absolute path inside the image. Parents are made with mode 0755.
    pub path: String,
    /// Permission bits, set-uid and sticky included.
    pub mode: u32,
    /// What it is made of.
    pub source: Source,
}

/// The content of a [`BuiltinFile`].
#[derive(Clone, Debug)]
pub enum Source {
    /// These bytes.
    Bytes(Vec<u8>),
    /// An empty directory.
    Directory,
    /// The content of this file of the host: the daemon's own executable.
    File(PathBuf),
    /// A symbolic link to this target.
    Symlink(String),
}
