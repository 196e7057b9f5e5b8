//! The filter for devices, which is an eBPF program here.

use std::fs;

use serde_json::{Value, json};

use crate::container::Container;

/// Makes a node of a disk that really is there, and tries to read from it.
fn disk() -> String {
    let numbers = fs::read_to_string("/sys/block/vda/dev").unwrap();
    let numbers = numbers.trim().replace(':', " ");
    format!(
        "mknod /disk b {numbers} && echo made; dd if=/disk of=/dev/null count=1 2>&1 && echo read; cat /dev/null && echo null"
    )
}

fn said(devices: Value) -> String {
    Container::new(&disk()).limit("devices", devices).run()
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_devices_that_are_allowed_open() {
    let said = said(json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "access": "rm"}]));
    assert!(said.contains("made") && said.contains("read") && said.contains("null"), "{said}");
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_devices_that_are_denied_do_not() {
    // Making a node is one access, reading it another.
    let rules = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "access": "m"}]);
    let said = said(rules);
    assert!(said.contains("made") && !said.contains("read"), "{said}");
    assert!(said.contains("Operation not permitted") && said.contains("null"), "{said}");
}

/// No list, an absent one and an empty one deny everything but the devices that every container has, and making nodes, which
/// open nothing (GHSA-g54h-m393-cpwq).
#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_t05_no_list_of_devices_denies() {
    let containers = [
        Container::new(&disk()).limit("devices", Value::Null),
        Container::new(&disk()).limit("devices", json!([])),
        Container::new(&disk()).set("/linux/resources", json!({})),
        Container::new(&disk()).set("/linux/resources", Value::Null),
    ];
    for container in containers {
        let said = container.run();
        assert!(!said.contains("read"), "{}: {said}", container.config);
        assert!(said.contains("Operation not permitted") && said.contains("null"), "{said}");
    }
    // The same with a node that was there already.
    let container = Container::new("dd if=/disk of=/dev/null count=1 2>&1").limit("devices", Value::Null);
    make_disk(&container);
    let said = container.run();
    assert!(said.contains("Operation not permitted"), "{said}");
}

/// The node of a disk that really is there, made before the container is.
pub(crate) fn make_disk(container: &Container) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let device = fs::read_to_string("/sys/block/vda/dev").unwrap();
    let (major, minor) = device.trim().split_once(':').unwrap();
    let device = makedev(major.parse().unwrap(), minor.parse().unwrap());
    let node = container.bundle().join("rootfs/disk");
    mknodat(CWD, &node, FileType::BlockDevice, Mode::from_raw_mode(0o666), device).unwrap();
}
