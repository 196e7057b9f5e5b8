//! Pods with users of their own.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cri::NamespaceMode::{Container as OfContainer, Node as OfNode, Pod as OfPod, Target};
use vaquita_proto::cri;

use crate::support::{IMAGE, Node, container, pod};

/// The host's ids of a pod's users and groups.
const FIRST: u32 = 700_000;
const COUNT: u32 = 65_536;

fn maps(first: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { host_id: first, container_id: 0, length: COUNT }]
}

fn options() -> cri::NamespaceOption {
    let users = cri::UserNamespace { mode: OfPod as i32, uids: maps(FIRST), gids: maps(FIRST) };
    cri::NamespaceOption { pid: OfContainer as i32, userns_options: Some(users), ..Default::default() }
}

fn pod_with(name: &str, options: cri::NamespaceOption) -> cri::PodSandboxConfig {
    let context = cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    cri::PodSandboxConfig { linux: Some(linux), ..pod(name) }
}

fn mount(host: &Path, inside: &str, uids: Vec<cri::IdMapping>) -> cri::Mount {
    cri::Mount {
        container_path: inside.into(),
        host_path: host.to_str().unwrap().into(),
        gid_mappings: uids.clone(),
        uid_mappings: uids,
        ..Default::default()
    }
}

impl Node {
    async fn run_users(&self, config: cri::PodSandboxConfig) -> Result<String, tonic::Status> {
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        Ok(self.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    async fn create_with(
        &self,
        sandbox: &str,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig, &mut cri::LinuxContainerSecurityContext),
    ) -> Result<String, tonic::Status> {
        let mut context =
            cri::LinuxContainerSecurityContext { namespace_options: Some(options()), ..Default::default() };
        let mut config = container(name, &["sleep"]);
        change(&mut config, &mut context);
        let resources = None;
        config.linux = Some(cri::LinuxContainerConfig { security_context: Some(context), resources });
        self.create_as(sandbox, config).await
    }

    /// Whose the files are, as the container sees it.
    async fn owners(&self, container: &str, paths: &[&str]) -> Vec<String> {
        let args: Vec<&str> = ["owners"].iter().chain(paths).copied().collect();
        let (code, text) = self.inside(container, &args).await;
        assert_eq!(code, 0, "{text}");
        text.lines().map(|line| line.split(' ').next_back().unwrap().to_owned()).collect()
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_users_of_its_own() {
    let mut node = Node::new().await;
    let status = node.runtime().status(cri::StatusRequest::default()).await.unwrap().into_inner();
    assert!(
        status.runtime_handlers.iter().any(|it| it.name.is_empty() && it.features.unwrap().user_namespaces)
    );
    assert!(status.features.unwrap().user_namespaces_host_network);

    let dir = tempfile::tempdir().unwrap();
    for (name, uid) in [("root", 0), ("five", 5)] {
        std::fs::write(dir.path().join(name), name).unwrap();
        std::os::unix::fs::chown(dir.path().join(name), Some(uid), Some(uid)).unwrap();
    }
    let mut config = pod_with("users", options());
    let parent = node.config.cgroup_root.join("parent").to_str().unwrap().to_owned();
    config.linux.as_mut().unwrap().cgroup_parent = parent.clone();
    config.linux.as_mut().unwrap().sysctls = [("kernel.shmmax".to_owned(), "8192".to_owned())].into();
    let sandbox = node.run_users(config).await.unwrap();
    let id = node
        .create_with(&sandbox, "main", |config, _| {
            let image = cri::ImageSpec { image: IMAGE.into(), ..Default::default() };
            config.mounts = vec![
                mount(dir.path(), "/mapped", maps(FIRST)),
                mount(dir.path(), "/plain", vec![]),
                cri::Mount {
                    image: Some(image),
                    readonly: true,
                    ..mount(Path::new(""), "/image", maps(FIRST))
                },
            ];
        })
        .await
        .unwrap();
    node.start_container(&id).await;

    let of_root =
        ["/", "/bin/vaquita", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/dev/pts"];
    assert_eq!(node.owners(&id, &of_root).await, ["0:0"; 7]);
    let (_, map) = node.inside(&id, &["read", "/proc/self/uid_map"]).await;
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "700000", "65536"]);
    let read = async |path: &str| node.inside(&id, &["read", path]).await.1.trim().replace('\t', " ");
    assert_eq!(read("/proc/sys/kernel/shmmax").await, "8192");
    assert_eq!(read("/proc/sys/net/ipv4/ping_group_range").await, "0 65535");
    assert!(read("/sys/class/net/eth0/address").await.contains(':'));
    assert!(read("/proc/self/mountinfo").await.contains("/dev/mqueue"));

    // Mapped mounts show and keep the ids of the disk. Others are out of the pod's reach.
    let paths = ["/mapped/root", "/mapped/five", "/image/bin/vaquita", "/plain/root", "/plain/five"];
    let seen = node.owners(&id, &paths).await;
    assert_eq!(seen, ["0:0", "5:5", "0:0", "65534:65534", "65534:65534"]);
    assert_eq!(node.inside(&id, &["make", "/mapped/made", "7"]).await, (0, String::new()));
    assert_eq!(owner(&dir.path().join("made")), (7, 0));
    let (code, why) = node.inside(&id, &["make", "/plain/made-too", "7"]).await;
    assert!(code == 1 && why.contains("denied"), "{why}");

    // The pod's own files belong to its ids on the host, and those of the image to whom they belonged.
    assert_eq!(node.inside(&id, &["make", "/written", "7"]).await.0, 0);
    assert_eq!(node.inside(&id, &["make", "/dev/shm/written", "7"]).await.0, 0);
    let snapshots = node.config.root.join("images/snapshots");
    let upper = snapshots.join(&id).join("upper");
    assert_eq!(owner(&upper.join("written")), (FIRST + 7, FIRST));
    assert_eq!(owner(&upper), (FIRST, FIRST));

    // T35, CVE-2025-47291: it is in the cgroup of its pod.
    let pid = node.pid(&id).await;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let place = format!("{parent}/{id}");
    assert!(
        cgroups.lines().filter(|line| !line.ends_with(":/")).any(|line| line.ends_with(&place)),
        "{cgroups}"
    );
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t700000\t700000"), "{status}");

    // Another user, and another server.
    node.kill();
    node.start().await;
    let other = node
        .create_with(&sandbox, "other", |_, context| {
            context.run_as_user = Some(cri::Int64Value { value: 1000 });
            context.run_as_group = Some(cri::Int64Value { value: 1001 });
            context.supplemental_groups = vec![65_535];
        })
        .await
        .unwrap();
    node.start_container(&other).await;
    assert_eq!(node.owners(&other, &["/bin/vaquita", "/dev/shm/written"]).await, ["0:0", "7:0"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid(&other).await)).unwrap();
    assert!(status.contains("Uid:\t701000\t") && status.contains("Gid:\t701001\t"), "{status}");
    assert!(status.contains("Groups:\t701001 765535"), "{status}");
    assert_eq!(node.inside(&id, &["make", "/mapped/after", "0"]).await.0, 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_its_own_beside_the_hosts_network_or_one_process_tree() {
    let node = Node::new().await;
    let on_host = cri::NamespaceOption { network: OfNode as i32, ..options() };
    let shared = cri::NamespaceOption { pid: OfPod as i32, ..options() };
    for (name, options) in [("host", on_host), ("shared", shared)] {
        let sandbox = node.run_users(pod_with(name, options.clone())).await.unwrap();
        let of_pod = |context: &mut cri::LinuxContainerSecurityContext| {
            context.namespace_options = Some(options.clone());
        };
        let id = node.create_with(&sandbox, "main", |_, context| of_pod(context)).await.unwrap();
        node.start_container(&id).await;
        let (_, map) = node.inside(&id, &["read", "/proc/self/uid_map"]).await;
        assert!(map.contains("700000"), "{map}");
        let (_, mounts) = node.inside(&id, &["read", "/proc/self/mountinfo"]).await;
        let sys = mounts.lines().find(|line| line.contains(" /sys ")).unwrap();
        assert!(sys.contains(" ro,") && sys.contains(" - sysfs "), "{sys}");
        // Of the host's it can change nothing, and what is new is its own.
        let expected = if name == "host" { "65534:65534" } else { "0:0" };
        assert_eq!(node.owners(&id, &["/sys/class/net/lo/mtu"]).await, [expected]);
        assert_eq!(node.inside(&id, &["make", "/sys/fs/cgroup/new", "0"]).await.0, 1);
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_cannot_be_are_refused() {
    let node = Node::new().await;
    let users = |change: fn(&mut cri::UserNamespace)| {
        let mut options = options();
        change(options.userns_options.as_mut().unwrap());
        options
    };
    for (options, text) in [
        (users(|users| users.uids.extend(maps(1_000_000))), "uids: 2 mappings"),
        (users(|users| users.gids[0].container_id = 1), "id 0, the pod's root"),
        (users(|users| users.gids[0].length = 1), "as many"),
        (users(|users| users.uids.clear()), "uids: 0 mappings"),
        (users(|users| users.mode = OfContainer as i32), "mode CONTAINER"),
        (users(|users| users.mode = Target as i32), "mode TARGET"),
        (users(|users| users.mode = OfNode as i32), "mode NODE has no mappings"),
        (cri::NamespaceOption { ipc: OfNode as i32, ..options() }, "the host's ipc namespace"),
        (cri::NamespaceOption { pid: OfNode as i32, ..options() }, "the host's pid namespace"),
    ] {
        let error = node.run_users(pod_with("bad", options)).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains("userns_options") && error.message().contains(text), "{error}");
    }
    let mut privileged = pod_with("bad", options());
    privileged.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    assert!(node.run_users(privileged).await.unwrap_err().message().contains("cannot be privileged"));

    let sandbox = node.run_users(pod_with("good", options())).await.unwrap();
    let before = node.check().len();
    let value = |value| Some(cri::Int64Value { value });
    let sysfs = || mount(Path::new("/sys/kernel"), "/k", maps(FIRST));
    let shared = cri::MountPropagation::PropagationBidirectional as i32;
    for (error, text) in [
        (node.create_with(&sandbox, "c", |_, context| context.run_as_user = value(70_000)).await, "0…65535"),
        (
            node.create_with(&sandbox, "c", |_, context| context.supplemental_groups = vec![65_536]).await,
            "groups",
        ),
        (
            node.create_with(&sandbox, "c", |_, context| {
                context.namespace_options = Some(cri::NamespaceOption { userns_options: None, ..options() });
            })
            .await,
            "differ from those of its sandbox",
        ),
        (
            node.create_with(&sandbox, "c", |config, _| {
                config.mounts =
                    vec![cri::Mount { propagation: shared, ..mount(Path::new("/"), "/m", vec![]) }];
            })
            .await,
            "BIDIRECTIONAL",
        ),
        // The name of what cannot be mapped.
        (
            node.create_with(&sandbox, "c", |config, _| config.mounts = vec![sysfs()]).await,
            "sysfs cannot map",
        ),
    ] {
        let error = error.unwrap_err();
        assert!(error.message().contains(text), "{error}");
    }
    // Nothing of all that is left.
    assert_eq!(node.check().len(), before);
    node.finish().await;
}
