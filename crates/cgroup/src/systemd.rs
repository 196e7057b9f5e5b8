//! Groups that systemd makes and keeps: transient scopes (systemd.scope(5)), asked for over D-Bus.
//!
//! systemd makes a scope around a process that is there, and removes it when no process is left in it. The container's
//! first process shall be born in its group (`CLONE_INTO_CGROUP`), so an idle child takes that place until it is:
//!
//! 1. [`Unit`] is started around the idle child. This crate then opens the group, adds controllers and limits that
//!    systemd has no word for, and hands it out like one that it made itself.
//! 2. The runtime makes the first process in it.
//! 3. [`Placed::settle`](crate::Placed::settle) ends the idle child. From here on the scope lives as long as the container.
//!
//! An ordinary user may mostly not clone into a group of its systemd, because a group above both is root's; there the first
//! process is made outside, and systemd moves it in at the third step.
//!
//! Pods have a slice (systemd.slice(5)) around the scopes of their containers. It needs no process, and stays until it is
//! stopped.

mod connection;
mod name;
mod property;
mod slice;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vaquita_sys::process::Idle;

use self::connection::{Answer, Connection, unexpected};
use self::wire::Value;
use crate::{Cgroup, Error, Kind, Layout, Resources, Result, Version};

#[cfg(fuzzing)]
pub use self::connection::talk;
pub use self::name::{slice_below, slice_for, slice_path};
pub use self::property::Property;

/// Which systemd, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// The machine's: on its own socket `/run/systemd/private`, else on the system bus.
    System,
    /// The calling user's: on the bus at `$DBUS_SESSION_BUS_ADDRESS`, else at `$XDG_RUNTIME_DIR/bus`, else on its own
    /// socket below that directory.
    User,
    /// The one that listens on this socket itself.
    Private(PathBuf),
    /// The one on the message bus at this socket.
    Broker(PathBuf),
}

impl Bus {
    /// The group in which this systemd has its slices.
    pub(crate) fn manager_group(&self) -> Result<PathBuf> {
        let path = PathBuf::from(Connection::open(self)?.manager_text("ControlGroup")?);
        // The root is told as nothing.
        Ok(if path.as_os_str().is_empty() { "/".into() } else { path })
    }
}

/// Whether systemd runs as init of this host (sd_booted(3)).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a directory that systemd makes for this question")]
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A unit with a group: a scope, of processes that systemd did not start itself, or a slice, of other units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    bus: Bus,
    /// The slice that it is in.
    slice: String,
    unit: String,
}

/// Holds a scope open until the first process is in it. Dropped, the scope ends.
#[derive(Debug)]
pub(crate) struct Placeholder {
    idle: Idle,
    /// The limit of processes, which does not count the idle child.
    pids: Option<i64>,
}

impl Unit {
    /// The scope `unit` in `slice`.
    ///
    /// # Errors
    /// `Invalid` for names that are none of a scope and a slice (systemd.unit(5)).
    pub fn new(bus: Bus, slice: &str, unit: &str) -> Result<Self> {
        name::check_scope(unit)?;
        name::expand_slice(slice)?;
        Ok(Self { bus, slice: slice.to_owned(), unit: unit.to_owned() })
    }

    /// The unit whose group is at `path`, if that is the path of one: a scope in a slice, or a slice, below the slices that
    /// its name stands for.
    pub(crate) fn at(bus: Bus, path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let parent = path.parent()?;
        let slice = match parent.file_name() {
            Some(slice) => slice.to_str()?.to_owned(),
            None => "-.slice".to_owned(),
        };
        let is_slice = slice_path(name).is_ok_and(|expanded| expanded == path);
        let is_scope = name::check_scope(name).is_ok()
            && name::expand_slice(&slice).is_ok_and(|expanded| Path::new("/").join(expanded) == parent);
        (is_slice || is_scope).then(|| Self { bus, slice, unit: name.to_owned() })
    }

    /// Whether it is a slice.
    #[must_use]
    pub fn is_slice(&self) -> bool {
        self.unit.ends_with(".slice")
    }

    /// Which systemd has it.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.unit
    }

    /// The path of its group, where the slices are in `manager`.
    pub(crate) fn path_below(&self, manager: &Path) -> Result<PathBuf> {
        Ok(manager.join(name::expand_slice(&self.slice)?).join(&self.unit))
    }

    /// Starts the scope, and opens its group at `path` with all limits but those for devices.
    pub(crate) fn start<S: BuildHasher>(
        &self,
        layout: &Layout,
        path: &Path,
        resources: &Resources,
        annotations: &HashMap<String, String, S>,
    ) -> Result<(Cgroup, Placeholder)> {
        let asked = Property::from_annotations(annotations)?;
        // What this crate would refuse afterwards is better refused before.
        crate::settings::writes(resources, layout)?;
        let mut systemd = Connection::open(&self.bus)?;
        let version = property::systemd_version(&systemd.manager_text("Version")?);
        let idle = Idle::new().map_err(|error| Error::sys("holding the scope open", error))?;
        let kind = version_of(layout);
        let mut properties =
            property::of_scope(&self.unit, &self.slice, idle.pid().unsigned_abs(), kind, version);
        properties.extend(property::of_limits(resources, kind, version)?);
        properties.extend(property::at_start(resources, version));
        properties.extend(asked);
        self.start_unit(&mut systemd, properties)?;
        let placeholder = Placeholder { idle, pids: resources.pids_limit };
        self.group(layout, path, resources, &placeholder).map(|group| (group, placeholder)).inspect_err(
            |_| {
                // The first failure is told.
                let _ = self.stop_with(&mut systemd);
            },
        )
    }

    /// Tells systemd of changed limits.
    pub(crate) fn change(&self, layout: &Layout, resources: &Resources) -> Result<()> {
        let mut systemd = Connection::open(&self.bus)?;
        let version = property::systemd_version(&systemd.manager_text("Version")?);
        self.change_by(&mut systemd, property::of_limits(resources, version_of(layout), version)?)
    }

    fn change_by(&self, systemd: &mut Connection, properties: Vec<Property>) -> Result<()> {
        if properties.is_empty() {
            return Ok(());
        }
        // Until the next boot: the unit is gone then.
        let body = [Value::str(&self.unit), Value::Bool(true), list(properties)];
        match systemd.manager("SetUnitProperties", &body)? {
            Answer::Values(_) => Ok(()),
            Answer::Refused(refusal) => Err(refusal.into_error(&format!("change {}", self.unit))),
        }
    }

    /// Ends the idle child, once the process is in the group.
    pub(crate) fn settle(&self, group: &Cgroup, placeholder: Placeholder, pid: i32) -> Result<()> {
        if !group.takes_clones() {
            self.attach(pid)?;
        } else if !group.is_in_v2(placeholder.idle.pid())? {
            // A systemd of v1 alone looks at its own hierarchy, which the process enters only when it starts.
            group.add_to_named(pid)?;
        }
        drop(placeholder.idle);
        match placeholder.pids {
            Some(limit) => group.apply(&Resources { pids_limit: Some(limit), ..Resources::default() }),
            None => Ok(()),
        }
    }

    /// Has systemd move a process into the scope (systemd 238).
    pub(crate) fn attach(&self, pid: i32) -> Result<()> {
        let pids = Value::Array("u", vec![Value::U32(pid.unsigned_abs())]);
        let body = [Value::str(&self.unit), Value::str("/"), pids];
        match Connection::open(&self.bus)?.manager("AttachProcessesToUnit", &body)? {
            Answer::Values(_) => Ok(()),
            Answer::Refused(refusal) => {
                Err(refusal.into_error(&format!("move process {pid} into {}", self.unit)))
            }
        }
    }

    /// Stops the unit, and has systemd forget it. Gone already is fine.
    pub(crate) fn stop(&self) -> Result<()> {
        self.stop_with(&mut Connection::open(&self.bus)?)
    }

    fn start_unit(&self, systemd: &mut Connection, properties: Vec<Property>) -> Result<()> {
        let aux = Value::Array("(sa(sv))", Vec::new());
        let body = [Value::str(&self.unit), Value::str("fail"), list(properties), aux];
        let asked = format!("start {}", self.unit);
        let refusal = match systemd.manager("StartTransientUnit", &body)? {
            Answer::Values(values) => return self.await_start(systemd, &values),
            Answer::Refused(refusal) => refusal,
        };
        if !refusal.is("UnitExists") {
            return Err(refusal.into_error(&asked));
        }
        // What is left of one that failed is in the way until it is reset. One that runs stays, and refuses again.
        self.reset_failed(systemd)?;
        match systemd.manager("StartTransientUnit", &body)? {
            Answer::Values(values) => self.await_start(systemd, &values),
            Answer::Refused(refusal) => Err(refusal.into_error(&asked)),
        }
    }

    fn await_start(&self, systemd: &mut Connection, values: &[Value]) -> Result<()> {
        let [Value::ObjectPath(job)] = values else { return Err(unexpected("a start")) };
        let result = systemd.job_result(job);
        if matches!(&result, Ok(result) if result == "done") {
            return Ok(());
        }
        let _ = self.reset_failed(systemd);
        let message = format!("systemd did not start {}: the job ended with {:?}", self.unit, result?);
        Err(Error::refused(Kind::Systemd, message))
    }

    fn stop_with(&self, systemd: &mut Connection) -> Result<()> {
        let body = [Value::str(&self.unit), Value::str("replace")];
        match systemd.manager("StopUnit", &body)? {
            Answer::Refused(refusal) if refusal.is("NoSuchUnit") => return Ok(()),
            Answer::Refused(refusal) => return Err(refusal.into_error(&format!("stop {}", self.unit))),
            Answer::Values(values) => {
                let [Value::ObjectPath(job)] = &values[..] else { return Err(unexpected("StopUnit")) };
                // However it ended: what counts is whether the group is gone, which is looked at afterwards.
                systemd.job_result(job)?;
            }
        }
        self.reset_failed(systemd)
    }

    /// Forgets the unit if it failed; not to have failed, or to be gone, is fine.
    fn reset_failed(&self, systemd: &mut Connection) -> Result<()> {
        systemd.manager("ResetFailedUnit", &[Value::str(&self.unit)]).map(drop)
    }

    fn group(
        &self,
        layout: &Layout,
        path: &Path,
        resources: &Resources,
        placeholder: &Placeholder,
    ) -> Result<Cgroup> {
        let pids_limit = placeholder.pids.map(|limit| if limit < 0 { limit } else { limit.max(1) + 1 });
        let limits = Resources { devices: None, pids_limit, ..resources.clone() };
        let group = Cgroup::create(layout, path, &limits)?;
        let pid = placeholder.idle.pid();
        if group.procs()?.contains(&pid) {
            return Ok(group);
        }
        let message = format!(
            "systemd has not put process {pid} of {} into the control group {}: is this a container, which sees another root of \
             the hierarchy than systemd does?",
            self.unit,
            path.display()
        );
        Err(Error::refused(Kind::Systemd, message))
    }
}

/// Of which version the groups are whose limits systemd sets.
fn version_of(layout: &Layout) -> Version {
    if layout.is_v2() { Version::V2 } else { Version::V1 }
}

fn list(properties: Vec<Property>) -> Value {
    Value::Array("(sv)", properties.into_iter().map(Property::into_value).collect())
}
