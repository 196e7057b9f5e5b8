//! Control groups, v2 and v1: limits, membership, freeze, kill, events, statistics, device filter.
//!
//! [`Layout::detect`] finds the hierarchies of the host: the one of v2, those of v1, or both (hybrid). A [`Cgroup`] is a
//! directory of the same path in each of them, held by fd, and only in those that exist. What can be decided without the
//! kernel is pure: the files and values of a set of limits ([`settings`]), the device filter ([`device`]), the reading of
//! statistics ([`Stats`]).
//!
//! A [`Location`] is where a container has its group: a path made by this crate, or a scope that [`systemd`] makes.

pub mod device;
mod error;
mod files;
mod group;
mod layout;
mod location;
mod resources;
pub mod settings;
mod stats;
pub mod systemd;

pub use device::{Access, DeviceKind, DeviceRule};
pub use error::{Error, Kind};
pub use group::{Cgroup, Entry, OomEvent, OomWatch, list, remove_empty_parents};
pub use layout::{Hierarchy, Layout, Version};
pub use location::{Driver, Location, Placed};
pub use resources::{RdmaLimit, Resources, ThrottleDevice, WeightDevice};
pub use stats::{
    BlockDevice, Counter, Cpu, CpuSet, Details, Io, IoDetails, IoEntry, Memory, MemoryDetails, PerCpu, Pids,
    Pressure, PressureAverages, RdmaUse, Stats,
};

/// What fallible functions of this crate return.
pub type Result<T> = core::result::Result<T, Error>;
