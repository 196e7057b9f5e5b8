//! What `create` costs the kernel: system calls, processes and threads, as strace(1) sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use super::measure::{delete_by_force, wait_until_created};
use super::peer::Peer;
use crate::AnyError;

/// The counts of one `create`, from the first `execve` until the container waits to be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) calls: usize,
    pub(crate) processes: usize,
    pub(crate) threads: usize,
}

/// Counts; none where there is no strace.
pub(crate) fn count(peer: &Peer, bundle: &Path, scratch: &Path) -> Result<Option<Counts>, AnyError> {
    let log = scratch.join(format!("{}.strace", peer.name));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&log);
    let args = ["create".as_ref(), "--bundle".as_ref(), bundle.as_os_str(), "traced".as_ref()];
    let mut child = match peer.command_under(strace, &args).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // strace follows the container too: it ends when that does.
    let created = wait_until_created(peer, "traced");
    delete_by_force(peer, "traced")?;
    child.wait()?;
    created?;
    Ok(Some(parse(&std::fs::read_to_string(&log)?)))
}

/// Reads lines `PID NAME(ARGUMENTS) = RESULT`; a call may be torn into `<unfinished ...>` and `<... NAME resumed>`.
fn parse(log: &str) -> Counts {
    let mut counts = Counts::default();
    let mut seen = BTreeSet::new();
    let mut pending: BTreeMap<&str, bool> = BTreeMap::new();
    for line in log.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        seen.insert(pid);
        let is_thread = rest.contains("CLONE_THREAD");
        if rest.starts_with("<... ") {
            let was_thread = pending.remove(pid).unwrap_or(false);
            counts.threads += usize::from((was_thread || is_thread) && has_made_one(rest));
            continue;
        }
        counts.calls += 1;
        if rest.ends_with("<unfinished ...>") {
            pending.insert(pid, is_thread);
        } else if is_thread && has_made_one(rest) {
            counts.threads += 1;
        }
    }
    counts.processes = seen.len().saturating_sub(counts.threads);
    counts
}

fn has_made_one(line: &str) -> bool {
    let result = line.rsplit_once("= ").map(|(_, result)| result.trim());
    result.and_then(|result| result.split(' ').next()?.parse::<i64>().ok()).is_some_and(|result| result > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_calls_count_once_and_threads_are_no_processes() {
        let log = "\
10 execve(\"/bin/x\", [\"x\"], 0x7ff /* 3 vars */) = 0
10 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD <unfinished ...>
11 gettid( <unfinished ...>
10 <... clone resumed>, parent_tid=[11]) = 11
11 <... gettid resumed>) = 11
10 clone3({flags=CLONE_NEWPID, exit_signal=SIGCHLD}, 88) = 12
12 read(3, \"\", 1) = 0
";
        assert_eq!(parse(log), Counts { calls: 5, processes: 2, threads: 1 });
    }
}
