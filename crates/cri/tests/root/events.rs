//! What is announced.

use vaquita_proto::cri;
use vaquita_proto::cri::ContainerEventType as Kind;

use crate::support::Node;

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_happens_is_told_in_order() {
    let node = Node::new().await;
    let mut stream =
        node.runtime().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let sandbox = node.run("told").await;
    let id = node.launch(&sandbox, "main", &["exit", "3"]).await;
    node.exited(&id).await;
    node.remove_pod(&sandbox).await;
    let wanted = [
        (&sandbox, Kind::ContainerCreatedEvent),
        (&sandbox, Kind::ContainerStartedEvent),
        (&id, Kind::ContainerCreatedEvent),
        (&id, Kind::ContainerStartedEvent),
        (&id, Kind::ContainerStoppedEvent),
        (&sandbox, Kind::ContainerStoppedEvent),
        (&id, Kind::ContainerDeletedEvent),
        (&sandbox, Kind::ContainerDeletedEvent),
    ];
    let mut before = 0;
    for (id, kind) in wanted {
        let event = stream.message().await.unwrap().unwrap();
        assert_eq!((&event.container_id, event.container_event_type()), (id, kind), "{event:#?}");
        assert!(event.created_at >= before, "{event:#?}");
        before = event.created_at;
        // One without it is nothing to kubelet: also the last shows the sandbox that is gone.
        let shown = event.pod_sandbox_status.unwrap();
        assert_eq!((&shown.id, shown.metadata.unwrap().name.as_str()), (&sandbox, "told"));
    }
    drop(stream);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_shows_the_pod() {
    let node = Node::new().await;
    let sandbox = node.run("shown").await;
    let id = node.create(&sandbox, "main", &["sleep"]).await;
    let mut stream =
        node.runtime().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    node.start_container(&id).await;
    let event = stream.message().await.unwrap().unwrap();
    assert_eq!(event.container_event_type(), Kind::ContainerStartedEvent);
    let status = event.pod_sandbox_status.unwrap();
    assert_eq!((status.id.as_str(), status.state()), (sandbox.as_str(), cri::PodSandboxState::SandboxReady));
    assert_eq!(event.containers_statuses.len(), 1);
    assert_eq!(event.containers_statuses[0].state(), cri::ContainerState::ContainerRunning);
    node.remove_pod(&sandbox).await;
    node.finish().await;
}
