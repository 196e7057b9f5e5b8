//! The lists in pieces.

use tonic::{Response, Streaming};
use vaquita_proto::cri;

use crate::support::{IMAGE, Node, container, pod};

async fn all<M, T>(response: Response<Streaming<M>>, items: fn(M) -> Vec<T>) -> Vec<T> {
    let mut stream = response.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        let items = items(message);
        assert!(!items.is_empty());
        all.extend(items);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_lists_agree() {
    let node = Node::new().await;
    let mut runtime = node.runtime();
    let mut config = pod("labelled");
    config.labels.insert("app".into(), "one".into());
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let one = runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let two = node.run("other").await;
    for sandbox in [&one, &two] {
        node.launch(sandbox, "main", &["sleep"]).await;
    }
    node.create(&one, "waiting", &["sleep"]).await;

    for filter in [
        None,
        Some(cri::PodSandboxFilter { id: one[..20].into(), ..Default::default() }),
        Some(cri::PodSandboxFilter {
            label_selector: [("app".into(), "one".into())].into(),
            ..Default::default()
        }),
        Some(cri::PodSandboxFilter { id: "none".into(), ..Default::default() }),
    ] {
        let list = cri::ListPodSandboxRequest { filter: filter.clone() };
        let listed = runtime.list_pod_sandbox(list).await.unwrap().into_inner().items;
        let stream = cri::StreamPodSandboxesRequest { filter };
        let stream = runtime.stream_pod_sandboxes(stream).await.unwrap();
        assert_eq!(all(stream, |message| message.pod_sandboxes).await, listed);
    }
    for (filter, number) in [
        (None, 3),
        (Some(cri::ContainerFilter { pod_sandbox_id: one.clone(), ..Default::default() }), 2),
        (Some(cri::ContainerFilter { id: one.clone(), ..Default::default() }), 0),
    ] {
        let list = cri::ListContainersRequest { filter: filter.clone() };
        let listed = runtime.list_containers(list).await.unwrap().into_inner().containers;
        assert_eq!(listed.len(), number);
        let stream = runtime.stream_containers(cri::StreamContainersRequest { filter }).await.unwrap();
        assert_eq!(all(stream, |message| message.containers).await, listed);
    }
    let filter = Some(cri::ContainerStatsFilter { pod_sandbox_id: one.clone(), ..Default::default() });
    let stream = cri::StreamContainerStatsRequest { filter };
    let measured =
        all(runtime.stream_container_stats(stream).await.unwrap(), |one| one.container_stats).await;
    let names: Vec<_> = measured
        .iter()
        .map(|stats| stats.attributes.as_ref().unwrap().metadata.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(names, ["main"], "one waits, and one is in another pod");
    assert!(measured[0].cpu.is_some() && measured[0].memory.is_some());
    let filter = Some(cri::PodSandboxStatsFilter { id: two.clone(), ..Default::default() });
    let stream = cri::StreamPodSandboxStatsRequest { filter };
    let measured =
        all(runtime.stream_pod_sandbox_stats(stream).await.unwrap(), |one| one.pod_sandbox_stats).await;
    assert_eq!(measured.len(), 1);
    assert_eq!(measured[0].attributes.as_ref().unwrap().id, two);

    let mut images = node.images();
    let listed = images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images;
    for (filter, number) in [(None, listed.len()), (Some(IMAGE), 1), (Some("not/here"), 0)] {
        let image = filter.map(|name| cri::ImageSpec { image: name.into(), ..Default::default() });
        let filter = Some(cri::ImageFilter { image });
        let stream = images.stream_images(cri::StreamImagesRequest { filter }).await.unwrap();
        assert_eq!(all(stream, |message| message.images).await, listed[..number]);
    }
    node.finish().await;
}

/// Annotations can make a list longer than any message.
#[tokio::test(flavor = "multi_thread")]
async fn what_fits_into_no_message_is_streamed() {
    let node = Node::new().await;
    let sandbox = node.run("many").await;
    let mut runtime = node.runtime();
    for number in 0..18 {
        let mut config = container(&format!("c{number}"), &[]);
        config.annotations.insert("a".into(), "x".repeat(1 << 20));
        node.create_as(&sandbox, config).await.unwrap();
    }
    let mut patient = runtime.clone().max_decoding_message_size(64 << 20);
    let error = patient.list_containers(cri::ListContainersRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::OutOfRange, "{error}");
    let stream = runtime.stream_containers(cri::StreamContainersRequest::default()).await.unwrap();
    assert_eq!(all(stream, |message| message.containers).await.len(), 18);
    node.finish().await;
}
