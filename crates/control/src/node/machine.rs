//! What this machine is and has.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

/// What does not change while the machine runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes of each huge page, and how many are set aside.
    pub(crate) huge_pages: Vec<(u64, u64)>,
    /// Bytes of the filesystem where pods keep files.
    pub(crate) disk: u64,
    /// Bytes of swap.
    pub(crate) swap: u64,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    /// As Go calls it: `amd64`.
    pub(crate) arch: &'static str,
    pub(crate) address: Option<IpAddr>,
}

impl Machine {
    /// Looks at the machine. `root` is where pods keep files. What cannot be read is empty.
    pub(crate) fn look(root: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let meminfo = read("/proc/meminfo");
        let first = |paths: &[&str]| {
            let mut texts = paths.iter().map(|path| read(path).trim().to_owned());
            texts.find(|text| !text.is_empty()).unwrap_or_default()
        };
        Self {
            cpus: cpus(&read("/proc/cpuinfo")),
            memory: kib(&meminfo, "MemTotal:") * 1024,
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            disk: Room::of(root).map_or(0, |room| room.capacity),
            swap: kib(&meminfo, "SwapTotal:") * 1024,
            machine_id: first(&["/etc/machine-id", "/var/lib/dbus/machine-id"]),
            system_uuid: first(&["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]).to_lowercase(),
            boot_id: first(&["/proc/sys/kernel/random/boot_id"]),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: os_image(&read("/etc/os-release")),
            arch: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            address: route_source(),
        }
    }
}

/// What is left of a filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes in all.
    pub(crate) capacity: u64,
    /// Bytes that can be written.
    pub(crate) available: u64,
    /// Files in all; 0 where the filesystem does not count them.
    pub(crate) inodes: u64,
    /// Files that can be made.
    pub(crate) inodes_free: u64,
}

impl Room {
    /// What is left where `path` is, or the nearest directory above that is there.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let stat = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
        Some(Self {
            capacity: stat.f_blocks * stat.f_frsize,
            available: stat.f_bavail * stat.f_frsize,
            inodes: stat.f_files,
            inodes_free: stat.f_favail,
        })
    }

    /// Whether less than this many percent of the bytes (or less than is kept of any disk), or 5 % of the files, are left.
    pub(crate) fn short(&self, percent: u8) -> bool {
        let files = self.inodes > 0 && self.inodes_free < self.inodes / 20;
        self.available < kept(self.capacity, percent) || files
    }
}

/// What is kept of a disk of so many bytes: so many percent, but 2 GiB at most.
pub(crate) fn kept(capacity: u64, percent: u8) -> u64 {
    const MOST: u64 = 2 << 30;
    (capacity / 100 * u64::from(percent)).min(MOST)
}

/// What changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Bytes of memory that can be had without swapping.
    pub(crate) memory_available: u64,
    /// Processes and threads that there are, and that there can be.
    pub(crate) processes: u64,
    pub(crate) most_processes: u64,
    /// Where pods keep files.
    pub(crate) disk: Room,
    /// Where images are.
    pub(crate) images: Room,
}

impl Load {
    /// Looks at the machine.
    pub(crate) fn look(root: &Path, images: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let number = |path: &str| read(path).trim().parse().unwrap_or(0);
        Self {
            memory_available: kib(&read("/proc/meminfo"), "MemAvailable:") * 1024,
            processes: running(&read("/proc/loadavg")),
            most_processes: u64::min(
                number("/proc/sys/kernel/pid_max"),
                number("/proc/sys/kernel/threads-max"),
            ),
            disk: Room::of(root).unwrap_or_default(),
            images: Room::of(images).unwrap_or_default(),
        }
    }
}

fn cpus(cpuinfo: &str) -> u64 {
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let count = if count > 0 { count } else { std::thread::available_parallelism().map_or(1, usize::from) };
    u64::try_from(count).unwrap_or(1)
}

fn kib(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}

/// Threads that there are, from `0.1 0.2 0.3 1/234 567`.
fn running(loadavg: &str) -> u64 {
    let field = loadavg.split_whitespace().nth(3).and_then(|field| field.split_once('/'));
    field.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

fn huge_pages(dir: &Path) -> Vec<(u64, u64)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<(u64, u64)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            Some((kib * 1024, count.trim().parse().ok()?))
        })
        .collect();
    found.sort_unstable();
    found
}

fn os_image(release: &str) -> String {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or("Linux").trim().trim_matches(['"', '\'']).to_owned()
}

/// The address that packets to the world would have. Nothing is sent.
fn route_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-1 (RFC 5737): only the routing table is asked.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        assert_eq!(cpus("processor\t: 0\nmodel name : x\nprocessor\t: 1\n"), 2);
        assert_eq!(kib("MemTotal:       16384000 kB\nMemFree: 3 kB\n", "MemTotal:"), 16_384_000);
        assert_eq!(running("0.00 0.01 0.05 2/345 6789"), 345);
        assert_eq!(
            os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::look(Path::new("/nonexistent/below/root"));
        assert!(machine.cpus > 0 && machine.memory > 0 && machine.disk > 0, "{machine:?}");
        let load = Load::look(Path::new("/"), Path::new("/"));
        assert!(
            load.memory_available > 0 && load.processes > 0 && load.most_processes > load.processes,
            "{load:?}"
        );
    }

    #[test]
    fn room() {
        let room = Room { capacity: 1000, available: 99, inodes: 100, inodes_free: 50 };
        assert!(room.short(10));
        assert!(!room.short(9));
        assert!(Room { inodes_free: 4, ..room }.short(9));
        // A filesystem that counts no files has enough of them.
        assert!(!Room { inodes: 0, inodes_free: 0, ..room }.short(9));
        let large = Room { capacity: 1 << 40, available: 2 << 30, inodes: 0, inodes_free: 0 };
        assert!(!large.short(5));
        assert!(Room { available: large.available - 1, ..large }.short(5));
    }
}
