//! `vaquita check`: everything has an owner, and what has none is found.

use std::path::{Path, PathBuf};

use crate::support::{Node, Pod};

#[test]
fn a_running_pod_is_listed_with_its_owner() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "listed");
    let container = pod.start("main", &["sleep", "1000"]);
    let all = node.check();
    let owned = |kind: &str, owner: &str| {
        let found = all.iter().any(|resource| resource["kind"] == kind && resource["owner"] == owner);
        assert!(found, "no {kind} of {owner} in {all:#?}");
    };
    owned("process", &pod.id);
    owned("link", &pod.id);
    owned("lease", &pod.id);
    owned("netns", &pod.id);
    owned("cgroup", &container.id);
    owned("snapshot", &container.id);
    let text = String::from_utf8(node.output(&["check"]).stdout).unwrap();
    assert!(text.starts_with("KIND") && text.contains(&pod.id[..13]) && text.contains("no orphan"), "{text}");
    node.finish();
}

#[test]
fn an_orphan_is_named_and_fails_the_check() {
    let node = Node::start();
    let hierarchy = [Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup")]
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists())
        .unwrap();
    let orphan: PathBuf = hierarchy.join(&node.cgroup()[1..]).join("orphan");
    std::fs::create_dir_all(&orphan).unwrap();
    let output = node.output(&["check"]);
    std::fs::remove_dir(&orphan).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.contains("orphan ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.starts_with("cgroup") && line.contains("ORPHAN"), "{text}");
    node.finish();
}
