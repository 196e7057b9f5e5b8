//! Which devices a group may use: the lines of v1, and a compiler to the eBPF program of v2.
//!
//! Rules apply in order, and a later one overrides an earlier one for the accesses that it names. What no rule names is
//! denied. An access asks for one or more of read, write and mknod; it is granted when each of them is.

use std::fmt;
use std::ops::BitOr;

use vaquita_sys::bpf::Insn;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow, or deny.
    pub allow: bool,
    /// Which sort of devices.
    pub kind: DeviceKind,
    /// None for every one.
    pub major: Option<u32>,
    /// None for every one.
    pub minor: Option<u32>,
    /// For which accesses.
    pub access: Access,
}

/// The sort of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block and character devices.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

/// A set of accesses, with the bits that the eBPF program sees (`BPF_DEVCG_ACC_*`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// None.
    pub const NONE: Self = Self(0);
    /// Making a device node.
    pub const MKNOD: Self = Self(1);
    /// Opening for reading.
    pub const READ: Self = Self(2);
    /// Opening for writing.
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Reads `rwm` or a part of it; other letters count for nothing.
    #[must_use]
    pub fn from_letters(letters: &str) -> Self {
        letters.chars().fold(Self::NONE, |set, letter| match letter {
            'm' => set | Self::MKNOD,
            'r' => set | Self::READ,
            'w' => set | Self::WRITE,
            _ => set,
        })
    }

    /// Whether some access is in both.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")];
        letters.iter().filter(|(bit, _)| self.0 & bit.0 != 0).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The files of a v1 group that take rules.
pub(crate) const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";

/// The writes to a v1 group, in order: file and line. The first one denies everything.
#[must_use]
pub fn v1_lines(rules: &[DeviceRule]) -> Vec<(&'static str, String)> {
    let mut lines = vec![(DENY, "a".to_owned())];
    for rule in rules.iter().filter(|rule| rule.access != Access::NONE) {
        let file = if rule.allow { ALLOW } else { DENY };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let (major, minor) = (number(rule.major), number(rule.minor));
        // The kernel reads a line that begins with `a` as "everything", whatever follows.
        let everything = rule.major.is_none() && rule.minor.is_none() && rule.access == Access::ALL;
        match rule.kind {
            DeviceKind::All if everything => lines.push((file, "a".to_owned())),
            DeviceKind::All => {
                lines.push((file, format!("b {major}:{minor} {}", rule.access)));
                lines.push((file, format!("c {major}:{minor} {}", rule.access)));
            }
            DeviceKind::Block => lines.push((file, format!("b {major}:{minor} {}", rule.access))),
            DeviceKind::Char => lines.push((file, format!("c {major}:{minor} {}", rule.access))),
        }
    }
    lines
}

/// The program for a v2 group.
///
/// It looks at the rules from the last to the first and keeps the accesses that are still to be decided in a register: a
/// rule that denies one of them ends with "no", one that allows takes its accesses away, and when none are left the
/// answer is "yes".
#[must_use]
pub fn compile(rules: &[DeviceRule]) -> Vec<Insn> {
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx { access_type = access << 16 | type, major, minor }
        load_word(TYPE, CONTEXT, 0),
        alu_register(MOV, ACCESS, TYPE),
        alu(AND, TYPE, 0xffff),
        alu(SHIFT_RIGHT, ACCESS, 16),
        load_word(MAJOR, CONTEXT, 4),
        load_word(MINOR, CONTEXT, 8),
    ];
    for rule in rules.iter().rev().filter(|rule| rule.access != Access::NONE) {
        rule_into(&mut program, rule);
        let everything = rule.kind == DeviceKind::All && rule.major.is_none() && rule.minor.is_none();
        if everything && rule.access == Access::ALL {
            return program; // It decided; nothing after it is reached, which the verifier would refuse.
        }
    }
    answer(&mut program, false);
    program
}

/// A listing of a program, one instruction a line, for tests and logs.
#[must_use]
pub fn listing(program: &[Insn]) -> String {
    let line = |(at, insn): (usize, &Insn)| {
        let (to, from) = (insn.registers & 15, insn.registers >> 4);
        let value = insn.immediate;
        let target = at + 1 + usize::try_from(insn.offset).unwrap_or_default();
        let text = match insn.code {
            LOAD_WORD => format!("r{to} = *(u32*)(r{from} + {})", insn.offset),
            code if code == MOV | REGISTER => format!("r{to} = r{from}"),
            MOV => format!("r{to} = {value}"),
            AND => format!("r{to} &= {value:#x}"),
            SHIFT_RIGHT => format!("r{to} >>= {value}"),
            JUMP_NOT_EQUAL => format!("if r{to} != {value} goto {target}"),
            JUMP_ANY_BIT => format!("if r{to} & {value:#x} goto {target}"),
            JUMP => format!("goto {target}"),
            EXIT => "exit".to_owned(),
            code => format!("{code:#x}"),
        };
        format!("{at:3}: {text}\n")
    };
    program.iter().enumerate().map(line).collect()
}

const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Codes of linux/bpf.h: class | operation | source.
const LOAD_WORD: u8 = 0x61;
const MOV: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const REGISTER: u8 = 0x08;
const JUMP: u8 = 0x05;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

fn rule_into(program: &mut Vec<Insn>, rule: &DeviceRule) {
    let mut body = Vec::new();
    let access = i32::from(rule.access.0);
    match (rule.allow, rule.access == Access::ALL) {
        (false, true) => answer(&mut body, false),
        (false, false) => {
            // None of its accesses asked for: over the answer.
            body.push(jump(JUMP_ANY_BIT, ACCESS, access, 1));
            let mut no = Vec::new();
            answer(&mut no, false);
            body.push(Insn { code: JUMP, registers: 0, offset: 2, immediate: 0 });
            body.append(&mut no);
        }
        (true, true) => answer(&mut body, true),
        (true, false) => {
            body.push(alu(AND, ACCESS, !access & 7));
            body.push(jump(JUMP_NOT_EQUAL, ACCESS, 0, 2));
            answer(&mut body, true);
        }
    }
    let kind = match rule.kind {
        DeviceKind::All => None,
        DeviceKind::Block => Some(1),
        DeviceKind::Char => Some(2),
    };
    let number = |number: Option<u32>| number.map(u32::cast_signed);
    let tests = [(TYPE, kind), (MAJOR, number(rule.major)), (MINOR, number(rule.minor))];
    let tests: Vec<_> =
        tests.iter().filter_map(|(register, value)| value.map(|value| (*register, value))).collect();
    for (at, (register, value)) in tests.iter().enumerate() {
        // At most two tests and five instructions are skipped.
        let offset = i16::try_from(tests.len() - at - 1 + body.len()).unwrap_or(i16::MAX);
        program.push(jump(JUMP_NOT_EQUAL, *register, *value, offset));
    }
    program.append(&mut body);
}

fn answer(program: &mut Vec<Insn>, allow: bool) {
    program.push(alu(MOV, ANSWER, i32::from(allow)));
    program.push(Insn { code: EXIT, registers: 0, offset: 0, immediate: 0 });
}

fn alu(code: u8, register: u8, immediate: i32) -> Insn {
    Insn { code, registers: register, offset: 0, immediate }
}

fn alu_register(code: u8, to: u8, from: u8) -> Insn {
    Insn { code: code | REGISTER, registers: from << 4 | to, offset: 0, immediate: 0 }
}

fn load_word(to: u8, from: u8, offset: i16) -> Insn {
    Insn { code: LOAD_WORD, registers: from << 4 | to, offset, immediate: 0 }
}

fn jump(code: u8, register: u8, immediate: i32, offset: i16) -> Insn {
    Insn { code, registers: register, offset, immediate }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(
        allow: bool,
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: &str,
    ) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access: Access::from_letters(access) }
    }

    fn deny_all() -> DeviceRule {
        rule(false, DeviceKind::All, None, None, "rwm")
    }

    /// Runs a program as the kernel would.
    fn run(program: &[Insn], kind: i64, access: Access, major: i64, minor: i64) -> bool {
        let mut registers = [0i64; 6];
        let mut at = 0usize;
        loop {
            let insn = program[at];
            let (to, from) = (usize::from(insn.registers & 15), usize::from(insn.registers >> 4));
            let value = i64::from(insn.immediate);
            at += 1;
            let mut jump = false;
            match insn.code {
                LOAD_WORD => {
                    registers[to] = [i64::from(access.0) << 16 | kind, major, minor]
                        [usize::try_from(insn.offset).unwrap() / 4];
                }
                code if code == MOV | REGISTER => registers[to] = registers[from],
                MOV => registers[to] = value,
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP_NOT_EQUAL => jump = registers[to] != value,
                JUMP_ANY_BIT => jump = registers[to] & value != 0,
                JUMP => jump = true,
                EXIT => return registers[0] == 1,
                code => panic!("{code:#x}"),
            }
            if jump {
                at += usize::try_from(insn.offset).unwrap();
            }
        }
    }

    /// What the rules say, by their definition.
    fn decide(rules: &[DeviceRule], kind: DeviceKind, access: Access, major: u32, minor: u32) -> bool {
        [Access::MKNOD, Access::READ, Access::WRITE].iter().filter(|one| access.0 & one.0 != 0).all(|one| {
            let matching = |rule: &&DeviceRule| {
                (rule.kind == DeviceKind::All || rule.kind == kind)
                    && rule.major.is_none_or(|number| number == major)
                    && rule.minor.is_none_or(|number| number == minor)
                    && rule.access.0 & one.0 != 0
            };
            rules.iter().rev().find(matching).is_some_and(|rule| rule.allow)
        })
    }

    #[test]
    fn the_listing_of_a_small_filter() {
        let rules = [deny_all(), rule(true, DeviceKind::Char, Some(1), Some(3), "rw")];
        assert_eq!(
            listing(&compile(&rules)),
            "  0: r2 = *(u32*)(r1 + 0)\n  1: r3 = r2\n  2: r2 &= 0xffff\n  3: r3 >>= 16\n\
             \x20 4: r4 = *(u32*)(r1 + 4)\n  5: r5 = *(u32*)(r1 + 8)\n\
             \x20 6: if r2 != 2 goto 13\n  7: if r4 != 1 goto 13\n  8: if r5 != 3 goto 13\n\
             \x20 9: r3 &= 0x1\n 10: if r3 != 0 goto 13\n 11: r0 = 1\n 12: exit\n 13: r0 = 0\n 14: exit\n"
        );
    }

    #[test]
    fn no_rule_denies() {
        assert!(!run(&compile(&[]), 1, Access::READ, 8, 0));
        assert_eq!(v1_lines(&[]), [("devices.deny", "a".to_owned())]);
    }

    #[test]
    fn two_rules_together_allow_what_neither_does_alone() {
        let rules = [
            rule(true, DeviceKind::Char, Some(5), None, "r"),
            rule(true, DeviceKind::Char, Some(5), Some(1), "w"),
        ];
        assert!(run(&compile(&rules), 2, Access::READ | Access::WRITE, 5, 1));
        assert!(!run(&compile(&rules), 2, Access::READ | Access::WRITE, 5, 2));
    }

    #[test]
    fn programs_decide_as_the_rules_do() {
        // All lists of up to three rules out of these, against every access to some devices.
        let choices = [
            deny_all(),
            rule(true, DeviceKind::All, None, None, "rwm"),
            rule(true, DeviceKind::All, None, None, "m"),
            rule(true, DeviceKind::Char, Some(1), None, "r"),
            rule(false, DeviceKind::Char, Some(1), Some(3), "w"),
            rule(true, DeviceKind::Block, None, Some(3), "rw"),
            rule(false, DeviceKind::All, Some(1), None, "rm"),
        ];
        let mut lists: Vec<Vec<DeviceRule>> = vec![Vec::new()];
        for _ in 0..3 {
            let longer = lists.iter().flat_map(|list| {
                choices.iter().map(|choice| list.iter().copied().chain([*choice]).collect::<Vec<_>>())
            });
            lists = lists.iter().cloned().chain(longer).collect();
        }
        for rules in &lists {
            let program = compile(rules);
            for (kind, number) in [(DeviceKind::Block, 1), (DeviceKind::Char, 2)] {
                for bits in 1..=7 {
                    for (major, minor) in [(1, 3), (1, 5), (8, 3)] {
                        let access = Access(bits);
                        assert_eq!(
                            run(&program, number, access, major.into(), minor.into()),
                            decide(rules, kind, access, major, minor),
                            "{rules:?} {kind:?} {access} {major}:{minor}"
                        );
                    }
                }
            }
        }
    }

    fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop::sample::select(&[DeviceKind::All, DeviceKind::Block, DeviceKind::Char][..]);
        let number = || prop::option::of(prop::sample::select(&[0, 1, 5, u32::MAX][..]));
        (any::<bool>(), kind, number(), number(), 0..8_u8).prop_map(|(allow, kind, major, minor, access)| {
            DeviceRule { allow, kind, major, minor, access: Access(access) }
        })
    }

    proptest! {
        #[test]
        fn long_lists_decide_as_they_say(rules in prop::collection::vec(any_rule(), 0..20)) {
            let program = compile(&rules);
            for (kind, number) in [(DeviceKind::Block, 1), (DeviceKind::Char, 2)] {
                for (bits, major, minor) in [(1, 0, 1), (2, 1, 5), (4, 5, 0), (7, 1, 1), (6, 1, 7)] {
                    prop_assert_eq!(
                        run(&program, number, Access(bits), major.into(), minor.into()),
                        decide(&rules, kind, Access(bits), major, minor)
                    );
                }
            }
            for (_, line) in v1_lines(&rules) {
                prop_assert!(line == "a" || line.split(' ').count() == 3 && line.len() < 64, "{}", line);
            }
        }
    }

    #[test]
    fn v1_writes_both_kinds_unless_it_is_everything() {
        let rules = [
            rule(true, DeviceKind::All, None, None, "m"),
            rule(true, DeviceKind::Char, Some(136), None, "rwm"),
            rule(true, DeviceKind::All, None, None, "rwm"),
        ];
        assert_eq!(
            v1_lines(&rules),
            [
                ("devices.deny", "a".to_owned()),
                ("devices.allow", "b *:* m".to_owned()),
                ("devices.allow", "c *:* m".to_owned()),
                ("devices.allow", "c 136:* rwm".to_owned()),
                ("devices.allow", "a".to_owned()),
            ]
        );
    }
}
