//! Archives that go out, and what others make of them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{BUSYBOX, Node, succeed};

fn id(node: &Node, name: &str) -> String {
    let text = succeed(&node.output(&["image", "inspect", "--output", "json", name]));
    let image: serde_json::Value = serde_json::from_str(&text).unwrap();
    image["id"].as_str().unwrap().to_owned()
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}: install the package of this name"))
}

#[test]
fn an_archive_is_what_other_tools_read() {
    let node = Node::start();
    node.load_busybox();
    let path = node.path("saved.tar");
    let file = path.to_str().unwrap();
    let said = succeed(&node.output(&["image", "save", BUSYBOX, "-o", file]));
    assert!(said.starts_with(&format!("saved to {file}, ")), "{said}");
    let here = id(&node, BUSYBOX);
    for kind in ["oci-archive", "docker-archive"] {
        let copy = node.path(kind);
        let to = format!("dir:{}", copy.display());
        let from = format!("{kind}:{file}");
        succeed(&run("skopeo", &["--insecure-policy", "copy", "-q", &from, &to]));
        let config = copy.join(here.strip_prefix("sha256:").unwrap());
        assert!(config.is_file(), "{kind}: the image has another id");
    }
    let config = succeed(&run("skopeo", &["inspect", "--config", &format!("oci-archive:{file}")]));
    assert!(config.contains("\"Cmd\""), "{config}");
    podman_loads(&node, &path, &here);

    let second = Node::start();
    let loaded = succeed(&second.output(&["image", "load", "-i", file]));
    assert!(loaded.starts_with(BUSYBOX), "{loaded}");
    assert_eq!(id(&second, BUSYBOX), here);
    // From standard input, and from a directory.
    let input = std::fs::File::open(&path).unwrap();
    succeed(&second.vaquita(&["image", "load"]).stdin(input).output().unwrap());
    let layout = node.path("layout");
    std::fs::create_dir(&layout).unwrap();
    succeed(&run("tar", &["-xf", file, "-C", layout.to_str().unwrap()]));
    succeed(&second.output(&["image", "rm", BUSYBOX]));
    succeed(&second.output(&["image", "load", layout.to_str().unwrap()]));
    assert_eq!(id(&second, BUSYBOX), here);
    second.finish();

    let piped = node.output(&["image", "save", BUSYBOX]);
    assert!(piped.status.success() && piped.stdout == std::fs::read(&path).unwrap());
    node.finish();
}

fn podman_loads(node: &Node, archive: &Path, id: &str) {
    let (root, run_root) = (node.path("podman/root"), node.path("podman/run"));
    let podman = |args: &[&str]| {
        let place = ["--root", root.to_str().unwrap(), "--runroot", run_root.to_str().unwrap()];
        let place = [&place[..], &["--storage-driver", "vfs"]].concat();
        run("podman", &[&place[..], args].concat())
    };
    let said = succeed(&podman(&["load", "-i", archive.to_str().unwrap()]));
    assert!(said.contains(BUSYBOX), "{said}");
    let ids = succeed(&podman(&["images", "--no-trunc", "--format", "{{.ID}}"]));
    assert_eq!(ids.trim(), id);
    succeed(&podman(&["rmi", "--all", "--force"]));
}

#[test]
fn what_cannot_be_saved_leaves_no_file() {
    let node = Node::start();
    node.load_busybox();
    let path = node.path("saved.tar");
    let save = ["image", "save", BUSYBOX, "-o", path.to_str().unwrap()];
    let fails = |args: &[&str], part: &str| {
        let output = node.output(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("vaquita: ") && error.contains(part), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    fails(&["image", "save", "none", "-o", path.to_str().unwrap()], "is not in the store");
    fails(&["image", "save", BUSYBOX, "-o", "/nonexistent/x.tar"], "cannot write /nonexistent/x.tar");
    std::fs::write(node.path("root/images/layers/1/fs/etc/passwd"), "other").unwrap();
    fails(&save, "remove the image and pull it anew");
    let there: Vec<String> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("saved"))
        .collect();
    assert!(there.is_empty(), "{there:?}");
    node.finish();
}
