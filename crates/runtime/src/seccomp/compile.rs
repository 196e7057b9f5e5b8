//! OCI profile to BPF program.
//!
//! For each architecture the call numbers are cut into ranges with one outcome each, and a balanced tree of comparisons
//! finds the range: neighbours that are all allowed are one range, so a verdict takes about ten instructions.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};

use vaquita_sys::seccomp::{
    FLAG_LOG, FLAG_NEW_LISTENER, FLAG_SPEC_ALLOW, FLAG_TSYNC, FLAG_TSYNC_ESRCH, FLAG_WAIT_KILLABLE_RECV,
    MAX_INSTRUCTIONS, SockFilter,
};

use super::bpf::{self, Condition, Program, Test};
use super::table;
use crate::Error;

/// Compiles a profile.
///
/// # Errors
/// [`crate::Kind::Invalid`] for a profile that contradicts itself, [`crate::Kind::Unsupported`] for an architecture or
/// action that cannot be had.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let default = verdict(profile.default_action(), profile.default_errno_ret(), "defaultErrnoRet")?;
    let rules = rules(profile)?;
    let columns = columns(profile)?;
    let notifies = notifies(profile);
    check_listener(profile, notifies, &rules, default)?;
    let mut sections: BTreeMap<u32, BTreeMap<u32, Outcome>> = BTreeMap::new();
    for &column in &columns {
        sections.entry(column.audit).or_default().extend(ranges(column, &rules, default));
    }
    if let Some(ranges) = sections.get_mut(&X86_64.audit) {
        // x86_64 and x32 share an audit number. What is not among the architectures may not be called.
        ranges.entry(0).or_insert_with(|| Outcome::plain(KILL_PROCESS));
        ranges.entry(X32_BIT).or_insert_with(|| Outcome::plain(KILL_PROCESS));
        // What a tracer sets to skip a call; else it would count as a call of x32.
        ranges.insert(u32::MAX, Outcome::plain(default));
    }
    let mut program = vec![bpf::plain(bpf::RETURN, KILL_PROCESS)];
    for (audit, ranges) in sections {
        let mut ranges: Vec<(u32, Outcome)> = ranges.into_iter().collect();
        ranges.dedup_by(|later, earlier| later.1 == earlier.1);
        let mut section = vec![bpf::plain(bpf::LOAD, bpf::NUMBER)];
        section.extend(tree(&ranges));
        program = bpf::either(bpf::EQUAL, audit, &section, &program);
    }
    program.insert(0, bpf::plain(bpf::LOAD, bpf::ARCHITECTURE));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::unsupported(format!(
            "the seccomp profile compiles to {} instructions; the kernel takes {}",
            program.len(),
            MAX_INSTRUCTIONS
        )));
    }
    Ok(Program { instructions: program, flags: flags(profile, notifies)? })
}

/// Whether calls are told to an agent, which the profile's `listenerPath` leads to. Where they are not, that is to be ignored.
#[must_use]
pub fn notifies(profile: &LinuxSeccomp) -> bool {
    let rules = profile.syscalls().iter().flatten();
    profile.default_action() == LinuxSeccompAction::ScmpActNotify
        || rules
            .into_iter()
            .any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify && !rule.names().is_empty())
}

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
/// Without the data that an action may carry (`SECCOMP_RET_ACTION_FULL`).
const ACTION: u32 = 0xffff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Largest error number (`MAX_ERRNO`, linux/err.h).
const MAX_ERRNO: u32 = 4095;
/// Marks a call of x32 (`__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;
/// ARM's private calls start here (`__ARM_NR_BASE`); they say nothing about how new a profile is.
const PRIVATE: u32 = 0x000f_0000;

/// Where the numbers of one architecture are found.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Column {
    /// `AUDIT_ARCH_*` (linux/audit.h).
    audit: u32,
    table: usize,
}

const X86_64: Column = Column { audit: 0xc000_003e, table: 0 };
const X86: Column = Column { audit: 0x4000_0003, table: 1 };
const X32: Column = Column { audit: 0xc000_003e, table: 2 };
const AARCH64: Column = Column { audit: 0xc000_00b7, table: 3 };
const ARM: Column = Column { audit: 0x4000_0028, table: 4 };

impl Column {
    /// libseccomp compares 32 bits on these, so that -1 in a profile is -1 there too.
    fn narrow(self) -> bool {
        [X86, X32, ARM].contains(&self)
    }

    fn marker(self) -> u32 {
        if self == X32 { X32_BIT } else { 0 }
    }

    fn number(self, name: &str) -> Option<u32> {
        table::number(name, self.table).map(|number| number | self.marker())
    }
}

/// A rule as it applies to any architecture.
struct Rule<'a> {
    name: &'a str,
    conditions: Vec<Condition>,
    verdict: u32,
}

/// What happens to a call.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Outcome {
    conditional: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

impl Outcome {
    fn plain(verdict: u32) -> Self {
        Self { conditional: Vec::new(), otherwise: verdict }
    }

    fn code(&self) -> Vec<SockFilter> {
        let mut code: Vec<SockFilter> = self
            .conditional
            .iter()
            .flat_map(|(conditions, verdict)| bpf::rule(conditions, *verdict))
            .collect();
        code.push(bpf::plain(bpf::RETURN, self.otherwise));
        code
    }
}

fn tree(ranges: &[(u32, Outcome)]) -> Vec<SockFilter> {
    match ranges {
        [] => vec![bpf::plain(bpf::RETURN, KILL_PROCESS)],
        [(_, outcome)] => outcome.code(),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            bpf::split(right[0].0, &tree(left), &tree(right))
        }
    }
}

/// The outcome of every number of an architecture: each entry holds from its number to the next entry's.
fn ranges(column: Column, rules: &[Rule<'_>], default: u32) -> Vec<(u32, Outcome)> {
    let calls = calls(column, rules, default);
    let newest = calls.keys().copied().filter(|number| number & !X32_BIT < PRIVATE).max();
    // A tracer knows better what to do about a call that is new.
    let unknown = if matches!(default & ACTION, ALLOW | LOG | TRACE) { default } else { ERRNO | ENOSYS };
    // Where no call is named nothing says how new the profile is.
    let fill = |number: u32| {
        Outcome::plain(if newest.is_some_and(|newest| number > newest) { unknown } else { default })
    };
    let mut out = Vec::new();
    let mut next = column.marker();
    for (number, outcome) in calls {
        if number > next {
            out.push((next, fill(next)));
        }
        out.push((number, outcome));
        next = number + 1;
    }
    out.push((next, fill(next)));
    out
}

/// The calls of an architecture which the rules name.
fn calls(column: Column, rules: &[Rule<'_>], default: u32) -> BTreeMap<u32, Outcome> {
    let mut calls: BTreeMap<u32, Named> = BTreeMap::new();
    for rule in rules {
        if rule.verdict == default {
            // No rule, but known to the profile's author: it counts for how new the profile is.
            column.number(rule.name).map(|number| calls.entry(number).or_default());
            continue;
        }
        if let Some(number) = column.number(rule.name) {
            let narrow = column.narrow();
            let conditions = rule.conditions.iter().map(|condition| Condition { narrow, ..*condition });
            // A comparison of no bits holds always: to libseccomp too a rule of such conditions has none.
            let conditions = conditions.filter(|condition| !condition.compares_nothing()).collect();
            calls.entry(number).or_default().add(conditions, rule.verdict);
        }
        if column == X86
            && let Some((gate, call)) = gated(rule.name)
            && let Some(number) = column.number(gate)
        {
            // The arguments of the inner call are behind a pointer. What cannot be examined is denied rather than allowed.
            if rule.conditions.is_empty() || rule.verdict != ALLOW {
                // The upper half of ipc's first argument is a version (ipc(2)).
                let inner = Condition { argument: 0, test: Test::Masked(0xffff, call), narrow: true };
                calls.entry(number).or_default().add(vec![inner], rule.verdict);
            }
        }
    }
    calls
        .into_iter()
        .map(|(number, Named { conditional, plain })| {
            let outcome = match plain {
                Some(verdict) => Outcome::plain(verdict),
                None => Outcome { conditional, otherwise: default },
            };
            (number, outcome)
        })
        .collect()
}

/// What the rules say of one call.
#[derive(Default)]
struct Named {
    conditional: Vec<(Vec<Condition>, u32)>,
    plain: Option<u32>,
}

impl Named {
    fn add(&mut self, conditions: Vec<Condition>, verdict: u32) {
        if conditions.is_empty() {
            self.plain.get_or_insert(verdict);
        } else {
            self.conditional.push((conditions, verdict));
        }
    }
}

/// On 32-bit x86, socket and System V IPC calls also come through one gate each (socketcall(2), ipc(2)).
fn gated(name: &str) -> Option<(&'static str, u64)> {
    const SOCKET: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    let socket = SOCKET.iter().zip(1..).find(|(other, _)| **other == name);
    socket
        .map(|(_, number)| ("socketcall", number))
        .or_else(|| IPC.iter().find(|(other, _)| *other == name).map(|(_, number)| ("ipc", *number)))
}

fn rules(profile: &LinuxSeccomp) -> Result<Vec<Rule<'_>>, Error> {
    let mut rules = Vec::new();
    for syscall in profile.syscalls().iter().flatten() {
        let verdict = verdict(syscall.action(), syscall.errno_ret(), "errnoRet")?;
        let alternatives = alternatives(syscall)?;
        for name in syscall.names() {
            for conditions in &alternatives {
                rules.push(Rule { name, conditions: conditions.clone(), verdict });
            }
        }
    }
    Ok(rules)
}

/// Lists of conditions of which one must hold wholly.
fn alternatives(syscall: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, Error> {
    let conditions: Vec<Condition> =
        syscall.args().iter().flatten().map(condition).collect::<Result<_, _>>()?;
    let distinct: BTreeSet<u32> = conditions.iter().map(|condition| condition.argument).collect();
    Ok(if distinct.len() == conditions.len() {
        vec![conditions]
    } else {
        conditions.into_iter().map(|condition| vec![condition]).collect()
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    let argument = u32::try_from(arg.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
        Error::invalid(format!("linux.seccomp: argument index {} is not in 0 to 5", arg.index()))
    })?;
    let value = arg.value();
    let test = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Test::AtMost(value),
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
        LinuxSeccompOperator::ScmpCmpGe => Test::AtLeast(value),
        LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => Test::Masked(value, arg.value_two().unwrap_or(0) & value),
    };
    Ok(Condition { argument, test, narrow: false })
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32, Error> {
    let within = |limit: u32| match errno.unwrap_or(EPERM) {
        value if value <= limit => Ok(value),
        value => Err(Error::invalid(format!("linux.seccomp: {field} {value} is above {limit}"))),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActErrno => return Ok(ERRNO | within(MAX_ERRNO)?),
        LinuxSeccompAction::ScmpActTrace => return Ok(TRACE | within(0xffff)?),
        _ if errno.is_some() => {
            return Err(Error::invalid(format!(
                "linux.seccomp: {field} is given for {action:?}, which returns no error"
            )));
        }
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
    })
}

/// The listener must have somewhere to go, and a way there: the process sends it with sendmsg(2), under the filter.
fn check_listener(
    profile: &LinuxSeccomp,
    notifies: bool,
    rules: &[Rule<'_>],
    default: u32,
) -> Result<(), Error> {
    let path = profile.listener_path().as_deref().filter(|path| !path.as_os_str().is_empty());
    if path.is_none() && profile.listener_metadata().as_ref().is_some_and(|text| !text.is_empty()) {
        return Err(Error::invalid("linux.seccomp: listenerMetadata is given without a listenerPath"));
    }
    if !notifies {
        return Ok(());
    }
    match path {
        None => return Err(Error::invalid("linux.seccomp: SCMP_ACT_NOTIFY needs a listenerPath")),
        Some(path) if !path.is_absolute() => {
            return Err(Error::invalid(format!("linux.seccomp: listenerPath: {path:?} is not absolute")));
        }
        Some(_) => {}
    }
    let sendmsg = native().number("sendmsg");
    let outcome = sendmsg.and_then(|number| calls(native(), rules, default).remove(&number));
    let outcome = outcome.unwrap_or(Outcome::plain(default));
    if outcome != Outcome::plain(ALLOW) && outcome != Outcome::plain(LOG) {
        return Err(Error::invalid(
            "linux.seccomp: with SCMP_ACT_NOTIFY the call sendmsg must be allowed without conditions: the listener is \
             passed on by it",
        ));
    }
    Ok(())
}

fn native() -> Column {
    if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 }
}

fn columns(profile: &LinuxSeccomp) -> Result<BTreeSet<Column>, Error> {
    let native = native();
    let mut columns = BTreeSet::from([native]);
    for arch in profile.architectures().iter().flatten() {
        columns.insert(match arch {
            Arch::ScmpArchNative => native,
            Arch::ScmpArchX86_64 => X86_64,
            Arch::ScmpArchX86 => X86,
            Arch::ScmpArchX32 => X32,
            Arch::ScmpArchAarch64 => AARCH64,
            Arch::ScmpArchArm => ARM,
            // Cannot be executed by any machine this program is built for, so nothing is left unfiltered.
            _ => continue,
        });
    }
    Ok(columns)
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> Result<u32, Error> {
    let mut bits = if notifies { FLAG_NEW_LISTENER } else { 0 };
    for flag in profile.flags().iter().flatten() {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync if notifies => FLAG_TSYNC | FLAG_TSYNC_ESRCH,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => FLAG_WAIT_KILLABLE_RECV,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(Error::invalid(
                    "linux.seccomp: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a call with SCMP_ACT_NOTIFY",
                ));
            }
        };
    }
    Ok(bits)
}

#[cfg(test)]
mod tests;
