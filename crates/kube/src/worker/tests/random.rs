//! Random pods in a random world. The simulated world asserts what must always hold at every decision.

use proptest::prelude::*;

use super::sim::{Script, Sim};
use crate::worker::{Input, Past};

const NAMES: [&str; 6] = ["m0", "m1", "m2", "m3", "m4", "m5"];

fn script() -> impl Strategy<Value = Script> {
    let run = (prop::option::of(0.0..30.0_f64), prop_oneof![Just(0), Just(0), Just(1)]);
    let parts = (
        prop::collection::vec(run, 1..4),
        0..3_u32,
        0..2_u32,
        prop::bool::weighted(0.1),
        prop::option::of(0.0..5.0_f64),
        (0.0..4.0_f64, any::<bool>()),
        0..3_usize,
    );
    parts.prop_map(|(runs, failing_pulls, failing_creates, broken, dies_after, hook, probe)| {
        let probes: [fn(crate::event::ProbeKind, f64) -> bool; 3] =
            [|_, _| true, |_, age| age < 7.0, |_, age| age > 2.0];
        Script { runs, failing_pulls, failing_creates, broken, dies_after, hook, probe: probes[probe] }
    })
}

/// (is an init container, is a sidecar, has probes, has hooks)
fn member() -> impl Strategy<Value = (bool, bool, bool, bool)> {
    any::<(bool, bool, bool, bool)>()
}

fn spec(policy: &str, members: &[(bool, bool, bool, bool)]) -> String {
    let probe = "{periodSeconds: 1, failureThreshold: 2, tcpSocket: {port: 1}}";
    let line = |index: usize, &(init, sidecar, probes, hooks): &(bool, bool, bool, bool)| {
        let mut text = format!("- name: {}\n  image: x\n", NAMES[index]);
        if init && sidecar {
            text += "  restartPolicy: Always\n";
        }
        if (!init || sidecar) && probes {
            text +=
                &format!("  startupProbe: {probe}\n  livenessProbe: {probe}\n  readinessProbe: {probe}\n");
        }
        if (!init || sidecar) && hooks {
            text += "  lifecycle: {postStart: {exec: {command: [x]}}, preStop: {exec: {command: [x]}}}\n";
        }
        text
    };
    let all: Vec<_> = members.iter().enumerate().collect();
    let of = |init: bool| {
        all.iter()
            .filter(|(_, member)| member.0 == init)
            .map(|(index, member)| line(*index, member))
            .collect::<String>()
    };
    format!(
        "restartPolicy: {policy}\nterminationGracePeriodSeconds: 5\ninitContainers:\n{}containers:\n- {{name: last, image: x}}\n{}",
        of(true),
        of(false)
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        members in prop::collection::vec(member(), 0..6),
        scripts in prop::collection::vec(script(), 6),
        last in script(),
        losses in prop::collection::vec(0.0..60.0_f64, 0..3),
        stop in 0.0..90.0_f64,
        kill in prop::option::of(0.0..10.0_f64),
    ) {
        let spec = spec(policy, &members);
        let scripts = NAMES.into_iter().zip(scripts).chain([("last", last)]);
        let mut sim = Sim::new(&spec, scripts);
        let mut losses = losses;
        losses.sort_by(f64::total_cmp);
        for at in losses {
            sim.run_until(at.min(stop));
            if sim.worker.sandbox_id().is_some_and(|id| !id.is_empty()) {
                sim.lose_sandbox();
            }
        }
        sim.run_until(stop);
        sim.input(Input::Stop { grace: None });
        if let Some(kill) = kill {
            sim.run_until(stop + kill);
            sim.input(Input::Kill);
        }
        // Grace period, the sidecars' two seconds, and what was under way.
        sim.run_until(stop + 20.0);
        prop_assert!(sim.worker.finished(), "not finished:\n{}\n{:#?}", sim.trace.join("\n"), sim.worker);
        prop_assert!(sim.alive.is_empty());
        prop_assert!(sim.worker.wake_at().is_none());
    }

    /// Processes of the agent die at any time. What runs goes on, nothing runs twice, counts only grow, and the end comes.
    #[test]
    fn nothing_is_lost_when_the_agent_dies(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        members in prop::collection::vec(member(), 0..6),
        scripts in prop::collection::vec(script(), 6),
        last in script(),
        deaths in prop::collection::vec((0.0..80.0_f64, prop::bool::weighted(0.2)), 1..6),
        stop in 0.0..90.0_f64,
    ) {
        let spec = spec(policy, &members);
        let scripts = NAMES.into_iter().zip(scripts).chain([("last", last)]);
        let mut sim = Sim::new(&spec, scripts);
        sim.adopt(&Past::default());
        let mut deaths = deaths;
        deaths.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (at, lost) in deaths {
            sim.run_until(at.min(stop));
            let ready = sim.worker.sandbox_id().is_some_and(|id| !id.is_empty());
            if lost && ready {
                sim.lose_sandbox();
            }
            let before = sim.status();
            let running: Vec<String> = sim.alive.keys().cloned().collect();
            let past = sim.past();
            sim.adopt(&past);
            let after = sim.status();
            for id in running {
                let goes_on = sim.worker.live().any(|(_, other)| other == id);
                prop_assert!(goes_on, "{id} is forgotten: {past:#?}\n{}", sim.trace.join("\n"));
            }
            for (old, new) in before.containers().zip(after.containers()) {
                prop_assert!(new.restart_count >= old.restart_count, "{old:#?} {new:#?} {past:#?}");
            }
        }
        sim.run_until(stop);
        sim.input(Input::Stop { grace: None });
        sim.run_until(stop + 20.0);
        prop_assert!(sim.worker.finished(), "not finished:\n{}\n{:#?}", sim.trace.join("\n"), sim.worker);
        prop_assert!(sim.alive.is_empty());
    }
}
