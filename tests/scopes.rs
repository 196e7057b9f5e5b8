//! Pods whose cgroups systemd makes: slices and scopes. `hack/vm systemd system/system:scopes` runs these.

use std::path::{Path, PathBuf};
use std::process::Command;

use tonic::Code;
use vaquita_proto::cri;

use crate::support::{Node, Pod, eventually, succeed, with_busybox};

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Property of a unit, as systemd shows it.
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, "--", unit])
}

fn file(group: &Path, name: &str) -> String {
    std::fs::read_to_string(group.join(name)).unwrap().trim().to_owned()
}

fn scope(id: &str) -> String {
    format!("cri-vaquita-{id}.scope")
}

/// Until systemd has forgotten all units of that name.
fn assert_forgotten(pattern: &str) {
    eventually("the units to go", || {
        systemctl(&["list-units", "--all", "--plain", "--no-legend", pattern]).is_empty().then_some(())
    });
}

/// A node whose daemon has systemd make cgroups.
fn node(options: &[&str]) -> Node {
    let node = Node::without_daemon();
    start(&node, options);
    node.load_busybox();
    node
}

fn start(node: &Node, options: &[&str]) {
    let all = [&["daemon", "--cgroup-driver", "auto", "--log-level", "info,vaquita=debug"], options].concat();
    node.start_daemon_as(&mut node.vaquita(&all));
}

/// The slice of a pod as kubelet makes it, in slices of the test's own.
struct Slices {
    outer: String,
    pod: String,
}

impl Slices {
    fn new() -> Self {
        let outer = vaquita_testing::unique("vqkube").replace('-', "_");
        let pod = format!("{outer}-burstable-poduid_1.slice");
        succeed(&Command::new("systemctl").args(["start", &pod]).output().unwrap());
        Self { outer, pod }
    }

    /// As kubelet names it to the runtime.
    fn parent(&self) -> String {
        let outer = &self.outer;
        format!("/{outer}.slice/{outer}-burstable.slice/{}", self.pod)
    }

    fn group(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.parent()[1..])
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        systemctl(&["stop", &format!("{}.slice", self.outer)]);
    }
}

fn with_parent(node: &Node, parent: &str) -> cri::PodSandboxConfig {
    let mut config = Pod::config(node, "sliced");
    config.linux.as_mut().unwrap().cgroup_parent = parent.to_owned();
    config
}

fn limits(memory: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: memory,
        unified: [("pids.max".to_owned(), "33".to_owned())].into(),
        ..Default::default()
    }
}

#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_a_pod_of_kubelet_is_scopes_in_its_slice() {
    let node = node(&[]);
    let driver = node.wait(node.cri().runtime_config(cri::RuntimeConfigRequest {})).unwrap().into_inner();
    assert_eq!(driver.linux.unwrap().cgroup_driver(), cri::CgroupDriver::Systemd);
    let slices = Slices::new();
    let pod = Pod::run_config(&node, with_parent(&node, &slices.parent()));
    let mut config = Pod::container_config("main", &["sleep", "1000"]);
    config.linux.as_mut().unwrap().resources = Some(limits(64 << 20));
    let container = pod.start_config(config);

    let unit = scope(&container.id);
    let group = slices.group().join(&unit);
    for (name, wanted) in [
        ("ActiveState", "active"),
        ("ControlGroup", &*format!("{}/{unit}", slices.parent())),
        ("Slice", &slices.pod),
        ("Delegate", "yes"),
        ("MemoryMax", "67108864"),
        ("TasksMax", "33"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("CPUWeight", &file(&group, "cpu.weight")),
    ] {
        assert_eq!(property(&unit, name), wanted, "{name}");
    }
    let files = || ["memory.max", "cpu.max", "pids.max"].map(|name| file(&group, name));
    assert_eq!(files(), ["67108864", "50000 100000", "33"]);
    // Only the first process: what held the scope open is gone. pause has a scope of its own.
    assert_eq!(file(&group, "cgroup.procs").lines().count(), 1);
    let pause = slices.group().join(scope(&pod.id));
    assert_eq!(file(&pause, "cgroup.procs").lines().count(), 1);
    // The supervisor is with the daemon, in no scope that somebody may stop.
    for pid in node.pids() {
        let place = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(!place.contains(&slices.outer), "{place}");
    }

    let request = cri::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(limits(128 << 20)),
        ..Default::default()
    };
    node.wait(node.cri().update_container_resources(request)).unwrap();
    systemctl(&["daemon-reload"]);
    assert_eq!(files(), ["134217728", "50000 100000", "33"]);
    assert_eq!(property(&unit, "MemoryMax"), "134217728");
    // Nor is the filter for devices taken away: /dev/null is allowed, /dev/kmsg is not.
    let script = "echo x > /dev/null && busybox mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg";
    let (code, _, said) = container.exec(&["sh", "-c", script]);
    assert!(code != 0 && said.contains("Operation not permitted"), "{code} {said}");

    let request = cri::ContainerStatsRequest { container_id: container.id.clone() };
    let stats = node.wait(node.cri().container_stats(request)).unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);

    node.kill_daemon();
    start(&node, &[]);
    assert!(container.is_running());
    assert_eq!(container.exec(&["echo", "there"]).1, "there\n");
    let listed = node.check();
    for id in [&container.id, &pod.id] {
        let is_scope = |resource: &serde_json::Value| {
            resource["kind"] == "cgroup" && resource["name"].as_str().unwrap().ends_with(&scope(id))
        };
        assert!(listed.iter().any(|resource| is_scope(resource) && resource["owner"] == id.as_str()));
    }
    // One that somebody stops by systemd has ended.
    systemctl(&["kill", "--signal=KILL", &unit]);
    assert_eq!(container.exited().exit_code, 137);
    container.remove();
    assert_forgotten(&unit);
    pod.remove();
    assert_forgotten("cri-vaquita-*");
    // The slice is kubelet's.
    assert_eq!(property(&slices.pod, "ActiveState"), "active");
    assert_eq!(
        std::fs::read_dir(slices.group())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count(),
        0
    );
    drop(slices);
    node.finish();
}

/// Also where systemd has removed the scope before anybody could look at its counter.
#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_want_of_memory_is_told() {
    let node = node(&[]);
    let pod = Pod::run(&node, "hungry");
    let start = |name: &str, script: &str| {
        let mut config = Pod::container_config(name, &["sh", "-c", script]);
        config.linux.as_mut().unwrap().resources = Some(limits(32 << 20));
        pod.start_config(config)
    };
    let eat = "dd if=/dev/zero of=/dev/null bs=256M count=1";
    let told = |status: cri::ContainerStatus| (status.exit_code, status.reason);
    assert_eq!(told(start("first", &format!("exec {eat}")).exited()), (137, "OOMKilled".to_owned()));
    let late = start("late", &format!("while ! [ -e /tmp/go ]; do sleep 0.1; done; exec {eat}"));
    let killed = start("killed", "exec sleep 1000");
    let shim = *node.pids().last().unwrap();
    let signal = |name: &str| {
        succeed(&Command::new("kill").args([&format!("-{name}"), &shim.to_string()]).output().unwrap());
    };
    let unseen = |container: &str| {
        let scope = scope(container);
        eventually("systemd to remove it", || property(&scope, "ControlGroup").is_empty().then_some(()));
        signal("CONT");
    };
    assert_eq!(late.exec(&["touch", "/tmp/go"]).0, 0);
    signal("STOP");
    unseen(&late.id);
    assert_eq!(told(late.exited()), (137, "OOMKilled".to_owned()));
    signal("STOP");
    systemctl(&["kill", "--signal=KILL", &scope(&killed.id)]);
    unseen(&killed.id);
    assert_eq!(told(killed.exited()), (137, "Error".to_owned()));
    node.finish();
}

/// Also of pods that were made with the other driver, before the daemon was started anew.
#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_pods_without_a_parent_are_in_a_slice_of_ours() {
    let node = node(&["--runtime", "runc=/usr/sbin/runc"]);
    let outer = format!("{}.slice", node.cgroup()[1..].replace('-', "\\x2d"));
    let pod = Pod::run(&node, "ours");
    let container = pod.start("main", &["sleep", "1000"]);
    let stem = outer.strip_suffix(".slice").unwrap();
    let slice = format!("{stem}-{}.slice", pod.id);
    assert_eq!(
        property(&scope(&container.id), "ControlGroup"),
        format!("/{outer}/{slice}/{}", scope(&container.id))
    );
    // Another runtime has systemd make the scope, too.
    let config = Pod::config(&node, "runc");
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "runc".into() };
    let other = node.wait(node.cri().run_pod_sandbox(request)).unwrap().into_inner().pod_sandbox_id;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: other.clone(),
        config: Some(Pod::container_config("main", &["sleep", "1000"])),
        sandbox_config: Some(config),
    };
    let by_runc = node.wait(node.cri().create_container(request)).unwrap().into_inner().container_id;
    assert_eq!(property(&scope(&by_runc), "Slice"), format!("{stem}-{other}.slice"));

    // A parent for the other driver names the way out.
    let run = |config| cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let refused = |parent: &str| {
        let error = node.wait(node.cri().run_pod_sandbox(run(with_parent(&node, parent)))).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("--cgroup-driver"), "{error}");
    };
    refused("/kubepods/burstable/poduid-1");
    node.stop_daemon();
    node.start_daemon();
    refused("/kubepods.slice/kubepods-poduid_1.slice");
    assert!(container.is_running());
    node.check();
    let cgroupfs = Pod::run(&node, "cgroupfs");
    node.stop_daemon();
    start(&node, &["--runtime", "runc=/usr/sbin/runc"]);
    for id in [&pod.id, &other] {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
        node.wait(node.cri().remove_pod_sandbox(request)).unwrap();
    }
    assert_forgotten(&slice.replace('\\', "\\\\"));
    cgroupfs.remove();
    node.finish();
    assert_forgotten("cri-vaquita-*");
    assert_forgotten(&format!("{}*", stem.replace('\\', "\\\\")));
}

#[test]
#[ignore = "needs systemd: hack/vm"]
fn systemd_a_manifest_runs_below_slices_with_limits() {
    let node = node(&[]);
    let manifest = node.write(
        "job.yaml",
        &with_busybox(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: job}\nspec:\n  restartPolicy: Never\n  containers:\n  \
             - name: main\n    image: BUSYBOX\n    imagePullPolicy: Never\n    command: [sh, -c, 'cat /proc/self/cgroup']\n    \
             resources: {limits: {memory: 64Mi, cpu: 200m}}\n",
        ),
    );
    let said = succeed(&node.output(&["run", &manifest]));
    assert!(said.contains("0::/"), "{said}");
    node.finish();
}
