use super::sim::{Script, Sim};
use crate::api::PodPhase;
use crate::worker::Input;
use crate::worker::stop::Cause;

const SIDECARS: &str = "\
terminationGracePeriodSeconds: 20
initContainers:
- {name: s1, image: x, restartPolicy: Always}
- {name: s2, image: x, restartPolicy: Always}
containers: [{name: a, image: x}, {name: b, image: x}]";

#[test]
fn containers_together_then_sidecars_in_reverse() {
    let slow = |seconds| Script { dies_after: Some(seconds), ..Script::default() };
    let mut sim =
        Sim::new(SIDECARS, [("a", slow(3.0)), ("b", slow(5.0)), ("s1", slow(1.0)), ("s2", slow(2.0))]);
    sim.run_until(10.0);
    sim.input(Input::Stop { grace: None });
    sim.run_until(60.0);
    insta::assert_snapshot!(sim.trace[6..].join("\n"), @r"
    10.0 stopping a 20
    10.0 stop a 20
    10.0 stopping b 20
    10.0 stop b 20
    13.0 exit a 143
    13.0 not ready a
    15.0 exit b 143
    15.0 stopping s2 15
    15.0 stop s2 15
    17.0 exit s2 143
    17.0 stopping s1 13
    17.0 stop s1 13
    18.0 exit s1 143
    18.0 phase Failed
    ");
    assert_eq!(sim.worker.ending().unwrap().cause, Cause::Stopped);
}

#[test]
fn sidecars_are_not_waited_for_beyond_the_grace_period() {
    let stubborn = || Script { dies_after: None, ..Script::default() };
    let mut sim =
        Sim::new(SIDECARS, [("a", stubborn()), ("b", stubborn()), ("s1", stubborn()), ("s2", stubborn())]);
    sim.run_until(10.0);
    sim.input(Input::Stop { grace: None });
    sim.run_until(60.0);
    // What ignores the signal is killed after the grace period, the sidecars two seconds later.
    assert_eq!(sim.times("exit a"), ["30.0 exit a 137"]);
    assert_eq!(sim.times("exit s1"), ["32.0 exit s1 137"]);
    assert_eq!(sim.times("exit s2"), ["32.0 exit s2 137"]);
    assert!(sim.worker.finished());
}

#[test]
fn pre_stop_counts_against_the_grace_period() {
    let spec = "\
terminationGracePeriodSeconds: 10
containers: [{name: a, image: x, lifecycle: {preStop: {exec: {command: [x]}}}}]";
    for (hook, signal) in [(4.0, "5.0 stop a 6"), (9.5, "10.5 stop a 2"), (60.0, "11.0 stop a 2")] {
        let mut sim = Sim::new(spec, [("a", Script { hook: (hook, false), ..Script::default() })]);
        sim.run_until(1.0);
        sim.input(Input::Stop { grace: None });
        sim.run_until(60.0);
        assert_eq!(sim.times("stop a"), [signal], "a hook of {hook} s");
        assert_eq!(sim.times("hook failed").is_empty(), hook < 10.0);
    }
}

#[test]
fn no_grace_no_hook() {
    let spec = "\
terminationGracePeriodSeconds: 0
containers: [{name: a, image: x, lifecycle: {preStop: {exec: {command: [x]}}}}]";
    let mut sim = Sim::new(spec, []);
    sim.run_until(1.0);
    sim.input(Input::Stop { grace: None });
    assert!(sim.times("hook").is_empty());
    assert_eq!(sim.times("stop a"), ["1.0 stop a 2"]);
}

#[test]
fn a_second_ctrl_c_kills() {
    let stubborn = || Script { dies_after: None, ..Script::default() };
    let mut sim = Sim::new(SIDECARS, [("a", stubborn())]);
    sim.run_until(5.0);
    sim.input(Input::Stop { grace: None });
    sim.run_until(6.0);
    sim.input(Input::Kill);
    sim.run_until(6.5);
    assert!(sim.worker.finished());
    assert_eq!(sim.worker.ending().unwrap().cause, Cause::Killed);
    assert_eq!(sim.times("stop s1").len(), 1);
}

#[test]
fn stopping_while_it_starts() {
    for at in [0.0, 0.05, 0.15, 0.25, 0.3, 1.0] {
        let mut sim = Sim::new(SIDECARS, []);
        sim.run_until(at);
        sim.input(Input::Stop { grace: None });
        sim.run_until(60.0);
        assert!(sim.worker.finished(), "stopped at {at}");
        assert!(sim.alive.is_empty(), "stopped at {at}");
    }
}

#[test]
fn stopping_while_nothing_can_be_had() {
    let mut sim = Sim::new(
        "containers: [{name: a, image: x}]",
        [("a", Script { failing_pulls: 99, ..Script::default() })],
    );
    sim.run_until(30.0);
    sim.input(Input::Stop { grace: None });
    sim.run_until(31.0);
    assert!(sim.worker.finished());
    assert_eq!(sim.status().phase, PodPhase::Failed);
}

#[test]
fn a_failed_post_start_hook_restarts() {
    let spec = "containers: [{name: a, image: x, lifecycle: {postStart: {exec: {command: [x]}}}}]";
    let mut sim = Sim::new(spec, [("a", Script { hook: (1.0, true), ..Script::default() })]);
    sim.run_until(6.0);
    insta::assert_snapshot!(sim.trace.join("\n"), @r"
    0.3 start a
    0.3 hook a PostStart
    0.3 phase Running
    1.3 hook failed a PostStart
    1.3 stopping a 30
    1.3 stop a 30
    1.4 exit a 143
    1.6 start a
    1.6 hook a PostStart
    2.6 hook failed a PostStart
    2.6 stopping a 30
    2.6 stop a 30
    2.7 exit a 143
    ");
}

#[test]
fn a_pod_that_takes_too_much_is_evicted_and_not_started_again() {
    let mut sim = Sim::new("containers: [{name: a, image: x}]", []);
    sim.run_until(5.0);
    sim.input(Input::Evict { reason: "Evicted".to_owned(), message: "too much".to_owned() });
    sim.run_until(60.0);
    let status = sim.status();
    assert_eq!(
        (status.phase, status.reason.as_str(), status.message.as_str()),
        (PodPhase::Failed, "Evicted", "too much")
    );
    assert_eq!(sim.times("start a").len(), 1);
    assert!(sim.worker.finished());
}
