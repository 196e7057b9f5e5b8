//! `vaquita.v1.Images`: what our own command line does with images that are there.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use vaquita_image::{Archive, Purpose, Reference, Removal};
use vaquita_proto::node as proto;
use vaquita_proto::node::images_server::Images;

use super::Service;
use crate::container::volumes;
use crate::node::Node;
use crate::{Error, Kind, Result};

/// Bytes of an archive in one message.
const PIECE: usize = 256 << 10;
/// Messages that wait for a client that reads slowly.
const QUEUE: usize = 4;

/// What a saved image comes in.
type Saved = ReceiverStream<std::result::Result<proto::SaveResponse, Status>>;
/// What a method answers.
type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Images for Service {
    type SaveStream = Saved;

    async fn save(&self, request: Request<proto::SaveRequest>) -> Answer<Saved> {
        Ok(Response::new(save(&self.node, &request.into_inner().images).await?))
    }

    async fn inspect(&self, request: Request<proto::InspectRequest>) -> Answer<proto::InspectResponse> {
        Ok(Response::new(inspect(&self.node, &request.into_inner().image)?))
    }

    async fn tag(&self, request: Request<proto::TagRequest>) -> Answer<proto::TagResponse> {
        Ok(Response::new(tag(&self.node, request.into_inner()).await?))
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Answer<proto::Deleted> {
        Ok(Response::new(delete(&self.node, &request.into_inner().image).await?))
    }

    async fn prune(&self, request: Request<proto::PruneRequest>) -> Answer<proto::PruneResponse> {
        Ok(Response::new(prune(&self.node, request.into_inner().all).await?))
    }

    async fn disk_usage(&self, _: Request<proto::DiskUsageRequest>) -> Answer<proto::DiskUsageResponse> {
        Ok(Response::new(disk_usage(&self.node).await?))
    }
}

async fn save(node: &Node, names: &[String]) -> Result<Saved> {
    if names.is_empty() {
        return Err(Error::invalid("images: is empty"));
    }
    let archive = node.images.save(names).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || send(&archive, &sender));
    Ok(ReceiverStream::new(receiver))
}

fn send(archive: &Archive, to: &mpsc::Sender<std::result::Result<proto::SaveResponse, Status>>) {
    let mut pieces = Pieces { to, bytes_total: archive.size(), buffer: Vec::with_capacity(PIECE) };
    // What cannot be sent is for nobody: the client has gone.
    match archive.write(&mut pieces) {
        Ok(()) => pieces.flush().unwrap_or_default(),
        Err(error) => to.blocking_send(Err(Error::from(error).into())).unwrap_or_default(),
    }
}

/// Cuts what is written into messages.
struct Pieces<'a> {
    to: &'a mpsc::Sender<std::result::Result<proto::SaveResponse, Status>>,
    bytes_total: u64,
    buffer: Vec<u8>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        let count = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        let message = proto::SaveResponse { data, bytes_total: self.bytes_total };
        self.to.blocking_send(Ok(message)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn inspect(node: &Node, name: &str) -> Result<proto::InspectResponse> {
    let details = node.images.details(name).ok_or_else(|| missing(name))?;
    let image = &details.image;
    let text = |bytes: Option<Vec<u8>>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    let layer = |layer: &vaquita_image::LayerInfo| proto::ImageLayer {
        diff_id: layer.diff_id.to_string(),
        chain_id: layer.chain_id.to_string(),
        bytes: layer.bytes,
        inodes: layer.inodes,
        images: u32::try_from(layer.images).unwrap_or(u32::MAX),
        path: layer.path.to_string_lossy().into_owned(),
    };
    Ok(proto::InspectResponse {
        id: image.id.to_string(),
        tags: image.repo_tags.clone(),
        digests: image.repo_digests.clone(),
        size: image.size,
        created: image.created.clone(),
        stored_at: image.stored_at,
        pinned: image.pinned,
        artifact_type: image.artifact_type.clone(),
        layers: details.layers.iter().map(layer).collect(),
        containers: users(node).remove(&image.id.to_string()).unwrap_or_default(),
        manifest: text(details.manifest),
        config: text(details.config),
    })
}

async fn tag(node: &Node, request: proto::TagRequest) -> Result<proto::TagResponse> {
    let reference = Reference::parse(&request.tag)?;
    let image = node.images.tag(&request.image, &reference).await?;
    Ok(proto::TagResponse {
        id: image.id.to_string(),
        tag: reference.repo_tag().unwrap_or_else(|| reference.to_string()),
    })
}

async fn delete(node: &Node, name: &str) -> Result<proto::Deleted> {
    if name.is_empty() {
        return Err(Error::invalid("image: is empty"));
    }
    let removal = node.images.delete(name).await?;
    Ok(deleted(node, removal))
}

/// Those that no container uses and that are not pinned; without `all` only those that have no tag.
async fn prune(node: &Node, all: bool) -> Result<proto::PruneResponse> {
    let users = users(node);
    let mut images = Vec::new();
    for image in node.images.list() {
        let used = users.contains_key(&image.id.to_string());
        if image.pinned || used || !(all || image.repo_tags.is_empty()) {
            continue;
        }
        match node.images.delete(&image.id.to_string()).await {
            Ok(removal) => images.push(deleted(node, removal)),
            // Somebody else was faster.
            Err(error) if error.kind() == vaquita_image::Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(proto::PruneResponse { images })
}

fn deleted(node: &Node, removal: Removal) -> proto::Deleted {
    let id = removal.id.to_string();
    proto::Deleted {
        containers: if removal.removed { users(node).remove(&id).unwrap_or_default() } else { Vec::new() },
        id,
        untagged: removal.untagged,
        removed: removal.removed,
        bytes_freed: removal.freed.bytes,
    }
}

/// The containers of each image, as root and as volume, by the image's id.
fn users(node: &Node) -> BTreeMap<String, Vec<String>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for snapshot in node.images.snapshots() {
        let Some(image) = snapshot.image else { continue };
        let containers = users.entry(image.to_string()).or_default();
        let container = volumes::owner(&snapshot.id);
        if !containers.iter().any(|known| known == container) {
            containers.push(container.to_owned());
        }
    }
    users
}

async fn disk_usage(node: &Node) -> Result<proto::DiskUsageResponse> {
    let usage = node.images.disk_usage().await?;
    let mut users = users(node);
    let part = |part: &vaquita_image::Part| proto::DiskPart {
        kind: kind(part.purpose).to_owned(),
        bytes: part.bytes,
        count: part.count,
    };
    let images = usage.images.iter().map(|usage| proto::ImageUsage {
        id: usage.image.id.to_string(),
        tags: usage.image.repo_tags.clone(),
        bytes_shared: usage.shared,
        bytes_exclusive: usage.exclusive,
        layers: u32::try_from(usage.layers).unwrap_or(u32::MAX),
        containers: u32::try_from(users.remove(&usage.image.id.to_string()).unwrap_or_default().len())
            .unwrap_or(u32::MAX),
    });
    let mut written: BTreeMap<&str, u64> = BTreeMap::new();
    for (snapshot, bytes) in &usage.snapshots {
        *written.entry(volumes::owner(snapshot)).or_default() += bytes;
    }
    Ok(proto::DiskUsageResponse {
        directory: usage.dir.to_string_lossy().into_owned(),
        bytes: usage.bytes(),
        parts: usage.parts.iter().map(part).collect(),
        images: images.collect(),
        containers: written.into_iter().map(|(id, bytes)| container(node, id, bytes)).collect(),
    })
}

/// A container's share; its names are empty where it is not known any more.
fn container(node: &Node, id: &str, bytes: u64) -> proto::ContainerUsage {
    let mut usage = proto::ContainerUsage { id: id.to_owned(), bytes, ..Default::default() };
    if let Ok(container) = node.tables.container(id) {
        usage.name = container.metadata().name;
        usage.image.clone_from(&container.record.image);
        if let Ok(sandbox) = node.tables.sandbox(&container.record.sandbox) {
            usage.pod = sandbox.record.config.metadata.clone().unwrap_or_default().name;
        }
    }
    usage
}

/// A word of the interface.
fn kind(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Layers => "layers",
        Purpose::Recipes => "recipes",
        Purpose::Replaced => "replaced",
        Purpose::Writable => "writable",
        Purpose::Documents => "documents",
        Purpose::Notes => "notes",
        Purpose::Partial => "partial",
        Purpose::Unfinished => "unfinished",
        Purpose::Database => "database",
        Purpose::Reserve => "reserve",
        Purpose::Directories => "directories",
        _ => "foreign",
    }
}

fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("image {name:?} is not on this node"))
}
