//! Devices by the Container Device Interface.

use std::path::Path;

use serde_json::{Value, json};
use tonic::Code;
use vaquita_proto::cri;
use vaquita_testing::temp_dir;

use crate::support::{Node, container, pod};

/// A server with two directories of CDI files, and these.
async fn node() -> (Node, vaquita_testing::TempDir) {
    let dir = temp_dir();
    let mut node = Node::without_server();
    node.config.cdi_spec_dirs = ["etc", "run"].iter().map(|name| dir.path().join(name)).collect();
    node.config.runtimes.insert("runc".into(), "/usr/sbin/runc".into());
    for dir in &node.config.cdi_spec_dirs {
        std::fs::create_dir(dir).unwrap();
    }
    node.start().await;
    node.pull().await;
    (node, dir)
}

async fn create(
    node: &Node,
    sandbox: &str,
    args: &[&str],
    devices: &[&str],
) -> Result<String, tonic::Status> {
    let name = args.join("-").replace('/', "-");
    let cdi_devices = devices.iter().map(|name| cri::CdiDevice { name: (*name).into() }).collect();
    let config = cri::ContainerConfig { cdi_devices, ..container(&name, args) };
    node.create_as(sandbox, config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_what_its_devices_need() {
    let (node, dir) = node().await;
    let hello = dir.path().join("hello");
    std::fs::write(&hello, "from the host").unwrap();
    let file = format!(
        r"
cdiVersion: 0.7.0
kind: vendor.com/null
containerEdits:
  additionalGids: [4242]
devices:
- name: zero
  containerEdits:
    env: [CDI=zero]
    deviceNodes:
    - {{path: /dev/vendor/null, hostPath: /dev/null, uid: 7, gid: 8, fileMode: 0644}}
    - {{path: /dev/vendor/tun, type: c, major: 10, minor: 200}}
    mounts:
    - {{hostPath: {}, containerPath: /vendor/hello, options: [ro, nosuid]}}
",
        hello.display()
    );
    std::fs::write(dir.path().join("etc/vendor.yaml"), file).unwrap();
    // Pods get what the client asks for, not what they say themselves.
    let annotations = [("cdi.k8s.io/x".to_owned(), "vendor.com/none=none".to_owned())].into();
    let config = cri::PodSandboxConfig { annotations, ..pod("cdi") };
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let sandbox = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let id = create(&node, &sandbox, &["sleep"], &["vendor.com/null=zero"]).await.unwrap();
    node.start_container(&id).await;
    let run = async |args: &[&str]| {
        let cmd = ["/bin/vaquita"].iter().chain(args).map(|word| (*word).to_owned()).collect();
        let request = cri::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 60 };
        let answer = node.runtime().exec_sync(request).await.unwrap().into_inner();
        assert_eq!(answer.exit_code, 0, "{args:?}: {answer:?}");
        String::from_utf8(answer.stdout.to_vec()).unwrap()
    };
    assert_eq!(run(&["read", "/vendor/hello"]).await, "from the host");
    assert_eq!(run(&["read", "/dev/vendor/null"]).await, "");
    assert_eq!(run(&["owners", "/dev/vendor/null"]).await, "/dev/vendor/null 7:8\n");
    assert_eq!(run(&["owners", "/dev/vendor/tun"]).await, "/dev/vendor/tun 0:0\n");
    assert!(run(&["env"]).await.lines().any(|line| line == "CDI=zero"));
    let user = node.status(&id).await.user.unwrap().linux.unwrap();
    assert!(user.supplemental_groups.contains(&4242), "{user:?}");
    assert!(run(&["read", "/proc/self/status"]).await.contains("4242"));
    let mounts = run(&["read", "/proc/self/mountinfo"]).await;
    let mount = mounts.lines().find(|line| line.contains(" /vendor/hello ")).unwrap();
    assert!(mount.contains(" ro,nosuid"), "{mount}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_not_there_leave_nothing() {
    let (node, dir) = node().await;
    let sandbox = node.run("none").await;
    let before = node.check().len();
    let refused = async |devices: &[&str]| {
        let error = create(&node, &sandbox, &["sleep"], devices).await.unwrap_err();
        assert_eq!(node.check().len(), before);
        error
    };
    let error = refused(&["v.com/c=d"]).await;
    assert_eq!(error.code(), Code::NotFound);
    for dir in &node.config.cdi_spec_dirs {
        assert!(error.message().contains(dir.to_str().unwrap()), "{error:?}");
    }
    let text = r#"{"cdiVersion": "0.3.0", "kind": "v.com/c", "devices": [{"name": "d", "containerEdits": {"env": ["A=b"]}}]}"#;
    std::fs::write(dir.path().join("run/a.json"), text).unwrap();
    create(&node, &sandbox, &["exit", "0"], &["v.com/c=d"])
        .await
        .expect("files count from the moment they are there");
    let before = node.check().len();
    std::fs::write(dir.path().join("run/b.json"), text).unwrap();
    let error = create(&node, &sandbox, &["sleep"], &["v.com/c=d"]).await.unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("b.json"), "{error:?}");
    assert_eq!(node.check().len(), before);
    node.finish().await;
}

/// A CDI file of version 1.1.0 with one device, `v.com/c=d`.
fn write_device(dir: &Path, edits: &Value) {
    let devices = json!([{"name": "d", "containerEdits": edits}]);
    let text = json!({"cdiVersion": "1.1.0", "kind": "v.com/c", "devices": devices}).to_string();
    std::fs::write(dir.join("run/a.json"), text).unwrap();
}

fn shell(name: &str, script: &str, more: Value) -> Value {
    let mut hook = json!({"hookName": name, "path": "/bin/sh", "args": ["sh", "-c", script]});
    hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hook
}

impl Node {
    async fn sandbox_of(&self, name: &str, handler: &str) -> String {
        let request =
            cri::RunPodSandboxRequest { config: Some(pod(name)), runtime_handler: handler.to_owned() };
        self.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    async fn remove_container(&self, id: &str) {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.runtime().remove_container(request).await.unwrap();
    }
}

/// In the order of a container's life, each told how the container stands, by whatever makes the container.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_in_their_order() {
    let (node, dir) = node().await;
    let list = dir.path().join("list");
    let write = format!("echo \"$1 $(cat)\" >> {}", list.display());
    let names = ["createRuntime", "createContainer", "poststart", "poststop"];
    let mut hooks: Vec<Value> = names
        .map(|name| {
            json!({"hookName": name, "path": "/bin/sh", "args": ["sh", "-c", write, "sh", name], "env": ["PATH=/bin"]})
        })
        .into();
    // One of the container's own programs.
    hooks.push(json!({"hookName": "startContainer", "path": "/bin/vaquita", "args": ["vaquita", "make", "/made", "0"]}));
    write_device(dir.path(), &json!({"hooks": hooks}));
    for handler in ["", "runc"] {
        let is_ours = handler.is_empty();
        let sandbox = node.sandbox_of(&format!("hooks{handler}"), handler).await;
        let seen = || -> Vec<(String, Value)> {
            let text = std::fs::read_to_string(&list).unwrap_or_default();
            let line = |line: &str| {
                let (name, state) = line.split_once(' ').unwrap();
                (name.to_owned(), serde_json::from_str(state).unwrap())
            };
            text.lines().map(line).collect()
        };
        let id = create(&node, &sandbox, &["sleep"], &["v.com/c=d"]).await.unwrap();
        if is_ours {
            // runc 1.1 takes its creation for a start.
            assert_eq!(seen().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names[..2]);
        }
        node.start_container(&id).await;
        assert_eq!(seen().len(), 3, "those after the start end before the call does");
        assert_eq!(node.inside(&id, &["read", "/made"]).await, (0, "made".to_owned()));
        let pid = node.pid(&id).await;
        node.remove_container(&id).await;
        let seen = seen();
        assert_eq!(seen.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        for ((name, state), status) in seen.iter().zip(["creating", "creating", "running", "stopped"]) {
            assert_eq!(state["id"], id, "{name} {handler:?}");
            let annotation = |name: &str| &state["annotations"][format!("io.kubernetes.cri.{name}")];
            assert_eq!(
                (annotation("sandbox-id"), annotation("container-name")),
                (&json!(sandbox), &json!("sleep"))
            );
            if is_ours {
                assert_eq!(state["status"], status, "{name}");
                assert_eq!(state["pid"], if name == "poststop" { 0 } else { pid }, "{name}");
            }
        }
        std::fs::remove_file(&list).unwrap();
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_ends_what_it_belongs_to() {
    let (node, dir) = node().await;
    let sandbox = node.run("failing").await;
    let before = node.check().len();
    let gone = dir.path().join("gone");
    let farewell =
        shell("poststop", &format!("touch {}; exit 1", gone.display()), json!({"env": ["PATH=/bin"]}));
    let touched = || std::fs::remove_file(&gone).is_ok();

    for (hook, text) in [
        (
            shell("createRuntime", "echo no such gadget >&2; exit 3", json!({})),
            "ended with status 3: no such gadget",
        ),
        (shell("createContainer", "kill -9 $$", json!({})), "was ended by signal 9"),
        (
            shell("createRuntime", "while :; do :; done", json!({"timeout": 1})),
            "within its timeout of 1 seconds",
        ),
        (json!({"hookName": "createRuntime", "path": "/no/such/hook"}), "/no/such/hook"),
    ] {
        write_device(dir.path(), &json!({"hooks": [hook, farewell]}));
        let error = create(&node, &sandbox, &["sleep"], &["v.com/c=d"]).await.unwrap_err();
        assert!(error.message().contains(text), "{error:?}");
        assert_eq!(node.check().len(), before);
        assert!(touched(), "{text}");
    }

    let hook =
        json!({"hookName": "startContainer", "path": "/bin/vaquita", "args": ["vaquita", "exit", "3"]});
    let late = shell("poststart", "exit 1", json!({}));
    write_device(dir.path(), &json!({"hooks": [hook, late, farewell]}));
    let id = create(&node, &sandbox, &["sleep"], &["v.com/c=d"]).await.unwrap();
    let error = node
        .runtime()
        .start_container(cri::StartContainerRequest { container_id: id.clone() })
        .await
        .unwrap_err();
    assert!(error.message().contains("startContainer") && error.message().contains("status 3"), "{error:?}");
    let status = node.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    node.remove_container(&id).await;
    assert!(touched());
    assert_eq!(node.check().len(), before);

    // Those after the start and at the end may fail.
    write_device(dir.path(), &json!({"hooks": [late, farewell]}));
    let id = create(&node, &sandbox, &["sleep"], &["v.com/c=d"]).await.unwrap();
    node.start_container(&id).await;
    assert_eq!(node.status(&id).await.state(), cri::ContainerState::ContainerRunning);
    node.remove_container(&id).await;
    assert!(touched());
    assert_eq!(node.check().len(), before);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_of_the_host_becomes_the_containers() {
    let (node, dir) = node().await;
    let link = vaquita_testing::unique("cd");
    let ip = |args: &[&str]| std::process::Command::new("ip").args(args).status().unwrap();
    let peer = format!("{link}p");
    assert!(ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer]).success());
    let _gone = vaquita_testing::Defer::new(|| {
        // Where the pod has taken the other end with it there is nothing to delete.
        let there = std::fs::read_to_string("/proc/net/dev").unwrap().contains(&peer);
        assert!(!there || ip(&["link", "del", &peer]).success());
    });
    write_device(dir.path(), &json!({"netDevices": [{"hostInterfaceName": link, "name": "fast0"}]}));
    let sandbox = node.run("links").await;
    let id = create(&node, &sandbox, &["sleep"], &["v.com/c=d"]).await.unwrap();
    node.start_container(&id).await;
    let (_, text) = node.inside(&id, &["read", "/proc/self/net/dev"]).await;
    assert!(text.contains("fast0:") && text.contains("eth0:"), "{text}");
    let links = std::fs::read_to_string("/proc/net/dev").unwrap();
    assert!(links.contains(&peer) && !links.contains(&format!("{link}:")), "{links}");
    let runc = node.sandbox_of("runc", "runc").await;
    let error = create(&node, &runc, &["sleep"], &["v.com/c=d"]).await.unwrap_err();
    assert!(error.code() == Code::Unimplemented && error.message().contains("netDevices"), "{error:?}");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_the_host_does_not_have_is_refused() {
    let (node, dir) = node().await;
    let sandbox = node.run("class").await;
    let before = node.check().len();
    write_device(dir.path(), &json!({"intelRdt": {"closID": "vaquita-test", "schemata": ["MB:0=50"]}}));
    let has_resctrl = std::fs::read_to_string("/proc/mounts").unwrap().contains(" resctrl ");
    assert!(!has_resctrl, "this test is for hosts without");
    let error = create(&node, &sandbox, &["sleep"], &["v.com/c=d"]).await.unwrap_err();
    assert!(error.code() == Code::Unimplemented && error.message().contains("intelRdt"), "{error:?}");
    assert_eq!(node.check().len(), before);
    node.finish().await;
}
