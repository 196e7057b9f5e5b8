//! Devices by the Container Device Interface.

use tonic::Code;
use vaquita_cri::OciRuntime;
use vaquita_proto::cri;
use vaquita_testing::temp_dir;

use crate::support::{Node, container, pod};

/// A server with two directories of CDI files, and these.
async fn node() -> (Node, vaquita_testing::TempDir) {
    let dir = temp_dir();
    let mut node = Node::without_server();
    node.config.cdi_spec_dirs = ["etc", "run"].iter().map(|name| dir.path().join(name)).collect();
    let runc = OciRuntime { program: "/usr/sbin/runc".into(), systemd_cgroup: false };
    node.config.runtimes.insert("runc".into(), runc);
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

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_run_by_a_runtime_that_runs_them() {
    let (node, dir) = node().await;
    let marker = dir.path().join("marker");
    let file = format!(
        r#"{{"cdiVersion": "0.3.0", "kind": "v.com/c", "devices": [{{"name": "d", "containerEdits": {{"hooks": [
            {{"hookName": "createRuntime", "path": "/usr/bin/touch", "args": ["touch", "{}"]}}]}}}}]}}"#,
        marker.display()
    );
    std::fs::write(dir.path().join("run/a.json"), file).unwrap();
    let own = node.run("own").await;
    let error = create(&node, &own, &["sleep"], &["v.com/c=d"]).await.unwrap_err();
    assert!(error.code() == Code::Unimplemented && error.message().contains("/usr/bin/touch"), "{error:?}");
    let request = cri::RunPodSandboxRequest { config: Some(pod("runc")), runtime_handler: "runc".to_owned() };
    let sandbox = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    assert!(!marker.exists());
    create(&node, &sandbox, &["exit", "0"], &["v.com/c=d"]).await.unwrap();
    assert!(marker.exists());
    node.finish().await;
}
