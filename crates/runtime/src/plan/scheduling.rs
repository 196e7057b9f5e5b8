//! When and where a process runs: scheduler, I/O priority, CPUs, and the nodes that its memory comes from.

use std::fmt;

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use rustix::thread::CpuSet;
use vaquita_sys::process::{Scheduling, io_priority};

use crate::Error;

/// The CPUs that a process which is added to a container runs on.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    /// Until it is in the container's cgroup.
    pub(crate) before: Option<CpuSet>,
    /// From then on. Where none are asked for, the kernel decides.
    pub(crate) after: Option<CpuSet>,
}

/// A memory policy, as set_mempolicy(2) takes it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryPolicy {
    pub(crate) mode: i32,
    /// A bit for each node.
    pub(crate) nodes: Vec<u64>,
    /// As in the specification.
    name: String,
}

impl fmt::Display for MemoryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(crate) fn scheduling(process: &Process) -> Result<Option<Scheduling>, Error> {
    let Some(scheduler) = process.scheduler() else { return Ok(None) };
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(Error::invalid(format!("process.scheduler.nice: {nice} is not in -20 to 19")));
    }
    Ok(Some(Scheduling {
        policy: policy(*scheduler.policy())?,
        flags: scheduler.flags().iter().flatten().fold(0, |bits, flag| bits | bit(*flag)),
        nice,
        priority: priority(scheduler)?,
        runtime: deadline_only(scheduler, "runtime", *scheduler.runtime())?,
        deadline: deadline_only(scheduler, "deadline", *scheduler.deadline())?,
        period: deadline_only(scheduler, "period", *scheduler.period())?,
    }))
}

pub(crate) fn io(process: &Process) -> Result<Option<u32>, Error> {
    let Some(priority) = process.io_priority() else { return Ok(None) };
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority.priority()) {
        Ok(level) if level < 8 => Ok(Some(io_priority(class, level))),
        _ => Err(Error::invalid(format!(
            "process.ioPriority.priority: {} is not in 0 to 7",
            priority.priority()
        ))),
    }
}

impl Affinity {
    pub(crate) fn new(asked: Option<&ExecCPUAffinity>) -> Result<Self, Error> {
        let Some(asked) = asked else { return Ok(Self::default()) };
        let set = |field: &str, list: Option<&str>| {
            let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok::<_, Error>(None) };
            let mut set = CpuSet::new();
            let field = format!("process.execCPUAffinity.{field}");
            for cpu in numbers(&field, list, CpuSet::MAX_CPU)? {
                set.set(cpu);
            }
            Ok(Some(set))
        };
        Ok(Self {
            before: set("initial", asked.initial().as_deref())?,
            after: set("final", asked.cpu_affinity_final().as_deref())?,
        })
    }
}

impl MemoryPolicy {
    pub(crate) fn new(policy: &LinuxMemoryPolicy) -> Result<Self, Error> {
        // MPOL_* of linux/mempolicy.h.
        let mode = match policy.mode() {
            MemoryPolicyModeType::MpolDefault => 0,
            MemoryPolicyModeType::MpolPreferred => 1,
            MemoryPolicyModeType::MpolBind => 2,
            MemoryPolicyModeType::MpolInterleave => 3,
            MemoryPolicyModeType::MpolLocal => 4,
            MemoryPolicyModeType::MpolPreferredMany => 5,
            MemoryPolicyModeType::MpolWeightedInterleave => 6,
        };
        let flags = policy.flags().iter().flatten();
        let bits = flags.clone().fold(0, |bits, flag| {
            bits | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
        });
        let list = policy.nodes().as_deref().unwrap_or_default();
        let takes_none = matches!(mode, 0 | 4);
        if takes_none != list.is_empty() && mode != 1 {
            let why = if takes_none { "takes no nodes" } else { "needs nodes" };
            return Err(Error::invalid(format!("linux.memoryPolicy.nodes: {} {why}", policy.mode())));
        }
        let mut nodes = Vec::new();
        if !list.is_empty() {
            for node in numbers("linux.memoryPolicy.nodes", list, NODES)? {
                let word = node / 64;
                nodes.resize(nodes.len().max(word + 1), 0);
                nodes[word] |= 1 << (node % 64);
            }
        }
        let mut name = policy.mode().to_string();
        flags.for_each(|flag| name.push_str(&format!("|{flag}")));
        if !list.is_empty() {
            name.push_str(&format!(" of the nodes {list}"));
        }
        Ok(Self { mode: mode | bits, nodes, name })
    }
}

/// More than any kernel is built for (`MAX_NUMNODES`).
const NODES: usize = 1024;

/// `SCHED_*` of linux/sched.h.
fn policy(policy: LinuxSchedulerPolicy) -> Result<u32, Error> {
    Ok(match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => {
            return Err(Error::unsupported(
                "process.scheduler.policy: SCHED_ISO is reserved, and no Linux has it (sched(7))",
            ));
        }
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    })
}

/// `SCHED_FLAG_*` of linux/sched.h.
fn bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn priority(scheduler: &Scheduler) -> Result<u32, Error> {
    let value = scheduler.priority().unwrap_or(0);
    let is_real_time =
        matches!(scheduler.policy(), LinuxSchedulerPolicy::SchedFifo | LinuxSchedulerPolicy::SchedRr);
    let range = if is_real_time { 1..=99 } else { 0..=0 };
    match u32::try_from(value) {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(Error::invalid(format!(
            "process.scheduler.priority: {value} is not in {} to {} of {}",
            range.start(),
            range.end(),
            scheduler.policy()
        ))),
    }
}

fn deadline_only(scheduler: &Scheduler, field: &str, value: Option<u64>) -> Result<u64, Error> {
    match value {
        Some(value) if value != 0 && *scheduler.policy() != LinuxSchedulerPolicy::SchedDeadline => {
            Err(Error::invalid(format!("process.scheduler.{field} is for SCHED_DEADLINE only")))
        }
        value => Ok(value.unwrap_or(0)),
    }
}

/// The numbers in a list such as `0-3,7`, each below `limit`.
fn numbers(field: &str, list: &str, limit: usize) -> Result<Vec<usize>, Error> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| -> Option<usize> {
            // parse() would take a sign.
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number: &usize| digits && *number < limit)
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => numbers.extend(first..=last),
            _ => {
                return Err(Error::invalid(format!(
                    "{field}: {part:?} in {list:?} is no number or range of numbers below {limit}"
                )));
            }
        }
        // The same ones over and over would make it long.
        numbers.sort_unstable();
        numbers.dedup();
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("x", "0-3,7,2-4", 8).unwrap(), [0, 1, 2, 3, 4, 7]);
        for bad in ["", "8", "3-1", "1,,2", "+1", "-1", "1-", "1-2-3", " 1", "99999999999999999999"] {
            assert!(numbers("x", bad, 8).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn memory_policies() {
        let policy = |json: &str| MemoryPolicy::new(&serde_json::from_str(json).unwrap());
        let bound =
            policy(r#"{"mode":"MPOL_BIND","nodes":"0,64-65","flags":["MPOL_F_STATIC_NODES"]}"#).unwrap();
        assert_eq!((bound.mode, &*bound.nodes), (2 | 1 << 15, &[1, 3][..]));
        assert_eq!(bound.to_string(), "MPOL_BIND|MPOL_F_STATIC_NODES of the nodes 0,64-65");
        assert!(policy(r#"{"mode":"MPOL_PREFERRED"}"#).is_ok());
        for bad in [
            r#"{"mode":"MPOL_INTERLEAVE"}"#,
            r#"{"mode":"MPOL_LOCAL","nodes":"0"}"#,
            r#"{"mode":"MPOL_DEFAULT","nodes":"0"}"#,
            r#"{"mode":"MPOL_BIND","nodes":"1024"}"#,
        ] {
            assert!(policy(bad).unwrap_err().to_string().starts_with("linux.memoryPolicy.nodes"), "{bad}");
        }
    }

    #[test]
    fn schedulers() {
        let scheduling = |json: &str| {
            let mut process = Process::default();
            process.set_scheduler(Some(serde_json::from_str(json).unwrap()));
            scheduling(&process).map(Option::unwrap)
        };
        let deadline = scheduling(
            r#"{"policy":"SCHED_DEADLINE","runtime":1,"deadline":2,"period":3,"flags":["SCHED_FLAG_RECLAIM","SCHED_FLAG_D_L_OVERRUN"]}"#,
        )
        .unwrap();
        assert_eq!((deadline.policy, deadline.runtime, deadline.deadline, deadline.period), (6, 1, 2, 3));
        assert_eq!(deadline.flags, 6);
        for (bad, field) in [
            (r#"{"policy":"SCHED_ISO"}"#, "policy"),
            (r#"{"policy":"SCHED_FIFO"}"#, "priority"),
            (r#"{"policy":"SCHED_RR","priority":100}"#, "priority"),
            (r#"{"policy":"SCHED_OTHER","priority":1}"#, "priority"),
            (r#"{"policy":"SCHED_OTHER","nice":20}"#, "nice"),
            (r#"{"policy":"SCHED_BATCH","runtime":5}"#, "runtime"),
            (r#"{"policy":"SCHED_FIFO","priority":1,"period":5}"#, "period"),
        ] {
            let error = scheduling(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("process.scheduler.{field}")), "{error}");
        }
    }
}
