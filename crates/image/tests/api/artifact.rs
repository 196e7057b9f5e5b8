//! Artifacts: what is in a registry and is no image.

use std::io::Cursor;

use serde_json::{Value, json};
use vaquita_image::{Digest, Kind};

use crate::content::{Content, Form, MANIFEST, compress, image, layer};
use crate::registry::Registry;
use crate::{Place, impatient, read};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// An artifact of these layers: media type, title, bytes.
fn artifact(layers: &[(&str, Option<&str>, Vec<u8>)], artifact_type: Option<&str>) -> Content {
    let mut content = image(&[], Form::Plain);
    let descriptor = |(kind, title, bytes): &(&str, Option<&str>, Vec<u8>)| {
        let mut descriptor = json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
        if let Some(title) = title {
            descriptor["annotations"] = json!({"org.opencontainers.image.title": title});
        }
        descriptor
    };
    let config = b"{}".to_vec();
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": EMPTY, "digest": Digest::of(&config), "size": 2},
        "layers": layers.iter().map(descriptor).collect::<Vec<Value>>(),
        "subject": {"mediaType": MANIFEST, "digest": Digest::of(b"what it is about"), "size": 3},
        "annotations": {"org.opencontainers.image.created": "2026-01-02T03:04:05Z"},
    });
    if let Some(kind) = artifact_type {
        manifest["artifactType"] = kind.into();
    }
    content.manifest = manifest.to_string().into_bytes();
    content.files.clear();
    for name in ["latest".to_owned(), Digest::of(&content.manifest).to_string()] {
        content.files.insert(format!("manifests/{name}"), (MANIFEST.to_owned(), content.manifest.clone()));
    }
    content.layers = layers.iter().map(|(_, _, bytes)| (Digest::of(bytes), bytes.clone())).collect();
    content.config = config.clone();
    for (digest, bytes) in content.layers.iter().cloned().chain([(Digest::of(&config), config)]) {
        content.files.insert(format!("blobs/{digest}"), ("application/octet-stream".to_owned(), bytes));
    }
    content
}

fn model() -> Content {
    let long = format!("weights/{}.bin", "n".repeat(150));
    let tar = compress(&layer(&[("docs/", ""), ("docs/readme", "read me")]), Form::Gzip);
    artifact(
        &[
            ("application/vnd.example.weights", Some("weights/a.bin"), b"one".to_vec()),
            // What looks like the beginning of a compressed stream is a file all the same, and so is its name.
            ("application/vnd.example.weights", Some("BZh.gz"), compress(b"two", Form::Gzip)),
            ("application/vnd.example.weights", Some(&long), vec![7; 1000]),
            ("text/plain", None, b"nameless".to_vec()),
            ("text/plain", Some("empty"), Vec::new()),
            (TAR, Some("docs.tar.gz"), tar),
        ],
        Some("application/vnd.example.model"),
    )
}

fn check(place: &Place, id: &Digest) {
    let root = place.store.snapshot("c1", id).unwrap().mount(true).unwrap();
    assert_eq!(read(&root, "weights/a.bin"), "one");
    assert_eq!(read(&root, &format!("weights/{}.bin", "n".repeat(150))), "\u{7}".repeat(1000));
    assert_eq!(read(&root, &format!("sha256-{}", Digest::of(b"nameless").hex())), "nameless");
    assert_eq!(read(&root, "empty"), "");
    assert_eq!(read(&root, "docs/readme"), "read me");
    let file = rustix::fs::openat(&root, "BZh.gz", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(file.unwrap()), &mut bytes).unwrap();
    assert_eq!(bytes, compress(b"two", Form::Gzip));
}

#[tokio::test]
async fn an_artifact_is_files_and_trees() {
    let place = Place::new();
    let content = model();
    let registry = Registry::of(content.clone()).await;
    let pulled = place.store.pull(&registry.reference("latest"), None, &impatient()).await.unwrap();
    assert_eq!(pulled.id, Digest::of(&content.manifest), "all artifacts have the same configuration");
    assert_eq!(pulled.artifact_type, "application/vnd.example.model");
    assert_eq!(pulled.created, "2026-01-02T03:04:05Z");
    check(&place, &pulled.id);
    let place = place.reopen();
    assert_eq!(place.store.list()[0].artifact_type, pulled.artifact_type);
    let again = place.store.pull(&registry.reference("latest"), None, &impatient()).await.unwrap();
    assert_eq!((again.id, registry.count("blobs/")), (pulled.id, content.layers.len() + 1));
    let details = place.store.details(&pulled.id.to_string()).unwrap();
    assert_eq!((details.manifest, details.config), (Some(content.manifest), Some(b"{}".to_vec())));
    let error = place.store.save(&[pulled.id.to_string()]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("is an artifact (application/vnd.example.model)"), "{error}");
    // Another one with the same configuration and a layer in common is another one.
    let other = artifact(&[("application/vnd.example.weights", Some("other"), b"one".to_vec())], None);
    let registry = Registry::of(other).await;
    let second = place.store.pull(&registry.reference("latest"), None, &impatient()).await.unwrap();
    assert_ne!(second.id, pulled.id);
    assert_eq!(second.artifact_type, EMPTY);
    let root = place.store.snapshot("c2", &second.id).unwrap().mount(true).unwrap();
    assert_eq!(read(&root, "other"), "one");
}

#[tokio::test]
async fn an_artifact_comes_from_an_archive_too() {
    let place = Place::new();
    let content = model();
    let mut members: Vec<(String, Vec<u8>)> =
        vec![("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let blobs = content.layers.iter().map(|(_, bytes)| bytes).chain([&content.config, &content.manifest]);
    members.extend(blobs.map(|bytes| (format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.clone())));
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST,
        "digest": Digest::of(&content.manifest), "size": content.manifest.len()}]});
    members.push(("index.json".into(), index.to_string().into_bytes()));
    let archive = crate::archive::archive(&members);
    let loaded = place.store.load(Cursor::new(archive), |_| {}).await.unwrap();
    assert_eq!(loaded[0].id, Digest::of(&content.manifest));
    check(&place, &loaded[0].id);
}

#[tokio::test]
async fn a_title_is_a_path_and_nothing_else() {
    let place = Place::new();
    for title in
        ["../x", "/x", "a/../x", "a//x", "", ".", "a/", ".wh.x", "d/.wh..wh..opq", "a\nb", &"x".repeat(300)]
    {
        let content = artifact(&[("text/plain", Some(title), b"x".to_vec())], None);
        let registry = Registry::of(content).await;
        let error = place.store.pull(&registry.reference("latest"), None, &impatient()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{title:?}: {error}");
    }
    assert!(place.store.list().is_empty() && place.names("layers").is_empty());
    // What a layer is not: its digest still counts.
    let mut content = artifact(&[("text/plain", Some("f"), b"right".to_vec())], None);
    let (digest, _) = content.layers[0];
    content.files.get_mut(&format!("blobs/{digest}")).unwrap().1 = b"wrong".to_vec();
    let registry = Registry::of(content).await;
    let error = place.store.pull(&registry.reference("latest"), None, &impatient()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
}
