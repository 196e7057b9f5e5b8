//! What flows between a container and a terminal: attach, standard input, logs of several pods.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::json;

use super::{Cluster, Kubectl};
use crate::support::{BUSYBOX, eventually, succeed};

/// A pod that repeats what it reads, with a label.
fn echo(name: &str) -> String {
    let script = "echo ready; while read line; do echo \"got $line\"; done; echo end of input";
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": "echo" } },
        "spec": {
            "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "containers": [{ "name": "main", "image": BUSYBOX, "stdin": true, "stdinOnce": true, "command": ["sh", "-c", script] }],
        },
    })
    .to_string()
}

#[test]
fn attach_gives_the_container_what_is_typed() {
    let cluster = Cluster::with_busybox();
    for (version, pod) in [(Kubectl::Trixie, "first"), (Kubectl::Sid, "second")] {
        cluster.apply(&echo(pod));
        cluster.ready(pod);
        let mut command = cluster.command(version, &["attach", "-i", "-q", pod]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"hello\n").unwrap();
        assert_eq!(lines.by_ref().map(Result::unwrap).find(|line| line != "ready").unwrap(), "got hello");
        // The end of the input is the container's too.
        drop(input);
        assert_eq!(lines.next().unwrap().unwrap(), "end of input");
        assert!(child.wait().unwrap().success());
        cluster.status(pod, "Completed");
        let output = cluster.run_with(version, "typed\n", &["exec", "-i", pod, "--", "cat"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("cannot exec into a container in a completed pod; current phase is Succeeded"),
            "{said}"
        );
    }
    cluster.finish();
}

#[test]
fn exec_reads_standard_input_to_its_end_and_tells_how_the_command_ended() {
    let cluster = Cluster::with_busybox();
    cluster.apply(&echo("pipe"));
    cluster.ready("pipe");
    let large: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    for version in Kubectl::BOTH {
        let output = cluster.run_with(version, &large, &["exec", "-i", "pipe", "--", "cat"]);
        assert_eq!(succeed(&output), large);
        let output =
            cluster.run(version, &["exec", "pipe", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"out\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "err\ncommand terminated with exit code 3\n");
    }
    let refused = cluster.refused(&["exec", "pipe", "-c", "other", "--", "true"]);
    assert!(refused.contains("container other is not valid for pod pipe"), "{refused}");
    cluster.finish();
}

#[test]
fn pods_are_read_and_deleted_by_their_labels() {
    let cluster = Cluster::with_busybox();
    for pod in ["one", "two"] {
        cluster.apply(&echo(pod));
        cluster.ready(pod);
    }
    let logs = cluster.kubectl(&["logs", "-l", "app=echo", "--prefix"]);
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[pod/one/main] ready", "[pod/two/main] ready"]);
    assert_eq!(cluster.kubectl(&["logs", "one", "--since=1h"]), "ready\n");
    assert_eq!(cluster.kubectl(&["logs", "one", "--since-time=2100-01-01T00:00:00Z"]), "");
    assert_eq!(cluster.kubectl(&["logs", "one", "--limit-bytes=3"]), "rea");
    // Who follows gets what comes, and is let go when the container ends.
    let mut command = cluster.command(Kubectl::Sid, &["logs", "-f", "one"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    cluster.kubectl_with("last words\n", &["attach", "-i", "one"]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\ngot last words\nend of input\n");
    let deleted = cluster.kubectl(&["delete", "pods", "-l", "app=echo"]);
    assert_eq!(deleted.lines().count(), 2, "{deleted}");
    eventually("the pods to be gone", || {
        cluster.kubectl(&["get", "pods", "-o", "name"]).is_empty().then_some(())
    });
    cluster.finish();
}
