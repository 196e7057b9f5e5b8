//! What is measured, as kubelet takes it when it has switched its own measuring off.

use std::collections::{BTreeMap, BTreeSet};

use vaquita_proto::cri;

use crate::support::{IMAGE, Node, container, pod};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_as_described_and_measured() {
    let node = Node::new().await;
    let mut runtime = node.runtime();
    let sandbox = node.run("measured").await;
    let mut config = container("main", &["sleep"]);
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 512,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    };
    config.linux = Some(cri::LinuxContainerConfig { resources: Some(resources), security_context: None });
    let id = node.create_as(&sandbox, config).await.unwrap();
    node.start_container(&id).await;
    node.create(&sandbox, "waiting", &["sleep"]).await;

    let descriptors = runtime.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await.unwrap();
    let keys: BTreeMap<_, _> = descriptors
        .into_inner()
        .descriptors
        .into_iter()
        .map(|descriptor| (descriptor.name, descriptor.label_keys))
        .collect();
    let request = cri::ListPodSandboxMetricsRequest {};
    let pods = runtime.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].pod_sandbox_id, sandbox);
    assert_eq!(pods[0].container_metrics.len(), 1, "one only waits");
    let of_container = &pods[0].container_metrics[0];
    assert_eq!(of_container.container_id, id);

    let mut seen = BTreeSet::new();
    for metric in pods[0].metrics.iter().chain(&of_container.metrics) {
        let keys = keys.get(&metric.name).unwrap_or_else(|| panic!("{} is not described", metric.name));
        assert_eq!(metric.label_values.len(), keys.len(), "{metric:?}");
        assert!(seen.insert((&metric.name, &metric.label_values)), "twice: {metric:?}");
        let labels: BTreeMap<_, _> =
            keys.iter().map(String::as_str).zip(metric.label_values.iter().map(String::as_str)).collect();
        assert_eq!((labels["pod"], labels["namespace"]), ("measured", "default"));
        let is_pods = metric.name.starts_with("container_network_");
        let expected = if is_pods { ("", "", "") } else { ("main", IMAGE, id.as_str()) };
        assert_eq!((labels["container"], labels["image"], labels["name"]), expected);
        if is_pods {
            assert_eq!(labels["interface"], "eth0");
        }
    }
    let value = |name: &str| {
        let found = of_container.metrics.iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).value.unwrap().value
    };
    assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
    assert_eq!(value("container_spec_cpu_shares"), 512);
    assert_eq!(value("container_spec_cpu_quota"), 50_000);
    assert_eq!(value("container_processes"), 1);
    assert!(value("container_threads") >= 1);
    assert!(value("container_file_descriptors") >= 3);
    assert!((1..64 << 20).contains(&value("container_memory_working_set_bytes")));
    assert!(value("container_memory_usage_bytes") >= value("container_memory_working_set_bytes"));
    assert!(value("container_start_time_seconds") <= value("container_last_seen"));
    assert!(value("container_fs_limit_bytes") > value("container_fs_usage_bytes"));
    assert_eq!(pods[0].metrics.len(), 8);

    let request = cri::StreamPodSandboxMetricsRequest {};
    let mut stream = runtime.stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.pod_sandbox_metrics[0].container_metrics[0].container_id, id);
    assert!(stream.message().await.unwrap().is_none());
    node.finish().await;
}

/// The host's interfaces are not the pod's.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_the_network_of_the_host_has_no_network_figures() {
    let node = Node::new().await;
    let mut runtime = node.runtime();
    let mut config = pod("host");
    config.linux = Some(cri::LinuxPodSandboxConfig {
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(cri::NamespaceOption {
                network: cri::NamespaceMode::Node as i32,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    });
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let id = runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let request = cri::ListPodSandboxMetricsRequest {};
    let pods = runtime.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics;
    assert_eq!(pods[0].metrics, []);
    let stats = runtime.pod_sandbox_stats(cri::PodSandboxStatsRequest { pod_sandbox_id: id }).await.unwrap();
    let linux = stats.into_inner().stats.unwrap().linux.unwrap();
    assert!(linux.network.is_none());
    assert!(linux.cpu.is_some() && linux.memory.is_some());
    assert!(linux.process.unwrap().process_count.unwrap().value >= 1);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_other_limits_and_remembers_them() {
    let mut node = Node::new().await;
    let sandbox = node.run("resized").await;
    let ask = |id: &str, memory: i64| cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.into(),
        overhead: None,
        resources: Some(cri::LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() }),
    };
    let mut runtime = node.runtime();
    let error = runtime.update_pod_sandbox_resources(ask(&"ab".repeat(32), 1)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound, "{error}");
    runtime.update_pod_sandbox_resources(ask(&sandbox, 256 << 20)).await.unwrap();
    node.kill();
    node.start().await;
    let mut runtime = node.runtime();
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
    let status = runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    let limit = &info["resources"]["resources"];
    assert!(limit.to_string().contains(&(256 << 20).to_string()), "{info}");
    // The cgroup is of the server, so the server has set it.
    let stats = runtime
        .pod_sandbox_stats(cri::PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() })
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    let memory = stats.linux.unwrap().memory.unwrap();
    let all = memory.available_bytes.unwrap().value + memory.working_set_bytes.unwrap().value;
    assert_eq!(all, 256 << 20);
    node.stop_pod(&sandbox).await;
    let error = runtime.update_pod_sandbox_resources(ask(&sandbox, 1 << 30)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
    node.finish().await;
}

/// Lists may tell what was measured a moment ago, with the time of that; it never goes back, and what is new is in there.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_recent_and_one_object_is_measured_at_once() {
    let node = Node::new().await;
    let mut runtime = node.runtime();
    let sandbox = node.run("sampled").await;
    let id = node.launch(&sandbox, "first", &["sleep"]).await;
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_nanos()).unwrap()
    };
    let begin = now();
    let (mut last, mut times) = (begin, BTreeSet::new());
    // More than one measurement, some of them given out again.
    while times.len() < 4 {
        let request = cri::ListContainerStatsRequest::default();
        let stats = runtime.list_container_stats(request).await.unwrap().into_inner().stats;
        let cpu = stats[0].cpu.unwrap();
        assert!((last..=now()).contains(&cpu.timestamp), "{} after {last}", cpu.timestamp);
        assert!(now() - cpu.timestamp < 2_100_000_000, "too old");
        assert_eq!(stats[0].memory.as_ref().unwrap().timestamp, cpu.timestamp);
        let disk = stats[0].writable_layer.as_ref().unwrap();
        assert!((begin..=now()).contains(&disk.timestamp), "the time at which the files were counted");
        last = cpu.timestamp;
        times.insert(last);
        let request = cri::ListPodSandboxStatsRequest::default();
        let pods = runtime.list_pod_sandbox_stats(request).await.unwrap().into_inner().stats;
        let linux = pods[0].linux.as_ref().unwrap();
        assert!(linux.containers[0].cpu.as_ref().unwrap().timestamp >= last);
        assert!(linux.network.as_ref().unwrap().timestamp <= now());
    }
    let before = now();
    let request = cri::ContainerStatsRequest { container_id: id.clone() };
    let one = runtime.container_stats(request).await.unwrap().into_inner().stats.unwrap().cpu.unwrap();
    assert!((before..=now()).contains(&one.timestamp));
    let request = cri::ListContainerStatsRequest::default();
    let stats = runtime.list_container_stats(request).await.unwrap().into_inner().stats;
    assert!(stats[0].cpu.as_ref().unwrap().timestamp >= one.timestamp, "the list knows of it");

    let metrics = |mut runtime: cri::runtime_service_client::RuntimeServiceClient<_>| async move {
        let request = cri::ListPodSandboxMetricsRequest {};
        runtime.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics
    };
    assert_eq!(metrics(node.runtime()).await[0].container_metrics.len(), 1);
    node.launch(&sandbox, "second", &["sleep"]).await;
    assert_eq!(metrics(node.runtime()).await[0].container_metrics.len(), 2);
    let request = cri::ListContainerStatsRequest::default();
    assert_eq!(runtime.list_container_stats(request).await.unwrap().into_inner().stats.len(), 2);
    node.stop_pod(&sandbox).await;
    assert_eq!(metrics(node.runtime()).await.len(), 0);
    node.finish().await;
}
