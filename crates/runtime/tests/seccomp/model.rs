//! What a profile means, said without BPF: for one call, look at the rules one after the other.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use crate::interpreter::Call;

pub const AUDIT_X86_64: u32 = 0xc000_003e;
pub const AUDIT_X86: u32 = 0x4000_0003;
pub const AUDIT_AARCH64: u32 = 0xc000_00b7;
pub const AUDIT_ARM: u32 = 0x4000_0028;
pub const X32_BIT: u32 = 0x4000_0000;

pub const KILL_PROCESS: u32 = 0x8000_0000;
pub const ENOSYS: u32 = 0x0005_0026;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const TRACE: u32 = 0x7ff0_0000;

/// A set of numbers for calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    pub const ALL: [Self; 5] = [Self::X86_64, Self::X86, Self::X32, Self::Aarch64, Self::Arm];

    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => AUDIT_X86_64,
            Self::X86 => AUDIT_X86,
            Self::Aarch64 => AUDIT_AARCH64,
            Self::Arm => AUDIT_ARM,
        }
    }

    pub fn bit(self) -> u32 {
        if self == Self::X32 { X32_BIT } else { 0 }
    }

    pub fn of_profile(arch: Arch) -> Option<Self> {
        Some(match arch {
            Arch::ScmpArchNative => Self::native(),
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            Arch::ScmpArchArm => Self::Arm,
            _ => return None,
        })
    }

    pub fn native() -> Self {
        if cfg!(target_arch = "x86_64") { Self::X86_64 } else { Self::Aarch64 }
    }

    /// None for an architecture that no profile can name here.
    pub fn of_call(call: &Call) -> Option<Self> {
        Some(match call.architecture {
            AUDIT_X86_64 if call.number >= X32_BIT => Self::X32,
            AUDIT_X86_64 => Self::X86_64,
            AUDIT_X86 => Self::X86,
            AUDIT_AARCH64 => Self::Aarch64,
            AUDIT_ARM => Self::Arm,
            _ => return None,
        })
    }

    /// Arguments are compared by their lower half.
    fn is_narrow(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }
}

/// Numbers of calls by name: those of libseccomp (`numbers.txt`), and of calls that are newer than its version.
pub struct Names(BTreeMap<String, [Option<u32>; 5]>);

/// Calls of which libseccomp 2.5.4 does not know the number on every architecture; from the tables of Linux 6.18.
const NEWER: &str = "\
file_getattr 468 468 468 468 468
file_setattr 469 469 469 469 469
getxattrat 464 464 464 464 464
listmount 458 458 458 458 458
listxattrat 465 465 465 465 465
lsm_get_self_attr 459 459 459 459 459
lsm_list_modules 461 461 461 461 461
lsm_set_self_attr 460 460 460 460 460
map_shadow_stack 453 453 453 453 453
mseal 462 462 462 462 462
open_tree_attr 467 467 467 467 467
removexattrat 466 466 466 466 466
setxattrat 463 463 463 463 463
statmount 457 457 457 457 457
sync_file_range2 - - - - 341
uretprobe 335 - 335 - -";

impl Names {
    /// The lines are `name x86_64 x86 x32 aarch64 arm`, `-` for none; numbers of x32 without its bit.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let name = words.next().unwrap().to_owned();
            let numbers: Vec<Option<u32>> = words.map(|word| word.parse().ok()).collect();
            (name, numbers.try_into().unwrap())
        };
        let lines = text.lines().chain(NEWER.lines());
        Self(lines.filter(|text| !text.starts_with('#')).map(line).collect())
    }

    pub fn number(&self, abi: Abi, name: &str) -> Option<u32> {
        self.0.get(name)?[abi as usize]
    }

    pub fn all(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Whether libseccomp knows other numbers for the name, or none.
    pub fn is_newer(name: &str) -> bool {
        NEWER.lines().any(|line| line.split(' ').next() == Some(name))
    }
}

/// The verdict on a call, and how it came about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub verdict: u32,
    /// It is the default's, or ENOSYS in its place: no rule decides.
    pub is_default: bool,
    /// No rule names the call, and it is newer than all that are named.
    pub is_newer: bool,
    /// What each conditional rule that holds says, in order, where no unconditional one decides.
    pub holding: Vec<u32>,
    /// It is socketcall(2) or ipc(2) of 32-bit x86, and a rule of the profile is on one of the calls behind it.
    pub through_gate: bool,
    /// The conditions of each rule that names the call, where it has any.
    pub conditions: Vec<Vec<LinuxSeccompArg>>,
}

/// What the profile says of a call.
pub fn answer(profile: &LinuxSeccomp, names: &Names, call: &Call) -> Answer {
    let default = value(profile.default_action(), profile.default_errno_ret());
    let mut answer = Answer {
        verdict: default,
        is_default: true,
        is_newer: false,
        holding: Vec::new(),
        through_gate: false,
        conditions: Vec::new(),
    };
    let listed: Vec<Abi> =
        profile.architectures().iter().flatten().filter_map(|arch| Abi::of_profile(*arch)).collect();
    let abi = match Abi::of_call(call) {
        // What a tracer leaves for "do nothing".
        Some(Abi::X32) if call.number == u32::MAX => return answer,
        Some(abi) if abi == Abi::native() || listed.contains(&abi) => abi,
        _ => return Answer { verdict: KILL_PROCESS, is_default: false, ..answer },
    };
    let number = call.number & !abi.bit();
    let mut is_named = false;
    let mut plain = None;
    for rule in profile.syscalls().iter().flatten() {
        let verdict = value(rule.action(), rule.errno_ret());
        for name in rule.names() {
            let gate = gate(abi, name).filter(|(gate, _)| names.number(abi, gate) == Some(number));
            let direct = names.number(abi, name) == Some(number);
            is_named |= direct;
            // A rule that does what happens anyway is none.
            if verdict == default {
                continue;
            }
            if let Some((_, inner)) = gate {
                // Conditions are on what the gate's second argument points to. What they would deny is denied without
                // them, what they would allow is not allowed.
                answer.through_gate = true;
                let has_conditions = rule.args().iter().flatten().next().is_some();
                if !has_conditions || verdict != ALLOW {
                    is_named = true;
                    if call.arguments[0] & 0xffff == inner {
                        answer.holding.push(verdict);
                    }
                }
            }
            if direct {
                answer.conditions.extend(rule.args().clone().filter(|args| !args.is_empty()));
                match holds(rule, abi, call) {
                    None => plain = plain.or(Some(verdict)),
                    Some(true) => answer.holding.push(verdict),
                    Some(false) => {}
                }
            }
        }
    }
    if let Some(verdict) = plain {
        return Answer { verdict, is_default: false, holding: Vec::new(), ..answer };
    }
    if let Some(&verdict) = answer.holding.first() {
        return Answer { verdict, is_default: false, ..answer };
    }
    if !is_named && newest(profile, names, abi).is_some_and(|newest| number > newest) {
        let is_kept = matches!(default & 0xffff_0000, ALLOW | LOG | TRACE);
        answer.is_newer = true;
        answer.verdict = if is_kept { default } else { ENOSYS };
    }
    answer
}

/// The highest number of a call that the profile names. Private calls of ARM are numbered apart.
pub fn newest(profile: &LinuxSeccomp, names: &Names, abi: Abi) -> Option<u32> {
    let default = value(profile.default_action(), profile.default_errno_ret());
    let rules = profile.syscalls().iter().flatten();
    rules
        .flat_map(|rule| rule.names().iter().map(move |name| (rule, name)))
        .flat_map(|(rule, name)| {
            let verdict = value(rule.action(), rule.errno_ret());
            let is_gated =
                verdict != default && (verdict != ALLOW || rule.args().iter().flatten().next().is_none());
            let gate = gate(abi, name).filter(|_| is_gated).and_then(|(gate, _)| names.number(abi, gate));
            [names.number(abi, name), gate]
        })
        .flatten()
        .filter(|number| *number < 0xf_0000)
        .max()
}

/// What seccomp(2) is told for an action.
pub fn value(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActTrace => TRACE | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    }
}

/// None where there is no condition: a masked comparison without a bit in its mask is none.
fn holds(rule: &LinuxSyscall, abi: Abi, call: &Call) -> Option<bool> {
    let conditions: &[LinuxSeccompArg] = rule.args().as_deref().unwrap_or_default();
    let is_twice =
        |arg: &LinuxSeccompArg| conditions.iter().filter(|other| other.index() == arg.index()).count() > 1;
    let bits = if abi.is_narrow() { u64::from(u32::MAX) } else { u64::MAX };
    let is_void =
        |arg: &LinuxSeccompArg| arg.op() == LinuxSeccompOperator::ScmpCmpMaskedEq && arg.value() & bits == 0;
    // Two conditions on one argument make all of them alternatives.
    let are_alternatives = conditions.iter().any(is_twice);
    if conditions.iter().all(is_void) || are_alternatives && conditions.iter().any(is_void) {
        return None;
    }
    let mut each = conditions.iter().map(|condition| condition_holds(condition, abi, call));
    Some(if are_alternatives { each.any(|holds| holds) } else { each.all(|holds| holds) })
}

fn condition_holds(condition: &LinuxSeccompArg, abi: Abi, call: &Call) -> bool {
    let cut = |value: u64| if abi.is_narrow() { value & 0xffff_ffff } else { value };
    let actual = cut(call.arguments[condition.index()]);
    let value = cut(condition.value());
    match condition.op() {
        LinuxSeccompOperator::ScmpCmpNe => actual != value,
        LinuxSeccompOperator::ScmpCmpLt => actual < value,
        LinuxSeccompOperator::ScmpCmpLe => actual <= value,
        LinuxSeccompOperator::ScmpCmpEq => actual == value,
        LinuxSeccompOperator::ScmpCmpGe => actual >= value,
        LinuxSeccompOperator::ScmpCmpGt => actual > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            actual & value == cut(condition.value_two().unwrap_or(0)) & value
        }
    }
}

/// socketcall(2) and ipc(2) of 32-bit x86, and the number that stands for `name` there.
pub fn gate(abi: Abi, name: &str) -> Option<(&'static str, u64)> {
    const SOCKET: &str = "socket bind connect listen accept getsockname getpeername socketpair send recv sendto \
                          recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg";
    const IPC: &str = "semop=1 semget=2 semctl=3 semtimedop=4 msgsnd=11 msgrcv=12 msgget=13 msgctl=14 shmat=21 \
                       shmdt=22 shmget=23 shmctl=24";
    if abi != Abi::X86 {
        return None;
    }
    if let Some(at) = SOCKET.split(' ').position(|other| other == name) {
        return Some(("socketcall", at as u64 + 1));
    }
    let mut inner = IPC.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    inner.find(|(other, _)| *other == name).map(|(_, number)| ("ipc", number.parse().unwrap()))
}
