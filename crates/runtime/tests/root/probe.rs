//! What runs inside the containers: one line of output for each line of its orders.

use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Not a test of anything by itself: the program of the containers.
#[test]
fn probe() {
    let Ok(orders) = std::env::var("VAQUITA_PROBE") else { return };
    // The test runner has begun a line.
    println!();
    let mut code = 0;
    for order in orders.lines().filter(|order| !order.is_empty()) {
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        if verb == "exit" {
            code = rest.parse().unwrap();
            continue;
        }
        // The harness takes only lines with the mark: the test runner prints some of its own.
        println!("> {order} = {}", obey(verb, rest));
        std::io::stdout().flush().unwrap();
    }
    #[expect(clippy::exit, reason = "the test runner would print more and decide the exit code")]
    std::process::exit(code);
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn obey(verb: &str, rest: &str) -> String {
    match verb {
        "cat" => shown(fs::read_to_string(rest).map(|text| text.trim_end().replace('\n', "|"))),
        "write" => shown(
            fs::OpenOptions::new()
                .write(true)
                .open(rest)
                .and_then(|mut file| file.write_all(b"x"))
                .map(|()| "ok"),
        ),
        "create" => shown(fs::write(rest, "x").map(|()| "ok")),
        "mkdir" => shown(fs::create_dir(rest).map(|()| "ok")),
        "ls" => shown(fs::read_dir(rest).map(|entries| {
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names.join(" ")
        })),
        "link" => shown(fs::read_link(rest).map(|target| target.display().to_string())),
        "stat" => shown(fs::symlink_metadata(rest).map(|stat| {
            let kind = stat.file_type();
            let kind = match () {
                () if kind.is_dir() => "dir",
                () if kind.is_symlink() => "link",
                () if kind.is_char_device() => "char",
                () if kind.is_block_device() => "block",
                () if kind.is_fifo() => "fifo",
                () => "file",
            };
            let device = stat.rdev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            format!("{kind} {:o} {}:{} {major}:{minor}", stat.mode() & 0o7777, stat.uid(), stat.gid())
        })),
        "status" => status(rest),
        "mount" => mount(rest),
        "mounts" => mounts(rest).to_string(),
        "cwd" => shown(std::env::current_dir().map(|path| path.display().to_string())),
        "env" => std::env::var(rest).unwrap_or_else(|_| "unset".to_owned()),
        "arg0" => std::env::args().next().unwrap_or_default(),
        "nothing" => String::new(),
        "pid" => std::process::id().to_string(),
        "ids" => {
            let groups: Vec<String> =
                rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw().to_string()).collect();
            format!(
                "{} {} [{}]",
                rustix::process::getuid().as_raw(),
                rustix::process::getgid().as_raw(),
                groups.join(" ")
            )
        }
        "session" => {
            let own = rustix::process::getpid();
            (rustix::process::getsid(None).unwrap() == own).to_string()
        }
        "umask" => {
            let mask = rustix::process::umask(rustix::fs::Mode::empty());
            format!("{:o}", mask.as_raw_mode())
        }
        "fds" => fds(),
        "scheduling" => scheduling(),
        "policy" => {
            let text = fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
            text.split(' ').nth(1).unwrap_or_default().to_owned()
        }
        "keyring" => session_keyring(),
        "hostname" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        "domainname" => rustix::system::uname().domainname().to_string_lossy().into_owned(),
        "ns" => {
            shown(fs::read_link(format!("/proc/self/ns/{rest}")).map(|target| target.display().to_string()))
        }
        "nofile" => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            format!("{:?} {:?}", limit.current, limit.maximum)
        }
        "unshare" => shown(vaquita_sys::ns::unshare(vaquita_sys::process::CloneFlags::NEWUTS).map(|()| "ok")),
        "mounttmpfs" => {
            shown(vaquita_sys::mount::Filesystem::open("tmpfs").map(|_| "ok").map_err(|error| error.errno()))
        }
        "socket" => {
            let family = rustix::net::AddressFamily::from_raw(rest.parse().unwrap());
            shown(rustix::net::socket(family, rustix::net::SocketType::DGRAM, None).map(|_| "ok"))
        }
        "mkdirat2" => shown(rustix::fs::mkdir(rest, rustix::fs::Mode::RWXU).map(|()| "ok")),
        "chmod" => shown(rustix::fs::chmod(rest, rustix::fs::Mode::RWXU).map(|()| "ok")),
        "tty" => {
            let stdin = std::io::stdin();
            let size = vaquita_sys::tty::size(&stdin).map(|size| format!("{}x{}", size.rows, size.columns));
            let controlling =
                rustix::fs::open("/dev/tty", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
            format!(
                "{} {} {}",
                rustix::termios::isatty(&stdin),
                shown(size),
                shown(controlling.map(|_| "controlling"))
            )
        }
        "stdin" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            text
        }
        "wait" => {
            // Until the test closes its end.
            let mut buffer = [0];
            shown(std::io::stdin().read(&mut buffer))
        }
        "reopen" => shown(fs::OpenOptions::new().write(true).open("/dev/stdout").map(|_| "ok")),
        other => panic!("order {other:?}"),
    }
}

fn shown<T: Display, E: Into<std::io::Error>>(result: Result<T, E>) -> String {
    match result.map_err(Into::into) {
        Ok(value) => value.to_string(),
        Err(error) => match error.raw_os_error() {
            // ENOENT, of "x: ENOENT (No such file or directory)".
            Some(number) => {
                let text =
                    vaquita_sys::Error::new("x", rustix::io::Errno::from_raw_os_error(number)).to_string();
                text.split(' ').nth(1).unwrap_or_default().to_owned()
            }
            None => error.to_string(),
        },
    }
}

fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let prefix = format!("{field}:");
    text.lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .map(|value| value.trim().to_owned())
        .unwrap_or_default()
}

/// How many mounts lie on each other there.
fn mounts(path: &str) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter(|line| line.split(' ').nth(4) == Some(path)).count()
}

/// Options, propagation and type of what is mounted there last.
fn mount(path: &str) -> String {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found = text.lines().rev().find(|line| line.split(' ').nth(4) == Some(path));
    found.map_or_else(
        || "none".to_owned(),
        |line| {
            let (before, after) = line.split_once(" - ").unwrap();
            let fields: Vec<&str> = before.split(' ').collect();
            let kind = after.split(' ').next().unwrap();
            let spreads: Vec<&str> =
                fields[6..].iter().map(|field| field.split(':').next().unwrap()).collect();
            format!("{kind} {} [{}]", fields[5], spreads.join(" "))
        },
    )
}

/// Policy, priority, nice, I/O priority, personality of the process.
#[expect(unsafe_code, reason = "nothing else of these is used here")]
fn scheduling() -> String {
    // The first thread is the one that was set up; this one has inherited all but deadlines.
    let pid = std::process::id();
    let mut attr = [0_u64; 7];
    // SAFETY: the kernel writes at most as many bytes as it is told.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, pid, attr.as_mut_ptr(), 56, 0) };
    assert_eq!(result, 0);
    // SAFETY: integers only.
    let io = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, pid) };
    // SAFETY: an integer only; this value asks.
    let personality = unsafe { libc::syscall(libc::SYS_personality, 0xffff_ffff_u64) };
    let (policy, flags, nice, priority) = (attr[0] >> 32, attr[1], attr[2] as u32 as i32, attr[2] >> 32);
    let times = &attr[3..6];
    format!(
        "policy {policy} flags {flags} nice {nice} priority {priority} times {times:?} io {io:#x} persona {personality:#x}"
    )
}

#[expect(unsafe_code, reason = "nothing else of keys is used here")]
pub(crate) fn session_keyring() -> String {
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING.
    // SAFETY: integers only.
    unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }.to_string()
}

fn fds() -> String {
    let mut open = Vec::new();
    for number in 0..64 {
        // Not by /proc/self/fd: it would open one more.
        if rustix::io::fcntl_getfd(fd(number)).is_ok() {
            open.push(number.to_string());
        }
    }
    open.join(" ")
}

#[expect(unsafe_code, reason = "asks about numbers that nobody owns")]
fn fd(number: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only fcntl(F_GETFD) is called with it, which is harmless for any number.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }
}
