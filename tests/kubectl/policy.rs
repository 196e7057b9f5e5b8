//! What a namespace, its limits and quotas, classes and accounts decide about pods, in the words of kube-apiserver.

use std::process::Stdio;

use super::{Cluster, Kubectl};

/// A pod of one container that asks for these resources, with this in its specification beside.
fn pod(name: &str, resources: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: c, image: example.com/none, resources: {{{resources}}}}}]\n{more}"
    )
}

impl Cluster {
    /// Creates an object, which must be refused: why, without the words of kubectl before it.
    #[track_caller]
    fn refuses(&self, manifest: &str) -> String {
        let output = self.run_with(Kubectl::Sid, manifest, &["create", "-f", "-"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it was taken:\n{manifest}");
        let (_, why) = text.trim_end().split_once("\"STDIN\": ").unwrap_or(("", &text));
        why.to_owned()
    }

    #[track_caller]
    fn takes(&self, manifest: &str) {
        self.kubectl_with(manifest, &["create", "-f", "-"]);
    }
}

#[test]
fn limits_and_quotas_hold() {
    let cluster = Cluster::up();
    cluster.takes(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: lim}\nspec:\n  limits:\n  - {type: Container, default: {cpu: 500m, memory: 256Mi}, defaultRequest: {cpu: 100m}, min: {cpu: 50m}, max: {cpu: '1'}, maxLimitRequestRatio: {cpu: '5'}}\n  - {type: Pod, max: {memory: 1Gi}}\n",
    );
    for (name, resources, why) in [
        ("a", "limits: {cpu: '2'}", "maximum cpu usage per Container is 1, but limit is 2"),
        (
            "b",
            "limits: {cpu: '1'}, requests: {cpu: 100m}",
            "cpu max limit to request ratio per Container is 5, but provided ratio is 10.000000",
        ),
        ("c", "limits: {memory: 2Gi}", "maximum memory usage per Pod is 1Gi, but limit is 2Gi"),
        (
            "d",
            "requests: {cpu: 10m}",
            "[minimum cpu usage per Container is 50m, but request is 10m, cpu max limit to request ratio per Container is 5, but provided ratio is 50.000000]",
        ),
    ] {
        assert_eq!(
            cluster.refuses(&pod(name, resources, "")),
            format!("pods \"{name}\" is forbidden: {why}")
        );
    }
    cluster.takes(&pod("e", "", ""));
    let made = cluster.get(&["pod", "e"]);
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        serde_json::json!({ "limits": { "cpu": "500m", "memory": "256Mi" }, "requests": { "cpu": "100m", "memory": "256Mi" } })
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    cluster.kubectl(&["delete", "pod", "e", "--force", "--grace-period=0"]);
    cluster.kubectl(&["delete", "limitrange", "lim"]);

    cluster.kubectl(&["create", "quota", "q", "--hard=pods=2,limits.cpu=2,count/secrets=1"]);
    assert_eq!(
        cluster.refuses(&pod("a", "", "")),
        "pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: c"
    );
    cluster.kubectl(&["create", "secret", "generic", "a", "--from-literal=a=b"]);
    assert_eq!(
        cluster.refused(&["create", "secret", "generic", "b", "--from-literal=a=b"]),
        "error: failed to create secret secrets \"b\" is forbidden: exceeded quota: q, requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1\n"
    );
    at_once(&cluster);
    assert_eq!(
        cluster.refuses(&pod("late", "limits: {cpu: 100m}", "")),
        "pods \"late\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    );
    cluster.finish();
}

/// Six clients create a pod each at the same time; the quota is for two.
#[track_caller]
fn at_once(cluster: &Cluster) {
    let manifests: Vec<String> = (0..6)
        .map(|number| {
            cluster
                .node
                .write(&format!("p{number}.yaml"), &pod(&format!("p{number}"), "limits: {cpu: 100m}", ""))
        })
        .collect();
    let children: Vec<_> = manifests
        .iter()
        .map(|file| {
            let mut command = cluster.command(Kubectl::Sid, &["create", "-f", file]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let made =
        children.into_iter().filter_map(|mut child| child.wait().unwrap().success().then_some(())).count();
    assert_eq!(made, 2, "as many as the quota allows");
    assert_eq!(cluster.get(&["pods"])["items"].as_array().unwrap().len(), 2);
}

#[test]
fn classes_accounts_and_namespaces_are_looked_up() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "priorityclass", "high", "--value=1000"]);
    cluster.takes(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: rc}\nhandler: x\noverhead: {podFixed: {cpu: 10m}}\nscheduling: {nodeSelector: {a: b}, tolerations: [{key: z, operator: Exists}]}\n",
    );
    for (more, why) in [
        ("priorityClassName: nope", "no PriorityClass with name nope was found"),
        (
            "priority: 5",
            "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
        ),
        ("runtimeClassName: nope", "pod rejected: RuntimeClass \"nope\" not found"),
        (
            "overhead: {cpu: '1'}",
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            "serviceAccountName: nope",
            "error looking up service account default/nope: serviceaccount \"nope\" not found",
        ),
    ] {
        let told = cluster.refuses(&pod("a", "", &format!("  {more}\n")));
        assert_eq!(told, format!("pods \"a\" is forbidden: {why}"));
    }
    cluster.takes(&pod("a", "", "  priorityClassName: high\n  runtimeClassName: rc\n"));
    let spec = &cluster.get(&["pod", "a"])["spec"];
    assert_eq!(
        (spec["priority"].as_i64(), spec["preemptionPolicy"].as_str()),
        (Some(1000), Some("PreemptLowerPriority"))
    );
    assert_eq!(
        (spec["overhead"]["cpu"].as_str(), spec["nodeSelector"]["a"].as_str()),
        (Some("10m"), Some("b"))
    );
    assert_eq!(spec["tolerations"][2]["key"], "z");
    let token = &spec["volumes"][0];
    assert!(token["name"].as_str().unwrap().starts_with("kube-api-access-"), "{token}");
    assert_eq!(token["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    cluster.takes(&pod("b", "", "  automountServiceAccountToken: false\n"));
    assert!(cluster.get(&["pod", "b"])["spec"].get("volumes").is_none());

    let change = ["patch", "pod", "a", "-p", r#"{"spec":{"restartPolicy":"Never"}}"#];
    let told = cluster.refused(&change);
    let expected = "The Pod \"a\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,";
    assert!(told.starts_with(expected), "{told}");
    assert!(told.contains("- spec.restartPolicy: \"Always\"\n+ spec.restartPolicy: \"Never\""), "{told}");

    assert_eq!(
        cluster.refused(&["create", "configmap", "a", "-n", "nowhere"]),
        "error: failed to create configmap: namespaces \"nowhere\" not found\n"
    );
    assert_eq!(
        cluster.refused(&["delete", "namespace", "kube-system"]),
        "Error from server (Forbidden): namespaces \"kube-system\" is forbidden: this namespace may not be deleted\n"
    );
    let output = cluster.run_with(
        Kubectl::Sid,
        &pod("a.b", "", "  hostAliases: [{ip: 1.1.1.1}, {ip: 1.1.1.1}]\n"),
        &["create", "-f", "-"],
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "Warning: metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]\nWarning: spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"\n"
    );
    cluster.finish();
}
