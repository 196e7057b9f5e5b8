//! The kernel surface: every system call that needs unsafe code, with errors that print as the call.
//!
//! vaquita keeps its unsafe code here (and in the pause program), so that the other crates can deny it. Calls that
//! [`rustix`] offers safely and that need no better error are used from there directly.
//!
//! Two kinds of results:
//! * [`Error`] knows the call and its arguments, and prints as strace would show them. Making one allocates.
//! * A bare [`Errno`] comes from functions that run between clone and exec, where nothing may allocate; their
//!   documentation says "Safe between clone and exec".
//!
//! Paths that somebody else can change (a container's root, a volume) go through [`root::Root`] only, files of procfs
//! through [`procfs::Procfs`] only.

#![allow(unsafe_code)] // This crate is where it lives: each block says why it is sound.

pub mod bpf;
pub mod cap;
mod error;
pub mod fs;
pub mod landlock;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod ns;
pub mod process;
pub mod procfs;
pub mod rlimit;
pub mod root;
pub mod seccomp;
pub mod selinux;
pub mod signal;
pub mod socket;
mod syscall;
pub mod tty;

pub use error::{Error, Kind, describe};
pub use rustix::io::Errno;

/// What fallible functions of this crate return unless they run between clone and exec.
pub type Result<T> = core::result::Result<T, Error>;
