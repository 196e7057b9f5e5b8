//! Slices: groups around the scopes of a pod's containers.

use std::path::Path;

use super::connection::{Answer, Connection};
use super::wire::Value;
use super::{Unit, list, property, version_of};
use crate::{Cgroup, Error, Kind, Layout, Resources, Result};

impl Unit {
    /// Starts the slice, or gives the one that is there these limits, and opens its group at `path`.
    pub(crate) fn start_slice(&self, layout: &Layout, path: &Path, resources: &Resources) -> Result<Cgroup> {
        // What this crate would refuse afterwards is better refused before.
        crate::settings::writes(resources, layout)?;
        let mut systemd = Connection::open(&self.bus)?;
        let version = property::systemd_version(&systemd.manager_text("Version")?);
        let kind = version_of(layout);
        let limits = property::of_limits(resources, kind, version)?;
        let mut properties = property::of_slice(&self.unit, &self.slice, kind, version);
        properties.extend(limits.iter().cloned());
        let body = [
            Value::str(&self.unit),
            Value::str("fail"),
            list(properties),
            Value::Array("(sa(sv))", Vec::new()),
        ];
        let is_new = match systemd.manager("StartTransientUnit", &body)? {
            Answer::Values(values) => self.await_start(&mut systemd, &values).map(|()| true)?,
            Answer::Refused(refusal) if refusal.is("UnitExists") => {
                self.start_known(&mut systemd)?;
                self.change_by(&mut systemd, limits)?;
                false
            }
            Answer::Refused(refusal) => return Err(refusal.into_error(&format!("start {}", self.unit))),
        };
        self.slice_group(layout, path, resources).inspect_err(|_| {
            if is_new {
                // The first failure is told.
                let _ = self.stop_with(&mut systemd);
            }
        })
    }

    /// Starts a unit that systemd has a file of, which may be active.
    fn start_known(&self, systemd: &mut Connection) -> Result<()> {
        match systemd.manager("StartUnit", &[Value::str(&self.unit), Value::str("replace")])? {
            Answer::Values(values) => self.await_start(systemd, &values),
            Answer::Refused(refusal) => Err(refusal.into_error(&format!("start {}", self.unit))),
        }
    }

    fn slice_group(&self, layout: &Layout, path: &Path, resources: &Resources) -> Result<Cgroup> {
        // Only to be sure that it is systemd that has made it.
        Cgroup::open(layout, path).map_err(|error| match error.kind() {
            Kind::NotFound => {
                let message = format!(
                    "systemd has started {0} without the control group {1}: stop {0} where somebody has removed that behind its back; \
                     a container, which sees another root of the hierarchy than systemd does, cannot use it",
                    self.unit,
                    path.display()
                );
                Error::refused(Kind::Systemd, message)
            }
            _ => error,
        })?;
        Cgroup::create(layout, path, &Resources { devices: None, ..resources.clone() })
    }
}
