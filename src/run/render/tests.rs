use vaquita_kube::api::{Container, ObjectMeta, PodPhase, PodSpec};
use vaquita_kube::event::{HookKind, ProbeKind, Stream};

use super::*;

fn pod() -> Pod {
    let container = |name: &str| Container { name: name.into(), ..Container::default() };
    let mut web = container("web");
    web.resources.limits.insert("memory".into(), "64Mi".parse().unwrap());
    Pod {
        metadata: ObjectMeta { name: "demo".into(), ..ObjectMeta::default() },
        spec: PodSpec {
            init_containers: vec![container("prepare")],
            containers: vec![web, container("visitor")],
            ..PodSpec::default()
        },
        ..Pod::default()
    }
}

fn event(millis: i64, kind: EventKind) -> Event {
    Event { time: Timestamp::from_millisecond(1_000_000 + millis).unwrap(), pod: "demo".into(), kind }
}

fn exited(container: &str, code: i32, reason: &str, message: &str) -> EventKind {
    EventKind::ContainerExited {
        container: container.into(),
        code,
        reason: reason.into(),
        message: message.into(),
        duration: 12.25,
        restart_count: 0,
    }
}

fn log(container: &str, line: &str) -> EventKind {
    let written = Timestamp::UNIX_EPOCH;
    EventKind::Log { container: container.into(), stream: Stream::Stdout, line: line.into(), written }
}

fn probe(kind: ProbeKind, ok: bool, message: &str) -> EventKind {
    EventKind::ProbeResult { container: "web".into(), probe: kind, ok, message: message.into(), first: true }
}

/// Everything in one text, as a terminal shows it.
fn shown(renderer: &mut Renderer, events: Vec<(i64, EventKind)>) -> String {
    let mut text = String::new();
    for (millis, kind) in events {
        let lines = renderer.event(&event(millis, kind));
        text += &lines.err;
        text += &lines.out;
    }
    text
}

#[test]
fn the_life_of_a_pod_reads_well() {
    let mut renderer = Renderer::new(&[pod()], Style::PLAIN, Style::PLAIN);
    let image = || "docker.io/library/web:1".to_owned();
    let events = vec![
        (0, EventKind::SandboxReady { id: "a".into(), ip: Some("10.210.0.2".into()) }),
        (3, EventKind::PullStarted { container: "prepare".into(), image: image() }),
        (4, EventKind::PullStarted { container: "web".into(), image: image() }),
        (
            1503,
            EventKind::Pulled {
                container: "prepare".into(),
                image: image(),
                cached: false,
                duration: 1.5,
                size: 0,
            },
        ),
        (
            1503,
            EventKind::Pulled {
                container: "web".into(),
                image: image(),
                cached: false,
                duration: 1.5,
                size: 0,
            },
        ),
        (
            1504,
            EventKind::Pulled {
                container: "web".into(),
                image: image(),
                cached: true,
                duration: 0.0,
                size: 0,
            },
        ),
        (1510, EventKind::InitStarted { container: "prepare".into(), index: 1, of: 1 }),
        (
            1520,
            EventKind::InitExited {
                container: "prepare".into(),
                code: 0,
                reason: "Completed".into(),
                message: String::new(),
                duration: 0.010,
            },
        ),
        (
            1530,
            EventKind::ContainerStarted {
                container: "web".into(),
                id: "b".into(),
                restart_count: 0,
                sidecar: false,
            },
        ),
        (1600, log("web", "listening")),
        (1601, log("visitor", "\x1b[31mred\x1b[0m\x07")),
        (2530, probe(ProbeKind::Startup, true, "")),
        (2531, probe(ProbeKind::Readiness, false, "HTTP 503")),
        (3531, EventKind::PodReady {}),
        (9000, EventKind::Terminating { reason: "Stopped".into(), grace: 10 }),
        (9100, exited("web", 143, "Error", "")),
        (
            9200,
            EventKind::PodPhase { phase: PodPhase::Succeeded, reason: String::new(), message: String::new() },
        ),
        (9300, EventKind::Removed { errors: vec![] }),
    ];
    assert_eq!(
        shown(&mut renderer, events),
        "   0.00s demo sandbox ready, address 10.210.0.2
   0.00s demo pulling docker.io/library/web:1
   1.50s demo pulled docker.io/library/web:1 in 1.5 s
   1.51s demo init prepare started (1 of 1)
   1.52s demo init prepare: exit 0 after 10 ms
   1.53s demo web started
demo/web     | listening
demo/visitor | red\\u{7}
   2.53s demo web startup probe ok
   2.53s demo web readiness probe failed: HTTP 503
   3.53s demo ready
   9.10s demo web: exit 143 (SIGTERM) after 12 s
   9.30s demo removed
"
    );
}

#[test]
fn trouble_is_told_in_clear_words() {
    let mut renderer = Renderer::new(&[pod()], Style::PLAIN, Style::PLAIN);
    let events = vec![
        (
            0,
            EventKind::PullFailed {
                container: "web".into(),
                image: "nosuch".into(),
                reason: "ErrImagePull".into(),
                message: "PullImage: not found\nin the registry".into(),
                retry_in: 10.0,
            },
        ),
        (1, exited("web", 137, "OOMKilled", "")),
        (2, exited("visitor", 137, "OOMKilled", "")),
        (3, exited("visitor", 3, "Error", "lost the key\n")),
        (4, EventKind::BackOff { container: "web".into(), reason: "CrashLoopBackOff".into(), seconds: 20.0 }),
        (5, EventKind::PodNotReady { containers: vec!["web".into()] }),
        (
            6,
            EventKind::HookFailed {
                container: "web".into(),
                hook: HookKind::PostStart,
                message: "no such file".into(),
            },
        ),
        (7, EventKind::Disconnected { message: "connection refused".into() }),
        (8, EventKind::Reconnected {}),
        (9, EventKind::Terminating { reason: "DeadlineExceeded".into(), grace: 10 }),
        (
            10,
            EventKind::PodPhase {
                phase: PodPhase::Failed,
                reason: "DeadlineExceeded".into(),
                message: String::new(),
            },
        ),
        (11, EventKind::Removed { errors: vec!["cgroup busy".into()] }),
    ];
    assert_eq!(
        shown(&mut renderer, events),
        "   0.00s demo ErrImagePull: nosuch: not found in the registry; next try in 10 s
   0.00s demo web: killed because it needed more memory than its limit of 64Mi (OOMKilled, exit 137) after 12 s
   0.00s demo visitor: killed because memory ran out (OOMKilled, exit 137) after 12 s
   0.00s demo visitor: exit 3 after 12 s: lost the key
   0.00s demo web: CrashLoopBackOff: next start in 20 s
   0.01s demo not ready: web
   0.01s demo web: postStart hook failed: no such file
   0.01s demo the daemon is gone; containers go on: connection refused
   0.01s demo the daemon is there again
   0.01s demo ending (DeadlineExceeded), 10 s are given
   0.01s demo failed: DeadlineExceeded
   0.01s demo not everything could be removed: cgroup busy
"
    );
}

#[test]
fn colours_are_for_terminals_and_stable_for_a_container() {
    let color = Style { color: true, columns: Some(80) };
    let mut renderer = Renderer::new(&[pod()], color, color);
    let first = renderer.event(&event(0, log("web", "a"))).out;
    assert_eq!(first, "\x1b[35mdemo/web     |\x1b[0m a\n");
    assert_eq!(renderer.event(&event(1, log("web", "a"))).out, first);
    assert_ne!(renderer.event(&event(1, log("visitor", "a"))).out[..5], first[..5]);
}

#[test]
fn a_pull_has_a_bar_with_bytes_percent_and_rate() {
    let mut renderer = Renderer::new(&[pod()], Style::PLAIN, Style { color: false, columns: Some(80) });
    assert_eq!(renderer.progress(Timestamp::UNIX_EPOCH), None);
    renderer.event(&event(0, EventKind::PullStarted { container: "web".into(), image: "web:1".into() }));
    let half = EventKind::PullProgress {
        image: "web:1".into(),
        bytes_done: 3 << 20,
        bytes_total: 6 << 20,
        layers_done: 1,
        layers_total: 2,
    };
    let half = event(1000, half);
    assert_eq!(renderer.event(&half), Lines::default());
    assert_eq!(
        renderer.progress(half.time).unwrap(),
        "web:1 [############............]  50% 3.0 MiB of 6.0 MiB, 3.0 MiB/s, 1 of 2 layers"
    );
    let done = EventKind::Pulled {
        container: "web".into(),
        image: "web:1".into(),
        cached: false,
        duration: 2.0,
        size: 0,
    };
    renderer.event(&event(2000, done));
    assert_eq!(renderer.progress(half.time), None);
}
