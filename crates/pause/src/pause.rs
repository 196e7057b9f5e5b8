//! Holds a pod's namespaces, and is the PID 1 of a PID namespace that a pod shares.
//!
//! It waits for signals with `rt_sigtimedwait` (sigtimedwait(2)): SIGCHLD reaps every orphan that has ended, SIGTERM and
//! SIGINT end the program with 0. A blocked signal is never discarded, so this also holds for PID 1, for which the
//! kernel drops signals without a handler. Before, it gives up every system call but those three (seccomp(2)), which no profile
//! that a client may ask for could do better. Its own compilation unit, without `std`: about 1 kB, one page of memory.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "there is no library below this program: it calls the kernel itself")]

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
/// The signals that are waited for, as the kernel's 64-bit set: bit n-1 is signal n.
const AWAITED: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const PR_SET_SECCOMP: usize = 22;
const SECCOMP_MODE_FILTER: usize = 2;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(crate) const RT_SIGPROCMASK: usize = 14;
    pub(crate) const PRCTL: usize = 157;
    pub(crate) const WAIT4: usize = 61;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
    pub(crate) const EXIT_GROUP: usize = 231;
    /// AUDIT_ARCH_X86_64
    pub(crate) const ARCHITECTURE: u32 = 0xc000_003e;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(crate) const RT_SIGPROCMASK: usize = 135;
    pub(crate) const PRCTL: usize = 167;
    pub(crate) const WAIT4: usize = 260;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 137;
    pub(crate) const EXIT_GROUP: usize = 94;
    /// AUDIT_ARCH_AARCH64
    pub(crate) const ARCHITECTURE: u32 = 0xc000_00b7;
}

/// One instruction of classic BPF (linux/filter.h: struct sock_filter).
#[repr(C)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

/// A program (linux/filter.h: struct sock_fprog).
#[repr(C)]
struct Filter {
    length: u16,
    program: *const Instruction,
}

/// The calls that stay possible; any other fails with EPERM.
static FILTER: [Instruction; 8] = {
    const fn load(offset: u32) -> Instruction {
        // BPF_LD | BPF_W | BPF_ABS, of struct seccomp_data
        Instruction { code: 0x20, yes: 0, no: 0, value: offset }
    }
    const fn is(value: usize, yes: u8, no: u8) -> Instruction {
        // BPF_JMP | BPF_JEQ | BPF_K
        Instruction { code: 0x15, yes, no, value: value as u32 }
    }
    const fn answer(value: u32) -> Instruction {
        // BPF_RET | BPF_K
        Instruction { code: 0x06, yes: 0, no: 0, value }
    }
    [
        load(4),
        is(number::ARCHITECTURE as usize, 0, 4),
        load(0),
        is(number::RT_SIGTIMEDWAIT, 3, 0),
        is(number::WAIT4, 2, 0),
        is(number::EXIT_GROUP, 1, 0),
        // SECCOMP_RET_ERRNO with EPERM
        answer(0x0005_0001),
        // SECCOMP_RET_ALLOW
        answer(0x7fff_0000),
    ]
};

/// A system call with four arguments; the kernel's answer, negative errno included.
///
/// # Safety
/// The arguments must be what the call expects; pointers among them must be valid for it.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer: isize;
    // SAFETY: the caller answers for the arguments; the instruction changes rcx, r11 and rax only.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    answer
}

/// A system call with four arguments; the kernel's answer, negative errno included.
///
/// # Safety
/// The arguments must be what the call expects; pointers among them must be valid for it.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer: isize;
    // SAFETY: the caller answers for the arguments; the instruction changes x0 only.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => answer,
            in("x1") b, in("x2") c, in("x3") d,
            options(nostack)
        );
    }
    answer
}

/// Where the kernel starts the program.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    let awaited = AWAITED;
    let set = &raw const awaited as usize;
    // SAFETY: `set` points to the 8 bytes of a signal set that lives until the program ends.
    unsafe { syscall(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, 8) };
    let filter = Filter { length: FILTER.len() as u16, program: FILTER.as_ptr() };
    // Without seccomp in the kernel there is none.
    // SAFETY: `filter` and the program that it points to live until the call has returned; the kernel takes a copy.
    unsafe { syscall(number::PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const filter as usize, 0) };
    loop {
        // SAFETY: as above; no information and no time limit are asked for.
        let signal = unsafe { syscall(number::RT_SIGTIMEDWAIT, set, 0, 0, 8) };
        if signal == SIGTERM as isize || signal == SIGINT as isize {
            // SAFETY: ends the program; nothing is passed by address.
            unsafe { syscall(number::EXIT_GROUP, 0, 0, 0, 0) };
        }
        // One SIGCHLD may stand for many children.
        // SAFETY: any child, and neither status nor usage is asked for.
        while unsafe { syscall(number::WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
