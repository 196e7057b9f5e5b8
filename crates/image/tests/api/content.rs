//! Images made for the tests.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::json;
use vaquita_image::Digest;

/// Everything that a registry has of one image.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Path below the repository (`manifests/latest`, `blobs/sha256:…`) to media type and bytes.
    pub(crate) files: BTreeMap<String, (String, Vec<u8>)>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    /// Compressed layers with their digests.
    pub(crate) layers: Vec<(Digest, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Gzip,
    Plain,
    Zstd,
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layer of these files; a name that ends with a slash is a directory.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        let directory = name.ends_with('/');
        header.set_entry_type(if directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// An image of these uncompressed layers, as `latest`.
pub(crate) fn image(layers: &[Vec<u8>], form: Form) -> Content {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "User": "www"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    with_config(layers, form, config.to_string().into_bytes())
}

pub(crate) fn with_config(layers: &[Vec<u8>], form: Form, config: Vec<u8>) -> Content {
    let layers: Vec<(Digest, Vec<u8>)> =
        layers.iter().map(|layer| compress(layer, form)).map(|bytes| (Digest::of(&bytes), bytes)).collect();
    let kind = match form {
        Form::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Form::Plain => "application/vnd.oci.image.layer.v1.tar",
        Form::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let list: Vec<serde_json::Value> = layers
        .iter()
        .map(|(digest, bytes)| json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": list,
    });
    let manifest = manifest.to_string().into_bytes();
    let mut files = BTreeMap::new();
    for name in ["latest".to_owned(), Digest::of(&manifest).to_string()] {
        files.insert(format!("manifests/{name}"), (MANIFEST.to_owned(), manifest.clone()));
    }
    for (digest, bytes) in layers.iter().cloned().chain([(Digest::of(&config), config.clone())]) {
        files.insert(format!("blobs/{digest}"), ("application/octet-stream".to_owned(), bytes));
    }
    Content { files, manifest, config, layers }
}

pub(crate) fn compress(layer: &[u8], form: Form) -> Vec<u8> {
    match form {
        Form::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(layer).unwrap();
            encoder.finish().unwrap()
        }
        Form::Plain => layer.to_vec(),
        Form::Zstd => zstd::encode_all(layer, 1).unwrap(),
    }
}

/// Bytes that do not compress, always the same for one seed.
pub(crate) fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut out = String::with_capacity(length);
    while out.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push_str(&format!("{state:016x}"));
    }
    out.truncate(length);
    out
}
