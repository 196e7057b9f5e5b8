//! Plugins of the Node Resource Interface: what they are told, and what comes of what they want.

mod churn;
mod plugin;
mod wishes;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use prost::Message;
use vaquita_cri::{Config, NriConfig};
use vaquita_nri::api;
use vaquita_proto::cri;

use crate::support::{Node, container, pod};

use plugin::Plugin;

/// A node for plugins, with its image.
async fn node() -> Node {
    node_in(|_| {}).await
}

/// The same, with other settings.
async fn node_in(change: impl FnOnce(&mut Config)) -> Node {
    let mut node = Node::without_server();
    change(&mut node.config);
    node.config.nri = Some(NriConfig {
        socket: node.config.state.join("nri").join("nri.sock"),
        plugin_dir: None,
        plugin_config_dir: None,
        registration_timeout: Duration::from_secs(60),
        request_timeout: Duration::from_secs(60),
    });
    node.start().await;
    node.pull().await;
    node
}

fn socket(node: &Node) -> &Path {
    &node.config.nri.as_ref().unwrap().socket
}

fn methods(plugin: &Plugin, ids: &[&str]) -> Vec<String> {
    let all = plugin.told();
    all.into_iter().filter(|event| ids.contains(&&*event.id)).map(|event| event.method).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_told_once_and_in_order() {
    let node = node().await;
    let plugin = Plugin::agreeing(socket(&node));
    let sandbox = node.run("told").await;
    let ended = node.launch(&sandbox, "ended", &["exit", "3"]).await;
    // By itself, before anybody asks for anything.
    plugin.is_told(&ended, "StopContainer");
    let running = node.launch(&sandbox, "running", &["sleep"]).await;
    let created = node.create(&sandbox, "created", &["sleep"]).await;
    for _ in 0..2 {
        let stop = cri::StopContainerRequest { container_id: running.clone(), timeout: 0 };
        node.runtime().stop_container(stop).await.unwrap();
        let remove = cri::RemoveContainerRequest { container_id: ended.clone() };
        node.runtime().remove_container(remove).await.unwrap();
    }
    for _ in 0..2 {
        node.stop_pod(&sandbox).await;
    }
    for _ in 0..2 {
        node.remove_pod(&sandbox).await;
    }
    let container =
        |stages: &[&str]| stages.iter().map(|stage| format!("{stage}Container")).collect::<Vec<_>>();
    assert_eq!(
        plugin.told_of(&ended),
        container(&["Create", "PostCreate", "Start", "PostStart", "Stop", "Remove"])
    );
    assert_eq!(plugin.told_of(&running), plugin.told_of(&ended));
    assert_eq!(plugin.told_of(&created), container(&["Create", "PostCreate", "Stop", "Remove"]));
    assert_eq!(plugin.told_of(&sandbox), ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
    let all = plugin.told();
    let place = |id: &str, method: &str| {
        all.iter().position(|event| event.id == id && event.method == method).unwrap()
    };
    for id in [&running, &created] {
        assert!(place(id, "StopContainer") < place(&sandbox, "StopPodSandbox"));
        assert!(place(id, "RemoveContainer") < place(&sandbox, "RemovePodSandbox"));
    }
    drop(plugin);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_refuses_undoes_everything() {
    let node = node().await;
    // Each is refused once.
    let mut refused = Vec::new();
    let script = move |method: &str, _: &[u8]| {
        let refusable =
            ["RunPodSandbox", "CreateContainer", "StartContainer", "UpdateContainer", "UpdatePodSandbox"];
        if refusable.contains(&method) && !refused.iter().any(|other| other == method) {
            refused.push(method.to_owned());
            return Err(format!("no {method} today"));
        }
        Ok(Vec::new())
    };
    let plugin = Plugin::join(socket(&node), "10", Box::new(script));
    let run = || async {
        let request = cri::RunPodSandboxRequest { config: Some(pod("refused")), ..Default::default() };
        node.runtime().run_pod_sandbox(request).await.map(|answer| answer.into_inner().pod_sandbox_id)
    };
    let error = run().await.unwrap_err();
    assert!(error.message().contains("no RunPodSandbox today"), "{error}");
    assert!(node.pods().await.is_empty());
    let first = plugin.told()[0].id.clone();
    assert_eq!(plugin.told_of(&first), ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
    node.check();

    let sandbox = run().await.unwrap();
    let sleep = || container("main", &["sleep"]);
    let error = node.create_as(&sandbox, sleep()).await.unwrap_err();
    assert!(error.message().contains("no CreateContainer today"), "{error}");
    let failed = plugin.told().into_iter().rev().find(|event| event.method == "CreateContainer").unwrap().id;
    assert_eq!(plugin.told_of(&failed), ["CreateContainer", "StopContainer", "RemoveContainer"]);
    node.check();

    let id = node.create_as(&sandbox, sleep()).await.unwrap();
    let error = node
        .runtime()
        .start_container(cri::StartContainerRequest { container_id: id.clone() })
        .await
        .unwrap_err();
    assert!(error.message().contains("no StartContainer today"), "{error}");
    let status = node.exited(&id).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("StartError", 128));
    assert!(status.message.contains("no StartContainer today"), "{status:?}");
    plugin.is_told(&id, "StopContainer");
    assert!(!plugin.told_of(&id).contains(&"PostStartContainer".to_owned()));

    let id = node.launch(&sandbox, "other", &["sleep"]).await;
    let update = || cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources { cpu_shares: 512, ..Default::default() }),
        ..Default::default()
    };
    let error = node.runtime().update_container_resources(update()).await.unwrap_err();
    assert!(error.message().contains("no UpdateContainer today"), "{error}");
    assert_eq!(resources(&node, &id).await.cpu_shares, 0);
    node.runtime().update_container_resources(update()).await.unwrap();
    assert_eq!(resources(&node, &id).await.cpu_shares, 512);
    let update =
        || cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id: sandbox.clone(), ..Default::default() };
    let error = node.runtime().update_pod_sandbox_resources(update()).await.unwrap_err();
    assert!(error.message().contains("no UpdatePodSandbox today"), "{error}");
    node.runtime().update_pod_sandbox_resources(update()).await.unwrap();
    plugin.is_told(&sandbox, "PostUpdatePodSandbox");
    drop(plugin);
    node.finish().await;
}

async fn resources(node: &Node, id: &str) -> cri::LinuxContainerResources {
    node.status(id).await.resources.unwrap().linux.unwrap()
}

/// The limit that the kernel has.
async fn memory_limit(node: &Node, id: &str) -> u64 {
    let request = cri::ContainerStatsRequest { container_id: id.into() };
    let stats = node.runtime().container_stats(request).await.unwrap().into_inner().stats.unwrap();
    let memory = stats.memory.unwrap();
    memory.available_bytes.unwrap().value + memory.working_set_bytes.unwrap().value
}

fn memory(bytes: i64) -> api::LinuxResources {
    let limit = Some(api::OptionalInt64 { value: bytes });
    api::LinuxResources {
        memory: Some(api::LinuxMemory { limit, ..Default::default() }),
        ..Default::default()
    }
}

fn update_of(id: &str, resources: api::LinuxResources) -> api::ContainerUpdate {
    api::ContainerUpdate {
        container_id: id.into(),
        linux: Some(Box::new(api::LinuxContainerUpdate { resources: Some(resources) })),
        ignore_failure: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_what_plugins_have_made_of_it() {
    let node = node().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "from the host").unwrap();
    let source = dir.path().to_str().unwrap().to_owned();
    let other = node.run("first").await;
    let neighbour = node.launch(&other, "neighbour", &["sleep"]).await;
    let (to, neighbour_id) = (node.config.cgroup_root.join("elsewhere"), neighbour.clone());
    let script = move |method: &str, payload: &[u8]| {
        if method != "CreateContainer" {
            return Ok(Vec::new());
        }
        let request = api::CreateContainerRequest::decode(payload).unwrap();
        let asked = request.container.unwrap();
        assert!(
            asked.env.iter().any(|entry| entry.starts_with("PATH="))
                && asked.args.contains(&"sleep".to_owned())
        );
        let linux = asked.linux.clone().unwrap();
        assert!(
            linux.namespaces.iter().any(|other| other.r#type == "network" && other.path.ends_with("/ns/net"))
        );
        if asked.name == "bad" {
            let class = Some(api::OptionalString { value: "fast".into() });
            let resources = api::LinuxResources { blockio_class: class, ..Default::default() };
            let linux = api::LinuxContainerAdjustment { resources: Some(resources), ..Default::default() };
            let adjust = api::ContainerAdjustment { linux: Some(linux), ..Default::default() };
            return Ok(
                api::CreateContainerResponse { adjust: Some(adjust), ..Default::default() }.encode_to_vec()
            );
        }
        let adjust = api::ContainerAdjustment {
            env: vec![api::KeyValue { key: "FROM".into(), value: "a plugin".into() }],
            mounts: vec![api::Mount {
                destination: "/given".into(),
                source: source.clone(),
                r#type: "bind".into(),
                options: vec!["rbind".into(), "ro".into()],
            }],
            linux: Some(api::LinuxContainerAdjustment {
                resources: Some(memory(96 << 20)),
                cgroups_path: to.to_str().unwrap().to_owned(),
                ..Default::default()
            }),
            rlimits: vec![api::PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 77, soft: 66 }],
            ..Default::default()
        };
        let update = vec![update_of(&neighbour_id, memory(32 << 20))];
        Ok(api::CreateContainerResponse { adjust: Some(adjust), update, ..Default::default() }
            .encode_to_vec())
    };
    let plugin = Plugin::join(socket(&node), "10", Box::new(script));
    let sandbox = node.run("adjusted").await;
    let error = node.create_as(&sandbox, container("bad", &["sleep"])).await.unwrap_err();
    assert!(error.message().contains("NRI plugin's adjustment: linux.resources.blockio_class"), "{error}");
    node.check();
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    assert!(node.inside(&id, &["env"]).await.1.contains("FROM=a plugin\n"));
    assert_eq!(node.inside(&id, &["read", "/given/file"]).await.1, "from the host");
    let limits = node.inside(&id, &["read", "/proc/self/limits"]).await.1;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(files.contains("66") && files.contains("77"), "{files}");
    assert_eq!(memory_limit(&node, &id).await, 96 << 20);
    assert_eq!(resources(&node, &id).await.memory_limit_in_bytes, 96 << 20);
    let layout = vaquita_cgroup::Layout::detect().unwrap();
    let elsewhere = node.config.cgroup_root.join("elsewhere");
    assert!(vaquita_cgroup::Cgroup::open(&layout, &elsewhere).unwrap().is_populated().unwrap());
    assert_eq!(memory_limit(&node, &neighbour).await, 32 << 20);
    // It is there.
    let error = node.create_as(&sandbox, container("second", &["sleep"])).await.unwrap_err();
    assert!(error.message().contains("cgroups_path"), "{error}");
    drop(plugin);
    node.finish().await;
    assert!(vaquita_cgroup::Cgroup::open(&layout, &elsewhere).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_changed_by_plugins_and_containers_stopped() {
    let node = node().await;
    let script = |method: &str, payload: &[u8]| {
        if method != "UpdateContainer" {
            return Ok(Vec::new());
        }
        let request = api::UpdateContainerRequest::decode(payload).unwrap();
        let asked = request.linux_resources.unwrap();
        assert_eq!(asked.cpu.unwrap().shares.unwrap().value, 512);
        let mut resources = memory(48 << 20);
        resources.pids = Some(api::LinuxPids { limit: 19 });
        let update = vec![update_of(&request.container.unwrap().id, resources)];
        Ok(api::UpdateContainerResponse { update, ..Default::default() }.encode_to_vec())
    };
    let plugin = Plugin::join(socket(&node), "10", Box::new(script));
    let sandbox = node.run("changed").await;
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let change = cri::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(change),
        ..Default::default()
    };
    node.runtime().update_container_resources(request).await.unwrap();
    let now = resources(&node, &id).await;
    assert_eq!((now.cpu_shares, now.memory_limit_in_bytes), (512, 48 << 20));
    assert_eq!(memory_limit(&node, &id).await, 48 << 20);
    plugin.is_told(&id, "PostUpdateContainer");

    // Of its own accord.
    let gone = "0".repeat(64);
    let bad =
        api::LinuxResources { blockio_class: Some(api::OptionalString::default()), ..Default::default() };
    let failed = plugin.update(
        vec![
            update_of(&id, memory(56 << 20)),
            update_of(&gone, memory(1 << 20)),
            update_of(&id, bad.clone()),
            api::ContainerUpdate { ignore_failure: true, ..update_of(&id, bad) },
        ],
        Vec::new(),
    );
    assert_eq!(failed.iter().map(|update| &update.container_id).collect::<Vec<_>>(), [&gone, &id]);
    assert_eq!(memory_limit(&node, &id).await, 56 << 20);
    let evict = vec![api::ContainerEviction { container_id: id.clone(), reason: "for the test".into() }];
    assert!(plugin.update(Vec::new(), evict).is_empty());
    assert_eq!(node.exited(&id).await.exit_code, 137);
    plugin.is_told(&id, "StopContainer");
    drop(plugin);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_is_told_what_there_is() {
    let mut node = node().await;
    let sandbox = node.run("early").await;
    let running = node.launch(&sandbox, "running", &["sleep"]).await;
    let created = node.create(&sandbox, "created", &["sleep"]).await;
    let ended = node.launch(&sandbox, "ended", &["exit", "0"]).await;
    node.exited(&ended).await;
    let expect = |plugin: &Plugin| {
        let (pods, containers) = plugin.synchronized();
        assert_eq!(pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&sandbox]);
        assert_eq!((&*pods[0].name, &*pods[0].uid, pods[0].ips.len()), ("early", "uid-early", 2));
        assert!(pods[0].pid > 0);
        let state = |id: &str| containers.iter().find(|other| other.id == id).map(api::Container::state);
        assert_eq!(state(&running), Some(api::ContainerState::ContainerRunning));
        assert_eq!(state(&created), Some(api::ContainerState::ContainerCreated));
        assert_eq!(state(&ended), None);
        assert!(containers.iter().all(|other| other.pod_sandbox_id == sandbox && other.pid > 0));
    };
    let plugin = Plugin::agreeing(socket(&node));
    expect(&plugin);
    assert!(plugin.told().is_empty());
    let status = node.runtime().status(cri::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let config: serde_json::Value = serde_json::from_str(&status.info["config"]).unwrap();
    assert_eq!(config["nri"]["plugins"], serde_json::json!(["10-scripted"]));
    // A daemon that is gone takes the connection along, and the next one knows all that is needed.
    node.kill();
    plugin.is_closed();
    node.start().await;
    let plugin = Plugin::agreeing(socket(&node));
    expect(&plugin);
    node.start_container(&created).await;
    node.remove_pod(&sandbox).await;
    assert_eq!(
        methods(&plugin, &[&created]),
        ["StartContainer", "PostStartContainer", "StopContainer", "RemoveContainer"]
    );
    assert_eq!(methods(&plugin, &[&running]), ["StopContainer", "RemoveContainer"]);
    assert_eq!(methods(&plugin, &[&sandbox]), ["StopPodSandbox", "RemovePodSandbox"]);
    drop(plugin);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_is_left_out() {
    let mut node = Node::without_server();
    node.config.nri = Some(NriConfig {
        socket: node.config.state.join("nri.sock"),
        plugin_dir: None,
        plugin_config_dir: None,
        registration_timeout: Duration::from_secs(60),
        request_timeout: Duration::from_secs(1),
    });
    node.start().await;
    node.pull().await;
    let sandbox = node.run("patient").await;
    let (release, released) = mpsc::channel::<()>();
    let script = move |method: &str, _: &[u8]| {
        if method == "CreateContainer" {
            let _ = released.recv();
        }
        Ok(Vec::new())
    };
    let hanging = Plugin::join(socket(&node), "10", Box::new(script));
    let other = Plugin::join(socket(&node), "20", Box::new(|_, _| Ok(Vec::new())));
    let create = node.create(&sandbox, "main", &["sleep"]);
    // What needs nobody goes on meanwhile, and what plugins are told of waits for them no longer than the other call.
    let (id, second) = tokio::join!(create, node.run("beside"));
    node.start_container(&id).await;
    drop(release);
    hanging.is_closed();
    assert!(!hanging.told_of(&id).contains(&"StartContainer".to_owned()));
    assert!(other.told_of(&id).contains(&"PostStartContainer".to_owned()));
    assert!(other.told_of(&second).contains(&"RunPodSandbox".to_owned()));
    drop((hanging, other));
    node.finish().await;
}
