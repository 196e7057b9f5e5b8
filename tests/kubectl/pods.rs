//! What pods do, as kubectl shows it.

use serde_json::{Value, json};

use super::{Cluster, Kubectl};
use crate::support::{BUSYBOX, eventually};

fn pod(name: &str, mut spec: Value) -> String {
    spec["terminationGracePeriodSeconds"] =
        spec.get("terminationGracePeriodSeconds").cloned().unwrap_or(json!(1));
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec }).to_string()
}

fn shell(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": BUSYBOX, "command": ["sh", "-c", script] })
}

const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[test]
fn a_job_like_pod_completes_and_keeps_its_log() {
    let cluster = Cluster::with_busybox();
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [shell("one", "echo first"), shell("two", "echo second")],
        "containers": [shell("main", "echo third; echo oops >&2")],
    });
    cluster.apply(&pod("job", spec));
    cluster.status("job", "Completed");
    let got = cluster.get(&["pod", "job"]);
    assert_eq!(got["status"]["phase"], "Succeeded");
    let terminated = &got["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&json!(0), &json!("Completed")), "{got}");
    assert_eq!(got["status"]["initContainerStatuses"].as_array().unwrap().len(), 2);
    assert_eq!(cluster.kubectl(&["logs", "job"]).lines().count(), 2);
    assert_eq!(cluster.kubectl(&["logs", "job", "-c", "one"]), "first\n");
    let all = cluster.kubectl(&["logs", "job", "--all-containers", "--prefix"]);
    for line in ["[pod/job/one] first", "[pod/job/two] second", "[pod/job/main] third"] {
        assert!(all.lines().any(|seen| seen == line), "no {line} in:\n{all}");
    }
    let stamped = cluster.kubectl(&["logs", "job", "-c", "one", "--timestamps"]);
    assert!(stamped.contains('T') && stamped.ends_with("Z first\n"), "{stamped}");
    assert_eq!(cluster.kubectl(&["logs", "job", "-c", "main", "--tail=0"]), "");
    let refused = cluster.refused(&["logs", "job", "-c", "nobody"]);
    assert!(refused.contains("container nobody is not valid for pod job"), "{refused}");
    cluster.finish();
}

#[test]
fn a_container_that_fails_is_started_again_and_its_last_log_is_kept() {
    let cluster = Cluster::with_busybox();
    let spec = json!({
        "containers": [shell("main", "echo attempt; test -e /data/again || { touch /data/again; exit 3; }; exec sleep 1000")],
        "volumes": [{ "name": "data", "emptyDir": {} }],
    });
    let mut spec = spec;
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    cluster.apply(&pod("phoenix", spec));
    eventually("a restart", || {
        let got = cluster.get(&["pod", "phoenix"]);
        let status = &got["status"]["containerStatuses"][0];
        (status["restartCount"] == 1 && status["ready"] == true).then_some(())
    });
    let got = cluster.get(&["pod", "phoenix"]);
    let last = &got["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(3), &json!("Error")), "{got}");
    assert_eq!(cluster.kubectl(&["logs", "phoenix", "--previous"]), "attempt\n");
    let row = cluster.kubectl(&["get", "pod", "phoenix", "--no-headers"]);
    assert!(row.contains("1 (") && row.contains(" ago)"), "{row}");
    cluster.finish();
}

#[test]
fn a_restart_of_vaquita_leaves_pods_as_they_are() {
    let cluster = Cluster::with_busybox();
    cluster.apply(&pod("lasting", json!({ "containers": [shell("main", "echo up; exec sleep 1000")] })));
    cluster.ready("lasting");
    let before = cluster.get(&["pod", "lasting"]);
    for kill in [false, true] {
        if kill {
            cluster.node.kill_daemon()
        } else {
            cluster.node.stop_daemon()
        }
        cluster.start();
        cluster.ready("lasting");
        let after = cluster.get(&["pod", "lasting"]);
        for field in [
            "/metadata/uid",
            "/status/podIP",
            "/status/containerStatuses/0/containerID",
            "/status/containerStatuses/0/restartCount",
            "/status/containerStatuses/0/state",
        ] {
            assert_eq!(after.pointer(field), before.pointer(field), "{field}");
        }
        assert_eq!(cluster.kubectl(&["logs", "lasting"]), "up\n");
    }
    cluster.finish();
}

#[test]
fn a_pod_that_does_not_fit_waits_and_says_why() {
    let cluster = Cluster::with_busybox();
    let mut main = shell("main", WAIT);
    main["resources"] = json!({ "requests": { "memory": "900Ti" } });
    cluster.apply(&pod("huge", json!({ "containers": [main] })));
    cluster.apply(&pod(
        "picky",
        json!({ "nodeSelector": { "disk": "ssd" }, "containers": [shell("main", WAIT)] }),
    ));
    let why = |pod: &str| {
        eventually("the reason", || {
            let args = ["get", "events", "-o", "jsonpath={.items[*].message}", "--field-selector"];
            let selector = format!("involvedObject.name={pod},reason=FailedScheduling");
            let text = cluster.kubectl(&[&args[..], &[&selector]].concat());
            (!text.is_empty()).then_some(text)
        })
    };
    assert!(why("huge").starts_with("0/1 nodes are available: 1 Insufficient memory."), "{}", why("huge"));
    let said = why("picky");
    assert!(
        said.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
        "{said}"
    );
    cluster.status("picky", "Pending");
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]);
    cluster.kubectl(&["label", node.trim(), "disk=ssd"]);
    cluster.ready("picky");
    // Nothing new comes to a node that is cordoned.
    cluster.kubectl(&["cordon", node.trim().trim_start_matches("node/")]);
    cluster.apply(&pod("late", json!({ "containers": [shell("main", WAIT)] })));
    assert!(
        why("late").starts_with("0/1 nodes are available: 1 node(s) were unschedulable."),
        "{}",
        why("late")
    );
    cluster.kubectl(&["uncordon", node.trim().trim_start_matches("node/")]);
    cluster.ready("late");
    cluster.finish();
}

#[test]
fn deletion_is_graceful_or_forced() {
    let cluster = Cluster::with_busybox();
    let stubborn = "trap 'echo asked' TERM; while :; do sleep 0.1; done";
    for name in ["gentle", "forced"] {
        let mut spec = json!({ "containers": [shell("main", stubborn)] });
        spec["terminationGracePeriodSeconds"] = json!(3600);
        cluster.apply(&pod(name, spec));
        cluster.ready(name);
    }
    cluster.kubectl(&["delete", "pod", "gentle", "--wait=false"]);
    cluster.status("gentle", "Terminating");
    eventually("the signal", || cluster.kubectl(&["logs", "gentle"]).contains("asked").then_some(()));
    let got = cluster.get(&["pod", "gentle"]);
    assert_eq!(got["metadata"]["deletionGracePeriodSeconds"], 3600);
    // Less time than before is possible.
    cluster.kubectl(&["delete", "pod", "gentle", "--grace-period=1", "--timeout=60s"]);
    let output = cluster.run(Kubectl::Sid, &["delete", "pod", "forced", "--force", "--grace-period=0"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("Warning: Immediate deletion does not wait for confirmation"), "{said}");
    assert!(output.status.success());
    assert_eq!(cluster.kubectl(&["get", "pods", "-o", "name"]), "");
    cluster.finish();
}

#[test]
fn config_reaches_a_running_pod() {
    let cluster = Cluster::with_busybox();
    cluster.kubectl(&["create", "configmap", "live", "--from-literal=key=old"]);
    let mut main = shell("main", "while :; do cat /config/key; sleep 0.1; done");
    main["volumeMounts"] = json!([{ "name": "config", "mountPath": "/config" }]);
    main["env"] =
        json!([{ "name": "KEY", "valueFrom": { "configMapKeyRef": { "name": "live", "key": "key" } } }]);
    let spec =
        json!({ "containers": [main], "volumes": [{ "name": "config", "configMap": { "name": "live" } }] });
    cluster.apply(&pod("reader", spec));
    cluster.ready("reader");
    cluster.kubectl(&["patch", "configmap", "live", "-p", r#"{"data":{"key":"new"}}"#]);
    eventually("the new value", || {
        cluster.kubectl(&["exec", "reader", "--", "cat", "/config/key"]).contains("new").then_some(())
    });
    assert_eq!(cluster.kubectl(&["exec", "reader", "--", "sh", "-c", "echo $KEY"]), "old\n");
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    assert_eq!(cluster.kubectl(&["exec", "reader", "--", "cat", token]).split('.').count(), 3);
    cluster.finish();
}

#[test]
fn a_pod_is_debugged_by_a_container_that_is_added() {
    let cluster = Cluster::with_busybox();
    cluster.apply(&pod("patient", json!({ "containers": [shell("main", WAIT)] })));
    cluster.ready("patient");
    let image = format!("--image={BUSYBOX}");
    let args = [
        "debug",
        "patient",
        &image,
        "--target=main",
        "--container=doctor",
        "--",
        "sh",
        "-c",
        "ps; echo seen",
    ];
    cluster.kubectl(&args);
    eventually("the added container's log", || {
        let output = cluster.run(Kubectl::Sid, &["logs", "patient", "-c", "doctor"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.contains("trap") && text.ends_with("seen\n")).then_some(())
    });
    let got = cluster.get(&["pod", "patient"]);
    let status = &got["status"]["ephemeralContainerStatuses"][0];
    assert_eq!(status["name"], "doctor", "{got}");
    cluster.finish();
}
