//! The program as a process of its own, and as PID 1.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

/// The program in a file, and a process that runs it; both are gone when this is dropped.
struct Pause {
    child: Child,
    dir: tempfile::TempDir,
}

impl Pause {
    fn start(wrapper: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("pause");
        fs::write(&program, vaquita_pause::PROGRAM).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let program = program.to_str().unwrap();
        let mut words = wrapper.iter().copied().chain([program]);
        let child = Command::new(words.next().unwrap()).args(words).spawn().unwrap();
        Self { child, dir }
    }

    /// The process that runs the program: the child, or the first child of the wrapper.
    fn pid(&self) -> u32 {
        let own = self.child.id();
        loop {
            let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
            let pid = children.split_whitespace().next().map_or(own, |child| child.parse().unwrap());
            let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            if executable.starts_with(self.dir.path()) && waits(pid) {
                return pid;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program sleeps in one place only.
fn waits(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().any(|line| line.starts_with("State:\tS"))
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn it_is_small() {
    assert!(vaquita_pause::PROGRAM.starts_with(b"\x7fELF"));
    assert!(vaquita_pause::PROGRAM.len() < 2048, "{} bytes", vaquita_pause::PROGRAM.len());
}

#[test]
fn term_and_int_end_it_cleanly_and_nothing_else_does() {
    for name in ["TERM", "INT"] {
        let mut pause = Pause::start(&[]);
        signal(pause.pid(), "CHLD");
        signal(pause.pid(), name);
        let status = pause.child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{name}");
    }
}

#[test]
fn as_pid_1_it_reaps_orphans_and_obeys_term() {
    vaquita_testing::require_root();
    let mut pause = Pause::start(&["unshare", "--fork", "--pid", "--kill-child"]);
    let pid = pause.pid();
    // The shell leaves an orphan in the namespace, which then waits for its standard input to end.
    let mut shell = Command::new("nsenter")
        .args(["--pid", "--target", &pid.to_string(), "sh", "-c", "sh -c 'read line' <&0 & exit 0"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let input = shell.stdin.take();
    shell.wait().unwrap();
    drop(input);
    while !children(pid).is_empty() {
        std::thread::yield_now();
    }
    signal(pid, "TERM");
    assert_eq!(pause.child.wait().unwrap().code(), Some(0));
}

fn children(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}
