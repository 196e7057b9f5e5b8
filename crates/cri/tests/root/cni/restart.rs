//! A server that ends in the middle, and the next one.

use serde_json::json;
use vaquita_proto::cri;

use super::plugins::{GOOD, Plugins, until};
use super::{attachments, request};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_connected_is_taken_back() {
    let (mut node, plugins) = Plugins::node();
    plugins.fifo("gate");
    plugins.install("first", GOOD);
    plugins.install(
        "second",
        r#"case "$CNI_COMMAND $CNI_ARGS" in "ADD "*K8S_POD_NAME=half\;*) cat "$dir/gate" >/dev/null;; esac
[ "$CNI_COMMAND" = ADD ] && echo '{"ips": [{"address": "10.1.0.2/24"}]}'; exit 0"#,
    );
    plugins.configure("1.0.0", r#"{"type": "first"}, {"type": "second"}"#);
    node.start().await;
    let mut client = node.runtime();
    let call = tokio::spawn(async move { client.run_pod_sandbox(request("half")).await });
    until(|| plugins.log().iter().any(|line| line.starts_with("ADD second"))).await;
    let id = attachments(&node).remove(0);
    node.kill();
    assert!(call.await.unwrap().is_err());
    // Its plugin goes on, and is let finish; nobody else waits for that.
    node.start().await;
    assert_eq!(node.pods().await[0].state(), cri::PodSandboxState::SandboxNotready);
    let other = node.run("other").await;
    node.remove_pod(&other).await;
    assert_eq!(attachments(&node), [id.as_str()]);
    assert!(!plugins.log().contains(&format!("DEL second {id}")));
    plugins.open("gate").await;
    while !node.pods().await.is_empty() {
        tokio::task::yield_now().await;
    }
    let expected = ["ADD first", "ADD second", "DEL second", "DEL first"];
    let log: Vec<_> = plugins.log().into_iter().filter(|line| line.ends_with(&id)).collect();
    assert_eq!(log, expected.map(|line| format!("{line} {id}")));
    assert!(attachments(&node).is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_taken_back_goes_on_and_delays_no_start() {
    let (mut node, plugins) = Plugins::node();
    plugins.fifo("gate");
    plugins.install(
        "breaks",
        r#"if [ "$CNI_COMMAND" = DEL ]; then
    [ -e "$dir/broken" ] && exit 1
    [ -e "$dir/slow" ] && cat "$dir/gate" >/dev/null
fi
[ "$CNI_COMMAND" = ADD ] && echo '{"ips": [{"address": "10.1.0.2/24"}]}'; exit 0"#,
    );
    plugins.configure("1.0.0", r#"{"type": "breaks"}"#);
    node.start().await;
    let id = node.run("going").await;
    plugins.write("broken", "");
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    node.runtime().stop_pod_sandbox(stop).await.unwrap_err();
    node.kill();
    plugins.write("slow", "");
    plugins.remove("broken");
    // It hangs now; the socket is there all the same.
    node.start().await;
    assert_eq!(node.pods().await[0].state(), cri::PodSandboxState::SandboxNotready);
    let other = node.run("other").await;
    assert_eq!(attachments(&node).len(), 2);
    plugins.remove("slow");
    plugins.open("gate").await;
    until(|| attachments(&node) == [other.clone()]).await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_told_what_is_in_use() {
    let (mut node, plugins) = Plugins::node();
    plugins.install("one", GOOD);
    plugins.configure("1.1.0", r#"{"type": "one"}"#);
    node.start().await;
    let (kept, gone) = (node.run("kept").await, node.run("gone").await);
    node.kill();
    // As after the host was started anew: the sandbox is not there any more, what plugins gave out is.
    let lost = "ab".repeat(32);
    let record = node.config.root.join("cni").join(format!("{gone}.json"));
    let text = std::fs::read_to_string(&record).unwrap().replace(&gone, &lost);
    std::fs::write(node.config.root.join("cni").join(format!("{lost}.json")), text).unwrap();
    let all = vaquita_cri::check::inventory(&node.config).unwrap();
    assert!(
        all.iter().any(|one| one.kind == "attachment" && one.name == lost && one.owner.is_none()),
        "{all:#?}"
    );
    node.start().await;
    until(|| plugins.path("one.GC.stdin").exists() && !attachments(&node).contains(&lost)).await;
    let mut valid = [&kept, &gone].map(|id| json!({"containerID": id, "ifname": "eth0"}));
    valid.sort_by_key(ToString::to_string);
    assert_eq!(plugins.told("one", "GC")["cni.dev/valid-attachments"], json!(valid));
    assert!(plugins.log().contains(&format!("DEL one {lost}")));
    // People are told what the plugins have made, and whether they find it so.
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: kept.clone(), verbose: true };
    let info = node.runtime().pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert_eq!(info["cni"]["result"]["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(info["cni"]["check"], "as it was made");
    assert!(plugins.log().contains(&format!("CHECK one {kept}")));
    node.finish().await;
}
