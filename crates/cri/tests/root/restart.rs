//! A server may die at any moment: the next one knows everything.

use vaquita_proto::cri;

use crate::support::Node;

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_taken_up_again() {
    let mut node = Node::new().await;
    let sandbox = node.run("kept").await;
    let running = node.launch(&sandbox, "running", &["sleep"]).await;
    let created = node.create(&sandbox, "created", &["exit", "3"]).await;
    let ended = node.launch(&sandbox, "ended", &["exit", "5"]).await;
    node.exited(&ended).await;
    let stopped = node.run("stopped").await;
    node.stop_pod(&stopped).await;
    let before = node.status(&running).await;

    node.kill();
    node.start().await;

    assert_eq!(node.status(&running).await, before);
    assert_eq!(node.exited(&ended).await.exit_code, 5);
    assert_eq!(node.status(&created).await.state(), cri::ContainerState::ContainerCreated);
    node.start_container(&created).await;
    assert_eq!(node.exited(&created).await.exit_code, 3);
    let pods = node.pods().await;
    let state = |id: &str| pods.iter().find(|pod| pod.id == id).unwrap().state();
    assert_eq!(state(&sandbox), cri::PodSandboxState::SandboxReady);
    assert_eq!(state(&stopped), cri::PodSandboxState::SandboxNotready);
    // The retry of a call whose answer was lost.
    assert_eq!(node.run("kept").await, sandbox);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_died_meanwhile_is_seen() {
    let mut node = Node::new().await;
    let sandbox = node.run("bereft").await;
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let shim = node
        .check()
        .into_iter()
        .find(|resource| resource.note.starts_with("vaquita-shim"))
        .and_then(|resource| rustix::process::Pid::from_raw(resource.name.parse().unwrap()))
        .unwrap();
    node.kill();
    let pidfd = rustix::process::pidfd_open(shim, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    node.start().await;
    let status = node.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(node.pods().await[0].state(), cri::PodSandboxState::SandboxNotready);
    node.finish().await;
}

/// Killed again and again while pods come and go: whatever was half made is gone at the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_made_is_removed() {
    let mut node = Node::new().await;
    for round in 0..12_u64 {
        {
            let cycle = |number: u64| {
                let node = &node;
                async move {
                    let name = format!("half-{round}-{number}");
                    let config = crate::support::pod(&name);
                    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
                    let Ok(answer) = node.runtime().run_pod_sandbox(request).await else { return };
                    let sandbox = answer.into_inner().pod_sandbox_id;
                    let config = crate::support::container("main", &["sleep"]);
                    let Ok(container_id) = node.create_as(&sandbox, config).await else { return };
                    let _ = node.runtime().start_container(cri::StartContainerRequest { container_id }).await;
                    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
                    let _ = node.runtime().remove_pod_sandbox(request).await;
                }
            };
            // A different moment in each round; none is asserted.
            let moment = tokio::time::sleep(std::time::Duration::from_millis(round * 4));
            tokio::select! {
                _ = async { tokio::join!(cycle(0), cycle(1), cycle(2)) } => {}
                () = moment => {}
            }
        }
        node.kill();
        node.start().await;
        node.check();
        for pod in node.pods().await {
            node.remove_pod(&pod.id).await;
        }
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remnants_without_records_are_swept() {
    let mut node = Node::new().await;
    node.kill();
    let id = "cd".repeat(32);
    std::fs::create_dir_all(node.config.state.join("pods").join(&id).join("containers")).unwrap();
    let layout = vaquita_cgroup::Layout::detect().unwrap();
    let path = node.config.cgroup_root.join(&id);
    vaquita_cgroup::Cgroup::create(&layout, &path, &vaquita_cgroup::Resources::default()).unwrap();
    let orphans = vaquita_cri::check::inventory(&node.config).unwrap();
    assert!(orphans.iter().any(|orphan| orphan.owner.is_none() && orphan.kind == "cgroup"), "{orphans:#?}");
    node.start().await;
    assert!(!node.config.state.join("pods").join(&id).exists());
    // Groups are swept while requests are answered already.
    while vaquita_cgroup::Cgroup::open(&layout, &path).is_ok() {
        tokio::task::yield_now().await;
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_with_a_state_of_its_own_harms_nobody() {
    let mut node = Node::new().await;
    let sandbox = node.run("here").await;
    let mut other = Node::without_server();
    other.config.cgroup_root = node.config.cgroup_root.clone();
    let error = vaquita_cri::Server::start(other.config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), vaquita_cri::Kind::Busy);
    assert!(error.to_string().contains("belongs to the node whose state is in"), "{error}");
    // Nor when the first has no server at the moment.
    node.kill();
    assert!(vaquita_cri::Server::start(other.config.clone()).await.is_err());
    node.start().await;
    let pods = node.pods().await;
    assert_eq!(pods[0].id, sandbox);
    assert_eq!(pods[0].state(), cri::PodSandboxState::SandboxReady);
    node.finish().await;
}
