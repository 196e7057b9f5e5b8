//! The container that is measured: busybox with what engines ask for by default.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::AnyError;

/// The control group below which all containers of a run lie.
pub(crate) const GROUP: &str = "vaquita-bench";

const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A bundle, of which there is one variant for each program and memory limit.
#[derive(Debug)]
pub(crate) struct Bundle {
    dir: PathBuf,
    rootfs: PathBuf,
}

impl Bundle {
    /// Makes the root filesystem below `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self, AnyError> {
        let rootfs = dir.join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            std::fs::create_dir_all(rootfs.join(name))?;
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox"))
            .map_err(|error| format!("/bin/busybox: {error}; install the package busybox-static"))?;
        for name in ["sleep", "true"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name))?;
        }
        Ok(Self { dir: dir.to_owned(), rootfs })
    }

    /// Writes the configuration of a container that runs `args`, and returns the bundle's directory.
    ///
    /// `memory`: its limit in bytes. `name`: of the container and its control group.
    pub(crate) fn write(&self, name: &str, args: &[&str], memory: Option<u64>) -> Result<PathBuf, AnyError> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        let mut config = config(name, args);
        config["root"]["path"] = json!(self.rootfs);
        if let Some(limit) = memory {
            config["linux"]["resources"]["memory"] = json!({ "limit": limit });
        }
        std::fs::write(dir.join("config.json"), serde_json::to_vec(&config)?)?;
        Ok(dir)
    }
}

fn config(name: &str, args: &[&str]) -> Value {
    let mount = |to: &str, kind: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "", "readonly": false },
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{GROUP}/{name}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }], "pids": { "limit": 100 } },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
