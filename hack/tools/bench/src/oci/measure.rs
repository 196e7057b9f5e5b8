//! The measurements, each taken from every runtime in turn within a round.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use super::bundle::Bundle;
use super::calls;
use super::peer::Peer;
use crate::AnyError;
use crate::report::{Better, Report, count, percentile};

/// How long a container may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Limits that are tried for the least memory: from, to and in steps of so many bytes.
const LEAST: (u64, u64, u64) = (128 << 10, 64 << 20, 64 << 10);

/// Fills the report.
pub(crate) fn all(
    peers: &[Peer],
    bundle: &Bundle,
    rounds: usize,
    report: &mut Report,
) -> Result<(), AnyError> {
    let mut times = vec![Times::default(); peers.len()];
    for round in 0..rounds + 1 {
        for (peer, times) in peers.iter().zip(&mut times) {
            let one = Round::measure(peer, bundle, round)?;
            // The first one fills the caches.
            if round > 0 {
                times.push(&one);
            }
        }
    }
    for (peer, times) in peers.iter().zip(&mut times) {
        for (what, values) in times.rows() {
            values.sort();
            // On a busy machine the least is what the command itself takes.
            for (percent, label) in [(0, "least"), (50, "p50"), (95, "p95")] {
                let name = format!("{what}, {label}");
                report.row(&name, "ms", Better::Lower, &peer.name, percentile(values, percent));
            }
        }
    }
    for peer in peers {
        let dir = bundle.write(&format!("traced-{}", peer.name), &["sleep", "1000"], None)?;
        if let Some(counts) = calls::count(peer, &dir, &dir)? {
            for (name, value) in [
                ("system calls of create", counts.calls),
                ("processes of create", counts.processes),
                ("threads of create", counts.threads),
            ] {
                report.row(name, "", Better::Lower, &peer.name, count(value));
            }
        }
    }
    for peer in peers {
        #[allow(clippy::cast_precision_loss, reason = "a few MiB")]
        let limit = least_memory(peer, bundle)? as f64 / f64::from(1 << 20);
        report.row("least memory limit, run true", "MiB", Better::Lower, &peer.name, limit);
    }
    Ok(())
}

/// The times of each command over the rounds.
#[derive(Clone, Debug, Default)]
struct Times([Vec<Duration>; Round::NAMES.len()]);

impl Times {
    fn push(&mut self, round: &Round) {
        for (values, value) in self.0.iter_mut().zip(round.0) {
            values.push(value);
        }
    }

    fn rows(&mut self) -> impl Iterator<Item = (&'static str, &mut Vec<Duration>)> {
        Round::NAMES.into_iter().zip(&mut self.0)
    }
}

/// One life of a container, and one `run`.
#[derive(Debug)]
struct Round([Duration; Self::NAMES.len()]);

impl Round {
    const NAMES: [&'static str; 7] = ["run true", "create", "state", "start", "exec true", "kill", "delete"];

    fn measure(peer: &Peer, bundle: &Bundle, round: usize) -> Result<Self, AnyError> {
        let once = bundle.write(&format!("run-{}", peer.name), &["true"], None)?;
        let id = format!("run{round}");
        let run = peer.timed(&["run".as_ref(), "--bundle".as_ref(), once.as_os_str(), id.as_ref()])?;

        let long = bundle.write(&format!("long-{}", peer.name), &["sleep", "1000"], None)?;
        let pid_file = long.join("pid");
        let id = format!("long{round}");
        let id = id.as_ref();
        let create = peer.timed(&[
            "create".as_ref(),
            "--bundle".as_ref(),
            long.as_os_str(),
            "--pid-file".as_ref(),
            pid_file.as_os_str(),
            id,
        ])?;
        let pid = read_pid(&pid_file)?;
        let state = peer.timed(&["state".as_ref(), id])?;
        let start = peer.timed(&["start".as_ref(), id])?;
        let exec = peer.timed(&["exec".as_ref(), id, "true".as_ref()])?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let kill = peer.timed(&["kill".as_ref(), id, "KILL".as_ref()])?;
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None)?;
        // This process is the reaper of what the runtimes orphan.
        waitpid(Some(pid), WaitOptions::empty())?;
        let delete = peer.timed(&["delete".as_ref(), id])?;
        Ok(Self([run, create, state, start, exec, kill, delete]))
    }
}

fn read_pid(file: &Path) -> Result<Pid, AnyError> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Pid::from_raw(text.trim().parse()?).ok_or_else(|| format!("{}: no process", file.display()).into())
}

/// Waits until the runtime says that a container can be started.
pub(crate) fn wait_until_created(peer: &Peer, id: &str) -> Result<(), AnyError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output =
            peer.command(&["state".as_ref(), id.as_ref()]).stdout(std::process::Stdio::piped()).output()?;
        let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if state["status"] == "created" {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{}: {id} is not created within {PATIENCE:?}", peer.name).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes a container in whatever state.
pub(crate) fn delete_by_force(peer: &Peer, id: &str) -> Result<(), AnyError> {
    peer.command(&["delete".as_ref(), "--force".as_ref(), id.as_ref()]).status()?;
    Ok(())
}

/// The least limit at which a container that runs a static `true` succeeds three times, in bytes.
fn least_memory(peer: &Peer, bundle: &Bundle) -> Result<u64, AnyError> {
    let (from, to, step) = LEAST;
    let (mut fails, mut works) = (from / step, to / step);
    while works - fails > 1 {
        let middle = fails.midpoint(works);
        if starts_with(peer, bundle, middle * step)? {
            works = middle;
        } else {
            fails = middle;
        }
    }
    Ok(works * step)
}

fn starts_with(peer: &Peer, bundle: &Bundle, limit: u64) -> Result<bool, AnyError> {
    for attempt in 0..3 {
        let dir = bundle.write(&format!("least-{}", peer.name), &["true"], Some(limit))?;
        let id = format!("least{limit}x{attempt}");
        let mut wrapper = Command::new("timeout");
        wrapper.args(["--kill-after=1", "10"]);
        let args = ["run".as_ref(), "--bundle".as_ref(), dir.as_os_str(), id.as_ref()];
        let is_success = peer.command_under(wrapper, &args).status()?.success();
        delete_by_force(peer, &id)?;
        if !is_success {
            return Ok(false);
        }
    }
    Ok(true)
}
