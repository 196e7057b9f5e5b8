//! What containerd gives a container unless told otherwise.

use oci_spec::runtime::{
    Capability, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, Mount, MountBuilder,
};

/// Paths hidden from a container that is not privileged (containerd `oci.WithDefaultSpec`, moby `oci.DefaultLinuxSpec`).
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that a container which is not privileged can read only.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Capabilities of a container which is not privileged, and asks for no others.
pub const CAPABILITIES: &[Capability] = &[
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The mounts of every container, in the order in which they are made.
#[must_use]
pub fn mounts() -> Vec<Mount> {
    MOUNTS
        .iter()
        .map(|(destination, kind, source, options)| mount(destination, kind, source, options))
        .collect()
}

/// What a container may do with devices: make nodes of any, use the harmless ones and its terminals. The first rule denies
/// all; the filter of the cgroup takes them in order.
#[must_use]
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    let character = LinuxDeviceType::C;
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, character, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, pts.
    let used = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    rules.extend(used.map(|(major, minor)| rule(true, character, Some(major), Some(minor), "rwm")));
    rules.push(rule(true, character, Some(136), None, "rwm"));
    rules
}

const MOUNTS: &[(&str, &str, &str, &str)] = &[
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
];

fn mount(destination: &str, kind: &str, source: &str, options: &str) -> Mount {
    let options: Vec<String> = options.split(',').map(str::to_owned).collect();
    let mount =
        MountBuilder::default().destination(destination).typ(kind).source(source).options(options).build();
    mount.unwrap_or_else(|_| unreachable!("every required field is set"))
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
    if let Some(major) = major {
        rule = rule.major(major);
    }
    if let Some(minor) = minor {
        rule = rule.minor(minor);
    }
    rule.build().unwrap_or_else(|_| unreachable!("every required field is set"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;
    use crate::plan::mounts::MountPlan;

    #[test]
    fn the_default_mounts_can_be_planned() {
        for mount in mounts() {
            MountPlan::new(&mount, &Context::default()).unwrap();
        }
    }

    #[test]
    fn device_rules_deny_first() {
        let rules = device_rules();
        assert!(!rules[0].allow());
        assert!(rules[1..].iter().all(LinuxDeviceCgroup::allow));
    }
}
