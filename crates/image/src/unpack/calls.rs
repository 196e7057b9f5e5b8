//! The system calls of the unpacking process, all of them.

use libc::c_long;
use vaquita_sys::seccomp::Rule;

/// What the filter lets through; whatever is not named here ends the process.
pub(super) fn rules() -> Vec<(c_long, Rule)> {
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let flag = |flag: i32| flag.unsigned_abs();
    // Nothing becomes code.
    let no_code = Rule::AllowIf(2, flag(libc::PROT_EXEC), vec![0]);
    let mut rules = vec![
        (libc::SYS_mmap, no_code.clone()),
        (libc::SYS_mprotect, no_code),
        // Threads, and no other process. The flags of clone3 cannot be looked at: without it the C library uses clone.
        (libc::SYS_clone, Rule::AllowIf(0, flag(THREAD), vec![flag(THREAD)])),
        (libc::SYS_clone3, Rule::Fail(ENOSYS)),
        // A panic that aborts signals its own process.
        (libc::SYS_tgkill, Rule::AllowIf(0, u32::MAX, vec![own])),
        (libc::SYS_fcntl, Rule::AllowIf(1, u32::MAX, FCNTL.map(flag).to_vec())),
        // The names of threads.
        (libc::SYS_prctl, Rule::AllowIf(0, u32::MAX, vec![flag(libc::PR_SET_NAME)])),
    ];
    rules.extend(CALLS.iter().map(|call| (*call, Rule::Allow)));
    rules
}

const THREAD: i32 = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_FS;
const FCNTL: [i32; 4] = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC];
const ENOSYS: u16 = 38;

const CALLS: &[c_long] = &[
    // Bytes, in the order of how often.
    libc::SYS_write,
    libc::SYS_read,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_writev,
    libc::SYS_readv,
    libc::SYS_pwrite64,
    libc::SYS_pread64,
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_sync_file_range,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    // Names, all below a descriptor or the root, which is the layer.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    // Metadata.
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_fgetxattr,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads, signals, time, the end.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Newer than the C library's list of calls; the same number everywhere.
const SYS_FCHMODAT2: c_long = 452;
