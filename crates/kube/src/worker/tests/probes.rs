use super::sim::{Script, Sim};
use crate::event::ProbeKind;
use crate::worker::{Input, Outcome, Slot};

fn pod(probes: &str) -> String {
    format!("containers: [{{name: a, image: x, {probes}}}]")
}

fn script(probe: fn(ProbeKind, f64) -> bool) -> [(&'static str, Script); 1] {
    [("a", Script { probe, ..Script::default() })]
}

#[test]
fn readiness_needs_its_thresholds() {
    let spec = pod(
        "readinessProbe: {periodSeconds: 5, successThreshold: 2, failureThreshold: 2, initialDelaySeconds: 3, tcpSocket: {port: 1}}",
    );
    let mut sim = Sim::new(&spec, script(|_, age| !(20.0..40.0).contains(&age)));
    sim.run_until(60.0);
    // Probes at 3, 4, 6, 11, 16, … seconds of age: soon again until it is ready. The container starts at 0.3 s.
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.3 start a
    0.3 phase Running
    3.3 probe a Readiness true
    4.3 ready
    21.3 probe a Readiness false
    26.3 not ready a
    41.3 probe a Readiness true
    46.3 ready
    ");
}

#[test]
fn what_is_not_ready_yet_is_asked_soon_again() {
    let spec = pod("readinessProbe: {periodSeconds: 10, tcpSocket: {port: 1}}");
    let mut sim = Sim::new(&spec, script(|_, age| age > 0.5));
    sim.run_until(30.0);
    assert_eq!(sim.times("ready"), ["1.3 ready"]);
    let mut sim = Sim::new(&spec, script(|_, age| age > 8.0));
    sim.run_until(30.0);
    // Probes after 0, 1, 3, 7, 15 seconds, and every ten from then on.
    assert_eq!(sim.times("ready"), ["15.3 ready"]);
}

#[test]
fn liveness_restarts_the_container_only() {
    let spec = "\
containers:
- {name: a, image: x, livenessProbe: {periodSeconds: 2, failureThreshold: 3, tcpSocket: {port: 1}}}
- {name: b, image: x}";
    let mut sim = Sim::new(spec, script(|_, age| age < 5.0));
    sim.run_until(14.0);
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.3 start a
    0.3 start b
    0.3 phase Running
    0.3 ready
    0.3 probe a Liveness true
    6.3 probe a Liveness false
    10.3 stopping a 30
    10.3 stop a 30
    10.3 not ready a
    10.4 exit a 143
    10.6 start a
    10.6 ready
    10.6 probe a Liveness true
    ");
    assert_eq!((sim.container("a").restart_count, sim.container("b").restart_count), (1, 0));
}

#[test]
fn liveness_uses_its_own_grace_period() {
    let spec = pod(
        "livenessProbe: {periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 5, tcpSocket: {port: 1}}",
    );
    let scripts = [("a", Script { probe: |_, _| false, dies_after: None, ..Script::default() })];
    let mut sim = Sim::new(&spec, scripts);
    sim.run_until(5.5);
    assert_eq!(sim.times("stop a"), ["0.3 stop a 5"]);
    assert_eq!(sim.times("exit a"), ["5.3 exit a 137"]);
}

#[test]
fn liveness_under_never_fails_the_pod() {
    let spec = "restartPolicy: Never\n".to_owned()
        + &pod("livenessProbe: {periodSeconds: 1, failureThreshold: 1, tcpSocket: {port: 1}}");
    let mut sim = Sim::new(&spec, script(|_, _| false));
    sim.run_until(5.0);
    assert!(sim.worker.finished());
    assert_eq!(sim.times("phase"), ["0.3 phase Running", "0.4 phase Failed"]);
}

#[test]
fn nothing_else_is_probed_before_startup_succeeded() {
    let spec = pod(
        "startupProbe: {periodSeconds: 2, failureThreshold: 10, tcpSocket: {port: 1}}, livenessProbe: {periodSeconds: 1, tcpSocket: {port: 1}}, readinessProbe: {periodSeconds: 1, tcpSocket: {port: 1}}",
    );
    let mut sim = Sim::new(&spec, script(|kind, age| kind != ProbeKind::Startup || age >= 5.0));
    sim.run_until(5.0);
    assert_eq!(sim.container("a").started, Some(false));
    sim.run_until(20.0);
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.3 start a
    0.3 phase Running
    0.3 probe a Startup false
    6.3 probe a Startup true
    6.3 probe a Liveness true
    6.3 probe a Readiness true
    6.3 ready
    ");
    assert_eq!(sim.container("a").started, Some(true));
}

#[test]
fn startup_failure_restarts() {
    let spec = pod("startupProbe: {periodSeconds: 2, failureThreshold: 3, tcpSocket: {port: 1}}");
    let mut sim = Sim::new(&spec, script(|_, _| false));
    sim.run_until(5.0);
    assert_eq!(sim.times("stop a"), ["4.3 stop a 30"]);
    sim.run_until(25.0);
    // The second failure waits for the back-off.
    insta::assert_snapshot!(sim.times("start a").join("\n"), @r"
    0.3 start a
    4.6 start a
    18.9 start a
    ");
}

#[test]
fn a_probe_that_cannot_be_made_counts_neither_way() {
    let spec = pod("livenessProbe: {periodSeconds: 1, failureThreshold: 1, tcpSocket: {port: 1}}");
    let mut sim = Sim::new(&spec, script(|_, _| true));
    sim.run_until(0.9);
    let id = sim.worker.live().next().unwrap().1.to_owned();
    for _ in 0..5 {
        let outcome = Outcome::Error("broken pipe".to_owned());
        let probe = ProbeKind::Liveness;
        sim.input(Input::Probed { slot: Slot(0), id: id.clone(), probe, outcome });
    }
    sim.run_until(5.0);
    assert!(sim.times("stop").is_empty());
}

#[test]
fn probing_waits_for_the_hook() {
    let spec = pod("lifecycle: {postStart: {sleep: {seconds: 5}}}, readinessProbe: {tcpSocket: {port: 1}}");
    let scripts = [("a", Script { hook: (5.0, false), ..Script::default() })];
    let mut sim = Sim::new(&spec, scripts);
    sim.run_until(20.0);
    assert_eq!(sim.times("ready"), ["5.3 ready"]);
}
