//! Standard streams, signals, further descriptors.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::bundle::Bundle;

#[test]
fn streams_and_the_exit_code_pass_through() {
    let bundle = Bundle::new("cat; echo error >&2; exit 7");
    let mut command = bundle.command(["run", "c1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"through");
    assert_eq!(output.stderr, b"error\n");
    assert!(bundle.bad(1, ["state", "c1"]).contains("does not exist"));
}

#[test]
fn a_container_that_was_killed_exits_with_128_and_the_signal() {
    let bundle = Bundle::new("kill -9 -1; exec sleep 1000");
    bundle.change(|spec| {
        let kinds = spec["linux"]["namespaces"].as_array_mut().unwrap();
        kinds.retain(|kind| kind["type"] != "pid");
        spec["process"]["args"] = serde_json::json!(["sh", "-c", "kill -9 $$"]);
    });
    assert_eq!(bundle.oci(["run", "c1"]).status.code(), Some(137));
}

#[test]
fn signals_are_passed_on() {
    let bundle =
        Bundle::new("trap 'exit 9' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done");
    let mut command = bundle.command(["run", "c1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = |expected: &str| {
        let mut bytes = vec![0; expected.len()];
        stdout.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    };
    line("ready\n");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::USR1).unwrap();
    line("usr1\n");
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn kill_takes_names_and_numbers() {
    let bundle = Bundle::new(
        "trap 'exit 9' TERM; trap 'echo hup >> /said' HUP; echo ready >> /said; while :; do sleep 0.05; done",
    );
    bundle.good(["run", "-d", "c1"]);
    let said = || std::fs::read_to_string(bundle.path("rootfs/said")).unwrap_or_default();
    let wait =
        |what: &str| crate::support::eventually(what, || (said().lines().last() == Some(what)).then_some(()));
    wait("ready");
    for (before, name) in (1..).zip(["HUP", "SIGHUP", "hup", "1"]) {
        bundle.good(["kill", "c1", name]);
        crate::support::eventually(name, || (said().lines().count() == before + 1).then_some(()));
    }
    bundle.good(["kill", "c1", "0"]);
    for name in ["NONE", "65", "-1", ""] {
        assert!(bundle.bad(1, ["kill", "c1", "--", name]).contains("unknown signal"), "{name}");
    }
    bundle.good(["kill", "--all", "c1", "KILL"]);
    bundle.await_status("c1", "stopped");
    bundle.good(["delete", "c1"]);
}

#[test]
fn further_descriptors_are_passed_and_no_others() {
    let bundle = Bundle::new("cat <&3; cat <&4; ls /proc/self/fd; echo \"$LISTEN_FDS $LISTEN_PID\"");
    let file = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file
    };
    let (three, four) = (file("three\n"), file("four\n"));
    let run = |args: &[&str], environment: &[(&str, &str)]| {
        // A shell opens the numbers.
        let script = "exec \"$@\" 3</proc/self/fd/0 4<&1 >/dev/stderr";
        let mut command = std::process::Command::new("bash");
        command
            .arg("-c")
            .arg(script)
            .arg("bash")
            .arg(bundle.path("vaquita-oci"))
            .arg("--root")
            .arg(bundle.root());
        command.args(args).current_dir(bundle.dir.path()).envs(environment.iter().copied());
        command.stdin(three.as_fd().try_clone_to_owned().unwrap());
        command.stdout(four.as_fd().try_clone_to_owned().unwrap()).stderr(Stdio::piped());
        std::io::Seek::rewind(&mut three.try_clone().unwrap()).unwrap();
        std::io::Seek::rewind(&mut four.try_clone().unwrap()).unwrap();
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vaquita"), bundle.path("vaquita-oci")).unwrap();
    let shown = run(&["run", "--preserve-fds", "2", "c1"], &[]);
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["three", "four", "0", "1", "2", "3", "4", "5"]);
    let shown = run(&["run", "--preserve-fds", "1", "c1"], &[("LISTEN_FDS", "1")]);
    assert!(shown.ends_with("1 1\n"), "{shown}");
    let said = bundle.bad(1, ["run", "--preserve-fds", "500", "c1"]);
    assert!(said.contains("--preserve-fds 500"), "{said}");
}
