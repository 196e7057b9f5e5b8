//! What a manifest asks for is what its containers see.

use crate::support::{Node, Run, with_busybox};

/// Runs a manifest with busybox to its end; exit status and what the containers said, `container: line`.
#[track_caller]
fn run(node: &Node, manifest: &str) -> (i32, Vec<String>, String) {
    let path = node.write("pod.yaml", &with_busybox(manifest));
    let ended = Run::start(node, &["run", &path]).ended();
    let lines = ended.stdout.iter().map(|line| {
        let (name, text) = line.split_once('|').unwrap();
        format!("{}:{text}", name.trim().rsplit('/').next().unwrap())
    });
    (ended.status.code().unwrap(), lines.collect(), ended.stderr)
}

#[track_caller]
fn says(lines: &[String], wanted: &[&str]) {
    for line in wanted {
        assert!(lines.iter().any(|said| said == line), "no {line:?} in {lines:#?}");
    }
}

fn node() -> Node {
    let node = Node::start();
    node.load_busybox();
    node
}

#[test]
fn environment_and_arguments_are_expanded() {
    let node = node();
    let manifest = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOR: blue, SIZE: large}
---
apiVersion: v1
kind: Pod
metadata: {name: env, labels: {app: x}, annotations: {note: "hello"}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, 'echo "$0 $1"; echo "$COLOR $size $NAME $LABEL $LIMIT $BOTH"; pwd', $(NAME)]
    args: [$$(NAME)]
    workingDir: /tmp
    envFrom:
    - configMapRef: {name: settings}
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: size, valueFrom: {configMapKeyRef: {name: settings, key: SIZE}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: BOTH, value: "$(NAME)-$(LABEL)-$(MISSING)"}
    resources: {limits: {memory: 32Mi}}
"#;
    let (code, lines, error) = run(&node, manifest);
    assert_eq!(code, 0, "{error}");
    says(&lines, &["main: env $(NAME)", "main: blue large env x 32 env-x-$(MISSING)", "main: /tmp"]);
    node.finish();
}

#[test]
fn volumes_hold_what_was_asked_for() {
    let node = node();
    let host = node.path("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "of the host\n").unwrap();
    let manifest = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: files}
data: {one: "1\n", two: "2\n"}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {app: x}}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 65534, runAsGroup: 65534, fsGroup: 2000}
  volumes:
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: disk, emptyDir: {}}
  - {name: files, configMap: {name: files, defaultMode: 0440}}
  - {name: host, hostPath: {path: HOST, type: Directory}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  initContainers:
  - name: write
    image: BUSYBOX
    command: [sh, -c, 'echo shared > /memory/file; echo sub > /disk/file; stat -c %g /memory /disk']
    volumeMounts: [{name: memory, mountPath: /memory}, {name: disk, mountPath: /disk}]
  containers:
  - name: read
    image: BUSYBOX
    command:
    - sh
    - -c
    - |
      cat /memory/file /sub /files/one /only /host/file /about/labels
      echo
      stat -L -c '%a %g' /files/one
      touch /host/new 2>/dev/null || echo read-only
      dd if=/dev/zero of=/memory/big bs=1M count=2 2>/dev/null || echo full
    volumeMounts:
    - {name: memory, mountPath: /memory}
    - {name: disk, mountPath: /sub, subPath: file}
    - {name: files, mountPath: /files}
    - {name: files, mountPath: /only, subPath: two}
    - {name: host, mountPath: /host, readOnly: true}
    - {name: about, mountPath: /about}
"#;
    let (code, lines, error) = run(&node, &manifest.replace("HOST", host.to_str().unwrap()));
    assert_eq!(code, 0, "{error}\n{lines:#?}");
    says(&lines, &["write: 2000", "read: shared", "read: sub", "read: 1", "read: 2", "read: of the host"]);
    says(&lines, &["read: app=\"x\"", "read: 440 2000", "read: read-only", "read: full"]);
    assert!(!host.join("new").exists());
    node.finish();
}

#[test]
fn security_contexts_are_kept() {
    let node = node();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: secure}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsGroup: 3000, supplementalGroups: [4000], seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: plain
    image: BUSYBOX
    command: [sh, -c, 'id -u; id -G; grep -E "CapEff|NoNewPrivs|Seccomp:" /proc/self/status; touch /file || echo denied']
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
  - name: root
    image: BUSYBOX
    command: [sh, -c, 'id -u; grep CapEff /proc/self/status']
    securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
"#;
    let (code, lines, error) = run(&node, manifest);
    assert_eq!(code, 0, "{error}");
    says(
        &lines,
        &["plain: 1000", "plain: 3000 4000", "plain: CapEff:\t0000000000000000", "plain: NoNewPrivs:\t1"],
    );
    says(&lines, &["plain: Seccomp:\t2", "plain: denied", "root: 0", "root: CapEff:\t0000000000000400"]);
    node.finish();
}

#[test]
fn a_root_image_is_refused_where_root_is_not_wanted() {
    let node = node();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: nonroot}
spec:
  restartPolicy: Never
  activeDeadlineSeconds: 8
  containers:
  - {name: main, image: BUSYBOX, command: [id], securityContext: {runAsNonRoot: true}}
"#;
    let (code, lines, error) = run(&node, manifest);
    assert_eq!((code, lines.len()), (1, 0), "{error}");
    assert!(
        error.contains("main: CreateContainerConfigError: ") && error.contains("DeadlineExceeded"),
        "{error}"
    );
    node.finish();
}

#[test]
fn names_and_hosts_files_are_those_of_the_pod() {
    let node = node();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: named}
spec:
  restartPolicy: Never
  hostname: whale
  subdomain: sea
  hostAliases: [{ip: 10.1.2.3, hostnames: [far, farther]}]
  dnsPolicy: None
  dnsConfig: {nameservers: [10.9.8.7], searches: [example.org], options: [{name: ndots, value: "2"}]}
  containers:
  - {name: main, image: BUSYBOX, command: [sh, -c, 'hostname; cat /etc/hosts /etc/resolv.conf']}
"#;
    let (code, lines, error) = run(&node, manifest);
    assert_eq!(code, 0, "{error}");
    says(
        &lines,
        &["main: whale", "main: nameserver 10.9.8.7", "main: search example.org", "main: options ndots:2"],
    );
    assert!(
        lines.iter().any(|line| line.starts_with("main: 10.204.") && line.contains("whale")),
        "{lines:#?}"
    );
    says(&lines, &["main: 10.1.2.3\tfar\tfarther"]);
    node.finish();
}

#[test]
fn a_container_that_fails_is_started_again_and_then_succeeds() {
    let node = node();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: retried}
spec:
  restartPolicy: OnFailure
  volumes: [{name: work, emptyDir: {}}]
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, 'test -e /work/once && exit 0; touch /work/once; echo "lost the key" > /dev/termination-log; exit 3']
    volumeMounts: [{name: work, mountPath: /work}]
"#;
    let (code, _, error) = run(&node, manifest);
    assert_eq!(code, 0, "{error}");
    // As kubelet does it: the first time at once, with back-off from the second time on.
    for text in ["main: exit 3 after", "lost the key", "main started again (restart 1)", "main: exit 0 after"]
    {
        assert!(error.contains(text), "no {text:?} in {error}");
    }
    node.finish();
}

#[test]
fn sidecars_start_first_and_stop_last_and_hooks_run() {
    let node = node();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: hooked}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 20
  volumes: [{name: work, emptyDir: {}}]
  initContainers:
  - name: sidecar
    image: BUSYBOX
    restartPolicy: Always
    command: [sh, -c, 'trap "echo sidecar ends; exit 0" TERM; touch /work/sidecar; while true; do sleep 0.05; done']
    startupProbe: {exec: {command: [cat, /work/sidecar]}, periodSeconds: 1}
    volumeMounts: [{name: work, mountPath: /work}]
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, 'cat /work/sidecar && echo after the sidecar; while [ ! -e /work/hook ]; do sleep 0.05; done; echo hooked']
    lifecycle: {postStart: {exec: {command: [touch, /work/hook]}}}
    volumeMounts: [{name: work, mountPath: /work}]
"#;
    let (code, lines, error) = run(&node, manifest);
    assert_eq!(code, 0, "{error}");
    says(&lines, &["main: after the sidecar", "main: hooked", "sidecar: sidecar ends"]);
    let place = |text: &str| error.find(text).unwrap_or_else(|| panic!("no {text:?} in {error}"));
    assert!(
        place("sidecar started") < place("main started") && place("main: exit 0") < place("sidecar: exit 0"),
        "{error}"
    );
    node.finish();
}

#[test]
fn the_host_s_namespaces_are_shared_on_request() {
    let node = node();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: hosted}
spec:
  restartPolicy: Never
  hostNetwork: true
  hostPID: true
  containers:
  - {name: main, image: BUSYBOX, command: [sh, -c, 'hostname; cat /proc/net/dev | grep -c vtest; ls -d /proc/SELF']}
"#;
    let own = std::process::id().to_string();
    let (code, lines, error) = run(&node, &manifest.replace("SELF", &own));
    assert_eq!(code, 0, "{error}");
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    says(&lines, &[&format!("main: {host}"), &format!("main: /proc/{own}")]);
    assert!(error.contains("sandbox ready, on the host's network"), "{error}");
    node.finish();
}
