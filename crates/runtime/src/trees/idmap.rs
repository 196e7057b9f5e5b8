//! Mounts whose identities are mapped, by a user namespace that is there for its maps alone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vaquita_sys::mount::{Attr, mount_setattr};
use vaquita_sys::ns;

use crate::namespaces::Namespaces;
use crate::plan::mounts::{IdMap, MountPlan, Source};
use crate::{Error, Plan};

/// Namespaces with the maps of a container's mounts, each made once.
pub(super) struct IdMaps<'a> {
    /// The user namespace that the container joins.
    joined: Option<BorrowedFd<'a>>,
    /// Maps of the container's new user namespace.
    own: Option<(&'a str, &'a str)>,
    made: BTreeMap<(String, String), OwnedFd>,
}

impl<'a> IdMaps<'a> {
    pub(super) fn new(plan: &'a Plan, namespaces: &'a Namespaces) -> Self {
        let own = namespaces.is_new(ns::Kind::User).then_some((&*plan.uid_map, &*plan.gid_map));
        Self { joined: namespaces.joined(ns::Kind::User), own, made: BTreeMap::new() }
    }

    /// Maps the identities of a detached tree.
    pub(super) fn apply(&mut self, tree: &OwnedFd, plan: &MountPlan, how: &IdMap) -> Result<(), Error> {
        let destination = &plan.destination;
        let own = self.own.map(|(uids, gids)| (uids.to_owned(), gids.to_owned()));
        let maps = how.maps.clone().or(own);
        let userns = match (maps, self.joined) {
            (Some(maps), _) => {
                if !self.made.contains_key(&maps) {
                    let made = ns::new_userns(&maps.0, &maps.1).map_err(|error| failed(plan, &error))?;
                    self.made.insert(maps.clone(), made);
                }
                self.made.get(&maps).map(AsFd::as_fd)
            }
            (None, joined) => joined,
        };
        let Some(userns) = userns else {
            return Err(Error::invalid(format!(
                "the mount on {destination}: id mappings need uidMappings and gidMappings, or a user namespace of the \
                 container to take them from"
            )));
        };
        let attr = Attr { userns: Some(userns), ..Attr::default() };
        mount_setattr(tree, "", how.recursive, &attr).map_err(|error| failed(plan, &error))
    }
}

fn failed(plan: &MountPlan, error: &vaquita_sys::Error) -> Error {
    let hint = match (error.errno(), filesystem(plan)) {
        (rustix::io::Errno::INVAL, Some(name)) => {
            format!(
                "; {name} cannot map identities, or not with this kernel (it takes Linux 5.12, tmpfs 6.3)"
            )
        }
        (rustix::io::Errno::INVAL, None) => {
            "; a filesystem among them cannot map identities, or the kernel is older than 5.12".to_owned()
        }
        _ => String::new(),
    };
    let message = format!("the mount on {}: id mappings: {error}{hint}", plan.destination);
    Error::new(crate::Kind::Kernel(error.errno()), message)
}

/// What a tree is on: overlay, nfs4 and so on.
fn filesystem(plan: &MountPlan) -> Option<String> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let Source::Bind { path, recursive: _ } = &plan.source else { return None };
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let mounts = vaquita_sys::mount::mountinfo().ok()?;
    let mount = mounts.into_iter().find(|mount| mount.id == found.stx_mnt_id)?;
    Some(mount.fs_type)
}
