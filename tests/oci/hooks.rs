//! The order of hooks and what follows from their failures.

use serde_json::{Value, json};

use super::bundle::Bundle;

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// All hooks write down their names and the state that they get; `startContainer` runs inside.
fn with_hooks(bundle: &Bundle, failing: &str) {
    let log = bundle.path("rootfs/log");
    let log = log.to_str().unwrap().to_owned();
    let hook = |name: &str| {
        let is_inside = name == "startContainer";
        let (shell, log) = if is_inside { ("/bin/sh", "/log") } else { ("/bin/sh", log.as_str()) };
        let end = if name == failing { "; echo it failed >&2; exit 3" } else { "" };
        let script = format!("cat | {{ echo -n '{name} '; cat; echo; }} >> {log}{end}");
        json!([{"path": shell, "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    bundle.change(|spec| {
        spec["hooks"] = HOOKS
            .iter()
            .map(|name| ((*name).to_owned(), hook(name)))
            .collect::<serde_json::Map<_, _>>()
            .into();
    });
}

/// Name and status of each hook that ran.
fn ran(bundle: &Bundle) -> Vec<(String, String)> {
    let log = std::fs::read_to_string(bundle.path("rootfs/log")).unwrap_or_default();
    let line = |line: &str| {
        let (name, state) = line.split_once(' ').unwrap();
        let state: Value = serde_json::from_str(state).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(state["id"], "c1");
        assert_eq!(state["bundle"], bundle.dir.path().to_str().unwrap());
        let status = state["status"].as_str().unwrap().to_owned();
        // A stopped container has none.
        assert_eq!(state["pid"].as_i64().is_none_or(|pid| pid == 0), status == "stopped", "{line}");
        (name.to_owned(), status)
    };
    log.lines().map(line).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

const ALL: [(&str, &str); 6] = [
    ("prestart", "created"),
    ("createRuntime", "creating"),
    ("createContainer", "creating"),
    ("startContainer", "created"),
    ("poststart", "running"),
    ("poststop", "stopped"),
];

#[test]
fn all_hooks_run_in_order() {
    let bundle = Bundle::new("exec sleep 1000");
    with_hooks(&bundle, "");
    bundle.good(["create", "c1"]);
    assert_eq!(ran(&bundle), pairs(&ALL[..3]));
    bundle.good(["start", "c1"]);
    assert_eq!(ran(&bundle), pairs(&ALL[..5]));
    bundle.good(["delete", "--force", "c1"]);
    assert_eq!(ran(&bundle), pairs(&ALL));
    std::fs::remove_file(bundle.path("rootfs/log")).unwrap();
    bundle.change(|spec| spec["process"]["args"] = json!(["true"]));
    bundle.good(["run", "c1"]);
    assert_eq!(ran(&bundle), pairs(&ALL));
}

#[test]
fn a_hook_before_the_start_that_fails_ends_the_container() {
    for (at, name) in HOOKS[..3].iter().enumerate() {
        let bundle = Bundle::new("exec sleep 1000");
        with_hooks(&bundle, name);
        let said = bundle.bad(1, ["create", "c1"]);
        assert!(said.contains("status 3") && said.contains("it failed"), "{said}");
        let mut expected = ALL[..=at].to_vec();
        expected.push(ALL[5]);
        assert_eq!(ran(&bundle), pairs(&expected), "{name}");
        assert!(bundle.bad(1, ["state", "c1"]).contains("does not exist"));
    }
}

#[test]
fn a_start_container_hook_that_fails_stops_the_container() {
    let bundle = Bundle::new("exec sleep 1000");
    with_hooks(&bundle, "startContainer");
    bundle.good(["create", "c1"]);
    let said = bundle.bad(1, ["start", "c1"]);
    assert!(said.contains("startContainer") && said.contains("status 3"), "{said}");
    bundle.await_status("c1", "stopped");
    bundle.good(["delete", "c1"]);
    let expected = [ALL[0], ALL[1], ALL[2], ALL[3], ALL[5]];
    assert_eq!(ran(&bundle), pairs(&expected));
}

#[test]
fn hooks_after_the_fact_are_told_of_only() {
    for name in ["poststart", "poststop"] {
        let bundle = Bundle::new("exec sleep 1000");
        with_hooks(&bundle, name);
        bundle.good(["create", "c1"]);
        let started = bundle.oci(["start", "c1"]);
        assert!(started.status.success());
        assert_eq!(bundle.status("c1"), "running");
        let deleted = bundle.oci(["delete", "--force", "c1"]);
        assert!(deleted.status.success());
        let said = [started.stderr, deleted.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(name) && said.contains("it failed"), "{said}");
        assert_eq!(ran(&bundle), pairs(&ALL));
    }
}

#[test]
fn a_hook_sees_a_container_that_is_being_created() {
    let bundle = Bundle::new("exit 0");
    let out = bundle.path("seen");
    let script = format!(
        "exec -a vaquita-oci {} --root {} state c1 > {}",
        env!("CARGO_BIN_EXE_vaquita"),
        bundle.root().display(),
        out.display()
    );
    bundle.change(|spec| {
        let hook = json!([{"path": "/bin/bash", "args": ["bash", "-c", script], "timeout": 20}]);
        spec["hooks"] = json!({"createRuntime": hook});
    });
    bundle.good(["run", "c1"]);
    let seen: Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert_eq!(seen["status"], "creating");
}
