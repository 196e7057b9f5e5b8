//! Pods whose network is made by plugins.

mod debian;
mod plugins;
mod restart;

use tonic::Code;
use vaquita_proto::cri;

use self::plugins::{GOOD, Plugins};
use crate::support::{Node, pod};

fn request(name: &str) -> cri::RunPodSandboxRequest {
    cri::RunPodSandboxRequest { config: Some(pod(name)), ..Default::default() }
}

/// Why the network is not ready; none: it is.
async fn network(node: &Node) -> Option<String> {
    let status = node.runtime().status(cri::StatusRequest::default()).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    let condition = conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    assert_eq!(condition.reason.is_empty(), condition.status, "{condition:?}");
    (!condition.status).then_some(condition.message)
}

/// The attachments that the checker lists.
fn attachments(node: &Node) -> Vec<String> {
    let all = node.check().into_iter().filter(|resource| resource.kind == "attachment");
    all.map(|resource| resource.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_ready_when_its_plugins_are() {
    let (mut node, plugins) = Plugins::node();
    node.start().await;
    let missing = network(&node).await.unwrap();
    assert!(missing.contains("there is no network configuration"), "{missing}");
    let error = node.runtime().run_pod_sandbox(request("early")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(node.pods().await.is_empty());
    plugins.install("one", r#"[ "$CNI_COMMAND" = STATUS ] && [ -e "$dir/down" ] && { echo '{"code": 50, "msg": "no agent"}'; exit 1; }
[ "$CNI_COMMAND" = ADD ] && echo '{"ips": [{"address": "fd00::2/64"}, {"address": "10.1.0.2/24"}]}'; exit 0"#);
    plugins
        .configure("1.1.0", r#"{"type": "one", "capabilities": {"ipRanges": true, "portMappings": true}}"#);
    assert_eq!(network(&node).await, None);
    plugins.write("down", "");
    assert!(network(&node).await.unwrap().contains("no agent"));
    plugins.remove("down");
    plugins.write("conf/00-bad.conflist", "{");
    let bad = network(&node).await.unwrap();
    assert!(bad.contains("00-bad.conflist") && bad.contains("is not JSON"), "{bad}");
    plugins.remove("conf/00-bad.conflist");
    assert_eq!(network(&node).await, None);

    let update = |cidr: &str| cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig { pod_cidr: cidr.into() }),
        }),
    };
    let error = node.runtime().update_runtime_config(update("10.1.0.0")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    node.runtime().update_runtime_config(update("10.1.0.0/24,fd00::/64")).await.unwrap();
    node.kill();
    node.start().await;
    let mut config = pod("web");
    config.port_mappings =
        vec![cri::PortMapping { protocol: 0, container_port: 80, host_port: 8080, host_ip: String::new() }];
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let id = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let told = plugins.told("one", "ADD");
    assert_eq!(told["runtimeConfig"]["ipRanges"][0][0]["subnet"], "10.1.0.0/24");
    assert_eq!(told["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
    let args = plugins.variable("one", "ADD", "CNI_ARGS");
    assert_eq!(
        args,
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-web"
        )
    );
    let status = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = node.runtime().pod_sandbox_status(status).await.unwrap().into_inner().status.unwrap();
    let network = status.network.unwrap();
    assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.1.0.2", "fd00::2"));
    assert_eq!(attachments(&node), [id]);
    node.finish().await;
}

/// DEL fails while there is a file `broken`.
const BREAKS: &str = r#"[ "$CNI_COMMAND" = DEL ] && [ -e "$dir/broken" ] && { echo '{"code": 100, "msg": "cannot"}'; exit 1; }
[ "$CNI_COMMAND" = ADD ] && echo '{"ips": [{"address": "10.1.0.2/24"}]}'; exit 0"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_taken_back_stays_visible_until_it_is() {
    let (mut node, plugins) = Plugins::node();
    plugins.install("breaks", BREAKS);
    plugins.configure("1.0.0", r#"{"type": "breaks"}"#);
    node.start().await;
    let id = node.run("stuck").await;
    plugins.write("broken", "");
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    let error = node.runtime().stop_pod_sandbox(stop).await.unwrap_err();
    assert!(error.message().contains("plugin breaks (DEL): cannot (code 100)"), "{error}");
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    node.runtime().remove_pod_sandbox(remove).await.unwrap_err();
    let pods = node.pods().await;
    assert_eq!((pods[0].id.as_str(), pods[0].state()), (id.as_str(), cri::PodSandboxState::SandboxNotready));
    assert_eq!(attachments(&node), [id.as_str()]);
    // The namespace is there for the next try.
    let netns = plugins.variable("breaks", "DEL", "CNI_NETNS");
    assert!(
        netns.starts_with("/proc/") && netns.ends_with("/ns/net") && std::fs::metadata(&netns).is_ok(),
        "{netns}"
    );
    assert_eq!(plugins.variable("breaks", "ADD", "CNI_NETNS"), netns);
    plugins.remove("broken");
    // Nobody asks again.
    plugins::until(|| attachments(&node).is_empty()).await;
    plugins::until(|| std::fs::metadata(&netns).is_err()).await;
    assert_eq!(node.pods().await[0].state(), cri::PodSandboxState::SandboxNotready);
    node.remove_pod(&id).await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_could_not_be_made_is_removed_as_soon_as_it_can() {
    let (mut node, plugins) = Plugins::node();
    plugins.install("breaks", BREAKS);
    plugins.install(
        "no",
        r#"[ "$CNI_COMMAND" = ADD ] && { echo '{"code": 11, "msg": "later"}'; exit 1; }; exit 0"#,
    );
    plugins.configure("1.0.0", r#"{"type": "breaks"}, {"type": "no"}"#);
    node.start().await;
    // Taken back at once, when that is possible.
    let error = node.runtime().run_pod_sandbox(request("never")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("plugin no (ADD): later (code 11)"), "{error}");
    assert!(node.pods().await.is_empty() && attachments(&node).is_empty());
    // Else later, and it is listed until then.
    plugins.write("broken", "");
    let error = node.runtime().run_pod_sandbox(request("never")).await.unwrap_err();
    assert!(error.message().contains("taking it back failed too"), "{error}");
    assert_eq!(node.pods().await[0].state(), cri::PodSandboxState::SandboxNotready);
    plugins.remove("broken");
    while !node.pods().await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(attachments(&node).is_empty());
    node.finish().await;
}

/// Fifty pods at once. The plugin of one hangs, until all others were made, stopped and removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_delays_its_own_pod_only() {
    let (mut node, plugins) = Plugins::node();
    plugins.fifo("gate");
    plugins.install(
        "slow",
        r#"case "$CNI_COMMAND $CNI_ARGS" in "ADD "*K8S_POD_NAME=slow\;*) cat "$dir/gate" >/dev/null;; esac
[ "$CNI_COMMAND" = ADD ] && echo '{"ips": [{"address": "10.1.0.2/24"}]}'; exit 0"#,
    );
    plugins.configure("1.1.0", r#"{"type": "slow"}"#);
    node.start().await;
    let mut client = node.runtime();
    let slow = tokio::spawn(async move { client.run_pod_sandbox(request("slow")).await.map(drop) });
    plugins::until(|| plugins.log().iter().any(|line| line.starts_with("ADD slow"))).await;
    let mut others = tokio::task::JoinSet::new();
    for number in 0..49 {
        let mut client = node.runtime();
        others.spawn(async move {
            let answer = client.run_pod_sandbox(request(&format!("fast-{number}"))).await.unwrap();
            let pod_sandbox_id = answer.into_inner().pod_sandbox_id;
            client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
        });
    }
    while let Some(done) = others.join_next().await {
        done.unwrap();
    }
    assert_eq!(network(&node).await, None);
    assert!(!slow.is_finished());
    plugins.open("gate").await;
    slow.await.unwrap().unwrap();
    assert_eq!(node.pods().await.len(), 1);
    node.finish().await;
}

/// A pod keeps the network that it was connected with.
#[tokio::test(flavor = "multi_thread")]
async fn the_choice_of_the_network_is_for_new_pods() {
    let (mut node, plugins) = Plugins::node();
    plugins.install("one", GOOD);
    node.config.cni.choice = vaquita_cri::NetworkChoice::Auto;
    node.start().await;
    let builtin = node.run("builtin").await;
    assert!(attachments(&node).is_empty());
    node.kill();
    plugins.configure("1.0.0", r#"{"type": "one"}"#);
    node.start().await;
    let cni = node.run("cni").await;
    assert_eq!(attachments(&node), [cni.as_str()]);
    node.remove_pod(&builtin).await;
    node.kill();
    node.config.cni.choice = vaquita_cri::NetworkChoice::Builtin;
    plugins.remove("conf/10-net.conflist");
    node.start().await;
    let other = node.run("other").await;
    assert_eq!(attachments(&node), [cni.as_str()]);
    node.remove_pod(&cni).await;
    assert_eq!(plugins.log().iter().filter(|line| line.starts_with("DEL one")).count(), 1);
    node.remove_pod(&other).await;
    node.finish().await;
}

/// What plugins say takes time; whoever asks for the status gets an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_tell_its_status_keeps_nobody() {
    let (mut node, plugins) = Plugins::node();
    plugins.fifo("gate");
    plugins.write("mute", "");
    plugins.install(
        "quiet",
        r#"[ "$CNI_COMMAND" = STATUS ] && [ -e "$dir/mute" ] && cat "$dir/gate" >/dev/null; exit 0"#,
    );
    plugins.configure("1.1.0", r#"{"type": "quiet"}"#);
    node.start().await;
    let unknown = network(&node).await.unwrap();
    assert!(unknown.contains("have not said yet"), "{unknown}");
    // It is asked once, however many want to know.
    network(&node).await.unwrap();
    assert_eq!(plugins.log().iter().filter(|line| line.starts_with("STATUS")).count(), 1);
    plugins.remove("mute");
    plugins.open("gate").await;
    while network(&node).await.is_some() {}
    node.finish().await;
}
