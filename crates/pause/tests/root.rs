//! The pause program as process 1 of a PID namespace. util-linux (`unshare`, `nsenter`) makes and enters it.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vaquita_testing::{Defer, Leaks, require_root, temp_dir, unique};

/// A pause that runs, with the `unshare` that waits for it.
struct Pause {
    unshare: Child,
    pid: i32,
}

impl Pause {
    fn start(dir: &Path, tag: &str) -> Self {
        let program = dir.join(tag);
        std::fs::write(&program, vaquita_pause::PROGRAM).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let unshare =
            Command::new("unshare").args(["--pid", "--fork", "--kill-child"]).arg(&program).spawn().unwrap();
        let own = i32::try_from(unshare.id()).unwrap();
        let mut pause = Self { unshare, pid: 0 };
        // It has its own name once it is executed, and sleeps only where it waits for its signals.
        until(|| {
            pause.pid = children(own).first().copied().unwrap_or_default();
            std::fs::read_to_string(format!("/proc/{}/status", pause.pid)).is_ok_and(|status| {
                status.contains(&format!("Name:\t{tag}\n")) && status.contains("State:\tS")
            })
        });
        pause
    }

    fn end_by(&mut self, signal: &str) -> Option<i32> {
        let pid = self.pid.to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        self.unshare.wait().unwrap().code()
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        // --kill-child: pause dies with it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

#[test]
fn it_ends_well_when_asked() {
    require_root();
    let tag = unique("pause");
    let _leaks = Leaks::of(&tag);
    let dir = temp_dir();
    for signal in ["TERM", "INT"] {
        assert_eq!(Pause::start(dir.path(), &tag).end_by(signal), Some(0), "SIG{signal}");
    }
}

#[test]
fn it_reaps_orphans() {
    require_root();
    let tag = unique("pause");
    let _leaks = Leaks::of(&tag);
    let dir = temp_dir();
    let mut pause = Pause::start(dir.path(), &tag);
    // The shell leaves three children behind, which wait for the end of their input.
    let script = "for i in 1 2 3; do cat <&3 & echo; done; exit 0";
    let (hold, input) = std::io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
    let mut shell = Command::new("nsenter");
    shell.args(["-p", "-t", &pause.pid.to_string(), "sh", "-c", &format!("exec 3<&0; {script}")]);
    let mut shell = shell.stdin(input).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = shell.stdout.take().unwrap();
    output.read_exact(&mut [0; 3]).unwrap();
    assert!(shell.wait().unwrap().success());
    let hold = Defer::new(move || drop(hold));
    until(|| children(pause.pid).len() == 3);
    drop(hold);
    until(|| children(pause.pid).is_empty());
    assert_eq!(pause.end_by("TERM"), Some(0));
}

#[test]
fn it_is_small() {
    assert!(vaquita_pause::PROGRAM.len() < 2048, "{} bytes", vaquita_pause::PROGRAM.len());
}

fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen in 30 seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}
