//! The daemon may die at any moment: pods do not notice, and the next daemon knows everything.

use vaquita_proto::cri;

use crate::support::{Node, Pod, eventually};

#[test]
fn containers_survive_a_killed_daemon_with_logs_and_exit_codes() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "survivor");
    let script = "i=0; while [ ! -e /tmp/end ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 7";
    let container = pod.start("main", &["sh", "-c", script]);
    let sleeper = pod.start("sleeper", &["sleep", "1000"]);
    eventually("a first line", || container.output().contains('1').then_some(()));
    let ip = pod.ip();
    let started = container.status().started_at;

    node.kill_daemon();
    let before = container.output().lines().count();
    eventually("lines without a daemon", || (container.output().lines().count() > before + 3).then_some(()));
    node.start_daemon();

    assert!(container.is_running() && sleeper.is_running());
    assert_eq!(container.status().started_at, started);
    assert_eq!(pod.ip(), ip);
    assert_eq!(container.exec(&["touch", "/tmp/end"]).0, 0);
    assert_eq!(container.exited().exit_code, 7);
    let numbers: Vec<u32> = container.output().lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        numbers.iter().copied().eq(1..=u32::try_from(numbers.len()).unwrap()),
        "a line is lost or doubled"
    );
    node.finish();
}

#[test]
fn an_exit_in_the_absence_of_a_daemon_is_known() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "absent");
    let go = node.path("go");
    std::fs::create_dir(&go).unwrap();
    let mut config = Pod::container_config(
        "main",
        &["sh", "-c", "while [ ! -e /go/now ]; do sleep 0.01; done; echo end; exit 9"],
    );
    config.mounts = vec![cri::Mount {
        container_path: "/go".into(),
        host_path: go.display().to_string(),
        ..cri::Mount::default()
    }];
    let container = pod.start_config(config);
    let created = pod.create(Pod::container_config("created", &["echo", "late"])).unwrap();
    node.kill_daemon();
    std::fs::write(go.join("now"), "").unwrap();
    eventually("the container to end", || container.output().contains("end").then_some(()));
    node.start_daemon();
    let status = container.exited();
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
    assert!(status.finished_at >= status.started_at);
    created.start().unwrap();
    assert_eq!(created.exited().exit_code, 0);
    assert_eq!(created.output(), "late\n");
    node.finish();
}

#[test]
fn a_stopped_daemon_leaves_pods_running() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "left");
    let container = pod.start("main", &["sleep", "1000"]);
    node.stop_daemon();
    assert_eq!(node.resources("process").len(), 3, "supervisor, pause and container");
    node.start_daemon();
    assert!(container.is_running());
    container.stop(0);
    assert_eq!(container.exited().exit_code, 137);
    node.finish();
}

#[test]
fn a_pod_that_was_killed_with_its_supervisor_is_reported_and_removed() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "bereft");
    let container = pod.start("main", &["sleep", "1000"]);
    let record = std::fs::read_to_string(node.path(&format!("state/pods/{}/shim.json", pod.id))).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let status = container.exited();
    assert_eq!(status.exit_code, 255, "{status:?}");
    eventually("the sandbox to be not ready", || {
        (pod.status().state() == cri::PodSandboxState::SandboxNotready).then_some(())
    });
    node.finish();
}
