//! Wishes of plugins that the kernel fulfils, one container for each.

use std::collections::HashMap;
use std::path::Path;

use prost::Message;
use vaquita_nri::api;
use vaquita_proto::cri;

use super::plugin::Plugin;
use super::{node_in, socket};
use crate::support::{Node, container, pod};

/// A plugin that wants this of the containers of these names.
fn wishing(node: &Node, wishes: HashMap<&'static str, api::ContainerAdjustment>) -> Plugin {
    let script = move |method: &str, payload: &[u8]| {
        if method != "CreateContainer" {
            return Ok(Vec::new());
        }
        let request = api::CreateContainerRequest::decode(payload).unwrap();
        let adjust = wishes.get(&*request.container.unwrap().name).cloned();
        Ok(api::CreateContainerResponse { adjust, ..Default::default() }.encode_to_vec())
    };
    Plugin::join(socket(node), "10", Box::new(script))
}

fn linux(change: impl FnOnce(&mut api::LinuxContainerAdjustment)) -> api::ContainerAdjustment {
    let mut linux = api::LinuxContainerAdjustment::default();
    change(&mut linux);
    api::ContainerAdjustment { linux: Some(linux), ..Default::default() }
}

fn namespace(kind: &str, path: &str) -> api::LinuxNamespace {
    api::LinuxNamespace { r#type: kind.into(), path: path.into() }
}

/// A file of a container's first process, as the host sees it.
async fn of_process(node: &Node, container: &str, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", node.pid(container).await)).unwrap()
}

async fn namespace_of(node: &Node, container: &str, kind: &str) -> String {
    let link = format!("/proc/{}/ns/{kind}", node.pid(container).await);
    std::fs::read_link(link).unwrap().to_str().unwrap().to_owned()
}

fn hook(path: &Path) -> api::Hook {
    let args = vec!["touch".into(), path.to_str().unwrap().to_owned()];
    api::Hook { path: "/usr/bin/touch".into(), args, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_as_plugins_want_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_in(|_| {}).await;
    let (made, gone) = (dir.path().join("made"), dir.path().join("gone"));
    let hooks =
        api::Hooks { create_runtime: vec![hook(&made)], poststop: vec![hook(&gone)], ..Default::default() };
    let wishes = [
        ("hooked", api::ContainerAdjustment { hooks: Some(hooks), ..Default::default() }),
        (
            "filtered",
            linux(|linux| {
                let default_action = "SCMP_ACT_ALLOW".into();
                linux.seccomp_policy = Some(api::LinuxSeccomp { default_action, ..Default::default() });
            }),
        ),
        (
            "batch",
            linux(|linux| {
                let policy = api::LinuxSchedulerPolicy::SchedBatch as i32;
                linux.scheduler = Some(api::LinuxScheduler { policy, nice: 7, ..Default::default() });
                let class = api::IoPrioClass::IoprioClassIdle as i32;
                linux.io_priority = Some(api::LinuxIoPriority { class, priority: 0 });
                linux.oom_score_adj = Some(api::OptionalInt { value: 777 });
            }),
        ),
        (
            "bound",
            linux(|linux| {
                let mode = api::MpolMode::MpolBind as i32;
                linux.memory_policy =
                    Some(api::LinuxMemoryPolicy { mode, nodes: "0".into(), flags: Vec::new() });
            }),
        ),
        (
            "few",
            linux(|linux| {
                let pids = Some(api::LinuxPids { limit: 23 });
                linux.resources = Some(api::LinuxResources { pids, ..Default::default() });
            }),
        ),
        (
            "other",
            api::ContainerAdjustment {
                args: vec!["/bin/vaquita".into(), "exit".into(), "9".into()],
                ..Default::default()
            },
        ),
    ];
    let plugin = wishing(&node, wishes.into());
    let sandbox = node.run("wishes").await;

    let hooked = node.create(&sandbox, "hooked", &["sleep"]).await;
    assert!(made.exists() && !gone.exists());
    let remove = cri::RemoveContainerRequest { container_id: hooked };
    node.runtime().remove_container(remove).await.unwrap();
    assert!(gone.exists());

    let filtered = node.launch(&sandbox, "filtered", &["sleep"]).await;
    assert!(of_process(&node, &filtered, "status").await.contains("Seccomp:\t2\n"));

    let batch = node.launch(&sandbox, "batch", &["sleep"]).await;
    let stat = of_process(&node, &batch, "stat").await;
    // proc_pid_stat(5): nice is field 19, policy 41; after the name the third comes first.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("7", "3"), "{stat}");
    assert_eq!(of_process(&node, &batch, "oom_score_adj").await, "777\n");

    let bound = node.launch(&sandbox, "bound", &["sleep"]).await;
    assert!(of_process(&node, &bound, "numa_maps").await.contains("bind:0"));

    let few = node.launch(&sandbox, "few", &["sleep"]).await;
    let below = node.config.cgroup_root.strip_prefix("/").unwrap().join(&sandbox).join(&few);
    let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let limit =
        roots.iter().find_map(|root| std::fs::read_to_string(root.join(&below).join("pids.max")).ok());
    assert_eq!(limit.as_deref(), Some("23\n"));

    let other = node.launch(&sandbox, "other", &["sleep"]).await;
    assert_eq!(node.exited(&other).await.exit_code, 9);
    drop(plugin);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_sysctls_and_devices() {
    let cdi = tempfile::tempdir().unwrap();
    let file = "cdiVersion: 0.7.0\nkind: vendor.com/null\ncontainerEdits: {additionalGids: [4242]}\n\
                devices: [{name: zero, containerEdits: {env: [CDI=zero]}}]\n";
    std::fs::write(cdi.path().join("vendor.yaml"), file).unwrap();
    let node = node_in(|config| config.cdi_spec_dirs = vec![cdi.path().to_owned()]).await;
    let elsewhere = node.run("elsewhere").await;
    let neighbour = node.launch(&elsewhere, "neighbour", &["sleep"]).await;
    let network = format!("/proc/{}/ns/net", node.pid(&neighbour).await);
    let device = api::LinuxDevice {
        path: "/dev/vendor".into(),
        r#type: "c".into(),
        major: 1,
        minor: 5,
        file_mode: Some(api::OptionalFileMode { value: 0o444 }),
        ..Default::default()
    };
    let cdi_devices = ["vendor.com/null=zero"].map(|name| api::CdiDevice { name: name.into() });
    let wishes = [
        (
            "moved",
            linux(|linux| linux.namespaces = vec![namespace("network", &network), namespace("ipc", "")]),
        ),
        (
            "tuned",
            linux(|linux| {
                linux.namespaces = vec![namespace("ipc", "")];
                linux.sysctl = [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into();
            }),
        ),
        ("untunable", linux(|linux| linux.sysctl = [("vm.swappiness".to_owned(), "1".to_owned())].into())),
        (
            "vendor",
            api::ContainerAdjustment {
                cdi_devices: cdi_devices.into(),
                ..linux(|linux| linux.devices = vec![device])
            },
        ),
        (
            "unknown",
            api::ContainerAdjustment {
                cdi_devices: vec![api::CdiDevice { name: "vendor.com/null=none".into() }],
                ..Default::default()
            },
        ),
        ("missing", linux(|linux| linux.net_devices = [("nrinone".to_owned(), Default::default())].into())),
    ];
    let plugin = wishing(&node, wishes.into());
    let sandbox = node.run("wishes").await;
    let plain = node.launch(&sandbox, "plain", &["sleep"]).await;

    let moved = node.launch(&sandbox, "moved", &["sleep"]).await;
    let (there, here) =
        (namespace_of(&node, &neighbour, "net").await, namespace_of(&node, &plain, "net").await);
    assert_eq!(namespace_of(&node, &moved, "net").await, there);
    assert_ne!(there, here);
    assert_ne!(namespace_of(&node, &moved, "ipc").await, namespace_of(&node, &plain, "ipc").await);
    assert_eq!(namespace_of(&node, &moved, "uts").await, namespace_of(&node, &plain, "uts").await);

    let tuned = node.launch(&sandbox, "tuned", &["sleep"]).await;
    let read = async |id: &str| node.inside(id, &["read", "/proc/sys/kernel/shm_rmid_forced"]).await.1;
    assert_eq!((read(&tuned).await.as_str(), read(&plain).await.as_str()), ("1\n", "0\n"));

    let vendor = node.launch(&sandbox, "vendor", &["sleep"]).await;
    assert!(node.inside(&vendor, &["env"]).await.1.contains("CDI=zero\n"));
    let status = node.inside(&vendor, &["read", "/proc/self/status"]).await.1;
    assert!(status.lines().any(|line| line.starts_with("Groups:") && line.contains("4242")), "{status}");
    let user = node.status(&vendor).await.user.unwrap().linux.unwrap();
    assert!(user.supplemental_groups.contains(&4242), "{user:?}");
    assert!(node.inside(&vendor, &["list", "/dev"]).await.1.contains("vendor"));

    for (name, why) in [
        ("untunable", "vm.swappiness"),
        ("unknown", "CDI_devices: \"vendor.com/null=none\""),
        ("missing", "nrinone"),
    ] {
        let error = node.create_as(&sandbox, container(name, &["sleep"])).await.unwrap_err();
        assert!(error.message().contains(why), "{error}");
        node.check();
    }
    drop(plugin);
    node.finish().await;
}

/// Another runtime gets the same specification, but for what it may leave out and not say.
#[tokio::test(flavor = "multi_thread")]
async fn pods_of_another_runtime() {
    let runc = Path::new("/usr/sbin/runc");
    let node = node_in(|config| drop(config.runtimes.insert("runc".into(), runc.to_owned()))).await;
    let given = |key: &str, value: &str| api::KeyValue { key: key.into(), value: value.into() };
    let wishes = [
        (
            "given",
            api::ContainerAdjustment {
                env: vec![given("FROM", "a plugin")],
                rlimits: vec![api::PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 77, soft: 66 }],
                ..Default::default()
            },
        ),
        (
            "batch",
            linux(|linux| {
                let policy = api::LinuxSchedulerPolicy::SchedBatch as i32;
                linux.scheduler = Some(api::LinuxScheduler { policy, ..Default::default() });
            }),
        ),
    ];
    let plugin = wishing(&node, wishes.into());
    let request = cri::RunPodSandboxRequest { config: Some(pod("runc")), runtime_handler: "runc".into() };
    let sandbox = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let id = node.launch(&sandbox, "given", &["sleep"]).await;
    assert!(node.inside(&id, &["env"]).await.1.contains("FROM=a plugin\n"));
    assert!(
        of_process(&node, &id, "limits")
            .await
            .lines()
            .any(|line| { line.starts_with("Max open files") && line.contains("66") && line.contains("77") })
    );
    let error = node.create_as(&sandbox, container("batch", &["sleep"])).await.unwrap_err();
    assert!(error.message().contains("another runtime handler"), "{error}");
    plugin.is_told(&sandbox, "RunPodSandbox");
    drop(plugin);
    node.finish().await;
}
