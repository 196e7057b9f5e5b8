//! What the kernel tells by files: the host's own /proc and /sys, which no container can write.

#![expect(clippy::disallowed_methods, reason = "the host's own /proc and /sys")]

use std::io::Result;
use std::path::PathBuf;

/// The ids of all processes.
pub(crate) fn pids() -> Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// A file that a process has in /proc.
pub(crate) fn of_process(pid: i32, name: &str) -> Result<Vec<u8>> {
    std::fs::read(format!("/proc/{pid}/{name}"))
}

/// A file that a process has in /proc and that is text.
pub(crate) fn text_of_process(pid: i32, name: &str) -> Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{name}"))
}

/// What a file that this process has in /proc says; nothing where it cannot be read.
pub(crate) fn own(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default()
}

/// What a file of /proc or /sys says; nothing where there is none.
pub(crate) fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The names in a directory of /proc or /sys; none where there is none.
pub(crate) fn names(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// How many descriptors this process has open; 0 where that cannot be read.
pub(crate) fn own_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// What the descriptors of a process are, as the kernel names it. What is closed meanwhile has an empty name.
pub(crate) fn descriptors(pid: i32) -> Result<impl Iterator<Item = PathBuf>> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(links.flatten().map(|link| std::fs::read_link(link.path()).unwrap_or_default()))
}

/// The name of the network namespace that a process is in.
pub(crate) fn network_namespace(pid: i32) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net"))
}

/// The name that a block device has in sysfs.
pub(crate) fn block_device(major: u32, minor: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Whether AppArmor is enabled.
pub(crate) fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// Whether the policy of SELinux has levels: our own label does.
pub(crate) fn has_levels() -> bool {
    own("attr/current").split(':').count() > 3
}
