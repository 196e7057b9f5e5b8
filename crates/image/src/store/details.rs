//! What is known of one image, and taking a name away from it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::manifest::{self, Document};
use crate::{Digest, Error, Image, Reference};

use super::db::Change;
use super::state::{Stored, record};
use super::{Freed, Inner, Store, blocking};

/// Everything that is known of an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Details {
    /// What every list says.
    pub image: Arc<Image>,
    /// Lowest first.
    pub layers: Vec<LayerInfo>,
    /// As it came; `None` for an image from an archive without manifests.
    pub manifest: Option<Vec<u8>>,
    /// As it came; `None` when it is damaged.
    pub config: Option<Vec<u8>>,
}

/// An unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of it and what is below.
    pub chain_id: Digest,
    /// Bytes of disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// Images that have it.
    pub images: usize,
    /// Where its files are.
    pub path: PathBuf,
}

/// What became of an image that was to be removed by one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removal {
    /// Which one.
    pub id: Digest,
    /// The names that it has lost.
    pub untagged: Vec<String>,
    /// Whether it is gone, not only a name of it.
    pub removed: bool,
    /// What that gave back.
    pub freed: Freed,
}

impl Store {
    /// Everything that is known of the image that `name` finds. Reads two small files.
    #[must_use]
    pub fn details(&self, name: &str) -> Option<Details> {
        let inner = &self.0;
        let (stored, layers) = {
            let state = inner.state();
            let stored = state.find(name)?.clone();
            let images = |chain: &Digest| {
                let has = |other: &&Stored| other.layers.iter().any(|layer| layer.chain == *chain);
                state.images.values().filter(has).count()
            };
            let info = |layer: &Arc<super::Layer>| LayerInfo {
                diff_id: layer.record.diff_id,
                chain_id: layer.chain,
                bytes: layer.record.bytes,
                inodes: layer.record.inodes,
                images: images(&layer.chain),
                path: inner.layout.layer_path(layer.record.number),
            };
            let layers = stored.layers.iter().map(info).collect();
            (stored, layers)
        };
        let is_manifest = |bytes: &Vec<u8>| match manifest::parse(bytes, None) {
            Ok(Document::Manifest(manifest)) => manifest.id(bytes) == stored.image.id,
            _ => false,
        };
        let manifest = stored.blobs.iter().filter_map(|blob| inner.layout.blob(blob)).find(is_manifest);
        let config = match manifest.as_deref().map(|bytes| manifest::parse(bytes, None)) {
            Some(Ok(Document::Manifest(manifest))) => manifest.config.digest,
            _ => stored.image.id,
        };
        Some(Details { config: inner.layout.blob(&config), manifest, layers, image: stored.image })
    }

    /// Takes the tag `name` away from an image that has other tags; by its last tag, an id or a digest removes the image
    /// as [`Store::remove`] does.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) when `name` finds nothing; those of [`Store::remove`].
    pub async fn delete(&self, name: &str) -> Result<Removal, Error> {
        let (inner, name) = (Arc::clone(&self.0), name.to_owned());
        blocking(move || inner.delete(&name)).await
    }
}

impl Inner {
    fn delete(&self, name: &str) -> Result<Removal, Error> {
        let image = self.state().find(name).map(|stored| Arc::clone(&stored.image));
        let image = image.ok_or_else(|| Error::not_found(format!("image {name:?} is not in the store")))?;
        let tag = Reference::parse(name).ok().filter(|reference| reference.digest().is_none());
        let tag = tag.and_then(|reference| reference.repo_tag());
        if let Some(tag) = tag
            && self.untag(&image.id, &tag)?
        {
            let freed = Freed::default();
            return Ok(Removal { id: image.id, untagged: vec![tag], removed: false, freed });
        }
        let freed = self.remove(&image.id.to_string())?;
        Ok(Removal { id: image.id, untagged: image.repo_tags.clone(), removed: true, freed })
    }

    /// Whether the image had that tag, and another one that it keeps.
    fn untag(&self, id: &Digest, tag: &str) -> Result<bool, Error> {
        let _writing = self.writing();
        let Some(mut stored) = self.state().images.get(id).cloned() else { return Ok(false) };
        let mut image = Image::clone(&stored.image);
        image.repo_tags.retain(|known| known != tag);
        if image.repo_tags.is_empty() || image.repo_tags.len() == stored.image.repo_tags.len() {
            return Ok(false);
        }
        stored.image = Arc::new(image);
        self.db.apply(&Change { put_images: vec![record(&stored)], ..Change::default() })?;
        self.state().images.insert(*id, stored);
        Ok(true)
    }
}
