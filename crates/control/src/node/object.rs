//! The Node object: what is in it, and how it changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::machine::{Load, Machine};
use crate::events::seconds;

/// The version of Kubernetes that the node says it is.
pub(crate) const VERSION: &str = "v1.36.2+vaquita";

/// Pods that a machine takes, as kubelet has it.
const PODS: u64 = 110;
/// Memory that pods do not get: below that the node would have to end some.
const MEMORY_KEPT: u64 = 100 << 20;
/// How long a pressure is told after it has gone, so that it does not come and go.
const RELIEF: SignedDuration = SignedDuration::from_mins(5);
/// Names of an image that are told.
const NAMES: usize = 5;
/// Images that are told.
const IMAGES: usize = 50;

/// Labels of every node.
fn labels(name: &str, arch: &str) -> [(&'static str, String); 5] {
    [
        ("beta.kubernetes.io/arch", arch.to_owned()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", arch.to_owned()),
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
    ]
}

/// Gives a node the labels that every node has. Whether any was missing.
pub(crate) fn label(node: &mut Value, name: &str, arch: &str) -> bool {
    let mut changed = false;
    for (key, value) in labels(name, arch) {
        if node["metadata"]["labels"][key] != value {
            node["metadata"]["labels"][key] = value.into();
            changed = true;
        }
    }
    changed
}

/// A node that is new.
pub(crate) fn new(
    name: &str,
    machine: &Machine,
    more: &BTreeMap<String, String>,
    pod_cidrs: &[String],
) -> Value {
    let mut labels: Map<String, Value> =
        labels(name, machine.arch).into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    labels.insert("node-role.kubernetes.io/control-plane".to_owned(), "".into());
    labels.extend(more.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
    });
    if let Some(first) = pod_cidrs.first() {
        node["spec"] = json!({"podCIDR": first, "podCIDRs": pod_cidrs});
    }
    node
}

/// What the CRI server says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Runtime {
    /// `vaquita://0.1.0`.
    pub(crate) version: String,
    /// Why it cannot run pods, if it cannot.
    pub(crate) trouble: Vec<String>,
    /// Names of its handlers, and whether they can make mounts read-only with all below, and user namespaces.
    pub(crate) handlers: Vec<(String, bool, bool)>,
    pub(crate) supplemental_groups_policy: bool,
    /// Names and size in bytes.
    pub(crate) images: Vec<(Vec<String>, u64)>,
}

/// All that the status is made of.
#[derive(Debug, Clone)]
pub(crate) struct Look<'a> {
    pub(crate) name: &'a str,
    pub(crate) address: Option<IpAddr>,
    pub(crate) machine: &'a Machine,
    /// Percent of the disk that pods do not get.
    pub(crate) disk_percent: u8,
    /// Whether memory, disk and processes are short.
    pub(crate) pressed: [bool; 3],
    pub(crate) runtime: &'a Runtime,
    pub(crate) now: Timestamp,
}

/// What is happening to the node: the reason of an event.
pub(crate) type Happenings = Vec<&'static str>;

/// Brings the status up to date. Conditions and resources of others stay. Returns what to tell.
pub(crate) fn refresh(status: &mut Value, look: &Look<'_>) -> Happenings {
    if !status.is_object() {
        *status = json!({});
    }
    let capacity = capacity(look.machine);
    let allocatable = allocatable(look.machine, look.disk_percent);
    for (field, ours) in [("capacity", capacity), ("allocatable", allocatable)] {
        let mut all = status[field].as_object().cloned().unwrap_or_default();
        all.retain(|name, _| !name.starts_with("hugepages-"));
        all.extend(ours);
        all.sort_keys();
        status[field] = Value::Object(all);
    }
    let mut addresses = Vec::new();
    if let Some(address) = look.address {
        addresses.push(json!({"type": "InternalIP", "address": address.to_string()}));
    }
    addresses.push(json!({"type": "Hostname", "address": look.name}));
    status["addresses"] = addresses.into();
    status["nodeInfo"] = node_info(look);
    status["images"] = images(&look.runtime.images);
    let handlers = look.runtime.handlers.iter().map(|(name, read_only, users)| {
        json!({"name": name, "features": {"recursiveReadOnlyMounts": read_only, "userNamespaces": users}})
    });
    status["runtimeHandlers"] = handlers.collect();
    status["features"] = json!({"supplementalGroupsPolicy": look.runtime.supplemental_groups_policy});
    conditions(status, look)
}

fn capacity(machine: &Machine) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("cpu".to_owned(), machine.cpus.to_string().into());
    all.insert("ephemeral-storage".to_owned(), binary(machine.disk).into());
    all.extend(huge_pages(machine));
    all.insert("memory".to_owned(), binary(machine.memory).into());
    all.insert("pods".to_owned(), PODS.to_string().into());
    all
}

fn allocatable(machine: &Machine, disk_percent: u8) -> Map<String, Value> {
    let mut all = capacity(machine);
    let huge: u64 = machine.huge_pages.iter().map(|(size, count)| size * count).sum();
    let memory = machine.memory.saturating_sub(MEMORY_KEPT).saturating_sub(huge);
    let disk = machine.disk - super::machine::kept(machine.disk, disk_percent);
    all.insert("memory".to_owned(), binary(memory).into());
    all.insert("ephemeral-storage".to_owned(), disk.to_string().into());
    all
}

fn huge_pages(machine: &Machine) -> impl Iterator<Item = (String, Value)> {
    let pages = machine.huge_pages.iter();
    pages.map(|(size, count)| (format!("hugepages-{}", binary(*size)), binary(size * count).into()))
}

/// Bytes with the largest binary suffix that leaves a whole number, as Kubernetes writes them.
fn binary(bytes: u64) -> String {
    let mut rest = bytes;
    let mut suffix = "";
    for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
        if rest == 0 || !rest.is_multiple_of(1024) {
            break;
        }
        rest /= 1024;
        suffix = next;
    }
    format!("{rest}{suffix}")
}

fn node_info(look: &Look<'_>) -> Value {
    json!({
        "machineID": look.machine.machine_id,
        "systemUUID": look.machine.system_uuid,
        "bootID": look.machine.boot_id,
        "kernelVersion": look.machine.kernel,
        "osImage": look.machine.os_image,
        "containerRuntimeVersion": look.runtime.version,
        "kubeletVersion": VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": look.machine.arch,
        "swap": {"capacity": look.machine.swap},
    })
}

fn images(all: &[(Vec<String>, u64)]) -> Value {
    let mut all: Vec<_> = all.iter().filter(|(names, _)| !names.is_empty()).collect();
    all.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let told = all.iter().take(IMAGES).map(|(names, size)| {
        let names: Vec<&String> = names.iter().take(NAMES).collect();
        json!({"names": names, "sizeBytes": size})
    });
    told.collect()
}

/// Reasons and messages of a pressure: type, while it is there, while it is not, with the events' reasons.
struct Pressure {
    name: &'static str,
    there: (&'static str, &'static str, &'static str),
    gone: (&'static str, &'static str, &'static str),
}

const PRESSURES: [Pressure; 3] = [
    Pressure {
        name: "MemoryPressure",
        there: (
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "NodeHasInsufficientMemory",
        ),
        gone: (
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
            "NodeHasSufficientMemory",
        ),
    },
    Pressure {
        name: "DiskPressure",
        there: ("KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"),
        gone: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"),
    },
    Pressure {
        name: "PIDPressure",
        there: (
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
            "NodeHasInsufficientPID",
        ),
        gone: ("KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"),
    },
];

/// What is short, and was lately.
#[derive(Debug, Default)]
pub(crate) struct Pressures {
    /// When it was short for the last time.
    last: [Option<Timestamp>; 3],
}

impl Pressures {
    /// Which pressures there are: memory below 100 MiB, a disk below so many percent of its bytes (see `Room::short`) or 5 % of its files,
    /// processes within 5 % of the most.
    pub(crate) fn feel(&mut self, load: &Load, disk_percent: u8, now: Timestamp) -> [bool; 3] {
        let short = [
            load.memory_available < MEMORY_KEPT,
            load.disk.short(disk_percent) || load.images.short(disk_percent),
            load.most_processes.saturating_sub(load.processes) * 20 < load.most_processes,
        ];
        for (last, _) in self.last.iter_mut().zip(short).filter(|(_, short)| *short) {
            *last = Some(now);
        }
        self.last.map(|last| last.is_some_and(|last| now.duration_since(last) < RELIEF))
    }
}

fn conditions(status: &mut Value, look: &Look<'_>) -> Happenings {
    let now = seconds(look.now);
    let mut happenings = Happenings::new();
    let mut all = status["conditions"].as_array().cloned().unwrap_or_default();
    for (pressure, there) in PRESSURES.iter().zip(look.pressed) {
        let old = all.iter().find(|one| one["type"] == pressure.name).map(|one| one["status"].clone());
        let (reason, message, event) = if there { pressure.there } else { pressure.gone };
        let value = if there { "True" } else { "False" };
        if old.as_ref().is_none_or(|old| old != value) {
            happenings.push(event);
        }
        set(&mut all, pressure.name, value, reason, message, &now);
    }
    let ready = look.runtime.trouble.is_empty();
    let old = all.iter().find(|one| one["type"] == "Ready").map(|one| one["status"].clone());
    let (value, reason, message) = match ready {
        true => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        false => ("False", "KubeletNotReady", trouble(&look.runtime.trouble)),
    };
    if old.is_some_and(|old| old != value) {
        happenings.push(if ready { "NodeReady" } else { "NodeNotReady" });
    }
    set(&mut all, "Ready", value, reason, &message, &now);
    status["conditions"] = all.into();
    happenings
}

/// Several errors as Kubernetes prints them.
fn trouble(all: &[String]) -> String {
    match all {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

fn set(all: &mut Vec<Value>, name: &str, value: &str, reason: &str, message: &str, now: &str) {
    let index = all.iter().position(|one| one["type"] == name);
    let since = index.map(|index| &all[index]).filter(|old| old["status"] == value);
    let since = since.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(now).to_owned();
    let condition = json!({
        "type": name,
        "status": value,
        "lastHeartbeatTime": now,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    });
    match index {
        Some(index) => all[index] = condition,
        None => all.push(condition),
    }
}

/// Whether two statuses differ in more than the time of the look.
pub(crate) fn differs(one: &Value, other: &Value) -> bool {
    let still = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastHeartbeatTime"] = Value::Null;
        }
        status
    };
    still(one) != still(other)
}

#[cfg(test)]
mod tests;
