//! seccomp(2): installing a filter. What the filter says is compiled elsewhere.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::syscall::check;

/// An instruction of classic BPF, `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation code.
    pub code: u16,
    /// How many instructions to skip if true.
    pub jt: u8,
    /// How many instructions to skip if false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Applies to all threads (`SECCOMP_FILTER_FLAG_TSYNC`).
pub const FLAG_TSYNC: u32 = 1;
/// Logs every action but allow (`SECCOMP_FILTER_FLAG_LOG`).
pub const FLAG_LOG: u32 = 2;
/// Does not slow speculative stores down (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`).
pub const FLAG_SPEC_ALLOW: u32 = 4;
/// Returns a descriptor for notifications (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0).
pub const FLAG_NEW_LISTENER: u32 = 8;
/// Tells a thread that cannot be synchronised by `ESRCH`, which [`FLAG_TSYNC`] with [`FLAG_NEW_LISTENER`] needs
/// (`SECCOMP_FILTER_FLAG_TSYNC_ESRCH`, Linux 5.7).
pub const FLAG_TSYNC_ESRCH: u32 = 16;
/// A process whose call was received by the listener can only be killed until it is answered
/// (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19). Only with [`FLAG_NEW_LISTENER`].
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// Filters the calling thread's system calls from here on, for good. Returns the listener if [`FLAG_NEW_LISTENER`] is set.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`; `EINVAL` for a program that is not valid, empty or too long, or an
/// unknown flag; `ENOMEM` when all filters together are too long.
pub fn install(program: &[SockFilter], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `length` instructions from the slice; SockFilter has the layout of sock_filter.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const program,
        )
    })?;
    if flags & FLAG_NEW_LISTENER == 0 {
        // A positive number with TSYNC is a thread that could not be synchronised.
        return if result == 0 { Ok(None) } else { Err(Errno::SRCH) };
    }
    let fd = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: with that flag the result is a new fd.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the kernel knows this action, `SECCOMP_RET_*` without data.
#[must_use]
pub fn action_available(action: u32) -> bool {
    // SAFETY: the operation reads one u32.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0 as libc::c_ulong,
            &raw const action,
        )
    };
    check(result).is_ok()
}

/// What [`filter`] does with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Lets it through.
    Allow,
    /// Lets it through if the low 32 bits of the argument with this number (0 to 5), without all but the bits of the mask,
    /// are one of the values.
    AllowIf(u8, u32, Vec<u32>),
    /// Fails it with this number, so that the caller does without.
    Fail(u16),
}

/// A program for [`install`] that does with each call of this machine's native kind what its rule says, the first if it has
/// several, and ends the process at all others, with `SIGSYS`.
#[must_use]
pub fn filter(rules: &[(libc::c_long, Rule)]) -> Vec<SockFilter> {
    let statement = |code, k| SockFilter { code, jt: 0, jf: 0, k };
    let jump = |k, jt, jf| SockFilter { code: JUMP_IF_EQUAL, jt, jf, k };
    let mut program = vec![
        statement(LOAD, OFFSET_ARCH),
        jump(NATIVE, 1, 0),
        statement(RETURN, KILL_PROCESS),
        statement(LOAD, OFFSET_NUMBER),
    ];
    for (number, rule) in rules {
        let block = match rule {
            Rule::Allow => vec![statement(RETURN, ALLOW)],
            Rule::Fail(errno) => vec![statement(RETURN, FAIL | u32::from(*errno))],
            Rule::AllowIf(argument, mask, values) => {
                let low = if cfg!(target_endian = "little") { 0 } else { 4 };
                let mut block = vec![
                    statement(LOAD, OFFSET_ARGUMENTS + 8 * u32::from(*argument) + low),
                    statement(AND, *mask),
                ];
                block.extend(values.iter().flat_map(|value| [jump(*value, 0, 1), statement(RETURN, ALLOW)]));
                block.push(statement(RETURN, KILL_PROCESS));
                block
            }
        };
        let number = u32::try_from(*number).unwrap_or(u32::MAX);
        program.push(jump(number, 0, u8::try_from(block.len()).unwrap_or(u8::MAX)));
        program.extend(block);
    }
    program.push(statement(RETURN, KILL_PROCESS));
    program
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
// struct seccomp_data
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;
// SECCOMP_RET_*
const ALLOW: u32 = 0x7fff_0000;
const FAIL: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
/// `AUDIT_ARCH_*`. The calls of x32 have the same, and numbers that no rule has.
const NATIVE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    panic!("the architecture is not known here")
};

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says to a call: interprets the five kinds of instructions that are made.
    fn verdict(program: &[SockFilter], number: u32, arch: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0_u8; 64];
        data[..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (at, argument) in arguments.iter().enumerate() {
            data[16 + 8 * at..24 + 8 * at].copy_from_slice(&argument.to_ne_bytes());
        }
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let SockFilter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                LOAD => {
                    let k = k as usize;
                    value = u32::from_ne_bytes(data[k..k + 4].try_into().unwrap());
                }
                AND => value &= k,
                JUMP_IF_EQUAL => at += usize::from(if value == k { jt } else { jf }),
                RETURN => return k,
                other => panic!("instruction {other}"),
            }
        }
    }

    #[test]
    fn a_filter_lets_through_what_has_a_rule() {
        let program = filter(&[
            (7, Rule::Allow),
            (8, Rule::AllowIf(2, 0b100, vec![0])),
            (9, Rule::Fail(38)),
            (10, Rule::AllowIf(5, u32::MAX, vec![1, 2])),
        ]);
        let says = |number, arguments| verdict(&program, number, NATIVE, arguments);
        let third = |value| [u64::MAX, u64::MAX, value, u64::MAX, 0, 0];
        let last = |value| [0, 0, 0, 0, 0, value];
        assert_eq!(says(7, [0; 6]), ALLOW);
        assert_eq!((says(8, third(0b1011)), says(8, third(0b100))), (ALLOW, KILL_PROCESS));
        assert_eq!(says(9, [0; 6]), FAIL | 38);
        assert_eq!([0, 1, 2, 3].map(|v| says(10, last(v))), [KILL_PROCESS, ALLOW, ALLOW, KILL_PROCESS]);
        for number in [0, 6, 11, 7 | 0x4000_0000] {
            assert_eq!(says(number, [0; 6]), KILL_PROCESS, "{number:#x}");
        }
        assert_eq!(verdict(&program, 7, 0x4000_0003, [0; 6]), KILL_PROCESS, "a call of 32-bit x86");
    }

    #[test]
    fn actions() {
        assert!(action_available(0x7fff_0000)); // SECCOMP_RET_ALLOW
        assert!(!action_available(0x1234_0000));
    }

    #[test]
    fn an_empty_program_is_refused() {
        assert_eq!(install(&[], 0).unwrap_err(), Errno::INVAL);
    }
}
