//! `vaquita run` and `vaquita demo` while they run.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;
use super::node::{Node, signal, wait};

/// A process of the command line, and what it has written so far.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// How a [`Run`] ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: String,
}

impl Run {
    /// Starts `vaquita ARGS`.
    #[track_caller]
    pub(crate) fn start(node: &Node, args: &[&str]) -> Self {
        Self::spawn(node.vaquita(args))
    }

    /// Starts a command of the test's own.
    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let out = std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut pipe = child.stderr.take().unwrap();
        let kept = Arc::clone(&stderr);
        let err = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Self { child, lines, seen: Vec::new(), stderr, readers: vec![out, err] }
    }

    /// Waits for a line of standard output.
    #[track_caller]
    pub(crate) fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => {
                    let why = if error == RecvTimeoutError::Timeout { "no" } else { "it ended without" };
                    panic!("{why} {what}\n{}\n{}", self.seen.join("\n"), self.stderr.lock().unwrap());
                }
            }
        }
    }

    /// Waits for an event of `--output json` with this type that also meets a condition.
    #[track_caller]
    pub(crate) fn event(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let line = self.line(&format!("event {kind}"), |line| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            event["type"] == kind && wanted(&event)
        });
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for a text on standard error.
    #[track_caller]
    pub(crate) fn err(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stderr.lock().unwrap().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in:\n{}", self.stderr.lock().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// The address of the first pod that is ready as a sandbox.
    #[track_caller]
    pub(crate) fn address(&mut self) -> String {
        self.event("SandboxReady", |_| true)["ip"].as_str().unwrap().to_owned()
    }

    /// As Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        signal(self.child.id(), rustix::process::Signal::INT);
    }

    /// As a service manager does.
    pub(crate) fn terminate(&self) {
        signal(self.child.id(), rustix::process::Signal::TERM);
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Ended {
        let status = wait(&mut self.child, "vaquita to end");
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.seen.extend(self.lines.try_iter());
        let stderr = self.stderr.lock().unwrap().clone();
        Ended { status, stdout: std::mem::take(&mut self.seen), stderr }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
