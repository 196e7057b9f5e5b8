//! Standard input, output and error of a container: what is at their other ends is the host's, and is told to CRIU by
//! names that are kept beside its files (`descriptors.json`, as other runtimes have it).

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use vaquita_sys::mount::MountInfo;
use vaquita_sys::procfs::Procfs;

use super::io;
use crate::Error;

/// The major numbers of terminals in devpts (devices.txt of the kernel).
const PTS: std::ops::RangeInclusive<u32> = 136..=143;
const FILE: &str = "descriptors.json";
/// What /proc/<pid>/fdinfo/<fd> has for files.
const LONGEST_INFO: usize = 4096;

/// The three streams of the process, by CRIU's names of them where they are not the container's own files.
pub(super) fn names(procfs: &Procfs, pid: i32, mounts: &[MountInfo]) -> Result<Vec<String>, Error> {
    (0..3).map(|fd| name(procfs, pid, fd, mounts)).collect()
}

fn name(procfs: &Procfs, pid: i32, fd: i32, mounts: &[MountInfo]) -> Result<String, Error> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let Ok(link) = std::fs::read_link(&path) else { return Ok(String::new()) };
    let link = link.to_string_lossy().into_owned();
    if !link.starts_with('/') {
        return Ok(link);
    }
    let info = procfs.read(format!("{pid}/fdinfo/{fd}"), LONGEST_INFO)?;
    let info = String::from_utf8_lossy(&info).into_owned();
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    match mount {
        Some(id) if mounts.iter().all(|mount| mount.id != id) => {
            let stat = std::fs::metadata(&path).map_err(|error| io(format!("stat({path:?})"), &error))?;
            Ok(format!("file[{id:x}:{:x}]", stat.ino()))
        }
        _ => Ok(link),
    }
}

/// The terminal of the process, whose other side is the host's: `tty[DEVICE:FILESYSTEM]`.
pub(super) fn terminals(pid: i32) -> Vec<String> {
    let mut all = BTreeSet::new();
    for fd in 0..3 {
        let Ok(stat) = std::fs::metadata(format!("/proc/{pid}/fd/{fd}")) else { continue };
        if stat.file_type().is_char_device() && PTS.contains(&rustix::fs::major(stat.rdev())) {
            all.insert(format!("tty[{:x}:{:x}]", stat.rdev(), stat.dev()));
        }
    }
    all.into_iter().flat_map(|name| ["--external".to_owned(), name]).collect()
}

/// What CRIU is told when it writes: pipes it finds by itself.
pub(super) fn on_dump(names: &[String]) -> Vec<String> {
    let files: BTreeSet<_> = names.iter().filter(|name| name.starts_with("file[")).collect();
    files.into_iter().flat_map(|name| ["--external".to_owned(), name.clone()]).collect()
}

/// Keeps the names for [`read`].
pub(super) fn write(images: &Path, names: &[String]) -> Result<(), Error> {
    let path = images.join(FILE);
    let text = serde_json::Value::from(names.to_vec()).to_string();
    std::fs::write(&path, text).map_err(|error| io(format!("write({path:?})"), &error))
}

/// The names; none for files of somebody else that has not kept any.
pub(super) fn read(images: &Path) -> Result<Vec<String>, Error> {
    let path = images.join(FILE);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| io(format!("read({path:?})"), &error))?,
    };
    serde_json::from_slice(&text)
        .map_err(|error| Error::invalid(format!("{path:?} is not a list of descriptors: {error}")))
}

/// Lets CRIU put the caller's own streams in the place of those that were the host's.
pub(super) fn on_restore(command: &mut Command, names: &[String]) {
    let mut known = BTreeSet::new();
    for (fd, name) in names.iter().take(3).enumerate() {
        if !is_hosts(name) {
            continue;
        }
        match fd {
            0 => command.stdin(Stdio::inherit()),
            1 => command.stdout(Stdio::inherit()),
            _ => command.stderr(Stdio::inherit()),
        };
        // One that both have is one.
        if known.insert(name) {
            command.arg("--inherit-fd").arg(format!("fd[{fd}]:{name}"));
        }
    }
}

fn is_hosts(name: &str) -> bool {
    ["pipe:[", "file["].iter().any(|kind| name.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_the_host_are_told_of() {
        let names = ["/dev/null", "pipe:[7]", "pipe:[7]"].map(str::to_owned);
        assert_eq!(on_dump(&names), Vec::<String>::new());
        let mut command = Command::new("criu");
        on_restore(&mut command, &names);
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["--inherit-fd", "fd[1]:pipe:[7]"]);
        let names = ["file[1a:2b]", "file[1a:2c]", "file[1a:2c]"].map(str::to_owned);
        assert_eq!(on_dump(&names).join(" "), "--external file[1a:2b] --external file[1a:2c]");
        let mut command = Command::new("criu");
        on_restore(&mut command, &names);
        assert_eq!(command.get_args().count(), 4);
    }
}
