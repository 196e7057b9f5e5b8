//! Where the program starts, before the C library does: a process that is to enter a container is sealed here.
//!
//! `vaquita_oci::seal` decides whether a process is sealed, and seals one that is not by starting the program again. By
//! then the C library has asked for all properties of the processor, which takes 0.3 ms in a virtual machine, and all of
//! that is thrown away. So the linker has the kernel begin here (the `build.rs` of the binary): where it is plain that the
//! program will be started again, that is done at once, and in the same way. Whatever is doubtful or fails is left to
//! `seal`, which does it once more and says what is wrong.
//!
//! Nothing is set up here: no thread-local storage, no `memcpy` (the C library picks one later), no relocation (so the
//! program must lie at a fixed address). So this is a crate of its own without builtins, it calls the kernel itself, and
//! nothing in it may panic.
#![no_std]
#![no_builtins]
#![allow(unsafe_code, reason = "there is no library below this code: it calls the kernel itself")]

use core::ffi::CStr;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86_64;

/// The name of the program that is an OCI runtime.
pub const NAME: &CStr = c"vaquita-oci";

/// The first argument that makes the program one under any name.
pub const ARGUMENT: &CStr = c"oci";

/// Commands whose processes enter a container. Where an argument that means something else is one of the words, more is
/// done than needed.
pub const ENTERING: [&CStr; 3] = [c"create", c"exec", c"run"];

/// A directory beside the program's own for the overlay, which must have two. Any will do that is not on the way to that
/// one; procfs takes no part in overlays.
pub const OTHERS: [&CStr; 2] = [c"/sys/kernel", c"/dev"];

/// What statfs(2) says of an overlay (linux/magic.h).
pub const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
