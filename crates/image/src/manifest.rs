//! Manifests, indexes and configurations: bounded, checked, unambiguous (pure).
//!
//! The documents are read with the types of oci-spec; what those leave open is decided here. Docker's schema 2 has the
//! same fields under other media types.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Platform};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Digest, Error, ImageConfig, Kind};

/// Most bytes of a manifest, an index or a configuration (T45).
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Indexes inside of indexes.
pub(crate) const DEPTH_LIMIT: u32 = 3;
/// What overlayfs stacks at most (`OVL_MAX_STACK`).
const LAYER_LIMIT: usize = 500;
const INDEX_LIMIT: usize = 1000;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
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
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) created: String,
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
/// schema 1, artifacts and foreign layers.
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
    let config_type = manifest.config().media_type().to_string();
    if !matches!(
        config_type.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    ) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the reference is an artifact ({config_type:?}), not an image that can be run"),
        ));
    }
    if manifest.layers().len() > LAYER_LIMIT {
        let count = manifest.layers().len();
        return Err(Error::invalid(format!(
            "image has {count} layers, more than the {LAYER_LIMIT} that overlayfs stacks"
        )));
    }
    let config = blob(manifest.config())?;
    check_size("image configuration", config.size)?;
    let layers = manifest.layers().iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Document::Manifest(Manifest { config, layers }))
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
    Ok(Blob { digest: Digest::parse(descriptor.digest().as_ref())?, size: descriptor.size() })
}

/// Chooses the manifest for the machine we run on.
///
/// # Errors
/// [`Kind::NotFound`] that lists the platforms that there are.
pub(crate) fn select<'a>(manifests: &'a [Descriptor], machine: &Machine) -> Result<&'a Descriptor, Error> {
    let rank =
        |descriptor: &&Descriptor| descriptor.platform().as_ref().and_then(|platform| machine.rank(platform));
    let best = manifests.iter().filter_map(|m| rank(&m).map(|rank| (rank, m))).min_by_key(|(rank, _)| *rank);
    if let Some((_, best)) = best {
        return Ok(best);
    }
    if let [only] = manifests
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let mut there: Vec<String> =
        manifests.iter().filter_map(|m| m.platform().as_ref().map(name_of)).collect();
    there.sort();
    there.dedup();
    there.retain(|name| name != "unknown/unknown");
    there.truncate(20);
    Err(Error::not_found(format!(
        "the image has no variant for linux/{}; it has: {}",
        machine.arch,
        there.join(", ")
    )))
}

fn name_of(platform: &Platform) -> String {
    let base = format!("{}/{}", platform.os(), platform.architecture());
    let name = match platform.variant() {
        Some(variant) => format!("{base}/{variant}"),
        None => base,
    };
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// The machine that images are chosen for.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// As images call it: `amd64`, `arm64`.
    pub(crate) arch: &'static str,
    /// Variants that run here, best first; the empty one stands for "none given".
    variants: &'static [&'static str],
}

impl Machine {
    /// This machine.
    pub(crate) fn host() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self { arch: "amd64", variants: x86_variants() },
            "aarch64" => Self { arch: "arm64", variants: &["v8", ""] },
            "arm" => Self { arch: "arm", variants: &["v7", "v6", "v5", ""] },
            "riscv64" => Self { arch: "riscv64", variants: &[""] },
            other => Self { arch: other, variants: &[""] },
        }
    }

    /// How well a platform fits: 0 best, `None` not at all.
    fn rank(&self, platform: &Platform) -> Option<usize> {
        if platform.os().to_string() != "linux" || platform.architecture().to_string() != self.arch {
            return None;
        }
        let variant = platform.variant().as_deref().unwrap_or("");
        self.variants.iter().position(|known| *known == variant)
    }
}

/// amd64 levels of the psABI that this machine has. The plain form comes first: it is the default of an index that also
/// has levels, and runs everywhere.
fn x86_variants() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
        return &["", "v1", "v2", "v3"];
    } else if std::arch::is_x86_feature_detected!("sse4.2") {
        return &["", "v1", "v2"];
    }
    &["", "v1"]
}

/// Reads an image's configuration; `layers` is how many the manifest has.
///
/// # Errors
/// [`Kind::Invalid`] or [`Kind::Corrupt`] for a malformed one, [`Kind::NotFound`] for an image of another platform.
pub(crate) fn configuration(bytes: &[u8], layers: usize, machine: &Machine) -> Result<Configuration, Error> {
    check_size("image configuration", bytes.len() as u64)?;
    let parsed: ImageConfiguration = read("image configuration", bytes)?;
    let (os, arch) = (parsed.os().to_string(), parsed.architecture().to_string());
    if !matches!(os.as_str(), "linux" | "") || !(arch == machine.arch || arch.is_empty()) {
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

    fn index(platforms: &[(&str, &str, Option<&str>)]) -> Vec<Descriptor> {
        let entry = |(os, arch, variant): &(&str, &str, Option<&str>)| {
            let variant = variant.map(|v| format!(r#","variant":"{v}""#)).unwrap_or_default();
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{D}","size":1,"platform":{{"os":"{os}","architecture":"{arch}"{variant}}}}}"#
            )
        };
        let entries: Vec<String> = platforms.iter().map(entry).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match parse(text.as_bytes(), None).unwrap() {
            Document::Index(manifests) => manifests,
            Document::Manifest(_) => panic!("not an index"),
        }
    }

    #[test]
    fn the_platform_is_chosen_with_its_variant() {
        let arm = Machine { arch: "arm", variants: &["v7", "v6", "v5", ""] };
        let there = index(&[
            ("linux", "amd64", None),
            ("linux", "arm", Some("v6")),
            ("linux", "arm", Some("v7")),
            ("windows", "arm", Some("v7")),
            ("unknown", "unknown", None),
        ]);
        let chosen = select(&there, &arm).unwrap();
        assert_eq!(chosen.platform().as_ref().unwrap().variant().as_deref(), Some("v7"));
        let error = select(&there, &Machine { arch: "s390x", variants: &[""] }).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("linux/amd64, linux/arm/v6"), "{error}");
        let amd64 = index(&[("linux", "amd64", Some("v9")), ("linux", "amd64", None)]);
        assert_eq!(select(&amd64, &Machine { arch: "amd64", variants: &["v1", ""] }).unwrap(), &amd64[1]);
    }

    #[test]
    fn configurations_as_docker_writes_them() {
        let machine = Machine { arch: "amd64", variants: &[""] };
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
