use super::sim::{Script, Sim};
use crate::api::{PodPhase, QosClass};

const TWO_INITS: &str = "\
restartPolicy: Never
initContainers: [{name: i1, image: x}, {name: i2, image: x}]
containers: [{name: a, image: x}, {name: b, image: x}]";

#[test]
fn inits_in_order_then_containers_together() {
    let scripts = [
        ("i1", Script::runs(&[(5.0, 0)])),
        ("i2", Script::runs(&[(3.0, 0)])),
        ("a", Script::runs(&[(1.0, 0)])),
        ("b", Script::runs(&[(2.0, 0)])),
    ];
    let mut sim = Sim::new(TWO_INITS, scripts);
    sim.run_until(1.0);
    assert_eq!(sim.status().phase, PodPhase::Pending);
    assert_eq!(
        (sim.waiting("i2"), sim.waiting("a")),
        ("PodInitializing".to_owned(), "PodInitializing".to_owned())
    );
    sim.run_until(30.0);
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.3 start i1
    5.3 exit i1 0
    5.5 start i2
    8.5 exit i2 0
    8.7 start a
    8.7 start b
    8.7 phase Running
    8.7 ready
    9.7 exit a 0
    9.7 not ready a
    10.7 exit b 0
    10.7 phase Succeeded
    ");
    assert!(sim.worker.finished());
    let status = sim.status();
    assert_eq!((status.phase, status.qos_class), (PodPhase::Succeeded, QosClass::BestEffort));
    assert!(status.init_container_statuses.iter().all(|init| init.ready));
}

#[test]
fn a_failed_init_fails_a_pod_that_never_restarts() {
    let mut sim = Sim::new(TWO_INITS, [("i1", Script::runs(&[(1.0, 7)]))]);
    sim.run_until(30.0);
    assert_eq!(sim.status().phase, PodPhase::Failed);
    assert_eq!(sim.container("i1").state.terminated.unwrap().exit_code, 7);
    assert!(sim.times("start i2").is_empty() && sim.times("start a").is_empty());
}

#[test]
fn a_failed_init_is_retried_with_back_off() {
    let spec = TWO_INITS.replace("Never", "OnFailure");
    let mut sim = Sim::new(
        &spec,
        [("i1", Script::runs(&[(1.0, 1), (1.0, 1), (1.0, 0)])), ("i2", Script::runs(&[(1.0, 0)]))],
    );
    sim.run_until(5.0);
    assert_eq!(sim.waiting("i1"), "CrashLoopBackOff");
    sim.run_until(60.0);
    insta::assert_snapshot!(sim.times("start").join("\n"), @r"
    0.3 start i1
    1.5 start i1
    12.7 start i1
    13.9 start i2
    15.1 start a
    15.1 start b
    ");
    assert_eq!(sim.container("i1").restart_count, 2);
}

#[test]
fn crash_loop_doubles_to_five_minutes() {
    let mut sim = Sim::new("containers: [{name: a, image: x}]", [("a", Script::runs(&[(1.0, 1)]))]);
    sim.run_until(1500.0);
    let starts: Vec<f64> =
        sim.times("start a").iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    let gaps: Vec<f64> = starts.windows(2).map(|pair| (pair[1] - pair[0]).round()).collect();
    assert_eq!(gaps, [1.0, 11.0, 21.0, 41.0, 81.0, 161.0, 301.0, 301.0, 301.0]);
    assert_eq!(sim.waiting("a"), "CrashLoopBackOff");
    assert_eq!(sim.status().phase, PodPhase::Running);
    let container = sim.container("a");
    assert_eq!(container.last_state.terminated.unwrap().exit_code, 1);
    assert_eq!(container.restart_count, 9);
}

#[test]
fn back_off_starts_over_after_ten_good_minutes() {
    let mut sim = Sim::new(
        "containers: [{name: a, image: x}]",
        [("a", Script::runs(&[(1.0, 1), (1.0, 1), (1.0, 1), (700.0, 1), (1.0, 1)]))],
    );
    sim.run_until(760.0);
    let starts = sim.times("start a");
    // Starts after 0, 10 and 20 s of waiting; then 700 good seconds, and none to wait.
    insta::assert_snapshot!(starts.join("\n"), @r"
    0.3 start a
    1.5 start a
    12.7 start a
    33.9 start a
    734.1 start a
    745.3 start a
    ");
}

#[test]
fn restart_policies() {
    for (policy, code, starts, phase) in [
        ("Always", 0, 2, PodPhase::Running),
        ("OnFailure", 0, 1, PodPhase::Succeeded),
        ("OnFailure", 3, 2, PodPhase::Running),
        ("Never", 0, 1, PodPhase::Succeeded),
        ("Never", 3, 1, PodPhase::Failed),
    ] {
        let spec = format!("restartPolicy: {policy}\ncontainers: [{{name: a, image: x}}]");
        let mut sim = Sim::new(&spec, [("a", Script::runs(&[(1.0, code)]))]);
        sim.run_until(5.0);
        assert_eq!(sim.times("start").len(), starts, "{policy} {code}");
        assert_eq!(sim.status().phase, phase, "{policy} {code}");
        assert_eq!(sim.worker.finished(), phase != PodPhase::Running, "{policy} {code}");
    }
}

#[test]
fn sidecars_gate_and_outlive() {
    let spec = "\
restartPolicy: Never
initContainers:
- {name: s, image: x, restartPolicy: Always, startupProbe: {periodSeconds: 1, failureThreshold: 9, tcpSocket: {port: 1}}}
- {name: i, image: x}
containers: [{name: a, image: x}]";
    let probe = |_, age| age >= 3.0;
    let sidecar = Script { probe, ..Script::default() };
    let mut sim =
        Sim::new(spec, [("s", sidecar), ("i", Script::runs(&[(1.0, 0)])), ("a", Script::runs(&[(5.0, 0)]))]);
    sim.run_until(60.0);
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.3 start s
    0.3 probe s Startup false
    3.3 probe s Startup true
    3.5 start i
    4.5 exit i 0
    4.7 start a
    4.7 phase Running
    4.7 ready
    9.7 exit a 0
    9.7 stopping s 30
    9.7 stop s 30
    9.7 not ready a
    9.8 exit s 143
    9.8 phase Succeeded
    ");
}

#[test]
fn sidecars_restart_whatever_the_policy() {
    let spec = "\
restartPolicy: Never
initContainers: [{name: s, image: x, restartPolicy: Always}]
containers: [{name: a, image: x}]";
    let mut sim =
        Sim::new(spec, [("s", Script::runs(&[(2.0, 0), (2.0, 1)])), ("a", Script::runs(&[(40.0, 0)]))]);
    sim.run_until(60.0);
    assert_eq!(sim.times("start s").len(), 4);
    assert_eq!(sim.times("start a").len(), 1);
    assert_eq!(sim.status().phase, PodPhase::Succeeded);
}

#[test]
fn pulls_back_off() {
    let script = Script { failing_pulls: 3, ..Script::default() };
    let mut sim = Sim::new("containers: [{name: a, image: x}]", [("a", script)]);
    sim.run_until(1.0);
    assert_eq!(sim.waiting("a"), "ErrImagePull");
    sim.run_until(5.0);
    assert_eq!(sim.waiting("a"), "ImagePullBackOff");
    sim.run_until(100.0);
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.2 pull failed a 10
    10.3 pull failed a 20
    30.4 pull failed a 40
    70.6 start a
    70.6 phase Running
    70.6 ready
    ");
    assert_eq!(sim.container("a").restart_count, 0);
}

#[test]
fn creation_is_retried() {
    let script = Script { failing_creates: 2, ..Script::default() };
    let mut sim = Sim::new("containers: [{name: a, image: x}]", [("a", script)]);
    sim.run_until(1.0);
    assert_eq!(sim.waiting("a"), "CreateContainerConfigError");
    sim.run_until(30.0);
    assert_eq!(sim.container("a").restart_count, 0);
    assert!(sim.container("a").ready);
}

#[test]
fn a_start_error_counts_as_a_run() {
    let script = Script { broken: true, ..Script::default() };
    let mut sim = Sim::new("restartPolicy: Never\ncontainers: [{name: a, image: x}]", [("a", script)]);
    sim.run_until(5.0);
    assert_eq!(sim.status().phase, PodPhase::Failed);
    let end = sim.container("a").state.terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_str()), (128, "StartError"));
}

#[test]
fn sandboxes_are_retried() {
    let mut sim = Sim::new("containers: [{name: a, image: x}]", []);
    sim.failing_sandboxes = 3;
    sim.run_until(20.0);
    assert_eq!(sim.times("start a"), ["7.6 start a"]);
}

#[test]
fn a_dead_sandbox_starts_the_pod_over() {
    let spec = TWO_INITS.replace("Never", "Always");
    let mut sim = Sim::new(&spec, [("i1", Script::runs(&[(1.0, 0)])), ("i2", Script::runs(&[(1.0, 0)]))]);
    sim.run_until(10.0);
    sim.lose_sandbox();
    sim.run_until(40.0);
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.3 start i1
    1.3 exit i1 0
    1.5 start i2
    2.5 exit i2 0
    2.7 start a
    2.7 start b
    2.7 phase Running
    2.7 ready
    10.0 sandbox lost
    10.0 exit a 137
    10.0 exit b 137
    10.0 not ready a b
    10.4 start i1
    11.4 exit i1 0
    11.6 start i2
    12.6 exit i2 0
    12.8 start a
    12.8 start b
    12.8 ready
    ");
    assert_eq!(sim.container("a").restart_count, 1);
}

#[test]
fn a_dead_sandbox_fails_a_pod_that_never_restarts() {
    let mut sim = Sim::new("restartPolicy: Never\ncontainers: [{name: a, image: x}]", []);
    sim.run_until(5.0);
    sim.lose_sandbox();
    sim.run_until(10.0);
    assert!(sim.worker.finished());
    assert_eq!(sim.status().phase, PodPhase::Failed);
    assert_eq!(sim.status().reason, "SandboxLost");
}

#[test]
fn what_succeeded_is_not_run_again_in_a_new_sandbox() {
    let spec = "restartPolicy: OnFailure\ncontainers: [{name: a, image: x}, {name: b, image: x}]";
    let mut sim = Sim::new(spec, [("a", Script::runs(&[(1.0, 0)])), ("b", Script::default())]);
    sim.run_until(5.0);
    sim.lose_sandbox();
    sim.run_until(20.0);
    assert_eq!((sim.times("start a").len(), sim.times("start b").len()), (1, 2));
}

#[test]
fn deadline() {
    let mut sim = Sim::new("activeDeadlineSeconds: 20\ncontainers: [{name: a, image: x}]", []);
    sim.run_until(30.0);
    let status = sim.status();
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::Failed, "DeadlineExceeded"));
    assert_eq!(sim.times("stop a"), ["20.0 stop a 30"]);
}

#[test]
fn status_of_a_running_pod() {
    let spec = "\
initContainers: [{name: i, image: x}]
containers:
- {name: a, image: x, resources: {limits: {cpu: 1, memory: 64Mi}}, readinessProbe: {tcpSocket: {port: 1}}}";
    let script = Script { probe: |_, _| false, ..Script::default() };
    let mut sim = Sim::new(spec, [("i", Script::runs(&[(1.0, 0)])), ("a", script)]);
    sim.run_until(5.0);
    insta::assert_snapshot!(serde_json::to_string_pretty(&sim.status()).unwrap());
}
