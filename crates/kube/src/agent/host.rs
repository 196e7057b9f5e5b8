//! Facts about this machine and this process.

use std::net::{IpAddr, UdpSocket};

/// What pods are told of, and measured against, the machine they run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    /// Address of the interface with the default route.
    pub(super) ip: String,
    /// Memory in bytes.
    pub(super) memory: i64,
    /// CPUs in thousandths.
    pub(super) milli_cpu: i64,
    /// The memory controller is there, and in version 2, so that files of its can be set.
    pub(super) unified_memory: bool,
    /// Text of the resolv.conf that pods inherit.
    pub(super) resolv_conf: String,
    /// Text of /etc/hosts.
    pub(super) hosts: String,
}

impl Host {
    /// Looks at the machine.
    pub(super) fn look(name: &str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            name: name.to_owned(),
            ip: route_source().map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string()),
            memory: memory_total(&read("/proc/meminfo")),
            milli_cpu: i64::try_from(cpus).unwrap_or(1) * 1000,
            unified_memory: has_word(&read("/sys/fs/cgroup/cgroup.controllers"), "memory"),
            resolv_conf: resolv_conf(&read("/etc/resolv.conf"), &read("/run/systemd/resolve/resolv.conf")),
            hosts: read("/etc/hosts"),
        }
    }
}

/// The address that packets to the world would have. Nothing is sent.
fn route_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-1 (RFC 5737): only the routing table is asked.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|other| other == word)
}

fn memory_total(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kib: i64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    kib * 1024
}

/// A stub resolver on the host's loopback cannot be reached from a pod: its upstream servers are taken instead, where
/// systemd-resolved names them.
fn resolv_conf(own: &str, systemd: &str) -> String {
    let servers = |text: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        lines.map(|server| server.trim().to_owned()).collect::<Vec<_>>()
    };
    let stub = !servers(own).is_empty() && servers(own).iter().all(|server| server == "127.0.0.53");
    if stub && !servers(systemd).is_empty() { systemd.to_owned() } else { own.to_owned() }
}

/// A process, told apart from later ones with its number.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Owner {
    pub(super) pid: u32,
    /// Start time in clock ticks since boot (proc_pid_stat(5), field 22).
    pub(super) started: u64,
    /// The boot that the time counts from.
    pub(super) boot: String,
}

impl Owner {
    /// This process.
    pub(super) fn this() -> Self {
        let pid = std::process::id();
        Self { pid, started: start_time(pid).unwrap_or(0), boot: boot_id() }
    }

    /// Whether it still runs.
    pub(super) fn alive(&self) -> bool {
        self.boot == boot_id() && start_time(self.pid) == Some(self.started)
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything; the fields after it are counted from the third.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A random id in the form of a UUID (version 4).
pub(super) fn uuid() -> String {
    let mut bytes = [0_u8; 16];
    // The pool is ready long before anybody runs pods; a short read is tried again.
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts() {
        let host = Host::look("node");
        assert!(host.memory > 1 << 20 && host.milli_cpu >= 1000, "{host:?}");
        assert!(Owner::this().alive());
        assert!(!Owner { started: 1, ..Owner::this() }.alive());
        assert_eq!(uuid().len(), 36);
        assert_ne!(uuid(), uuid());
    }

    #[test]
    fn stub_resolvers_are_replaced() {
        let upstream = "nameserver 192.0.2.53\n";
        assert_eq!(resolv_conf("nameserver 127.0.0.53\nsearch a\n", upstream), upstream);
        assert_eq!(resolv_conf("nameserver 127.0.0.53\n", ""), "nameserver 127.0.0.53\n");
        assert_eq!(resolv_conf("nameserver 192.0.2.1\n", upstream), "nameserver 192.0.2.1\n");
    }
}
