//! Capabilities that nobody can grant: a warning of them, and a container without them.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::bundle::Bundle;

const SHOW: &str = "cat /proc/self/status";

/// The five sets of a process, as it sees them.
fn sets(status: &str) -> [u64; 5] {
    ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|name| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(value.trim(), 16).unwrap()
    })
}

/// The command, started by somebody who lacks CAP_AUDIT_WRITE.
fn without_audit_write(bundle: &Bundle, args: &[&str]) -> Output {
    let command = bundle.command(args);
    let mut less = Command::new("setpriv");
    less.args(["--bounding-set=-audit_write", "--"])
        .arg(command.get_program())
        .arg("oci")
        .args(command.get_args());
    less.current_dir(bundle.path("")).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn warning(names: &str) -> String {
    format!("process.capabilities: ignoring unknown or unavailable capabilities: [{names}]")
}

fn set_all(bundle: &Bundle, names: &[&str]) {
    bundle.change(|spec| {
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            spec["process"]["capabilities"][set] = json!(names);
        }
    });
}

#[test]
fn names_that_no_capability_has_are_told_and_left_out() {
    let bundle = Bundle::new(SHOW);
    set_all(&bundle, &["CAP_KILL", "TEST_CAP", "CAP_NEVER\n", "CAP_CHOWN"]);
    let output = bundle.oci(["--log", "log", "--log-format", "json", "run", "c1"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sets(text(&output.stdout)), [0x21; 5]);
    let wanted = warning("CAP_NEVER? TEST_CAP");
    assert_eq!(text(&output.stderr), format!("vaquita-oci: {wanted}\n"));
    let log = std::fs::read_to_string(bundle.path("log")).unwrap();
    let [line] = log.lines().collect::<Vec<_>>()[..] else { panic!("{log}") };
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["msg"]), (&json!("warning"), &json!(wanted)));
}

#[test]
fn what_the_caller_lacks_is_told_and_left_out() {
    let bundle = Bundle::new(SHOW);
    set_all(&bundle, &["CAP_KILL", "CAP_AUDIT_WRITE", "CAP_NONE"]);
    let output = without_audit_write(&bundle, &["run", "c1"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sets(text(&output.stdout)), [0x20; 5]);
    assert!(
        text(&output.stderr).ends_with(&format!(": {}\n", warning("CAP_AUDIT_WRITE CAP_NONE"))),
        "{output:?}"
    );
    assert_eq!(text(&output.stderr).lines().count(), 1, "{output:?}");
    // Who has all that is asked for hears nothing.
    set_all(&bundle, &["CAP_KILL", "CAP_AUDIT_WRITE"]);
    let output = bundle.oci(["run", "c1"]);
    assert_eq!((sets(text(&output.stdout)), text(&output.stderr)), ([1 << 5 | 1 << 29; 5], ""));
    // In one set alone; the text form of the log.
    bundle.change(|spec| {
        let sets = &mut spec["process"]["capabilities"];
        *sets = json!({"bounding": ["CAP_KILL", "CAP_AUDIT_WRITE"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
    });
    let output = without_audit_write(&bundle, &["--log", "log", "run", "c1"]);
    assert_eq!(sets(text(&output.stdout)), [0, 0x20, 0x20, 0x20, 0]);
    let log = std::fs::read_to_string(bundle.path("log")).unwrap();
    assert!(log.contains(&format!(" level=warning msg={:?}\n", warning("CAP_AUDIT_WRITE"))), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn further_processes_get_what_there_is() {
    let bundle = Bundle::new("exec sleep 1000");
    set_all(&bundle, &["CAP_KILL", "CAP_NONE"]);
    let output = bundle.oci(["run", "-d", "c1"]);
    assert!(output.status.success(), "{output:?}");
    // Its record has nothing to warn of.
    let output = bundle.oci(["exec", "c1", "sh", "-c", SHOW]);
    assert_eq!((sets(text(&output.stdout)), text(&output.stderr)), ([0x20; 5], ""));
    let output = without_audit_write(
        &bundle,
        &["exec", "--cap", "CAP_AUDIT_WRITE", "--cap", "chown", "c1", "sh", "-c", SHOW],
    );
    assert_eq!(sets(text(&output.stdout)), [0x20, 0x21, 0x21, 0x21, 0x20], "{output:?}");
    assert!(text(&output.stderr).ends_with(&format!(": {}\n", warning("CAP_AUDIT_WRITE"))), "{output:?}");
    let process = json!({
        "args": ["sh", "-c", SHOW], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL", "X"], "permitted": ["CAP_KILL", "Y"], "effective": ["Z"]},
    });
    std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
    let output = bundle.oci(["exec", "--process", "process.json", "c1"]);
    // Effective by execve, since it is root.
    assert_eq!(sets(text(&output.stdout)), [0, 0x20, 0x20, 0x20, 0], "{output:?}");
    assert_eq!(text(&output.stderr), format!("vaquita-oci: {}\n", warning("X Y Z")));
    // What is malformed is still refused, and a name that stands twice too.
    for bad in [r#""capabilities":{"bounding":["X",7]}"#, r#""capabilities":{"bounding":["X"]},"cwd":"/""#] {
        let text = format!(r#"{{"args":["id"],"cwd":"/","user":{{"uid":0,"gid":0}},{bad}}}"#);
        std::fs::write(bundle.path("process.json"), text).unwrap();
        bundle.bad(255, ["exec", "--process", "process.json", "c1"]);
    }
    bundle.good(["delete", "-f", "c1"]);
}
