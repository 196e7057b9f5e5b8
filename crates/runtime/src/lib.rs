//! The OCI runtime: specification, plan, process.
//!
//! A container comes to life in two moves. [`Plan::new`] turns an OCI specification into a plan: everything is
//! validated and every C string, mount, and BPF instruction is prepared; nothing of the machine is touched.
//! [`create()`] clones a process which carries the plan out and then waits; [`StartHandle::start`] lets it execute the
//! program. [`exec()`] adds a process to a running container, and [`sandbox::create`] makes the process that holds the
//! namespaces of a pod.
//!
//! What is done with each property of a specification, and what is refused, is in docs/runtime-spec.md.
//!
//! The crate is synchronous and keeps no state: what exists, the kernel knows. The caller owns processes, cgroups and
//! root filesystems. Nothing allocates, takes a lock or logs between clone and execve.
//!
//! What this crate does not do: it makes no root filesystem and no cgroup, configures no network interface, stores no
//! record, and runs a hook only when told to ([`hook`]).

pub mod criu;
pub mod defaults;
pub mod document;
pub mod hook;
pub mod owner;
pub mod resctrl;
pub mod rootfs;
pub mod sandbox;
pub mod seccomp;

mod create;
mod error;
mod exec;
mod groups;
mod handle;
mod handshake;
mod lsm;
mod namespaces;
mod netdev;
mod plan;
mod spawn;
mod stdio;
mod steps;
mod trees;

pub use create::{CreateArgs, Created, Meanwhile, ParentOf, Rendezvous, create};
pub use error::{Error, Kind};
pub use exec::{ExecArgs, ExecPlan, Execed, Surroundings, exec, exec_with, launch};
pub use handle::StartHandle;
pub use plan::mounts::options::MOUNT_OPTIONS;
pub use plan::{Context, Plan};
pub use stdio::Stdio;
