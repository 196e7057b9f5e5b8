//! Where a container's group is, and who makes it: this crate, or systemd.

mod cgroups_path;
pub(crate) mod rootless;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vaquita_sys::Errno;

use crate::systemd::{Bus, Placeholder, Unit};
use crate::{Cgroup, Error, Kind, Layout, Resources, Result};

/// Who makes a container's group and keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// This crate, by making directories.
    #[default]
    Cgroupfs,
    /// systemd: a transient scope or slice (systemd.scope(5), systemd.slice(5)), asked for over D-Bus.
    Systemd,
}

/// Where a container's group is. What is needed to find it again later: meant to be saved (serde) beside the container.
///
/// ```no_run
/// # use std::collections::HashMap;
/// # use vaquita_cgroup::{Driver, Layout, Location, Resources};
/// # fn main() -> Result<(), vaquita_cgroup::Error> {
/// # let (resources, changed, annotations, pid) = (Resources::default(), Resources::default(), HashMap::new(), 1);
/// let layout = Layout::detect()?;
/// // create: `Location::rootless` for an ordinary user.
/// let mut location = Location::new(Driver::Systemd, Some("system.slice:vaquita:c1".as_ref()), "c1")?;
/// let mut placed = location.create(&layout, &resources, &annotations)?;
/// // `location` is saved now. Then vaquita_runtime::create with `CreateArgs { cgroup: placed.cgroup(), .. }`, and:
/// placed.settle(pid)?;
///
/// // update, events, pause, kill: another process, with the location that was saved
/// location.update(&layout, &changed)?;
/// if let Some(group) = location.open(&layout)? {
///     group.freeze()?;
///     group.thaw()?;
///     group.kill()?;
/// }
/// // delete: the processes are dead or on their way out
/// location.remove(&layout)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Location {
    driver: Driver,
    /// None for the container of an ordinary user to whom no group is delegated.
    path: Option<PathBuf>,
    /// The systemd unit.
    #[serde(default, rename = "scope", skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
    /// Parents that were made for it and go with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    created_parents: Vec<PathBuf>,
    #[serde(default)]
    rootless: bool,
}

/// A container's group, ready for the first process to be made in it.
#[derive(Debug)]
pub struct Placed {
    cgroup: Option<Cgroup>,
    scope: Option<(Unit, Placeholder)>,
}

/// How long a removal waits for processes that have been killed.
const PATIENCE: Duration = Duration::from_secs(5);

impl Location {
    /// Where root's container `id` has its group, for the `cgroupsPath` of its configuration.
    ///
    /// cgroupfs: an absolute path starts at the root of each hierarchy; a relative one, and `id` without any, at
    /// `/vaquita-oci`. systemd: `slice:prefix:name` gives the scope `prefix-name.scope` in that slice, `system.slice` when
    /// that is empty; without any, `vaquita-<id>.scope`.
    ///
    /// # Errors
    /// `Invalid` for a path with `..`, or one that the driver cannot read.
    pub fn new(driver: Driver, cgroups_path: Option<&Path>, id: &str) -> Result<Self> {
        if driver == Driver::Systemd {
            return Self::in_systemd(Bus::System, cgroups_path, id);
        }
        let path = cgroups_path::cgroupfs(cgroups_path, id, "/vaquita-oci".as_ref())?;
        Ok(Self { driver, path: Some(path), unit: None, created_parents: Vec::new(), rootless: false })
    }

    /// As [`Self::new`] with the systemd driver, for a systemd that is reached otherwise, and has its slices at the root.
    ///
    /// # Errors
    /// As there.
    pub fn in_systemd(bus: Bus, cgroups_path: Option<&Path>, id: &str) -> Result<Self> {
        let unit = cgroups_path::scope(cgroups_path, id, bus, "system.slice")?;
        let path = Some(unit.path_below("/".as_ref())?);
        let driver = Driver::Systemd;
        Ok(Self { driver, path, unit: Some(unit), created_parents: Vec::new(), rootless: false })
    }

    /// The place at `path`, from the root of each hierarchy, whose shape says who makes it: systemd, where it is that of a
    /// scope or slice below the slices that its name stands for (`/a.slice/a-b.slice/c.scope`, `/a.slice/a-b.slice`), and
    /// this crate elsewhere.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self::at_on(Bus::System, path)
    }

    pub(crate) fn at_on(bus: Bus, path: &Path) -> Self {
        let unit = Unit::at(bus, path);
        let driver = if unit.is_some() { Driver::Systemd } else { Driver::Cgroupfs };
        Self { driver, path: Some(path.to_owned()), unit, created_parents: Vec::new(), rootless: false }
    }

    /// Where an ordinary user's container `id` has its group.
    ///
    /// cgroupfs: a given path is used, and must be writable when the group is made. Without one it is a sibling of the
    /// caller's own group where the v2 hierarchy is delegated to the caller (cgroups(7), "delegation"), else a group in the
    /// caller's own; where neither can be made there is none, and limits are refused. systemd: as [`Self::new`], in the
    /// user's manager, whose default is `user.slice`; v2 only.
    ///
    /// # Errors
    /// As [`Self::new`]; `Unsupported` for systemd without v2; those of asking the user's systemd where it is.
    pub fn rootless(layout: &Layout, driver: Driver, cgroups_path: Option<&Path>, id: &str) -> Result<Self> {
        let (path, unit) = match (driver, cgroups_path) {
            (Driver::Cgroupfs, None) => (rootless::writable(layout, id)?, None),
            (Driver::Cgroupfs, given) => {
                let own = rootless::own_group(layout)?;
                let base = own.as_deref().and_then(Path::parent).unwrap_or("/".as_ref());
                (Some(cgroups_path::cgroupfs(given, id, base)?), None)
            }
            (Driver::Systemd, given) => {
                if !layout.is_v2() {
                    return Err(Error::refused(
                        Kind::Unsupported,
                        "an ordinary user's systemd can manage groups on a host with cgroup v2 alone: this one has v1",
                    ));
                }
                let unit = cgroups_path::scope(given, id, Bus::User, "user.slice")?;
                (Some(unit.path_below(&unit.bus().manager_group()?)?), Some(unit))
            }
        };
        Ok(Self { driver, path, unit, created_parents: Vec::new(), rootless: true })
    }

    /// Where container `id` of a user namespace's root has its group: as [`Self::new`] where the hierarchies seen here are
    /// that root's to change, as in a container that is a whole system; as [`Self::rootless`] elsewhere, as below an engine
    /// of an ordinary user.
    ///
    /// # Errors
    /// As those.
    pub fn in_user_namespace(
        layout: &Layout,
        driver: Driver,
        cgroups_path: Option<&Path>,
        id: &str,
    ) -> Result<Self> {
        let location = match rootless::owns_all(layout)? {
            true => Self::new(driver, cgroups_path, id)?,
            false => Self::rootless(layout, driver, cgroups_path, id)?,
        };
        // No root of such a namespace may load a filter for devices, or make one that matters.
        Ok(Self { rootless: true, ..location })
    }

    /// Who makes it.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Its path from the root of each hierarchy; none for a container without a group.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The name of its systemd unit.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_ref().map(Unit::name)
    }

    /// Makes the group with its limits, or begins to ([`Cgroup::begin`]): [`Cgroup::finish`] does the rest. Save the location
    /// afterwards, when [`Self::note_parents`] has told it which parents are new. A slice that is there gets the limits.
    ///
    /// The rules for devices among the limits are told to systemd where it sets any (v1), but not applied: the runtime does
    /// that when the container's set-up is done, which has device nodes to make. Of the annotations those that begin with
    /// `org.systemd.property.` are properties of the scope; all but a few harmless ones are refused, see
    /// [`Property::from_annotations`](crate::systemd::Property::from_annotations).
    ///
    /// # Errors
    /// As [`Cgroup::create`]; `Busy` when there are processes in the group already or it is frozen; those of systemd, which
    /// has 30 seconds. Nothing is left behind then.
    pub fn create<S: BuildHasher>(
        &mut self,
        layout: &Layout,
        resources: &Resources,
        annotations: &HashMap<String, String, S>,
    ) -> Result<Placed> {
        if let (Some(path), None) = (&self.path, &self.unit) {
            check_unused(layout, path)?;
        }
        self.create_unchecked(layout, resources, annotations)
    }

    /// As [`Self::create`], without a look at a group that is there already: for one that was made for this container, where
    /// nobody else can be.
    ///
    /// # Errors
    /// As there, but for `Busy` of a group that systemd does not make.
    pub fn create_unchecked<S: BuildHasher>(
        &mut self,
        layout: &Layout,
        resources: &Resources,
        annotations: &HashMap<String, String, S>,
    ) -> Result<Placed> {
        let Some(path) = &self.path else {
            return rootless::check_no_limits(resources).map(|()| Placed { cgroup: None, scope: None });
        };
        let placed = match &self.unit {
            Some(unit) if unit.is_slice() => {
                Placed { cgroup: Some(unit.start_slice(layout, path, resources)?), scope: None }
            }
            Some(unit) => {
                check_unused(layout, path)?;
                unit.start(layout, path, resources, annotations).map(|(cgroup, placeholder)| Placed {
                    cgroup: Some(cgroup),
                    scope: Some((unit.clone(), placeholder)),
                })?
            }
            None => {
                let limits = Resources { devices: None, ..resources.clone() };
                // An ordinary user's maker enters a user namespace meanwhile, where it could not go on.
                let make = if self.rootless { Cgroup::create } else { Cgroup::begin };
                Placed { cgroup: Some(make(layout, path, &limits)?), scope: None }
            }
        };
        let Placed { cgroup, scope } = placed;
        let cgroup = cgroup.map(|cgroup| if self.rootless { cgroup.of_ordinary_user() } else { cgroup });
        let placed = Placed { cgroup, scope };
        self.note_parents(&placed);
        Ok(placed)
    }

    /// Parents that have been made for the group go with it.
    pub fn note_parents(&mut self, placed: &Placed) {
        if let Some(cgroup) = &placed.cgroup {
            self.created_parents = cgroup.created_parents();
        }
    }

    /// Opens the group; none for a container without one.
    ///
    /// # Errors
    /// `NotFound` when it has been removed.
    pub fn open(&self, layout: &Layout) -> Result<Option<Cgroup>> {
        let Some(path) = &self.path else { return Ok(None) };
        let cgroup = Cgroup::open(layout, path)?;
        Ok(Some(if self.rootless { cgroup.of_ordinary_user() } else { cgroup }))
    }

    /// Changes the limits that are set in `resources`, those for devices too. systemd is told first, so that it keeps them.
    ///
    /// # Errors
    /// As [`Cgroup::apply`] and those of systemd. Limits that were changed before one that cannot be stay changed.
    pub fn update(&self, layout: &Layout, resources: &Resources) -> Result<()> {
        let Some(group) = self.open(layout)? else { return rootless::check_no_limits(resources) };
        group.check_memory(resources)?;
        if let Some(unit) = &self.unit {
            crate::settings::writes(resources, layout)?;
            unit.change(layout, resources)?;
        }
        group.apply(resources)
    }

    /// A process that was to be made in the group, beside the first one, is there: it is moved where it could not be made in
    /// it ([`Cgroup::takes_clones`]).
    ///
    /// # Errors
    /// `Denied`; those of systemd.
    pub fn admit(&self, group: &Cgroup, pid: i32) -> Result<()> {
        match &self.unit {
            _ if group.takes_clones() => Ok(()),
            Some(unit) => {
                unit.attach(pid)?;
                // One below the scope's is the user's own business.
                if self.path() == Some(group.path()) { Ok(()) } else { group.add(pid) }
            }
            None => group.add(pid),
        }
    }

    /// Removes the group, groups made inside it, and the parents made for it that are empty. Waits at most 5 seconds for
    /// processes on their way out. Gone already is fine.
    ///
    /// # Errors
    /// `Busy` when processes stay; those of systemd.
    pub fn remove(&self, layout: &Layout) -> Result<()> {
        let group = match self.open(layout) {
            Err(error) if error.kind() == Kind::NotFound => None,
            other => other?,
        };
        if let Some(unit) = &self.unit {
            if let Some(group) = &group {
                // Before systemd is asked, which would terminate them.
                group.wait_empty(PATIENCE).map_err(|error| match error.kind() {
                    Kind::Timeout => {
                        Error::refused(Kind::Busy, format!("cannot remove {}: {error}", unit.name()))
                    }
                    _ => error,
                })?;
            }
            unit.stop()?;
        }
        group.map_or(Ok(()), |group| group.remove())?;
        let (Some(path), Some(outermost)) = (&self.path, self.created_parents.first()) else { return Ok(()) };
        let keep = outermost.parent().unwrap_or("/".as_ref());
        match crate::remove_empty_parents(layout, path, keep) {
            // Not ours to remove any more; empty it does no harm.
            Err(error) if error.kind() == Kind::Denied && self.rootless => Ok(()),
            other => other,
        }
    }
}

impl Placed {
    /// The group to create the first process in; none for a container without one.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// The group, when all is done.
    #[must_use]
    pub fn into_cgroup(self) -> Option<Cgroup> {
        self.cgroup
    }

    /// The first process is there, set up and waiting: whatever held the group open for it goes. Without this systemd
    /// removes the scope when `self` is dropped.
    ///
    /// # Errors
    /// Those of moving the process, where it could not be made in the group.
    pub fn settle(&mut self, pid: i32) -> Result<()> {
        match (&self.cgroup, self.scope.take()) {
            (Some(cgroup), Some((scope, placeholder))) => scope.settle(cgroup, placeholder, pid),
            (Some(cgroup), None) if !cgroup.takes_clones() => cgroup.add(pid),
            _ => Ok(()),
        }
    }
}

/// Fails for a group that somebody uses: what is done to this container would be done to them.
fn check_unused(layout: &Layout, path: &Path) -> Result<()> {
    let group = match Cgroup::open(layout, path) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let inside = group.procs()?;
    if !inside.is_empty() {
        let message = format!(
            "the control group {} has {} processes already: use another cgroupsPath, or delete what runs there",
            path.display(),
            inside.len()
        );
        return Err(Error::refused(Kind::Busy, message));
    }
    if group.is_frozen()? {
        let message = format!("the control group {} is frozen: thaw it, or use another", path.display());
        return Err(Error::refused(Kind::Busy, message));
    }
    Ok(())
}

#[cold]
fn failed(call: String, errno: Errno) -> Error {
    Error::sys("control group of an ordinary user", vaquita_sys::Error::new(call, errno))
}
