//! Volumes of pods as their sources change.

use serde_json::json;

use super::Cluster;
use crate::support::{BUSYBOX, eventually};

/// A file as the pod's container sees it; nothing where there is none.
fn read(cluster: &Cluster, path: &str) -> Option<String> {
    let command = format!("cat {path} 2>/dev/null || echo none");
    let text = cluster.kubectl(&["exec", "p", "--", "sh", "-c", &command]);
    (text != "none\n").then_some(text)
}

#[track_caller]
fn becomes(cluster: &Cluster, path: &str, content: Option<&str>) {
    eventually(&format!("{path} to be {content:?}"), || {
        (read(cluster, path).as_deref() == content).then_some(())
    });
}

#[test]
fn volumes_follow_what_they_show() {
    let cluster = Cluster::with_busybox();
    cluster.kubectl(&["create", "configmap", "conf", "--from-literal=color=red", "--from-literal=size=big"]);
    cluster.kubectl(&["create", "secret", "generic", "pass", "--from-literal=word=one"]);
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "p", "labels": { "color": "red" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main",
                "image": BUSYBOX,
                "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
                "volumeMounts": [
                    { "name": "conf", "mountPath": "/conf" },
                    { "name": "conf", "mountPath": "/fixed", "subPath": "color" },
                    { "name": "all", "mountPath": "/all" },
                    { "name": "later", "mountPath": "/later" },
                ],
            }],
            "volumes": [
                { "name": "conf", "configMap": { "name": "conf" } },
                { "name": "later", "configMap": { "name": "later", "optional": true } },
                { "name": "all", "projected": { "sources": [
                    { "secret": { "name": "pass" } },
                    { "downwardAPI": { "items": [
                        { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                    ] } },
                    { "serviceAccountToken": { "path": "token", "audience": "vault", "expirationSeconds": 600 } },
                ] } },
            ],
        },
    });
    cluster.apply(&pod.to_string());
    cluster.ready("p");
    assert_eq!(read(&cluster, "/conf/color").as_deref(), Some("red"));
    assert_eq!(read(&cluster, "/all/labels").as_deref(), Some("color=\"red\""));
    let token = read(&cluster, "/all/token").unwrap();
    assert_eq!(token.split('.').count(), 3, "{token}");

    cluster.kubectl(&[
        "patch",
        "configmap",
        "conf",
        "-p",
        r#"{"data":{"color":"blue","size":null,"new":"here"}}"#,
    ]);
    becomes(&cluster, "/conf/color", Some("blue"));
    becomes(&cluster, "/conf/new", Some("here"));
    becomes(&cluster, "/conf/size", None);
    assert_eq!(read(&cluster, "/fixed").as_deref(), Some("red"));
    cluster.kubectl(&["patch", "secret", "pass", "-p", r#"{"stringData":{"word":"two"}}"#]);
    becomes(&cluster, "/all/word", Some("two"));
    cluster.kubectl(&["label", "pod", "p", "color=blue", "--overwrite"]);
    becomes(&cluster, "/all/labels", Some("color=\"blue\""));
    cluster.kubectl(&["create", "configmap", "later", "--from-literal=a=b"]);
    becomes(&cluster, "/later/a", Some("b"));
    cluster.kubectl(&["delete", "configmap", "later"]);
    becomes(&cluster, "/later/a", None);
    // Nobody in the pod writes there, and the token has been good all the time.
    let refused = cluster.refused(&["exec", "p", "--", "touch", "/conf/mine"]);
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert_eq!(read(&cluster, "/all/token"), Some(token));

    // The next process goes on with what this one has begun.
    cluster.node.kill_daemon();
    cluster.start();
    cluster.kubectl(&["patch", "configmap", "conf", "-p", r#"{"data":{"color":"green"}}"#]);
    becomes(&cluster, "/conf/color", Some("green"));
    assert_eq!(read(&cluster, "/fixed").as_deref(), Some("red"));
    assert_eq!(cluster.get(&["pod", "p"])["status"]["containerStatuses"][0]["restartCount"], 0);
    cluster.finish();
}

#[test]
fn a_volume_that_cannot_be_had_holds_up_its_own_pod_only() {
    let cluster = Cluster::with_busybox();
    let pod = |name: &str, source: serde_json::Value| {
        let mut volume = source;
        volume["name"] = json!("v");
        let main = json!({
            "name": "main",
            "image": BUSYBOX,
            "command": ["sleep", "1000"],
            "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
        });
        let spec = json!({ "containers": [main], "volumes": [volume], "terminationGracePeriodSeconds": 0 });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec }).to_string()
    };
    // A server in a network for documentation: nobody answers, if there is a helper at all.
    cluster.apply(&pod("far", json!({ "nfs": { "server": "192.0.2.1", "path": "/srv" } })));
    cluster.apply(&pod("missing", json!({ "configMap": { "name": "nope" } })));
    cluster.apply(&pod("p", json!({ "emptyDir": {} })));
    cluster.ready("p");
    cluster.status("missing", "ContainerCreating");
    let message = |pod: &str, wanted: &str| {
        eventually(&format!("the event of {pod}"), || {
            let selector = format!("--field-selector=involvedObject.name={pod},reason=FailedMount");
            let events = cluster.kubectl(&["get", "events", &selector, "-o", "jsonpath={.items[*].message}"]);
            events.contains(wanted).then_some(())
        });
    };
    message("missing", "MountVolume.SetUp failed for volume \"v\" : configmap \"nope\" not found");
    if !["/sbin", "/usr/sbin", "/usr/local/sbin"]
        .iter()
        .any(|dir| std::fs::exists(format!("{dir}/mount.nfs")).unwrap())
    {
        message(
            "far",
            "mount 192.0.2.1:/srv: there is no mount.nfs on this host; install nfs-common (Debian)",
        );
    }
    cluster.status("far", "ContainerCreating");
    // What was missing comes, and what is not wanted any more goes, without the server.
    cluster.kubectl(&["create", "configmap", "nope", "--from-literal=a=b"]);
    cluster.ready("missing");
    cluster.kubectl(&["delete", "pod", "far", "--timeout=60s"]);
    cluster.finish();
}
