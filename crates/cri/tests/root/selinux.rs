//! SELinux labels of pods. Machines that run SELinux are few: the tests that need one are run by `hack/vm selinux`, where Debian's
//! policy enforces.

use std::path::Path;

use vaquita_cri::{Kind, Server};
use vaquita_proto::cri;
use vaquita_testing::temp_dir;

use crate::support::{IMAGE, Node, container, pod};
use crate::volumes::{of_image, start_with_image};

fn runs() -> bool {
    vaquita_sys::selinux::is_enabled()
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

/// A part of a label.
fn part(label: &str, number: usize) -> &str {
    label.splitn(4, ':').nth(number).unwrap()
}

fn kind(label: &str) -> &str {
    part(label, 2)
}

fn level(label: &str) -> &str {
    part(label, 3)
}

/// A server that gives labels.
async fn labelling() -> Node {
    let mut node = Node::without_server();
    node.config.selinux = true;
    node.start().await;
    node.pull().await;
    node
}

/// A directory of the host at `/volume`.
fn volume(host: &Path, selinux_relabel: bool) -> cri::Mount {
    cri::Mount {
        container_path: "/volume".into(),
        host_path: host.to_str().unwrap().into(),
        selinux_relabel,
        ..Default::default()
    }
}

fn with(mounts: Vec<cri::Mount>, config: cri::ContainerConfig) -> cri::ContainerConfig {
    cri::ContainerConfig { mounts, ..config }
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

    async fn run_as(&self, request: cri::RunPodSandboxRequest) -> String {
        self.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
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
#[ignore = "needs SELinux: hack/vm"]
async fn selinux_each_pod_has_a_level_and_all_of_it_has_it() {
    let node = labelling().await;
    let mut levels = std::collections::BTreeSet::new();
    for name in ["one", "two"] {
        let sandbox = node.run(name).await;
        let pause = of_process(node.pid_of_sandbox(&sandbox).await);
        assert_eq!(kind(&pause), "container_t");
        let mounts =
            std::fs::read_to_string(format!("/proc/{}/mountinfo", node.pid_of_sandbox(&sandbox).await));
        let context = format!(",context=\"system_u:object_r:container_file_t:{}\",", level(&pause));
        assert!(mounts.as_ref().is_ok_and(|mounts| mounts.contains(&context)), "{mounts:?}");
        let plain = labelled("plain", None);
        let terminal = cri::ContainerConfig { tty: true, ..labelled("terminal", None) };
        for (config, has_terminal) in [(plain, false), (terminal, true)] {
            let (id, pid) = node.launch_as(&sandbox, config).await;
            assert_eq!(of_process(pid), pause);
            let root = format!("/proc/{pid}/root");
            let file = of(format!("{root}/bin/vaquita"));
            assert_eq!((kind(&file), level(&file)), ("container_file_t", level(&pause)));
            let made =
                ["etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/shm", "dev", "dev/mqueue", "dev/pts"];
            for path in made.into_iter().chain(has_terminal.then_some("dev/pts/0")) {
                assert_eq!(of(format!("{root}/{path}")), file, "{path}");
            }
            let (_, said) = node.inside(&id, &["read", "/proc/self/attr/current"]).await;
            assert_eq!(said.trim_end_matches(['\0', '\n']), pause);
            // It has the right to its keyring, so it sees it.
            let (_, keys) = node.inside(&id, &["read", "/proc/keys"]).await;
            assert!(keys.contains(" _ses"), "{keys:?}");
        }
        assert!(levels.insert(level(&pause).to_owned()), "{pause}");
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux: hack/vm"]
async fn selinux_labels_are_those_that_are_asked_for() {
    let node = labelling().await;
    let dir = temp_dir();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let id = node.run_as(sandbox("asks", options("", "s0:c7,c9"))).await;
    assert_eq!(level(&of_process(node.pid_of_sandbox(&id).await)), "s0:c7,c9");
    let config = with(vec![volume(dir.path(), true)], labelled("own", options("", "s0:c8")));
    let (_, pid) = node.launch_as(&id, config).await;
    assert_eq!(level(&of_process(pid)), "s0:c8");
    let file = of(format!("/proc/{pid}/root/bin/vaquita"));
    assert_eq!(level(&file), "s0:c8");
    assert_eq!([of(dir.path()), of(dir.path().join("file"))], [file.clone(), file]);
    let (_, pid) = node.launch_as(&id, labelled("plain", None)).await;
    assert_eq!(level(&of_process(pid)), "s0:c7,c9");
    // A transition that no_new_privs allows only where the policy does.
    let mut config = labelled("confined", None);
    let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.no_new_privs = true;
    let (id, pid) = node.launch_as(&id, config).await;
    assert_eq!((kind(&of_process(pid)), level(&of_process(pid))), ("container_t", "s0:c7,c9"));
    assert!(node.inside(&id, &["read", "/proc/1/status"]).await.1.contains("NoNewPrivs:\t1"));
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux: hack/vm"]
async fn selinux_a_label_that_the_policy_has_not_is_refused() {
    let node = labelling().await;
    let before = node.check().len();
    for asked in [options("vq_nobody_t", ""), options("", "s0:c1024"), options("", "s0:c9.c3")] {
        let error = node.runtime().run_pod_sandbox(sandbox("wrong", asked)).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
        assert!(error.message().contains("is no label of the SELinux policy"), "{error}");
    }
    assert_eq!(node.check().len(), before);
    let id = node.run("right").await;
    let before = node.check().len();
    let error = node.create_as(&id, labelled("wrong", options("vq_nobody_t", ""))).await.unwrap_err();
    assert!(error.message().contains("vq_nobody_t") && error.message().contains("is no label"), "{error}");
    // What is in the policy and no domain of a container.
    let error = node.create_as(&id, labelled("wrong", options("etc_t", ""))).await.unwrap_err();
    assert!(error.message().contains("etc_t") && error.message().contains("is no label"), "{error}");
    assert_eq!(node.check().len(), before);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux: hack/vm"]
async fn selinux_a_pod_does_not_reach_into_another() {
    let node = labelling().await;
    let dir = temp_dir();
    let one = node.run_as(sandbox("one", options("", "s0:c7,c9"))).await;
    let config = with(vec![volume(dir.path(), true)], labelled("main", None));
    let (id, _) = node.launch_as(&one, config).await;
    assert_eq!(node.inside(&id, &["make", "/volume/secret", "0"]).await, (0, String::new()));
    assert_eq!(node.inside(&id, &["read", "/volume/secret"]).await, (0, "made".into()));
    let other = |name| with(vec![volume(dir.path(), false)], labelled(name, None));
    let two = node.run("two").await;
    let (id, _) = node.launch_as(&two, other("main")).await;
    let seen = async |id: &str, what: &[&str]| node.inside(id, what).await;
    assert_eq!(seen(&id, &["read", "/volume/secret"]).await, (1, String::new()));
    let (code, said) = seen(&id, &["make", "/volume/mine", "0"]).await;
    assert!(code == 1 && said.contains("Permission denied"), "{said}");
    // Who has its level may.
    let same = node.run_as(sandbox("same", options("", "s0:c7,c9"))).await;
    let (id, _) = node.launch_as(&same, other("main")).await;
    assert_eq!(seen(&id, &["read", "/volume/secret"]).await, (0, "made".into()));
    // A file of the host has no container's label.
    let hosts = with(
        vec![cri::Mount { host_path: "/etc/passwd".into(), ..volume(dir.path(), false) }],
        labelled("write", None),
    );
    let (id, _) = node.launch_as(&same, hosts).await;
    let (code, said) = seen(&id, &["make", "/volume", "0"]).await;
    assert!(code == 1 && said.contains("Permission denied"), "{said}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux: hack/vm"]
async fn selinux_what_is_privileged_is_not_confined() {
    let node = labelling().await;
    let dir = temp_dir();
    let one = node.run("one").await;
    let config = with(vec![volume(dir.path(), true)], labelled("main", None));
    let (id, _) = node.launch_as(&one, config).await;
    assert_eq!(node.inside(&id, &["make", "/volume/secret", "0"]).await.0, 0);

    let mut request = sandbox("privileged", None);
    let linux = request.config.as_mut().unwrap().linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    let pod = node.run_as(request).await;
    // What the policy has for what a container runtime executes without saying more.
    assert_eq!(kind(&of_process(node.pid_of_sandbox(&pod).await)), "spc_t");
    let mut config = with(vec![volume(dir.path(), false)], labelled("main", None));
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let (id, pid) = node.launch_as(&pod, config).await;
    assert_eq!(kind(&of_process(pid)), "spc_t");
    assert_ne!(level(&of(format!("/proc/{pid}/root/bin/vaquita"))), level(&of_process(pid)));
    assert_eq!(node.inside(&id, &["read", "/volume/secret"]).await, (0, "made".into()));
    let (_, said) = node.inside(&id, &["read", "/proc/self/attr/current"]).await;
    assert_eq!(said.trim_end_matches(['\0', '\n']), of_process(pid));
    // Beside it others are confined.
    let (_, pid) = node.launch_as(&pod, labelled("plain", None)).await;
    assert_eq!(kind(&of_process(pid)), "container_t");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux: hack/vm"]
async fn selinux_volumes_of_images_have_the_label_of_the_pod() {
    let node = Node::without_server();
    let mut node = start_with_image(node, &["/data"]).await;
    node.kill();
    node.config.selinux = true;
    node.start().await;
    node.pull().await;
    let sandbox = node.run("volumes").await;
    let image = cri::ImageSpec { image: IMAGE.into(), ..Default::default() };
    let mount = cri::Mount {
        container_path: "/image".into(),
        image: Some(image),
        readonly: true,
        selinux_relabel: true,
        ..Default::default()
    };
    let (id, pid) = node.launch_as(&sandbox, with(vec![mount], of_image("main", &["sleep"]))).await;
    let file = of(format!("/proc/{pid}/root/bin/vaquita"));
    assert_eq!(level(&file), level(&of_process(pid)));
    for path in ["image/bin/vaquita", "data", "data/inner/file"] {
        assert_eq!(of(format!("/proc/{pid}/root/{path}")), file, "{path}");
    }
    assert_eq!(node.inside(&id, &["make", "/data/new", "0"]).await, (0, String::new()));
    assert_eq!(of(format!("/proc/{pid}/root/data/new")), file);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SELinux: hack/vm"]
async fn selinux_a_pod_with_users_of_its_own() {
    let node = labelling().await;
    let dir = temp_dir();
    let maps = vec![cri::IdMapping { host_id: 700_000, container_id: 0, length: 65_536 }];
    let users =
        cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: maps.clone(), gids: maps.clone() };
    let namespaces = cri::NamespaceOption {
        pid: cri::NamespaceMode::Container as i32,
        userns_options: Some(users),
        ..Default::default()
    };
    let mut request = sandbox("users", None);
    let linux = request.config.as_mut().unwrap().linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(namespaces.clone());
    let pod = node.run_as(request).await;
    let mount = cri::Mount { uid_mappings: maps.clone(), gid_mappings: maps, ..volume(dir.path(), true) };
    let mut config = with(vec![mount], labelled("main", None));
    let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.namespace_options = Some(namespaces);
    let (id, pid) = node.launch_as(&pod, config).await;
    let pause = of_process(node.pid_of_sandbox(&pod).await);
    assert_eq!((of_process(pid), kind(&pause)), (pause.clone(), "container_t"));
    let file = of(format!("/proc/{pid}/root/bin/vaquita"));
    assert_eq!(level(&file), level(&pause));
    for path in ["etc/hosts", "dev/shm", "dev", "dev/mqueue", "volume"] {
        assert_eq!(of(format!("/proc/{pid}/root/{path}")), file, "{path}");
    }
    assert_eq!(node.inside(&id, &["make", "/volume/file", "0"]).await, (0, String::new()));
    assert_eq!(of(dir.path().join("file")), file);
    node.finish().await;
}
