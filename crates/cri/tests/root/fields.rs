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
