//! Changes of what there is: the log first, then memory, then the directories that nobody needs any more.
//!
//! In what order an image becomes durable: its layers, manifests and configuration are written; one `syncfs` brings them to
//! the disk (where no layer is new, the documents are synced one by one); then the log says that they are there, in a transaction that it syncs
//! itself. So what the log has is whole, whenever the power is cut, and what it does not have is swept.

use std::sync::Arc;

use crate::manifest::Configuration;
use crate::{Digest, Error, Image};

use super::db::{Change, LayerRecord};
use super::ingest::Ready;
use super::state::{Layer, Stored, record};
use super::{Freed, Inner, now};

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
    /// Lowest first.
    pub(crate) layers: Vec<Arc<Layer>>,
}

impl Inner {
    /// Makes a verified layer one that images can be made of: of this pull, of another one that runs, or of a later one. Where
    /// another pull has brought the same layer meanwhile, that one is returned and ours goes. Blocks.
    pub(crate) fn admit(&self, chain: Digest, ready: Ready) -> Result<Arc<Layer>, Error> {
        let Ready { staged, unpacked } = ready;
        let number = staged.number;
        self.layout.note(number, chain, unpacked.diff_id, &unpacked.implicit)?;
        let usage = self.layout.layer_usage(number)?;
        let record =
            LayerRecord { number, diff_id: unpacked.diff_id, bytes: usage.bytes, inodes: usage.inodes };
        let ours = Arc::new(Layer::fresh(chain, record, unpacked.implicit));
        let layer = Arc::clone(self.state().layers.entry(chain).or_insert_with(|| Arc::clone(&ours)));
        if Arc::ptr_eq(&layer, &ours) {
            staged.keep();
        }
        Ok(layer)
    }

    /// Makes an image part of the store, durably. Blocks.
    pub(crate) fn commit(&self, new: NewImage) -> Result<Image, Error> {
        let blobs: Vec<Digest> = new.documents.iter().map(|bytes| Digest::of(bytes)).collect();
        // From here on nobody removes them.
        self.state().coming.extend_from_slice(&blobs);
        let result = self.write_image(new, &blobs);
        let unused: Vec<Digest> = {
            let mut state = self.state();
            state.came(&blobs);
            blobs.into_iter().filter(|blob| result.is_err() && !state.uses_blob(blob)).collect()
        };
        for blob in &unused {
            self.layout.remove_blob(blob);
        }
        result
    }

    fn write_image(&self, new: NewImage, blobs: &[Digest]) -> Result<Image, Error> {
        let is_fresh = new.layers.iter().any(|layer| !layer.is_recorded());
        for bytes in &new.documents {
            self.layout.put_blob(bytes, !is_fresh)?;
        }
        if is_fresh {
            self.inherit(&new.layers)?;
            self.layout.sync()?;
        }
        let _writing = self.writing();
        let fresh: Vec<Arc<Layer>> =
            new.layers.iter().filter(|layer| !layer.is_recorded()).cloned().collect();
        let mut change = Change {
            put_layers: fresh.iter().map(|layer| (layer.chain, layer.record.clone())).collect(),
            ..Change::default()
        };
        let image = Image {
            id: new.id,
            repo_tags: new.repo_tags,
            repo_digests: new.repo_digests,
            size: new.size,
            config: new.configuration.config,
            pinned: false,
            artifact_type: new.configuration.artifact_type,
            created: new.configuration.created,
            stored_at: now(),
        };
        let stored = Stored { image: Arc::new(image), layers: new.layers, blobs: blobs.to_vec() };
        let mut next = self.state().images.clone();
        let result = self.record(&mut change, stored, &mut next)?;
        for layer in fresh {
            layer.set_recorded();
            self.layout.seal(layer.record.number);
        }
        self.db.keep_reserve();
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
        // On a copy first: memory must not have what the log refuses.
        let mut scratch = super::State {
            images: std::mem::take(images),
            pins: self.state().pins.clone(),
            ..super::State::default()
        };
        change.put_images = scratch.put(stored);
        self.db.apply(change)?;
        let mut state = self.state();
        state.images = scratch.images;
        let stored =
            state.images.get(&id).ok_or_else(|| Error::corrupt("image store: the new image is gone"))?;
        Ok(Image::clone(&stored.image))
    }

    fn inherit(&self, layers: &[Arc<Layer>]) -> Result<(), Error> {
        let numbers: Vec<u32> = layers.iter().map(|layer| layer.record.number).collect();
        for (index, layer) in layers.iter().enumerate().filter(|(_, layer)| !layer.is_recorded()) {
            self.layout.inherit(layer.record.number, &layer.implicit, &numbers[..index])?;
        }
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> Result<Freed, Error> {
        let writing = self.writing();
        let removed = {
            let mut state = self.state();
            let id = state.find(name).map(|stored| stored.image.id);
            id.and_then(|id| state.images.remove(&id))
        };
        let Some(Stored { image, layers, blobs }) = removed else { return Ok(Freed::default()) };
        let chain: Vec<Digest> = layers.iter().map(|layer| layer.chain).collect();
        // Whoever holds a layer uses it.
        drop(layers);
        // The log forgets image and layers together; until then nobody else can take up a layer, for we are writing.
        let forgotten = match self.forget(Change { drop_images: vec![image.id], ..Change::default() }) {
            Ok(forgotten) => forgotten,
            Err(error) => {
                let mut state = self.state();
                let layers = state.stack(&chain).unwrap_or_default();
                state.images.insert(image.id, Stored { image, layers, blobs });
                return Err(error);
            }
        };
        let blobs: Vec<Digest> = {
            let state = self.state();
            blobs.into_iter().filter(|blob| !state.uses_blob(blob)).collect()
        };
        let documents: u64 = blobs.iter().map(|blob| self.layout.remove_blob(blob)).sum();
        drop(writing);
        let freed = self.remove_layers(&forgotten)?;
        Ok(Freed { bytes: freed.bytes + documents })
    }

    /// Frees the layers of the log that nobody uses.
    pub(super) fn free_unused(&self) -> Result<Freed, Error> {
        let forgotten = {
            let _writing = self.writing();
            self.forget(Change::default())?
        };
        self.remove_layers(&forgotten)
    }

    /// Forgets what `change` says and the layers that nobody uses, which are returned. Called while writing.
    fn forget(&self, mut change: Change) -> Result<Vec<Arc<Layer>>, Error> {
        let unused = self.state().forget_unused(Layer::is_recorded);
        change.drop_layers = unused.iter().map(|layer| layer.chain).collect();
        if !change.drop_layers.is_empty() || !change.drop_images.is_empty() {
            let applied = self.db.apply(&change);
            if let Err(error) = applied {
                self.state().remember(unused);
                return Err(error);
            }
        }
        Ok(unused)
    }

    /// Removes the directories of layers that are forgotten: all that can be, whatever becomes of one of them.
    pub(super) fn remove_layers(&self, layers: &[Arc<Layer>]) -> Result<Freed, Error> {
        let mut freed = Freed::default();
        let mut result = Ok(());
        for layer in layers {
            match self.layout.remove_layer(layer.record.number) {
                Ok(()) => freed.bytes += layer.record.bytes,
                Err(error) => result = result.and(Err(error)),
            }
        }
        if !layers.is_empty() {
            self.db.keep_reserve();
        }
        result.map(|()| freed)
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
