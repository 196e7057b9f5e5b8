//! Engines of others run their containers through `vaquita-oci`.
//!
//! Each test has an engine of its own, with all its directories and control groups bearing the test's tag. Whatever the
//! engine started is ended by process id and removed when the test fails too.

mod bundle;
mod containerd;
mod podman;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vaquita_testing::{Leaks, TempDir, require_root, unique};

use crate::support::{BUSYBOX, eventually, write_busybox};

/// What both engines need: a tag, a directory, the runtime by its name, and an image.
///
/// Declared first in an engine's struct it is dropped last but for the leak guard in it.
#[derive(Debug)]
struct Place {
    tag: String,
    dir: TempDir,
    _leaks: Leaks,
}

impl Place {
    fn new() -> Self {
        require_root();
        let tag = unique("vqeng");
        let leaks = Leaks::of(&tag);
        let dir = tempfile::Builder::new().prefix(&tag).tempdir().unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vaquita"), dir.path().join("vaquita-oci")).unwrap();
        write_busybox(&dir.path().join("busybox.tar"));
        Self { tag, dir, _leaks: leaks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn runtime(&self) -> PathBuf {
        self.path("vaquita-oci")
    }

    fn image(&self) -> PathBuf {
        self.path("busybox.tar")
    }

    /// The control group below which all containers are made.
    fn group(&self) -> String {
        format!("/{}", self.tag)
    }

    /// Ends whatever bears the tag in its command line or its control group, and removes mounts and control groups.
    fn sweep(&self) {
        let is_ours = |dir: &Path| {
            let read = |name: &str| std::fs::read(dir.join(name)).unwrap_or_default();
            let text = [read("cmdline"), read("cgroup")].concat();
            String::from_utf8_lossy(&text).contains(&self.tag)
        };
        let ours = || {
            let entries = std::fs::read_dir("/proc").unwrap().flatten();
            let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            let others = pids.filter(|pid| *pid != std::process::id());
            others.filter(|pid| is_ours(&PathBuf::from(format!("/proc/{pid}")))).collect::<Vec<_>>()
        };
        eventually("everything of the test to end", || {
            let left = ours();
            for pid in &left {
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
            left.is_empty().then_some(())
        });
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for point in
            table.lines().filter_map(|line| line.split(' ').nth(1)).filter(|it| it.contains(&self.tag))
        {
            let _ = Command::new("umount").args(["--lazy", point]).status();
        }
        self.remove_groups();
    }

    /// Removes the control groups of the tag: engines leave the parent that they were given.
    fn remove_groups(&self) {
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for line in table.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            if fields[2].starts_with("cgroup") {
                let group = Path::new(fields[1]).join(&self.tag);
                let _ = Command::new("find")
                    .arg(group)
                    .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                    .stderr(Stdio::null())
                    .status();
            }
        }
    }
}

/// What a program of the engine did.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// What it wrote to standard output, when it succeeded.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

/// Runs a program that wants a terminal, in one. Tests look at the exit code: clients of engines may leave before all of a
/// terminal's output is shown.
fn in_terminal(command: &Command) -> Said {
    let quote = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"));
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap());
    }
    Said::new(&script.stdin(Stdio::null()).output().expect("script: install the package bsdutils"))
}
