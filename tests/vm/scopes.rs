//! Cgroups that systemd makes.

use serde_json::json;

use crate::container::{Container, eventually, host};
use crate::devices::make_disk;

/// Property of a unit, as systemd shows it.
fn property(unit: &str, name: &str) -> String {
    host("systemctl", &["show", "--value", "--property", name, unit])
}

fn scoped(script: &str) -> (Container, String) {
    let mut container = Container::new(script).option("--systemd-cgroup");
    let unit = format!("vq-{}.scope", container.id);
    container.cgroup = format!("/system.slice/{unit}");
    let path = format!("system.slice:vq:{}", container.id);
    (container.set("/linux/cgroupsPath", json!(path)), unit)
}

#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_scopes_come_and_go_with_their_containers() {
    let (container, unit) = scoped("cat /proc/self/cgroup; while :; do sleep 1; done");
    let container = container
        .limit("memory", json!({"limit": 64 << 20, "swap": 64 << 20}))
        .limit("pids", json!({"limit": 11}))
        .limit("cpu", json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "1"}));
    container.start();
    assert_eq!(property(&unit, "ActiveState"), "active");
    assert_eq!(property(&unit, "ControlGroup"), container.cgroup);
    assert_eq!(property(&unit, "MemoryMax"), (64 << 20).to_string());
    assert_eq!(property(&unit, "MemorySwapMax"), "0");
    assert_eq!(property(&unit, "TasksMax"), "11");
    assert_eq!(property(&unit, "CPUWeight"), container.file("cpu.weight"));
    assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(property(&unit, "AllowedCPUs"), "1");
    assert_eq!(property(&unit, "Delegate"), "yes");
    // systemd applies its own idea of the group when it reloads: it must be the same.
    host("systemctl", &["daemon-reload"]);
    let files = ["memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpuset.cpus"];
    assert_eq!(files.map(|name| container.file(name)), ["67108864", "0", "11", "50000 100000", "1"]);
    eventually("the first line", || container.output().contains('\n').then_some(()));
    assert_eq!(container.output(), format!("0::{}\n", container.cgroup));
    assert!(container.file("cgroup.procs").lines().any(|pid| pid == container.pid()));
    let status = host("systemctl", &["status", "--no-pager", &unit]);
    assert!(status.contains("active (running)") && status.contains(&container.pid()), "{status}");
    container.oci("kill", &["--all"]);
    container.oci("delete", &["--force"]);
    eventually("the unit to go", || (property(&unit, "LoadState") == "not-found").then_some(()));
    assert!(!container.group().exists());
}

#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_stopping_a_scope_ends_its_container() {
    let (container, unit) = scoped("while :; do sleep 1; done");
    container.start();
    host("systemctl", &["kill", "--signal=KILL", &unit]);
    container.wait_stopped();
    container.oci("delete", &[]);
    eventually("the unit to go", || (property(&unit, "LoadState") == "not-found").then_some(()));
}

/// The filter for devices is systemd's own program besides ours; a reload puts it in place again.
#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_devices_stay_denied_after_a_reload() {
    let script = "while ! [ -e /go ]; do sleep 0.1; done; dd if=/disk of=/dev/null count=1 2>&1; cat /dev/null && echo null";
    let (container, _) = scoped(script);
    make_disk(&container);
    container.start();
    host("systemctl", &["daemon-reload"]);
    std::fs::write(container.bundle().join("rootfs/go"), "").unwrap();
    container.wait_stopped();
    let said = container.output();
    assert!(said.contains("Operation not permitted") && said.contains("null"), "{said}");
}

#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_a_container_that_cannot_be_leaves_no_unit() {
    let (container, unit) = scoped("true");
    let container = container.set("/process/args", json!(["/nothing"])).set("/root/path", json!("nowhere"));
    container.refused();
    eventually("the unit to go", || (property(&unit, "LoadState") == "not-found").then_some(()));
}
