//! Device nodes: with modes and owners, over what is there, elsewhere than in /dev, in a user namespace.

use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use serde_json::{Value, json};
use vaquita_runtime::Kind;

use crate::harness::Bundle;

fn node(path: &std::path::Path, major: u32, minor: u32) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(major, minor)).unwrap();
}

/// A container whose /dev is the image's.
fn with_own_dev(orders: &str) -> Bundle {
    let mut bundle = Bundle::new(orders);
    for place in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle = bundle.without_mount(place);
    }
    std::fs::create_dir(bundle.path("dev")).unwrap();
    bundle
}

#[test]
fn kinds_modes_and_owners() {
    let outcome = Bundle::new(
        "stat /dev/c\nstat /dev/b\nstat /dev/u\nstat /dev/p\nstat /deep/er/node\nstat /dev/zero\nwrite /dev/null\nstat /dev/null",
    )
    .set(
        "/linux/devices",
        json!([
            {"path": "/dev/c", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/b", "type": "b", "major": 7, "minor": 4000, "fileMode": 0o60660},
            {"path": "/dev/u", "type": "u", "major": 4, "minor": 64, "gid": 5},
            {"path": "/dev/p", "type": "p", "fileMode": 0o622, "uid": 1},
            {"path": "/deep/er/node", "type": "c", "major": 1, "minor": 9},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 3},
        ]),
    )
    .run();
    assert_eq!(outcome.of("stat /dev/c"), "char 640 7:8 10:229");
    assert_eq!(outcome.of("stat /dev/b"), "block 660 0:0 7:4000");
    assert_eq!(outcome.of("stat /dev/u"), "char 666 0:5 4:64");
    assert_eq!(outcome.of("stat /dev/p"), "fifo 622 1:0 0:0");
    assert_eq!(outcome.of("stat /deep/er/node"), "char 666 0:0 1:9");
    assert_eq!(outcome.of("stat /dev/zero"), "char 666 0:0 1:5");
    assert_eq!(outcome.of("stat /dev/null"), "char 600 3:0 1:3");
}

/// A node of the image keeps its owner and mode, unless others were asked for.
#[test]
fn over_what_exists() {
    let bundle = with_own_dev("stat /dev/null\nstat /dev/zero\nstat /dev/p");
    node(&bundle.path("dev/null"), 1, 3);
    node(&bundle.path("dev/zero"), 1, 5);
    mknodat(CWD, bundle.path("dev/p"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let outcome = bundle
        .set(
            "/linux/devices",
            json!([
                {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o646, "uid": 4, "gid": 6},
                {"path": "/dev/p", "type": "p", "gid": 2},
            ]),
        )
        .run();
    assert_eq!(outcome.of("stat /dev/null"), "char 600 0:0 1:3");
    assert_eq!(outcome.of("stat /dev/zero"), "char 646 4:6 1:5");
    assert_eq!(outcome.of("stat /dev/p"), "fifo 600 0:2 0:0");

    let mut other = with_own_dev("");
    node(&other.path("dev/null"), 1, 5);
    let error = other.create().err().unwrap();
    assert_eq!(error.to_string(), "making the device \"/dev/null\" (1:3): mknodat: EEXIST (File exists)");
}

/// T15 for nodes that have a mode to be set: what the image has at that place is a link to a node of the host.
#[test]
fn t15_a_link_to_a_node_is_no_node() {
    let host = vaquita_testing::temp_dir();
    let outside = host.path().join("node");
    node(&outside, 1, 5);
    let mut bundle = with_own_dev("").set(
        "/linux/devices",
        json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 5}]),
    );
    std::os::unix::fs::symlink(&outside, bundle.path("dev/zero")).unwrap();
    let error = bundle.create().err().unwrap();
    assert_eq!(error.errno(), Some(Errno::EXIST), "{error}");
    let stat = std::fs::metadata(&outside).unwrap();
    assert_eq!((stat.mode() & 0o777, stat.uid()), (0o600, 0));
}

fn in_user_namespace(orders: &str, devices: Value) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let mut bundle = Bundle::new(orders)
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set("/linux/devices", devices);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    rustix::fs::chown(bundle.dir.path(), Some(rustix::fs::Uid::from_raw(100_000)), None).unwrap();
    bundle
}

#[test]
fn a_user_namespace_gets_the_hosts_nodes() {
    let stat = std::fs::metadata("/dev/full").unwrap();
    let outcome = in_user_namespace(
        "stat /dev/mine\nwrite /dev/mine\nstat /dev/p\nwrite /dev/null",
        json!([
            {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": stat.mode(), "uid": stat.uid(), "gid": stat.gid()},
            {"path": "/dev/p", "type": "p", "fileMode": 0o600, "uid": 9},
        ]),
    )
    .run();
    assert_eq!(outcome.of("stat /dev/p"), "fifo 600 9:0 0:0");
    assert_eq!(outcome.of("write /dev/null"), "ok");

    let error =
        in_user_namespace("", json!([{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "uid": 1}]))
            .create()
            .err()
            .unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("others cannot be given"), "{error}");
    // Nowhere on the host, neither by name nor by number.
    let error = in_user_namespace("", json!([{"path": "/dev/mine", "type": "c", "major": 240, "minor": 77}]))
        .create()
        .err()
        .unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("240:77 neither there nor at \"/dev/char/240:77\""), "{error}");
}

/// Where /dev is the host's nothing is made in it: what was asked for must be there.
#[test]
fn the_hosts_dev_stays_as_it_is() {
    let host = vaquita_testing::temp_dir();
    node(&host.path().join("mine"), 1, 5);
    std::fs::create_dir(host.path().join("pts")).unwrap();
    let with = |device: Value| {
        let mut bundle = with_own_dev("ls /dev\nstat /dev/mine\nstat /node")
            .mount(json!({"destination": "/dev", "source": host.path(), "options": ["bind"]}));
        bundle = bundle
            .set("/linux/devices", json!([device, {"path": "/node", "type": "c", "major": 1, "minor": 3}]));
        bundle
    };
    let outcome =
        with(json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600})).run();
    assert_eq!(outcome.of("ls /dev"), "mine pts");
    assert_eq!(outcome.of("stat /node"), "char 666 0:0 1:3");
    for (device, errno) in [
        (json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 7}), Errno::EXIST),
        (json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666}), Errno::EXIST),
        (json!({"path": "/dev/absent", "type": "c", "major": 1, "minor": 5}), Errno::NOENT),
    ] {
        let error = with(device.clone()).create().err().unwrap();
        assert_eq!(error.errno(), Some(errno), "{device}: {error}");
    }
    assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 2);
}
