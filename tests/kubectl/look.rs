//! `kubectl get` in all its forms, and the other commands that only look.

use serde_json::json;

use super::Cluster;
use crate::support::{DEMO, eventually};

/// Two pods that wait for nothing, one of them red.
fn pods() -> String {
    let pod = |name: &str, color: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": "web", "color": color } },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "main", "image": DEMO }] },
        })
        .to_string()
    };
    format!("{}\n---\n{}\n", pod("first", "red"), pod("second", "blue"))
}

#[test]
fn get_prints_what_it_is_asked_for() {
    let cluster = Cluster::up();
    assert_eq!(cluster.apply(&pods()), "pod/first created\npod/second created\n");
    cluster.ready("first");
    cluster.ready("second");
    let get = |args: &[&str]| cluster.kubectl(&[&["get"], args].concat());

    assert_eq!(get(&["pods", "-o", "name"]), "pod/first\npod/second\n");
    assert_eq!(get(&["pods", "-o", "name", "-l", "color=red"]), "pod/first\n");
    assert_eq!(get(&["pods", "-o", "name", "-l", "app in (web, x), color notin (red)"]), "pod/second\n");
    assert_eq!(get(&["pods", "-o", "name", "-l", "!color"]), "");
    assert_eq!(
        get(&["pods", "-o", "name", "--field-selector", "metadata.name!=first,status.phase=Running"]),
        "pod/second\n"
    );
    assert_eq!(
        get(&["pods", "-o", "name", "--sort-by", ".metadata.labels.color"]),
        "pod/second\npod/first\n"
    );
    assert_eq!(get(&["pods", "-o", "jsonpath={.items[*].metadata.labels.color}"]), "red blue");
    let custom = get(&["pods", "-o", "custom-columns=NAME:.metadata.name,COLOR:.metadata.labels.color"]);
    assert_eq!(custom, "NAME     COLOR\nfirst    red\nsecond   blue\n");
    let wide = get(&["pods", "-o", "wide"]);
    let head: Vec<&str> =
        wide.lines().next().unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(
        head,
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
    );
    let ip = get(&["pod", "first", "-o", "jsonpath={.status.podIP}"]);
    assert!(wide.lines().nth(1).unwrap().contains(&ip), "{wide}");
    let labels = get(&["pods", "--show-labels", "--no-headers"]);
    assert!(labels.lines().next().unwrap().ends_with("app=web,color=red"), "{labels}");
    let all = get(&["pods", "-A"]);
    assert!(
        all.starts_with(
            "NAMESPACE   NAME     READY   STATUS    RESTARTS   AGE\ndefault     first    1/1     Running   0"
        ),
        "{all}"
    );
    assert_eq!(get(&["pods", "--chunk-size=1", "-o", "name"]), "pod/first\npod/second\n");
    let yaml = get(&["pod", "first", "-o", "yaml"]);
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: |\n"), "{yaml}");
    let list = cluster.get(&["pods"]);
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("List"), 2));
    let refused = cluster.refused(&["get", "pods", "--field-selector", "spec.color=red"]);
    assert!(refused.contains("field label not supported: spec.color"), "{refused}");
    let refused = cluster.refused(&["get", "deployments"]);
    assert_eq!(refused, "error: the server doesn't have a resource type \"deployments\"\n");
    cluster.finish();
}

#[test]
fn the_cluster_says_what_it_is() {
    let cluster = Cluster::up();
    let versions = cluster.kubectl(&["version"]);
    assert!(versions.contains("Server Version: v1.36"), "{versions}");
    let info = cluster.kubectl(&["cluster-info"]);
    assert!(info.contains("Kubernetes control plane") && info.contains("https://127.0.0.1:"), "{info}");
    let kinds = cluster.kubectl(&["api-resources", "--no-headers", "-o", "name"]);
    for kind in [
        "configmaps",
        "events",
        "limitranges",
        "namespaces",
        "nodes",
        "pods",
        "resourcequotas",
        "secrets",
        "serviceaccounts",
        "leases.coordination.k8s.io",
        "events.events.k8s.io",
        "runtimeclasses.node.k8s.io",
        "priorityclasses.scheduling.k8s.io",
    ] {
        assert!(kinds.lines().any(|line| line == kind), "no {kind} in:\n{kinds}");
    }
    assert!(cluster.kubectl(&["api-versions"]).contains("\nv1\n"));
    let explained = cluster.kubectl(&["explain", "pod.spec.containers.livenessProbe"]);
    assert!(explained.contains("FIELD: livenessProbe <Probe>"), "{explained}");
    assert!(
        explained.contains(
            "  initialDelaySeconds\t<integer>\n    Number of seconds after the container has started"
        ),
        "{explained}"
    );
    let node = cluster.kubectl(&["get", "nodes", "--no-headers"]);
    let words: Vec<&str> = node.split_whitespace().collect();
    assert_eq!(words[1], "Ready", "{node}");
    let described = cluster.kubectl(&["describe", "node"]);
    for part in [
        "Conditions:",
        "Capacity:",
        "Allocatable:",
        "System Info:",
        "Container Runtime Version:  vaquita://",
        "Non-terminated Pods:",
        "Allocated resources:",
    ] {
        assert!(described.contains(part), "no {part} in:\n{described}");
    }
    cluster.finish();
}

#[test]
fn top_and_events_say_what_pods_do() {
    let cluster = Cluster::up();
    cluster.apply(&pods());
    cluster.ready("first");
    let events = cluster.kubectl(&["events", "--for", "pod/first", "--no-headers"]);
    for reason in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(events.contains(reason), "no {reason} in:\n{events}");
    }
    let events =
        cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=first,reason=Started"]);
    assert!(events.starts_with("LAST SEEN   TYPE     REASON    OBJECT      MESSAGE\n"), "{events}");
    // Figures need two looks.
    let top = eventually("figures of the pods", || {
        let output = cluster.run(super::Kubectl::Sid, &["top", "pods", "--no-headers"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.lines().count() == 2).then_some(text)
    });
    let words: Vec<&str> = top.split_whitespace().collect();
    assert!(words[0] == "first" && words[1].ends_with('m') && words[2].ends_with("Mi"), "{top}");
    let node = cluster.kubectl(&["top", "node", "--no-headers"]);
    assert!(node.contains('%') && node.contains("Mi"), "{node}");
    cluster.finish();
}
