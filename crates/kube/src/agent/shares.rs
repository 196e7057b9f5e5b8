//! CPU shares of the classes of pods against each other and against guaranteed pods, as the kubelet sets them: what is
//! left over for best-effort pods, what they request for burstable ones. The CRI knows of pods only, so this is done here.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where the CPU controller may be below the mount of cgroups (v2, v1 alone, v1 with its usual companion), the file of
/// the shares there, and the least and the most that it takes.
const PLACES: [(&str, &str, u64, u64); 3] = [
    ("", "cpu.weight", 1, 10_000),
    ("cpu", "cpu.shares", 2, 262_144),
    ("cpu,cpuacct", "cpu.shares", 2, 262_144),
];

/// A cgroup that goes away while its file is open.
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// Sets the shares of the classes by the pods that are there now.
///
/// # Errors
/// What could not be written. That there is no such class, or controller, is none.
pub(super) fn balance(cgroups: &Path, cgroup_root: &str) -> Result<()> {
    for (controller, file, least, most) in PLACES {
        let root = cgroups.join(controller).join(cgroup_root.trim_start_matches('/'));
        set(&class(&root, "besteffort").join(file), least)?;
        let burstable = class(&root, "burstable");
        set(&burstable.join(file), sum(&burstable, file).clamp(least, most))?;
    }
    Ok(())
}

/// The group of a class, which is a slice where the root is one. systemd sets the shares of its slices back when it is reloaded;
/// they are set again with the next pod.
fn class(root: &Path, name: &str) -> PathBuf {
    let slice = root.file_name().and_then(|root| root.to_str()?.strip_suffix(".slice"));
    match slice {
        Some(outer) => {
            root.join(format!("{outer}-kubepods.slice")).join(format!("{outer}-kubepods-{name}.slice"))
        }
        None => root.join("kubepods").join(name),
    }
}

/// What the pods of a class have together.
fn sum(class: &Path, file: &str) -> u64 {
    let pods = class.read_dir().into_iter().flatten().flatten();
    let shares =
        pods.filter_map(|pod| std::fs::read_to_string(pod.path().join(file)).ok()?.trim().parse().ok());
    shares.fold(0, u64::saturating_add)
}

fn set(path: &Path, shares: u64) -> Result<()> {
    // Without O_CREAT: this is a file of the kernel, or there is none.
    let write = || {
        use std::io::Write as _;
        std::fs::OpenOptions::new().write(true).open(path)?.write_all(shares.to_string().as_bytes())
    };
    match write() {
        // A class that has no pod, or whose last pod went away meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV) => Ok(()),
        result => result.map_err(|error| Error::io("write", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_get_what_their_pods_request() {
        let dir = vaquita_testing::temp_dir();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("cpu/v/kubepods/burstable/cpu.shares", "");
        write("cpu/v/kubepods/burstable/pod1/cpu.shares", "102\n");
        write("cpu/v/kubepods/burstable/pod2/cpu.shares", "512\n");
        write("v/kubepods/besteffort/cpu.weight", "");
        balance(dir.path(), "/v").unwrap();
        let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read("cpu/v/kubepods/burstable/cpu.shares"), "614");
        assert_eq!(read("v/kubepods/besteffort/cpu.weight"), "1");
        assert!(!dir.path().join("v/kubepods/burstable").exists());
        let slices = "v.slice/v-kubepods.slice/v-kubepods-burstable.slice";
        write(&format!("{slices}/cpu.weight"), "");
        write(&format!("{slices}/v-kubepods-burstable-pod1.slice/cpu.weight"), "20\n");
        balance(dir.path(), "/v.slice").unwrap();
        assert_eq!(read(&format!("{slices}/cpu.weight")), "20");
    }
}
