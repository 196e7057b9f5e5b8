//! Names and numbers that no other node of this host uses.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// Directories, bridge, subnet and cgroup of one node, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
    number: u8,
    _claim: File,
}

impl Place {
    /// A place that nobody has: tests of other runs on this host are asked through lock files.
    pub(crate) fn new() -> Self {
        for number in 1..=254 {
            let path = std::env::temp_dir().join(format!("vaquita-test-{number}.lock"));
            let claim = File::options().create(true).append(true).open(path).unwrap();
            if flock(&claim, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let dir = vaquita_testing::temp_dir();
                let place = Self { dir, number, _claim: claim };
                place.clear();
                return place;
            }
        }
        panic!("254 test nodes run already");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("state/vaquita.sock")
    }

    pub(crate) fn bridge(&self) -> String {
        format!("vtest{}", self.number)
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("/vaquita-test-{}", self.number)
    }

    /// The slice of the same name, as a daemon with the driver systemd has it.
    fn slice(&self) -> String {
        format!("{}.slice", self.cgroup()[1..].replace('-', "\\x2d"))
    }

    /// The environment that points the binary here.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let below = |name: &str| self.path().join(name).display().to_string();
        let mut environment = vec![
            ("VAQUITA_ROOT", below("root")),
            ("VAQUITA_STATE", below("state")),
            ("VAQUITA_BRIDGE", self.bridge()),
            // A test that writes a configuration there gets that network; whatever the host has in /etc/cni/net.d.
            ("VAQUITA_NETWORK", "auto".to_owned()),
            ("VAQUITA_CNI_CONF_DIR", below("cni/conf")),
            ("VAQUITA_CNI_BIN_DIR", below("cni/bin")),
            ("VAQUITA_CNI_TIMEOUT", "10".to_owned()),
            ("VAQUITA_CERTS_DIR", below("certs.d")),
            // Nobody's credentials but those of the test.
            ("DOCKER_CONFIG", below("docker")),
            ("XDG_CONFIG_HOME", below("xdg")),
            ("XDG_RUNTIME_DIR", below("xdg")),
            ("VAQUITA_SUBNET", format!("10.204.{}.0/24", self.number)),
            ("VAQUITA_CGROUP", self.cgroup()),
            ("VAQUITA_CGROUP_DRIVER", "cgroupfs".to_owned()),
        ];
        if !may_lower_oom_score() {
            environment.push(("VAQUITA_RESTRICT_OOM_SCORE_ADJ", "true".to_owned()));
        }
        environment
    }

    /// What the kernel still holds under our names.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = self.cgroups();
        found.extend(self.mounts());
        let link = PathBuf::from(format!("/sys/class/net/{}", self.bridge()));
        if link.exists() {
            found.push(link);
        }
        found.iter().map(|path| path.display().to_string()).collect()
    }

    /// Takes away by force what a failed test left: processes first, then the rest.
    pub(crate) fn clear(&self) {
        for cgroup in self.cgroups() {
            if cgroup.ends_with(self.slice()) {
                // systemd would believe that it is still there.
                let _ = Command::new("systemctl").args(["stop", &self.slice()]).output();
            }
            clear_cgroup(&cgroup);
        }
        for mount in self.mounts() {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
        if Path::new(&format!("/sys/class/net/{}", self.bridge())).exists() {
            // Best effort: what stays is seen by the next test that takes this place.
            let _ = Command::new("ip").args(["link", "delete", &self.bridge()]).output();
            let _ = Command::new("nft").args(["delete", "table", "inet", &self.bridge()]).output();
            let _ = Command::new("nft").args(["delete", "table", "ip", &self.bridge()]).output();
            let _ = Command::new("nft").args(["delete", "table", "ip6", &self.bridge()]).output();
        }
    }

    /// Mounts in our directory, the last first.
    fn mounts(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
        let mut ours: Vec<PathBuf> = points.filter(|point| point.starts_with(self.path())).collect();
        ours.reverse();
        ours
    }

    /// Our cgroup in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let top = Path::new("/sys/fs/cgroup");
        let name = &self.cgroup()[1..];
        let mut candidates = vec![top.join(name), top.join(self.slice())];
        candidates.extend(top.read_dir().unwrap().map(|entry| entry.unwrap().path().join(name)));
        candidates.retain(|path| path.is_dir());
        candidates.sort();
        candidates.dedup_by_key(|path| path.canonicalize().ok());
        candidates
    }
}

fn clear_cgroup(dir: &Path) {
    let Ok(entries) = dir.read_dir() else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clear_cgroup(&entry.path());
        }
    }
    let pids = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    for _ in 0..100 {
        if std::fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Root in a container often lacks CAP_SYS_RESOURCE; then the documented flag is needed.
pub(crate) fn may_lower_oom_score() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    const SYS_RESOURCE: u32 = 24;
    u64::from_str_radix(line, 16).unwrap() >> SYS_RESOURCE & 1 == 1
}
