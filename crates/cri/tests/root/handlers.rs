//! Runtime handlers: pods whose containers runc or crun makes are pods like others.

use std::path::Path;

use tonic::Code;
use vaquita_proto::cri;
use vaquita_testing::{crun, temp_dir};

use crate::support::{Node, container, pod};

#[tokio::test(flavor = "multi_thread")]
async fn runc_makes_the_containers_of_pods_that_ask_for_it() {
    life(Path::new("/usr/sbin/runc")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crun_makes_the_containers_of_pods_that_ask_for_it() {
    let dir = temp_dir();
    life(&crun(dir.path())).await;
}

async fn life(program: &Path) {
    let mut node = with("other", program).await;
    let status = node.runtime().status(cri::StatusRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["", "vaquita", "other"]);
    let features = status.runtime_handlers[2].features.unwrap();
    // crun says nothing before its 1.8.6.
    let said = std::process::Command::new(program).arg("features").output().unwrap();
    let says_features = said.status.success() && String::from_utf8_lossy(&said.stdout).contains("\"rro\"");
    assert_eq!((features.recursive_read_only_mounts, features.user_namespaces), (says_features, false));

    let logs = temp_dir();
    let config = cri::PodSandboxConfig { log_directory: logs.path().display().to_string(), ..pod("other") };
    let request =
        cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "other".to_owned() };
    let sandbox = node.runtime().run_pod_sandbox(request.clone()).await.unwrap().into_inner().pod_sandbox_id;
    assert_eq!(node.pods().await[0].runtime_handler, "other");
    let again = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    assert_eq!(again, sandbox);

    let said = create(&node, &sandbox, "said", &["echo", "hello"]).await;
    node.start_container(&said).await;
    assert_eq!(node.exited(&said).await.exit_code, 0);
    let log = std::fs::read_to_string(logs.path().join("said.log")).unwrap();
    assert!(log.ends_with(" stdout P hello\n"), "{log:?}");
    let kept = create(&node, &sandbox, "kept", &["sleep"]).await;
    node.start_container(&kept).await;
    let created = create(&node, &sandbox, "created", &["exit", "3"]).await;
    assert_eq!(exec(&node, &kept, &["/bin/vaquita", "echo", "in"]).await, (b"in".to_vec(), 0));
    let before = node.status(&kept).await;

    // What was made is there whatever becomes of the server, and goes on even if it does not know the handler any more.
    node.kill();
    let runtimes = std::mem::take(&mut node.config.runtimes);
    node.start().await;
    assert_eq!(node.status(&kept).await, before);
    assert_eq!(exec(&node, &kept, &["/bin/vaquita", "exit", "4"]).await.1, 4);
    let error = node.create_as(&sandbox, container("new", &["sleep"])).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("\"other\" is not configured any more"), "{error}");
    node.start_container(&created).await;
    assert_eq!(node.exited(&created).await.exit_code, 3);
    node.check();
    node.kill();
    node.config.runtimes = runtimes;
    node.start().await;
    let last = create(&node, &sandbox, "last", &["sleep"]).await;
    node.start_container(&last).await;
    let stop = cri::StopContainerRequest { container_id: kept.clone(), timeout: 0 };
    node.runtime().stop_container(stop).await.unwrap();
    assert_eq!(node.status(&kept).await.exit_code, 137);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_handler_that_is_gone_can_be_removed() {
    let dir = temp_dir();
    let program = dir.path().join("runc");
    std::fs::copy("/usr/sbin/runc", &program).unwrap();
    let mut node = with("other", &program).await;
    let request =
        cri::RunPodSandboxRequest { config: Some(pod("other")), runtime_handler: "other".to_owned() };
    let sandbox = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let id = node.create(&sandbox, "main", &["sleep"]).await;
    node.start_container(&id).await;
    node.kill();
    node.config.runtimes.clear();
    std::fs::remove_file(&program).unwrap();
    node.start().await;
    let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    node.runtime().stop_container(stop).await.unwrap();
    node.remove_pod(&sandbox).await;
    assert!(node.pods().await.is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_handler_is_refused() {
    let node = with("other", Path::new("/nothing/there")).await;
    let run = |handler: &str| cri::RunPodSandboxRequest {
        config: Some(pod("pod")),
        runtime_handler: handler.to_owned(),
    };
    let error = node.runtime().run_pod_sandbox(run("unknown")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("\"unknown\" is unknown; there is \"vaquita\", other"), "{error}");
    assert!(node.pods().await.is_empty());
    // Another handler is another pod.
    node.run("pod").await;
    let error = node.runtime().run_pod_sandbox(run("vaquita")).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    // One whose program is not there says so with its first container.
    let request =
        cri::RunPodSandboxRequest { config: Some(pod("other")), runtime_handler: "other".to_owned() };
    let sandbox = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let error = node.create_as(&sandbox, container("main", &["sleep"])).await.unwrap_err();
    assert!(error.message().contains("/nothing/there"), "{error}");
    node.finish().await;
}

async fn with(name: &str, program: &Path) -> Node {
    let mut node = Node::without_server();
    node.config.runtimes.insert(name.to_owned(), program.to_owned());
    node.start().await;
    node.pull().await;
    node
}

/// A container that logs.
async fn create(node: &Node, sandbox: &str, name: &str, args: &[&str]) -> String {
    let config = cri::ContainerConfig { log_path: format!("{name}.log"), ..container(name, args) };
    node.create_as(sandbox, config).await.unwrap()
}

async fn exec(node: &Node, id: &str, cmd: &[&str]) -> (Vec<u8>, i32) {
    let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
    let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 60 };
    let answer = node.runtime().exec_sync(request).await.unwrap().into_inner();
    (answer.stdout.to_vec(), answer.exit_code)
}
