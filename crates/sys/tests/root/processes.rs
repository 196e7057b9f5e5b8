//! clone3, exec, waiting, capabilities, seccomp.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd as _};
use std::process::Command;

use rustix::process::Pid;
use vaquita_sys::cap::{self, CapSet, Capability, Sets};
use vaquita_sys::mount::{Attr, Attributes, mount_setattr, open_tree_clone};
use vaquita_sys::process::{
    CStrArray, Clone, CloneFlags, Forked, clone3, close_range_on_exec, execveat, exit_now, no_new_privs,
    open_pidfd, pass_as, read_only, sealed_copy, sealed_self, set_groups, set_uid, start_time,
    try_wait_pidfd, wait_pidfd,
};
use vaquita_sys::seccomp::{self, SockFilter};
use vaquita_sys::signal::{self, Signal};
use vaquita_sys::{Errno, ns, socket};
use vaquita_testing::require_root;

use super::support::{code, in_child};

#[test]
fn a_child_has_its_namespaces_and_an_exit_code() {
    require_root();
    let exit =
        in_child(CloneFlags::NEWPID | CloneFlags::NEWNS | CloneFlags::NEWUTS | CloneFlags::NEWIPC, || {
            rustix::process::getpid().as_raw_nonzero().get() + 41
        });
    assert_eq!((exit.code, exit.signal), (42, None));
}

#[test]
fn a_killed_child_says_so() {
    let (ours, theirs) = socket::pair().unwrap();
    // SAFETY: the child reads from a socket and exits.
    let Forked::Parent { pid, pidfd } = unsafe { clone3(&Clone::default()) }.unwrap() else {
        let _ = rustix::io::read(&theirs, &mut [0; 1]);
        exit_now(0)
    };
    assert_eq!(try_wait_pidfd(&pidfd).unwrap(), None);
    assert!(start_time(pid).unwrap() >= start_time(rustix::process::getpid()).unwrap());
    signal::send(&pidfd, Signal::KILL).unwrap();
    let exit = wait_pidfd(&pidfd).unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(signal::send(&pidfd, Signal::KILL).unwrap_err(), Errno::SRCH);
    assert_eq!(wait_pidfd(&pidfd).unwrap_err().errno(), Errno::CHILD);
    drop(ours);
}

#[test]
fn a_child_can_be_the_parents() {
    // A middle process makes a sibling of itself, so that the test can wait for it.
    let (ours, theirs) = socket::pair().unwrap();
    let exit = in_child(CloneFlags::NONE, || {
        let how = Clone { parent: true, ..Clone::default() };
        // SAFETY: both sides exit without allocating.
        match unsafe { clone3(&how) } {
            Ok(Forked::Child) => exit_now(7),
            Ok(Forked::Parent { pid, .. }) => {
                code(socket::send(&theirs, &pid.as_raw_nonzero().get().to_ne_bytes(), &[]))
            }
            Err(_) => 1,
        }
    });
    assert_eq!(exit.code, 0);
    let mut pid = [0; 4];
    socket::recv(&ours, &mut pid, 0).unwrap();
    let pidfd = open_pidfd(Pid::from_raw(i32::from_ne_bytes(pid)).unwrap()).unwrap();
    assert_eq!(wait_pidfd(&pidfd).unwrap().code, 7);
}

#[test]
fn a_program_finds_a_descriptor_where_it_was_told() {
    for number in [3, 50] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo hello >/proc/self/fd/$0", &number.to_string()]);
        pass_as(&mut command, writer, number).unwrap();
        assert!(command.status().unwrap().success());
        drop(command);
        assert_eq!(std::io::read_to_string(std::fs::File::from(reader)).unwrap(), "hello\n", "{number}");
    }
    let null = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(pass_as(&mut Command::new("true"), null.into(), 2).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_sealed_copy_runs_and_cannot_be_changed() {
    let mut shell = std::fs::File::from(sealed_copy(c"sh", &std::fs::read("/bin/sh").unwrap()).unwrap());
    assert_eq!(shell.write_all(b"x").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    assert!(shell.set_len(0).is_err());
    let argv = CStrArray::new(["sh", "-c", "exit $0", "23"]).unwrap();
    let envp = CStrArray::new(Vec::<String>::new()).unwrap();
    let exit = in_child(CloneFlags::NONE, || {
        let _ = close_range_on_exec(3, u32::MAX);
        execveat(shell.as_fd(), c"", &argv, &envp, 0).raw_os_error()
    });
    assert_eq!(exit.code, 23);
    let own = std::fs::File::from(sealed_self().unwrap()).metadata().unwrap().len();
    assert_eq!(own, std::fs::metadata("/proc/self/exe").unwrap().len());
}

#[test]
fn a_read_only_file_runs_and_cannot_be_changed() {
    require_root();
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("sh");
    // By another process: a child of a test beside this one may hold a copy of our descriptor for writing, and then the file
    // cannot be executed (ETXTBSY).
    assert!(Command::new("cp").arg("/bin/sh").arg(&path).status().unwrap().success());
    let file = std::fs::File::open(&path).unwrap();
    let shell = read_only(&file).unwrap();
    let argv = CStrArray::new(["sh", "-c", "exit $0", "23"]).unwrap();
    let envp = CStrArray::new(Vec::<String>::new()).unwrap();
    let exit = in_child(CloneFlags::NONE, || {
        let _ = close_range_on_exec(3, u32::MAX);
        execveat(shell.as_fd(), c"", &argv, &envp, 0).raw_os_error()
    });
    assert_eq!(exit.code, 23);
    let name = format!("/proc/self/fd/{}", shell.as_raw_fd());
    let refused = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    let rofs = Errno::ROFS.raw_os_error();
    assert_eq!(refused(std::fs::File::options().append(true).open(&name).map(drop)), rofs);
    assert_eq!(
        refused(std::fs::set_permissions(&name, std::os::unix::fs::PermissionsExt::from_mode(0o777))),
        rofs
    );
    let writable = Attr { clear: Attributes::RDONLY, ..Attr::default() };
    assert_eq!(mount_setattr(&shell, "", false, &writable).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(open_tree_clone(&shell, "", false).unwrap_err().errno(), Errno::INVAL);
    // Who has the file itself can do what he could before.
    std::fs::write(&path, "changed").unwrap();
    // It is nowhere to be unmounted.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()), "{mounts}");
}

#[test]
fn an_exec_that_fails_says_why() {
    let argv = CStrArray::new(["x"]).unwrap();
    let exit = in_child(CloneFlags::NONE, || {
        execveat(rustix::fs::CWD, c"/does/not/exist", &argv, &argv, 0).raw_os_error()
    });
    assert_eq!(exit.code, Errno::NOENT.raw_os_error());
    assert_eq!(CStrArray::new(["a\0b"]).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_child_gives_its_privileges_up() {
    require_root();
    let few = CapSet::EMPTY.with(Capability::CHOWN).with(Capability::KILL);
    let sets = Sets { bounding: few, effective: few, permitted: few, ..Sets::default() };
    let exit = in_child(CloneFlags::NONE, || {
        if let Err(errno) = set_groups(&[1000, 2000]).and_then(|()| cap::set_all(&sets)) {
            return errno.raw_os_error();
        }
        match cap::current() {
            Ok(now) if now == sets => {}
            _ => return 200,
        }
        // SETUID is gone.
        match set_uid(1000) {
            Err(Errno::PERM) => {}
            _ => return 201,
        }
        // What is gone from the bounding set does not come back.
        code(match cap::set_bounding(CapSet::EMPTY.with(Capability::SYS_ADMIN)) {
            Err(Errno::PERM) => Ok(()),
            _ => Err(Errno::INVAL),
        })
    });
    assert_eq!(exit.code, 0);
}

#[test]
fn ids_that_mean_no_change_are_refused() {
    assert_eq!(set_uid(u32::MAX).unwrap_err(), Errno::INVAL);
    assert_eq!(vaquita_sys::process::set_gid(u32::MAX).unwrap_err(), Errno::INVAL);
    assert_eq!(set_groups(&[0, u32::MAX]).unwrap_err(), Errno::INVAL);
}

#[test]
fn an_unknown_capability_is_an_error_not_ignored() {
    require_root();
    let wrong = CapSet(1 << 60);
    let exit = in_child(CloneFlags::NONE, || match (cap::set_bounding(wrong), cap::set_ambient(wrong)) {
        (Err(Errno::INVAL), Err(Errno::INVAL)) => 0,
        _ => 1,
    });
    assert_eq!(exit.code, 0);
}

#[test]
fn a_filter_holds() {
    // mkdirat and mkdir answer EACCES, everything else is allowed: load nr; two comparisons; return.
    let number = |number: libc::c_long| u32::try_from(number).unwrap();
    let program = [
        SockFilter { code: 0x20, jt: 0, jf: 0, k: 0 },
        SockFilter { code: 0x15, jt: 0, jf: 1, k: number(libc::SYS_mkdirat) },
        SockFilter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | Errno::ACCESS.raw_os_error().unsigned_abs() },
        SockFilter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 },
    ];
    let exit = in_child(CloneFlags::NONE, || {
        if let Err(errno) = no_new_privs().and_then(|()| seccomp::install(&program, 0).map(drop)) {
            return errno.raw_os_error();
        }
        code(rustix::fs::mkdirat(rustix::fs::CWD, c"/proc/x", rustix::fs::Mode::empty()))
    });
    assert_eq!(exit.code, Errno::ACCESS.raw_os_error());
}

#[test]
fn a_child_joins_what_another_made() {
    require_root();
    let (ours, theirs) = socket::pair().unwrap();
    let how = Clone { flags: CloneFlags::NEWUTS | CloneFlags::NEWNET, ..Clone::default() };
    // SAFETY: the child makes system calls only, and exits.
    let Forked::Parent { pid, pidfd } = unsafe { clone3(&how) }.unwrap() else {
        let _ = rustix::system::sethostname(b"vaquita-test");
        let _ = rustix::io::write(&theirs, b"x");
        let _ = rustix::io::read(&theirs, &mut [0; 1]);
        exit_now(0)
    };
    rustix::io::read(&ours, &mut [0; 1]).unwrap();
    let uts = ns::open(Some(pid), ns::Kind::Uts).unwrap();
    let exit = in_child(CloneFlags::NONE, || {
        if let Err(errno) = ns::setns(uts.as_fd(), ns::Kind::Uts)
            .and_then(|()| ns::setns_process(pidfd.as_fd(), CloneFlags::NEWNET))
        {
            return errno.raw_os_error();
        }
        i32::from(rustix::system::uname().nodename() != c"vaquita-test")
    });
    rustix::io::write(&ours, b"x").unwrap();
    wait_pidfd(&pidfd).unwrap();
    assert_eq!(exit.code, 0);
}

#[test]
fn raising_a_hard_limit_needs_a_capability_that_may_be_missing() {
    require_root();
    use vaquita_sys::rlimit::{Resource, current, set};
    let (_, hard) = current(Resource::NOFILE).unwrap();
    let may = cap::current().unwrap().effective.contains(Capability::SYS_RESOURCE);
    let exit = in_child(CloneFlags::NONE, || code(set(Resource::NOFILE, 1024, hard + 1)));
    assert_eq!(exit.code, if may { 0 } else { Errno::PERM.raw_os_error() });
}
