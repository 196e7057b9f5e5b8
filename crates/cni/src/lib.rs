//! The runtime's side of CNI, the Container Network Interface, versions 0.3.0 to 1.1.0.
//!
//! A directory of the host has network configurations, of which the first in lexical order counts; each names plugins, programs
//! in other directories. [`Cni`] runs them to connect the network namespace of a pod (ADD), to disconnect it (DEL), to look
//! after it (CHECK), to free what nobody owns any more (GC), and to learn whether the network is there at all (STATUS,
//! VERSION). What the plugins do to the host is theirs.
//!
//! An attachment is recorded on disk before the first plugin runs, with the configuration that is used for it, and until
//! the last DEL has succeeded. So it can be taken back after a crash, after a reboot, and when the administrator has changed
//! the configuration meanwhile.
//!
//! Every plugin runs in a process group of its own, which is killed at the end or when the time is up; what it prints is
//! bounded. One that goes on without us, because an operation was given up, is waited for before its work is taken back. Configurations and results are documents of plugins that we do not know: what is not ours is passed on as it is.
//!
//! The decisions are pure functions ([`List::parse`], [`Outcome::parse`]); only [`Cni`] touches the host.
//! Source of everything here: the CNI specification 1.1.0 with its conventions, and, where these are silent, libcni 1.3, which
//! containerd uses.

mod cache;
mod capabilities;
mod cni;
mod error;
mod exec;
mod files;
mod leftovers;
mod list;
mod outcome;
mod request;
mod version;

pub use cache::{Cached, Phase, cached};
pub use capabilities::{Bandwidth, Capabilities, Dns, PortMapping};
pub use cni::{Attachment, Cni, Collection, Config};
pub use error::{Error, Kind, Result};
pub use leftovers::running;
pub use list::{List, Plugin};
pub use outcome::{Interface, Ip, Outcome};
pub use version::Version;
