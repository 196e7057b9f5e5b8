//! What the requests answer.

use std::process::Command;

use tonic::Code;
use vaquita_proto::cri;
use vaquita_testing::{Leaks, temp_dir};

use crate::support::{IMAGE, Node, container, pod};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_beginning_to_end() {
    let node = Node::new().await;
    let sandbox = node.run("life").await;
    let id = node.create(&sandbox, "main", &["sleep"]).await;
    assert_eq!(node.status(&id).await.state(), cri::ContainerState::ContainerCreated);
    node.start_container(&id).await;
    assert_eq!(node.status(&id).await.state(), cri::ContainerState::ContainerRunning);
    let kinds: std::collections::BTreeSet<_> =
        node.check().into_iter().map(|resource| resource.kind).collect();
    for kind in ["bridge", "cgroup", "lease", "link", "mount", "netns", "process", "record", "snapshot"] {
        assert!(kinds.contains(kind), "{kind} should be listed: {kinds:?}");
    }
    let status = node
        .runtime()
        .pod_sandbox_status(cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true })
        .await
        .unwrap()
        .into_inner();
    let network = status.status.unwrap().network.unwrap();
    assert!(network.ip.starts_with("10.202."));
    assert!(matches!(&network.additional_ips[..], [six] if six.ip.starts_with("fd")), "{network:?}");
    assert_eq!(status.containers_statuses.len(), 1);
    assert!(status.info.contains_key("info"));
    node.stop_pod(&sandbox).await;
    let ended = node.exited(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "Error"));
    node.check();
    node.finish().await;
}

/// What the network cannot do is refused before anything is made, and by the name of the field.
#[tokio::test(flavor = "multi_thread")]
async fn wishes_of_the_network_that_cannot_be() {
    let node = Node::new().await;
    let sandbox = node.run("witness").await;
    let before = node.check().len();
    let port = |host_ip: &str| cri::PortMapping {
        host_ip: host_ip.into(),
        host_port: 18_080,
        container_port: 80,
        ..Default::default()
    };
    let annotated = |name: &str, value: &str| {
        let annotations = [(name.to_owned(), value.to_owned())].into_iter().collect();
        cri::PodSandboxConfig { annotations, ..pod("wish") }
    };
    let on_host = cri::LinuxPodSandboxConfig {
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(cri::NamespaceOption {
                network: cri::NamespaceMode::Node.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let ingress = "kubernetes.io/ingress-bandwidth";
    for (config, code, part) in [
        (annotated(ingress, "fast"), Code::InvalidArgument, ingress),
        (annotated("kubernetes.io/egress-bandwidth", "1"), Code::InvalidArgument, "egress-bandwidth"),
        (
            cri::PodSandboxConfig { linux: Some(on_host), ..annotated(ingress, "1M") },
            Code::InvalidArgument,
            "network of the host",
        ),
        (
            cri::PodSandboxConfig { port_mappings: vec![port("host")], ..pod("wish") },
            Code::InvalidArgument,
            "host_ip",
        ),
        (
            cri::PodSandboxConfig { port_mappings: vec![port("::1")], ..pod("wish") },
            Code::Unimplemented,
            "::1",
        ),
    ] {
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let error = node.runtime().run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(node.check().len(), before);
    node.stop_pod(&sandbox).await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_reasons() {
    let node = Node::new().await;
    let sandbox = node.run("exits").await;
    let good = node.launch(&sandbox, "good", &["exit", "0"]).await;
    let bad = node.launch(&sandbox, "bad", &["exit", "7"]).await;
    for (id, code, reason) in [(good, 0, "Completed"), (bad, 7, "Error")] {
        let status = node.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
        assert!(status.started_at > 0 && status.finished_at >= status.started_at, "{status:?}");
    }
    let mut config = container("lost", &[]);
    config.command = vec!["/no/such/program".into()];
    let id = node.create_as(&sandbox, config).await.unwrap();
    let error = node
        .runtime()
        .start_container(cri::StartContainerRequest { container_id: id.clone() })
        .await
        .unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error}");
    let status = node.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(!status.message.is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_collects_output_and_keeps_time() {
    let node = Node::new().await;
    let sandbox = node.run("exec").await;
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let exec = |cmd: &[&str], timeout| {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let request = cri::ExecSyncRequest { container_id: id.clone(), cmd, timeout };
        let mut client = node.runtime().max_decoding_message_size(16 << 20);
        async move { client.exec_sync(request).await }
    };
    let answer = exec(&["/bin/vaquita", "echo", "hello"], 60).await.unwrap().into_inner();
    assert_eq!((&answer.stdout[..], answer.exit_code), (&b"hello"[..], 0));
    let answer = exec(&["/bin/vaquita", "exit", "9"], 0).await.unwrap().into_inner();
    assert_eq!(answer.exit_code, 9);
    let answer = exec(&["/bin/vaquita", "env"], 0).await.unwrap().into_inner();
    assert!(String::from_utf8_lossy(&answer.stdout).contains("HOSTNAME=exec\n"), "{answer:?}");
    let before = processes(&node);
    for command in ["sleep", "yes"] {
        let error = exec(&["/bin/vaquita", command], 1).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    }
    // Killed before the answer came, reaped soon after.
    while processes(&node) != before {
        tokio::task::yield_now().await;
    }
    let error = exec(&["/no/such"], 0).await.unwrap_err();
    assert!(error.message().contains("/no/such"), "{error}");
    let error = exec(&[], 0).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    node.finish().await;
}

/// What somebody has frozen holds up no command longer than the time that it was given, and can be stopped. Of a frozen cgroup of v1
/// nobody dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_container_holds_nobody_up() {
    let node = Node::new().await;
    let sandbox = node.run("frozen").await;
    let layout = vaquita_cgroup::Layout::detect().unwrap();
    let freeze = |id: &str| {
        let cgroups = node.check().into_iter().filter(|one| one.kind == "cgroup");
        let path = cgroups.map(|one| one.name).find(|name| name.ends_with(id)).unwrap();
        let cgroup = vaquita_cgroup::Cgroup::open(&layout, std::path::Path::new(&path)).unwrap();
        // On a hybrid host the one that other runtimes use.
        let v1 = format!("/sys/fs/cgroup/freezer{path}/freezer.state");
        match std::fs::exists(&v1).unwrap() {
            true => std::fs::write(&v1, "FROZEN").unwrap(),
            false => cgroup.freeze().unwrap(),
        }
        cgroup
    };
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let before = processes(&node);
    let cgroup = freeze(&id);
    let cmd = vec!["/bin/vaquita".to_owned(), "sleep".to_owned()];
    let request = cri::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 };
    let error = node.runtime().exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    cgroup.thaw().unwrap();
    // What had not even begun is killed when it has.
    while processes(&node) != before {
        tokio::task::yield_now().await;
    }
    freeze(&id);
    let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    node.runtime().stop_container(stop).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 137);
    freeze(&node.launch(&sandbox, "other", &["sleep"]).await);
    node.stop_pod(&sandbox).await;
    node.finish().await;
}

fn processes(node: &Node) -> Vec<String> {
    let all = node.check().into_iter().filter(|resource| resource.kind == "process");
    all.map(|resource| resource.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_changed_and_measured() {
    let node = Node::new().await;
    let sandbox = node.run("limits").await;
    let mut config = container("main", &["sleep"]);
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 512,
        ..Default::default()
    };
    config.linux = Some(cri::LinuxContainerConfig { resources: Some(resources), security_context: None });
    let id = node.create_as(&sandbox, config).await.unwrap();
    node.start_container(&id).await;
    let change = cri::LinuxContainerResources { memory_limit_in_bytes: 128 << 20, ..Default::default() };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(change),
        ..Default::default()
    };
    node.runtime().update_container_resources(request).await.unwrap();
    let now = node.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((now.memory_limit_in_bytes, now.cpu_shares), (128 << 20, 512));
    let stats = node
        .runtime()
        .container_stats(cri::ContainerStatsRequest { container_id: id.clone() })
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    let memory = stats.memory.unwrap();
    let available = memory.available_bytes.unwrap().value + memory.working_set_bytes.unwrap().value;
    assert_eq!(available, 128 << 20);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert!(stats.writable_layer.is_some());
    let pods = node
        .runtime()
        .list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .stats;
    let linux = pods[0].linux.as_ref().unwrap();
    assert_eq!(linux.containers.len(), 1);
    assert_eq!(linux.network.as_ref().unwrap().default_interface.as_ref().unwrap().name, "eth0");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_so_or_gone_already() {
    let node = Node::new().await;
    let mut client = node.runtime();
    let id = "ab".repeat(32);
    let error = client
        .container_status(cri::ContainerStatusRequest { container_id: id.clone(), verbose: false })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let error = client
        .pod_sandbox_status(cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    node.stop_pod(&id).await;
    node.remove_pod(&id).await;
    client.stop_container(cri::StopContainerRequest { container_id: id.clone(), timeout: 3 }).await.unwrap();
    client.remove_container(cri::RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
    let image = Some(cri::ImageSpec { image: "nobody/nothing".into(), ..Default::default() });
    node.images().remove_image(cri::RemoveImageRequest { image: image.clone() }).await.unwrap();
    let answer = node.images().image_status(cri::ImageStatusRequest { image, verbose: false }).await.unwrap();
    assert!(answer.into_inner().image.is_none());
    let exec =
        cri::ExecRequest { container_id: id, cmd: vec!["/x".into()], stdout: true, ..Default::default() };
    let error = client.exec(exec).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_sense_are_refused() {
    let node = Node::new().await;
    let mut client = node.runtime();
    let error = client.run_pod_sandbox(cri::RunPodSandboxRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    for change in [
        (|config| config.metadata = None) as fn(&mut cri::PodSandboxConfig),
        |config| config.hostname = "a b".into(),
        |config| config.log_directory = "relative".into(),
        |config| config.linux.get_or_insert_default().cgroup_parent = "/a/../b".into(),
        |config| {
            config.linux.get_or_insert_default().sysctls.insert("kernel.core_pattern".into(), "x".into());
        },
        |config| config.port_mappings = vec![cri::PortMapping { host_port: 70_000, ..Default::default() }],
        |config| {
            config.dns_config = Some(cri::DnsConfig { servers: vec!["a\nb".into()], ..Default::default() });
        },
    ] {
        let mut config = pod("bad");
        change(&mut config);
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let error = client.run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    let request = cri::RunPodSandboxRequest { config: Some(pod("bad")), runtime_handler: "runsc".into() };
    assert_eq!(client.run_pod_sandbox(request).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(node.pods().await.is_empty());
    let sandbox = node.run("good").await;
    for (config, code) in [
        (cri::ContainerConfig::default(), Code::InvalidArgument),
        (cri::ContainerConfig { image: None, ..container("x", &[]) }, Code::InvalidArgument),
        (
            cri::ContainerConfig {
                image: Some(cri::ImageSpec { image: "not/here".into(), ..Default::default() }),
                ..container("x", &[])
            },
            Code::NotFound,
        ),
        (cri::ContainerConfig { log_path: "../x".into(), ..container("x", &[]) }, Code::InvalidArgument),
        (
            cri::ContainerConfig {
                mounts: vec![cri::Mount {
                    container_path: "/m".into(),
                    host_path: "/proc/version/x".into(),
                    ..Default::default()
                }],
                ..container("x", &[])
            },
            Code::InvalidArgument,
        ),
    ] {
        let error = node.create_as(&sandbox, config).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    node.finish().await;
}

/// T32: below the directory of a pod's logs, in which one of its containers may have a volume, no link is followed. The directory
/// itself is where the client says, by links of the host or not.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_0750_logs_stay_in_their_directory() {
    let node = Node::new().await;
    let dir = temp_dir();
    let (real, elsewhere) = (dir.path().join("real"), dir.path().join("elsewhere"));
    std::fs::create_dir(&real).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("logs")).unwrap();
    let log_directory = dir.path().join("logs/pod").display().to_string();
    let config = cri::PodSandboxConfig { log_directory: log_directory.clone(), ..pod("logs") };
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let sandbox = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let with = |name: &str, args: &[&str], path: &str| cri::ContainerConfig {
        log_path: path.into(),
        ..container(name, args)
    };
    let id = node.create_as(&sandbox, with("one", &["echo", "x"], "one/0.log")).await.unwrap();
    node.start_container(&id).await;
    node.exited(&id).await;
    assert_eq!(node.status(&id).await.log_path, format!("{log_directory}/one/0.log"));
    assert!(std::fs::read_to_string(real.join("pod/one/0.log")).unwrap().contains(" stdout "));
    for (name, path) in [("two", "two/0.log"), ("three", "two/made/0.log"), ("file", "file.log")] {
        let link = real.join("pod").join(if name == "file" { "file.log" } else { "two" });
        let _ = std::os::unix::fs::symlink(&elsewhere, link);
        let error = node.create_as(&sandbox, with(name, &["echo", "x"], path)).await.unwrap_err();
        assert!(error.message().contains("symbolic links") && error.message().contains(path), "{error}");
    }
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered() {
    let node = Node::new().await;
    let mut config = pod("one");
    config.labels.insert("app".into(), "one".into());
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let one = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let two = node.run("two").await;
    node.stop_pod(&two).await;
    let list = |filter| {
        let mut client = node.runtime();
        async move {
            let request = cri::ListPodSandboxRequest { filter: Some(filter) };
            let items = client.list_pod_sandbox(request).await.unwrap().into_inner().items;
            items.into_iter().map(|item| item.id).collect::<Vec<_>>()
        }
    };
    let state = |state: cri::PodSandboxState| Some(cri::PodSandboxStateValue { state: state as i32 });
    let none = cri::PodSandboxFilter::default;
    assert_eq!(list(none()).await.len(), 2);
    assert_eq!(
        list(cri::PodSandboxFilter { id: one[..12].into(), ..none() }).await,
        std::slice::from_ref(&one)
    );
    assert_eq!(list(cri::PodSandboxFilter { id: "xyz".into(), ..none() }).await, [] as [String; 0]);
    let ready = cri::PodSandboxFilter { state: state(cri::PodSandboxState::SandboxReady), ..none() };
    assert_eq!(list(ready).await, std::slice::from_ref(&one));
    let not_ready = cri::PodSandboxFilter { state: state(cri::PodSandboxState::SandboxNotready), ..none() };
    assert_eq!(list(not_ready).await, [two]);
    let label = cri::PodSandboxFilter { label_selector: [("app".into(), "one".into())].into(), ..none() };
    assert_eq!(list(label).await, [one]);
    node.finish().await;
}

/// T22.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_15257_nobody_else_reaches_the_socket() {
    use std::os::unix::process::CommandExt;
    let node = Node::new().await;
    let socket = node.config.socket.display().to_string();
    let connect = |uid: u32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaquita-cri-test"));
        command.args(["connect", &socket]).uid(uid);
        command.status().unwrap().success()
    };
    assert!(connect(0));
    assert!(!connect(65534));
    let abstract_sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!abstract_sockets.lines().any(|line| line.contains("@vaquita")));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_at_once_leave_nothing() {
    let node = Node::new().await;
    let cycle = |number: usize| {
        let node = &node;
        async move {
            let sandbox = node.run(&format!("many-{number}")).await;
            let id = node.launch(&sandbox, "main", &["sleep"]).await;
            let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
            node.runtime().stop_container(stop).await.unwrap();
            node.runtime().remove_container(cri::RemoveContainerRequest { container_id: id }).await.unwrap();
            node.stop_pod(&sandbox).await;
            node.remove_pod(&sandbox).await;
        }
    };
    let (a, b, c, d) = (cycle(1), cycle(2), cycle(3), cycle(4));
    tokio::join!(a, b, c, d, cycle(5), cycle(6), cycle(7), cycle(8));
    assert!(node.pods().await.is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_image_is_one_image_everywhere() {
    let node = Node::new().await;
    let images =
        node.images().list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].repo_tags, [IMAGE]);
    assert!(images[0].size > 0);
    let spec = Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() });
    let again = cri::PullImageRequest { image: spec.clone(), ..Default::default() };
    let image_ref = node.images().pull_image(again).await.unwrap().into_inner().image_ref;
    assert_eq!(image_ref, images[0].id);
    let sandbox = node.run("image").await;
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let status = node.status(&id).await;
    assert_eq!((&status.image_ref, status.image_id), (&images[0].repo_digests[0], image_ref));
    node.finish().await;
}

#[test]
fn the_guard_sees_what_is_left() {
    vaquita_testing::require_root();
    let leaks = Leaks::of("no-such-tag-at-all");
    assert!(leaks.differences().is_empty());
}
