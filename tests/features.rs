//! What a manifest can ask for beyond the everyday, each on a real pod.

use std::path::Path;

use crate::support::{Ended, Node, Run, with_busybox};

/// Starts a manifest: `BUSYBOX`, `DEMO` and `DIR` stand for the images and the node's own directory.
#[track_caller]
fn start(node: &Node, name: &str, manifest: &str) -> Run {
    let text = with_busybox(manifest)
        .replace("DEMO", crate::support::DEMO)
        .replace("DIR", node.path("").to_str().unwrap().trim_end_matches('/'));
    let path = node.write(&format!("{name}.yaml"), &text);
    Run::start(node, &["run", &path])
}

fn node() -> Node {
    let node = Node::start();
    node.load_busybox();
    node
}

/// That each text is among what the containers said, or among what was told about them.
#[track_caller]
fn has(ended: &Ended, wanted: &[&str]) {
    let all = format!("{}\n{}", ended.stdout.join("\n"), ended.stderr);
    for text in wanted {
        assert!(all.contains(text), "no {text:?} in\n{all}");
    }
}

#[test]
fn probes_of_every_kind_see_the_container() {
    let node = node();
    let run = start(
        &node,
        "probes",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: probes}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: web
    image: DEMO
    command: [/bin/vaquita, demo-server]
    ports: [{name: http, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: http}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {port: http, path: /ready, httpHeaders: [{name: Host, value: hello.example}]}, periodSeconds: 1}
    livenessProbe: {exec: {command: [cat, /etc/passwd]}, timeoutSeconds: 30}
  - name: rpc
    image: DEMO
    command: [/bin/health, "9000"]
    startupProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {grpc: {port: 9000, service: good}, periodSeconds: 1}
  - name: sick
    image: DEMO
    command: [/bin/health, "9001"]
    startupProbe: {grpc: {port: 9001}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {grpc: {port: 9001, service: other}, periodSeconds: 1}
  - name: plain
    image: DEMO
    command: [/bin/sleep, infinity]
    readinessProbe: {httpGet: {scheme: HTTPS, port: http, path: /}, periodSeconds: 1}
    ports: [{name: http, containerPort: 8081}]
"#,
    );
    for text in [
        "web startup probe ok",
        "web readiness probe ok",
        "web liveness probe ok",
        "rpc startup probe ok",
        "rpc readiness probe ok",
        "sick readiness probe failed: the service answers NOT_SERVING",
        "plain readiness probe failed: GET https://",
    ] {
        run.err(text);
    }
    run.interrupt();
    assert_eq!(run.ended().status.code(), Some(130));
    node.finish();
}

#[test]
fn hooks_of_every_kind_run() {
    let node = node();
    let run = start(
        &node,
        "hooks",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: hooks}
spec:
  terminationGracePeriodSeconds: 30
  volumes: [{name: host, hostPath: {path: DIR/hooks, type: DirectoryOrCreate}}]
  initContainers:
  - name: web
    image: DEMO
    restartPolicy: Always
    command: [/bin/vaquita, demo-server]
    startupProbe: {httpGet: {port: 8080, path: /healthy}, periodSeconds: 1, failureThreshold: 60}
  containers:
  - name: get
    image: DEMO
    command: [/bin/sleep, infinity]
    lifecycle: {postStart: {httpGet: {port: 8080, path: /healthy}}, preStop: {httpGet: {port: 8080, path: /healthy}}}
  - name: nap
    image: DEMO
    command: [/bin/sleep, infinity]
    lifecycle: {postStart: {sleep: {seconds: 0}}, preStop: {sleep: {seconds: 1}}}
  - name: touch
    image: DEMO
    command: [/bin/sleep, infinity]
    lifecycle: {postStart: {exec: {command: [touch, /host/started]}}, preStop: {exec: {command: [touch, /host/stopping]}}}
    volumeMounts: [{name: host, mountPath: /host}]
  - name: bad
    image: DEMO
    command: [/bin/sleep, infinity]
    lifecycle: {preStop: {exec: {command: [cat, /no/file]}}}
"#,
    );
    run.err("hooks ready");
    assert!(node.path("hooks/started").exists() && !node.path("hooks/stopping").exists());
    run.interrupt();
    let ended = run.ended();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.stderr);
    assert!(node.path("hooks/stopping").exists());
    let failed: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("hook failed")).collect();
    assert_eq!(failed.len(), 1, "{}", ended.stderr);
    has(&ended, &["bad: preStop hook failed: exit code 1: cat: /no/file", "nap: exit 143 (SIGTERM)"]);
    node.finish();
}

#[test]
fn an_empty_dir_that_outgrows_its_limit_has_its_pod_evicted() {
    let node = node();
    let ended = start(
        &node,
        "evicted",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: evicted}
spec:
  volumes: [{name: small, emptyDir: {sizeLimit: 1Mi}}, {name: large, emptyDir: {sizeLimit: 1Gi}}]
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, 'dd if=/dev/zero of=/large/x bs=1M count=2; dd if=/dev/zero of=/small/x bs=1M count=2; exec sleep 100000']
    volumeMounts: [{name: small, mountPath: /small}, {name: large, mountPath: /large}]
"#,
    )
    .ended();
    assert_eq!(ended.status.code(), Some(137), "{}", ended.stderr);
    has(&ended, &["failed: Evicted: Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\"."]);
    node.finish();
}

#[test]
fn confinement_is_what_was_asked_for() {
    let node = node();
    let profiles = node.path("root/agent/seccomp/profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    std::fs::write(profiles.join("no-mkdir.json"), profile).unwrap();
    let ended = start(
        &node,
        "confined",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: confined}
spec:
  restartPolicy: Never
  hostIPC: true
  securityContext:
    fsGroup: 2000
    supplementalGroups: [4000]
    supplementalGroupsPolicy: Strict
    sysctls: [{name: net.core.somaxconn, value: "99"}]
  containers:
  - name: default
    image: BUSYBOX
    command: [sh, -c, 'busybox unshare -U true; echo "unshare $?"; cat /proc/sys/net/core/somaxconn; readlink /proc/self/ns/ipc']
    securityContext: {seccompProfile: {type: RuntimeDefault}}
  - name: unconfined
    image: BUSYBOX
    command: [sh, -c, 'busybox unshare -U true; echo "unshare $?"']
    securityContext: {seccompProfile: {type: Unconfined}}
  - name: profile
    image: BUSYBOX
    command: [sh, -c, 'mkdir /tmp/new 2>/dev/null || echo refused; touch /tmp/file && echo allowed']
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: profiles/no-mkdir.json}}
  - name: privileged
    image: BUSYBOX
    command: [sh, -c, 'id -G; mkdir /mnt && mount -t tmpfs none /mnt && echo mounted; grep NoNewPrivs /proc/self/status']
    securityContext: {privileged: true}
  - name: user
    image: BUSYBOX
    command: [sh, -c, 'id -G; grep -E "CapEff|NoNewPrivs" /proc/self/status']
    securityContext: {runAsUser: 65534, runAsNonRoot: true, allowPrivilegeEscalation: false}
"#,
    )
    .ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let ipc = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    has(&ended, &["confined/default    | unshare 1", "confined/default    | 99"]);
    has(&ended, &[&format!("confined/default    | {}", ipc.display())]);
    has(&ended, &["confined/unconfined | unshare 0", "profile    | refused", "profile    | allowed"]);
    has(&ended, &["privileged | 0 2000 4000", "privileged | mounted", "privileged | NoNewPrivs:\t0"]);
    has(&ended, &["user       | CapEff:\t0000000000000000", "user       | NoNewPrivs:\t1"]);
    // The image puts nobody in the group audio, 29: a strict policy leaves that out.
    let groups = ended.stdout.iter().find(|line| line.contains("user       | ") && line.contains("2000"));
    assert!(groups.is_some_and(|line| line.contains("4000") && !line.contains("29")), "{groups:?}");
    node.finish();
}

#[test]
fn cgroups_are_those_of_the_class() {
    let node = node();
    let run = start(
        &node,
        "classes",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: a, image: DEMO, command: [/bin/sleep, infinity], resources: {limits: {cpu: 500m, memory: 64Mi}}}
  - {name: b, image: DEMO, command: [/bin/sleep, infinity], resources: {limits: {cpu: 250m, memory: 32Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: burstable}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: a, image: BUSYBOX, command: [sh, -c, 'cat /proc/self/oom_score_adj; exec sleep 10000'], resources: {requests: {cpu: 100m}}}
---
apiVersion: v1
kind: Pod
metadata: {name: best}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: a, image: BUSYBOX, command: [sh, -c, 'cat /proc/self/oom_score_adj; exec sleep 10000']}
"#,
    );
    for pod in ["guaranteed", "burstable", "best"] {
        run.err(&format!("{pod} ready"));
    }
    let top = format!("{}/kubepods", node.cgroup());
    assert_eq!(limits(&top, ""), (96 << 20, 75_000));
    // Best-effort pods get what nobody else wants; burstable ones what they request.
    assert!([1, 2].contains(&shares(&top, "besteffort")), "{}", shares(&top, "besteffort"));
    assert!(shares(&top, "burstable") < shares(&top, ""));
    assert_eq!(limits(&top, "burstable").1, -1);
    assert_eq!(limits(&top, "besteffort").1, -1);
    run.interrupt();
    let ended = run.ended();
    has(&ended, &["burstable/a  | 999", "best/a       | 1000"]);
    node.finish();
}

/// cpu.weight or cpu.shares of a class.
#[track_caller]
fn shares(top: &str, class: &str) -> u64 {
    let dir = |controller: &str| Path::new("/sys/fs/cgroup").join(controller).join(&top[1..]).join(class);
    let places = [dir("").join("cpu.weight"), dir("cpu").join("cpu.shares")];
    let text = places.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap();
    text.trim().parse().unwrap()
}

/// The memory limit in bytes and the CPU quota in µs per 100 ms of the only pod of a class; -1 is no quota.
#[track_caller]
fn limits(top: &str, class: &str) -> (u64, i64) {
    let read = |controller: &str, files: [&str; 2]| {
        let host = Path::new("/sys/fs/cgroup");
        let dirs = [host.join(controller), host.to_owned()].map(|dir| dir.join(&top[1..]).join(class));
        let dir = dirs.iter().find(|dir| dir.is_dir()).unwrap();
        let pods = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
        let pod = pods.into_iter().find(|pod| pod.file_name().unwrap().to_str().unwrap().starts_with("pod"));
        let pod = pod.unwrap_or_else(|| panic!("no pod in {}", dir.display()));
        files.iter().find_map(|file| std::fs::read_to_string(pod.join(file)).ok()).unwrap()
    };
    let memory = read("memory", ["memory.max", "memory.limit_in_bytes"]);
    let quota = read("cpu", ["cpu.max", "cpu.cfs_quota_us"]);
    let first = quota.split_whitespace().next().unwrap();
    (memory.trim().parse().unwrap_or(u64::MAX), first.parse().unwrap_or(-1))
}

#[test]
fn downward_volumes_and_paths_in_volumes() {
    let node = node();
    let ended = start(
        &node,
        "about",
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {a: "of the map"}
---
apiVersion: v1
kind: Pod
metadata: {name: about, labels: {app: x}}
spec:
  restartPolicy: Never
  volumes:
  - {name: own, downwardAPI: {items: [{path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}, {path: in/mem, resourceFieldRef: {containerName: main, resource: requests.memory, divisor: 1Ki}}]}}
  - name: all
    projected:
      defaultMode: 0400
      sources:
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - configMap: {name: map, items: [{key: a, path: x/y}]}
      - secret: {name: none, optional: true}
  - {name: disk, emptyDir: {}}
  - {name: file, hostPath: {path: DIR/made, type: FileOrCreate}}
  - {name: null, hostPath: {path: /dev/null, type: CharDevice}}
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, 'echo "cpu $(cat /own/cpu) mem $(cat /own/in/mem)"; echo "$(cat /all/name): $(cat /all/x/y)"; stat -L -c "mode %a" /all/x/y; echo 1 > /sub/file; ls /disk/about/default; echo kept > /file; echo gone > /nothing; echo "$NODE $CPU"']
    resources: {limits: {cpu: 250m, memory: 64Mi}, requests: {memory: 32Mi}}
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    volumeMounts:
    - {name: own, mountPath: /own}
    - {name: all, mountPath: /all}
    - {name: disk, mountPath: /disk}
    - {name: disk, mountPath: /sub, subPathExpr: $(NAME)/$(SPACE)}
    - {name: file, mountPath: /file}
    - {name: null, mountPath: /nothing}
"#
        .replace("name: null", "name: nothing")
        .as_str(),
    )
    .ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{:?}", ended.stderr, ended.stdout);
    has(&ended, &["main | cpu 250 mem 32768", "main | about: of the map", "main | mode 400"]);
    has(&ended, &["main | file", "main | default 1"]);
    assert_eq!(std::fs::read_to_string(node.path("made")).unwrap(), "kept\n");
    node.finish();
}

#[test]
fn what_cannot_be_is_told_with_its_reason() {
    let node = node();
    std::fs::create_dir(node.path("dir")).unwrap();
    std::os::unix::fs::symlink("/etc", node.path("dir/out")).unwrap();
    let pod = |name: &str, volume: &str, mount: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  volumes: [{{name: v, hostPath: {{{volume}}}}}]\n  \
             containers: [{{name: main, image: DEMO, command: [/bin/true], volumeMounts: [{{name: v, mountPath: /v{mount}}}]{more}}}]\n"
        )
    };
    let all = [
        pod("type", "path: DIR/dir, type: File", "", ""),
        pod("socket", "path: DIR/dir, type: Socket", "", ""),
        pod("missing", "path: DIR/none, type: Directory", "", ""),
        pod("out", "path: DIR/dir", ", subPath: out", ""),
        pod("never", "path: DIR/dir", "", ", imagePullPolicy: Never").replace("DEMO", "127.0.0.1:1/none:1"),
    ];
    let run = start(&node, "refused", &all.concat());
    for text in [
        "dir is not a file",
        "dir is not a socket",
        "none: No such file or directory",
        "CreateContainerConfigError: mount /v: subPath \"out\" leads out of the volume, to /etc",
        "ErrImageNeverPull: image \"127.0.0.1:1/none:1\" is not there, and imagePullPolicy is Never",
    ] {
        run.err(text);
    }
    run.interrupt();
    assert_eq!(run.ended().status.code(), Some(130));
    node.finish();
}

#[test]
fn mounts_propagate_where_asked() {
    let node = node();
    let shared = Shared::new(node.path("shared"));
    let ended = start(
        &node,
        "propagation",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: propagation}
spec:
  restartPolicy: Never
  volumes: [{name: v, hostPath: {path: DIR/shared}}, {name: done, emptyDir: {}}]
  containers:
  - name: mounts
    image: BUSYBOX
    command: [sh, -c, 'mount -t tmpfs inner /v/point && touch /v/point/seen; while [ ! -e /done/file ]; do sleep 0.05; done; busybox umount /v/point']
    securityContext: {privileged: true}
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}, {name: done, mountPath: /done}]
  - name: sees
    image: BUSYBOX
    command: [sh, -c, 'while [ ! -e /v/point/seen ]; do sleep 0.05; done; ls /private/point; touch /ro/point/no 2>&1; touch /done/file']
    volumeMounts:
    - {name: v, mountPath: /v, mountPropagation: HostToContainer}
    - {name: v, mountPath: /ro, readOnly: true, recursiveReadOnly: Enabled}
    - {name: v, mountPath: /private}
    - {name: done, mountPath: /done}
"#,
    )
    .ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{:?}", ended.stderr, ended.stdout);
    has(&ended, &["touch: /ro/point/no: Read-only file system"]);
    drop(shared);
    node.finish();
}

/// A directory that is a mount of its own whose mounts propagate, with a directory `point` inside.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(path: std::path::PathBuf) -> Self {
        use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
        std::fs::create_dir_all(path.join("point")).unwrap();
        mount_bind(&path, &path).unwrap();
        let shared = Self(path);
        mount_change(&shared.0, MountPropagationFlags::SHARED).unwrap();
        shared
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn ends_are_told_with_reason_and_message() {
    let node = node();
    let ended = start(
        &node,
        "ends",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  restartPolicy: Never
  containers:
  - {name: path, image: BUSYBOX, command: [sh, -c, 'echo the reason > /tmp/why; exit 3'], terminationMessagePath: /tmp/why}
  - {name: logs, image: BUSYBOX, command: [sh, -c, 'echo the last line; exit 4'], terminationMessagePolicy: FallbackToLogsOnError}
  - {name: tty, image: BUSYBOX, stdin: true, tty: true, command: [sh, -c, 'test -t 0 && echo a terminal']}
  - {name: stdin, image: BUSYBOX, stdin: true, stdinOnce: true, command: [sh, -c, 'readlink /proc/self/fd/0']}
  - {name: nothing, image: BUSYBOX, command: [sh, -c, 'readlink /proc/self/fd/0; cat; echo the end']}
---
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  restartPolicy: Never
  initContainers:
  - {name: init, image: BUSYBOX, command: [sh, -c, 'x=a; while true; do x=$x$x; done'], resources: {limits: {memory: 16Mi}}}
  containers: [{name: main, image: DEMO, command: [/bin/true]}]
"#,
    )
    .ended();
    has(&ended, &["path: exit 3 after", ": the reason", "logs: exit 4 after", ": the last line"]);
    has(
        &ended,
        &["/tty     | a terminal", "/stdin   | pipe:[", "/nothing | /dev/null", "/nothing | the end"],
    );
    has(
        &ended,
        &["init init: killed because it needed more memory than its limit of 16Mi (OOMKilled, exit 137)"],
    );
    assert!(!ended.stderr.contains("main started"), "{}", ended.stderr);
    node.finish();
}

#[test]
fn a_container_that_crashes_waits_longer_each_time() {
    let node = node();
    let run = start(
        &node,
        "crashes",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: crashes}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: crashes, image: DEMO, command: [/bin/false]}
  - {name: lives, image: BUSYBOX, command: [sh, -c, 'exec sleep 100000'], livenessProbe: {exec: {command: ["true"]}, timeoutSeconds: 30}}
"#,
    );
    run.err("crashes started again (restart 1)");
    run.err("crashes: CrashLoopBackOff: next start in ");
    run.interrupt();
    let ended = run.ended();
    assert!(!ended.stderr.contains("lives started again"), "{}", ended.stderr);
    node.finish();
}
