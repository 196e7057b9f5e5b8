//! Control groups, v2 and v1: limits, membership, freeze, kill, events, statistics, device filter.
//!
//! [`Layout::detect`] finds the hierarchies of the host: the one of v2, those of v1, or both (hybrid). A [`Cgroup`] is a
//! directory of the same path in each of them, held by fd, and only in those that exist. What can be decided without the
//! kernel is pure: the files and values of a set of limits ([`settings`]), the device filter ([`device`]), the reading of
//! statistics ([`Stats`]).
//!
//! The driver is cgroupfs: directories are made by this crate. Writing to a group that systemd manages is up to the
//! caller's choice of path.

pub mod device;
mod error;
mod files;
mod group;
mod layout;
mod resources;
pub mod settings;
mod stats;

pub use device::{Access, DeviceKind, DeviceRule};
pub use error::{Error, Kind};
pub use group::{Cgroup, Entry, list, remove_empty_parents};
pub use layout::{Hierarchy, Layout, Version};
pub use resources::{Resources, ThrottleDevice, WeightDevice};
pub use stats::{BlockDevice, Cpu, Io, Memory, Pids, Pressure, PressureAverages, Stats};

/// What fallible functions of this crate return.
pub type Result<T> = core::result::Result<T, Error>;
