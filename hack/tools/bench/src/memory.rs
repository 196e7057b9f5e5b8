//! Resident and proportional memory, and CPU time, of a daemon and of its helpers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Memory of a set of processes, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) processes: usize,
    pub(crate) rss: u64,
    pub(crate) pss: u64,
}

/// One process, from `/proc/PID/smaps_rollup` (proc_pid_smaps(5)).
pub(crate) fn of(pid: u32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Memory { processes: 1, rss: field("Rss:"), pss: field("Pss:") }
}

/// Everything a daemon started that stays beside the workload: shims, monitors, pause processes.
pub(crate) fn helpers(daemon: u32, dirs: &[PathBuf], workload: &str) -> Memory {
    let mut total = Memory::default();
    for pid in family(daemon, dirs).into_iter().filter(|&pid| !runs(pid, workload)) {
        let one = of(pid);
        total.processes += 1;
        total.rss += one.rss;
        total.pss += one.pss;
    }
    total
}

fn runs(pid: u32, program: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
}

/// Proportional memory of a process and of what descends from it, in KiB.
pub(crate) fn with_children(root: u32) -> u64 {
    let parents: HashMap<u32, u32> = processes().collect();
    let is_ours = |mut pid: u32| loop {
        match parents.get(&pid) {
            _ if pid == root => return true,
            Some(&parent) => pid = parent,
            None => return false,
        }
    };
    parents.keys().filter(|&&pid| is_ours(pid)).map(|&pid| of(pid).pss).sum()
}

/// All processes with their parents.
fn processes() -> impl Iterator<Item = (u32, u32)> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
}

/// CPU time of a process with that of its children that have ended (proc_pid_stat(5), utime to cstime).
pub(crate) fn cpu_with_ended(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
    // USER_HZ is 100 wherever this program runs (time(7)).
    Duration::from_millis(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// CPU time that a daemon and what it started beside the workload have spent so far, themselves (proc_pid_stat(5), utime and stime).
pub(crate) fn cpu(daemon: u32, dirs: &[PathBuf], workload: &str) -> Duration {
    let helpers = family(daemon, dirs).into_iter().filter(|&pid| !runs(pid, workload));
    let ticks = helpers.chain([daemon]).filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
        let mut next = || fields.next()?.parse::<u64>().ok();
        Some(next()? + next()?)
    });
    // USER_HZ is 100 wherever this program runs (time(7)).
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// The processes that name one of the daemon's directories in their command line, the one that vaquita's shims are copies of, and
/// what descends from them, without the daemon.
pub(crate) fn family(daemon: u32, dirs: &[PathBuf]) -> Vec<u32> {
    let mut parents = HashMap::new();
    let mut roots = Vec::new();
    for (pid, parent) in processes() {
        parents.insert(pid, parent);
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let is_named = dirs.iter().any(|dir| command.contains(&dir.display().to_string()));
        let is_template = parent == daemon && command.starts_with("vaquita-shim\0template");
        if pid != daemon && pid != std::process::id() && (is_named || is_template) {
            roots.push(pid);
        }
    }
    let descends = |mut pid: u32| loop {
        if roots.contains(&pid) {
            return true;
        }
        match parents.get(&pid) {
            Some(&parent) => pid = parent,
            None => return false,
        }
    };
    parents.keys().copied().filter(|&pid| descends(pid)).collect()
}

/// CPU time the whole machine has spent (user, nice, system, irq, softirq), in ms (proc_stat(5)).
pub(crate) fn machine_cpu_ms() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    let ticks: u64 = [0, 1, 2, 5, 6].iter().filter_map(|&index: &usize| fields.get(index)).sum();
    // USER_HZ is 100 wherever this program runs (time(7)).
    ticks * 10
}
