//! Limits, their change, statistics.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};

use super::bundle::Bundle;

#[test]
fn limits_are_set_and_changed() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.change(|spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        spec["linux"]["resources"]["pids"] = json!({"limit": 100});
    });
    bundle.good(["run", "-d", "c1"]);
    let memory = || bundle.limit("memory", "memory.limit_in_bytes", "memory.max");
    let pids = || bundle.limit("pids", "pids.max", "pids.max");
    assert_eq!((memory().as_str(), pids().as_str()), ("67108864", "100"));
    bundle.good(["update", "c1", "--memory", "96m", "--pids-limit", "50"]);
    assert_eq!((memory().as_str(), pids().as_str()), ("100663296", "50"));
    // One that is not given stays, also in a file; from standard input too.
    std::fs::write(
        bundle.path("new.json"),
        json!({"memory": {"limit": 0}, "pids": {"limit": 60}}).to_string(),
    )
    .unwrap();
    bundle.good(["update", "-r", bundle.path("new.json").to_str().unwrap(), "c1"]);
    assert_eq!((memory().as_str(), pids().as_str()), ("100663296", "60"));
    let mut child =
        bundle.command(["update", "--resources", "-", "c1"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"cpu": {"quota": 50000, "period": 100000}}"#).unwrap();
    assert!(child.wait().unwrap().success());
    let quota = || {
        let quota = bundle.limit("cpu", "cpu.cfs_quota_us", "cpu.max");
        quota.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(quota(), "50000");
    // The period alone keeps the quota.
    bundle.good(["update", "c1", "--cpu-period", "200000"]);
    assert_eq!(quota(), "50000");
    for (args, part) in [
        (&["--memory", "12q"][..], "--memory"),
        (&[], "no limit to change"),
        (&["--blkio-weight", "70000"], "--blkio-weight"),
        (&["--cpuset-cpus", "4000"], "cpuset"),
        (&["-r", "/nonexistent"], "No such file"),
        (&["--mem-bw-schema", "L3:0=f"], "memBwSchema"),
        (&["--l3-cache-schema", "L3:0=f\nMB:0=1"], "l3CacheSchema"),
    ] {
        let all: Vec<&str> = ["update", "c1"].iter().chain(args).copied().collect();
        let said = bundle.bad(1, all);
        assert!(said.contains(part), "{said}");
    }
    assert_eq!((memory().as_str(), pids().as_str()), ("100663296", "60"));
    bundle.good(["delete", "-f", "c1"]);
}

/// The kernel, and not the command line, says whether caches and memory bandwidth can be divided here.
#[test]
fn schemas_need_resctrl() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["run", "-d", "c1"]);
    let has_resctrl = std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - resctrl ");
    for flag in [["--l3-cache-schema", "L3:99=f"], ["--mem-bw-schema", "MB:99=10"]] {
        let said = bundle.bad(1, ["update", flag[0], flag[1], "c1"]);
        let part = if has_resctrl { "schemata" } else { "linux.intelRdt: no resctrl filesystem is mounted" };
        assert!(said.contains(part), "{said}");
    }
    // Before any other limit is changed.
    let pids = || bundle.limit("pids", "pids.max", "pids.max");
    let before = pids();
    bundle.bad(1, ["update", "--pids-limit", "7", "--l3-cache-schema", "L3:99=f", "c1"]);
    assert_eq!(pids(), before);
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn statistics_are_printed_until_the_end() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["run", "-d", "c1"]);
    let event: Value = serde_json::from_str(&bundle.good(["events", "--stats", "c1"])).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!("c1")));
    assert_eq!(event["data"]["pids"]["current"], 1);
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().is_some());
    let mut command = bundle.command(["events", "--interval", "20ms", "c1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "stats");
    }
    bundle.good(["delete", "-f", "c1"]);
    assert!(lines.all(|line| line.is_ok()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_group_that_others_use_is_refused_and_left_alone() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["run", "-d", "c1"]);
    let said = bundle.bad(1, ["create", "c2"]);
    assert!(said.contains("processes already"), "{said}");
    assert_eq!(bundle.good(["list", "-q"]), "c1\n");
    assert_eq!(bundle.status("c1"), "running");
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn devices_can_be_given_and_taken_later() {
    // A number for local use, which no driver has: what may open it hears that.
    let bundle = Bundle::new("sleep 1000");
    bundle.change(|spec| {
        spec["linux"]["devices"] =
            json!([{"path": "/dev/odd", "type": "c", "major": 240, "minor": 0, "fileMode": 0o666, "uid": 0, "gid": 0}]);
        spec["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    });
    bundle.good(["run", "-d", "c"]);
    let open = || {
        let output = bundle.oci(["exec", "c", "sh", "-c", "exec 3< /dev/odd"]);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let (denied, allowed) = ("Operation not permitted", "No such device");
    let update = |rules: Value| {
        let file = bundle.path("resources.json");
        std::fs::write(&file, json!({"devices": rules}).to_string()).unwrap();
        bundle.good(["update", "-r", file.to_str().unwrap(), "c"]);
    };
    assert!(open().contains(denied), "{}", open());
    let none = json!({"allow": false, "access": "rwm"});
    update(json!([none, {"allow": true, "type": "c", "major": 240, "minor": 0, "access": "r"}]));
    assert!(open().contains(allowed), "{}", open());
    // As engines do that give back all that they know.
    update(json!([none, {"allow": true, "type": "c", "major": 240, "minor": 0, "access": "r"}]));
    assert!(open().contains(allowed), "{}", open());
    update(json!([none]));
    assert!(open().contains(denied), "{}", open());
    bundle.good(["exec", "c", "sh", "-c", "exec 3< /dev/null"]);
}
