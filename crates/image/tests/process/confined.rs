//! What a process that was confined cannot do, tried one by one, each in a process of its own.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, Stdio};

use libc::c_long;
use rustix::io::Errno;
use vaquita_image::unpack;

/// The name under which this program confines itself and tries one thing.
pub(crate) const PROGRAM: &str = "attempt";

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It works.
    Works,
    /// The call fails.
    Fails(Errno),
    /// The process is killed by the filter.
    Killed,
}

use End::{Fails, Killed, Works};

/// A system call with its arguments.
struct Call(c_long, [c_long; 6]);

/// The directory, in a process that has nothing else open.
const DIR: c_long = 3;

/// Name, attempt, end.
fn attempts() -> Vec<(&'static str, Vec<Call>, End)> {
    let mut all = permitted_and_failing();
    all.extend(killed().into_iter().map(|(name, number, arguments)| (name, one(number, &arguments), Killed)));
    all
}

fn one(number: c_long, arguments: &[c_long]) -> Vec<Call> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    vec![Call(number, all)]
}

/// Calls that the filter has, with what may be done with them and what may not.
fn permitted_and_failing() -> Vec<(&'static str, Vec<Call>, End)> {
    let open = |at: c_long, path, flags: i32| one(libc::SYS_openat, &[at, path, flags.into(), 0o600]);
    let cwd = c_long::from(libc::AT_FDCWD);
    let (read, write, make) = (libc::O_RDONLY, libc::O_WRONLY, libc::O_WRONLY | libc::O_CREAT);
    let node = |kind: u32, device: u64| {
        let made = one(libc::SYS_mknodat, &[DIR, text(c"node"), (kind | 0o600).into(), device as c_long]);
        [made, open(DIR, text(c"node"), write)].into_iter().flatten().collect::<Vec<_>>()
    };
    vec![
        ("make a file", open(DIR, text(c"new"), make), Works),
        ("make a directory", one(libc::SYS_mkdirat, &[DIR, text(c"new"), 0o700]), Works),
        ("make a link", one(libc::SYS_symlinkat, &[text(c"/etc/passwd"), DIR, text(c"new")]), Works),
        (
            "link to another directory",
            one(libc::SYS_linkat, &[DIR, text(c"file"), DIR, text(c"sub/file"), 0]),
            Works,
        ),
        ("make a whiteout", one(libc::SYS_mknodat, &[DIR, text(c"new"), libc::S_IFCHR.into(), 0]), Works),
        ("give a file away", one(libc::SYS_fchownat, &[DIR, text(c"file"), 1000, 1000, 0]), Works),
        ("write a file", open(DIR, text(c"file"), write), Works),
        ("list the directory", open(DIR, text(c"."), read), Works),
        ("a clock", one(libc::SYS_clock_nanosleep, &[99, 0, 0, 0]), Fails(Errno::INVAL)),
        ("read a file of the layer", open(DIR, text(c"file"), read), Fails(Errno::ACCESS)),
        ("read /etc/passwd", open(cwd, text(c"/etc/passwd"), read), Fails(Errno::NOENT)),
        ("climb to /etc/passwd", open(DIR, text(c"../../../../../../etc/passwd"), read), Fails(Errno::NOENT)),
        ("climb from the root", open(cwd, text(c"../../../etc/passwd"), read), Fails(Errno::NOENT)),
        ("follow a link out", open(DIR, text(c"out/passwd"), read), Fails(Errno::NOENT)),
        ("write below a link out", open(DIR, text(c"out/vaquita"), make), Fails(Errno::NOENT)),
        ("look at procfs", open(cwd, text(c"/proc/self/status"), read), Fails(Errno::NOENT)),
        ("open a character device", node(libc::S_IFCHR, libc::makedev(1, 3)), Fails(Errno::ACCESS)),
        ("open a block device", node(libc::S_IFBLK, libc::makedev(7, 0)), Fails(Errno::ACCESS)),
        (
            "make a unix socket",
            one(libc::SYS_mknodat, &[DIR, text(c"new"), libc::S_IFSOCK.into(), 0]),
            Fails(Errno::ACCESS),
        ),
        (
            "fill the descriptors",
            one(libc::SYS_fcntl, &[DIR, libc::F_DUPFD_CLOEXEC.into(), 64]),
            Fails(Errno::INVAL),
        ),
        ("clone3", one(libc::SYS_clone3, &[0, 0]), Fails(Errno::NOSYS)),
    ]
}

/// Calls that the filter does not have: name, number, arguments.
fn killed() -> Vec<(&'static str, c_long, Vec<c_long>)> {
    let parent = parent();
    let own = text(c"/");
    vec![
        ("internet socket", libc::SYS_socket, vec![libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0]),
        ("unix socket", libc::SYS_socket, vec![libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0]),
        ("netlink socket", libc::SYS_socket, vec![libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 0]),
        ("pair of sockets", libc::SYS_socketpair, vec![libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, 0]),
        ("connect", libc::SYS_connect, vec![0, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, vec![8, 0]),
        ("execve", libc::SYS_execve, vec![text(c"/bin/sh"), 0, 0]),
        ("execveat", libc::SYS_execveat, vec![DIR, text(c"file"), 0, 0, 0]),
        ("fork", libc::SYS_clone, vec![libc::SIGCHLD.into(), 0, 0, 0, 0]),
        ("ptrace of the parent", libc::SYS_ptrace, vec![16, parent, 0, 0]),
        ("memory of the parent", libc::SYS_process_vm_readv, vec![parent, 0, 0, 0, 0, 0]),
        ("kill of the parent", libc::SYS_kill, vec![parent, 0]),
        ("signal to a thread of the parent", libc::SYS_tgkill, vec![parent, parent, 0]),
        ("pidfd of the parent", libc::SYS_pidfd_open, vec![parent, 0]),
        ("kcmp", libc::SYS_kcmp, vec![parent, parent, 0, 0, 0]),
        ("user namespace", libc::SYS_unshare, vec![libc::CLONE_NEWUSER.into()]),
        ("setns", libc::SYS_setns, vec![DIR, 0]),
        ("mount", libc::SYS_mount, vec![own, own, 0, libc::MS_BIND as c_long, 0]),
        ("unmount", libc::SYS_umount2, vec![own, libc::MNT_DETACH.into()]),
        ("detached mount", libc::SYS_open_tree, vec![DIR, text(c""), 0x1001]),
        ("move_mount", libc::SYS_move_mount, vec![DIR, own, DIR, own, 0]),
        ("chroot", libc::SYS_chroot, vec![own]),
        ("pivot_root", libc::SYS_pivot_root, vec![own, own]),
        ("file by handle", libc::SYS_open_by_handle_at, vec![DIR, 0, 0]),
        (
            "code",
            libc::SYS_mmap,
            vec![
                0,
                4096,
                (libc::PROT_READ | libc::PROT_EXEC).into(),
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into(),
                -1,
                0,
            ],
        ),
        ("code from data", libc::SYS_mprotect, vec![0, 4096, libc::PROT_EXEC.into()]),
        ("program in memory", libc::SYS_memfd_create, vec![own, 0]),
        ("core dumps", libc::SYS_prctl, vec![libc::PR_SET_DUMPABLE.into(), 1]),
        ("death signal", libc::SYS_prctl, vec![libc::PR_SET_PDEATHSIG.into(), 0]),
        ("limits", libc::SYS_prlimit64, vec![0, 0, 0, 0]),
        ("owner of signals", libc::SYS_fcntl, vec![0, libc::F_SETOWN.into(), parent]),
        ("ioctl", libc::SYS_ioctl, vec![0, 0x5412, 0]),
        ("set-user-id", libc::SYS_setuid, vec![0]),
        ("capset", libc::SYS_capset, vec![0, 0]),
        ("bpf", libc::SYS_bpf, vec![0, 0, 0]),
        ("performance events", libc::SYS_perf_event_open, vec![0, 0, -1, -1, 0]),
        ("keys", libc::SYS_keyctl, vec![0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, vec![0]),
        ("fanotify", libc::SYS_fanotify_init, vec![0, 0]),
        ("module", libc::SYS_finit_module, vec![DIR, own, 0]),
        ("host name", libc::SYS_sethostname, vec![own, 1]),
        ("clock", libc::SYS_clock_settime, vec![0, 0]),
        ("quota", libc::SYS_quotactl, vec![0, own, 0, 0]),
        ("seccomp", libc::SYS_seccomp, vec![0, 0, 0]),
        ("32-bit numbers of x32", libc::SYS_getpid | 0x4000_0000, vec![]),
        ("no such call", 4000, vec![]),
    ]
}

fn parent() -> c_long {
    rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get()).into()
}

fn text(text: &'static CStr) -> c_long {
    text.as_ptr() as c_long
}

/// Confines this process to the directory on descriptor 2, makes one attempt, and says how it ended.
pub(crate) fn attempt() -> ExitCode {
    let index: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let (_, calls, _) = attempts().swap_remove(index);
    let dir = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).unwrap();
    let dir = unpack::confine(dir, 1 << 20).unwrap();
    assert_eq!(c_long::from(dir.as_raw_fd()), DIR);
    let mut said = String::from("0");
    for Call(number, [a, b, c, d, e, f]) in calls {
        // SAFETY: pointers among the arguments are to constant texts or null; the calls that would change this process's
        // memory are refused, or the test fails.
        if unsafe { libc::syscall(number, a, b, c, d, e, f) } < 0 {
            said = std::io::Error::last_os_error().raw_os_error().unwrap().to_string();
        }
    }
    std::io::stdout().write_all(said.as_bytes()).unwrap();
    ExitCode::SUCCESS
}

pub(crate) fn nothing_but_the_layer_can_be_reached() {
    for (index, (name, _, end)) in attempts().into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        let output = Command::new("/proc/self/exe")
            .arg0(PROGRAM)
            .arg(index.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::from(File::open(dir.path()).unwrap()))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let is = match (output.status.signal(), said.parse::<i32>()) {
            (Some(libc::SIGSYS), _) => Killed,
            (None, Ok(0)) => Works,
            (None, Ok(errno)) => Fails(Errno::from_raw_os_error(errno)),
            _ => panic!("{name}: {} and {said:?}", output.status),
        };
        assert_eq!((name, is), (name, end));
    }
}

/// The process itself, in the middle of a layer: what the kernel says of each of its threads.
pub(crate) fn every_thread_is_confined() {
    let dir = tempfile::tempdir().unwrap();
    let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    let fs = dir.path().join("fs");
    std::fs::create_dir(&fs).unwrap();
    rustix::fs::inotify::add_watch(&watch, &fs, rustix::fs::inotify::WatchFlags::CREATE).unwrap();
    let mut child = Command::new("/proc/self/exe")
        .arg0(unpack::PROGRAM)
        .args(["1000000", "1000"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(File::open(dir.path()).unwrap()))
        .spawn()
        .unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(200_000);
    archive.append_data(&mut header, "file", std::io::repeat(b'x').take(200_000)).unwrap();
    let archive = archive.into_inner().unwrap();
    let (start, rest) = archive.split_at(150_000);
    let mut input = child.stdin.take().unwrap();
    input.write_all(start).unwrap();
    // The file is there, and the threads wait for its other half.
    let mut event = [0; 256];
    rustix::io::read(&watch, &mut event).unwrap();
    let task = format!("/proc/{}/task", child.id());
    let threads: Vec<_> = std::fs::read_dir(task).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in &threads {
        let status = std::fs::read_to_string(thread.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2".into(), "1".into()));
        let kept = [0, 1, 3, 4, 21, 27, 31].iter().fold(0_u64, |set, number| set | 1 << number);
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(u64::from_str_radix(&field(set), 16).unwrap() & !kept, 0, "{set}");
        }
        assert_eq!(u64::from_str_radix(&field("CapInh"), 16), Ok(0));
    }
    input.write_all(rest).unwrap();
    drop(input);
    let mut report = String::new();
    child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    assert!(report.starts_with("{\"done\":"), "{report}");
    assert!(child.wait().unwrap().success());
}
