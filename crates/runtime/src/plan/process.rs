//! The process part of a specification: who it is, what it may do, what it executes.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{
    Capabilities, Linux, LinuxPersonality, LinuxPersonalityDomain, LinuxSeccomp, PosixRlimitType, Process,
};
use rustix::process::{Resource, Rlimit};
use vaquita_sys::cap::{CapSet, Capability, Sets};
use vaquita_sys::process::{CStrArray, Scheduling};

use super::path::{Inside, PATH_MAX};
use super::scheduling::{self, Affinity, MemoryPolicy};
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
    pub(crate) seccomp: Option<Arc<Program>>,
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
    /// For a process that is added to a container; that of a container has its cgroup's.
    pub(crate) affinity: Affinity,
    pub(crate) memory_policy: Option<MemoryPolicy>,
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

/// What a container's specification says of all its processes.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    seccomp: Option<Arc<Program>>,
    personality: Option<u32>,
    memory_policy: Option<MemoryPolicy>,
}

impl Common {
    pub(crate) fn new(linux: Option<&Linux>, context: &Context) -> Result<Self, Error> {
        let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
        let personality = linux.and_then(|linux| linux.personality().as_ref());
        let memory_policy = linux.and_then(|linux| linux.memory_policy().as_ref());
        Ok(Self {
            seccomp: seccomp.map(|profile| filter(profile, context)).transpose()?.map(Arc::new),
            personality: personality.map(persona).transpose()?,
            memory_policy: memory_policy.map(MemoryPolicy::new).transpose()?,
        })
    }
}

impl ProcessPlan {
    pub(crate) fn new(process: &Process, common: Common, context: &Context) -> Result<Self, Error> {
        refuse_foreign(process)?;
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
        if groups.len() > NGROUPS_MAX {
            return Err(Error::invalid(format!(
                "process.user.additionalGids: {} groups; the kernel takes {NGROUPS_MAX} (setgroups(2))",
                groups.len()
            )));
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
            seccomp: common.seccomp,
            rlimits: rlimits(process)?,
            oom_score_adj: process.oom_score_adj().map(oom_score_adj).transpose()?,
            restrict_oom_score_adj: context.restrict_oom_score_adj,
            cwd: cwd(process.cwd())?,
            // First: the search path is among them.
            environment: strings("process.env", &environment)?,
            program: ProgramFile::new(arguments, &environment)?,
            arguments: strings("process.args", arguments)?,
            terminal: process.terminal().unwrap_or(false),
            apparmor: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
            selinux: process.selinux_label().clone().filter(|label| !label.is_empty()),
            personality: common.personality,
            scheduling: scheduling::scheduling(process)?,
            io_priority: scheduling::io(process)?,
            affinity: Affinity::new(process.exec_cpu_affinity().as_ref())?,
            memory_policy: common.memory_policy,
        })
    }
}

impl ProgramFile {
    fn new(arguments: &[String], environment: &[String]) -> Result<Self, Error> {
        let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
            return Err(Error::invalid("process.args: no program is named"));
        };
        // A longer one is no file's, and would be put behind each directory of a long search path.
        let longest = if name.contains('/') { PATH_MAX - 1 } else { 255 };
        if name.len() > longest {
            return Err(Error::invalid(format!(
                "process.args: the program {name:?} is longer than {longest} bytes"
            )));
        }
        if name.contains('/') {
            let candidates = vec![c_string("process.args", name)?];
            return Ok(Self { name: name.clone(), search: None, candidates });
        }
        let search = environment
            .iter()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut seen = HashSet::new();
        let candidates = search
            .split(':')
            .filter(|dir| seen.insert(*dir))
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

/// Most supplementary groups (linux/limits.h).
const NGROUPS_MAX: usize = 65536;

/// The longest argument or variable that execve takes, with its NUL (`MAX_ARG_STRLEN`, linux/binfmts.h: 32 pages).
const LONGEST: usize = 32 * 4096;

fn strings(field: &str, list: &[String]) -> Result<CStrArray, Error> {
    if let Some(at) = list.iter().position(|text| text.len() >= LONGEST) {
        let length = list[at].len();
        return Err(Error::invalid(format!(
            "{field}[{at}]: it has {length} bytes; the kernel takes up to {} (E2BIG, execve(2))",
            LONGEST - 1
        )));
    }
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
    let sets = Sets {
        bounding: set(sets.bounding())?,
        effective: set(sets.effective())?,
        permitted: set(sets.permitted())?,
        inheritable: set(sets.inheritable())?,
        ambient: set(sets.ambient())?,
    };
    // What capset(2) and prctl(2) refuse with no more than EPERM.
    for (name, set, other, of) in [
        ("effective", sets.effective, "permitted", sets.permitted),
        ("inheritable", sets.inheritable, "bounding", sets.bounding),
        ("ambient", sets.ambient, "permitted", sets.permitted),
        ("ambient", sets.ambient, "inheritable", sets.inheritable),
    ] {
        let more = set.difference(of);
        if !more.is_empty() {
            return Err(Error::invalid(format!(
                "process.capabilities.{name}: {more:?} must be in {other}, too (capabilities(7))"
            )));
        }
    }
    Ok(sets)
}

/// What the specification has for other platforms.
fn refuse_foreign(process: &Process) -> Result<(), Error> {
    for (value, field) in [
        (process.command_line(), "process.commandLine"),
        (process.user().username(), "process.user.username"),
    ] {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            return Err(Error::unsupported(format!("{field} is for Windows")));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NAMES: [&str; 4] = ["CAP_KILL", "CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_BPF"];

    proptest! {
        /// Sets that capset(2) and prctl(2) take, and no others.
        #[test]
        fn sets_of_capabilities_lie_in_each_other(bits in prop::array::uniform5(0..16_u8)) {
            let names = |bits: u8| {
                (0..4).filter(|at| bits >> at & 1 == 1).map(|at| NAMES[at]).collect::<Vec<_>>()
            };
            let [bounding, effective, permitted, inheritable, ambient] = bits;
            let process = serde_json::from_value(json!({
                "cwd": "/", "user": {"uid": 0, "gid": 0},
                "capabilities": {
                    "bounding": names(bounding), "effective": names(effective), "permitted": names(permitted),
                    "inheritable": names(inheritable), "ambient": names(ambient),
                },
            }))
            .unwrap();
            let is_fine = effective & !permitted == 0
                && inheritable & !bounding == 0
                && ambient & !(permitted & inheritable) == 0;
            match capabilities(&process) {
                Err(error) => prop_assert!(!is_fine && error.to_string().starts_with("process.capabilities."), "{}", error),
                Ok(sets) => {
                    prop_assert!(is_fine);
                    let of = |set: CapSet| set.iter().map(|one| one.name().to_owned()).collect::<std::collections::BTreeSet<_>>();
                    let wanted = |bits| names(bits).into_iter().map(str::to_owned).collect();
                    prop_assert_eq!(of(sets.ambient), wanted(ambient));
                    prop_assert_eq!(of(sets.bounding), wanted(bounding));
                    prop_assert_eq!(of(sets.effective), wanted(effective));
                }
            }
        }

        /// Whatever the environment: the last value of a name holds, where the first stood.
        #[test]
        fn a_name_has_one_value(list in prop::collection::vec("[AB]{1,2}=[a-c]{0,2}", 0..8)) {
            let out = environment(&list).unwrap();
            let name = |text: &str| text.split('=').next().unwrap().to_owned();
            let names: Vec<String> = out.iter().map(|text| name(text)).collect();
            let mut first: Vec<String> = Vec::new();
            for text in &list {
                if !first.contains(&name(text)) {
                    first.push(name(text));
                }
            }
            prop_assert_eq!(&names, &first);
            for text in &out {
                prop_assert_eq!(Some(text), list.iter().rfind(|other| name(other) == name(text)));
            }
        }
    }
}
