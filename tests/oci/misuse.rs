//! What is said when something is not as it should be.

use serde_json::{Value, json};

use super::bundle::Bundle;

#[test]
fn ids_that_are_none_are_refused_and_touch_nothing() {
    let bundle = Bundle::new("exit 0");
    let long = "x".repeat(256);
    for id in ["", ".", "..", "../c1", "a/b", "/etc", "a b", "a\nb", "ä", &long] {
        for command in ["create", "run", "state", "start", "kill", "delete", "exec", "pause"] {
            let args = if command == "exec" { vec!["exec", id, "true"] } else { vec![command, id] };
            let status = if command == "exec" { 255 } else { 1 };
            let said = bundle.bad(status, args);
            assert!(said.contains("invalid container id"), "{command} {id:?}: {said}");
        }
    }
    assert!(!bundle.root().exists());
}

#[test]
fn misuse_gets_one_line_with_the_way_out() {
    let bundle = Bundle::new("exit 0");
    for (args, parts) in [
        (&[][..], &["--help"][..]),
        (&["fly"], &["'fly'", "--help"]),
        (&["create"], &["create", "ID", "--help"]),
        (&["create", "c1", "--fly"], &["'--fly'", "--help"]),
        (&["create", "c1", "c2"], &["'c2'"]),
        (&["exec", "c1"], &["COMMAND"]),
        (&["list", "--format", "xml"], &["list: ", "xml", "json", "table"]),
        (&["--debug", "update", "c1", "--memory", "-5"], &["update: ", "'-5'", "update --help"]),
        (&["restore", "c1", "--console-socket", "x"], &["--console-socket", "without one"]),
        (&["events", "c1", "--interval", "5"], &["--interval", "5s"]),
        (
            &["run", "c1", "--bundle", "/nonexistent"],
            &["run c1", "/nonexistent/config.json", "No such file or directory"],
        ),
        (&["spec"], &["exists", "remove it"]),
    ] {
        let output = bundle.oci(args);
        let code = if args.first() == Some(&"exec") { 255 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("vaquita-oci: "), "{said}");
        for part in parts {
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
}

#[test]
fn a_bad_configuration_leaves_nothing_and_names_the_property() {
    let bundle = Bundle::new("exit 0");
    let good = std::fs::read(bundle.path("config.json")).unwrap();
    for (change, part) in [
        (
            (|spec: &mut Value| spec["process"]["user"]["uid"] = json!(-1)) as fn(&mut Value),
            "process.user.uid",
        ),
        (|spec| spec["root"]["path"] = json!("nowhere"), "nowhere"),
        (|spec| spec["process"]["args"] = json!([]), "process.args"),
        (|spec| spec["process"]["cwd"] = json!("relative"), "process.cwd"),
        (|spec| drop(spec.as_object_mut().unwrap().remove("root")), "root"),
        (|spec| spec["ociVersion"] = json!("9.9.9"), "ociVersion"),
        (|spec| spec["linux"]["resources"]["memory"] = json!({"limit": -7}), "memory.limit"),
        (|spec| spec["process"]["args"] = json!(["missing"]), "\"missing\""),
    ] {
        bundle.change(change);
        let said = bundle.bad(1, ["run", "c1"]);
        assert!(said.contains(part), "{part}: {said}");
        assert!(bundle.good(["list", "-q"]).is_empty());
        std::fs::write(bundle.path("config.json"), &good).unwrap();
    }
    std::fs::write(bundle.path("config.json"), &good[..good.len() / 2]).unwrap();
    assert!(bundle.bad(1, ["run", "c1"]).contains("config.json"));
}

#[test]
fn errors_are_in_the_log_file_too() {
    let bundle = Bundle::new("exit 0");
    let path = bundle.path("log");
    let log = path.to_str().unwrap();
    bundle.bad(1, ["--log", log, "--log-format", "json", "state", "c1"]);
    bundle.bad(1, ["--log", log, "--log-format=json", "start", "c2"]);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["level"], "error");
    assert_eq!(lines[1]["msg"], "start c2: container \"c2\" does not exist");
    assert!(lines[0]["time"].as_str().unwrap().contains('T'));
    std::fs::remove_file(&path).unwrap();
    bundle.bad(1, ["--log", log, "state", "c1"]);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("time=\"") && text.contains(" level=error msg=\"state c1: "), "{text}");
}

#[test]
fn without_a_criu_that_works_a_checkpoint_is_refused_and_the_container_runs_on() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["run", "-d", "c1"]);
    let said = bundle.bad(1, ["--criu", "/nonexistent/criu", "checkpoint", "c1"]);
    assert!(said.contains("CRIU is needed") && said.contains("install criu"), "{said}");
    // One that says that it cannot.
    let criu = bundle.path("criu");
    std::fs::write(&criu, "#!/bin/sh\necho 'Error (a.c:1): not on this kernel' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&criu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for command in ["checkpoint", "restore"] {
        let said = bundle.bad(1, ["--criu", criu.to_str().unwrap(), command, "c1"]);
        assert!(said.contains("does not work on this kernel") && said.contains("(a.c:1): not on"), "{said}");
    }
    assert!(!bundle.path("checkpoint").exists());
    assert_eq!(bundle.status("c1"), "running");
    bundle.good(["delete", "-f", "c1"]);
    assert!(bundle.bad(1, ["checkpoint", "c1"]).contains("does not exist"));
}

/// What engines see, in the order in which it is done, and what runc 1.3.6 exits with where that is something else.
#[test]
fn exit_codes_are_those_of_runc() {
    let bundle = Bundle::new("exec sleep 1000");
    let table: &[(&[&str], i32, Option<i32>)] = &[
        // runc prints its help.
        (&[], 1, Some(0)),
        (&["fly"], 1, Some(3)),
        (&["list", "--fly"], 1, None),
        (&["list", "--format", "xml"], 1, None),
        (&["state"], 1, None),
        (&["state", "c"], 1, None),
        (&["start", "c"], 1, None),
        (&["kill", "c"], 1, None),
        (&["pause", "c"], 1, None),
        (&["delete", "c"], 1, None),
        (&["delete", "--force", "c"], 0, None),
        (&["exec", "c", "true"], 255, None),
        (&["state", "../c"], 1, None),
        (&["create", "c"], 0, None),
        (&["create", "c"], 1, None),
        (&["run", "c"], 1, None),
        (&["exec", "c", "true"], 0, None),
        (&["ps", "c"], 0, None),
        (&["start", "c"], 0, None),
        (&["start", "c"], 1, None),
        (&["delete", "c"], 1, None),
        (&["exec", "c"], 255, None),
        (&["exec", "c", "sh", "-c", "exit 7"], 7, None),
        (&["exec", "c", "sh", "-c", "kill -9 $$"], 137, None),
        (&["exec", "c", "nothing"], 255, None),
        (&["exec", "--cwd", "/bin/true", "c", "true"], 255, None),
        (&["kill", "c", "BOGUS"], 1, None),
        (&["kill", "c", "0"], 0, None),
        (&["pause", "c"], 0, None),
        (&["pause", "c"], 1, None),
        (&["exec", "c", "true"], 255, None),
        (&["resume", "c"], 0, None),
        (&["resume", "c"], 1, None),
        // Nothing to change is a slip.
        (&["update", "c"], 1, Some(0)),
        (&["update", "--memory", "x", "c"], 1, None),
        (&["events", "--stats", "c"], 0, None),
        (&["list"], 0, None),
        (&["list", "-q"], 0, None),
        (&["kill", "c", "KILL"], 0, None),
        (&["kill", "c"], 1, None),
        (&["start", "c"], 1, None),
        (&["exec", "c", "true"], 255, None),
        (&["pause", "c"], 1, None),
        (&["ps", "c"], 0, None),
        (&["state", "c"], 0, None),
        (&["delete", "c"], 0, None),
        (&["run", "-b", "/nonexistent", "c"], 1, None),
        (&["spec"], 1, None),
        (&["features"], 0, None),
        (&["--help"], 0, None),
        (&["--version"], 0, None),
    ];
    for (args, code, _) in table {
        let output = bundle.oci(*args);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {output:?}");
        if *args == ["kill", "c", "KILL"] {
            bundle.await_status("c", "stopped");
        }
    }
    // An entry is for a difference.
    assert!(table.iter().all(|(_, ours, theirs)| *theirs != Some(*ours)));
}
