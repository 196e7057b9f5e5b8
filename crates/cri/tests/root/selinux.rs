//! SELinux labels of pods. Machines that run SELinux are few: the tests that need one are run there by hand, with `--ignored selinux_`.

use std::path::Path;

use vaquita_cri::{Kind, Server};
use vaquita_proto::cri;
use vaquita_testing::temp_dir;

use crate::support::{Node, container, pod};

fn runs() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn options(r#type: &str, level: &str) -> Option<cri::SeLinuxOption> {
    Some(cri::SeLinuxOption { r#type: r#type.into(), level: level.into(), ..Default::default() })
}

fn sandbox(name: &str, selinux_options: Option<cri::SeLinuxOption>) -> cri::RunPodSandboxRequest {
    let context = cri::LinuxSandboxSecurityContext { selinux_options, ..Default::default() };
    let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    let config = cri::PodSandboxConfig { linux: Some(linux), ..pod(name) };
    cri::RunPodSandboxRequest { config: Some(config), ..Default::default() }
}

fn labelled(name: &str, selinux_options: Option<cri::SeLinuxOption>) -> cri::ContainerConfig {
    let context = cri::LinuxContainerSecurityContext { selinux_options, ..Default::default() };
    let linux = cri::LinuxContainerConfig { security_context: Some(context), resources: None };
    cri::ContainerConfig { linux: Some(linux), ..container(name, &["sleep"]) }
}

/// The label of a file.
fn of(path: impl AsRef<Path>) -> String {
    let mut buffer = [0; 200];
    let length = rustix::fs::getxattr(path.as_ref(), "security.selinux", &mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap().trim_end_matches('\0').to_owned()
}

fn of_process(pid: u64) -> String {
    let label = std::fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap();
    label.trim_end_matches(['\0', '\n']).to_owned()
}

fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap()
}

impl Node {
    async fn pid_of_sandbox(&self, id: &str) -> u64 {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        pid(&self.runtime().pod_sandbox_status(request).await.unwrap().into_inner().info["info"])
    }

    async fn pid_of_container(&self, id: &str) -> u64 {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        pid(&self.runtime().container_status(request).await.unwrap().into_inner().info["info"])
    }

    async fn launch_as(&self, sandbox: &str, config: cri::ContainerConfig) -> (String, u64) {
        let id = self.create_as(sandbox, config).await.unwrap();
        self.start_container(&id).await;
        let pid = self.pid_of_container(&id).await;
        (id, pid)
    }
}

fn pid(info: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(info).unwrap()["pid"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_nobody_gives_is_refused() {
    let node = Node::new().await;
    let told = if runs() { "--selinux" } else { "not enabled on this host" };
    let error = node.runtime().run_pod_sandbox(sandbox("a", options("t", ""))).await.unwrap_err();
    assert!(error.message().contains("selinux_options") && error.message().contains(told), "{error}");
    let plain = node.run("plain").await;
    let error = node.create_as(&plain, labelled("a", options("", "s0:c1,c2"))).await.unwrap_err();
    assert!(error.message().contains("selinux_options") && error.message().contains(told), "{error}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_cannot_promise_labels_without_selinux() {
    let mut node = Node::without_server();
    node.config.selinux = true;
    if runs() {
        node.start().await;
        node.finish().await;
        return;
    }
    let error = Server::start(node.config.clone()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("does not run SELinux"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux with a policy for containers"]
async fn selinux_each_pod_has_a_level_and_all_of_it_has_it() {
    let mut node = Node::without_server();
    node.config.selinux = true;
    node.start().await;
    node.pull().await;
    let mut levels = std::collections::BTreeSet::new();
    for name in ["one", "two"] {
        let sandbox = node.run(name).await;
        let pause = of_process(node.pid_of_sandbox(&sandbox).await);
        let (id, pid) = node.launch_as(&sandbox, labelled("main", None)).await;
        assert_eq!(of_process(pid), pause);
        let root = format!("/proc/{pid}/root");
        let file = of(format!("{root}/bin/vaquita"));
        assert_eq!(level(&file), level(&pause));
        for path in ["etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/shm", "dev", "dev/mqueue"] {
            assert_eq!(of(format!("{root}/{path}")), file, "{path}");
        }
        let cmd = ["/bin/vaquita", "read", "/proc/self/attr/current"].map(str::to_owned).to_vec();
        let request = cri::ExecSyncRequest { container_id: id, cmd, timeout: 60 };
        let said = node.runtime().exec_sync(request).await.unwrap().into_inner().stdout;
        assert_eq!(String::from_utf8_lossy(&said).trim_end_matches(['\0', '\n']), pause);
        assert!(levels.insert(level(&pause).to_owned()), "{pause}");
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux with a policy for containers"]
async fn selinux_labels_are_those_that_are_asked_for() {
    let mut node = Node::without_server();
    node.config.selinux = true;
    node.start().await;
    node.pull().await;
    let volume = temp_dir();
    std::fs::write(volume.path().join("file"), "").unwrap();
    let request = sandbox("asks", options("", "s0:c7,c9"));
    let id = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    assert_eq!(level(&of_process(node.pid_of_sandbox(&id).await)), "s0:c7,c9");
    let mut config = labelled("own", options("", "s0:c8"));
    config.mounts = vec![cri::Mount {
        container_path: "/volume".into(),
        host_path: volume.path().to_str().unwrap().into(),
        selinux_relabel: true,
        ..Default::default()
    }];
    let (_, pid) = node.launch_as(&id, config).await;
    assert_eq!(level(&of_process(pid)), "s0:c8");
    let file = of(format!("/proc/{pid}/root/bin/vaquita"));
    assert_eq!(level(&file), "s0:c8");
    assert_eq!([of(volume.path()), of(volume.path().join("file"))], [file.clone(), file]);
    let (_, pid) = node.launch_as(&id, labelled("plain", None)).await;
    assert_eq!(level(&of_process(pid)), "s0:c7,c9");
    let error = node.create_as(&id, labelled("wrong", options("vq_nobody_t", ""))).await;
    if let Ok(wrong) = error {
        let request = cri::StartContainerRequest { container_id: wrong };
        let error = node.runtime().start_container(request).await.unwrap_err();
        assert!(error.message().contains("attr"), "{error}");
    }
    node.finish().await;
}
