//! Every form in which images come.

use std::io::Write as _;

use serde_json::{Value, json};
use vaquita_image::Digest;

use crate::content::{Content, Form, INDEX, MANIFEST, compress, image, layer, noise};
use crate::debian::{Distribution, layout, skopeo};
use crate::registry::Registry;
use crate::{Place, impatient, read};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An empty tar in gzip's clothes: what Docker has for every instruction that changes no file.
const EMPTY: [u8; 32] = [
    0x1f, 0x8b, 8, 0, 0, 9, 0x6e, 0x88, 0, 0xff, 0x62, 0x18, 5, 0xa3, 0x60, 0x14, 0x8c, 0x58, 0, 8, 0, 0,
    0xff, 0xff, 0x2e, 0xaf, 0xb5, 0xef, 0, 4, 0, 0,
];

/// A layer: its media type, its bytes, and what they are when unpacked.
struct Layer(&'static str, Vec<u8>, Vec<u8>);

/// An image as `latest`, behind a list of platforms.
fn listed(docker: bool, layers: &[Layer]) -> Content {
    let (kind, list, config_kind) =
        if docker { (DOCKER, DOCKER_LIST, DOCKER_CONFIG) } else { (MANIFEST, INDEX, CONFIG) };
    let mut content = image(&[], Form::Plain);
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(&layer.2)).collect();
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = json!({
        "architecture": arch, "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "ADD"}, {"created_by": "ENV A=b", "empty_layer": true}],
    });
    content.config = config.to_string().into_bytes();
    let blob = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "config": blob(config_kind, &content.config),
        "layers": layers.iter().map(|layer| blob(layer.0, &layer.1)).collect::<Vec<Value>>(),
    });
    content.manifest = manifest.to_string().into_bytes();
    let mut own = blob(kind, &content.manifest);
    own["platform"] = json!({"os": "linux", "architecture": arch});
    let mut other = blob(kind, b"of another machine");
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let index = json!({"schemaVersion": 2, "mediaType": list, "manifests": [other, own]}).to_string();
    content.files.clear();
    let own = format!("manifests/{}", Digest::of(&content.manifest));
    content.files.insert(own, (kind.to_owned(), content.manifest.clone()));
    content.files.insert("manifests/latest".into(), (list.to_owned(), index.into_bytes()));
    let blobs = layers.iter().map(|layer| layer.1.clone()).chain([content.config.clone()]);
    for bytes in blobs {
        let name = format!("blobs/{}", Digest::of(&bytes));
        content.files.insert(name, ("application/octet-stream".to_owned(), bytes));
    }
    content
}

/// zstd:chunked: a frame for each part, then tables in frames that are skipped.
fn chunked(tar: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = tar.chunks(700).flat_map(|part| compress(part, Form::Zstd)).collect();
    for table in [compress(br#"{"version":1,"entries":[]}"#, Form::Zstd), b"GNUlInUx".repeat(8)] {
        out.extend_from_slice(&0x184d_2a50_u32.to_le_bytes());
        out.extend_from_slice(&u32::try_from(table.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&table);
    }
    out
}

/// eStargz: a member of gzip for each part, the table of contents as the last file, and an empty member that says where that is.
fn stargz(tar: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = tar.chunks(700).flat_map(|part| compress(part, Form::Gzip)).collect();
    let place = format!("{:016x}STARGZ", out.len());
    let extra = [b"SG".as_slice(), &[22, 0], place.as_bytes()].concat();
    let mut footer = flate2::GzBuilder::new().extra(extra).write(Vec::new(), flate2::Compression::none());
    footer.flush().unwrap();
    out.extend_from_slice(&footer.finish().unwrap());
    out
}

#[tokio::test]
async fn every_form_of_layer() {
    let tar = |name: &str| layer(&[(name, &noise(9, 4_000))]);
    let with_table =
        layer(&[("stargz", &noise(9, 4_000)), ("stargz.index.json", r#"{"version":1,"entries":[]}"#)]);
    let gzip = |tar: &[u8]| compress(tar, Form::Gzip);
    const OCI: &str = "application/vnd.oci.image.layer.v1.tar";
    const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let oci = vec![
        Layer(OCI, tar("plain"), tar("plain")),
        Layer(OCI_GZIP, gzip(&tar("gzip")), tar("gzip")),
        Layer(OCI_ZSTD, compress(&tar("zstd"), Form::Zstd), tar("zstd")),
        Layer(OCI_ZSTD, chunked(&tar("chunked")), tar("chunked")),
        Layer(OCI_GZIP, stargz(&with_table), with_table.clone()),
        Layer(OCI_GZIP, EMPTY.to_vec(), vec![0; 1024]),
        // The same layer once more.
        Layer(OCI_GZIP, EMPTY.to_vec(), vec![0; 1024]),
        // What a layer is its first bytes say, whatever it is called.
        Layer(OCI, gzip(&tar("called plain")), tar("called plain")),
    ];
    let docker = vec![
        Layer(DOCKER_GZIP, gzip(&tar("gzip")), tar("gzip")),
        Layer(DOCKER_GZIP, EMPTY.to_vec(), vec![0; 1024]),
        Layer("application/vnd.docker.image.rootfs.diff.tar", tar("plain"), tar("plain")),
        Layer("application/vnd.docker.image.rootfs.diff.tar.zstd", chunked(&tar("chunked")), tar("chunked")),
    ];
    let oci_names = ["plain", "gzip", "zstd", "chunked", "stargz", "called plain"];
    for (is_docker, layers, names) in
        [(false, oci, &oci_names[..]), (true, docker, &["gzip", "plain", "chunked"][..])]
    {
        let place = Place::new();
        let content = listed(is_docker, &layers);
        let registry = Registry::of(content.clone()).await;
        let reference = registry.reference("latest");
        let pulled = place.store.pull(&reference, None, &impatient()).await.unwrap();
        assert_eq!(pulled.id, Digest::of(&content.config));
        let root = place.store.snapshot("c1", &pulled.id).unwrap().mount(true).unwrap();
        for name in names {
            assert_eq!(read(&root, name), noise(9, 4_000), "{name}");
        }
        let details = place.store.details(&reference.to_string()).unwrap();
        assert_eq!((details.manifest, details.layers.len()), (Some(content.manifest), layers.len()));
        // Every one of them can be written again.
        let archive = place.store.save(&[reference.to_string()]).await.unwrap();
        archive.write(&mut std::io::sink()).unwrap();
    }
}

/// As skopeo pushes them to Debian's registry.
#[tokio::test]
async fn what_skopeo_pushes() {
    let place = Place::new();
    let registry = Distribution::start(place.dir.path(), "");
    let source = layout(place.dir.path());
    let mut ids = Vec::new();
    for (tag, options) in [
        ("oci", &["--format", "oci"][..]),
        ("docker", &["--format", "v2s2"]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
        ("chunked", &["--format", "oci", "--dest-compress-format", "zstd:chunked"]),
    ] {
        let target = format!("docker://{}/media/{tag}:1", registry.address);
        skopeo(&[&["--dest-tls-verify=false"], options, &[&source, &target]].concat());
        let name = format!("{}/media/{tag}:1", registry.address);
        let reference = vaquita_image::Reference::parse(&name).unwrap();
        let pulled = place.store.pull(&reference, None, &impatient()).await.unwrap();
        ids.push(pulled.id);
        let root = place.store.snapshot(tag, &pulled.id).unwrap().mount(true).unwrap();
        assert_eq!(read(&root, "etc/hostname"), "debian", "{tag}");
    }
    assert_eq!((ids[0], ids[0]), (ids[2], ids[3]), "the configuration is the same");
    assert_eq!(place.names("layers").len(), 2, "all have the same layers");
}
