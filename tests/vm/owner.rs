//! Whose a container's cgroup is (OCI runtime specification 1.3, "Cgroup ownership").

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::container::Container;

/// Makes a group inside its own, and goes there.
const DELEGATED: &str = "mkdir /sys/fs/cgroup/inner && echo 0 >/sys/fs/cgroup/inner/cgroup.procs && cat /proc/self/cgroup; \
                         echo max >/sys/fs/cgroup/memory.max || echo limited";

fn mount(option: &str) -> Value {
    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [option]})
}

/// One with users of its own and a cgroup mount.
fn container(option: &str) -> Container {
    let mut container = Container::new(DELEGATED);
    let config = &mut container.config;
    let sysfs = json!({"destination": "/sys", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    config["mounts"].as_array_mut().unwrap().extend([sysfs, mount(option)]);
    for kind in ["user", "cgroup"] {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": kind}));
    }
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    container.limit("memory", json!({"limit": 64 << 20}))
}

/// Owner and group of the cgroup and of one of its files.
fn owners(container: &Container, file: &str) -> [(u32, u32); 2] {
    [container.group(), container.group().join(file)].map(|path| {
        let stat = fs::metadata(path).unwrap();
        (stat.uid(), stat.gid())
    })
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_a_container_with_users_of_its_own_has_its_group() {
    let container = container("rw");
    container.create();
    let delegate = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap();
    assert!(delegate.lines().count() >= 3, "{delegate}");
    for file in delegate.lines().filter(|file| container.group().join(file).exists()) {
        assert_eq!(owners(&container, file), [(100_000, 0); 2], "{file}");
    }
    assert_eq!(owners(&container, "memory.max")[1], (0, 0));
    container.oci("start", &[]);
    container.wait_stopped();
    let said = container.output();
    assert!(said.starts_with("0::/inner\n") && said.ends_with("limited\n"), "{said}");
    assert_eq!(container.file("memory.max"), (64 << 20).to_string());
    container.oci("delete", &[]);
    assert!(!container.group().exists());
}

/// It goes to the one that runs the program, not to the namespace's root.
#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_the_group_is_the_programs_users() {
    let container = container("rw")
        .set("/process/user", json!({"uid": 7, "gid": 8}))
        .set("/process/capabilities", json!({}));
    container.create();
    assert_eq!(owners(&container, "cgroup.procs"), [(100_007, 0); 2]);
    container.oci("start", &[]);
    container.wait_stopped();
    assert!(container.output().starts_with("0::/inner\n"), "{}", container.output());
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_a_group_that_is_only_looked_at_stays_roots() {
    let looked_at = container("ro");
    let mut shared = container("rw");
    shared.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "cgroup");
    for container in [looked_at, shared] {
        container.start();
        container.wait_stopped();
        assert_eq!(owners(&container, "cgroup.procs"), [(0, 0); 2]);
        assert!(!container.output().contains("/inner\n"), "{}", container.output());
    }
}
