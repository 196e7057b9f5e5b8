//! Which files of a group get which values for a set of limits: pure, for v1 and v2.

use std::collections::BTreeSet;

use crate::resources::ThrottleDevice;
use crate::{Error, Kind, Layout, Resources, Result, Version};

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The controller by its v2 name; `cgroup` for files of v2 itself.
    pub controller: String,
    /// Files with their values, of which the first one that exists is written.
    pub candidates: Vec<(String, String)>,
    /// Whether it is fine that none of the files exists.
    pub optional: bool,
}

impl Write {
    fn new(controller: &str, file: impl Into<String>, value: impl ToString) -> Self {
        let candidates = vec![(file.into(), value.to_string())];
        Self { controller: controller.to_owned(), candidates, optional: false }
    }

    fn or(mut self, file: &str, value: impl ToString) -> Self {
        self.candidates.push((file.to_owned(), value.to_string()));
        self
    }

    fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

/// What to write for these limits, without the device rules. Inner lists are to be written in their order or, when that is
/// refused, in the reverse order: each of two values can be the one that the other must not exceed.
///
/// # Errors
/// `Unsupported` when the host has no controller for a limit, `Invalid` for a value that makes no sense.
pub fn writes(resources: &Resources, layout: &Layout) -> Result<Vec<Vec<Write>>> {
    let mut groups = Vec::new();
    cpu(resources, layout, &mut groups)?;
    cpuset(resources, layout, &mut groups)?;
    memory(resources, layout, &mut groups)?;
    if let Some(limit) = resources.pids_limit {
        version(layout, "pids", "pids.max")?;
        let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
        groups.push(vec![Write::new("pids", "pids.max", value)]);
    }
    hugepages(resources, layout, &mut groups)?;
    io(resources, layout, &mut groups)?;
    unified(resources, layout, &mut groups)?;
    Ok(groups)
}

/// The v2 weight of v1 shares: `ceil(10^((l² + 125 l) / 612 - 7 / 34))` with l the binary logarithm of the shares, so that
/// 2, 1024 and 262144 become 1, 100 and 10000 (runc 1.3.2, crun 1.23, systemd's default stays the default).
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the values are small and positive"
)]
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// The v2 weight of a v1 IO weight: 10 to 1000 becomes 1 to 10000, linearly.
#[must_use]
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn cpu(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let write = |file: &str, value: String| Write::new("cpu", file, value);
    // 0 means "not set" in the OCI specification's Go types, from which configurations come.
    let quota = resources.cpu_quota.filter(|quota| *quota != 0);
    let period = resources.cpu_period.filter(|period| *period != 0);
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        groups.push(vec![match version(layout, "cpu", "the CPU weight")? {
            Version::V1 => write("cpu.shares", shares.to_string()),
            Version::V2 => write("cpu.weight", cpu_weight(shares).to_string()),
        }]);
    }
    if let Some(idle) = resources.cpu_idle {
        version(layout, "cpu", "cpu.idle")?;
        groups.push(vec![write("cpu.idle", idle.to_string())]);
    }
    if quota.is_none() && period.is_none() && resources.cpu_burst.is_none() {
        return Ok(());
    }
    let mut limits = Vec::new();
    match version(layout, "cpu", "the CPU limit")? {
        Version::V1 => {
            limits.extend(period.map(|period| write("cpu.cfs_period_us", period.to_string())));
            limits.extend(quota.map(|quota| write("cpu.cfs_quota_us", quota.max(-1).to_string())));
            limits.extend(resources.cpu_burst.map(|burst| write("cpu.cfs_burst_us", burst.to_string())));
        }
        Version::V2 => {
            if quota.is_some() || period.is_some() {
                let quota = quota
                    .filter(|quota| *quota > 0)
                    .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                limits.push(write("cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
            }
            limits.extend(resources.cpu_burst.map(|burst| write("cpu.max.burst", burst.to_string())));
        }
    }
    groups.push(limits);
    Ok(())
}

fn cpuset(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            version(layout, "cpuset", file)?;
            groups.push(vec![Write::new("cpuset", file, value)]);
        }
    }
    Ok(())
}

fn memory(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let write = |file: &str, value: String| Write::new("memory", file, value);
    let limit = resources.memory_limit.filter(|limit| *limit != 0);
    let both = resources.memory_swap.filter(|swap| *swap != 0);
    let reservation = resources.memory_reservation.filter(|reservation| *reservation != 0);
    let v1_only = resources.memory_swappiness.is_some() || resources.disable_oom_killer;
    if limit.is_none() && both.is_none() && reservation.is_none() && !v1_only {
        return Ok(());
    }
    if let (Some(limit @ 1..), Some(both @ 1..)) = (limit, both)
        && both < limit
    {
        return Err(invalid(format!(
            "the limit of memory and swap, {both}, is below that of memory, {limit}"
        )));
    }
    match version(layout, "memory", "the memory limit")? {
        Version::V1 => {
            // Without a limit of memory there can be none of both.
            let both = both.or(limit.filter(|limit| *limit < 0));
            let mut limits = Vec::new();
            limits.extend(limit.map(|limit| write("memory.limit_in_bytes", limit.max(-1).to_string())));
            if let Some(both) = both {
                let swap = write("memory.memsw.limit_in_bytes", both.max(-1).to_string());
                limits.push(if both < 0 { swap.optional() } else { swap });
            }
            groups.push(limits);
            let soft = |bytes: i64| vec![write("memory.soft_limit_in_bytes", bytes.max(-1).to_string())];
            groups.extend(reservation.map(soft));
            let swappiness = |value: u64| vec![write("memory.swappiness", value.to_string())];
            groups.extend(resources.memory_swappiness.map(swappiness));
            if resources.disable_oom_killer {
                groups.push(vec![write("memory.oom_control", "1".to_owned())]);
            }
        }
        Version::V2 => {
            if v1_only {
                return Err(Error::refused(
                    Kind::Unsupported,
                    "swappiness and disableOOMKiller are of cgroup v1: this host has v2",
                ));
            }
            let max = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
            let mut limits = Vec::new();
            limits.extend(limit.map(|limit| write("memory.max", max(limit))));
            if let Some(both) = both {
                let swap = match limit {
                    _ if both < 0 => "max".to_owned(),
                    Some(limit @ 1..) => (both - limit).to_string(),
                    _ => {
                        return Err(invalid("a limit of memory and swap needs a limit of memory".to_owned()));
                    }
                };
                let write = write("memory.swap.max", swap.clone());
                // Where the kernel has no swap accounting, no swap and any swap are what there is.
                limits.push(if swap == "0" || swap == "max" { write.optional() } else { write });
            }
            groups.push(limits);
            groups.extend(reservation.map(|bytes| vec![write("memory.low", max(bytes))]));
        }
    }
    Ok(())
}

fn hugepages(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    for (size, limit) in &resources.hugepages {
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(invalid(format!("a size of huge pages is like 2MB, not {size:?}")));
        }
        let (file, value) = match version(layout, "hugetlb", "the limit of huge pages")? {
            Version::V1 => ("limit_in_bytes", limit.max(&-1).to_string()),
            Version::V2 if *limit < 0 => ("max", "max".to_owned()),
            Version::V2 => ("max", limit.to_string()),
        };
        groups.push(vec![Write::new("hugetlb", format!("hugetlb.{size}.{file}"), &value)]);
        // Reservations count at mmap, so the process gets ENOMEM and not SIGBUS later (Linux 5.7).
        groups.push(vec![Write::new("hugetlb", format!("hugetlb.{size}.rsvd.{file}"), value).optional()]);
    }
    Ok(())
}

fn io(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let throttles: [(&[ThrottleDevice], &str, &str); 4] = [
        (&resources.io_read_bps, "blkio.throttle.read_bps_device", "rbps"),
        (&resources.io_write_bps, "blkio.throttle.write_bps_device", "wbps"),
        (&resources.io_read_iops, "blkio.throttle.read_iops_device", "riops"),
        (&resources.io_write_iops, "blkio.throttle.write_iops_device", "wiops"),
    ];
    let weight = resources.io_weight.filter(|weight| *weight != 0);
    let none = throttles.iter().all(|(list, ..)| list.is_empty());
    if weight.is_none() && resources.io_weight_devices.is_empty() && none {
        return Ok(());
    }
    let version = version(layout, "io", "the IO limit")?;
    if let Some(weight) = weight {
        groups.push(vec![match version {
            Version::V1 => Write::new("io", "blkio.weight", weight).or("blkio.bfq.weight", weight),
            Version::V2 => Write::new("io", "io.bfq.weight", weight).or("io.weight", io_weight(weight)),
        }]);
    }
    for entry in &resources.io_weight_devices {
        let (major, minor) = entry.device;
        let line = format!("{major}:{minor} {}", entry.weight);
        groups.push(vec![match version {
            Version::V1 => Write::new("io", "blkio.weight_device", &line).or("blkio.bfq.weight_device", line),
            Version::V2 => Write::new("io", "io.bfq.weight", line)
                .or("io.weight", format!("{major}:{minor} {}", io_weight(entry.weight))),
        }]);
    }
    for (list, v1, v2) in throttles {
        for ThrottleDevice { device: (major, minor), rate } in list {
            groups.push(vec![match version {
                Version::V1 => Write::new("io", v1, format!("{major}:{minor} {rate}")),
                Version::V2 if *rate == 0 => Write::new("io", "io.max", format!("{major}:{minor} {v2}=max")),
                Version::V2 => Write::new("io", "io.max", format!("{major}:{minor} {v2}={rate}")),
            }]);
        }
    }
    Ok(())
}

fn unified(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    for (file, value) in &resources.unified {
        let safe = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let Some((controller, _)) = file.split_once('.').filter(|_| safe) else {
            return Err(invalid(format!("{file:?} is not the name of a control group file")));
        };
        let v2 = match controller {
            // Membership and structure are not limits.
            "cgroup" if !["cgroup.max.depth", "cgroup.max.descendants"].contains(&file.as_str()) => {
                return Err(invalid(format!("{file} is not a limit")));
            }
            "cgroup" => layout.hierarchies().iter().any(|hierarchy| hierarchy.version == Version::V2),
            _ => version(layout, controller, file)? == Version::V2,
        };
        if !v2 {
            let message = format!("{file} is of cgroup v2: this host has the controller {controller} in v1");
            return Err(Error::refused(Kind::Unsupported, message));
        }
        groups.push(vec![Write::new(controller, file, value)]);
    }
    Ok(())
}

/// The controllers that these writes need.
pub(crate) fn controllers(groups: &[Vec<Write>]) -> BTreeSet<&str> {
    groups.iter().flatten().map(|write| write.controller.as_str()).filter(|name| *name != "cgroup").collect()
}

fn version(layout: &Layout, controller: &str, what: &str) -> Result<Version> {
    layout.controller(controller).map(|hierarchy| hierarchy.version).ok_or_else(|| {
        Error::refused(
            Kind::Unsupported,
            format!("{what} needs the {controller} controller, which this host lacks"),
        )
    })
}

fn invalid(message: String) -> Error {
    Error::refused(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hierarchy;

    fn layout(version: Version, controllers: &[&str]) -> Layout {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Layout::new(vec![Hierarchy { version, mount: "/sys/fs/cgroup".into(), controllers }]).unwrap()
    }

    fn v1() -> Layout {
        layout(Version::V1, &["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"])
    }

    fn v2() -> Layout {
        layout(Version::V2, &["cpu", "cpuset", "memory", "pids", "io", "hugetlb"])
    }

    /// `file=value` of each write, those that may be swapped joined by ` + `.
    fn lines(resources: &Resources, layout: &Layout) -> Vec<String> {
        let one = |write: &Write| {
            let all: Vec<_> =
                write.candidates.iter().map(|(file, value)| format!("{file}={value}")).collect();
            all.join(" or ")
        };
        let groups = writes(resources, layout).unwrap();
        groups.iter().map(|group| group.iter().map(one).collect::<Vec<_>>().join(" + ")).collect()
    }

    #[test]
    fn weights() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert_eq!([10, 100, 1000].map(io_weight), [1, 910, 10_000]);
    }

    #[test]
    fn a_usual_container() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0-1".into()),
            memory_limit: Some(1 << 20),
            memory_swap: Some(1 << 20),
            pids_limit: Some(64),
            ..Resources::default()
        };
        assert_eq!(
            lines(&resources, &v1()),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000 + cpu.cfs_quota_us=50000",
                "cpuset.cpus=0-1",
                "memory.limit_in_bytes=1048576 + memory.memsw.limit_in_bytes=1048576",
                "pids.max=64",
            ]
        );
        assert_eq!(
            lines(&resources, &v2()),
            [
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "cpuset.cpus=0-1",
                "memory.max=1048576 + memory.swap.max=0",
                "pids.max=64",
            ]
        );
    }

    #[test]
    fn no_limits() {
        let none = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            pids_limit: Some(0),
            hugepages: vec![("2MB".into(), -1)],
            ..Resources::default()
        };
        assert_eq!(
            lines(&none, &v1()),
            [
                "cpu.cfs_quota_us=-1",
                "memory.limit_in_bytes=-1 + memory.memsw.limit_in_bytes=-1",
                "pids.max=max",
                "hugetlb.2MB.limit_in_bytes=-1",
                "hugetlb.2MB.rsvd.limit_in_bytes=-1",
            ]
        );
        assert_eq!(
            lines(&none, &v2()),
            [
                "cpu.max=max 100000",
                "memory.max=max",
                "pids.max=max",
                "hugetlb.2MB.max=max",
                "hugetlb.2MB.rsvd.max=max"
            ]
        );
        assert!(lines(&Resources::default(), &v2()).is_empty());
    }

    #[test]
    fn block_io() {
        let device = (8, 0);
        let resources = Resources {
            io_weight: Some(100),
            io_read_bps: vec![ThrottleDevice { device, rate: 1024 }],
            io_write_iops: vec![ThrottleDevice { device, rate: 0 }],
            ..Resources::default()
        };
        assert_eq!(
            lines(&resources, &v1()),
            [
                "blkio.weight=100 or blkio.bfq.weight=100",
                "blkio.throttle.read_bps_device=8:0 1024",
                "blkio.throttle.write_iops_device=8:0 0",
            ]
        );
        assert_eq!(
            lines(&resources, &v2()),
            ["io.bfq.weight=100 or io.weight=910", "io.max=8:0 rbps=1024", "io.max=8:0 wiops=max"]
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let kind = |resources: Resources, layout: &Layout| writes(&resources, layout).unwrap_err().kind();
        let unified = |file: &str| Resources {
            unified: [(file.to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        assert_eq!(kind(unified("memory.high"), &v1()), Kind::Unsupported);
        assert_eq!(lines(&unified("memory.high"), &v2()), ["memory.high=1"]);
        for file in ["../memory.max", "memory", "cgroup.procs", "cgroup.kill", "memory.max\n"] {
            assert_eq!(kind(unified(file), &v2()), Kind::Invalid, "{file}");
        }
        let pids = Resources { pids_limit: Some(1), ..Resources::default() };
        assert_eq!(kind(pids, &layout(Version::V2, &["memory"])), Kind::Unsupported);
        let swap = |limit, both| Resources { memory_limit: limit, memory_swap: both, ..Resources::default() };
        assert_eq!(kind(swap(Some(2), Some(1)), &v1()), Kind::Invalid);
        assert_eq!(kind(swap(None, Some(1)), &v2()), Kind::Invalid);
        let page = Resources { hugepages: vec![("../2MB".into(), 1)], ..Resources::default() };
        assert_eq!(kind(page, &v2()), Kind::Invalid);
    }
}
