//! Looks at the host before and after a test.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a resource may outlive the test: the kernel takes links of a dead network namespace down in batches.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the host has at the start of a test, compared with what it has at the end.
///
/// Tests run at the same time, so a guard looks only at resources that bear the test's own tag (see
/// [`unique`](crate::unique)) in their name, path or command line: mounts of the host's mount namespace, control
/// groups, links, entries of `/run/netns`, processes. [`Leaks::everything`] is for a test that has the host for itself.
///
/// Declare it before everything else in the test, so that it is dropped last.
#[derive(Debug)]
pub struct Leaks {
    tag: Option<String>,
    before: BTreeSet<String>,
}

impl Leaks {
    /// Watches resources whose name contains `tag`.
    #[must_use = "the guard compares when it is dropped"]
    pub fn of(tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), before: snapshot(Some(tag)) }
    }

    /// Watches all mounts, links, network namespaces and the control groups below `/vaquita`. Other tests disturb it.
    #[must_use = "the guard compares when it is dropped"]
    pub fn everything() -> Self {
        Self { tag: None, before: snapshot(None) }
    }

    /// What is there now and was not at the start, or the reverse; empty when nothing leaks.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let now = snapshot(self.tag.as_deref());
        let new = now.difference(&self.before).map(|line| format!("left behind: {line}"));
        let gone = self.before.difference(&now).map(|line| format!("gone: {line}"));
        new.chain(gone).collect()
    }

    /// Waits until nothing is left, at most 20 seconds: the kernel destroys some resources later than asked.
    ///
    /// # Panics
    /// When something still is.
    pub fn assert_none(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let differences = self.differences();
            if differences.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "the test changed the host:\n{}", differences.join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Leaks {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_none();
        }
    }
}

fn snapshot(tag: Option<&str>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    all.extend(mounts());
    all.extend(links());
    all.extend(entries("/run/netns", "netns"));
    match tag {
        Some(tag) => {
            control_groups(&mut all, |_| true);
            all.extend(processes(tag));
            all.retain(|line| line.contains(tag));
        }
        None => {
            control_groups(&mut all, |path| path.contains("/vaquita"));
            all.extend(network_namespaces());
        }
    }
    all
}

fn mounts() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| format!("mount {point}")).collect()
}

fn links() -> Vec<String> {
    entries("/sys/class/net", "link")
}

fn entries(dir: &str, what: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| format!("{what} {}", entry.file_name().to_string_lossy())).collect()
}

fn control_groups(all: &mut BTreeSet<String>, wanted: impl Fn(&str) -> bool) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        if right.starts_with("cgroup")
            && let Some(point) = left.split(' ').nth(4)
        {
            walk(Path::new(point), &mut |dir| {
                let line = format!("cgroup {}", dir.display());
                if wanted(&line) {
                    all.insert(line);
                }
            });
        }
    }
}

fn walk(dir: &Path, found: &mut impl FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found(&entry.path());
            walk(&entry.path(), found);
        }
    }
}

/// Processes whose command line names the tag. The test itself may have been given it as a filter: not counted.
fn processes(tag: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(tag).then(|| format!("process {pid} {line}"))
        })
        .collect()
}

fn network_namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    pids.filter_map(|pid| std::fs::read_link(pid.path().join("ns/net")).ok())
        .map(|link| format!("network namespace {}", link.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_left_behind_is_seen() {
        let tag = crate::unique("leaks");
        let leaks = Leaks::of(&tag);
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "echo up; read line", &tag])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The command line appears some time after the execve that spawn waits for.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
        let differences = leaks.differences();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(differences.iter().any(|line| line.contains(&tag)), "{differences:?}");
    }
}
