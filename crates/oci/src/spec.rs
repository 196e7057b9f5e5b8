//! `spec`: a configuration to begin with.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use vaquita_cgroup::Layout;

use crate::state::CONFIG;
use crate::{Error, Kind, SPEC_VERSION};

/// Writes `config.json` into a bundle; for ordinary users with `rootless`.
///
/// # Errors
/// [`Kind::Exists`] when there is one.
#[expect(clippy::disallowed_methods, reason = "a file of the bundle, which whoever calls vouches for")]
pub fn write_spec(bundle: &Path, rootless: bool) -> Result<(), Error> {
    let path = bundle.join(CONFIG);
    let mut text = format!("{:#}", example(rootless));
    text.push('\n');
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(Kind::Exists, format!("file {path:?} exists: remove it first")));
        }
        other => other.map_err(|error| Error::io(format!("open({path:?}, O_CREAT|O_EXCL)"), &error))?,
    };
    file.write_all(text.as_bytes()).map_err(|error| Error::io(format!("write({path:?})"), &error))
}

fn example(rootless: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut spec = json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "vaquita",
        "mounts": mounts(rootless),
        "linux": {
            "namespaces": namespaces(rootless),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    if rootless {
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        spec["linux"]["uidMappings"] = map(rustix::process::geteuid().as_raw());
        spec["linux"]["gidMappings"] = map(rustix::process::getegid().as_raw());
    } else {
        spec["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    spec
}

fn namespaces(rootless: bool) -> Vec<Value> {
    let mut kinds = vec!["pid", "network", "ipc", "uts", "mount"];
    if rootless {
        kinds[1] = "user";
    }
    if Layout::detect().is_ok_and(|layout| layout.is_v2()) {
        kinds.push("cgroup");
    }
    kinds.into_iter().map(|kind| json!({"type": kind})).collect()
}

fn mounts(rootless: bool) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        // A group that is not mapped cannot be given.
        let options: Vec<_> =
            options.iter().filter(|option| !(rootless && option.starts_with("gid="))).collect();
        json!({"destination": destination, "type": kind, "source": source, "options": options})
    };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let sys = if rootless {
        mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "rro"])
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
    ];
    if !rootless {
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }
    all
}

#[cfg(test)]
mod tests {
    use vaquita_runtime::{Context, Plan, document};

    use super::*;

    #[test]
    fn the_examples_can_be_run() {
        for rootless in [false, true] {
            let text = example(rootless).to_string();
            let spec = document::parse_spec("example", text.as_bytes()).unwrap();
            Plan::new(&spec, &Context::default()).unwrap();
        }
    }
}
