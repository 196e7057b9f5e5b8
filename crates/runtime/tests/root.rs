//! Containers on a real kernel. The root filesystem holds one file: this test binary, which is static, and which plays
//! the container's program when it finds `VAQUITA_PROBE` in its environment.

#![allow(clippy::exit, reason = "the container's program ends with a code that is looked at")]
#![allow(clippy::disallowed_methods, reason = "the tests make their files themselves")]
#![allow(clippy::unwrap_used, reason = "tests, in modules that clippy does not take for such")]

#[path = "root/allocator.rs"]
mod allocator;

#[path = "root/harness.rs"]
mod harness;
#[path = "root/probe.rs"]
mod probe;

#[path = "root/create.rs"]
mod create;
#[path = "root/devices.rs"]
mod devices;
#[path = "root/exec.rs"]
mod exec;
#[path = "root/hook.rs"]
mod hook;
#[path = "root/hostile.rs"]
mod hostile;
#[path = "root/hostile_races.rs"]
mod hostile_races;
#[path = "root/lacking.rs"]
mod lacking;
#[path = "root/mounts.rs"]
mod mounts;
#[path = "root/namespaces.rs"]
mod namespaces;
#[path = "root/netdev.rs"]
mod netdev;
#[path = "root/process.rs"]
mod process;
#[path = "root/properties.rs"]
mod properties;
#[path = "root/sandbox.rs"]
mod sandbox;
#[path = "root/seccomp.rs"]
mod seccomp;
