//! Further processes in a container.

use serde_json::json;

use super::bundle::Bundle;
use crate::support::eventually;

fn running() -> Bundle {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.change(|spec| {
        spec["process"]["capabilities"]["inheritable"] = json!([]);
        spec["process"]["env"] = json!(["PATH=/bin", "A=1"]);
    });
    bundle.good(["run", "-d", "c1"]);
    bundle
}

#[test]
fn a_process_is_like_the_containers_own_but_for_what_is_changed() {
    let bundle = running();
    assert_eq!(bundle.good(["exec", "c1", "id", "-u"]), "0\n");
    assert_eq!(bundle.good(["exec", "-u", "1000", "c1", "sh", "-c", "id -u; id -g"]), "1000\n0\n");
    let shown =
        bundle.good(["exec", "--user", "1000:1001", "-g", "7", "--additional-gids", "8", "c1", "id", "-G"]);
    assert_eq!(shown, "1001 7 8\n");
    assert_eq!(bundle.good(["exec", "-e", "A=2", "--env", "B=3", "c1", "env"]), "PATH=/bin\nA=2\nB=3\n");
    assert_eq!(bundle.good(["exec", "--cwd", "/bin", "c1", "pwd"]), "/bin\n");
    let status = |args: &[&str], line: &str| {
        let all: Vec<&str> =
            ["exec"].iter().chain(args).chain(&["c1", "cat", "/proc/self/status"]).copied().collect();
        let shown = bundle.good(all);
        shown.lines().find_map(|shown| shown.strip_prefix(line)).unwrap().trim().to_owned()
    };
    assert_eq!(status(&[], "CapEff:"), "0000000020000420");
    assert_eq!(status(&["--cap", "CAP_NET_RAW", "-c", "chown"], "CapEff:"), "0000000020002421");
    assert_eq!(status(&["--cap", "CAP_NET_RAW"], "CapBnd:"), "0000000020002420");
    assert_eq!(status(&[], "NoNewPrivs:"), "1");
    assert_eq!(status(&["--no-new-privs=false"], "NoNewPrivs:"), "0");
    // Options after the id too, up to the program.
    assert_eq!(bundle.good(["exec", "c1", "-u", "5", "id", "-u"]), "5\n");
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn the_exit_code_is_that_of_the_process() {
    let bundle = running();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        assert_eq!(bundle.oci(["exec", "c1", "sh", "-c", script]).status.code(), Some(code), "{script}");
    }
    let said = bundle.bad(255, ["exec", "c1", "nothing"]);
    assert!(said.contains("\"nothing\"") && said.contains("No such file or directory"), "{said}");
    let said = bundle.bad(255, ["exec", "c1", "/proc/self/status"]);
    assert!(said.contains("Permission denied"), "{said}");
    assert!(bundle.bad(255, ["exec", "-u", "root", "c1", "id"]).contains("--user \"root\""));
    assert!(bundle.bad(255, ["exec", "-c", "CAP_NONE", "c1", "id"]).contains("no such capability"));
    assert!(bundle.bad(255, ["exec", "-d", "-t", "c1", "id"]).contains("--console-socket"));
    assert!(bundle.bad(255, ["exec", "--cgroup", "../other", "c1", "id"]).contains("--cgroup"));
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn a_process_from_a_file_detached() {
    let bundle = running();
    let process = json!({
        "args": ["sh", "-c", "echo $B; exec sleep 1000"],
        "cwd": "/", "env": ["PATH=/bin", "B=from a file"], "user": {"uid": 4, "gid": 5},
    });
    std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
    let (file, pid_file) = (bundle.path("process.json"), bundle.path("pid"));
    let shown = bundle.good([
        "exec",
        "--detach",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--process",
        file.to_str().unwrap(),
        "c1",
    ]);
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    eventually("the program", || {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        (comm == "sleep\n").then_some(())
    });
    assert!(shown.is_empty() || shown == "from a file\n");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t4\t4\t4\t4\n") && status.contains("Gid:\t5\t5\t5\t5\n"), "{status}");
    // The end of the first process is the end of all.
    bundle.good(["delete", "-f", "c1"]);
    eventually("its end", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        state.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_paused_container_takes_a_process_only_on_request() {
    let bundle = running();
    bundle.good(["pause", "c1"]);
    assert_eq!(bundle.status("c1"), "paused");
    assert!(bundle.bad(1, ["pause", "c1"]).contains("paused already"));
    assert!(bundle.bad(255, ["exec", "c1", "true"]).contains("--ignore-paused"));
    bundle.good(["resume", "c1"]);
    assert_eq!(bundle.status("c1"), "running");
    bundle.good(["exec", "c1", "true"]);
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn a_created_container_takes_a_process() {
    let bundle = Bundle::new("exit 0");
    bundle.good(["create", "c1"]);
    assert_eq!(bundle.good(["exec", "c1", "ls", "/bin/true"]), "/bin/true\n");
    assert_eq!(bundle.status("c1"), "created");
    bundle.good(["delete", "c1"]);
}
