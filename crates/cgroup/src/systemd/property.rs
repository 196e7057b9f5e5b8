//! Limits as properties of a unit (systemd.resource-control(5), org.freedesktop.systemd1(5)): pure.
//!
//! systemd writes the files of a unit's group again whenever it reloads, so it has to know them. What it has no property
//! for it leaves alone, and this crate's own write stands.

mod annotation;
mod devices;

use super::wire::Value;
use crate::settings::{cpu_weight, io_weight, swap_max};
use crate::{Error, Kind, Resources, Result, Version};

/// A property of a unit, with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    name: &'static str,
    value: Value,
}

/// The period of a CPU limit where none is given, in microseconds (the kernel's default).
const DEFAULT_PERIOD: u64 = 100_000;

/// The highest CPU or memory node that is believed to be one.
const MAX_BIT: usize = 65_535;

impl Property {
    pub(super) fn new(name: &'static str, value: Value) -> Self {
        Self { name, value }
    }

    fn number(name: &'static str, value: u64) -> Self {
        Self::new(name, Value::U64(value))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
    }

    pub(super) fn into_value(self) -> Value {
        Value::Struct(vec![Value::str(self.name), self.value.variant()])
    }
}

/// What systemd is told of a scope that is not a limit.
pub(super) fn of_scope(unit: &str, slice: &str, pid: u32, version: Version, systemd: u32) -> Vec<Property> {
    let mut all = vec![
        Property::new("Description", Value::Str(format!("vaquita container {unit}"))),
        Property::new("Slice", Value::str(slice)),
        // systemd shall not manage what is inside.
        Property::new("Delegate", Value::Bool(true)),
        Property::new("PIDs", Value::Array("u", vec![Value::U32(pid)])),
    ];
    of_both(version, systemd, &mut all);
    all
}

/// The same of a slice in another.
pub(super) fn of_slice(unit: &str, slice: &str, version: Version, systemd: u32) -> Vec<Property> {
    let mut all = vec![
        Property::new("Description", Value::Str(format!("vaquita pods {unit}"))),
        Property::new("Wants", Value::Array("s", vec![Value::str(slice)])),
    ];
    of_both(version, systemd, &mut all);
    all
}

fn of_both(version: Version, systemd: u32, all: &mut Vec<Property>) {
    let io_accounting = if version == Version::V2 { "IOAccounting" } else { "BlockIOAccounting" };
    // Their controllers are switched on from the start: a group cannot join memory later in a sensible way.
    for name in ["MemoryAccounting", "CPUAccounting", io_accounting, "TasksAccounting"] {
        all.push(Property::new(name, Value::Bool(true)));
    }
    // The container's life is its runtime's business, in a shutdown too.
    all.push(Property::new("DefaultDependencies", Value::Bool(false)));
    if systemd >= 236 {
        // A unit that failed is forgotten like one that did not.
        all.push(Property::new("CollectMode", Value::str("inactive-or-failed")));
    }
}

/// The properties for the limits that are set, for the systemd of this version.
///
/// # Errors
/// `Invalid` for lists of CPUs or nodes, or values for files of v2, that cannot be read.
pub(super) fn of_limits(resources: &Resources, version: Version, systemd: u32) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    cpu(resources, version, systemd, &mut all);
    memory(resources, version, &mut all)?;
    if let Some(limit) = resources.pids_limit {
        // Zero is not taken; that one process is there already is as good as none being allowed.
        all.push(Property::number("TasksMax", limit_or_infinity(limit).max(1)));
    }
    sets(resources.cpuset_cpus.as_deref(), resources.cpuset_mems.as_deref(), systemd, &mut all)?;
    if let Some(weight) = resources.io_weight.filter(|weight| *weight != 0) {
        all.push(match version {
            Version::V1 => Property::number("BlockIOWeight", weight.into()),
            Version::V2 => Property::number("IOWeight", io_weight(weight)),
        });
    }
    if version == Version::V1
        && let Some(rules) = &resources.devices
    {
        all.extend(devices::v1(rules)?);
    }
    for (file, value) in &resources.unified {
        unified(file, value.trim(), systemd, &mut all)?;
    }
    Ok(all)
}

/// What has to be known when the scope is made and cannot be changed later.
pub(super) fn at_start(resources: &Resources, systemd: u32) -> Option<Property> {
    let policy = match resources.unified.get("memory.oom.group")?.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None,
    };
    (systemd >= 253).then(|| Property::new("OOMPolicy", Value::str(policy)))
}

/// The number at the beginning of systemd's version: `252.36-1~deb12u1`.
pub(super) fn systemd_version(text: &str) -> u32 {
    let text = text.trim_start_matches('v');
    let end = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

fn cpu(resources: &Resources, version: Version, systemd: u32, all: &mut Vec<Property>) {
    let idle = version == Version::V2 && resources.cpu_idle == Some(1) && systemd >= 252;
    let shares = resources.cpu_shares.filter(|shares| *shares != 0);
    match (version, shares) {
        // This is how systemd is told of cpu.idle.
        (Version::V2, _) if idle => all.push(Property::number("CPUWeight", 0)),
        (Version::V2, Some(shares)) => all.push(Property::number("CPUWeight", cpu_weight(shares))),
        (Version::V1, Some(shares)) => all.push(Property::number("CPUShares", shares.clamp(2, 262_144))),
        (_, None) => {}
    }
    quota(resources.cpu_quota.unwrap_or(0), resources.cpu_period.unwrap_or(0), systemd, all);
}

/// systemd counts microseconds per second, and rounds down to whole hundredths of a CPU: it gets the next higher one.
fn quota(quota: i64, period: u64, systemd: u32, all: &mut Vec<Property>) {
    if quota == 0 && period == 0 {
        return;
    }
    if period != 0 && systemd >= 242 {
        all.push(Property::number("CPUQuotaPeriodUSec", period));
    }
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    let per_second = match u64::try_from(quota) {
        Ok(quota @ 1..) => (quota.saturating_mul(1_000_000) / period).next_multiple_of(10_000),
        _ => u64::MAX,
    };
    all.push(Property::number("CPUQuotaPerSecUSec", per_second));
}

fn memory(resources: &Resources, version: Version, all: &mut Vec<Property>) -> Result<()> {
    let limit = resources.memory_limit.filter(|limit| *limit != 0);
    if version == Version::V1 {
        all.extend(limit.map(|limit| Property::number("MemoryLimit", limit_or_infinity(limit))));
        return Ok(());
    }
    all.extend(limit.map(|limit| Property::number("MemoryMax", limit_or_infinity(limit))));
    let reservation = resources.memory_reservation.filter(|reservation| *reservation != 0);
    all.extend(reservation.map(|bytes| Property::number("MemoryLow", limit_or_infinity(bytes))));
    let swap = swap_max(resources)?;
    all.extend(swap.map(|swap| Property::number("MemorySwapMax", swap.unwrap_or(u64::MAX))));
    Ok(())
}

fn sets(cpus: Option<&str>, mems: Option<&str>, systemd: u32, all: &mut Vec<Property>) -> Result<()> {
    for (name, list) in [("AllowedCPUs", cpus), ("AllowedMemoryNodes", mems)] {
        if let Some(list) = list.filter(|list| !list.trim().is_empty()) {
            let bits = bits(list)?;
            if systemd >= 244 {
                all.push(Property::new(name, Value::Array("y", bits.into_iter().map(Value::Byte).collect())));
            }
        }
    }
    Ok(())
}

fn unified(file: &str, value: &str, systemd: u32, all: &mut Vec<Property>) -> Result<()> {
    let wrong = || Error::refused(Kind::Invalid, format!("{file} cannot be {value:?}"));
    let number = || if value == "max" { Ok(u64::MAX) } else { value.parse().map_err(|_| wrong()) };
    match file {
        "cpu.idle" if value == "1" && systemd >= 252 => all.push(Property::number("CPUWeight", 0)),
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let limit = match words.next().ok_or_else(wrong)? {
                "max" => -1,
                number => number.parse().map_err(|_| wrong())?,
            };
            let period = words.next().map_or(Ok(DEFAULT_PERIOD), str::parse).map_err(|_| wrong())?;
            if limit == 0 || period == 0 || words.next().is_some() {
                return Err(wrong());
            }
            quota(limit, period, systemd, all);
        }
        // Both at once would be the same property twice.
        "cpu.weight" if !all.iter().any(|property| property.name == "CPUWeight") => {
            all.push(Property::number("CPUWeight", number()?));
        }
        "cpuset.cpus" => sets(Some(value), None, systemd, all)?,
        "cpuset.mems" => sets(None, Some(value), systemd, all)?,
        "memory.high" => all.push(Property::number("MemoryHigh", number()?)),
        "memory.low" => all.push(Property::number("MemoryLow", number()?)),
        "memory.max" => all.push(Property::number("MemoryMax", number()?)),
        "memory.min" => all.push(Property::number("MemoryMin", number()?)),
        "memory.swap.max" => all.push(Property::number("MemorySwapMax", number()?)),
        "pids.max" => all.push(Property::number("TasksMax", number()?.max(1))),
        _ => {}
    }
    Ok(())
}

fn limit_or_infinity(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// The bits of a list like `0-3,7`, the lowest eight in the first byte.
fn bits(list: &str) -> Result<Vec<u8>> {
    let wrong =
        || Error::refused(Kind::Invalid, format!("{list:?} is not a list of CPUs or nodes like 0-3,7"));
    let number =
        |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number <= MAX_BIT).ok_or_else(wrong);
    let mut bytes = Vec::new();
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(wrong());
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    if bytes.is_empty() { Err(wrong()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Name=value` of each.
    fn lines(resources: &Resources, version: Version, systemd: u32) -> Vec<String> {
        let one = |property: &Property| match &property.value {
            Value::U64(u64::MAX) => format!("{}=infinity", property.name),
            Value::U64(number) => format!("{}={number}", property.name),
            Value::Array(_, bytes) => format!("{}={bytes:?}", property.name),
            other => format!("{}={other:?}", property.name),
        };
        of_limits(resources, version, systemd).unwrap().iter().map(one).collect()
    }

    #[test]
    fn a_usual_container() {
        let resources = Resources {
            cpu_shares: Some(512),
            cpu_quota: Some(33_333),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0,9".into()),
            memory_limit: Some(1 << 20),
            memory_swap: Some(3 << 20),
            memory_reservation: Some(4096),
            pids_limit: Some(64),
            ..Resources::default()
        };
        assert_eq!(
            lines(&resources, Version::V2, 252),
            [
                "CPUWeight=59",
                "CPUQuotaPeriodUSec=100000",
                "CPUQuotaPerSecUSec=340000",
                "MemoryMax=1048576",
                "MemoryLow=4096",
                "MemorySwapMax=2097152",
                "TasksMax=64",
                "AllowedCPUs=[Byte(1), Byte(2)]",
            ]
        );
        assert_eq!(
            lines(&resources, Version::V1, 230),
            ["CPUShares=512", "CPUQuotaPerSecUSec=340000", "MemoryLimit=1048576", "TasksMax=64"]
        );
    }

    #[test]
    fn no_limits() {
        let none = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            memory_swap: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(
            lines(&none, Version::V2, 252),
            [
                "CPUQuotaPerSecUSec=infinity",
                "MemoryMax=infinity",
                "MemorySwapMax=infinity",
                "TasksMax=infinity"
            ]
        );
        let zero = Resources { pids_limit: Some(0), ..Resources::default() };
        assert_eq!(lines(&zero, Version::V2, 252), ["TasksMax=1"]);
        assert_eq!(lines(&Resources::default(), Version::V2, 252), [] as [&str; 0]);
    }

    #[test]
    fn files_of_v2() {
        let with = |pairs: &[(&str, &str)]| Resources {
            unified: pairs.iter().map(|(file, value)| ((*file).into(), (*value).into())).collect(),
            ..Resources::default()
        };
        let resources = with(&[
            ("cpu.idle", "1"),
            ("cpu.max", "max 50000"),
            ("cpu.weight", "10"),
            ("memory.high", "max"),
            ("memory.swap.max", "5\n"),
            ("pids.max", "0"),
            ("io.max", "8:0 rbps=1"),
        ]);
        assert_eq!(
            lines(&resources, Version::V2, 252),
            [
                "CPUWeight=0",
                "CPUQuotaPeriodUSec=50000",
                "CPUQuotaPerSecUSec=infinity",
                "MemoryHigh=infinity",
                "MemorySwapMax=5",
                "TasksMax=1",
            ]
        );
        for (file, value) in [
            ("cpu.max", ""),
            ("cpu.max", "1 2 3"),
            ("cpu.max", "x"),
            ("memory.max", "-1"),
            ("cpuset.cpus", "1-"),
            ("cpuset.mems", "99999999"),
        ] {
            let error = of_limits(&with(&[(file, value)]), Version::V2, 252).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{file} {value}");
        }
        let oom = |value: &str, systemd| at_start(&with(&[("memory.oom.group", value)]), systemd);
        assert_eq!(oom("1", 253).unwrap().value, Value::str("kill"));
        assert_eq!(oom("0", 255).unwrap().value, Value::str("continue"));
        assert_eq!(oom("1", 252), None);
    }

    #[test]
    fn versions_of_systemd() {
        for (text, number) in
            [("252.36-1~deb12u1", 252), ("v245.4-1.fc32", 245), ("257", 257), ("", 0), ("x", 0)]
        {
            assert_eq!(systemd_version(text), number, "{text}");
        }
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(bits("0-3,7").unwrap(), [0b1000_1111]);
        assert_eq!(bits(" 8 , 9-10,").unwrap(), [0, 0b111]);
        for bad in ["", ",", "3-1", "a", "-1", "1-2-3", "70000", "0-4294967295"] {
            assert_eq!(bits(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
