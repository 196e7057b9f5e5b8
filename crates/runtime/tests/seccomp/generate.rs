//! Profiles and calls out of arbitrary bytes: what proptest and the fuzzer both feed.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use crate::interpreter::Call;
use crate::model::{Abi, Names, X32_BIT, gate, newest};

/// Takes decisions from bytes; zeros when they are used up.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: usize) -> usize {
        let low = usize::from(self.byte());
        if limit <= 256 { low % limit } else { (low | usize::from(self.byte()) << 8) % limit }
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// Values around which halves, signs and comparisons break.
    fn value(&mut self) -> u64 {
        let kind = self.byte();
        let near = u64::from(self.byte());
        match kind % 8 {
            0 | 1 => near,
            2 => near << 32,
            3 => (1 << 32) - 2 + near % 4,
            4 => u64::MAX - near % 4,
            5 => (1 << 63) - 2 + near % 4,
            6 => 1 << (near % 64),
            _ => (0..8).fold(near, |value, _| value << 8 | u64::from(self.byte())),
        }
    }
}

const ACTIONS: [LinuxSeccompAction; 9] = [
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActTrap,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActLog,
    LinuxSeccompAction::ScmpActNotify,
];

const OPERATORS: [LinuxSeccompOperator; 7] = [
    LinuxSeccompOperator::ScmpCmpEq,
    LinuxSeccompOperator::ScmpCmpMaskedEq,
    LinuxSeccompOperator::ScmpCmpNe,
    LinuxSeccompOperator::ScmpCmpLt,
    LinuxSeccompOperator::ScmpCmpLe,
    LinuxSeccompOperator::ScmpCmpGe,
    LinuxSeccompOperator::ScmpCmpGt,
];

const ARCHITECTURES: [Arch; 7] = [
    Arch::ScmpArchX86,
    Arch::ScmpArchX32,
    Arch::ScmpArchX86_64,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchNative,
    Arch::ScmpArchRiscv64,
];

/// A profile; a rule takes its names from a short list, so that several rules meet on one call.
pub fn profile(choices: &mut Choices<'_>, names: &Names) -> LinuxSeccomp {
    let all = names.all();
    let pool: Vec<&str> = (0..=choices.below(12))
        .map(|_| match choices.below(8) {
            0 => choices.of(&["socket", "shmat", "recvmmsg", "semtimedop"]),
            1 => choices.of(&[
                "read",
                "clone",
                "personality",
                "set_tls",
                "socketcall",
                "ipc",
                "futex_waitv",
                "sendmsg",
            ]),
            2 => "no_such_call",
            _ => choices.of(&all),
        })
        .collect();
    let mut builder = LinuxSeccompBuilder::default();
    let (action, errno) = action(choices);
    builder = builder.default_action(action);
    if let Some(errno) = errno {
        builder = builder.default_errno_ret(errno);
    }
    let architectures: BTreeSet<usize> =
        (0..choices.below(4)).map(|_| choices.below(ARCHITECTURES.len())).collect();
    if !architectures.is_empty() {
        builder =
            builder.architectures(architectures.iter().map(|at| ARCHITECTURES[*at]).collect::<Vec<_>>());
    }
    let mut rules: Vec<LinuxSyscall> = (0..choices.below(16)).map(|_| rule(choices, &pool)).collect();
    if action == LinuxSeccompAction::ScmpActNotify
        || rules.iter().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
    {
        // What the listener needs to get out.
        builder = builder.listener_path("/agent");
        let sendmsg = LinuxSyscallBuilder::default()
            .names(["sendmsg".to_owned()])
            .action(LinuxSeccompAction::ScmpActAllow);
        rules.insert(0, sendmsg.build().unwrap());
    }
    builder.syscalls(rules).build().unwrap()
}

fn action(choices: &mut Choices<'_>) -> (LinuxSeccompAction, Option<u32>) {
    let action = choices.of(&ACTIONS);
    let takes_errno = matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
    let errno = takes_errno.then(|| choices.of(&[None, Some(1), Some(0), Some(38), Some(4095), Some(22)]));
    (action, errno.flatten())
}

fn rule(choices: &mut Choices<'_>, pool: &[&str]) -> LinuxSyscall {
    let names: Vec<String> = (0..=choices.below(3)).map(|_| choices.of(pool).to_owned()).collect();
    let (action, errno) = action(choices);
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    let count = [0, 0, 1, 1, 2, 3, 6][choices.below(7)];
    let args: Vec<LinuxSeccompArg> = (0..count).map(|_| condition(choices)).collect();
    if !args.is_empty() {
        builder = builder.args(args);
    }
    builder.build().unwrap()
}

fn condition(choices: &mut Choices<'_>) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default()
        .index(choices.below(6))
        .op(choices.of(&OPERATORS))
        .value(choices.value());
    let builder = if choices.below(3) > 0 { builder.value_two(choices.value()) } else { builder };
    builder.build().unwrap()
}

/// Calls that a profile may treat apart: those it names and their neighbours, on every architecture, with arguments
/// around the values it compares with.
pub fn calls(profile: &LinuxSeccomp, names: &Names) -> BTreeSet<Call> {
    let mut calls = BTreeSet::new();
    for abi in Abi::ALL {
        let call = |number: u32, arguments| Call {
            architecture: abi.audit(),
            number: number | abi.bit(),
            arguments,
        };
        let mut numbers = BTreeSet::from([0, 1, 400, 500, 0xf_0000, X32_BIT - 1]);
        numbers.extend(newest(profile, names, abi).map(|newest| newest + 1));
        for rule in profile.syscalls().iter().flatten() {
            let conditions = rule.args().as_deref().unwrap_or_default();
            for name in rule.names() {
                let gate = gate(abi, name);
                if let Some(number) = names.number(abi, name) {
                    numbers.extend([number.saturating_sub(1), number, number + 1]);
                    calls.extend(arguments(conditions).into_iter().map(|arguments| call(number, arguments)));
                }
                if let Some(number) = gate.and_then(|(gate, _)| names.number(abi, gate)) {
                    let inner = (0..=25).chain([0x1_0001, 0x1_0000_0001]);
                    calls.extend(inner.map(|inner| call(number, [inner, 0, 0, 0, 0, 0])));
                }
            }
        }
        calls.extend(numbers.into_iter().flat_map(|number| [[0; 6], [u64::MAX; 6]].map(|a| call(number, a))));
        calls.insert(Call { architecture: abi.audit(), number: u32::MAX, arguments: [0; 6] });
    }
    calls.insert(Call { architecture: 0xc000_00f3, number: 0, arguments: [0; 6] });
    calls
}

/// Arguments that fulfil all conditions, and the same with one value at a time moved.
fn arguments(conditions: &[LinuxSeccompArg]) -> BTreeSet<[u64; 6]> {
    let mut fulfilling = [7; 6];
    for condition in conditions {
        let (value, second) = (condition.value(), condition.value_two().unwrap_or(0));
        fulfilling[condition.index()] = match condition.op() {
            LinuxSeccompOperator::ScmpCmpNe | LinuxSeccompOperator::ScmpCmpGt => value.wrapping_add(1),
            LinuxSeccompOperator::ScmpCmpLt => value.wrapping_sub(1),
            LinuxSeccompOperator::ScmpCmpMaskedEq => second & value | 0x10_0000_0010 & !value,
            _ => value,
        };
    }
    let mut out = BTreeSet::from([fulfilling]);
    for condition in conditions {
        let (value, at) = (condition.value(), condition.index());
        let moved = [
            value,
            value.wrapping_add(1),
            value.wrapping_sub(1),
            value ^ (1 << 32),
            value ^ (1 << 63),
            value & 0xffff_ffff,
            !value,
            fulfilling[at] ^ 1,
            condition.value_two().unwrap_or(0),
        ];
        out.extend(moved.map(|moved| {
            let mut arguments = fulfilling;
            arguments[at] = moved;
            arguments
        }));
    }
    out
}
