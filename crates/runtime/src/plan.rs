//! The pure half: an OCI specification becomes a validated plan.

pub(crate) mod devices;
pub(crate) mod ids;
pub(crate) mod mounts;
pub(crate) mod path;
pub(crate) mod process;
pub(crate) mod scheduling;
pub(crate) mod sysctl;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use vaquita_cgroup::DeviceRule;
use vaquita_sys::mount::Propagation;
use vaquita_sys::ns;

use self::devices::DevicePlan;
use self::mounts::{MountPlan, Source};
use self::path::Inside;
use self::process::{Common, ProcessPlan};
use self::sysctl::Sysctl;
use crate::Error;
use crate::netdev::NetDevice;
use crate::resctrl::Class;

/// What a plan depends on besides the specification.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The directory that relative paths in the specification (mount sources) are relative to.
    pub bundle: PathBuf,
    /// Raise a requested `oomScoreAdj` to the lowest value that this process may set, instead of failing. For hosts that
    /// lack `CAP_SYS_RESOURCE`.
    pub restrict_oom_score_adj: bool,
    /// The container's id, as the name of what is made for it alone (`linux.intelRdt`). None where nothing is.
    pub id: Option<String>,
    /// Whether the caller passes the listener of a seccomp profile with `SCMP_ACT_NOTIFY` on, as
    /// [`crate::StartHandle::start_with`] says. Where it does not, such a profile is refused.
    pub passes_listeners: bool,
}

/// A validated container: all that [`crate::create()`] needs to know, prepared so that nothing is computed after clone.
#[derive(Debug)]
pub struct Plan {
    /// The namespaces that are not the caller's: new, or at a path.
    pub(crate) namespaces: BTreeMap<ns::Kind, Option<PathBuf>>,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Vec<DevicePlan>,
    /// /dev is a bind mount: nothing is made there.
    pub(crate) has_dev_of_host: bool,
    /// For the cgroup: which devices may be used.
    pub(crate) device_rules: Vec<DeviceRule>,
    pub(crate) masked: Vec<Inside>,
    pub(crate) readonly: Vec<Inside>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) root_readonly: bool,
    pub(crate) root_propagation: Option<(Propagation, bool)>,
    /// Its class of service in resctrl.
    pub(crate) class: Option<Class>,
    /// Links of the host that become the container's.
    pub(crate) net_devices: Vec<NetDevice>,
    /// As timens_offsets takes them, for a new time namespace.
    pub(crate) time_offsets: Option<String>,
    /// The SELinux label of the filesystems made for the container.
    pub(crate) mount_label: Option<String>,
    /// As uid_map takes them.
    pub(crate) uid_map: String,
    pub(crate) gid_map: String,
    pub(crate) process: ProcessPlan,
    pub(crate) has_hooks: bool,
}

impl Plan {
    /// Validates `spec` and prepares every step.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] and [`crate::Kind::Unsupported`] name the offending property. A property that this
    /// runtime does not implement is an error, never ignored.
    pub fn new(spec: &Spec, context: &Context) -> Result<Self, Error> {
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| Error::invalid("linux: the specification has no such section"))?;
        refuse_foreign(spec)?;
        let process =
            spec.process().as_ref().ok_or_else(|| Error::invalid("process: there is none to run"))?;
        let namespaces = namespaces(linux)?;
        let own = |kind: ns::Kind| namespaces.contains_key(&kind);
        let sysctls = linux
            .sysctl()
            .iter()
            .flatten()
            .map(|(name, value)| Sysctl::new(name, value, own))
            .collect::<Result<_, _>>()?;
        let mut mounts: Vec<MountPlan> = spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| MountPlan::new(mount, context))
            .collect::<Result<_, _>>()?;
        mounts::check_remounts(&mounts)?;
        let mount_label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
        if let Some(label) = mount_label {
            mounts.iter_mut().try_for_each(|mount| mount.label(label))?;
        }
        let has_dev_of_host = mounts.iter().any(|mount| {
            mount.destination.as_path() == Path::new("/dev") && matches!(mount.source, Source::Bind { .. })
        });
        let devices = devices::plan(linux.devices().as_deref().unwrap_or_default(), has_dev_of_host)?;
        Ok(Self {
            devices,
            has_dev_of_host,
            mount_label: mount_label.map(str::to_owned),
            device_rules: devices::rules(linux.resources().as_ref()),
            masked: insides("linux.maskedPaths", linux.masked_paths().as_deref())?,
            readonly: insides("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
            hostname: own_name("hostname", spec.hostname().as_deref(), &namespaces)?,
            domainname: own_name("domainname", spec.domainname().as_deref(), &namespaces)?,
            sysctls,
            root_readonly: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
            root_propagation: root_propagation(linux)?,
            class: linux.intel_rdt().as_ref().map(|asked| Class::new(asked, context)).transpose()?,
            net_devices: NetDevice::list(linux, namespaces.contains_key(&ns::Kind::Net))?,
            time_offsets: time_offsets(linux, &namespaces)?,
            uid_map: id_map("linux.uidMappings", linux.uid_mappings().as_deref(), &namespaces)?,
            gid_map: id_map("linux.gidMappings", linux.gid_mappings().as_deref(), &namespaces)?,
            process: ProcessPlan::new(process, Common::new(Some(linux), context)?, context)?,
            mounts,
            namespaces,
            has_hooks: crate::hook::has_any(spec),
        })
    }

    /// Which devices the container may use: those of its specification, and those that every container has.
    #[must_use]
    pub fn device_rules(&self) -> &[DeviceRule] {
        &self.device_rules
    }

    /// Whether the container is in another user namespace than the caller.
    #[must_use]
    pub fn has_other_users(&self) -> bool {
        self.namespaces.contains_key(&ns::Kind::User)
    }

    /// Whether the container has a mount namespace of its own. Otherwise (`linux.namespaces` without `mount`, or with a
    /// path) its root filesystem must be a directory, as [`crate::rootfs::open_directory`] gives it: the container's process
    /// makes a tree of mounts that is in no namespace, and changes its root there (chroot(2)).
    #[must_use]
    pub fn has_own_mounts(&self) -> bool {
        matches!(self.namespaces.get(&ns::Kind::Mount), Some(None))
    }
}

pub(crate) fn kind(namespace: LinuxNamespaceType) -> ns::Kind {
    match namespace {
        LinuxNamespaceType::Cgroup => ns::Kind::Cgroup,
        LinuxNamespaceType::Ipc => ns::Kind::Ipc,
        LinuxNamespaceType::Mount => ns::Kind::Mount,
        LinuxNamespaceType::Network => ns::Kind::Net,
        LinuxNamespaceType::Pid => ns::Kind::Pid,
        LinuxNamespaceType::Time => ns::Kind::Time,
        LinuxNamespaceType::User => ns::Kind::User,
        LinuxNamespaceType::Uts => ns::Kind::Uts,
    }
}

fn namespaces(linux: &Linux) -> Result<BTreeMap<ns::Kind, Option<PathBuf>>, Error> {
    let mut namespaces = BTreeMap::new();
    for namespace in linux.namespaces().iter().flatten() {
        let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
        if path.iter().any(|path| has_nul(path)) {
            return Err(Error::invalid(format!("linux.namespaces: {path:?} has a NUL character")));
        }
        if namespaces.insert(kind(namespace.typ()), path).is_some() {
            return Err(Error::invalid(format!("linux.namespaces: {} is there twice", namespace.typ())));
        }
    }
    Ok(namespaces)
}

/// Whether a path is one that no file can have.
pub(crate) fn has_nul(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&0)
}

fn insides(field: &str, paths: Option<&[String]>) -> Result<Vec<Inside>, Error> {
    let paths = paths.unwrap_or_default();
    paths
        .iter()
        .map(|path| match path.starts_with('/') {
            true => Inside::new(field, Path::new(path)),
            false => Err(Error::invalid(format!("{field}: {path:?} is not an absolute path"))),
        })
        .collect()
}

fn own_name(
    field: &str,
    name: Option<&str>,
    namespaces: &BTreeMap<ns::Kind, Option<PathBuf>>,
) -> Result<Option<String>, Error> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    if !namespaces.contains_key(&ns::Kind::Uts) {
        return Err(Error::invalid(format!(
            "{field}: {name:?} would be set on the host; a UTS namespace is needed"
        )));
    }
    if name.len() > 64 || name.contains('\0') {
        return Err(Error::invalid(format!(
            "{field}: {name:?} is longer than 64 bytes or has a NUL character"
        )));
    }
    Ok(Some(name.to_owned()))
}

fn root_propagation(linux: &Linux) -> Result<Option<(Propagation, bool)>, Error> {
    let Some(name) = linux.rootfs_propagation().as_deref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    match mounts::propagation(name) {
        Some(propagation) => Ok(Some(propagation)),
        None => Err(Error::invalid(format!("linux.rootfsPropagation: {name:?} is not a propagation"))),
    }
}

/// Lines for timens_offsets (time_namespaces(7)).
fn time_offsets(
    linux: &Linux,
    namespaces: &BTreeMap<ns::Kind, Option<PathBuf>>,
) -> Result<Option<String>, Error> {
    let offsets = linux.time_offsets().iter().flatten();
    let mut lines = String::new();
    for (clock, offset) in offsets {
        if !["boottime", "monotonic"].contains(&clock.as_str()) {
            return Err(Error::invalid(format!(
                "linux.timeOffsets: {clock:?} is no clock of a time namespace: boottime, monotonic"
            )));
        }
        let (secs, nanosecs) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        if nanosecs >= 1_000_000_000 {
            return Err(Error::invalid(format!(
                "linux.timeOffsets.{clock}.nanosecs: {nanosecs} is a second or more"
            )));
        }
        lines.push_str(&format!("{clock} {secs} {nanosecs}\n"));
    }
    match namespaces.get(&ns::Kind::Time) {
        Some(None) => Ok(Some(lines)),
        _ if lines.is_empty() => Ok(None),
        Some(Some(_)) => Err(Error::invalid(
            "linux.timeOffsets: the offsets of a time namespace that is joined cannot be set",
        )),
        None => Err(Error::invalid("linux.timeOffsets: there are offsets and no time namespace")),
    }
}

fn id_map(
    field: &str,
    mappings: Option<&[LinuxIdMapping]>,
    namespaces: &BTreeMap<ns::Kind, Option<PathBuf>>,
) -> Result<String, Error> {
    let mappings = mappings.unwrap_or_default();
    match namespaces.get(&ns::Kind::User) {
        Some(None) if mappings.is_empty() => {
            Err(Error::invalid(format!("{field}: a new user namespace needs mappings")))
        }
        Some(None) if !mappings.iter().any(|map| map.container_id() == 0 && map.size() > 0) => Err(
            Error::invalid(format!("{field}: id 0 of the container is not mapped, and the set-up needs it")),
        ),
        Some(None) => ids::text(field, mappings),
        None if !mappings.is_empty() => {
            Err(Error::invalid(format!("{field}: there are mappings and no user namespace")))
        }
        // Those of a namespace that is joined are what they are.
        Some(Some(_)) | None => Ok(String::new()),
    }
}

/// What the specification has for other platforms.
fn refuse_foreign(spec: &Spec) -> Result<(), Error> {
    for (present, field) in [
        (spec.solaris().is_some(), "solaris"),
        (spec.windows().is_some(), "windows"),
        (spec.vm().is_some(), "vm"),
        (spec.zos().is_some(), "zos"),
    ] {
        if present {
            return Err(Error::unsupported(format!("{field} is for another platform than Linux")));
        }
    }
    Ok(())
}

/// A short text as a C string; plans hold no NUL where this is used.
pub(crate) fn label(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).unwrap_or_default()
}
