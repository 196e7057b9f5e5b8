//! Containers of ordinary users.
//!
//! An ordinary user may make mounts and namespaces only in a user namespace of their own. So the maker of a container
//! makes that namespace, which the container's configuration must have, and is in it itself before it touches a mount;
//! for the runtime the container then has none. Hooks of the host run in it too.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use vaquita_sys::cap::{self, Capability};
use vaquita_sys::ns;
use vaquita_sys::process::{CloneFlags, Idle};
use vaquita_sys::procfs::Procfs;

use crate::{Error, Host, Kind};

/// Whether the caller lacks what it takes to make containers as root does. Root of a user namespace does not.
pub(crate) fn is_needed() -> Result<bool, Error> {
    let own = cap::held().map_err(|errno| Error::kernel("capget", errno))?;
    Ok(!own.effective.contains(Capability::SYS_ADMIN))
}

/// Whose cgroups a new container has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Groups {
    /// Root's. What is not permitted is an error.
    Root,
    /// Those that an ordinary user can have; none at all where nothing is delegated, and limits are refused then.
    Ordinary,
    /// Of root of a user namespace: as the cgroups that are there allow.
    AsGiven,
}

/// As the host says, or as is possible.
///
/// # Errors
/// [`Kind::Unsupported`] for those of an ordinary user when the caller is root of the host.
pub(crate) fn groups(host: &Host) -> Result<Groups, Error> {
    match host.rootless {
        Some(false) => Ok(Groups::Root),
        _ if is_needed()? => Ok(Groups::Ordinary),
        wanted => match (ns::is_in_user_namespace()?, wanted) {
            (true, Some(_)) => Ok(Groups::Ordinary),
            (true, None) => Ok(Groups::AsGiven),
            (false, None) => Ok(Groups::Root),
            // Such a container would be without a device filter, and root's could make any device.
            (false, Some(_)) => Err(Error::new(
                Kind::Unsupported,
                "--rootless true: root of the host is permitted every cgroup, and containers of root need theirs: give auto \
                 or false",
            )),
        },
    }
}

/// The container, as it is made by somebody who is in its user namespace already.
///
/// # Errors
/// [`crate::Kind::Invalid`] when it has none.
pub(crate) fn from_inside(spec: &Spec) -> Result<Spec, Error> {
    user_namespace(spec)?;
    check_hooks(spec)?;
    let mut spec = spec.clone();
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::User);
        linux.set_namespaces(Some(namespaces)).set_uid_mappings(None).set_gid_mappings(None);
    }
    Ok(spec)
}

/// Takes this process, which must have one thread, into the container's user namespace, and a mount namespace in that.
///
/// # Errors
/// [`Kind::Invalid`] when the container has no user namespace, or one with other mappings than an ordinary user can have;
/// those of making it, of newuidmap(1) and newgidmap(1).
#[expect(clippy::disallowed_methods, reason = "a path that whoever calls names, on the host")]
pub(crate) fn enter(spec: &Spec) -> Result<(), Error> {
    let namespace = user_namespace(spec)?;
    let path = namespace.path().as_deref().filter(|path| *path != Path::new(""));
    // Ends when it is joined, or not.
    let _first;
    let joined = match path {
        Some(path) => rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::kernel(format!("open({path:?})"), errno))?,
        None => {
            _first = new_namespace(spec)?;
            ns::open(rustix::process::Pid::from_raw(_first.pid()), ns::Kind::User)?
        }
    };
    ns::setns(joined.as_fd(), ns::Kind::User)
        .map_err(|errno| Error::kernel("setns(<user namespace>, CLONE_NEWUSER)", errno))?;
    take_mounts()
}

/// Gives this process, which must have one thread, a mount namespace of its user namespace.
pub(crate) fn take_mounts() -> Result<(), Error> {
    ns::unshare(CloneFlags::NEWNS).map_err(|errno| Error::kernel("unshare(CLONE_NEWNS)", errno))
}

/// Takes this process, which must have one thread, into the user namespace of the container's first process.
///
/// # Errors
/// `EPERM` for another user's.
pub(crate) fn join(init: BorrowedFd<'_>) -> Result<(), Error> {
    ns::setns_process(init, CloneFlags::NEWUSER)
        .map_err(|errno| Error::kernel("setns(<first process>, CLONE_NEWUSER)", errno))
}

/// Nobody but root may look into a process that has come from the host and has not executed its program yet.
fn check_hooks(spec: &Spec) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    for (name, list) in
        [("createContainer", hooks.create_container()), ("startContainer", hooks.start_container())]
    {
        if list.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "hooks.{name}: an ordinary user cannot enter a container before its program runs; use another \
                     hook, or be root of a user namespace (as in `unshare -Ur`, or below a rootless engine)"
                ),
            ));
        }
    }
    Ok(())
}

fn user_namespace(spec: &Spec) -> Result<&LinuxNamespace, Error> {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::User).ok_or_else(|| {
        Error::invalid(
            "linux.namespaces: an ordinary user's container needs a user namespace: add one with mappings (see \
             spec --rootless), or be root",
        )
    })
}

/// A new user namespace with a process in it.
fn new_namespace(spec: &Spec) -> Result<Idle, Error> {
    let linux = spec.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    check_root("linux.uidMappings", uids, uid)?;
    check_root("linux.gidMappings", gids, gid)?;
    let idle = Idle::in_new(CloneFlags::NEWUSER).map_err(|error| {
        Error::from(error).while_doing("making a user namespace (see user.max_user_namespaces in sysctl)")
    })?;
    let pid = idle.pid();
    let procfs = Procfs::host()?;
    if is_own(gids) {
        // The kernel's condition for mapping the own group without help.
        procfs.write(format!("{pid}/setgroups"), "deny")?;
        procfs.write(format!("{pid}/gid_map"), format!("0 {gid} 1\n"))?;
    } else {
        map_with("newgidmap", pid, gids)?;
    }
    if is_own(uids) {
        procfs.write(format!("{pid}/uid_map"), format!("0 {uid} 1\n"))?;
    } else {
        map_with("newuidmap", pid, uids)?;
    }
    Ok(idle)
}

/// User 0 of the container makes what is made for it, in directories of the caller.
fn check_root(field: &str, mappings: &[LinuxIdMapping], own: u32) -> Result<(), Error> {
    let root = mappings.iter().find(|map| map.container_id() == 0 && map.size() > 0);
    match root {
        Some(map) if map.host_id() == own => Ok(()),
        _ => Err(Error::invalid(format!(
            "{field}: for an ordinary user, 0 of the container must be the caller's own id {own} of the host"
        ))),
    }
}

/// Whether it is what the kernel lets an ordinary user map without help.
fn is_own(mappings: &[LinuxIdMapping]) -> bool {
    matches!(mappings, [map] if map.size() == 1)
}

/// Maps through a program that may, and that checks what the caller may (subuid(5)).
fn map_with(program: &str, pid: i32, mappings: &[LinuxIdMapping]) -> Result<(), Error> {
    let ids = mappings.iter().flat_map(|map| [map.container_id(), map.host_id(), map.size()]);
    let arguments = std::iter::once(pid.to_string()).chain(ids.map(|id| id.to_string()));
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        Error::io(program, &error).while_doing(
            "mapping more than the caller's own id, which takes newuidmap and newgidmap (package uidmap)",
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(
        Kind::Other,
        format!("{program}: {}: {}; see subuid(5)", output.status, said.trim().replace('\n', "; ")),
    ))
}
