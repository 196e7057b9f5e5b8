//! The operations of an OCI runtime: what `vaquita-oci create`, `start`, `kill`, `delete` and the others do.
//!
//! A container is a directory below the root directory, named by its id: what was asked for (`config.json`), what was
//! made of it (`state.json`), and the socket on which a created container waits to be started. How it stands is never
//! written down, but asked of the kernel: [`Container::status`].
//!
//! What is about to be made is recorded before: whenever this program is ended, `delete --force` clears all of it. Two
//! processes that work on one container take turns (flock(2) on its directory); one that only looks does not wait.
//!
//! The crate is synchronous and has one thread, because processes are cloned here. It prints nothing and parses no
//! command line.

mod capabilities;
mod checkpoint;
mod console;
mod create;
mod delete;
mod error;
mod events;
mod exec;
mod extra;
mod features;
mod foreground;
mod hooks;
mod id;
mod kill;
mod list;
mod pause;
mod pid_file;
mod rootless;
mod run;
mod seal;
mod spec;
mod start;
mod state;
mod store;
mod update;

pub use checkpoint::{Checkpoint, Restore, checkpoint, restore};
pub use create::{Create, create};
pub use delete::delete;
pub use error::{Error, Kind};
pub use events::{stats, watch};
pub use exec::{Changes, Exec, User, What, exec};
pub use extra::Extra;
pub use features::features;
pub use id::Id;
pub use kill::kill;
pub use list::{list, ps, table};
pub use pause::{pause, resume};
pub use run::{Run, run};
pub use seal::{is_sealed, seal};
pub use spec::write_spec;
pub use start::start;
pub use state::{Container, Init, Record, Status};
pub use store::Host;
pub use update::{Update, update};
pub use vaquita_runtime::criu::Criu;

/// The version of the runtime specification that is implemented.
pub const SPEC_VERSION: &str = "1.3.0";
