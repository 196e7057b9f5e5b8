//! Helpers for tests that need a real host.

use std::sync::atomic::{AtomicU32, Ordering};

/// Fails the test with one clear sentence unless it runs as root.
///
/// Nothing is skipped: a run without root shows as failed what it could not see.
///
/// # Panics
/// When the effective user is not root.
#[track_caller]
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: run `cargo test` as root");
}

/// A name that no other test of this or of another run uses at the same time: prefix, process, counter.
///
/// It has letters and digits only after the prefix, so it fits cgroups, network namespaces and files; with a
/// prefix of at most 3 characters it also fits a link (15 bytes).
#[must_use]
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:x}x{number:x}", std::process::id())
}
