//! The pause program as a process of its own, and as process 1 of a PID namespace, which util-linux (`unshare`,
//! `nsenter`) makes and enters.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vaquita_testing::{Defer, Leaks, require_root, temp_dir, unique};

/// With `--kill-child` pause dies with the wrapper.
const AS_PID_1: &[&str] = &["unshare", "--pid", "--fork", "--kill-child"];

/// A pause that runs, by itself or with the `unshare` that waits for it.
struct Pause {
    child: Child,
    pid: i32,
}

impl Pause {
    fn start(dir: &Path, tag: &str, wrapper: &[&str]) -> Self {
        let program = dir.join(tag);
        std::fs::write(&program, vaquita_pause::PROGRAM).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut words = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]);
        let child = Command::new(words.next().unwrap()).args(words).spawn().unwrap();
        let own = i32::try_from(child.id()).unwrap();
        let mut pause = Self { child, pid: own };
        // It has its own name once it is executed, and sleeps only where it waits for its signals.
        until(|| {
            if !wrapper.is_empty() {
                pause.pid = children(own).first().copied().unwrap_or_default();
            }
            std::fs::read_to_string(format!("/proc/{}/status", pause.pid)).is_ok_and(|status| {
                status.contains(&format!("Name:\t{tag}\n")) && status.contains("State:\tS")
            })
        });
        pause
    }

    fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    fn end_by(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_ends_well_when_asked() {
    require_root();
    let tag = unique("pause");
    let _leaks = Leaks::of(&tag);
    let dir = temp_dir();
    for wrapper in [&[], AS_PID_1] {
        for signal in ["TERM", "INT"] {
            let mut pause = Pause::start(dir.path(), &tag, wrapper);
            // Says that a child may have ended, and is nothing to end for.
            pause.signal("CHLD");
            assert_eq!(pause.end_by(signal), Some(0), "SIG{signal}");
        }
    }
}

/// A pod's profile is for its first process, too.
#[test]
fn it_has_given_up_all_other_calls() {
    require_root();
    let tag = unique("pause");
    let _leaks = Leaks::of(&tag);
    let dir = temp_dir();
    let mut pause = Pause::start(dir.path(), &tag, &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pause.pid)).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    // Being stopped interrupts its wait, which it begins anew.
    pause.signal("STOP");
    pause.signal("CONT");
    assert_eq!(pause.end_by("TERM"), Some(0));
}

#[test]
fn it_reaps_orphans() {
    require_root();
    let tag = unique("pause");
    let _leaks = Leaks::of(&tag);
    let dir = temp_dir();
    let mut pause = Pause::start(dir.path(), &tag, AS_PID_1);
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
    assert!(vaquita_pause::PROGRAM.starts_with(b"\x7fELF"));
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
