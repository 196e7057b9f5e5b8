//! `vaquita run`, as a user sees it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::{BUSYBOX, DEMO, Node, Run, eventually, may_lower_oom_score, succeed};

const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/job.yaml");
const POD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/pod.yaml");

/// A pod of one container with this command.
fn manifest(name: &str, image: &str, command: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 1\n{more}  containers:\n  - name: main\n    image: {image}\n    command: {command}\n"
    )
}

/// Waits until the background daemon, if any, has ended: then everything must be gone.
fn finish(node: Node) {
    if let Ok(record) = std::fs::read_to_string(node.path("state/daemon.json")) {
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        let process = format!("/proc/{}", record["pid"]);
        eventually("the background daemon to end", || {
            (!std::path::Path::new(&process).exists()).then_some(())
        });
    }
    node.finish();
}

/// The position of the first line with this text.
#[track_caller]
fn at(lines: &[&str], text: &str) -> usize {
    lines
        .iter()
        .position(|line| line.contains(text))
        .unwrap_or_else(|| panic!("no {text:?} in:\n{}", lines.join("\n")))
}

#[test]
fn a_job_shows_what_happens_and_ends_with_its_status() {
    let node = Node::without_daemon();
    let ended = Run::start(&node, &["run", JOB]).ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stderr, node.log());
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let order =
        ["sandbox ready, address 10.204.", "init prepare: exit 0", "list: exit 0", "succeeded", "removed"];
    let places: Vec<usize> = order.iter().map(|text| at(&lines, text)).collect();
    assert!(places.is_sorted(), "{}", ended.stderr);
    assert!(at(&lines, "speak: exit 0") > places[1], "{}", ended.stderr);
    let logs = ended.stdout.join("\n");
    assert!(logs.contains("job/speak   | I am job and my token is not a real one"), "{logs}");
    assert!(logs.contains("job/list    | prepared"), "{logs}");
    assert!(!logs.contains('\x1b') && !ended.stderr.contains('\x1b'), "colours in a pipe");
    finish(node);
}

#[test]
fn json_output_is_events_and_nothing_else() {
    let node = Node::without_daemon();
    let ended = Run::start(&node, &["run", "--output", "json", JOB]).ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stderr, node.log());
    assert_eq!(ended.stderr, "");
    let events: Vec<serde_json::Value> =
        ended.stdout.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().all(|event| event["pod"] == "job" && event["time"].is_string()), "{events:#?}");
    assert_eq!(events[0]["type"], "SandboxReady");
    assert_eq!(events.last().unwrap()["type"], "Removed");
    let logged = |container: &str| {
        events.iter().any(|event| event["type"] == "Log" && event["container"] == container)
    };
    assert!(logged("list") && logged("speak"));
    finish(node);
}

#[test]
fn a_pod_gets_ready_and_ends_gracefully_on_interrupt() {
    let node = Node::without_daemon();
    let mut run = Run::start(&node, &["run", "--output", "json", POD]);
    run.event("PodReady", |_| true);
    assert!(!node.resources("process").is_empty());
    run.interrupt();
    let web = run.event("ContainerExited", |event| event["container"] == "web");
    assert_eq!(web["code"], 0, "{web}");
    let ended = run.ended();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.stderr);
    finish(node);
}

#[test]
fn text_for_people_names_probes_and_the_end() {
    let node = Node::without_daemon();
    let run = Run::start(&node, &["run", POD]);
    run.err("hello ready\n");
    run.terminate();
    let ended = run.ended();
    assert_eq!(ended.status.code(), Some(143), "{}", ended.stderr);
    for text in [
        "init copy: exit 0",
        "init show: exit 0",
        "web startup probe ok",
        "web liveness probe ok",
        "web readiness probe ok",
        "worker readiness probe ok",
        "web: exit 0",
        "worker: exit 143 (SIGTERM)",
        "hello removed",
    ] {
        assert!(ended.stderr.contains(text), "no {text:?} in\n{}", ended.stderr);
    }
    let logs = ended.stdout.join("\n");
    assert!(logs.contains("hello/show   | Hello from a pod."), "{logs}");
    finish(node);
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let node = Node::without_daemon();
    node.load_busybox();
    // The first process of a container gets no signal that it has not asked for: this one would take an hour.
    let text = manifest("stubborn", BUSYBOX, "[sleep, '10000']", "").replace("Seconds: 1", "Seconds: 3600");
    let path = node.write("pod.yaml", &text);
    let mut run = Run::start(&node, &["run", "--output", "json", &path]);
    run.event("PodReady", |_| true);
    run.interrupt();
    run.event("Terminating", |_| true);
    run.interrupt();
    let end = run.event("ContainerExited", |_| true);
    assert_eq!(end["code"], 137, "{end}");
    assert_eq!(run.ended().status.code(), Some(130));
    finish(node);
}

#[test]
fn a_failed_pod_gives_its_exit_status() {
    let node = Node::without_daemon();
    node.load_busybox();
    let path = node.write("pod.yaml", &manifest("fails", BUSYBOX, "[sh, -c, 'echo why >&2; exit 42']", ""));
    let ended = Run::start(&node, &["run", &path]).ended();
    assert_eq!(ended.status.code(), Some(42), "{}", ended.stderr);
    assert!(ended.stderr.contains("main: exit 42 after"), "{}", ended.stderr);
    assert!(ended.stdout.iter().any(|line| line == "fails/main | why"), "{:?}", ended.stdout);
    finish(node);
}

#[test]
fn a_command_that_is_not_there_is_a_start_error() {
    let node = Node::without_daemon();
    let path = node.write("pod.yaml", &manifest("nocommand", DEMO, "[/no/such/program]", ""));
    let ended = Run::start(&node, &["run", &path]).ended();
    assert_eq!(ended.status.code(), Some(128), "{}\n{}", ended.stderr, node.log());
    assert!(ended.stderr.contains("/no/such/program"), "{}", ended.stderr);
    finish(node);
}

#[test]
fn an_image_that_does_not_exist_is_told_and_tried_again() {
    let node = Node::without_daemon();
    // Nobody listens on port 1.
    let path = node.write("pod.yaml", &manifest("noimage", "127.0.0.1:1/no/such:1", "[x]", ""));
    let mut run = Run::start(&node, &["run", "--output", "json", &path]);
    let failed = run.event("PullFailed", |_| true);
    assert_eq!(failed["reason"], "ErrImagePull", "{failed}");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("127.0.0.1:1"), "{failed}");
    run.interrupt();
    assert_eq!(run.ended().status.code(), Some(130));
    finish(node);
}

#[test]
fn a_pod_that_needs_too_much_memory_is_told_so() {
    let node = Node::without_daemon();
    node.load_busybox();
    let command = "[sh, -c, 'x=a; while true; do x=$x$x; done']";
    let text = manifest("hungry", BUSYBOX, command, "") + "    resources: {limits: {memory: 16Mi}}\n";
    let path = node.write("pod.yaml", &text);
    let ended = Run::start(&node, &["run", &path]).ended();
    assert_eq!(ended.status.code(), Some(137), "{}\n{}", ended.stderr, node.log());
    let told = "main: killed because it needed more memory than its limit of 16Mi (OOMKilled, exit 137)";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    finish(node);
}

#[test]
fn two_at_once_share_one_daemon() {
    let node = Node::without_daemon();
    let other = node.write("other.yaml", &manifest("other", DEMO, "[echo, other]", ""));
    let mut runs = vec![Run::start(&node, &["run", JOB])];
    runs.extend((0..3).map(|_| Run::start(&node, &["run", &other])));
    for run in runs {
        let ended = run.ended();
        assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stderr, node.log());
    }
    finish(node);
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_is_missed_by_nobody() {
    let node = Node::without_daemon();
    let mut run = Run::start(&node, &["run", "--output", "json", POD]);
    run.event("PodReady", |_| true);
    let record = |node: &Node| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(node.path("state/daemon.json")).unwrap()).unwrap()
    };
    let pid = i32::try_from(record(&node)["pid"].as_i64().unwrap()).unwrap();
    let processes = node.resources("process");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    run.event("Reconnected", |_| true);
    assert_ne!(record(&node)["pid"], pid);
    assert_eq!(node.resources("process").len(), processes.len(), "containers go on");
    run.interrupt();
    let ended = run.ended();
    assert_eq!(ended.status.code(), Some(130), "{}\n{}", ended.stderr, node.log());
    finish(node);
}

#[test]
fn config_maps_and_secrets_of_the_same_files_are_there() {
    let node = Node::without_daemon();
    let objects = node.write(
        "objects.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {word: c2VjcmV0}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a.txt: from a map}\n",
    );
    let volumes = "  volumes:\n  - name: v\n    projected:\n      sources:\n      - secret: {name: s}\n      - configMap: {name: c}\n";
    let text = manifest("uses", DEMO, "[cat, /v/word, /v/a.txt]", volumes)
        + "    volumeMounts: [{name: v, mountPath: /v, readOnly: true}]\n";
    let path = node.write("pod.yaml", &text);
    let ended = Run::start(&node, &["run", &path, &objects]).ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, ["uses/main | secretfrom a map"]);
    finish(node);
}

#[test]
fn a_daemon_that_runs_as_a_service_is_used() {
    let node = Node::start();
    let ended = Run::start(&node, &["run", JOB]).ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert!(!node.path("state/daemon.log").exists(), "another daemon was started");
    assert!(succeed(&node.output(&["image", "ls"])).contains(DEMO));
    node.finish();
}

#[test]
fn colours_are_for_terminals_only_and_no_color_is_respected() {
    let node = Node::without_daemon();
    let vaquita = node.vaquita(&[]);
    let on_a_terminal = |no_color: &str| {
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &format!("{} run {JOB}", env!("CARGO_BIN_EXE_vaquita")), "/dev/null"]);
        for (name, value) in vaquita.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        script.env("TERM", "xterm").env("NO_COLOR", no_color);
        succeed(&script.stdin(Stdio::null()).output().unwrap())
    };
    let shown = on_a_terminal("");
    assert!(shown.contains("\x1b[32msucceeded\x1b[0m"), "{shown:?}");
    assert!(shown.contains("job/speak   |\x1b[0m I am job"), "{shown:?}");
    let plain = on_a_terminal("1");
    assert!(plain.contains("succeeded") && !plain.contains("\x1b[3"), "{plain:?}");
    finish(node);
}

#[test]
fn a_manifest_comes_from_standard_input_too() {
    let node = Node::without_daemon();
    let manifest = node.write("pod.yaml", &manifest("piped", DEMO, "[echo, hello]", ""));
    let input = std::fs::File::open(manifest).unwrap();
    let output = node.vaquita(&["run", "-"]).stdin(input).output().unwrap();
    assert_eq!(succeed(&output), "piped/main | hello\n");
    finish(node);
}

#[test]
fn a_runtime_class_is_the_name_of_a_runtime_handler() {
    let node = Node::without_daemon();
    let with =
        |class: &str| manifest("classy", DEMO, "[echo, hello]", &format!("  runtimeClassName: {class}\n"));
    let path = node.write("pod.yaml", &with("other"));
    let run = Run::start(&node, &["run", &path]);
    run.err("runtime_handler: \"other\" is unknown; there is \"vaquita\"");
    run.interrupt();
    assert_eq!(run.ended().status.code(), Some(130));
    finish(node);

    // A runtime that says so when it is asked to make the container.
    let node = Node::without_daemon();
    let refuses = node.write("refuses", "#!/bin/sh\ncase \"$*\" in *' create '*) exit 3;; esac\nexit 0\n");
    std::fs::set_permissions(&refuses, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = node.write("pod.yaml", &with("other"));
    let run = Run::start(&node, &["run", "--runtime", &format!("other={refuses}"), &path]);
    run.err("refuses: it ended with exit status: 3");
    run.interrupt();
    assert_eq!(run.ended().status.code(), Some(130));
    finish(node);

    let node = Node::without_daemon();
    let path = node.write("pod.yaml", &with("vaquita"));
    let ended = Run::start(&node, &["run", &path]).ended();
    assert_eq!(ended.stdout, ["classy/main | hello"], "{}", ended.stderr);
    let path = node.write("pod.yaml", &with("No_Name"));
    let ended = Run::start(&node, &["run", &path]).ended();
    assert!(ended.stderr.contains("spec.runtimeClassName"), "{}", ended.stderr);
    finish(node);
}

#[test]
fn a_reader_that_goes_away_ends_the_pods() {
    let node = Node::without_daemon();
    let mut child = node.vaquita(&["run", POD]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "hello/show   | Hello from a pod.\n");
    let status = eventually("the end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    finish(node);
}

#[test]
fn an_oom_score_that_cannot_be_set_is_refused_unless_told_otherwise() {
    let text = manifest("guaranteed", DEMO, "[cat, /proc/self/oom_score_adj]", "")
        + "    resources: {limits: {memory: 32Mi, cpu: 100m}}\n";
    let start = |node: &Node, restrict: &str| {
        let path = node.write("pod.yaml", &text);
        let mut command = node.vaquita(&["run", &path]);
        command.env("VAQUITA_RESTRICT_OOM_SCORE_ADJ", restrict);
        Run::spawn(command)
    };
    let node = Node::without_daemon();
    let allowed = may_lower_oom_score();
    let ended = start(&node, "1").ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.len(), 1);
    assert_eq!(ended.stdout[0] == "guaranteed/main | -997", allowed, "{:?}", ended.stdout);
    finish(node);

    let node = Node::without_daemon();
    let run = start(&node, "0");
    if allowed {
        assert_eq!(run.ended().stdout, ["guaranteed/main | -997"]);
    } else {
        run.err("CreateContainerError: CreateContainer: oom_score_adj -997 cannot be set: the daemon lacks CAP_SYS_RESOURCE");
        run.interrupt();
        assert_eq!(run.ended().status.code(), Some(130));
    }
    finish(node);
}
