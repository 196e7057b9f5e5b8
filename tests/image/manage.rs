//! Names, removal, and the disk.

use serde_json::Value;

use crate::support::{BUSYBOX, Node, Pod, succeed};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn names_come_and_go() {
    let node = Node::start();
    node.load_busybox();
    let other = "localhost/other:2";
    let said = succeed(&node.output(&["image", "tag", BUSYBOX, other]));
    assert!(said.starts_with(&format!("{other} ")), "{said}");
    let image = &lines(&succeed(&node.output(&["image", "inspect", "-o", "json", other])))[0];
    assert_eq!(image["tags"], serde_json::json!([other, BUSYBOX]));
    assert_eq!(image["config"]["config"]["Cmd"], serde_json::json!(["sleep", "infinity"]));
    assert_eq!(image["config"]["history"][0]["created_by"], "test");
    let layer = &image["layers"][0];
    assert_eq!(layer["diffId"], image["config"]["rootfs"]["diff_ids"][0]);
    assert!(layer["diskBytes"].as_u64().unwrap() > 500_000 && layer["images"] == 1, "{layer}");
    assert!(std::path::Path::new(layer["path"].as_str().unwrap()).join("bin/busybox").is_file());
    assert_eq!(succeed(&node.output(&["image", "rm", other])), format!("untagged {other}\n"));
    let ids = succeed(&node.output(&["image", "ls", "--quiet"]));
    assert_eq!(ids, format!("{}\n", image["id"].as_str().unwrap()));
    let removed = lines(&succeed(&node.output(&["image", "rm", "-o", "json", ids.trim()])));
    assert_eq!((&removed[0]["id"], &removed[0]["removed"]), (&image["id"], &Value::Bool(true)));
    assert!(removed[0]["bytesFreed"].as_u64().unwrap() > 500_000, "{removed:?}");
    let missing = node.output(&["image", "inspect", BUSYBOX]);
    assert_eq!(missing.status.code(), Some(1));
    node.finish();
}

#[test]
fn prune_spares_what_is_used_or_named() {
    let node = Node::start();
    node.load_busybox();
    node.load("localhost/unused:1", serde_json::json!({}), |tar| tar.file("a", "b"));
    let pod = Pod::run(&node, "prune");
    pod.start("main", &["sleep", "1000"]);
    let said = succeed(&node.output(&["image", "prune"]));
    assert!(said.starts_with("nothing to remove; "), "{said}");
    let gone = lines(&succeed(&node.output(&["image", "prune", "--all", "-o", "json"])));
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!(gone[0]["untagged"], serde_json::json!(["localhost/unused:1"]));
    // In use, as with RemoveImage of the CRI: the image goes, its layers stay for the container.
    let said = succeed(&node.output(&["image", "rm", BUSYBOX]));
    assert!(said.ends_with(" freed; a container keeps its layers until it goes\n"), "{said}");
    let usage = lines(&succeed(&node.output(&["image", "du", "-o", "json"])));
    assert!(usage.iter().any(|line| line["type"] == "container" && line["name"] == "main"), "{usage:?}");
    pod.remove();
    let usage = lines(&succeed(&node.output(&["image", "du", "-o", "json"])));
    assert!(!usage.iter().any(|line| line["part"] == "layers"), "{usage:?}");
    node.finish();
}

#[test]
fn the_disk_is_explained_to_the_last_block() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "du");
    let container = pod.start("main", &["sleep", "1000"]);
    container.exec(&["dd", "if=/dev/urandom", "of=/tmp/file", "bs=64k", "count=4"]);
    let images = node.path("root/images");
    rustix::fs::syncfs(std::fs::File::open(&images).unwrap()).unwrap();
    let said = lines(&succeed(&node.output(&["image", "du", "-o", "json"])));
    let walked = std::process::Command::new("du").args(["-s", "-B1"]).arg(&images).output().unwrap();
    let walked: u64 = succeed(&walked).split_whitespace().next().unwrap().parse().unwrap();
    let of = |kind: &str| said.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let parts: u64 = of("part").iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!((of("all")[0]["bytes"].as_u64(), parts), (Some(walked), walked), "{said:?}");
    assert!(of("container")[0]["bytes"].as_u64().unwrap() >= 256 << 10, "{said:?}");
    assert_eq!((&of("container")[0]["pod"], &of("image")[0]["containers"]), (&"du".into(), &1.into()));
    let text = succeed(&node.output(&["image", "du"]));
    assert!(text.contains(BUSYBOX) && text.contains("du/main") && text.contains("\nall "), "{text}");
    node.finish();
}
