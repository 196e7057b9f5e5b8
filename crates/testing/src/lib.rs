//! Helpers for tests that need a real host.
//!
//! * [`require_root`] makes a test fail with one clear sentence where it cannot work; nothing is skipped.
//! * [`unique`] gives names that no other test, running at the same time, has.
//! * [`temp_dir`] and [`Defer`] clean up when a test fails too.
//! * [`Leaks`] fails a test that leaves a mount, control group, link, network namespace or process behind.
//! * [`run_without`] runs tests again, as on a kernel that lacks system calls.
//! * [`crun()`] is Debian's crun on any host, [`cni`] installs scripts as CNI plugins.
//! * [`tree()`] is all that can be seen of a directory, to be compared before and after.
//! * [`trace`] runs a program under ptrace(2): counts its system calls, makes the k-th fail, kills it there.

pub mod cni;
mod crun;
mod lacking;
mod leaks;
pub mod trace;
mod tree;

use std::sync::atomic::{AtomicU32, Ordering};

pub use crun::crun;
pub use lacking::{lacks, run_without};
pub use leaks::Leaks;
pub use tempfile::TempDir;
pub use tree::tree;

/// Panics with one sentence unless the process is root in its user namespace.
///
/// # Panics
/// When the effective user id is not 0.
#[track_caller]
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes namespaces, mounts and control groups, so it needs root: run `cargo test` as root"
    );
}

/// The running kernel's version, to its first two numbers, for what only newer ones can do.
///
/// # Panics
/// When the kernel's release does not begin with two numbers.
#[must_use]
pub fn kernel() -> [u32; 2] {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|part| part.parse().expect("a release begins with numbers"));
    [(); 2].map(|()| numbers.next().expect("a release begins with two numbers"))
}

/// A name that starts with `prefix` and that no other test on this host has: lower-case letters and digits,
/// `prefix` and eight more, so that a prefix of up to seven fits a link's name (15 bytes).
#[must_use]
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let serial = u64::from(NEXT.fetch_add(1, Ordering::Relaxed) % 1296);
    let pid = u64::from(std::process::id()) % 60_466_176;
    // Only the order of digits matters to people: five of the process, two of the serial number.
    format!("{prefix}x{}{}", base36(pid, 5), base36(serial, 2))
}

/// A new directory below the system's directory for temporary files, removed when the guard is dropped.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix(&unique("vaquita-")).tempdir().expect("a temporary directory can be made")
}

/// Runs a closure when dropped, so that a failing test cleans up too.
#[derive(Debug)]
pub struct Defer<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Defer<F> {
    /// Runs `clean_up` when the returned guard goes out of scope, panicking or not.
    #[must_use = "dropping the guard at once cleans up at once"]
    pub fn new(clean_up: F) -> Self {
        Self(Some(clean_up))
    }
}

impl<F: FnOnce()> Drop for Defer<F> {
    fn drop(&mut self) {
        if let Some(clean_up) = self.0.take() {
            clean_up();
        }
    }
}

fn base36(mut value: u64, digits: usize) -> String {
    let mut out = vec![b'0'; digits];
    for place in out.iter_mut().rev() {
        *place = b"0123456789abcdefghijklmnopqrstuvwxyz"[(value % 36) as usize];
        value /= 36;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_short() {
        let (a, b) = (unique("vq"), unique("vq"));
        assert_ne!(a, b);
        assert!(a.starts_with("vqx"));
        assert!(a.len() <= 15, "{a} is too long for a link");
    }

    #[test]
    fn deferred_clean_up_runs_in_a_panic_too() {
        let ran = std::sync::Arc::new(AtomicU32::new(0));
        let seen = ran.clone();
        let result = std::panic::catch_unwind(move || {
            let _guard = Defer::new(|| {
                seen.fetch_add(1, Ordering::Relaxed);
            });
            panic!("as a failing test does");
        });
        assert!(result.is_err());
        assert_eq!(ran.load(Ordering::Relaxed), 1);
    }
}
