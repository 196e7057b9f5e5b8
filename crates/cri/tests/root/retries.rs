//! A client that asks again gets what it asked for, once.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tonic::Code;
use vaquita_proto::cri;

use crate::support::{Node, container, pod};

#[tokio::test(flavor = "multi_thread")]
async fn retries_join_or_get_what_is_there() {
    let node = Node::new().await;
    let (one, two) = tokio::join!(node.run("same"), node.run("same"));
    assert_eq!(one, two);
    assert_eq!(node.run("same").await, one);
    assert_eq!(node.pods().await.len(), 1);

    let mut other = pod("same");
    other.labels.insert("new".into(), "label".into());
    let request = cri::RunPodSandboxRequest { config: Some(other), ..Default::default() };
    assert_eq!(node.runtime().run_pod_sandbox(request).await.unwrap_err().code(), Code::AlreadyExists);

    let create = || node.create(&one, "main", &["sleep"]);
    let (first, second) = tokio::join!(create(), create());
    assert_eq!(first, second);
    assert_eq!(create().await, first);
    tokio::join!(node.start_container(&first), node.start_container(&first));
    node.start_container(&first).await;
    let another = node.create_as(&one, container("main", &["exit", "0"])).await;
    assert_eq!(another.unwrap_err().code(), Code::AlreadyExists);

    let stop = || async {
        let request = cri::StopContainerRequest { container_id: first.clone(), timeout: 60 };
        node.runtime().stop_container(request).await.unwrap();
    };
    tokio::join!(stop(), stop());
    assert_eq!(node.exited(&first).await.exit_code, 143);
    tokio::join!(node.stop_pod(&one), node.stop_pod(&one), node.remove_pod(&one), node.remove_pod(&one));
    assert!(node.pods().await.is_empty());
    node.finish().await;
}

/// Whoever stops a pod that somebody else removes is told that it is stopped, and nothing is written where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_may_be_stopped_while_it_is_removed() {
    let node = Node::new().await;
    for round in 0..30 {
        let id = node.run(&format!("pod{round}")).await;
        let stops = || async {
            for _ in 0..30 {
                node.stop_pod(&id).await;
            }
        };
        tokio::join!(node.remove_pod(&id), stops(), stops(), stops());
        assert!(node.pods().await.is_empty());
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_nothing() {
    let node = Node::new().await;
    {
        let mut request = pin!(node.run("left"));
        // Far enough that the request is on its way, and then gone.
        poll_fn(|context| {
            assert!(request.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::select! {
            biased;
            _ = &mut request => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(2)) => {}
        }
    }
    // Whether it had begun or not: asking again gives the one sandbox.
    let id = node.run("left").await;
    let pods = node.pods().await;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].id, id);
    node.finish().await;
}

/// containerd#4604: a shorter grace period overrides a longer one that runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_grace_period_wins() {
    let node = Node::new().await;
    let sandbox = node.run("grace").await;
    let mut config = container("deaf", &["sleep"]);
    // The first process of a PID namespace ignores what it has no handler for.
    config.linux = Some(cri::LinuxContainerConfig {
        security_context: Some(cri::LinuxContainerSecurityContext {
            namespace_options: Some(cri::NamespaceOption { pid: 1, ..Default::default() }),
            ..Default::default()
        }),
        resources: None,
    });
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(config),
        sandbox_config: None,
    };
    let id = node.runtime().create_container(request).await.unwrap().into_inner().container_id;
    node.start_container(&id).await;
    let stop = |timeout| {
        let request = cri::StopContainerRequest { container_id: id.clone(), timeout };
        let mut client = node.runtime();
        async move { client.stop_container(request).await.unwrap() }
    };
    tokio::join!(stop(100_000), stop(1));
    assert_eq!(node.status(&id).await.exit_code, 137);
    node.finish().await;
}
