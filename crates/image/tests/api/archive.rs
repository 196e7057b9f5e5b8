//! Archives: what is taken in, and what is refused.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use vaquita_image::{Digest, Kind};

use crate::content::{Content, Form, MANIFEST, compress, image, layer};
use crate::{Place, read};

fn small() -> (Vec<Vec<u8>>, Content) {
    let layers = vec![layer(&[("a", "1")]), layer(&[("b", "2")])];
    let content = image(&layers, Form::Gzip);
    (layers, content)
}

pub(crate) fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// An OCI layout of one image, index last.
fn oci(content: &Content) -> Vec<(String, Vec<u8>)> {
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.to_vec());
    let mut members: Vec<(String, Vec<u8>)> = content.layers.iter().map(|(_, bytes)| blob(bytes)).collect();
    members.extend([blob(&content.config), blob(&content.manifest)]);
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": Digest::of(&content.manifest), "size": content.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "quay.io/team/app:1"}}]});
    members.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    members.push(("index.json".into(), index.to_string().into_bytes()));
    members
}

fn docker(layers: &[Vec<u8>], content: &Content) -> Vec<(String, Vec<u8>)> {
    let config = format!("{}.json", Digest::of(&content.config).hex());
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{"Config": config, "RepoTags": ["app:1", "app:2"], "Layers": names}]);
    let mut members = vec![("manifest.json".to_owned(), manifest.to_string().into_bytes())];
    members.extend(names.into_iter().zip(layers.iter().cloned()));
    members.push((config, content.config.clone()));
    members
}

#[tokio::test]
async fn layouts_and_docker_archives() {
    let (layers, content) = small();
    let id = Digest::of(&content.config);
    for (bytes, names, digests) in [
        (archive(&oci(&content)), vec!["quay.io/team/app:1"], 1),
        (compress(&archive(&oci(&content)), Form::Gzip), vec!["quay.io/team/app:1"], 1),
        (archive(&docker(&layers, &content)), vec!["docker.io/library/app:1", "docker.io/library/app:2"], 0),
        (
            compress(&archive(&docker(&layers, &content)), Form::Gzip),
            vec!["docker.io/library/app:1", "docker.io/library/app:2"],
            0,
        ),
    ] {
        let place = Place::new();
        let done = Arc::new(AtomicU64::new(0));
        let (seen, length) = (Arc::clone(&done), bytes.len() as u64);
        let loaded =
            place.store.load(Cursor::new(bytes), move |n| seen.store(n, Ordering::Relaxed)).await.unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(
            (loaded[0].id, &loaded[0].repo_tags[..]),
            (id, &names.iter().map(ToString::to_string).collect::<Vec<_>>()[..])
        );
        assert_eq!(loaded[0].repo_digests.len(), digests);
        assert_eq!(done.load(Ordering::Relaxed), length);
        let root = place.store.snapshot("c1", &id).unwrap().mount(true).unwrap();
        assert_eq!((read(&root, "a"), read(&root, "b")), ("1".into(), "2".into()));
        assert!(place.names("tmp").is_empty() && place.store.pulls().is_empty());
    }
}

#[tokio::test]
async fn bad_archives_leave_nothing() {
    let place = Place::new();
    let (layers, content) = small();
    let changed = |name: &str, members: Vec<(String, Vec<u8>)>| -> Vec<u8> {
        let change = |(member, mut bytes): (String, Vec<u8>)| {
            if member.contains(name) {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            (member, bytes)
        };
        archive(&members.into_iter().map(change).collect::<Vec<_>>())
    };
    let without = |name: &str, mut members: Vec<(String, Vec<u8>)>| {
        members.retain(|(member, _)| !member.contains(name));
        archive(&members)
    };
    let blob = content.layers[0].0.hex();
    let whole = archive(&oci(&content));
    let cases = [
        ("layer changed", changed(&blob, oci(&content)), Kind::Corrupt),
        ("manifest changed", changed(&Digest::of(&content.manifest).hex(), oci(&content)), Kind::Corrupt),
        ("layer missing", without(&blob, oci(&content)), Kind::Invalid),
        ("no index", without("index.json", oci(&content)), Kind::Invalid),
        ("docker layer changed", changed("0/layer.tar", docker(&layers, &content)), Kind::Corrupt),
        ("docker layer missing", without("1/layer.tar", docker(&layers, &content)), Kind::Invalid),
        ("cut off", whole[..whole.len() / 2].to_vec(), Kind::Corrupt),
        ("no archive", b"hello, this is not an archive".to_vec(), Kind::Corrupt),
        ("nothing", Vec::new(), Kind::Invalid),
        (
            "leads out",
            archive(&[(
                "manifest.json".into(),
                br#"[{"Config":"../../../etc/passwd","Layers":[]}]"#.to_vec(),
            )]),
            Kind::Invalid,
        ),
    ];
    for (name, bytes, kind) in cases {
        let error = place.store.load(Cursor::new(bytes), |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(
            place.store.list().is_empty()
                && place.names("layers").is_empty()
                && place.names("tmp").is_empty(),
            "{name}"
        );
    }
}
