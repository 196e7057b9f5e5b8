//! Artifacts: mounted, not run.

use std::path::Path;

use serde_json::json;
use vaquita_proto::cri;

use crate::support::{Node, Pod, succeed};

const NAME: &str = "localhost/models/small:1";

/// Writes the directory of an OCI layout with an artifact of one file.
fn layout(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(blobs.join(&hex), bytes).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let mut weights = put("application/vnd.example.weights", b"forty-two\n");
    weights["annotations"] = json!({"org.opencontainers.image.title": "data/weights.bin"});
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "artifactType": "application/vnd.example.model",
        "config": put("application/vnd.oci.empty.v1+json", b"{}"), "layers": [weights],
    });
    let mut entry = put(kind, manifest.to_string().as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": NAME});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn an_artifact_is_mounted_and_not_run() {
    let node = Node::start();
    node.load_busybox();
    layout(&node.path("layout"));
    let said = succeed(&node.output(&["image", "load", node.path("layout").to_str().unwrap()]));
    assert!(said.starts_with(NAME), "{said}");
    let text = succeed(&node.output(&["image", "inspect", NAME, "-o", "json"]));
    let image: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(image["artifactType"], "application/vnd.example.model");

    let spec = cri::ImageSpec { image: NAME.into(), ..cri::ImageSpec::default() };
    let pod = Pod::run(&node, "artifact");
    let mount = cri::Mount {
        container_path: "/model".into(),
        readonly: true,
        image: Some(spec.clone()),
        image_sub_path: "data".into(),
        ..cri::Mount::default()
    };
    let mut config = Pod::container_config("main", &["sleep", "1000"]);
    config.mounts = vec![mount];
    let container = pod.start_config(config);
    assert_eq!(container.exec(&["cat", "/model/weights.bin"]).1, "forty-two\n");
    assert_ne!(container.exec(&["touch", "/model/new"]).0, 0);

    let mut config = Pod::container_config("run", &["sleep", "1000"]);
    config.image = Some(spec);
    let status = pod.create(config).map(drop).unwrap_err();
    assert!(status.message().contains("which can be mounted as a volume and not run"), "{status}");
    let output = node.output(&["image", "save", NAME, "-o", node.path("x.tar").to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("only images can be saved"), "{error}");
    node.finish();
}
