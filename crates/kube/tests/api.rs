//! The agent against a CRI server that does as it is told, on a simulated clock.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#[path = "api/cluster.rs"]
mod cluster;
#[path = "api/fake.rs"]
mod fake;
#[path = "api/service.rs"]
mod service;

use std::time::Duration;

use fake::{Behaviour, Fake, Run};
use tokio::sync::mpsc;
use vaquita_kube::agent::{Agent, Command, Config, End, Fixed, Outcome};
use vaquita_kube::api::PodPhase;
use vaquita_kube::event::{Event, EventKind, ProbeKind};
use vaquita_kube::manifest;

/// A pod that is being run.
struct Pod {
    fake: Fake,
    dir: vaquita_testing::TempDir,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    run: tokio::task::JoinHandle<Outcome>,
}

/// Runs a pod `web` with this spec; more documents may follow.
fn start(fake: Fake, spec: &str) -> Pod {
    start_with(fake, spec, "")
}

fn start_with(fake: Fake, spec: &str, more: &str) -> Pod {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n{spec}{more}");
    let mut manifest =
        manifest::read(&[("pod.yaml", &text)]).unwrap_or_else(|problems| panic!("{problems:?}"));
    let dir = vaquita_testing::temp_dir();
    let agent = Agent::new(fake.client(), Config::new(dir.path().join("agent")));
    let (sender, events) = mpsc::channel(1024);
    let (commands, receiver) = mpsc::channel(4);
    let objects = Fixed::from(&manifest);
    let pod = manifest.pods.remove(0);
    let run = tokio::spawn(async move { agent.run(pod, objects, sender, receiver).await });
    Pod { fake, dir, commands, events, run }
}

impl Pod {
    /// The next event that fits.
    async fn wait<T>(&mut self, fits: impl Fn(&EventKind) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the run has ended");
                if let Some(found) = fits(&event.kind) {
                    return found;
                }
                seen.push(event.kind);
            }
        };
        match tokio::time::timeout(Duration::from_secs(3600), search).await {
            Ok(found) => found,
            Err(_) => panic!("it never happened; {seen:#?}"),
        }
    }

    async fn ready(&mut self) {
        self.wait(|event| matches!(event, EventKind::PodReady {}).then_some(())).await;
    }

    async fn send(&self, command: Command) {
        self.commands.send(command).await.unwrap();
    }

    /// Waits for the end, and sees that nothing is left. Returns what happened on the way.
    async fn end(mut self) -> (Outcome, Vec<String>, Fake) {
        let mut events = Vec::new();
        while let Some(event) = self.events.recv().await {
            events.push(describe(&event.kind));
        }
        let outcome = self.run.await.unwrap();
        assert_eq!(outcome.errors, Vec::<String>::new());
        let left: Vec<_> = std::fs::read_dir(self.dir.path().join("agent")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(self.fake.is_empty());
        (outcome, events.into_iter().flatten().collect(), self.fake)
    }
}

/// An event in a few words, without times and ids; what is told at any moment is left out.
fn describe(event: &EventKind) -> Option<String> {
    Some(match event {
        EventKind::SandboxReady { ip, .. } => format!("sandbox {}", ip.as_deref().unwrap_or("host")),
        EventKind::PullStarted { image, .. } => format!("pull {image}"),
        EventKind::PullProgress { bytes_done, bytes_total, .. } => {
            format!("pulling {bytes_done}/{bytes_total}")
        }
        EventKind::Pulled { image, cached, .. } => format!("pulled {image} {cached}"),
        EventKind::PullFailed { reason, retry_in, .. } => {
            format!("pull failed: {reason}, again in {retry_in} s")
        }
        EventKind::InitStarted { container, index, of } => format!("init {container} {index}/{of}"),
        EventKind::InitExited { container, code, reason, .. } => {
            format!("init {container} ended: {code} {reason}")
        }
        EventKind::ContainerStarted { container, restart_count, .. } => {
            format!("{container} started {restart_count}")
        }
        EventKind::ContainerExited { container, code, reason, message, .. } => {
            format!("{container} ended: {code} {reason} {message:?}")
        }
        EventKind::ContainerFailed { container, reason, message, .. } => {
            format!("{container}: {reason}: {message}")
        }
        EventKind::BackOff { container, reason, seconds } => format!("{container} {reason} {seconds:.0}"),
        EventKind::ProbeResult { container, probe, ok, message, first } => {
            format!("{container} {probe:?} {ok} {message:?} {first}")
        }
        EventKind::PodReady {} => "ready".to_owned(),
        EventKind::PodNotReady { .. } => "not ready".to_owned(),
        EventKind::PodPhase { phase, .. } => format!("{phase:?}"),
        EventKind::Log { container, stream, line, .. } => format!("{container} {stream:?}: {line}"),
        EventKind::Disconnected { .. } => "disconnected".to_owned(),
        EventKind::Reconnected {} => "reconnected".to_owned(),
        EventKind::SandboxLost { .. } => "sandbox lost".to_owned(),
        EventKind::SandboxFailed { message, .. } => format!("sandbox failed: {message}"),
        EventKind::HookFailed { container, hook, message } => {
            format!("{container} {hook:?} failed: {message}")
        }
        EventKind::Warning { message } => format!("warning: {message}"),
        EventKind::Terminating { reason, grace } => format!("terminating: {reason} {grace}"),
        EventKind::Removed { .. } => "removed".to_owned(),
        _ => return None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_from_beginning_to_end() {
    let fake = Fake::new();
    fake.behave(
        "setup",
        Behaviour { logs: vec!["preparing"], runs: vec![Run::ends(2, 0)], ..Behaviour::default() },
    );
    fake.behave(
        "main",
        Behaviour { logs: vec!["hello", "world"], runs: vec![Run::ends(5, 0)], ..Behaviour::default() },
    );
    let spec = "\
restartPolicy: Never
initContainers: [{name: setup, image: 'tools:1'}]
containers: [{name: main, image: 'app:1', readinessProbe: {exec: {command: [ok]}}}]";
    let (outcome, events, fake) = start(fake, spec).end().await;
    insta::assert_snapshot!(events.join("\n"), @r#"
    sandbox 10.0.0.2
    pull tools:1
    pulled tools:1 false
    init setup 1/1
    setup Stdout: preparing
    init setup ended: 0 Completed
    pull app:1
    pulled app:1 false
    main started 0
    Running
    main Readiness true "" true
    ready
    main Stdout: hello
    main Stdout: world
    main ended: 0 Completed ""
    Succeeded
    removed
    "#);
    assert_eq!(
        (outcome.exit_code(), outcome.end, outcome.status.phase),
        (0, End::Completed, PodPhase::Succeeded)
    );
    let calls = fake.calls();
    let order = [
        "RunPodSandbox",
        "PullImage tools:1",
        "CreateContainer setup",
        "StartContainer setup",
        "PullImage app:1",
        "CreateContainer main",
        "StartContainer main",
        "StopPodSandbox",
        "RemovePodSandbox",
    ];
    let changing: Vec<&str> =
        calls.iter().map(String::as_str).filter(|call| !call.starts_with("ExecSync")).collect();
    assert_eq!(changing, order);
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_the_exit_status() {
    let fake = Fake::new();
    fake.behave("a", Behaviour { runs: vec![Run::ends(5, 4)], ..Behaviour::default() });
    fake.behave("b", Behaviour { runs: vec![Run::ends(2, 3)], message: "disk full", ..Behaviour::default() });
    let spec = "restartPolicy: Never\ncontainers: [{name: a, image: x}, {name: b, image: x}]";
    let (outcome, events, _) = start(fake, spec).end().await;
    assert_eq!((outcome.exit_code(), outcome.status.phase), (3, PodPhase::Failed));
    assert!(events.contains(&"b ended: 3 Error \"disk full\"".to_owned()), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn termination_messages() {
    let fake = Fake::new();
    let run = |code| vec![Run::ends(1, code)];
    fake.behave("a", Behaviour { runs: run(1), logs: vec!["last", "words"], ..Behaviour::default() });
    fake.behave("b", Behaviour { runs: run(1), logs: vec!["last", "words"], ..Behaviour::default() });
    fake.behave("c", Behaviour { runs: run(0), logs: vec!["last", "words"], ..Behaviour::default() });
    fake.behave("d", Behaviour { runs: run(137), reason: "OOMKilled", ..Behaviour::default() });
    let spec = "\
restartPolicy: Never
containers:
- {name: a, image: x, terminationMessagePolicy: FallbackToLogsOnError}
- {name: b, image: x}
- {name: c, image: x, terminationMessagePolicy: FallbackToLogsOnError}
- {name: d, image: x}";
    let (outcome, ..) = start(fake, spec).end().await;
    let ends: Vec<(String, String)> = outcome
        .status
        .container_statuses
        .into_iter()
        .map(|container| container.state.terminated.unwrap())
        .map(|end| (end.reason, end.message))
        .collect();
    let pair = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    assert_eq!(
        ends,
        [pair("Error", "last\nwords\n"), pair("Error", ""), pair("Completed", ""), pair("OOMKilled", "")]
    );
}

#[tokio::test(start_paused = true)]
async fn liveness_restarts_until_the_user_stops_it() {
    let fake = Fake::new();
    let spec = "containers: [{name: a, image: x, livenessProbe: {periodSeconds: 1, exec: {command: [fail]}}, lifecycle: {preStop: {exec: {command: [bye]}}}}]";
    let mut pod = start(fake, spec);
    let ok = pod.wait(|event| match event {
        EventKind::ProbeResult { probe: ProbeKind::Liveness, ok, first: true, .. } => Some(*ok),
        _ => None,
    });
    assert!(!ok.await);
    pod.wait(|event| matches!(event, EventKind::ContainerStarted { restart_count: 2, .. }).then_some(()))
        .await;
    pod.send(Command::Stop).await;
    let (outcome, _, fake) = pod.end().await;
    assert_eq!((outcome.exit_code(), outcome.end), (0, End::Stopped));
    let calls = fake.calls();
    let stops: Vec<&String> =
        calls.iter().filter(|call| call.contains("bye") || call.starts_with("StopContainer")).collect();
    assert_eq!(
        stops,
        [
            "ExecSync bye",
            "StopContainer a 30",
            "ExecSync bye",
            "StopContainer a 30",
            "ExecSync bye",
            "StopContainer a 30"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_hanging_exec_probe_is_a_failure() {
    let fake = Fake::new();
    let spec =
        "containers: [{name: a, image: x, readinessProbe: {timeoutSeconds: 2, exec: {command: [hang]}}}]";
    let mut pod = start(fake, spec);
    let message = pod.wait(|event| match event {
        EventKind::ProbeResult { ok: false, message, .. } => Some(message.clone()),
        _ => None,
    });
    assert_eq!(message.await, "the command did not end within 2 s");
    pod.send(Command::Kill).await;
    let (outcome, ..) = pod.end().await;
    assert_eq!((outcome.exit_code(), outcome.end), (130, End::Killed));
}

#[tokio::test(start_paused = true)]
async fn pulls_report_progress_and_back_off() {
    let fake = Fake::new();
    fake.fail_pulls("broken:1", 2);
    fake.slow_pull("broken:1", Duration::from_secs(1));
    fake.behave("a", Behaviour { runs: vec![Run::ends(1, 0)], ..Behaviour::default() });
    let spec = "restartPolicy: Never\ncontainers: [{name: a, image: 'broken:1'}]";
    let (_, events, _) = start(fake, spec).end().await;
    let pulls: Vec<&String> = events.iter().filter(|event| event.contains("pull")).collect();
    insta::assert_snapshot!(pulls.iter().map(|pull| pull.as_str()).collect::<Vec<_>>().join("\n"));
}

#[tokio::test(start_paused = true)]
async fn images_that_are_there_or_never_will_be() {
    let fake = Fake::new();
    fake.have("here:1");
    fake.behave("a", Behaviour { runs: vec![Run::ends(1, 0)], ..Behaviour::default() });
    let spec = "containers: [{name: a, image: 'here:1'}, {name: b, image: 'gone:1', imagePullPolicy: Never}]";
    let mut pod = start(fake, spec);
    let reason = pod.wait(|event| match event {
        EventKind::PullFailed { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason.await, "ErrImageNeverPull");
    pod.send(Command::Stop).await;
    let (_, _, fake) = pod.end().await;
    assert!(!fake.calls().iter().any(|call| call.starts_with("PullImage")));
}

#[tokio::test(start_paused = true)]
async fn credentials_come_from_the_pod_s_secrets() {
    let fake = Fake::new();
    fake.behave("a", Behaviour { runs: vec![Run::ends(1, 0)], ..Behaviour::default() });
    let spec = "restartPolicy: Never\nimagePullSecrets: [{name: reg}, {name: missing}]\ncontainers: [{name: a, image: 'r.example/app:1'}]";
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: reg}\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '{\"auths\":{\"r.example\":{\"auth\":\"bWU6aHVudGVyMg==\"}}}'}\n";
    let (_, _, fake) = start_with(fake, spec, secret).end().await;
    assert_eq!(fake.credentials(), ["me:hunter2"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_manifest_lacks_is_said() {
    let fake = Fake::new();
    let spec = "containers: [{name: a, image: x, envFrom: [{configMapRef: {name: nope}}]}, {name: b, image: x, securityContext: {runAsNonRoot: true}}]";
    let mut pod = start(fake, spec);
    let mut messages = Vec::new();
    for _ in 0..2 {
        let failed = pod.wait(|event| match event {
            EventKind::ContainerFailed { container, reason, message, .. } => {
                Some(format!("{container} {reason} {message}"))
            }
            _ => None,
        });
        messages.push(failed.await);
    }
    messages.sort();
    insta::assert_snapshot!(messages.join("\n"), @r#"
    a CreateContainerConfigError there is no ConfigMap "nope" in namespace "default": add it to the manifest
    b CreateContainerConfigError b: the image runs as root, which runAsNonRoot forbids; set runAsUser
    "#);
    pod.send(Command::Stop).await;
    pod.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_start() {
    let fake = Fake::new();
    fake.behave("a", Behaviour { start_error: "exec: \"nope\": not found", ..Behaviour::default() });
    let spec = "restartPolicy: Never\ncontainers: [{name: a, image: x}]";
    let (outcome, events, _) = start(fake, spec).end().await;
    assert_eq!(outcome.exit_code(), 128);
    assert!(
        events.contains(&"a: RunContainerError: StartContainer: exec: \"nope\": not found".to_owned()),
        "{events:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_pod_outlives_a_restart_of_the_server() {
    let fake = Fake::new();
    fake.behave("a", Behaviour { runs: vec![Run::ends(60, 0)], ..Behaviour::default() });
    fake.behave("b", Behaviour { runs: vec![Run::ends(200, 0)], ..Behaviour::default() });
    let spec = "restartPolicy: Never\ncontainers: [{name: a, image: x, readinessProbe: {exec: {command: [ok]}}}, {name: b, image: x}]";
    let mut pod = start(fake, spec);
    pod.ready().await;
    pod.fake.go_down();
    tokio::time::sleep(Duration::from_secs(100)).await;
    pod.fake.come_up();
    let (outcome, events, fake) = pod.end().await;
    assert_eq!((outcome.exit_code(), outcome.status.phase), (0, PodPhase::Succeeded));
    for event in ["disconnected", "reconnected", "a ended: 0 Completed \"\"", "b ended: 0 Completed \"\""] {
        assert_eq!(events.iter().filter(|other| *other == event).count(), 1, "{event} in {events:?}");
    }
    assert_eq!(fake.calls().iter().filter(|call| call.starts_with("CreateContainer")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn calls_whose_answer_was_lost_are_not_made_twice() {
    for lost in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        let fake = Fake::new();
        fake.behave("a", Behaviour { runs: vec![Run::ends(60, 0)], ..Behaviour::default() });
        fake.lose_answer(lost);
        let spec = "restartPolicy: Never\ncontainers: [{name: a, image: x}]";
        let (outcome, events, fake) = start(fake, spec).end().await;
        assert_eq!(outcome.status.phase, PodPhase::Succeeded, "{lost}");
        let calls = fake.calls();
        let made = calls.iter().filter(|call| call.starts_with(lost)).count();
        assert_eq!(made, 1, "{lost}: {calls:?} {events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_is_replaced() {
    let fake = Fake::new();
    let mut pod = start(fake, "containers: [{name: a, image: x}]");
    pod.ready().await;
    pod.fake.kill_sandbox();
    pod.wait(|event| matches!(event, EventKind::SandboxLost { .. }).then_some(())).await;
    pod.ready().await;
    assert_eq!(pod.fake.sandbox_attempts(), [0, 1]);
    pod.send(Command::Stop).await;
    pod.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_fails_is_tried_again() {
    let fake = Fake::new();
    let mut pod =
        start(fake, "readinessGates: [{conditionType: example.com/gate}]\ncontainers: [{name: a, image: x}]");
    pod.wait(|event| {
        matches!(event, EventKind::Warning { message } if message.contains("gate")).then_some(())
    })
    .await;
    pod.wait(|event| matches!(event, EventKind::ContainerStarted { .. }).then_some(())).await;
    pod.fake.fail_stops(2);
    pod.send(Command::Stop).await;
    let (outcome, events, _) = pod.end().await;
    assert_eq!(outcome.end, End::Stopped);
    assert_eq!(events.iter().filter(|event| event.starts_with("warning: StopContainer")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn killing_works_without_a_server() {
    let fake = Fake::new();
    let mut pod = start(fake, "containers: [{name: a, image: x}]");
    pod.ready().await;
    pod.fake.go_down();
    pod.send(Command::Stop).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    pod.send(Command::Kill).await;
    while pod.events.recv().await.is_some() {}
    let outcome = pod.run.await.unwrap();
    assert_eq!(outcome.end, End::Killed);
    assert!(!outcome.errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_slow_delays_nothing() {
    let fake = Fake::new();
    fake.behave(
        "a",
        Behaviour { logs: vec!["line"; 3000], runs: vec![Run::ends(5, 0)], ..Behaviour::default() },
    );
    let pod = start(fake, "restartPolicy: Never\ncontainers: [{name: a, image: x}]");
    // Nobody listens for a minute.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(pod.fake.calls().contains(&"StopPodSandbox".to_owned()));
    let mut pod = pod;
    while pod.events.recv().await.is_some() {}
    assert_eq!(pod.run.await.unwrap().exit_code(), 0);
}

#[tokio::test(start_paused = true)]
async fn leftovers_of_the_dead_are_removed_and_the_living_left_alone() {
    let fake = Fake::new();
    let mut pod = start(fake, "containers: [{name: a, image: x}]");
    pod.ready().await;
    let root = pod.dir.path().join("agent");
    let agent = Agent::new(pod.fake.client(), Config::new(&root));
    assert_eq!(agent.clean_leftovers().await.unwrap(), Vec::<String>::new());
    // A run of a process that is dead: the same sandbox and directory, another owner.
    let dead = r#"{"pid":4194304,"started":1,"boot":"x"}"#;
    pod.fake.add_sandbox(
        "dead",
        &[("vaquita.run/owner", dead), ("vaquita.run/agent-root", root.to_str().unwrap())],
    );
    pod.fake.add_sandbox("foreign", &[("vaquita.run/owner", dead), ("vaquita.run/agent-root", "/elsewhere")]);
    std::fs::create_dir_all(root.join("old/volumes")).unwrap();
    std::fs::write(root.join("old/owner.json"), dead).unwrap();
    std::fs::create_dir(root.join("seccomp")).unwrap();
    assert_eq!(agent.clean_leftovers().await.unwrap(), ["sandbox dead", "directory old"]);
    assert!(root.join("seccomp").exists());
    std::fs::remove_dir(root.join("seccomp")).unwrap();
    pod.fake.remove_sandbox("foreign");
    pod.send(Command::Stop).await;
    pod.end().await;
}

#[test]
fn events_are_flat_json() {
    let event = Event {
        time: "2026-11-21T02:00:00Z".parse().unwrap(),
        pod: "web".to_owned(),
        kind: EventKind::PullProgress {
            image: "x".to_owned(),
            bytes_done: 1,
            bytes_total: 2,
            layers_done: 0,
            layers_total: 1,
        },
    };
    insta::assert_snapshot!(serde_json::to_string(&event).unwrap(), @r#"{"time":"2026-11-21T02:00:00Z","pod":"web","type":"PullProgress","image":"x","bytesDone":1,"bytesTotal":2,"layersDone":0,"layersTotal":1}"#);
}
