//! Classic BPF as the kernel runs it for seccomp(2), written from net/core/filter.c and kernel/seccomp.c alone.

use vaquita_sys::seccomp::SockFilter;

/// A system call: `struct seccomp_data` without the instruction pointer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Call {
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    pub number: u32,
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64, upper: bool| if upper { (value >> 32) as u32 } else { value as u32 };
        match offset {
            0 => self.number,
            4 => self.architecture,
            8 | 12 => 0,
            16..=60 => half(self.arguments[(offset as usize - 16) / 8], offset % 8 == 4),
            _ => panic!("offset {offset} is outside of seccomp_data"),
        }
    }
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Whether the kernel would take the program: bpf_check_classic() and seccomp_check_filter(), for the instructions that
/// compilers of profiles use.
pub fn check(program: &[SockFilter]) -> Result<(), String> {
    if program.is_empty() || program.len() > 4096 {
        return Err(format!("{} instructions", program.len()));
    }
    for (at, instruction) in program.iter().enumerate() {
        let behind = program.len() - at - 1;
        let SockFilter { code, jt, jf, k } = *instruction;
        let fine = match code {
            LOAD => k % 4 == 0 && k < 64,
            AND | RETURN => true,
            JUMP => (k as usize) < behind,
            EQUAL | GREATER | AT_LEAST | ANY_BIT => usize::from(jt.max(jf)) < behind,
            _ => false,
        };
        if !fine {
            return Err(format!("instruction {at} of {} is {instruction:x?}", program.len()));
        }
    }
    match program.last() {
        Some(last) if last.code == RETURN => Ok(()),
        _ => Err("the last instruction is no return".to_owned()),
    }
}

/// The program's verdict.
pub fn run(program: &[SockFilter], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let SockFilter { code, jt, jf, k } = program[at];
        at += 1;
        let hop = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            LOAD => accumulator = call.word(k),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            EQUAL => at += hop(accumulator == k),
            GREATER => at += hop(accumulator > k),
            AT_LEAST => at += hop(accumulator >= k),
            ANY_BIT => at += hop(accumulator & k != 0),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Whether the program compares the architecture with anything but an architecture on its way to the verdict: it has not
/// loaded the call's number then. libseccomp 2.5.4 makes such programs where x86_64 and x32 are both there and the rule it
/// puts first is for a call that x86_64 lacks.
pub fn forgets_number(program: &[SockFilter], call: &Call) -> bool {
    let (mut at, mut loaded) = (0, None);
    loop {
        let SockFilter { code, jt, jf, k } = program[at];
        at += 1;
        let value = loaded.map_or(0, |offset| call.word(offset));
        let holds = match code {
            LOAD => {
                loaded = Some(k);
                continue;
            }
            JUMP => {
                at += k as usize;
                continue;
            }
            EQUAL => value == k,
            GREATER => value > k,
            AT_LEAST => value >= k,
            // Arguments come into it, so the number was there.
            _ => return false,
        };
        if loaded == Some(4) && !ARCHITECTURES.contains(&k) {
            return true;
        }
        at += usize::from(if holds { jt } else { jf });
    }
}

/// `AUDIT_ARCH_*` of x86_64, x86, aarch64, arm.
const ARCHITECTURES: [u32; 4] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028];
