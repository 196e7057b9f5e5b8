//! Pods that an earlier process ran.

use jiff::SignedDuration;

use super::sim::{Script, Sim, epoch};
use crate::api::PodPhase;
use crate::worker::{Exit, Identity, Input, Past, PastSandbox, Run, Stage};

fn sandbox(ready: bool) -> Option<PastSandbox> {
    Some(PastSandbox { id: "sandbox0".to_owned(), attempt: 0, ready, ips: vec!["10.0.0.2".to_owned()] })
}

fn run(name: &str, attempt: u32, stage: Stage) -> Run {
    Run {
        name: name.to_owned(),
        id: format!("{name}.{attempt}"),
        sandbox: "sandbox0".to_owned(),
        attempt,
        fingerprint: String::new(),
        identity: Identity::default(),
        stage,
    }
}

fn ended(code: i32, from: i64, to: i64) -> Stage {
    let at = |seconds| epoch() + SignedDuration::from_secs(seconds);
    let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
    let (started_at, finished_at) = (Some(at(from)), at(to));
    Stage::Exited(Exit { code, reason, message: String::new(), started_at, finished_at })
}

fn running(from: i64) -> Stage {
    Stage::Running { started_at: epoch() + SignedDuration::from_secs(from) }
}

/// A pod that the first process has run for some time.
fn sim(spec: &str, scripts: impl IntoIterator<Item = (&'static str, Script)>, seconds: f64) -> Sim {
    let mut sim = Sim::new(spec, scripts);
    sim.adopt(&Past::default());
    sim.run_until(seconds);
    sim
}

#[test]
fn a_crash_loop_waits_as_long_as_it_would_have() {
    let mut sim = sim("containers: [{name: a, image: x}]", [("a", Script::runs(&[(1.0, 1)]))], 25.0);
    let before = sim.container("a");
    let waiting = before.state.waiting.clone().unwrap();
    assert_eq!(
        (before.restart_count, waiting.message.as_str()),
        (2, "back-off 20s restarting failed container=a pod=p_default()")
    );
    let last = before.last_state.terminated.unwrap();
    let (from, to) = (last.started_at.unwrap().as_second(), last.finished_at.unwrap().as_second());
    sim.adopt(&Past { sandbox: sandbox(true), runs: vec![run("a", 2, ended(1, from, to))] });
    assert_eq!(sim.container("a").state.waiting, Some(waiting));
    let starts = sim.times("start a").len();
    sim.run_until(32.0);
    assert_eq!(sim.times("start a").len(), starts, "{:?}", sim.trace);
    sim.run_until(36.0);
    assert_eq!((sim.times("start a").len(), sim.container("a").restart_count), (starts + 1, 3));
}

#[test]
fn inits_that_ended_while_nobody_looked_are_not_run_again() {
    let spec =
        "initContainers: [{name: i, image: x}, {name: j, image: x}]\ncontainers: [{name: a, image: x}]";
    let mut sim = sim(spec, [("i", Script::runs(&[(5.0, 0)])), ("j", Script::runs(&[(5.0, 0)]))], 3.0);
    let runs = vec![run("i", 0, ended(0, 0, 5))];
    sim.alive.clear();
    sim.adopt(&Past { sandbox: sandbox(true), runs });
    sim.run_until(20.0);
    assert_eq!(
        (sim.times("start i").len(), sim.times("start j").len(), sim.times("start a").len()),
        (1, 1, 1)
    );
    // Removed in the meantime: what comes after it says that it had done its part.
    sim.adopt(&Past { sandbox: sandbox(true), runs: vec![run("a", 0, running(9))] });
    sim.run_until(30.0);
    assert_eq!((sim.times("start").len(), sim.status().phase), (3, PodPhase::Running));
}

#[test]
fn a_sandbox_that_died_while_nobody_looked_starts_the_pod_over() {
    let spec = "initContainers: [{name: i, image: x}]\ncontainers: [{name: a, image: x}]";
    let mut sim = sim(spec, [("i", Script::runs(&[(1.0, 0)]))], 10.0);
    let runs = vec![run("i", 0, ended(0, 0, 1)), run("a", 0, ended(137, 1, 9))];
    sim.alive.clear();
    sim.adopt(&Past { sandbox: sandbox(false), runs });
    sim.run_until(30.0);
    assert_eq!((sim.times("start i").len(), sim.times("start a").len()), (2, 2), "{:?}", sim.trace);
    assert_eq!((sim.container("i").restart_count, sim.container("a").restart_count), (1, 1));
}

#[test]
fn one_container_that_was_made_is_started_and_not_made_again() {
    let mut sim = sim("containers: [{name: a, image: x}]", [], 0.25);
    assert_eq!(sim.times("start a").len(), 0);
    sim.adopt(&Past { sandbox: sandbox(true), runs: vec![run("a", 0, Stage::Created)] });
    assert_eq!(sim.times("start a").len(), 1);
    assert_eq!(sim.container("a").restart_count, 0);
}

#[test]
fn a_pod_that_never_restarts_fails_when_its_container_is_gone() {
    let mut sim = sim("restartPolicy: Never\ncontainers: [{name: a, image: x}]", [], 10.0);
    sim.alive.clear();
    sim.adopt(&Past::default());
    sim.run_until(20.0);
    assert_eq!((sim.status().phase, sim.times("start a").len()), (PodPhase::Failed, 1));
    let end = sim.container("a").state.terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "ContainerStatusUnknown"));
}

#[test]
fn a_changed_image_is_seen_by_the_next_process() {
    let mut sim = sim("containers: [{name: a, image: x}]", [], 10.0);
    let mut old = run("a", 0, running(1));
    let id = sim.worker.live().next().unwrap().1.to_owned();
    old.id.clone_from(&id);
    old.fingerprint = "another".to_owned();
    sim.adopt(&Past { sandbox: sandbox(true), runs: vec![old] });
    sim.run_until(20.0);
    assert_eq!((sim.times("start a").len(), sim.container("a").restart_count), (2, 1), "{:?}", sim.trace);
}

#[test]
fn a_stop_ends_what_was_adopted() {
    let mut sim = sim("containers: [{name: a, image: x}]", [], 10.0);
    let id = sim.worker.live().next().unwrap().1.to_owned();
    let past = Run { id, ..run("a", 0, running(1)) };
    sim.adopt(&Past { sandbox: sandbox(true), runs: vec![past] });
    sim.input(Input::Stop { grace: Some(5) });
    sim.run_until(20.0);
    assert!(sim.worker.finished());
    assert_eq!(sim.times("stop a"), ["10.0 stop a 5"]);
}

#[test]
fn what_a_container_reads_between_its_runs() {
    let spec = "restartPolicy: Always\ncontainers: [{name: a, image: x}, {name: b, image: x}]";
    let broken = Script { broken: true, ..Script::default() };
    let mut sim = sim(spec, [("a", Script::runs(&[(2.0, 1), (60.0, 0)])), ("b", broken)], 2.45);
    let a = sim.container("a");
    assert_eq!(
        (a.restart_count, a.state.terminated.map(|end| end.exit_code)),
        (0, Some(1)),
        "until the next one is there"
    );
    assert_eq!(sim.waiting("b"), "RunContainerError");
    sim.run_until(3.0);
    assert_eq!((sim.container("a").restart_count, sim.container("a").state.running.is_some()), (1, true));
    sim.run_until(10.4);
    assert_eq!((sim.waiting("b"), sim.container("b").restart_count), ("RunContainerError".to_owned(), 1));
    assert!(sim.worker.wake_at().is_some());
    sim.run_until(22.0);
    assert_eq!((sim.waiting("b"), sim.container("b").restart_count), ("CrashLoopBackOff".to_owned(), 2));
}
