//! Resource limits (getrlimit(2)).

use std::str::FromStr;

use rustix::io::Errno;

use crate::syscall::check;
use crate::{Error, Result};

/// A resource that is limited per process, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource(u32);

/// No limit.
pub const INFINITY: u64 = u64::MAX;

const NAMES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

impl Resource {
    /// The size of core dumps, in bytes.
    pub const CORE: Self = Self(4);
    /// The highest fd, plus one.
    pub const NOFILE: Self = Self(7);
    /// The number of processes of the user.
    pub const NPROC: Self = Self(6);
    /// CPU time, in seconds.
    pub const CPU: Self = Self(0);
    /// The size of a file written, in bytes.
    pub const FSIZE: Self = Self(1);
    /// The size of the address space, in bytes.
    pub const AS: Self = Self(9);

    /// As the OCI specification and getrlimit(2) write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[self.0 as usize]
    }
}

impl FromStr for Resource {
    type Err = Error;

    /// Reads `RLIMIT_NOFILE`…
    fn from_str(text: &str) -> Result<Self> {
        let number = NAMES.iter().position(|name| *name == text).and_then(|at| u32::try_from(at).ok());
        number.map(Self).ok_or_else(|| {
            Error::refused(format!("setrlimit({text:?})"), Errno::INVAL, "no resource of that name")
        })
    }
}

/// Limits a resource of the calling process. [`INFINITY`] is no limit.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` for a hard limit above the present one without `CAP_SYS_RESOURCE`; `EINVAL` for soft above hard.
pub fn set(resource: Resource, soft: u64, hard: u64) -> core::result::Result<(), Errno> {
    prlimit(resource, Some((soft, hard))).map(drop)
}

/// The soft and the hard limit of the calling process.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn current(resource: Resource) -> core::result::Result<(u64, u64), Errno> {
    prlimit(resource, None)
}

fn prlimit(resource: Resource, new: Option<(u64, u64)>) -> core::result::Result<(u64, u64), Errno> {
    let new = new.map(|(soft, hard)| [soft, hard]);
    let new = new.as_ref().map_or(core::ptr::null(), |pair| pair.as_ptr());
    let mut old = [0u64; 2];
    // SAFETY: struct rlimit64 is two u64; the new one is null or such a pair.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource.0, new, old.as_mut_ptr()) })?;
    Ok((old[0], old[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_numbers() {
        assert_eq!("RLIMIT_NOFILE".parse::<Resource>().unwrap(), Resource::NOFILE);
        assert_eq!("RLIMIT_RTTIME".parse::<Resource>().unwrap().0, libc::RLIMIT_RTTIME);
        assert_eq!(Resource::AS.name(), "RLIMIT_AS");
        assert!("NOFILE".parse::<Resource>().is_err());
    }

    #[test]
    fn a_limit_that_is_set_is_read() {
        let (soft, hard) = current(Resource::CORE).unwrap();
        set(Resource::CORE, 0, hard).unwrap();
        assert_eq!(current(Resource::CORE).unwrap(), (0, hard));
        set(Resource::CORE, soft, hard).unwrap();
        assert_eq!(set(Resource::CORE, 2, 1).unwrap_err(), Errno::INVAL);
    }
}
