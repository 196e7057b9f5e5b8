//! Archives: the tar of an OCI layout, or of `docker save`.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use oci_spec::image::Descriptor;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::manifest::{self, Content, Document, Machine};
use crate::store::{Piece, Progress};
use crate::unpack::inflate_stream;
use crate::{Digest, Error, Image, Reference, Store};

use super::spool::Spool;
use super::{CHUNK, LayerFile, Local, take_in};

const QUEUE: usize = 4;

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// See [`Store::load`].
pub(crate) async fn load(
    store: &Store,
    archive: impl AsyncRead + Send + Unpin + 'static,
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Vec<Image>, Error> {
    let shown = Progress::new("archive".to_owned());
    store.0.show(&shown);
    let (sender, receiver) = mpsc::channel(QUEUE);
    let layout = Arc::clone(&store.0.layout);
    let spooling = tokio::task::spawn_blocking(move || {
        let mut spool = Spool::new(&layout)?;
        let input = Pieces { input: receiver, current: Bytes::new(), ended: false };
        spool.fill(inflate_stream(input)?)?;
        Ok(spool)
    });
    let read = forward(archive, &sender, &progress).await;
    drop(sender);
    let spool = spooling.await.map_err(|e| Error::corrupt(format!("the archive's thread ended: {e}")))?;
    read?;
    let spool = spool?;
    let images = read_images(&spool)?;
    let total: u64 = images.iter().flat_map(|image| &image.layers).map(|layer| layer.size).sum();
    shown.bytes_total.store(total, Ordering::Relaxed);
    let mut loaded = Vec::new();
    for image in images {
        loaded.push(take_in(store, image, &shown).await?);
    }
    Ok(loaded)
}

async fn forward(
    mut archive: impl AsyncRead + Send + Unpin + 'static,
    to: &mpsc::Sender<Piece>,
    progress: &(impl Fn(u64) + Send + Sync),
) -> Result<(), Error> {
    let mut done = 0;
    loop {
        let mut buffer = Vec::with_capacity(CHUNK);
        let count = archive.read_buf(&mut buffer).await.map_err(|e| Error::io("read(archive)", &e))?;
        done += count as u64;
        progress(done);
        let piece = if count == 0 { Piece::End } else { Piece::Data(Bytes::from(buffer)) };
        // A receiver that has gone has its reason.
        if to.send(piece).await.is_err() || count == 0 {
            return Ok(());
        }
    }
}

/// Pieces as a reader. A stream that ends without its end mark is an error: the sender was given up.
struct Pieces {
    input: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.input.blocking_recv() {
                Some(Piece::Data(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(std::io::Error::other("the archive was given up")),
            }
        }
        let count = out.len().min(self.current.len());
        out[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

fn read_images(spool: &Spool) -> Result<Vec<Local>, Error> {
    let images = if spool.find("index.json").is_some() {
        read_oci(spool)?
    } else if spool.find("manifest.json").is_some() {
        read_docker(spool)?
    } else {
        return Err(Error::invalid(
            "the archive is neither an OCI layout (it has no index.json) nor of docker save (it has no manifest.json)",
        ));
    };
    if images.is_empty() { Err(Error::invalid("the archive has no image")) } else { Ok(images) }
}

fn read_oci(spool: &Spool) -> Result<Vec<Local>, Error> {
    let Document::Index(entries) = manifest::parse(&spool.document("index.json")?, None)? else {
        return Err(Error::invalid("index.json of the archive is not an index"));
    };
    // Entries of one name are one image for several platforms.
    let mut groups: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    for entry in entries {
        groups.entry(name_of(&entry)).or_default().push(entry);
    }
    let machine = Machine::host();
    let read = |(name, group): (Option<String>, Vec<Descriptor>)| {
        let chosen = match &group[..] {
            [only] => only,
            several => manifest::select(several, &machine)?,
        };
        read_oci_image(spool, chosen, name.as_deref(), &machine)
    };
    groups.into_iter().map(read).collect()
}

/// The full name that an archive gives an image; a bare tag (as `oci-archive` of skopeo has it) is none.
fn name_of(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations().as_ref()?;
    let full = annotations.get("io.containerd.image.name");
    let reference =
        annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    full.or(reference).cloned()
}

fn read_oci_image(
    spool: &Spool,
    entry: &Descriptor,
    name: Option<&str>,
    machine: &Machine,
) -> Result<Local, Error> {
    let top = manifest::blob(entry)?.digest;
    let mut documents = Vec::new();
    let mut current = entry.clone();
    for _ in 0..=manifest::DEPTH_LIMIT {
        let digest = manifest::blob(&current)?.digest;
        spool.blob(&digest)?;
        let bytes = spool.document(&format!("blobs/sha256/{}", digest.hex()))?;
        let parsed = manifest::parse(&bytes, Some(current.media_type().as_ref()))?;
        documents.push(bytes);
        let manifest = match parsed {
            Document::Index(manifests) => {
                current = manifest::select(&manifests, machine)?.clone();
                continue;
            }
            Document::Manifest(manifest) => manifest,
        };
        spool.blob(&manifest.config.digest)?;
        let config = spool.document(&format!("blobs/sha256/{}", manifest.config.digest.hex()))?;
        let configuration = manifest.configuration(&config, machine)?;
        let id = manifest.id(documents.last().map_or(&[], |bytes| &bytes[..]));
        documents.push(config);
        let layer = |blob: &manifest::Blob| {
            let found = spool.blob(&blob.digest)?;
            if found.size != blob.size {
                return Err(Error::corrupt(format!(
                    "layer {} has {} bytes, not {}",
                    blob.digest, found.size, blob.size
                )));
            }
            // Its digest was verified while it was laid down.
            let blob = (blob.content != Content::Plain).then(|| blob.clone());
            Ok(LayerFile { path: found.path, size: found.size, blob })
        };
        let layers = manifest.layers.iter().map(layer).collect::<Result<_, _>>()?;
        let reference = name.map(Reference::parse).transpose()?;
        return Ok(Local {
            id,
            configuration,
            documents,
            repo_tags: reference.iter().filter_map(Reference::repo_tag).collect(),
            repo_digests: reference.iter().map(|reference| reference.repo_digest(&top)).collect(),
            layers,
        });
    }
    Err(Error::invalid(format!("the index is nested more than {} deep", manifest::DEPTH_LIMIT)))
}

fn read_docker(spool: &Spool) -> Result<Vec<Local>, Error> {
    let entries: Vec<DockerEntry> = serde_json::from_slice(&spool.document("manifest.json")?)
        .map_err(|e| Error::invalid(format!("manifest.json of the archive is malformed: {e}")))?;
    let machine = Machine::host();
    let read = |entry: DockerEntry| {
        let config = spool.document(&entry.config)?;
        let configuration = manifest::configuration(&config, entry.layers.len(), &machine)?;
        let layer = |name: &String| {
            let found = spool.find(name);
            let found = found.ok_or_else(|| Error::invalid(format!("the archive has no layer {name:?}")))?;
            Ok(LayerFile { path: found.path, size: found.size, blob: None })
        };
        let tags = entry.repo_tags.unwrap_or_default();
        let tags: Vec<Reference> = tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<_, _>>()?;
        Ok(Local {
            id: Digest::of(&config),
            configuration,
            layers: entry.layers.iter().map(layer).collect::<Result<_, Error>>()?,
            documents: vec![config],
            repo_tags: tags.iter().filter_map(Reference::repo_tag).collect(),
            repo_digests: Vec::new(),
        })
    };
    entries.into_iter().map(read).collect()
}
