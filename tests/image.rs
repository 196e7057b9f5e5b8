//! Images: loaded, listed, removed, pulled.

use crate::support::{BUSYBOX, DEMO, Node, succeed};

#[test]
fn an_archive_is_loaded_listed_and_removed() {
    let node = Node::start();
    node.load_busybox();
    let list = succeed(&node.output(&["image", "ls"]));
    assert!(list.contains(BUSYBOX), "{list}");
    let json = succeed(&node.output(&["image", "ls", "--output", "json"]));
    let image: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!(image["tags"][0], BUSYBOX);
    assert!(image["size"].as_u64().unwrap() > 100_000, "{image}");
    assert!(image["id"].as_str().unwrap().starts_with("sha256:"), "{image}");
    assert_eq!(succeed(&node.output(&["image", "rm", BUSYBOX])), format!("removed {BUSYBOX}\n"));
    assert_eq!(succeed(&node.output(&["image", "ls"])).lines().count(), 1);
    let again = node.output(&["image", "rm", BUSYBOX]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("no such image"), "{again:?}");
    node.finish();
}

#[test]
fn the_demo_image_is_pulled_without_a_registry() {
    let node = Node::start();
    let said = succeed(&node.output(&["image", "pull", DEMO]));
    assert!(said.contains(DEMO), "{said}");
    assert!(succeed(&node.output(&["image", "ls"])).contains(DEMO));
    node.finish();
}

#[test]
fn an_archive_that_is_cut_short_is_refused_whole() {
    let node = Node::start();
    let path = node.path("cut.tar");
    std::fs::write(&path, vec![0x55; 3000]).unwrap();
    let output = node.output(&["image", "load", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("vaquita: cannot load ") && error.lines().count() == 1, "{error}");
    assert_eq!(succeed(&node.output(&["image", "ls"])).lines().count(), 1);
    node.finish();
}

#[test]
fn a_registry_that_does_not_answer_is_named() {
    let node = Node::start();
    let output = node.output(&["image", "pull", "127.0.0.1:1/no/such:1"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("vaquita: cannot pull 127.0.0.1:1/no/such:1: "), "{error}");
    assert!(error.contains("refused"), "{error}");
    node.finish();
}
