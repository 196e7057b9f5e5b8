//! Running tests as on a kernel that lacks system calls: a seccomp filter answers `ENOSYS` to them.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a test finds in its environment when it runs so: the numbers of the calls, separated by commas.
const VARIABLE: &str = "VAQUITA_TEST_LACKS";

/// Whether this process lacks the system call, by [`run_without`].
#[must_use]
pub fn lacks(call: c_long) -> bool {
    std::env::var(VARIABLE).is_ok_and(|list| list.split(',').any(|number| number.parse() == Ok(call)))
}

/// Runs this test binary again, in a process that lacks these system calls: the tests whose names contain one of
/// `tests`, but none of `except`. At least one must run.
///
/// # Panics
/// When one of them fails, with what it said, or when none ran.
#[track_caller]
pub fn run_without(calls: &[c_long], tests: &[&str], except: &[&str]) {
    let exe = std::env::current_exe().unwrap_or_else(|error| panic!("current_exe: {error}"));
    let mut command = Command::new(exe);
    command.args(tests);
    for name in except {
        command.args(["--skip", name]);
    }
    let list: Vec<String> = calls.iter().map(ToString::to_string).collect();
    command.env(VARIABLE, list.join(","));
    let program = filter(calls);
    // SAFETY: between fork and exec it makes one system call, with what was prepared before.
    #[expect(unsafe_code, reason = "a filter must be there before the tests' threads are")]
    unsafe {
        command.pre_exec(move || install(&program));
    }
    let output = command.output().unwrap_or_else(|error| panic!("the tests cannot be run: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let ran = text.lines().any(|line| line.starts_with("test ") && line.ends_with("... ok"));
    assert!(
        output.status.success() && ran,
        "without system calls {list:?}, {tests:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Load the number; for each call a comparison and a return; allow the rest.
fn filter(calls: &[c_long]) -> Vec<libc::sock_filter> {
    let instruction = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut program = vec![instruction(0x20, 0, 0)];
    for call in calls {
        let number = u32::try_from(*call).unwrap_or_else(|_| panic!("{call} is no system call"));
        program.push(instruction(0x15, 1, number));
        program.push(instruction(0x06, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()));
    }
    program.push(instruction(0x06, 0, libc::SECCOMP_RET_ALLOW));
    program
}

fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let mode: c_int = libc::SECCOMP_SET_MODE_FILTER.cast_signed();
    // SAFETY: the kernel copies the program, which has the length that it says.
    #[expect(unsafe_code, reason = "a system call that libc does not wrap")]
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
