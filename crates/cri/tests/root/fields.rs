//! Fields of a container, one after the other: what is asked for is there, and what cannot be is refused by its name.

use tonic::Code;
use vaquita_proto::cri;

use crate::support::{Node, container, pod};

fn limited(name: &str, args: &[&str], resources: cri::LinuxContainerResources) -> cri::ContainerConfig {
    let linux = cri::LinuxContainerConfig { resources: Some(resources), security_context: None };
    cri::ContainerConfig { linux: Some(linux), ..container(name, args) }
}

fn confined(name: &str, context: cri::LinuxContainerSecurityContext) -> cri::ContainerConfig {
    let linux = cri::LinuxContainerConfig { resources: None, security_context: Some(context) };
    cri::ContainerConfig { linux: Some(linux), ..container(name, &["sleep"]) }
}

impl Node {
    async fn update(&self, id: &str, linux: cri::LinuxContainerResources) -> Result<(), tonic::Status> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        self.runtime().update_container_resources(request).await.map(drop)
    }

    async fn resources(&self, id: &str) -> cri::LinuxContainerResources {
        self.status(id).await.resources.unwrap().linux.unwrap()
    }

    async fn score(&self, id: &str) -> i32 {
        let path = format!("/proc/{}/oom_score_adj", self.pid(id).await);
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_cannot_be_leave_nothing() {
    let node = Node::new().await;
    let sandbox = node.run("limits").await;
    let before = node.check().len();
    let unified = |file: &str| [(file.to_owned(), "1".to_owned())].into();
    let no_hugetlb = !std::fs::read_to_string("/proc/cgroups").unwrap().contains("hugetlb");
    let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    for (resources, code, text) in [
        (
            cri::LinuxContainerResources { cpuset_cpus: "0-65000".into(), ..Default::default() },
            Code::InvalidArgument,
            "resources.cpuset_cpus: \"0-65000\" names",
        ),
        (
            cri::LinuxContainerResources { cpuset_mems: "63".into(), ..Default::default() },
            Code::InvalidArgument,
            "resources.cpuset_mems: \"63\" names 63",
        ),
        (
            cri::LinuxContainerResources { cpu_quota: 500, ..Default::default() },
            Code::InvalidArgument,
            "resources.cpu_quota: 500",
        ),
        (
            cri::LinuxContainerResources { memory_swap_limit_in_bytes: 1 << 20, ..Default::default() },
            Code::InvalidArgument,
            "resources.memory_swap_limit_in_bytes: 1048576",
        ),
        (
            cri::LinuxContainerResources {
                hugepage_limits: vec![cri::HugepageLimit { page_size: "3MB".into(), limit: 5 }],
                ..Default::default()
            },
            Code::Unimplemented,
            if no_hugetlb {
                "[3MB]: this host has no hugetlb controller"
            } else {
                "[3MB]: this host has no huge pages"
            },
        ),
        (
            cri::LinuxContainerResources { unified: unified("memory.no_such_limit"), ..Default::default() },
            if is_v2 { Code::Unimplemented } else { Code::InvalidArgument },
            if is_v2 { "memory.no_such_limit" } else { "resources.unified: this host has no unified" },
        ),
        (
            cri::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() },
            Code::InvalidArgument,
            "oom_score_adj: 1001",
        ),
    ] {
        let error = node.create_as(&sandbox, limited("main", &["sleep"], resources)).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(text), "{text}: {error:?}");
        assert_eq!(node.check().len(), before);
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_whole_or_nothing_and_shown() {
    let node = Node::new().await;
    let sandbox = node.run("update").await;
    let start = cri::LinuxContainerResources {
        memory_limit_in_bytes: 256 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        oom_score_adj: 900,
        ..Default::default()
    };
    let id = node.create_as(&sandbox, limited("main", &["hold", "64"], start.clone())).await.unwrap();
    node.start_container(&id).await;
    let (code, text) = node.inside(&id, &["read", "/proc/self/oom_score_adj"]).await;
    assert_eq!((code, text.as_str()), (0, "900\n"), "a command is as dear as its container");
    assert_eq!(node.score(&id).await, 900);

    // What is in use stays in use, and the rest of such a request does not happen either.
    let used = |id: String| {
        let node = &node;
        async move {
            let request = cri::ContainerStatsRequest { container_id: id };
            let stats = node.runtime().container_stats(request).await.unwrap().into_inner().stats.unwrap();
            stats.memory.unwrap().usage_bytes.unwrap().value
        }
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while used(id.clone()).await < 64 << 20 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let less = cri::LinuxContainerResources {
        memory_limit_in_bytes: 8 << 20,
        cpu_shares: 1024,
        oom_score_adj: 950,
        ..Default::default()
    };
    let error = node.update(&id, less).await.unwrap_err();
    assert!(error.message().contains("in use"), "{error:?}");
    assert_eq!(node.resources(&id).await, start);
    assert_eq!(node.score(&id).await, 900);
    let error = node
        .update(&id, cri::LinuxContainerResources { cpuset_cpus: "nonsense".into(), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let more = cri::LinuxContainerResources {
        memory_limit_in_bytes: 512 << 20,
        cpu_quota: -1,
        cpuset_cpus: "0".into(),
        oom_score_adj: 950,
        ..Default::default()
    };
    node.update(&id, more.clone()).await.unwrap();
    let expected = cri::LinuxContainerResources { cpu_period: 100_000, cpu_shares: 512, ..more };
    assert_eq!(node.resources(&id).await, expected);
    assert_eq!(node.score(&id).await, 950);
    let (_, text) = node.inside(&id, &["read", "/proc/self/oom_score_adj"]).await;
    assert_eq!(text, "950\n");
    let (_, text) = node.inside(&id, &["read", "/proc/self/status"]).await;
    assert!(text.lines().any(|line| line == "Cpus_allowed_list:\t0"), "{text}");

    // Also before it is started.
    let id = node.create_as(&sandbox, limited("later", &["sleep"], start)).await.unwrap();
    node.update(&id, cri::LinuxContainerResources { oom_score_adj: 960, ..Default::default() })
        .await
        .unwrap();
    node.start_container(&id).await;
    assert_eq!(node.score(&id).await, 960);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_path_that_is_not_there_is_made() {
    let node = Node::new().await;
    let dir = vaquita_testing::temp_dir();
    let sandbox = node.run("paths").await;
    let path = dir.path().join("data/new");
    let mount = cri::Mount {
        container_path: "/data".into(),
        host_path: path.to_str().unwrap().into(),
        ..Default::default()
    };
    let config =
        cri::ContainerConfig { mounts: vec![mount], ..container("main", &["make", "/data/file", "5"]) };
    let id = node.create_as(&sandbox, config).await.unwrap();
    node.start_container(&id).await;
    assert_eq!(node.exited(&id).await.exit_code, 0);
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "made");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_merged_strict_or_refused() {
    let node = Node::new().await;
    let sandbox = node.run("groups").await;
    let context = |policy| cri::LinuxContainerSecurityContext {
        run_as_user: Some(cri::Int64Value { value: 1000 }),
        run_as_group: Some(cri::Int64Value { value: 50 }),
        supplemental_groups: vec![60, 50],
        supplemental_groups_policy: policy,
        ..Default::default()
    };
    for policy in [0, 1] {
        let id = node.create_as(&sandbox, confined(&format!("p{policy}"), context(policy))).await.unwrap();
        node.start_container(&id).await;
        let user = node.status(&id).await.user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid, &user.supplemental_groups[..]), (1000, 50, &[50, 60][..]));
        let (_, text) = node.inside(&id, &["read", "/proc/self/status"]).await;
        assert!(text.lines().any(|line| line.trim_end() == "Groups:\t50 60"), "{text}");
    }
    let error = node.create_as(&sandbox, confined("p2", context(2))).await.unwrap_err();
    assert!(error.message().contains("supplemental_groups_policy: 2"), "{error:?}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_names_have_a_length() {
    let node = Node::new().await;
    let run = async |name: &str, hostname: String| {
        let config = cri::PodSandboxConfig { hostname, ..pod(name) };
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        Ok::<_, tonic::Status>(node.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    };
    let error = run("long", "a".repeat(65)).await.unwrap_err();
    assert!(error.message().contains("hostname"), "{error:?}");
    let sandbox = run("fits", "a".repeat(64)).await.unwrap();
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let (_, text) = node.inside(&id, &["read", "/proc/sys/kernel/hostname"]).await;
    assert_eq!(text.trim(), "a".repeat(64));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_belong_to_the_pod() {
    let node = Node::new().await;
    let run = async |name: &str, sysctl: &str, ipc: cri::NamespaceMode| {
        let options = cri::NamespaceOption { ipc: ipc as i32, ..Default::default() };
        let context =
            cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = cri::LinuxPodSandboxConfig {
            security_context: Some(context),
            sysctls: [(sysctl.to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let config = cri::PodSandboxConfig { linux: Some(linux), ..pod(name) };
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        Ok::<_, tonic::Status>(node.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    };
    let sandbox = run("own", "kernel.shm_rmid_forced", cri::NamespaceMode::Pod).await.unwrap();
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let (_, text) = node.inside(&id, &["read", "/proc/sys/kernel/shm_rmid_forced"]).await;
    assert_eq!(text, "1\n");
    for (sysctl, ipc) in [
        ("kernel.shm_rmid_forced", cri::NamespaceMode::Node),
        ("kernel.shm_no_such", cri::NamespaceMode::Pod),
        ("vm.overcommit_memory", cri::NamespaceMode::Pod),
        ("net/ipv4/ip_forward", cri::NamespaceMode::Pod),
    ] {
        let error = run("bad", sysctl, ipc).await.unwrap_err();
        assert!(error.message().contains(sysctl) || error.message().contains("shm_no_such"), "{error:?}");
    }
    assert_eq!(node.pods().await.len(), 1);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_the_surroundings_that_it_asks_for() {
    let node = Node::new().await;
    let sandbox = node.run("process").await;
    let pair = |key: &str, value: &[u8]| cri::KeyValue { key: key.into(), value: value.to_vec() };
    let context = cri::LinuxContainerSecurityContext {
        no_new_privs: true,
        masked_paths: vec!["/proc/keys".into(), "/proc/no-such".into()],
        readonly_paths: vec!["/proc/sys".into()],
        ..Default::default()
    };
    let config = cri::ContainerConfig {
        working_dir: "/made/on/demand".into(),
        envs: vec![
            pair("a.b-c d", b""),
            pair("\u{fc}", "\u{2713}=1\n2".as_bytes()),
            pair("PATH", b"/x"),
            pair("PATH", b"/y"),
        ],
        labels: [("l".to_owned(), "x".repeat(256 << 10))].into(),
        annotations: [("a".to_owned(), "y".repeat(1 << 20))].into(),
        stop_signal: cri::Signal::Sigusr1 as i32,
        ..confined("main", context)
    };
    let id = node.create_as(&sandbox, config.clone()).await.unwrap();
    node.start_container(&id).await;
    let (_, text) = node.inside(&id, &["env"]).await;
    for line in ["a.b-c d=", "\u{fc}=\u{2713}=1", "2", "PATH=/y"] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", node.pid(&id).await)).unwrap();
    assert_eq!(cwd.to_str().unwrap(), "/made/on/demand");
    let (_, text) = node.inside(&id, &["read", "/proc/self/status"]).await;
    assert!(text.contains("NoNewPrivs:\t1\n"), "{text}");
    assert_eq!(node.inside(&id, &["read", "/proc/keys"]).await, (0, String::new()));
    assert_ne!(node.inside(&id, &["make", "/proc/sys/kernel/domainname", "0"]).await.0, 0);
    let status = node.status(&id).await;
    assert_eq!((&status.labels, &status.annotations), (&config.labels, &config.annotations));
    assert_eq!(status.stop_signal(), cri::Signal::Sigusr1);
    let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 60 };
    node.runtime().stop_container(request).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 128 + 10);

    let refused = async |name: &str, change: fn(&mut cri::ContainerConfig)| {
        let mut config = container(name, &["sleep"]);
        change(&mut config);
        node.create_as(&sandbox, config).await.unwrap_err()
    };
    for (change, text) in [
        (
            (|config| config.envs = vec![cri::KeyValue { key: "A=B".into(), ..Default::default() }])
                as fn(&mut cri::ContainerConfig),
            "envs: \"A=B\"",
        ),
        (|config| config.envs = vec![cri::KeyValue { key: "A".into(), value: vec![0xff] }], "envs[A]"),
        (|config| config.stop_signal = 99, "stop_signal: 99"),
        (|config| confine(config).masked_paths = vec!["proc/keys".into()], "maskedPaths"),
        (|config| confine(config).readonly_paths = vec!["sys".into()], "readonlyPaths"),
        (|config| confine(config).run_as_username = "nobody-here".into(), "nobody-here"),
        (
            |config| {
                confine(config).seccomp =
                    Some(cri::SecurityProfile { profile_type: 2, localhost_ref: "/no/profile.json".into() });
            },
            "seccomp.localhost_ref: \"/no/profile.json\"",
        ),
        (
            |config| {
                config.mounts = vec![cri::Mount {
                    container_path: "/m".into(),
                    host_path: "/tmp".into(),
                    recursive_read_only: true,
                    ..Default::default()
                }];
            },
            "mounts[/m].recursive_read_only",
        ),
    ] {
        let error = refused("bad", change).await;
        assert!(error.message().contains(text), "{text}: {error:?}");
    }
    node.finish().await;
}

fn confine(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_used_as_permitted() {
    let node = Node::new().await;
    let sandbox = node.run("devices").await;
    let device = |host: &str, inside: &str, permissions: &str| cri::Device {
        container_path: inside.into(),
        host_path: host.into(),
        permissions: permissions.into(),
    };
    // Opening tun takes both; writing to a file opens it for writing.
    let devices = vec![device("/dev/net", "/dev/links", "r"), device("/dev/null", "/dev/nothing", "rw")];
    let id = node
        .create_as(&sandbox, cri::ContainerConfig { devices, ..container("main", &["sleep"]) })
        .await
        .unwrap();
    node.start_container(&id).await;
    let (_, text) = node.inside(&id, &["list", "/dev/links"]).await;
    assert!(text.starts_with("tun 2"), "{text}");
    assert_eq!(node.inside(&id, &["make", "/dev/nothing", "0"]).await.0, 0);
    let (code, text) = node.inside(&id, &["make", "/dev/links/tun", "0"]).await;
    assert!(code != 0 && text.contains("not permitted"), "{text}");
    for (bad, text) in [
        (device("/dev/null", "/dev/x", "rx"), "devices[/dev/x].permissions"),
        (device("/dev/no-such", "/dev/x", "r"), "devices[/dev/x].host_path"),
        (device("dev/null", "/dev/x", "r"), "devices[/dev/x]"),
    ] {
        let config = cri::ContainerConfig { devices: vec![bad], ..container("bad", &["sleep"]) };
        let error = node.create_as(&sandbox, config).await.unwrap_err();
        assert!(error.message().contains(text), "{text}: {error:?}");
    }
    node.finish().await;
}
