//! The first pages of any tutorial, word for word, with both kubectls.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::{Cluster, Kubectl};
use crate::support::{eventually, http, succeed};

/// A web server that says hello, as the image of the tutorial does.
const IMAGE: &str = "localhost/test/kuard:blue";

const MANIFEST: &str = r#"apiVersion: v1
kind: Pod
metadata:
  name: kuard
spec:
  volumes:
    - name: "kuard-data"
      emptyDir: {}
  containers:
    - image: localhost/test/kuard:blue
      name: kuard
      volumeMounts:
        - mountPath: "/data"
          name: "kuard-data"
      livenessProbe:
        httpGet:
          path: /
          port: 8080
        initialDelaySeconds: 1
        timeoutSeconds: 1
        periodSeconds: 10
        failureThreshold: 3
      readinessProbe:
        httpGet:
          path: /
          port: 8080
        periodSeconds: 1
      resources:
        requests:
          cpu: "500m"
          memory: "128Mi"
        limits:
          cpu: "1000m"
          memory: "256Mi"
      ports:
        - containerPort: 8080
          name: http
          protocol: TCP
"#;

fn load(cluster: &Cluster) {
    let serve = "echo 'Serving on :8080'; exec httpd -f -vv -p 8080 -h /www";
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh", "-c", serve] });
    cluster.node.load(IMAGE, config, |tar| {
        tar.dir("www/");
        tar.file("www/index.html", "hello from kuard\n");
    });
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a table, in words.
fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_pod_is_run_looked_at_entered_and_deleted_with_1_32() {
    walk(Kubectl::Trixie);
}

#[test]
fn a_pod_is_run_looked_at_entered_and_deleted_with_1_36() {
    walk(Kubectl::Sid);
}

fn walk(version: Kubectl) {
    let cluster = Cluster::up();
    load(&cluster);
    let kubectl = |args: &[&str]| succeed(&cluster.run(version, args));

    assert_eq!(kubectl(&["run", "kuard", &format!("--image={IMAGE}")]), "pod/kuard created\n");
    kubectl(&["wait", "--for=condition=Ready", "pod/kuard", "--timeout=120s"]);
    let table = kubectl(&["get", "pods"]);
    let lines = words(&table);
    assert_eq!(lines[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(lines[1][..4], ["kuard", "1/1", "Running", "0"], "{table}");
    assert_eq!(lines.len(), 2, "{table}");

    describe(&kubectl(&["describe", "pods", "kuard"]));
    forward(&cluster, version);
    follow(&cluster, version);
    assert_eq!(kubectl(&["exec", "kuard", "--", "cat", "/www/index.html"]), "hello from kuard\n");
    terminal(&cluster, version);
    copy(&cluster, version);
    let deleted = kubectl(&["delete", "pods/kuard", "--grace-period=1"]);
    assert!(deleted.starts_with("pod \"kuard\" deleted"), "{deleted}");

    let manifest = cluster.node.write("kuard-pod.yaml", MANIFEST);
    assert_eq!(kubectl(&["apply", "-f", &manifest]), "pod/kuard created\n");
    // The server has added a mount to the list, so kubectl sends a patch, and calls that a change.
    assert_eq!(kubectl(&["apply", "-f", &manifest]), "pod/kuard configured\n");
    kubectl(&["wait", "--for=condition=Ready", "pod/kuard", "--timeout=120s"]);
    kubectl(&["delete", "-f", &manifest, "--wait=false", "--grace-period=20"]);
    // It ignores the signal, as PID 1 without a handler, so it is seen until its time is up.
    let table = kubectl(&["get", "pods"]);
    assert_eq!(words(&table)[1][2], "Terminating", "{table}");
    kubectl(&["wait", "--for=delete", "pod/kuard", "--timeout=60s"]);
    let output = cluster.run(version, &["get", "pods"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "No resources found in default namespace.\n");
    cluster.finish();
}

/// What people read there, in this order.
fn describe(text: &str) {
    let mut rest = text;
    for part in [
        "Name:             kuard\nNamespace:        default\nPriority:         0\nService Account:  default\nNode:",
        "Start Time:",
        "Labels:           run=kuard\nAnnotations:      <none>\nStatus:           Running\nIP:",
        "Containers:\n  kuard:\n    Container ID:   vaquita://",
        "    Image:          localhost/test/kuard:blue\n    Image ID:",
        "    State:          Running\n      Started:",
        "    Ready:          True\n    Restart Count:  0\n",
        "Mounts:\n      /var/run/secrets/kubernetes.io/serviceaccount from kube-api-access-",
        "Conditions:\n  Type                        Status\n",
        "Ready                       True",
        "Volumes:\n  kube-api-access-",
        "Projected (a volume that contains injected data from multiple sources)",
        "QoS Class:                   BestEffort\nNode-Selectors:              <none>\n",
        "Tolerations:                 node.kubernetes.io/not-ready:NoExecute op=Exists for 300s\n",
        "Events:\n  Type    Reason     Age   From               Message\n",
        "Scheduled",
        "default-scheduler  Successfully assigned default/kuard to ",
        "Pulled",
        "Container image \"localhost/test/kuard:blue\" already present on machine",
        "Created",
        "Started",
    ] {
        let Some(at) = rest.find(part) else { panic!("no {part:?} after the others in:\n{text}") };
        rest = &rest[at + part.len()..];
    }
}

fn forward(cluster: &Cluster, version: Kubectl) {
    let mut command = cluster.command(version, &["port-forward", "kuard", ":8080"]);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    // Kept open: kubectl goes on to write there, and ends where it cannot.
    let mut said = BufReader::new(child.0.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let port = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap_or_else(|| panic!("{line:?}"));
    let (port, to) = port.trim_end().split_once(" -> ").unwrap();
    assert_eq!(to, "8080");
    for _ in 0..3 {
        let answer = http("GET", "127.0.0.1", port.parse().unwrap(), "/").unwrap();
        assert_eq!(answer, (200, "hello from kuard\n".to_owned()));
    }
}

fn follow(cluster: &Cluster, version: Kubectl) {
    let mut command = cluster.command(version, &["logs", "-f", "kuard"]);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "Serving on :8080");
    // A request adds lines, which come while it follows.
    succeed(&cluster.run(version, &["exec", "kuard", "--", "wget", "-q", "-O-", "http://127.0.0.1:8080/"]));
    let line = lines.find(|line| line.as_ref().unwrap().contains("response:200"));
    assert!(line.is_some(), "the log ended");
}

/// A shell, as people use one, with a terminal of its own.
fn terminal(cluster: &Cluster, version: Kubectl) {
    let kubectl = cluster.command(version, &["exec", "-it", "kuard", "--", "sh"]);
    let line: Vec<&str> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|arg| arg.to_str().unwrap())
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).env_clear();
    script.envs(kubectl.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"tty; hostname; stty size; exit 7\n").unwrap();
    let mut seen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    drop(input);
    assert!(seen.contains("kuard\r\n"), "{seen}");
    assert_eq!(child.wait().unwrap().code(), Some(7), "{seen}");
}

fn copy(cluster: &Cluster, version: Kubectl) {
    let here = cluster.node.write("here.txt", "from the host\n");
    let run = |args: &[&str]| succeed(&cluster.run(version, args));
    run(&["cp", &here, "kuard:/tmp/there.txt"]);
    assert_eq!(run(&["exec", "kuard", "--", "cat", "/tmp/there.txt"]), "from the host\n");
    let back = cluster.node.path("back.html");
    run(&["cp", "kuard:/www/index.html", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(back).unwrap(), "hello from kuard\n");
}

/// Whoever watches sees each step of a pod's life, as kubectl prints it.
#[test]
fn a_watch_shows_pending_creating_running_terminating() {
    let cluster = Cluster::up();
    load(&cluster);
    let log = cluster.node.path("watch");
    let file = std::fs::File::create(&log).unwrap();
    let _watch = Running(cluster.command(Kubectl::Sid, &["get", "pods", "-w"]).stdout(file).spawn().unwrap());
    cluster.apply(MANIFEST);
    cluster.ready("kuard");
    cluster.kubectl(&["delete", "pod", "kuard", "--grace-period=1"]);
    eventually("the watch to show the end", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.contains("Terminating").then_some(())
    });
    let text = std::fs::read_to_string(&log).unwrap();
    let mut steps: Vec<String> =
        words(&text)[1..].iter().map(|line| format!("{} {}", line[1], line[2])).collect();
    steps.dedup();
    let wanted = ["0/1 Pending", "0/1 ContainerCreating", "1/1 Running", "1/1 Terminating"];
    let mut rest = steps.iter();
    for step in wanted {
        assert!(rest.any(|seen| seen == step), "no {step} in its place:\n{text}");
    }
    cluster.finish();
}
