//! Landlock (landlock(7), Linux 5.13): a thread gives up what it may do with files, TCP and other processes, for good.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::syscall::{check, check_fd};

/// The version of Landlock that the kernel has, `None` where it has none or does not use it.
#[must_use]
pub fn version() -> Option<u32> {
    // SAFETY: with this flag and no attributes the call only answers.
    let answer = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, core::ptr::null::<u8>(), 0_usize, CREATE_VERSION)
    };
    check(answer).ok().and_then(|version| u32::try_from(version).ok())
}

/// What can be done with files (`LANDLOCK_ACCESS_FS_*`), as bits.
pub mod file {
    /// Execute a file.
    pub const EXECUTE: u64 = 1;
    /// Open a file for writing.
    pub const WRITE_FILE: u64 = 1 << 1;
    /// Open a file for reading.
    pub const READ_FILE: u64 = 1 << 2;
    /// Open or list a directory.
    pub const READ_DIR: u64 = 1 << 3;
    /// Remove a directory, or rename it.
    pub const REMOVE_DIR: u64 = 1 << 4;
    /// Remove a file, or rename it.
    pub const REMOVE_FILE: u64 = 1 << 5;
    /// Make a character device.
    pub const MAKE_CHAR: u64 = 1 << 6;
    /// Make a directory.
    pub const MAKE_DIR: u64 = 1 << 7;
    /// Make a regular file.
    pub const MAKE_REG: u64 = 1 << 8;
    /// Make a unix socket.
    pub const MAKE_SOCK: u64 = 1 << 9;
    /// Make a named pipe.
    pub const MAKE_FIFO: u64 = 1 << 10;
    /// Make a block device.
    pub const MAKE_BLOCK: u64 = 1 << 11;
    /// Make a symbolic link.
    pub const MAKE_SYM: u64 = 1 << 12;
    /// Link or rename a file from one directory to another. Without it, before version 2, that is never possible.
    pub const REFER: u64 = 1 << 13;
    /// Cut a file off. Version 3.
    pub const TRUNCATE: u64 = 1 << 14;
    /// ioctl(2) on devices that were opened from now on. Version 5.
    pub const IOCTL_DEV: u64 = 1 << 15;
}

/// What a thread gives up, but where a rule of [`Ruleset::allow_beneath`] says otherwise.
#[derive(Debug)]
pub struct Ruleset {
    fd: OwnedFd,
    files: u64,
}

impl Ruleset {
    /// Everything that version `version` knows: all of [`mod@file`], connecting and listening by TCP (version 4), connecting to
    /// abstract unix sockets and sending signals to processes outside (version 6).
    ///
    /// # Errors
    /// `ENOSYS` or `EOPNOTSUPP` without Landlock, `EINVAL` for a version that the kernel does not have.
    pub fn everything(version: u32) -> Result<Self, Errno> {
        let bits = match version {
            0 | 1 => 13,
            2 => 14,
            3 | 4 => 15,
            _ => 16,
        };
        let files = (1 << bits) - 1;
        let network = if version >= 4 { 0b11 } else { 0 };
        let scopes = if version >= 6 { 0b11 } else { 0 };
        // struct landlock_ruleset_attr; a kernel that knows less takes it if what it does not know is zero.
        let attributes: [u64; 3] = [files, network, scopes];
        // SAFETY: the kernel reads `size_of_val` bytes; the result is a new descriptor, close-on-exec.
        let fd = unsafe {
            check_fd(libc::syscall(
                libc::SYS_landlock_create_ruleset,
                attributes.as_ptr(),
                size_of_val(&attributes),
                0,
            ))
        }?;
        Ok(Self { fd, files })
    }

    /// Allows `access`, of which what the version does not know is left out, to `dir` and all below it.
    ///
    /// # Errors
    /// `EBADFD` for something that is no file or directory.
    pub fn allow_beneath(&self, dir: BorrowedFd<'_>, access: u64) -> Result<(), Errno> {
        #[repr(C, packed)]
        struct PathBeneath {
            access: u64,
            parent: i32,
        }
        let rule = PathBeneath { access: access & self.files, parent: dir.as_raw_fd() };
        // SAFETY: the kernel reads one packed structure.
        let result = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.fd.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0,
            )
        };
        check(result).map(drop)
    }

    /// Applies it to the calling thread, and to threads and processes that it makes from here on. Needs `no_new_privs` or
    /// `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// `EPERM`; `E2BIG` for the 17th ruleset of a thread.
    pub fn restrict_self(self) -> Result<(), Errno> {
        // SAFETY: numbers only.
        check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0) }).map(drop)
    }
}

const CREATE_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_up_to_the_kernels_can_be_had() {
        let Some(version) = version() else {
            assert!(matches!(Ruleset::everything(1), Err(Errno::NOSYS | Errno::OPNOTSUPP)));
            return;
        };
        for version in 1..=version {
            assert!(Ruleset::everything(version).is_ok(), "version {version}");
        }
    }

    #[test]
    fn a_thread_keeps_what_is_beneath_and_nothing_else() {
        use std::os::fd::AsFd;
        let Some(version) = version() else { return };
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        // The thread ends with what it gave up.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let open = std::fs::File::open(&inside).unwrap();
                let ruleset = Ruleset::everything(version).unwrap();
                ruleset.allow_beneath(open.as_fd(), file::MAKE_REG | file::WRITE_FILE).unwrap();
                rustix::thread::set_no_new_privs(true).unwrap();
                ruleset.restrict_self().unwrap();
                std::fs::write(inside.join("a"), "").unwrap();
                for denied in [
                    std::fs::write(&outside, ""),
                    std::fs::create_dir(inside.join("d")),
                    std::fs::read(inside.join("a")).map(drop),
                ] {
                    assert_eq!(denied.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
                }
            });
        });
    }
}
