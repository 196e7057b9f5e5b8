//! Capabilities (capabilities(7)).

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;

use crate::syscall::check;
use crate::{Error, Result};

/// A capability, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(u8);

macro_rules! capabilities {
    ($($name:ident),* $(,)?) => {
        /// In the order of their numbers.
        const NAMES: &[&str] = &[$(concat!("CAP_", stringify!($name))),*];

        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "the kernel's names")]
        enum Number { $($name),* }

        impl Capability {
            $(#[doc = concat!("`CAP_", stringify!($name), "`.")]
            pub const $name: Self = Self(Number::$name as u8);)*
        }
    };
}

capabilities! {
    CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, LINUX_IMMUTABLE,
    NET_BIND_SERVICE, NET_BROADCAST, NET_ADMIN, NET_RAW, IPC_LOCK, IPC_OWNER, SYS_MODULE, SYS_RAWIO, SYS_CHROOT,
    SYS_PTRACE, SYS_PACCT, SYS_ADMIN, SYS_BOOT, SYS_NICE, SYS_RESOURCE, SYS_TIME, SYS_TTY_CONFIG, MKNOD, LEASE,
    AUDIT_WRITE, AUDIT_CONTROL, SETFCAP, MAC_OVERRIDE, MAC_ADMIN, SYSLOG, WAKE_ALARM, BLOCK_SUSPEND, AUDIT_READ,
    PERFMON, BPF, CHECKPOINT_RESTORE,
}

impl Capability {
    /// Every capability that this program knows, 41 as of Linux 5.9.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self).take(NAMES.len())
    }

    /// Its number in the kernel's bit sets.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// `CAP_CHOWN`…
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Capability {
    type Err = Error;

    /// Reads `CAP_NET_ADMIN`, exactly.
    fn from_str(text: &str) -> Result<Self> {
        let number = NAMES.iter().position(|name| *name == text).and_then(|at| u8::try_from(at).ok());
        number.map(Self).ok_or_else(|| {
            Error::refused(format!("capability {text:?}"), Errno::INVAL, "no capability of that name")
        })
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CapSet(pub u64);

impl CapSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// Every capability that the running kernel has.
    #[must_use]
    pub fn full() -> Self {
        Self(u64::MAX >> (63 - u32::from(last_cap().min(63))))
    }

    /// Whether `capability` is in it.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.0) != 0
    }

    /// This set and `capability`.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.0)
    }

    /// This set without `capability`.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.0))
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether everything of this set is in `other`.
    #[must_use]
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members that have a name.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |capability| self.contains(*capability))
    }
}

impl FromIterator<Capability> for CapSet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        capabilities.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The five sets of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What an execve can at most give.
    pub bounding: CapSet,
    /// What is checked.
    pub effective: CapSet,
    /// What may become effective.
    pub permitted: CapSet,
    /// What passes an execve of a file with the same in its inheritable set. Leave it empty (CVE-2022-24769).
    pub inheritable: CapSet,
    /// What passes an execve of any file, for users other than root.
    pub ambient: CapSet,
}

/// The number of the last capability of the running kernel.
#[must_use]
pub fn last_cap() -> u8 {
    // Reading the bounding set fails for a number that is none. No file needs to be there, and it is a binary search
    // of at most six calls.
    let exists = |number: u8| bounding_has(number).is_ok();
    let (mut low, mut high) = (0, 64);
    while high - low > 1 {
        let middle = u8::midpoint(low, high);
        if exists(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The sets of the calling thread that capget(2) knows: one call. The others are empty; [`current`] asks for them too, by
/// two calls for each capability.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn held() -> core::result::Result<Sets, Errno> {
    let mut header = Header::THIS_THREAD;
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 writes two structures of data.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join =
        |field: fn(&Data) -> u32| CapSet(u64::from(field(&data[0])) | u64::from(field(&data[1])) << 32);
    Ok(Sets {
        effective: join(|data| data.effective),
        permitted: join(|data| data.permitted),
        inheritable: join(|data| data.inheritable),
        ..Sets::default()
    })
}

/// The sets of the calling thread.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn current() -> core::result::Result<Sets, Errno> {
    let mut sets = held()?;
    for number in 0..=last_cap() {
        let bit = 1 << number;
        if bounding_has(number)? {
            sets.bounding.0 |= bit;
        }
        if prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, number.into())? == 1 {
            sets.ambient.0 |= bit;
        }
    }
    Ok(sets)
}

/// Sets all five of the calling thread, in the one order that works: ambient cleared, bounding lowered (which needs
/// `CAP_SETPCAP`, so before it is given up), the three, ambient raised. What is in a set and not known to the kernel is
/// an error, not ignored.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` for a capability that is not permitted now; `EINVAL` for one that the kernel does not have.
pub fn set_all(sets: &Sets) -> core::result::Result<(), Errno> {
    set_bounding(sets.bounding)?;
    set(sets.effective, sets.permitted, sets.inheritable)?;
    set_ambient(sets.ambient)
}

/// Drops from the bounding set all that is not in `keep`; nothing can be added (`PR_CAPBSET_DROP`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`, when something has to be dropped, or when `keep` has something that is not there any
/// more; `EINVAL` when the kernel does not have it.
pub fn set_bounding(keep: CapSet) -> core::result::Result<(), Errno> {
    let last = last_cap();
    if last < 63 && keep.0 >> (last + 1) != 0 {
        return Err(Errno::INVAL);
    }
    for number in 0..=last {
        let has = bounding_has(number)?;
        match keep.0 & (1 << number) != 0 {
            true if !has => return Err(Errno::PERM),
            false if has => prctl(libc::PR_CAPBSET_DROP, number.into(), 0).map(drop)?,
            _ => {}
        }
    }
    Ok(())
}

/// Sets effective, permitted and inheritable capabilities (capset(2)). Ambient ones that lose their ground go too.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` for more than is permitted now.
pub fn set(effective: CapSet, permitted: CapSet, inheritable: CapSet) -> core::result::Result<(), Errno> {
    let mut header = Header::THIS_THREAD;
    #[expect(clippy::cast_possible_truncation, reason = "the low and the high half")]
    let half = |shift: u32| Data {
        effective: (effective.0 >> shift) as u32,
        permitted: (permitted.0 >> shift) as u32,
        inheritable: (inheritable.0 >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two structures of data.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    // The kernel drops unknown bits in silence (cap_mask in capset): what was asked must be what is.
    let mut now = [Data::default(); 2];
    // SAFETY: as in `current`.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, now.as_mut_ptr()) })?;
    if now == data { Ok(()) } else { Err(Errno::INVAL) }
}

/// Sets the ambient capabilities, which must be permitted and inheritable (`PR_CAP_AMBIENT`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` for one that is not both; `EINVAL` for one that does not exist.
pub fn set_ambient(ambient: CapSet) -> core::result::Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    for number in 0..64u8 {
        if ambient.0 & (1 << number) != 0 {
            prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number.into())?;
        }
    }
    Ok(())
}

const PR_CAP_AMBIENT_IS_SET: u64 = 1;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

impl Header {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const THIS_THREAD: Self = Self { version: 0x2008_0522, pid: 0 };
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Those of `wanted` that the calling thread's bounding set has: one call for each (`PR_CAPBSET_READ`).
///
/// # Errors
/// `EINVAL` for one that the kernel does not have.
pub fn bounded(wanted: CapSet) -> core::result::Result<CapSet, Errno> {
    let mut found = CapSet::default();
    for number in (0..64_u8).filter(|number| wanted.0 >> number & 1 == 1) {
        if bounding_has(number)? {
            found.0 |= 1 << number;
        }
    }
    Ok(found)
}

fn bounding_has(number: u8) -> core::result::Result<bool, Errno> {
    prctl(libc::PR_CAPBSET_READ, number.into(), 0).map(|has| has == 1)
}

fn prctl(option: i32, first: u64, second: u64) -> core::result::Result<libc::c_long, Errno> {
    // SAFETY: the options used here take numbers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, first, second, 0u64, 0u64) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(Capability::all().count(), 41);
        assert_eq!(Capability::SYS_ADMIN.number(), 21);
        assert_eq!(Capability::CHECKPOINT_RESTORE.number(), 40);
        assert_eq!("CAP_BPF".parse::<Capability>().unwrap(), Capability::BPF);
        for wrong in ["BPF", "cap_bpf", "CAP_", "", "CAP_FOO"] {
            assert!(wrong.parse::<Capability>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_capability_is_what_the_kernel_says() {
        let said = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        assert_eq!(last_cap().to_string(), said.trim());
        assert_eq!(CapSet::full().0.count_ones(), u32::from(last_cap()) + 1);
    }

    #[test]
    fn sets() {
        let set = CapSet::EMPTY.with(Capability::KILL).with(Capability::BPF);
        assert!(set.contains(Capability::BPF) && !set.without(Capability::BPF).contains(Capability::BPF));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Capability::KILL, Capability::BPF]);
        assert!(set.is_subset(CapSet::full()));
    }

    #[test]
    fn the_current_sets_are_those_of_procfs() {
        let sets = current().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            CapSet(u64::from_str_radix(line.trim(), 16).unwrap())
        };
        assert_eq!(sets.effective, field("CapEff:"));
        assert_eq!(sets.permitted, field("CapPrm:"));
        assert_eq!(sets.inheritable, field("CapInh:"));
        assert_eq!(sets.bounding, field("CapBnd:"));
        assert_eq!(sets.ambient, field("CapAmb:"));
    }
}
