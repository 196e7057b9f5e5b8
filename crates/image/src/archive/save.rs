//! Images as an archive: the tar of an OCI layout, which `docker load` takes as well.
//!
//! Layers go in as they came, uncompressed: each is made again from its tree and its recipe, and compared with the digest by
//! which the configuration names it. So the configuration, and with it the image's id, stays what it is.

use std::io::Write;
use std::sync::Arc;

use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::digest::Hasher;
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::store::{Layer, blocking};
use crate::unpack::Replay;
use crate::{Digest, Error, Image, Kind, Reference, Store};

const BLOCK: u64 = 512;
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Images that are about to be written as one archive. They may be removed from the store meanwhile.
#[derive(Debug)]
pub struct Archive {
    documents: Vec<(Digest, Vec<u8>)>,
    layers: Vec<SavedLayer>,
    index: Vec<u8>,
    docker: Vec<u8>,
}

struct SavedLayer {
    /// Keeps the files where they are.
    _layer: Arc<Layer>,
    diff_id: Digest,
    replay: Replay,
}

/// An image that was asked for, with the names that were asked for.
struct Wanted {
    image: Arc<Image>,
    layers: Vec<Arc<Layer>>,
    config: Vec<u8>,
    tags: Vec<String>,
}

/// See [`Store::save`].
pub(crate) async fn save(store: &Store, names: &[String]) -> Result<Archive, Error> {
    let (store, names) = (store.clone(), names.to_vec());
    blocking(move || Archive::prepare(&store, &names)).await
}

impl Archive {
    fn prepare(store: &Store, names: &[String]) -> Result<Self, Error> {
        let wanted = find(store, names)?;
        let mut archive =
            Self { documents: Vec::new(), layers: Vec::new(), index: Vec::new(), docker: Vec::new() };
        let (mut entries, mut docker) = (Vec::new(), Vec::new());
        for image in wanted {
            let told = |e: Error| e.context(format!("cannot save image {}", image.image.id));
            let mut sizes = Vec::new();
            for layer in &image.layers {
                sizes.push(archive.add_layer(store, layer).map_err(told)?);
            }
            archive.describe(&image, &sizes, &mut entries, &mut docker);
        }
        archive.index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
            .to_string()
            .into_bytes();
        archive.docker = Value::from(docker).to_string().into_bytes();
        Ok(archive)
    }

    /// Returns the layer's size.
    fn add_layer(&mut self, store: &Store, layer: &Arc<Layer>) -> Result<u64, Error> {
        let diff_id = layer.record.diff_id;
        if let Some(known) = self.layers.iter().find(|known| known.diff_id == diff_id) {
            return Ok(known.replay.size());
        }
        let home = store.0.layout.layer_home(layer.record.number)?;
        let replay = Replay::open(home, store.0.options.layer_bytes)?;
        let size = replay.size();
        self.layers.push(SavedLayer { _layer: Arc::clone(layer), diff_id, replay });
        Ok(size)
    }

    fn describe(&mut self, image: &Wanted, sizes: &[u64], index: &mut Vec<Value>, docker: &mut Vec<Value>) {
        let id = image.image.id;
        let diff_ids = || image.layers.iter().map(|layer| layer.record.diff_id);
        let layers: Vec<Value> = diff_ids()
            .zip(sizes)
            .map(|(diff_id, size)| json!({"mediaType": LAYER, "digest": diff_id, "size": size}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIG, "digest": id, "size": image.config.len()},
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let (digest, size) = (Digest::of(&manifest), manifest.len());
        let entry = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size});
        if image.tags.is_empty() {
            index.push(entry.clone());
        }
        for tag in &image.tags {
            let mut entry = entry.clone();
            entry["annotations"] =
                json!({"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag});
            index.push(entry);
        }
        let names: Vec<String> = diff_ids().map(|diff_id| blob(&diff_id)).collect();
        docker.push(json!({"Config": blob(&id), "RepoTags": image.tags, "Layers": names}));
        self.documents.push((id, image.config.clone()));
        self.documents.push((digest, manifest));
    }

    /// Bytes of the archive.
    #[must_use]
    pub fn size(&self) -> u64 {
        let directories = 2 * BLOCK;
        let documents = self.documents.iter().map(|(_, bytes)| bytes.len() as u64);
        let last = [self.index.len(), self.docker.len(), LAYOUT.len()].map(|length| length as u64);
        let layers = self.layers.iter().map(|layer| layer.replay.size());
        let members = documents.chain(last).chain(layers);
        directories + members.map(|size| BLOCK + size.next_multiple_of(BLOCK)).sum::<u64>() + 2 * BLOCK
    }

    /// Writes the archive, what names the images last: what breaks off before its end is no archive. Blocks.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::Kind::Corrupt) when the files of a layer are not what was unpacked; what `out` returns.
    pub fn write(&self, out: &mut impl Write) -> Result<(), Error> {
        for name in ["blobs/", "blobs/sha256/"] {
            header(out, EntryType::Directory, name, 0)?;
        }
        for layer in &self.layers {
            layer.write(out)?;
        }
        for (digest, bytes) in &self.documents {
            member(out, &blob(digest), bytes)?;
        }
        member(out, "index.json", &self.index)?;
        member(out, "manifest.json", &self.docker)?;
        member(out, "oci-layout", LAYOUT)?;
        put(out, &[0; 2 * BLOCK as usize])
    }
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

impl SavedLayer {
    fn write(&self, out: &mut impl Write) -> Result<(), Error> {
        header(out, EntryType::Regular, &blob(&self.diff_id), self.replay.size())?;
        let mut hashed = Hashed { out, hasher: Hasher::new() };
        self.replay.write(&mut hashed).map_err(|e| e.context(format!("layer {}", self.diff_id)))?;
        let is = hashed.hasher.finish();
        if is != self.diff_id {
            return Err(Error::corrupt(format!(
                "layer {}: its files were changed after they were unpacked: remove the image and pull it anew",
                self.diff_id
            )));
        }
        pad(out, self.replay.size())
    }
}

impl std::fmt::Debug for SavedLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedLayer").field("diff_id", &self.diff_id).finish_non_exhaustive()
    }
}

/// Each image once, with the tags among `names`: who asks by id gets an image without names, as with `docker save`.
fn find(store: &Store, names: &[String]) -> Result<Vec<Wanted>, Error> {
    let mut found: Vec<Wanted> = Vec::new();
    for name in names {
        let stored = store.0.state().find(name).cloned();
        let stored = stored
            .ok_or_else(|| Error::not_found(format!("image {name:?} is not in the store: pull it first")))?;
        if !stored.image.artifact_type.is_empty() {
            let message = format!(
                "image {name:?} is an artifact ({}): only images can be saved",
                stored.image.artifact_type
            );
            return Err(Error::new(Kind::Unsupported, message));
        }
        let tag = Reference::parse(name).ok().and_then(|reference| reference.repo_tag());
        let tag = tag.filter(|tag| stored.image.repo_tags.contains(tag));
        match found.iter_mut().find(|other| other.image.id == stored.image.id) {
            Some(other) => other.tags.extend(tag.filter(|tag| !other.tags.contains(tag))),
            None => {
                let config = store.0.layout.blob(&stored.image.id).ok_or_else(|| {
                    Error::corrupt(format!("image {name:?}: its configuration is damaged: pull it anew"))
                })?;
                found.push(Wanted {
                    image: stored.image,
                    layers: stored.layers,
                    config,
                    tags: tag.into_iter().collect(),
                });
            }
        }
    }
    Ok(found)
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn member(out: &mut impl Write, name: &str, bytes: &[u8]) -> Result<(), Error> {
    header(out, EntryType::Regular, name, bytes.len() as u64)?;
    put(out, bytes)?;
    pad(out, bytes.len() as u64)
}

/// Nothing of the time or the machine: the same images give the same archive.
fn header(out: &mut impl Write, kind: EntryType, name: &str, size: u64) -> Result<(), Error> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(name).map_err(|e| Error::io(format!("name {name:?} in the archive"), &e))?;
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    put(out, header.as_bytes())
}

fn pad(out: &mut impl Write, size: u64) -> Result<(), Error> {
    let length = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default();
    put(out, &[0; BLOCK as usize][..length])
}

fn put(out: &mut impl Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes).map_err(|e| Error::io("write(archive)", &e))
}

/// Hashes what goes through.
struct Hashed<'a, W> {
    out: &'a mut W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
