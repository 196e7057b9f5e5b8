//! Groups that systemd makes and keeps: transient scopes (systemd.scope(5)), asked for over D-Bus.

mod name;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Cgroup, Error, Kind, Layout, Resources, Result};

/// Which systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// The machine's, on its private socket, else on the system bus.
    System,
    /// The calling user's.
    User,
    /// The one that listens on this private socket.
    Private(PathBuf),
}

impl Bus {
    /// The group in which this systemd has its slices.
    pub(crate) fn manager_group(&self) -> Result<PathBuf> {
        Err(Error::refused(Kind::Unsupported, "the systemd driver is not there yet"))
    }
}

/// A scope: a unit of processes that systemd did not start itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    bus: Bus,
    slice: String,
    unit: String,
}

/// Holds a scope open until the first process is in it.
#[derive(Debug)]
pub(crate) struct Placeholder;

impl Scope {
    /// The scope `unit` in `slice`.
    ///
    /// # Errors
    /// `Invalid` for names that are none of a scope and a slice (systemd.unit(5)).
    pub fn new(bus: Bus, slice: &str, unit: &str) -> Result<Self> {
        name::check_scope(unit)?;
        name::expand_slice(slice)?;
        Ok(Self { bus, slice: slice.to_owned(), unit: unit.to_owned() })
    }

    /// Which systemd has it.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Its name.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The path of its group, where the slices are in `manager`.
    pub(crate) fn path_below(&self, manager: &Path) -> Result<PathBuf> {
        Ok(manager.join(name::expand_slice(&self.slice)?).join(&self.unit))
    }

    pub(crate) fn start<S: BuildHasher>(
        &self,
        _layout: &Layout,
        _path: &Path,
        _resources: &Resources,
        _annotations: &HashMap<String, String, S>,
    ) -> Result<(Cgroup, Placeholder)> {
        self.bus.manager_group()?;
        Err(Error::refused(Kind::Unsupported, "the systemd driver is not there yet"))
    }

    pub(crate) fn change(&self, _layout: &Layout, _group: &Cgroup, _resources: &Resources) -> Result<()> {
        self.bus.manager_group().map(drop)
    }

    pub(crate) fn settle(&self, _group: &Cgroup, _placeholder: Placeholder, _pid: i32) -> Result<()> {
        self.bus.manager_group().map(drop)
    }

    pub(crate) fn stop(&self) -> Result<()> {
        self.bus.manager_group().map(drop)
    }
}
