//! Seccomp: OCI profiles compiled to BPF, and the profile that containers get by default.
//!
//! The meaning of a profile is that which runc gives it through libseccomp:
//! * an unknown call, or one that an architecture lacks, is left out there; the native architecture is always covered;
//! * conditions of a rule must all hold, except that a rule with two conditions on one argument is an alternative of each;
//! * an unconditional rule for a call beats conditional ones, the first of several; a rule that does what the default
//!   does anyway is no rule;
//! * a call newer than every call that the profile names fails with ENOSYS, so that programs fall back, unless the
//!   default allows, logs or traces, or nothing is named.
//!
//! Where several conditional rules for one call match, the first in the profile decides.

mod bpf;
mod compile;
mod default;
mod notify;
mod table;

pub use bpf::Program;
pub use compile::{compile, notifies};
pub use default::runtime_default;
pub use notify::Agent;
