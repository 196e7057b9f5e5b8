//! The profile of a container that asks for `RuntimeDefault`.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// The profile a container gets by default, equal in effect to that of containerd (2.3) for a container with these
/// capabilities (its bounding set): a list of allowed calls, everything else fails with EPERM. moby's differs in details
/// only.
#[must_use]
pub fn runtime_default(capabilities: &[Capability]) -> LinuxSeccomp {
    let mut rules = vec![allow(ALWAYS.split_ascii_whitespace())];
    rules.push(allow(if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 }.split_ascii_whitespace()));
    // All families but AF_ALG (38) and AF_VSOCK (40, not namespaced). Each rule has one condition, because conditions on
    // the same argument are alternatives.
    rules.push(allow_if("socket", arg(LinuxSeccompOperator::ScmpCmpLt, AF_ALG, None)));
    rules.push(allow_if("socket", arg(LinuxSeccompOperator::ScmpCmpEq, AF_ALG + 1, None)));
    rules.push(allow_if("socket", arg(LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK, None)));
    // PER_LINUX, PER_LINUX32, each with UNAME26 or without, and the query.
    for persona in [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff] {
        rules.push(allow_if("personality", arg(LinuxSeccompOperator::ScmpCmpEq, persona, None)));
    }
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(allow(names.split_ascii_whitespace()));
        }
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow_if("clone", arg(LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NEW, Some(0))));
        // Its flags are behind a pointer. ENOSYS makes the C library fall back to clone.
        rules.push(build(["clone3"], LinuxSeccompAction::ScmpActErrno, Some(ENOSYS), vec![]));
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .architectures(architectures())
        .syscalls(rules)
        .build()
        .unwrap_or_default()
}

const ENOSYS: u32 = 38;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`.
const CLONE_NEW: u64 = 0x7e02_0000;

const X86_64: &str = "arch_prctl modify_ldt";
const AARCH64: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::Bpf, "bpf"),
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::Perfmon, "perf_event_open"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
];

/// Allowed to every container. ptrace and process_vm_* are here because they respect seccomp since Linux 4.8.
const ALWAYS: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv
    futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid
    gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set
    ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat
    listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat
    mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync
    munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2
    prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg
    sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
    setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
    statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
    uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
    writev";

fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else {
        vec![Arch::ScmpArchArm, Arch::ScmpArchAarch64]
    }
}

fn arg(op: LinuxSeccompOperator, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(0_usize).op(op).value(value);
    match second {
        Some(second) => builder.value_two(second),
        None => builder,
    }
    .build()
    .unwrap_or_else(|_| unreachable!("every required field is set"))
}

fn allow<'a>(names: impl IntoIterator<Item = &'a str>) -> LinuxSyscall {
    build(names, LinuxSeccompAction::ScmpActAllow, None, vec![])
}

fn allow_if(name: &str, condition: LinuxSeccompArg) -> LinuxSyscall {
    build([name], LinuxSeccompAction::ScmpActAllow, None, vec![condition])
}

fn build<'a>(
    names: impl IntoIterator<Item = &'a str>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    if !args.is_empty() {
        builder = builder.args(args);
    }
    builder.build().unwrap_or_else(|_| unreachable!("every required field is set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_known_call() {
        let lists = BY_CAPABILITY.iter().map(|(_, names)| *names).chain([ALWAYS, X86_64, AARCH64]);
        for name in lists.flat_map(str::split_ascii_whitespace) {
            let known = (0..5).any(|column| super::super::table::number(name, column).is_some());
            // Names that libseccomp knows and no kernel header of these architectures has.
            let historic = ["fstatat64", "getsid", "epoll_ctl_old", "epoll_wait_old", "utimensat_time64"]
                .contains(&name)
                || name == "timer_gettime"
                || name == "arm_fadvise64_64"
                || name == "sendfile64";
            assert!(known || historic, "{name}");
        }
    }

    #[test]
    fn the_list_is_sorted_and_complete() {
        let names: Vec<&str> = ALWAYS.split_ascii_whitespace().collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 366);
    }
}
