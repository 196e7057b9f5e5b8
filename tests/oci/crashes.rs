//! A create that is killed in its middle leaves what `delete --force` clears.

use vaquita_testing::trace::{self, Program, Verdict};

use super::bundle::Bundle;

#[test]
fn whenever_create_is_killed_force_clears_all_of_it() {
    let bundle = Bundle::new("exec sleep 1000");
    let root = bundle.root();
    let program = Program::new(env!("CARGO_BIN_EXE_vaquita")).name("vaquita-oci").args([
        "--root",
        root.to_str().unwrap(),
        "create",
        "--bundle",
        bundle.dir.path().to_str().unwrap(),
        "c1",
    ]);
    // How many calls it makes itself.
    let mut calls = 0;
    trace::run(&program, &[], |call| {
        calls = calls.max(if call.process == 0 { call.index + 1 } else { 0 });
        Verdict::Make
    })
    .unwrap();
    bundle.good(["delete", "c1"]);
    assert!(calls > 50, "{calls}");
    // Each seventh, and all of the last ones, where most is there.
    for at in (0..calls).filter(|at| at % 7 == 0 || at + 15 > calls) {
        let mut is_killed = false;
        trace::run(&program, &[], |call| {
            if call.process == 0 && call.index == at {
                is_killed = true;
                return Verdict::Kill;
            }
            Verdict::Make
        })
        .unwrap();
        // The number of calls differs by a few from run to run.
        assert!(is_killed || at + 15 > calls, "{at} of {calls}");
        if root.join("c1").exists() && is_killed {
            let output = bundle.oci(["state", "c1"]);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(
                ["\"stopped\"", "\"created\"", "\"creating\"", "does not exist"]
                    .iter()
                    .any(|part| said.contains(part)),
                "{at}: {said}"
            );
            assert!(bundle.bad(1, ["create", "c1"]).contains("already exists"), "{at}");
        }
        bundle.good(["delete", "--force", "c1"]);
        assert!(!root.join("c1").exists(), "{at}");
        let group = std::path::Path::new("/sys/fs/cgroup");
        for hierarchy in ["memory", "pids", "unified", "."] {
            assert!(!group.join(hierarchy).join(&bundle.tag).exists(), "{at}: {hierarchy}");
        }
    }
}
