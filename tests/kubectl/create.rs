//! `kubectl create`, which sends protobuf, and what becomes of the objects.

use serde_json::json;

use super::{Cluster, Kubectl};
use crate::support::succeed;

#[test]
fn config_maps_and_secrets_come_from_literals_and_files() {
    let cluster = Cluster::up();
    let file = cluster.node.write("app.conf", "answer = 42\n");
    let env = cluster.node.write("app.env", "# a comment\nCOLOR=blue\nEMPTY=\n");
    for (number, version) in Kubectl::BOTH.into_iter().enumerate() {
        let kubectl = |args: &[&str]| succeed(&cluster.run(version, args));
        let name = format!("c{number}");
        let literal = ["--from-literal=a=1", "--from-literal=html=<b>&amp;</b>"];
        let made =
            kubectl(&["create", "configmap", &name, literal[0], literal[1], &format!("--from-file={file}")]);
        assert_eq!(made, format!("configmap/{name} created\n"));
        let data = json!({ "a": "1", "html": "<b>&amp;</b>", "app.conf": "answer = 42\n" });
        assert_eq!(cluster.get(&["configmap", &name])["data"], data);
        let table = kubectl(&["get", "configmap", &name]);
        let words: Vec<&str> = table.split_whitespace().collect();
        assert_eq!(words[..5], ["NAME", "DATA", "AGE", &name, "3"], "{table}");
        kubectl(&["create", "configmap", &format!("e{number}"), &format!("--from-env-file={env}")]);
        let data = json!({ "COLOR": "blue", "EMPTY": "" });
        assert_eq!(cluster.get(&["configmap", &format!("e{number}")])["data"], data);

        let secret = format!("s{number}");
        kubectl(&[
            "create",
            "secret",
            "generic",
            &secret,
            "--from-literal=user=admin",
            "--from-literal=password=p&w",
        ]);
        let made = cluster.get(&["secret", &secret]);
        assert_eq!(made["type"], "Opaque");
        assert_eq!(made["data"], json!({ "user": "YWRtaW4=", "password": "cCZ3" }));
        let described = kubectl(&["describe", "secret", &secret]);
        // In whatever order: kubectl walks a map.
        for line in ["password:  3 bytes\n", "user:      5 bytes\n"] {
            assert!(described.contains(line), "{described}");
        }
        let registry = format!("r{number}");
        kubectl(&[
            "create",
            "secret",
            "docker-registry",
            &registry,
            "--docker-server=r.example.com",
            "--docker-username=u",
            "--docker-password=p",
        ]);
        assert_eq!(cluster.get(&["secret", &registry])["type"], "kubernetes.io/dockerconfigjson");
    }
    let again = cluster.refused(&["create", "configmap", "c1"]);
    assert_eq!(again, "error: failed to create configmap: configmaps \"c1\" already exists\n");
    let absent = cluster.refused(&["get", "configmap", "absent"]);
    assert_eq!(absent, "Error from server (NotFound): configmaps \"absent\" not found\n");
    cluster.finish();
}

#[test]
fn what_is_immutable_stays_as_it_is() {
    let cluster = Cluster::up();
    cluster
        .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed}, data: {a: '1'}, immutable: true}");
    let refused = cluster.refused(&["patch", "configmap", "fixed", "-p", r#"{"data":{"a":"2"}}"#]);
    assert!(
        refused.contains("is invalid: data: Forbidden: field is immutable when `immutable` is set"),
        "{refused}"
    );
    cluster.kubectl(&["label", "configmap", "fixed", "color=red"]);
    cluster.kubectl(&["delete", "configmap", "fixed"]);
    cluster.finish();
}

#[test]
fn namespaces_come_with_what_they_need_and_go_with_what_they_hold() {
    let cluster = Cluster::up();
    assert_eq!(cluster.kubectl(&["create", "namespace", "blue"]), "namespace/blue created\n");
    let names = cluster.kubectl(&["get", "namespaces", "-o", "name"]);
    for name in ["blue", "default", "kube-node-lease", "kube-public", "kube-system"] {
        assert!(names.contains(&format!("namespace/{name}\n")), "{names}");
    }
    cluster.kubectl(&["wait", "--for=create", "-n", "blue", "serviceaccount/default", "--timeout=60s"]);
    cluster.kubectl(&["wait", "--for=create", "-n", "blue", "configmap/kube-root-ca.crt", "--timeout=60s"]);
    cluster.kubectl(&["create", "configmap", "held", "-n", "blue"]);
    cluster.kubectl(&["run", "held", "-n", "blue", &format!("--image={}", crate::support::DEMO)]);
    cluster.kubectl(&["wait", "-n", "blue", "--for=condition=Ready", "pod/held", "--timeout=120s"]);
    let deleted = cluster.kubectl(&["delete", "namespace", "blue", "--timeout=120s"]);
    assert_eq!(deleted, "namespace \"blue\" deleted\n");
    let refused = cluster.refused(&["create", "configmap", "late", "-n", "blue"]);
    assert_eq!(refused, "error: failed to create configmap: namespaces \"blue\" not found\n");
    let left = cluster.kubectl(&[
        "get",
        "pods,configmaps,serviceaccounts",
        "-A",
        "-o",
        "name",
        "--field-selector=metadata.namespace=blue",
    ]);
    assert_eq!(left, "");
    let refused = cluster.refused(&["delete", "namespace", "default"]);
    assert!(
        refused.contains("namespaces \"default\" is forbidden: this namespace may not be deleted"),
        "{refused}"
    );
    cluster.finish();
}

#[test]
fn a_service_account_has_tokens_that_open_the_api() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "serviceaccount", "robot"]);
    for version in Kubectl::BOTH {
        let token = succeed(&cluster.run(version, &["create", "token", "robot", "--duration=1h"]));
        assert_eq!(token.trim().split('.').count(), 3, "{token}");
        // Without the administrator's certificate, which would come first.
        let config = cluster.node.write("robot.kubeconfig", &kubeconfig(&cluster, token.trim()));
        let whoami =
            succeed(&cluster.run(version, &["--kubeconfig", &config, "auth", "whoami", "-o", "json"]));
        let whoami: serde_json::Value = serde_json::from_str(&whoami).unwrap();
        assert_eq!(
            whoami["status"]["userInfo"]["username"], "system:serviceaccount:default:robot",
            "{whoami}"
        );
        let forged = kubeconfig(&cluster, &format!("{}x", token.trim()));
        let forged = cluster.node.write("forged.kubeconfig", &forged);
        let output = cluster.run(version, &["--kubeconfig", &forged, "get", "pods"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("You must be logged in to the server"), "{said}");
    }
    assert_eq!(cluster.kubectl(&["auth", "can-i", "create", "pods"]), "yes\n");
    let whoami = cluster.kubectl(&["auth", "whoami"]);
    assert!(whoami.contains("kubernetes-admin") && whoami.contains("system:masters"), "{whoami}");
    cluster.finish();
}

/// The same cluster for who has a token.
fn kubeconfig(cluster: &Cluster, token: &str) -> String {
    let own = cluster.kubectl(&["config", "view", "--raw", "-o", "json"]);
    let mut config: serde_json::Value = serde_json::from_str(&own).unwrap();
    config["users"][0]["user"] = json!({ "token": token });
    config.to_string()
}
