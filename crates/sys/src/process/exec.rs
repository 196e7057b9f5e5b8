//! Running a program: its arguments, what it is run from so that nobody can write there, execveat(2), and leaving without
//! ceremony.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::mount::{self, Attr, Attributes};
use crate::syscall::check;
use crate::{Error, Result};

/// Strings as execve takes them: a null-terminated array of pointers. Built before the clone, so that the child need
/// not allocate.
pub struct CStrArray {
    /// Owns what `pointers` points to. Moving a CString does not move its bytes.
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrArray {
    /// Copies the strings.
    ///
    /// # Errors
    /// `EINVAL` for a string with a NUL byte inside.
    pub fn new<S: AsRef<OsStr>>(strings: impl IntoIterator<Item = S>) -> Result<Self> {
        let strings = strings.into_iter().map(|string| CString::new(string.as_ref().as_bytes()));
        let strings = strings.collect::<core::result::Result<Vec<_>, _>>().map_err(|error| {
            let text = String::from_utf8_lossy(&error.into_vec()).into_owned();
            Error::refused(format!("execve argument {text:?}"), Errno::INVAL, "contains a NUL byte")
        })?;
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([core::ptr::null()]).collect();
        Ok(Self { strings, pointers })
    }

    /// The strings, without the terminating null.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.strings.iter().map(CString::as_c_str)
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

impl std::fmt::Debug for CStrArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.strings).finish()
    }
}

// SAFETY: the pointers are to bytes that the value owns and never changes.
unsafe impl Send for CStrArray {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for CStrArray {}

/// Replaces the program by the file `path` below `dir`, or by `dir` itself when `path` is empty. Returns only to say
/// why it did not. `flags` are `AT_*` of execveat(2); `AT_EMPTY_PATH` is added for an empty path.
///
/// Safe between clone and exec: no allocation.
#[must_use]
pub fn execveat(dir: BorrowedFd<'_>, path: &CStr, argv: &CStrArray, envp: &CStrArray, flags: i32) -> Errno {
    let flags = if path.is_empty() { flags | libc::AT_EMPTY_PATH } else { flags };
    // SAFETY: path is NUL-terminated, both arrays end with a null pointer and their strings live in them.
    let result = unsafe {
        libc::syscall(libc::SYS_execveat, dir.as_raw_fd(), path.as_ptr(), argv.as_ptr(), envp.as_ptr(), flags)
    };
    check(result).err().unwrap_or(Errno::INVAL)
}

/// Ends the process at once: no destructor, no atexit handler, no flush. Safe between clone and exec: no allocation.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and runs nothing of ours.
    unsafe { libc::_exit(code) }
}

/// Closes every fd from `first` to `last`; one by one, up to the hard limit of open files, where the kernel has no
/// close_range(2) (before Linux 5.9). Safe between clone and exec: no allocation.
///
/// # Errors
/// `EINVAL` for `first` above `last`.
///
/// # Safety
/// Nothing may use those fds afterwards: an `OwnedFd` among them would close somebody else's.
pub unsafe fn close_range(first: u32, last: u32) -> core::result::Result<(), Errno> {
    // SAFETY: integers only; the caller answers for the owners.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }) {
        Err(Errno::NOSYS) if first <= last => {}
        other => return other.map(drop),
    }
    for fd in first..=last.min(highest_fd()) {
        // SAFETY: as above. A number that is no fd is none to close.
        unsafe { libc::syscall(libc::SYS_close, fd) };
    }
    Ok(())
}

/// Marks every fd from `first` to `last` close-on-exec; one by one, as [`close_range`] does, before Linux 5.11. Safe
/// between clone and exec: no allocation.
///
/// # Errors
/// `EINVAL` for `first` above `last`.
pub fn close_range_on_exec(first: u32, last: u32) -> core::result::Result<(), Errno> {
    // SAFETY: integers only; no fd is closed now.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) }) {
        // Linux 5.9 and 5.10 do not know the flag.
        Err(Errno::NOSYS | Errno::INVAL) if first <= last => {}
        other => return other.map(drop),
    }
    for fd in first..=last.min(highest_fd()) {
        // SAFETY: integers only; a number that is no fd has no flag.
        unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// No fd of this process is higher, unless it was opened before the hard limit was lowered.
fn highest_fd() -> u32 {
    /// What the kernel lets the limit be at most (sysctl fs.nr_open), unless that was raised.
    const MOST: u64 = 1 << 20;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    u32::try_from(limit.maximum.unwrap_or(MOST).min(MOST)).unwrap_or(u32::MAX)
}

/// Makes `number` another name of the fd that execve does not close; it may be its own number. Safe between clone and
/// exec: no allocation.
///
/// # Errors
/// `EBADF` for a number above the limit of open files.
///
/// # Safety
/// Nothing may use what had that number before: an `OwnedFd` of it would close this one.
pub unsafe fn dup_for_exec(fd: BorrowedFd<'_>, number: i32) -> core::result::Result<(), Errno> {
    if fd.as_raw_fd() == number {
        // dup3 refuses it.
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
    }
    // SAFETY: integers only; the caller answers for the owner.
    check(unsafe { libc::syscall(libc::SYS_dup3, fd.as_raw_fd(), number, 0) }).map(drop)
}

/// Has the programs that `command` starts find `fd` at `number`, which is above standard error, whatever is there in this process. It is
/// open here as long as `command` is there.
///
/// # Errors
/// `EINVAL` for a lower number; `EMFILE`.
pub fn pass_as(command: &mut std::process::Command, fd: OwnedFd, number: i32) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let call = || format!("fcntl({fd:?}, F_DUPFD_CLOEXEC, {number})");
    if number < 3 {
        return Err(Error::new(call(), Errno::INVAL));
    }
    // Not below that number: where it is free it is this one, and nothing that is opened for the start itself.
    let fd = rustix::io::fcntl_dupfd_cloexec(&fd, number).map_err(|errno| Error::new(call(), errno))?;
    let pass = move || {
        // SAFETY: between fork and exec; nothing of the parent's is used any more.
        unsafe { dup_for_exec(fd.as_fd(), number) }.map_err(std::io::Error::from)
    };
    // SAFETY: one system call, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(pass) };
    Ok(())
}

/// A copy of a descriptor that this program was started with, close-on-exec and with a number above it.
///
/// # Errors
/// `EBADF` when there is none of that number.
pub fn inherited(number: i32) -> Result<OwnedFd> {
    let call = || format!("fcntl({number}, F_DUPFD_CLOEXEC)");
    if number < 0 {
        return Err(Error::new(call(), Errno::BADF));
    }
    // SAFETY: a number only, of which the kernel says whether it is open; borrowed for that one call.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_dupfd_cloexec(fd, number + 1).map_err(|errno| Error::new(call(), errno))
}

/// The same file as `file` (opened, or just `O_PATH`) on a read-only mount of its own, to be executed only: what a container
/// reaches of it through `/proc/PID/exe` cannot be written, truncated or changed in any other way (CVE-2019-5736). The mount is in no namespace, so nobody can change or
/// copy it either: not its flags, and not with all capabilities. On the host the file cannot be written while it runs (`ETXTBSY`),
/// as always; it can be replaced. Unlike a copy it costs no memory. Close-on-exec, `O_PATH`.
///
/// # Errors
/// `EINVAL` where its mount cannot be copied (it is of another namespace, or unbindable), `EPERM` without `CAP_SYS_ADMIN`,
/// `ENOSYS` before Linux 5.12; those of procfs, by which it is opened.
pub fn read_only(file: impl AsFd) -> Result<OwnedFd> {
    let tree = mount::open_tree_clone(&file, "", false)?;
    let set = Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV;
    mount::mount_setattr(&tree, "", false, &Attr { set, ..Attr::default() })?;
    // Opened anew: with the last copy of the first descriptor the mount leaves the namespace that it was made in.
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    let failed = |call: &str, errno| Error::new(format!("{call}({path:?})"), errno);
    let again = rustix::fs::open(&*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", errno))?;
    let place = rustix::fs::fstatvfs(&again).map_err(|errno| failed("fstatvfs", errno))?;
    if place.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(again);
    }
    Err(Error::refused(
        format!("fstatvfs({path:?})"),
        Errno::PERM,
        "the mount that was made read-only is not",
    ))
}

/// A file in memory with these bytes, which nobody can change any more (memfd_create(2), all seals): what a container
/// reaches of it through `/proc/PID/exe` cannot be overwritten (CVE-2019-5736). Close-on-exec.
///
/// # Errors
/// `ENOMEM`, `EMFILE`; `EPERM` where sysctl vm.memfd_noexec forbids executable ones.
pub fn sealed_copy(name: &CStr, bytes: &[u8]) -> Result<OwnedFd> {
    let mut file = memfd(name)?;
    file.write_all(bytes).map_err(|error| io_error("write", name, &error))?;
    seal(file, name)
}

/// A sealed copy of the running executable, see [`sealed_copy`].
///
/// # Errors
/// As [`sealed_copy`], and those of reading `/proc/self/exe`.
pub fn sealed_self() -> Result<OwnedFd> {
    let name = c"vaquita";
    let exe = File::open("/proc/self/exe").map_err(|error| io_error("open", c"/proc/self/exe", &error))?;
    let mut file = memfd(name)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        // A signal is no reason to give up: the standard library leaves that to who calls.
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&exe, &mut *buffer))
            .map_err(|errno| Error::new("read(</proc/self/exe>)".to_owned(), errno))?;
        match read {
            0 => return seal(file, name),
            n => file.write_all(&buffer[..n]).map_err(|error| io_error("write", name, &error))?,
        }
    }
}

fn memfd(name: &CStr) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC says that it is meant to be executed (Linux 6.3, where not saying so is logged); older kernels refuse it.
    let exec = MemfdFlags::from_bits_retain(0x10);
    let fd = match rustix::fs::memfd_create(name, flags | exec) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    };
    fd.map(File::from).map_err(|errno| {
        Error::new(format!("memfd_create({name:?}, MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_EXEC)"), errno)
    })
}

/// How often sealing is tried again.
const SEAL_TRIES: u32 = 10;

fn seal(file: File, name: &CStr) -> Result<OwnedFd> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let fd = OwnedFd::from(file);
    let mut tries = 0;
    loop {
        match rustix::fs::fcntl_add_seals(&fd, seals) {
            Ok(()) => return Ok(fd),
            // Nobody else has it: the kernel itself holds a page for a moment, as it does to move it, and has waited 0.15 s for that.
            Err(Errno::BUSY) if tries < SEAL_TRIES => tries += 1,
            Err(errno) => return Err(Error::new(format!("fcntl(<memfd {name:?}>, F_ADD_SEALS, ..)"), errno)),
        }
    }
}

fn io_error(call: &str, name: &CStr, error: &std::io::Error) -> Error {
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Error::new(format!("{call}({name:?})"), errno)
}
