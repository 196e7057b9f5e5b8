//! Changes of what there is: the log first, then memory, then the directories that nobody needs any more.

use std::sync::Arc;

use crate::manifest::Configuration;
use crate::{Digest, Error, Image};

use super::db::{Change, LayerRecord};
use super::ingest::Ready;
use super::state::{Layer, Stored, record};
use super::{Freed, Inner, now};

/// A layer of an image that comes in.
#[derive(Debug)]
pub(crate) enum NewLayer {
    /// It was there already.
    Known(Arc<Layer>),
    /// It was unpacked for this image.
    Fresh(Box<Ready>),
}

/// An image that comes in, with everything verified.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) configuration: Configuration,
    /// Manifests and configuration to keep.
    pub(crate) documents: Vec<Vec<u8>>,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    pub(crate) size: u64,
    /// Chain ids and layers, lowest first.
    pub(crate) layers: Vec<(Digest, NewLayer)>,
}

impl Inner {
    /// Makes an image part of the store, durably. Blocks.
    pub(crate) fn commit(&self, new: NewImage) -> Result<Image, Error> {
        let fresh = new.layers.iter().any(|(_, layer)| matches!(layer, NewLayer::Fresh(_)));
        self.inherit(&new.layers)?;
        if fresh {
            self.layout.sync()?;
        }
        let blobs: Vec<Digest> =
            new.documents.iter().map(|bytes| self.layout.put_blob(bytes)).collect::<Result<_, _>>()?;
        let _writing = self.writing();
        let mut change = Change::default();
        let mut staged = Vec::new();
        let mut layers = Vec::new();
        for (chain, layer) in new.layers {
            // Another pull may have brought the same layer meanwhile: then ours goes when it is dropped.
            let there = self.state().layers.get(&chain).cloned();
            layers.push(match (there, layer) {
                (Some(layer), _) | (None, NewLayer::Known(layer)) => layer,
                (None, NewLayer::Fresh(ready)) => {
                    let record = LayerRecord {
                        number: ready.staged.number,
                        diff_id: ready.unpacked.diff_id,
                        bytes: ready.unpacked.bytes,
                        inodes: ready.unpacked.inodes,
                    };
                    change.put_layers.push((chain, record.clone()));
                    staged.push(ready.staged);
                    Arc::new(Layer { chain, record })
                }
            });
        }
        let image = Image {
            id: new.id,
            repo_tags: new.repo_tags,
            repo_digests: new.repo_digests,
            size: new.size,
            config: new.configuration.config,
            pinned: false,
            created: new.configuration.created,
            stored_at: now(),
        };
        let stored = Stored { image: Arc::new(image), layers, blobs };
        let mut next = self.state().images.clone();
        let result = self.record(&mut change, stored, &mut next)?;
        staged.into_iter().for_each(super::layout::Staged::keep);
        Ok(result)
    }

    /// Writes an image and what belongs to it to the log, then to memory.
    fn record(
        &self,
        change: &mut Change,
        stored: Stored,
        images: &mut std::collections::BTreeMap<Digest, Stored>,
    ) -> Result<Image, Error> {
        let id = stored.image.id;
        let layers = stored.layers.clone();
        // On a copy first: memory must not have what the log refuses.
        let mut scratch = super::State { images: std::mem::take(images), ..super::State::default() };
        change.put_images = scratch.put(stored);
        self.db.apply(change)?;
        let mut state = self.state();
        state.images = scratch.images;
        for layer in layers {
            state.layers.entry(layer.chain).or_insert(layer);
        }
        let stored =
            state.images.get(&id).ok_or_else(|| Error::corrupt("image store: the new image is gone"))?;
        Ok(Image::clone(&stored.image))
    }

    fn inherit(&self, layers: &[(Digest, NewLayer)]) -> Result<(), Error> {
        let mut below = Vec::new();
        for (_, layer) in layers {
            match layer {
                NewLayer::Known(layer) => below.push(layer.record.number),
                NewLayer::Fresh(ready) => {
                    self.layout.inherit(ready.staged.number, &ready.unpacked.implicit, &below)?;
                    below.push(ready.staged.number);
                }
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> Result<Freed, Error> {
        let _writing = self.writing();
        let (removed, kept) = {
            let mut state = self.state();
            let Some(id) = state.find(name).map(|stored| stored.image.id) else {
                return Ok(Freed::default());
            };
            let Some(removed) = state.images.remove(&id) else { return Ok(Freed::default()) };
            let kept: Vec<Digest> =
                state.images.values().flat_map(|stored| stored.blobs.iter().copied()).collect();
            (removed, kept)
        };
        let id = removed.image.id;
        let blobs: Vec<Digest> = removed.blobs.iter().copied().filter(|blob| !kept.contains(blob)).collect();
        // The log forgets image and layers together; until then nobody else can take up a layer, for we are writing.
        drop(removed);
        let freed = self.free_unused(Change { drop_images: vec![id], ..Change::default() })?;
        blobs.iter().for_each(|blob| self.layout.remove_blob(blob));
        Ok(freed)
    }

    /// Frees the layers that nobody uses. Called while writing.
    pub(super) fn free_unused(&self, mut change: Change) -> Result<Freed, Error> {
        let unused = self.state().forget_unused();
        change.drop_layers = unused.iter().map(|layer| layer.chain).collect();
        if !change.drop_layers.is_empty() || !change.drop_images.is_empty() {
            self.db.apply(&change)?;
        }
        let mut freed = Freed::default();
        for layer in unused {
            self.layout.remove_layer(layer.record.number)?;
            freed.bytes += layer.record.bytes;
        }
        Ok(freed)
    }

    pub(super) fn tag(&self, name: &str, tag: &str) -> Result<Image, Error> {
        let add = |image: &mut Image| {
            if !image.repo_tags.iter().any(|known| known == tag) {
                image.repo_tags.push(tag.to_owned());
                image.repo_tags.sort();
            }
        };
        self.change(name, add)
    }

    /// Changes what is recorded of an image.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Image)) -> Result<Image, Error> {
        let _writing = self.writing();
        let mut images = self.state().images.clone();
        let found = self.state().find(name).cloned();
        let mut stored =
            found.ok_or_else(|| Error::not_found(format!("image {name:?} is not in the store")))?;
        let mut image = Image::clone(&stored.image);
        change(&mut image);
        stored.image = Arc::new(image);
        debug_assert_eq!(record(&stored).image.id, stored.image.id);
        self.record(&mut Change::default(), stored, &mut images)
    }
}
