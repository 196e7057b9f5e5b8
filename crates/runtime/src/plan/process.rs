//! The process part of a specification: who it is, what it may do, what it executes.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::{
    Capabilities, IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerPolicy,
    LinuxSeccomp, PosixRlimitType, Process,
};
use rustix::process::{Resource, Rlimit};
use vaquita_sys::cap::{CapSet, Capability, Sets};
use vaquita_sys::process::{CStrArray, Scheduling, io_priority};

use super::path::Inside;
use crate::seccomp::{self, Program};
use crate::{Context, Error};

/// A validated process.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) capabilities: Sets,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: Option<Program>,
    pub(crate) rlimits: Vec<(Resource, Rlimit)>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) restrict_oom_score_adj: bool,
    pub(crate) cwd: Inside,
    pub(crate) program: ProgramFile,
    pub(crate) arguments: CStrArray,
    pub(crate) environment: CStrArray,
    pub(crate) terminal: bool,
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Option<String>,
    pub(crate) personality: Option<u32>,
    pub(crate) scheduling: Option<Scheduling>,
    pub(crate) io_priority: Option<u32>,
}

/// What is executed: the paths to try in turn.
#[derive(Debug)]
pub(crate) struct ProgramFile {
    /// As asked for.
    pub(crate) name: String,
    /// Where it is looked for, when `name` is not a path.
    pub(crate) search: Option<String>,
    pub(crate) candidates: Vec<CString>,
}

impl ProcessPlan {
    /// `seccomp` and `personality` are the container's.
    pub(crate) fn new(
        process: &Process,
        seccomp: Option<&LinuxSeccomp>,
        personality: Option<&LinuxPersonality>,
        context: &Context,
    ) -> Result<Self, Error> {
        let user = process.user();
        let groups = user.additional_gids().clone().unwrap_or_default();
        for (field, id) in [("uid", user.uid()), ("gid", user.gid())]
            .into_iter()
            .chain(groups.iter().map(|&gid| ("additionalGids", gid)))
        {
            // To the kernel this number means "leave as it is", which would be root.
            if id == u32::MAX {
                return Err(Error::invalid(format!("process.user.{field}: 4294967295 is not an id")));
            }
        }
        let environment = environment(process.env().as_deref().unwrap_or_default())?;
        let arguments = process.args().as_deref().unwrap_or_default();
        Ok(Self {
            uid: user.uid(),
            gid: user.gid(),
            groups,
            umask: umask(user.umask().unwrap_or(0o022))?,
            capabilities: capabilities(process)?,
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            seccomp: seccomp.map(|profile| filter(profile, context)).transpose()?,
            rlimits: rlimits(process)?,
            oom_score_adj: process.oom_score_adj().map(oom_score_adj).transpose()?,
            restrict_oom_score_adj: context.restrict_oom_score_adj,
            cwd: cwd(process.cwd())?,
            program: ProgramFile::new(arguments, &environment)?,
            arguments: strings("process.args", arguments)?,
            environment: strings("process.env", &environment)?,
            terminal: process.terminal().unwrap_or(false),
            apparmor: process
                .apparmor_profile()
                .clone()
                .filter(|name| !name.is_empty() && name != "unconfined"),
            selinux: process.selinux_label().clone().filter(|label| !label.is_empty()),
            personality: personality.map(persona).transpose()?,
            scheduling: scheduling(process)?,
            io_priority: priority(process)?,
        })
        .and_then(|plan| match process.exec_cpu_affinity() {
            Some(_) => Err(Error::unsupported("process.execCPUAffinity is not supported yet")),
            None => Ok(plan),
        })
    }
}

impl ProgramFile {
    fn new(arguments: &[String], environment: &[String]) -> Result<Self, Error> {
        let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
            return Err(Error::invalid("process.args: no program is named"));
        };
        if name.contains('/') {
            let candidates = vec![c_string("process.args", name)?];
            return Ok(Self { name: name.clone(), search: None, candidates });
        }
        let search = environment
            .iter()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let candidates = search
            .split(':')
            .map(|dir| {
                c_string("process.args", &format!("{}/{name}", if dir.is_empty() { "." } else { dir }))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { name: name.clone(), search: Some(search.to_owned()), candidates })
    }
}

fn filter(profile: &LinuxSeccomp, context: &Context) -> Result<Program, Error> {
    let program = seccomp::compile(profile)?;
    if program.notifies() && !context.passes_listeners {
        return Err(Error::unsupported("linux.seccomp: SCMP_ACT_NOTIFY: this caller passes no listener on"));
    }
    Ok(program)
}

pub(crate) fn c_string(field: &str, text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::invalid(format!("{field}: {text:?} has a NUL character")))
}

pub(crate) fn oom_score_adj(value: i32) -> Result<i32, Error> {
    if (-1000..=1000).contains(&value) {
        Ok(value)
    } else {
        Err(Error::invalid(format!("oomScoreAdj: {value} is not in -1000 to 1000")))
    }
}

fn strings(field: &str, list: &[String]) -> Result<CStrArray, Error> {
    CStrArray::new(list).map_err(|error| Error::invalid(format!("{field}: {error}")))
}

/// The last of several values for one name holds, where the first stood: programs differ in which one they see.
fn environment(list: &[String]) -> Result<Vec<String>, Error> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut out: Vec<String> = Vec::with_capacity(list.len());
    for variable in list {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::invalid(format!("process.env: {variable:?} is not NAME=VALUE")));
        };
        match places.get(name) {
            Some(&place) => out[place].clone_from(variable),
            None => {
                places.insert(name, out.len());
                out.push(variable.clone());
            }
        }
    }
    Ok(out)
}

fn umask(value: u32) -> Result<u32, Error> {
    if value > 0o777 {
        return Err(Error::invalid(format!(
            "process.user.umask: {value:#o} has bits that are no permissions"
        )));
    }
    Ok(value)
}

fn cwd(path: &Path) -> Result<Inside, Error> {
    if !path.is_absolute() {
        return Err(Error::invalid(format!("process.cwd: {path:?} is not an absolute path")));
    }
    Inside::new("process.cwd", path)
}

fn capabilities(process: &Process) -> Result<Sets, Error> {
    let Some(sets) = process.capabilities() else { return Ok(Sets::default()) };
    let set = |names: &Option<Capabilities>| {
        names.iter().flatten().try_fold(CapSet::default(), |set, name| {
            let name = format!("CAP_{name}");
            let unknown = |_| Error::unsupported(format!("process.capabilities: {name} is not known"));
            name.parse::<Capability>().map(|capability| set.with(capability)).map_err(unknown)
        })
    };
    Ok(Sets {
        bounding: set(sets.bounding())?,
        effective: set(sets.effective())?,
        permitted: set(sets.permitted())?,
        inheritable: set(sets.inheritable())?,
        ambient: set(sets.ambient())?,
    })
}

fn rlimits(process: &Process) -> Result<Vec<(Resource, Rlimit)>, Error> {
    let mut seen = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        if seen.iter().any(|(other, _)| *other == resource) {
            return Err(Error::invalid(format!("process.rlimits: {} is there twice", limit.typ())));
        }
        if limit.soft() > limit.hard() {
            let (typ, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
            return Err(Error::invalid(format!("process.rlimits: {typ} has soft {soft} above hard {hard}")));
        }
        // RLIM_INFINITY.
        let value = |number: u64| Some(number).filter(|number| *number != u64::MAX);
        seen.push((resource, Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) }));
    }
    Ok(seen)
}

fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

fn persona(personality: &LinuxPersonality) -> Result<u32, Error> {
    if personality.flags().iter().flatten().next().is_some() {
        return Err(Error::unsupported("linux.personality.flags: none is defined by the specification"));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn scheduling(process: &Process) -> Result<Option<Scheduling>, Error> {
    let Some(scheduler) = process.scheduler() else { return Ok(None) };
    if scheduler.flags().iter().flatten().next().is_some() {
        return Err(Error::unsupported("process.scheduler.flags is not supported yet"));
    }
    // SCHED_* of linux/sched.h.
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let number = |field: &str, value: Option<i32>| {
        let value = value.unwrap_or(0);
        u32::try_from(value)
            .map_err(|_| Error::invalid(format!("process.scheduler.{field}: {value} is negative")))
    };
    Ok(Some(Scheduling {
        policy,
        nice: scheduler.nice().unwrap_or(0),
        priority: number("priority", *scheduler.priority())?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..Scheduling::default()
    }))
}

fn priority(process: &Process) -> Result<Option<u32>, Error> {
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
