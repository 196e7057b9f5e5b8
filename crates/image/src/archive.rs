//! Images that do not come from a registry: archives and synthesised ones.

use std::path::PathBuf;

use tokio::io::AsyncRead;

use crate::{Error, Image, ImageConfig, Kind, Reference, Store};

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

pub(crate) async fn load(
    _: &Store,
    _: impl AsyncRead + Send + Unpin + 'static,
    _: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Vec<Image>, Error> {
    Err(Error::new(Kind::Unsupported, "archives cannot be loaded yet"))
}

pub(crate) async fn builtin(
    _: &Store,
    reference: &Reference,
    _: ImageConfig,
    _: Vec<BuiltinFile>,
) -> Result<Image, Error> {
    Err(Error::new(Kind::Unsupported, format!("{reference} cannot be made yet")))
}
