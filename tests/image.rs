//! Images: loaded, listed, removed, pulled.

mod artifact;
mod help;
mod manage;
mod save;

use crate::support::{BUSYBOX, DEMO, Node, Registry, Run, succeed};

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
    let removed = succeed(&node.output(&["image", "rm", BUSYBOX]));
    assert!(removed.starts_with(&format!("untagged {BUSYBOX}\nremoved ")), "{removed}");
    assert!(removed.ends_with(" MiB freed\n"), "{removed}");
    assert_eq!(succeed(&node.output(&["image", "ls"])).lines().count(), 1);
    let again = node.output(&["image", "rm", BUSYBOX]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not in the store"), "{again:?}");
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

#[test]
fn an_image_comes_from_a_registry_by_tag_and_by_digest() {
    let node = Node::start();
    let archive = node.path("busybox.tar");
    crate::support::write_busybox(&archive);
    let registry = Registry::start(&node);
    let reference = registry.push(&archive, "team/busybox:1");
    let said = succeed(&node.output(&["image", "pull", &reference]));
    assert!(said.starts_with(&reference), "{said}");
    let json = succeed(&node.output(&["image", "ls", "--output", "json"]));
    let image: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    let by_digest = image["digests"][0].as_str().unwrap();
    assert!(by_digest.starts_with(&format!("{}/team/busybox@sha256:", registry.address)), "{image}");
    succeed(&node.output(&["image", "rm", &reference]));

    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: pulled}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - name: main\n    image: {by_digest}\n    command: [echo, from a registry]\n"
    );
    let path = node.write("pod.yaml", &manifest);
    let ended = Run::start(&node, &["run", &path]).ended();
    assert_eq!(ended.stdout, ["pulled/main | from a registry"], "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("pulled {by_digest} in ")), "{}", ended.stderr);

    let output = node.output(&["image", "pull", &format!("{}/team/none:1", registry.address)]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("does not exist in registry"), "{error}");
    node.finish();
}
