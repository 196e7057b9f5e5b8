//! Classic BPF as seccomp(2) takes it: instructions, and code for decisions and conditions.

use vaquita_sys::seccomp::SockFilter as Instruction;

/// A compiled profile: what seccomp(2) `SECCOMP_SET_MODE_FILTER` takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    pub(super) instructions: Vec<Instruction>,
    pub(super) flags: u32,
}

impl Program {
    /// The instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Whether calls are told to a listener (`SCMP_ACT_NOTIFY`).
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.flags & vaquita_sys::seccomp::FLAG_NEW_LISTENER != 0
    }

    /// `SECCOMP_FILTER_FLAG_*` that the profile asks for.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

pub(super) const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// `if number >= at { right } else { left }`; each side ends in a return.
pub(super) fn split(at: u32, left: &[Instruction], right: &[Instruction]) -> Vec<Instruction> {
    either(AT_LEAST, at, right, left)
}

/// `if A <code> k { then } else { otherwise }`; each side ends in a return.
pub(super) fn either(code: u16, k: u32, then: &[Instruction], otherwise: &[Instruction]) -> Vec<Instruction> {
    let mut out = Vec::with_capacity(then.len() + otherwise.len() + 2);
    match u8::try_from(otherwise.len()) {
        Ok(far) => out.push(branch(code, k, far, 0)),
        // A conditional jump reaches 255 instructions, an unconditional one everything.
        Err(_) => {
            out.push(branch(code, k, 0, 1));
            out.push(plain(JUMP, u32::try_from(otherwise.len()).unwrap_or(u32::MAX)));
        }
    }
    out.extend_from_slice(otherwise);
    out.extend_from_slice(then);
    out
}

/// A comparison of one argument of the call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Condition {
    pub(super) argument: u32,
    pub(super) test: Test,
    /// Compares the lower 32 bits of argument and operand only: an architecture with 32-bit registers.
    pub(super) narrow: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    AtMost(u64),
    AtLeast(u64),
    Greater(u64),
    /// Mask, value.
    Masked(u64, u64),
}

/// `if all conditions hold { return action }`, then falls through to what follows.
pub(super) fn rule(conditions: &[Condition], action: u32) -> Vec<Instruction> {
    // Built from the end, since a failed condition jumps behind the return.
    let mut tail = vec![plain(RETURN, action)];
    for condition in conditions.iter().rev() {
        // At most six conditions of five instructions each: a byte is enough.
        let fail = u8::try_from(tail.len()).unwrap_or(u8::MAX);
        let mut code = condition.code(fail);
        code.append(&mut tail);
        tail = code;
    }
    tail
}

impl Condition {
    /// A masked comparison whose mask has no bit in the part that counts.
    pub(super) fn compares_nothing(self) -> bool {
        let counts = if self.narrow { u64::from(u32::MAX) } else { u64::MAX };
        matches!(self.test, Test::Masked(mask, _) if mask & counts == 0)
    }

    /// Code that falls through when the condition holds, and otherwise skips `fail` instructions behind itself.
    /// The upper half of the argument is compared first (both supported families of processors are little-endian).
    fn code(self, fail: u8) -> Vec<Instruction> {
        let low = ARGUMENTS + 8 * self.argument;
        let load = |offset| plain(LOAD, offset);
        if self.narrow {
            return self.narrow_code(fail);
        }
        match self.test {
            Test::Masked(mask, value) => {
                let mut code = Vec::with_capacity(6);
                if mask >> 32 != 0 || value >> 32 != 0 {
                    code.extend([
                        load(low + 4),
                        plain(AND, high_half(mask)),
                        branch(EQUAL, high_half(value), 0, fail + 3),
                    ]);
                }
                code.extend([load(low), plain(AND, low_half(mask)), branch(EQUAL, low_half(value), 0, fail)]);
                code
            }
            Test::Equal(value) => vec![
                load(low + 4),
                branch(EQUAL, high_half(value), 0, fail + 2),
                load(low),
                branch(EQUAL, low_half(value), 0, fail),
            ],
            Test::NotEqual(value) => vec![
                load(low + 4),
                branch(EQUAL, high_half(value), 0, 2),
                load(low),
                branch(EQUAL, low_half(value), fail, 0),
            ],
            Test::AtLeast(value) => ordered(low, value, AT_LEAST, fail),
            Test::Greater(value) => ordered(low, value, GREATER, fail),
            Test::Less(value) => inverted(low, value, AT_LEAST, fail),
            Test::AtMost(value) => inverted(low, value, GREATER, fail),
        }
    }

    fn narrow_code(self, fail: u8) -> Vec<Instruction> {
        let mut code = vec![plain(LOAD, ARGUMENTS + 8 * self.argument)];
        let (operation, value, wanted) = match self.test {
            Test::Equal(value) => (EQUAL, value, true),
            Test::NotEqual(value) => (EQUAL, value, false),
            Test::AtLeast(value) => (AT_LEAST, value, true),
            Test::Less(value) => (AT_LEAST, value, false),
            Test::Greater(value) => (GREATER, value, true),
            Test::AtMost(value) => (GREATER, value, false),
            Test::Masked(mask, value) => {
                code.push(plain(AND, low_half(mask)));
                (EQUAL, value, true)
            }
        };
        let (jt, jf) = if wanted { (0, fail) } else { (fail, 0) };
        code.push(branch(operation, low_half(value), jt, jf));
        code
    }
}

/// Holds when the argument is above `value`, by `code` (`>` or `>=`) where the upper halves are equal.
fn ordered(low: u32, value: u64, code: u16, fail: u8) -> Vec<Instruction> {
    vec![
        plain(LOAD, low + 4),
        branch(GREATER, high_half(value), 3, 0),
        branch(EQUAL, high_half(value), 0, fail + 2),
        plain(LOAD, low),
        branch(code, low_half(value), 0, fail),
    ]
}

/// Holds when [`ordered`] does not.
fn inverted(low: u32, value: u64, code: u16, fail: u8) -> Vec<Instruction> {
    vec![
        plain(LOAD, low + 4),
        branch(GREATER, high_half(value), fail + 3, 0),
        branch(EQUAL, high_half(value), 0, 2),
        plain(LOAD, low),
        branch(code, low_half(value), fail, 0),
    ]
}

fn high_half(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or(u32::MAX)
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(super) mod interpreter {
    //! What the kernel does with a program (net/core/filter.c), for tests.

    use super::*;

    pub(in super::super) struct Data {
        pub(in super::super) number: u32,
        pub(in super::super) architecture: u32,
        pub(in super::super) arguments: [u64; 6],
    }

    /// The program's verdict, and the number of instructions it took.
    pub(in super::super) fn run(program: &[Instruction], data: &Data) -> (u32, usize) {
        let (mut at, mut a, mut steps) = (0_usize, 0_u32, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            steps += 1;
            let hop = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => a = data.word(k),
                AND => a &= k,
                JUMP => at += k as usize,
                EQUAL => at += hop(a == k),
                GREATER => at += hop(a > k),
                AT_LEAST => at += hop(a >= k),
                RETURN => return (k, steps),
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    impl Data {
        fn word(&self, offset: u32) -> u32 {
            let mut bytes = Vec::new();
            bytes.extend(self.number.to_le_bytes());
            bytes.extend(self.architecture.to_le_bytes());
            bytes.extend([0; 8]);
            for argument in self.arguments {
                bytes.extend(argument.to_le_bytes());
            }
            let offset = offset as usize;
            u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0..4_u64,
            (0..4_u64).prop_map(|v| v << 32),
            (0..4_u64).prop_map(|v| (1 << 32) - 2 + v),
            (0..2_u64).prop_map(|v| u64::MAX - v),
        ]
    }

    fn test() -> impl Strategy<Value = Test> {
        (0..7, value(), value()).prop_map(|(kind, a, b)| match kind {
            0 => Test::Equal(a),
            1 => Test::NotEqual(a),
            2 => Test::Less(a),
            3 => Test::AtMost(a),
            4 => Test::AtLeast(a),
            5 => Test::Greater(a),
            _ => Test::Masked(a, b),
        })
    }

    fn holds(test: Test, x: u64, narrow: bool) -> bool {
        let cut = |v: u64| if narrow { v & 0xffff_ffff } else { v };
        let x = cut(x);
        match test {
            Test::Equal(v) => x == cut(v),
            Test::NotEqual(v) => x != cut(v),
            Test::Less(v) => x < cut(v),
            Test::AtMost(v) => x <= cut(v),
            Test::AtLeast(v) => x >= cut(v),
            Test::Greater(v) => x > cut(v),
            Test::Masked(mask, v) => x & cut(mask) == cut(v),
        }
    }

    proptest! {
        #[test]
        fn conditions_mean_what_they_say(
            tests in prop::collection::vec((0..6_u32, test()), 0..6),
            arguments in prop::array::uniform6(value()),
            narrow in any::<bool>(),
        ) {
            let conditions: Vec<Condition> =
                tests.iter().map(|&(argument, test)| Condition { argument, test, narrow }).collect();
            let mut program = rule(&conditions, 1);
            program.push(plain(RETURN, 2));
            let data = interpreter::Data { number: 0, architecture: 0, arguments };
            let all = tests.iter().all(|&(argument, test)| holds(test, arguments[argument as usize], narrow));
            prop_assert_eq!(interpreter::run(&program, &data).0, if all { 1 } else { 2 });
        }
    }

    #[test]
    fn far_branches_arrive() {
        let left = vec![plain(LOAD, 0); 300].into_iter().chain([plain(RETURN, 1)]).collect::<Vec<_>>();
        let mut program = vec![plain(LOAD, NUMBER)];
        program.extend(split(7, &left, &[plain(RETURN, 2)]));
        for (number, verdict) in [(6, 1), (7, 2), (8, 2)] {
            let data = interpreter::Data { number, architecture: 0, arguments: [0; 6] };
            assert_eq!(interpreter::run(&program, &data).0, verdict);
        }
    }
}
