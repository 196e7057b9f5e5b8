use super::*;
use crate::api::{PullPolicy, RestartPolicy};

fn problems(text: &str) -> String {
    let diagnostics = read(&[("pod.yaml", text)]).unwrap_err();
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

fn pod(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n{spec}")
}

/// A pod whose only container has these further fields.
fn container(fields: &str) -> String {
    let fields: String = fields.lines().map(|line| format!("  {line}\n")).collect();
    pod(&format!("containers:\n- name: main\n  image: busybox:1\n{fields}"))
}

#[test]
fn smallest_pod_is_defaulted() {
    let manifest = read(&[("a", &container(""))]).unwrap();
    let pod = &manifest.pods[0];
    assert_eq!(pod.metadata.namespace, "default");
    assert_eq!(pod.spec.termination_grace_period_seconds, Some(30));
    assert_eq!(pod.spec.restart_policy, RestartPolicy::Always);
    assert_eq!(pod.spec.containers[0].image_pull_policy, Some(PullPolicy::IfNotPresent));
    assert_eq!(pod.spec.containers[0].termination_message_path, "/dev/termination-log");
}

#[test]
fn typo_names_the_place_and_the_right_field() {
    insta::assert_snapshot!(problems(&container("imagePullPolcy: Always")), @"pod.yaml:9:5: spec.containers[0].imagePullPolcy: unknown field; did you mean imagePullPolicy?");
}

#[test]
fn everything_wrong_is_told_at_once() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: Web
  labels: {app: true}
spec:
  restartPolicy: Alwayss
  affinity: {}
  terminationGracePeriodSeconds: \"5\"
  containers:
  - name: main
    image: busybox
    command: sleep
    env:
    - name: A
      value: 8080
    - name: B
      value: on
    ports:
    - containerPort: 99999
    resources:
      limits: {memory: 1 Gi, cpu: 1}
      requests: {cpu: 2}
    livenessProbe:
      periodSeconds: -1
      exec: {command: [\"true\"]}
      httpGet: {port: web}
    volumeMounts:
    - {name: data, mountPath: /data, subPath: ../x}
  - name: main
    image: busybox
    resources: {limits: {ephemeral-storage: 1Gi}}
  volumes:
  - name: conf
    configMap: {name: conf, defaultMode: 644}
  - name: claim
    persistentVolumeClaim: {claimName: x}
";
    insta::assert_snapshot!(problems(text));
}

#[test]
fn scalars_as_kubernetes_reads_them() {
    let text = pod(
        "hostNetwork: on\ncontainers:\n- {name: a, image: b, tty: yes}\nvolumes:\n- name: v\n  configMap: {name: c, defaultMode: 0755}",
    );
    let manifest = read(&[("a", &text)]).unwrap();
    let spec = &manifest.pods[0].spec;
    assert!(spec.host_network && spec.containers[0].tty);
    assert_eq!(spec.volumes[0].config_map.as_ref().unwrap().default_mode, Some(0o755));
}

#[test]
fn documents_lists_and_json() {
    let yaml = "---\n# nothing\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n---\napiVersion: v1\nkind: List\nmetadata: {}\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: s, creationTimestamp: null}\n  stringData: {p: q}\n  data: {r: aGk=}\n";
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]},"status":{}}"#;
    let manifest = read(&[("a.yaml", yaml), ("b.json", json)]).unwrap();
    assert_eq!((manifest.pods.len(), manifest.config_maps.len(), manifest.secrets.len()), (1, 1, 1));
    assert_eq!(manifest.secrets[0].data["p"].0, b"q");
    assert_eq!(manifest.secrets[0].data["r"].0, b"hi");
}

#[test]
fn wrong_documents() {
    insta::assert_snapshot!(problems("a: [b"));
    insta::assert_snapshot!(problems("a: 1\na: 2\n"));
    insta::assert_snapshot!(problems("kind: Pod\n"), @"pod.yaml:1:1: apiVersion: is required");
    insta::assert_snapshot!(problems("- 1\n"), @"pod.yaml:1:1: expected an object with apiVersion and kind, found a list");
    insta::assert_snapshot!(problems("apiVersion: apps/v1\nkind: Deployment\n"), @"pod.yaml:2:7: kind: Deployment is known to Kubernetes, but vaquita does not support it yet: it runs Pod, and reads ConfigMap and Secret");
    insta::assert_snapshot!(problems("apiVersion: v1\nkind: Pdo\n"), @r#"pod.yaml:2:7: kind: unknown kind "Pdo"; did you mean Pod?"#);
    insta::assert_snapshot!(problems(""), @"pod.yaml: the file is empty: a Pod, ConfigMap or Secret is expected");
}

#[test]
fn duplicates_across_files() {
    let text = container("");
    let diagnostics = read(&[("a", &text), ("b", &text)]).unwrap_err();
    insta::assert_snapshot!(diagnostics[0], @r#"b:4:9: metadata.name: there is another Pod "web" in namespace "default""#);
}

#[test]
fn each_rule_once() {
    let cases = [
        ("initContainers: [{name: i, image: b, readinessProbe: {tcpSocket: {port: 1}}}]\ncontainers: [{name: a, image: b}]"),
        ("initContainers: [{name: i, image: b, restartPolicy: Never}]\ncontainers: [{name: a, image: b, restartPolicy: Always}]"),
        ("dnsPolicy: None\ncontainers: [{name: a, image: b}]"),
        ("nodeSelector: {disk: ssd}\nserviceAccountName: admin\nschedulerName: mine\nhostUsers: false\ncontainers: [{name: a, image: b}]"),
        ("hostPID: true\nshareProcessNamespace: true\ncontainers: []"),
        ("securityContext: {runAsNonRoot: true, runAsUser: 0, sysctls: [{name: vm.swappiness, value: '1'}], seccompProfile: {type: Localhost}}\ncontainers: [{name: a, image: b, securityContext: {privileged: true, allowPrivilegeEscalation: false, procMount: Unmasked, capabilities: {add: [a-b]}}}]"),
        ("containers: [{name: a, image: b, env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: spec.foo}, secretKeyRef: {name: a}}}, {name: B, valueFrom: {resourceFieldRef: {resource: limits.disk}}}]}]"),
        ("containers: [{name: a, image: b, ports: [{containerPort: 80, hostPort: 80}]}, {name: c, image: b, ports: [{containerPort: 81, hostPort: 80}]}]"),
        ("containers: [{name: a, image: b, lifecycle: {preStop: {sleep: {seconds: 31}}, postStart: {tcpSocket: {port: 1}}}}]"),
        ("containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /a, mountPropagation: Bidirectional}, {name: v, mountPath: /a/, recursiveReadOnly: Enabled}]}]\nvolumes: [{name: v, hostPath: {path: x/.., type: Foo}, emptyDir: {}}, {name: w, emptyDir: {sizeLimit: -1Gi}}]"),
        ("containers: [{name: a, image: b}]\nvolumes: [{name: v, nfs: {server: -o, path: x}}, {name: w, nfs: {}}, {name: x, nfs: {server: 'fe80::1%eth0', path: /}}, {name: t, projected: {sources: [{serviceAccountToken: {path: token}}]}}]"),
        ("containers: [{name: a, image: b, resources: {limits: {memory: 100m, nvidia.com/gpu: 1}}}]"),
        ("ephemeralContainers: []\ncontainers: {name: a}\nhostAliases: [{ip: x, hostnames: [A]}]"),
    ];
    let all: Vec<String> = cases.iter().map(|case| problems(&pod(case))).collect();
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let all = all.join("\n").replace(&format!("hostname={host}"), "hostname=<host>");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    insta::assert_snapshot!(all.replace(&format!("arch={arch}"), "arch=<arch>"));
}

#[test]
fn metadata_of_a_server_is_refused() {
    let text = container("")
        .replace("  name: web\n", "  name: web\n  uid: x\n  creationTimestamp: 2026-01-01T00:00:00Z\n")
        + "status: {phase: Running}\n";
    insta::assert_snapshot!(problems(&text));
}

#[test]
fn apparmor_by_annotation() {
    let with = |name: &str, value: &str| {
        let annotations = format!("{}{name}: {value}", crate::api::AppArmorProfile::ANNOTATION);
        let text = container("")
            .replace("  name: web\n", &format!("  name: web\n  annotations: {{{annotations}}}\n"));
        read(&[("pod.yaml", &text)]).err().map(|all| all[0].to_string()).unwrap_or_default()
    };
    for good in ["localhost/x", "runtime/default", "unconfined"] {
        assert_eq!(with("main", good), "");
    }
    assert!(with("main", "x").contains("\"x\" is none of runtime/default"), "{}", with("main", "x"));
    assert!(with("other", "unconfined").contains("there is no container \"other\""));
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "[ \\-:{}\\[\\]a-z0-9\n\"'&*|>#]{0,200}") {
        let _ = read(&[("x", &text)]);
    }
}
