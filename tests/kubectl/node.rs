//! The node as kubectl shows it, and pods of a folder of manifests.

use serde_json::json;

use super::Cluster;
use crate::support::{BUSYBOX, eventually};

#[test]
fn a_node_says_what_it_is_and_keeps_what_users_wrote() {
    let cluster = Cluster::with_busybox();
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]).trim().to_owned();
    let name = node.trim_start_matches("node/").to_owned();
    let text = cluster.kubectl(&["describe", &node]);
    for line in [
        "Roles:              control-plane",
        "Taints:             <none>",
        "Unschedulable:      false",
        "KubeletReady                 kubelet is posting ready status",
        "Container Runtime Version:  vaquita://",
        "pods:               110",
        "Starting kubelet.",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    cluster.kubectl(&[
        "wait",
        "--for=create",
        "-n",
        "kube-node-lease",
        "--timeout=60s",
        &format!("lease/{name}"),
    ]);
    let lease = cluster.get(&["lease", &name, "-n", "kube-node-lease"]);
    assert_eq!(lease["spec"]["holderIdentity"], json!(name));

    cluster.kubectl(&["label", &node, "disk=ssd"]);
    cluster.kubectl(&["taint", "nodes", &name, "mine=yes:NoSchedule"]);
    cluster.kubectl(&["run", "waits", "--image", BUSYBOX]);
    let described = || {
        let text = cluster.kubectl(&["describe", "pod", "waits"]);
        let words = "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: \
                     1 Preemption is not helpful for scheduling.";
        text.contains(words).then_some(())
    };
    eventually("the event", described);
    cluster.node.kill_daemon();
    cluster.start();
    let after = cluster.get(&[&node]);
    assert_eq!(after["metadata"]["labels"]["disk"], "ssd");
    assert_eq!(after["spec"]["taints"][0]["key"], "mine");
    cluster.kubectl(&["taint", "nodes", &name, "mine-"]);
    cluster.ready("waits");
    // A taint that lets nothing stay.
    cluster.kubectl(&["taint", "nodes", &name, "out:NoExecute"]);
    cluster.kubectl(&["wait", "--for=delete", "--timeout=120s", "pod/waits"]);
    cluster.kubectl(&["taint", "nodes", &name, "out-"]);
    cluster.finish();
}

#[test]
fn manifests_of_a_folder_are_pods_with_mirrors() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with(&["--static-pods", folder.path().to_str().unwrap()]);
    cluster.node.load_busybox();
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]).trim().trim_start_matches("node/").to_owned();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "fixed" },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "main", "image": BUSYBOX }] },
    });
    let file = folder.path().join("fixed.json");
    std::fs::write(&file, pod.to_string()).unwrap();
    let name = format!("fixed-{node}");
    cluster.status(&name, "Running");
    let mirror = cluster.get(&["pod", &name]);
    assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    let id = mirror["status"]["containerStatuses"][0]["containerID"].clone();
    // Its deletion in the API is none of the pod's business.
    cluster.kubectl(&["delete", "pod", &name, "--timeout=60s", "--wait=false"]);
    eventually("the mirror to come back", || {
        let pods = cluster.get(&["pods"]);
        let back = &pods["items"][0];
        let other = back["metadata"]["uid"] != mirror["metadata"]["uid"];
        (other && back["status"]["containerStatuses"][0]["containerID"] == id).then_some(())
    });
    std::fs::remove_file(&file).unwrap();
    cluster.kubectl(&["wait", "--for=delete", "--timeout=120s", &format!("pod/{name}")]);
    cluster.finish();
}
