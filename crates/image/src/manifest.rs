//! Manifests, indexes and configurations: bounded, checked, unambiguous (pure).
//!
//! The documents are read with the types of oci-spec; what those leave open is decided here. Docker's schema 2 has the
//! same fields under other media types.

mod platform;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Digest, Error, ImageConfig, Kind};

pub(crate) use platform::{Machine, select};

/// Most bytes of a manifest, an index or a configuration (T45).
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Indexes inside of indexes.
pub(crate) const DEPTH_LIMIT: u32 = 3;
/// What overlayfs stacks at most (`OVL_MAX_STACK`).
const LAYER_LIMIT: usize = 500;
const INDEX_LIMIT: usize = 1000;
/// Bytes of a media type, and of one component of a path.
const NAME_LIMIT: usize = 255;
const PATH_LIMIT: usize = 4096;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) content: Content,
}

/// What a blob is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Content {
    /// What the manifest's own place for it says. Of a layer the configuration has the digest when it is unpacked.
    #[default]
    Plain,
    /// A layer of an artifact: a tar, of which nobody says what it is when unpacked.
    Tar,
    /// A layer of an artifact: one file, by its path.
    File(String),
}

/// A manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// What kind of artifact this is; `None` for an image.
    pub(crate) artifact: Option<Artifact>,
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
}

/// Something in a registry that is no image: it can be mounted, and not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    pub(crate) kind: String,
    /// As its annotation says.
    pub(crate) created: String,
}

/// What a reference points to.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    /// The manifests of an index, for [`select`].
    Index(Vec<Descriptor>),
}

/// A configuration as far as this crate uses it.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) config: ImageConfig,
    /// Of an artifact's layers, which have none, what tells them apart instead.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) created: String,
    /// Empty for an image.
    pub(crate) artifact_type: String,
}

/// Looks at every field that could make two readers see two different documents.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Reads a manifest or an index. `content_type` is what the registry or the descriptor called it, where that is known.
///
/// # Errors
/// [`Kind::Invalid`] for a document that is ambiguous (T47), malformed or beyond the bounds; [`Kind::Unsupported`] for
/// schema 1 and foreign layers.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, Error> {
    check_size("manifest", bytes.len() as u64)?;
    let probe: Probe = read("manifest", bytes)?;
    if probe.fs_layers.is_some() || probe.schema_version == 1 {
        return Err(Error::new(
            Kind::Unsupported,
            "manifests of Docker schema 1 are not supported: push the image anew",
        ));
    }
    if probe.schema_version != 2 {
        return Err(Error::invalid(format!("manifest has schemaVersion {}, not 2", probe.schema_version)));
    }
    let index = probe.manifests.is_some();
    if index && (probe.layers.is_some() || probe.config.is_some()) {
        return Err(Error::invalid(
            "manifest is ambiguous: it has both \"manifests\" and \"layers\" or \"config\"",
        ));
    }
    for claimed in [probe.media_type.as_deref(), content_type.map(essence)].into_iter().flatten() {
        let said = match claimed {
            OCI_MANIFEST | DOCKER_MANIFEST => false,
            OCI_INDEX | DOCKER_INDEX => true,
            _ => continue,
        };
        if said != index {
            let is = if index { "an index" } else { "a manifest" };
            return Err(Error::invalid(format!(
                "manifest is ambiguous: it is called {claimed:?} and is {is}"
            )));
        }
    }
    if index { read_index(bytes) } else { read_manifest(bytes) }
}

fn read_index(bytes: &[u8]) -> Result<Document, Error> {
    let index: ImageIndex = read("index", bytes)?;
    let manifests = index.manifests().clone();
    if manifests.len() > INDEX_LIMIT {
        return Err(Error::invalid(format!(
            "index has {} manifests, more than {INDEX_LIMIT}",
            manifests.len()
        )));
    }
    Ok(Document::Index(manifests))
}

fn read_manifest(bytes: &[u8]) -> Result<Document, Error> {
    let manifest: ImageManifest = read("manifest", bytes)?;
    let artifact = artifact(&manifest)?;
    if manifest.layers().len() > LAYER_LIMIT {
        let count = manifest.layers().len();
        return Err(Error::invalid(format!(
            "image has {count} layers, more than the {LAYER_LIMIT} that overlayfs stacks"
        )));
    }
    let config = blob(manifest.config())?;
    check_size("image configuration", config.size)?;
    let read = if artifact.is_some() { artifact_layer } else { layer };
    let layers = manifest.layers().iter().map(read).collect::<Result<_, _>>()?;
    Ok(Document::Manifest(Manifest { artifact, config, layers }))
}

/// Whether it is one: its configuration is none of an image. That an image refers to another thing by its `subject` makes no difference.
fn artifact(manifest: &ImageManifest) -> Result<Option<Artifact>, Error> {
    let config_type = manifest.config().media_type().to_string();
    if matches!(
        config_type.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    ) {
        return Ok(None);
    }
    let kind = manifest.artifact_type().as_ref().map_or(config_type, ToString::to_string);
    if kind.is_empty() || kind.len() > NAME_LIMIT || kind.contains(char::is_control) {
        return Err(Error::invalid("manifest: the type of the artifact is empty, too long, or no text"));
    }
    let annotations = manifest.annotations().clone().unwrap_or_default();
    let created = annotations.get("org.opencontainers.image.created").cloned().unwrap_or_default();
    Ok(Some(Artifact { kind, created }))
}

/// A layer of an artifact: what layers of images are is unpacked, everything else is a file.
fn artifact_layer(descriptor: &Descriptor) -> Result<Blob, Error> {
    if let Ok(blob) = layer(descriptor) {
        return Ok(Blob { content: Content::Tar, ..blob });
    }
    let blob = blob(descriptor)?;
    let title = descriptor.annotations().as_ref().and_then(|all| all.get("org.opencontainers.image.title"));
    let path = match title {
        Some(title) => checked_title(title)?,
        None => format!("sha256-{}", blob.digest.hex()),
    };
    Ok(Blob { content: Content::File(path), ..blob })
}

/// A title that is a path of a file below a directory, and looks like nothing else.
fn checked_title(title: &str) -> Result<String, Error> {
    let is_name = |part: &str| !part.is_empty() && part.len() <= NAME_LIMIT && !matches!(part, "." | "..");
    let is_path = title.len() < PATH_LIMIT
        && !title.contains(char::is_control)
        && title.split('/').all(|part| is_name(part) && !part.starts_with(".wh."));
    if is_path {
        return Ok(title.to_owned());
    }
    let shown: String = title.chars().take(100).collect();
    Err(Error::invalid(format!(
        "a file of the artifact is called {shown:?}, which is no relative path without \"..\""
    )))
}

fn layer(descriptor: &Descriptor) -> Result<Blob, Error> {
    let media_type = descriptor.media_type().to_string();
    match media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => blob(descriptor),
        // Their URLs lead away from the registry (CVE-2020-15157); no Linux image has them.
        _ if media_type.contains("foreign") || media_type.contains("nondistributable") => Err(Error::new(
            Kind::Unsupported,
            format!("layers of type {media_type:?} are fetched from elsewhere: refused"),
        )),
        _ => Err(Error::new(Kind::Unsupported, format!("layers of type {media_type:?} are not supported"))),
    }
}

/// Digest and size of a descriptor.
pub(crate) fn blob(descriptor: &Descriptor) -> Result<Blob, Error> {
    let digest = Digest::parse(descriptor.digest().as_ref())?;
    Ok(Blob { digest, size: descriptor.size(), content: Content::Plain })
}

impl Manifest {
    /// By which the image is known: the digest of its configuration, or, since artifacts mostly have the same one, that of `own`
    /// text of the manifest.
    pub(crate) fn id(&self, own: &[u8]) -> Digest {
        if self.artifact.is_some() { Digest::of(own) } else { self.config.digest }
    }

    /// What the configuration says, or for an artifact the manifest.
    ///
    /// # Errors
    /// As [`configuration`].
    pub(crate) fn configuration(&self, config: &[u8], machine: &Machine) -> Result<Configuration, Error> {
        let Some(artifact) = &self.artifact else {
            return configuration(config, self.layers.len(), machine);
        };
        let key = |layer: &Blob| {
            let path = if let Content::File(path) = &layer.content { path.as_str() } else { "" };
            Digest::of(format!("layer of an artifact {} {path}", layer.digest).as_bytes())
        };
        Ok(Configuration {
            config: ImageConfig::default(),
            diff_ids: self.layers.iter().map(key).collect(),
            created: artifact.created.clone(),
            artifact_type: artifact.kind.clone(),
        })
    }
}

/// Reads an image's configuration; `layers` is how many the manifest has.
///
/// # Errors
/// [`Kind::Invalid`] or [`Kind::Corrupt`] for a malformed one, [`Kind::NotFound`] for an image of another platform.
pub(crate) fn configuration(bytes: &[u8], layers: usize, machine: &Machine) -> Result<Configuration, Error> {
    check_size("image configuration", bytes.len() as u64)?;
    let parsed: ImageConfiguration = read("image configuration", bytes)?;
    let (os, arch) = (parsed.os().to_string(), parsed.architecture().to_string());
    if !matches!(os.as_str(), "linux" | "") || !(machine.runs(&arch) || arch.is_empty()) {
        let there: String = format!("{os}/{arch}").chars().take(60).collect();
        return Err(Error::not_found(format!(
            "the image has no variant for linux/{}; it is for {there:?}",
            machine.arch
        )));
    }
    if parsed.rootfs().typ() != "layers" {
        return Err(Error::invalid("image configuration: rootfs.type is not \"layers\""));
    }
    let diff_ids: Vec<Digest> =
        parsed.rootfs().diff_ids().iter().map(|id| Digest::parse(id)).collect::<Result<_, _>>()?;
    if diff_ids.len() != layers {
        return Err(Error::corrupt(format!(
            "the manifest has {layers} layers and the image configuration describes {}",
            diff_ids.len()
        )));
    }
    let config = parsed.config().clone().unwrap_or_default();
    let sorted = |list: &Option<Vec<String>>| {
        let mut list = list.clone().unwrap_or_default();
        list.sort();
        list
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let list = |value: &Option<Vec<String>>| value.clone().unwrap_or_default();
    Ok(Configuration {
        config: ImageConfig {
            user: text(config.user()),
            env: list(config.env()),
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            working_dir: text(config.working_dir()),
            labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
            volumes: sorted(config.volumes()),
            stop_signal: text(config.stop_signal()),
            exposed_ports: sorted(config.exposed_ports()),
        },
        diff_ids,
        created: text(parsed.created()),
        artifact_type: String::new(),
    })
}

/// The chain id of every layer: what the stack up to there is made of (image-spec, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

/// A media type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

pub(crate) fn check_size(what: &str, size: u64) -> Result<(), Error> {
    if size > DOCUMENT_LIMIT {
        return Err(Error::invalid(format!("{what} has {size} bytes, more than {DOCUMENT_LIMIT}")));
    }
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("{what} is malformed: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str, size: u64) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":{size}}}"#)
    }

    fn manifest(layer_type: &str, extra: &str) -> String {
        let config = descriptor("application/vnd.oci.image.config.v1+json", 2);
        let layer = descriptor(layer_type, 5);
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]{extra}}}"#)
    }

    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    #[test]
    fn oci_and_docker_manifests() {
        let Document::Manifest(oci) = parse(manifest(GZIP, "").as_bytes(), Some(OCI_MANIFEST)).unwrap()
        else {
            panic!("an index");
        };
        assert_eq!((oci.config.size, oci.layers.len(), oci.layers[0].size), (2, 1, 5));
        let docker = format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor("application/vnd.docker.container.image.v1+json", 9),
            descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", 7),
        );
        let parsed = parse(docker.as_bytes(), Some(&format!("{DOCKER_MANIFEST}; charset=utf-8"))).unwrap();
        assert!(matches!(parsed, Document::Manifest(m) if m.config.size == 9));
    }

    /// T47: a document that two readers can read in two ways.
    #[test]
    fn ambiguous_documents_are_refused() {
        let both = manifest(GZIP, r#","manifests":[]"#);
        assert_eq!(parse(both.as_bytes(), None).unwrap_err().kind(), Kind::Invalid);
        let called = manifest(GZIP, &format!(r#","mediaType":"{OCI_INDEX}""#));
        assert_eq!(parse(called.as_bytes(), None).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(
            parse(manifest(GZIP, "").as_bytes(), Some(DOCKER_INDEX)).unwrap_err().kind(),
            Kind::Invalid
        );
        let twice = manifest(GZIP, r#","layers":[]"#);
        assert_eq!(parse(twice.as_bytes(), None).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn bounds_and_foreign_things() {
        assert!(parse(&vec![b' '; (DOCUMENT_LIMIT + 1) as usize], None).is_err());
        let foreign = manifest("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "");
        assert_eq!(parse(foreign.as_bytes(), None).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(
            parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, None).unwrap_err().kind(),
            Kind::Unsupported
        );
        let many = format!("[{}]", vec![descriptor(GZIP, 1); 501].join(","));
        let config = descriptor("application/vnd.oci.image.config.v1+json", 2);
        let deep = format!(r#"{{"schemaVersion":2,"config":{config},"layers":{many}}}"#);
        assert!(parse(deep.as_bytes(), None).unwrap_err().to_string().contains("501 layers"));
        let nested = "[".repeat(100_000);
        assert!(parse(nested.as_bytes(), None).is_err());
    }

    #[test]
    fn configurations_as_docker_writes_them() {
        let machine = Machine::amd64(1);
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","container_config":null,"history":[{{"created_by":"x"}}],
                "config":{{"User":"","Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],"Volumes":null,"ExposedPorts":{{"80/tcp":{{}}}},"Labels":null,"OnBuild":null,"Image":""}},
                "rootfs":{{"type":"layers","diff_ids":["{D}"]}}}}"#
        );
        let read = configuration(text.as_bytes(), 1, &machine).unwrap();
        assert_eq!(read.config.entrypoint, ["/x"]);
        assert_eq!(read.config.exposed_ports, ["80/tcp"]);
        assert!(read.config.cmd.is_empty() && read.config.volumes.is_empty());
        assert_eq!(configuration(text.as_bytes(), 2, &machine).unwrap_err().kind(), Kind::Corrupt);
        let other = text.replace("amd64", "arm64");
        assert_eq!(configuration(other.as_bytes(), 1, &machine).unwrap_err().kind(), Kind::NotFound);
        let evil = text.replace(D, "sha256:../../x");
        assert!(configuration(evil.as_bytes(), 1, &machine).is_err());
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes, None);
            let _ = configuration(&bytes, 0, &Machine::host());
        }
    }
}
