//! What plugins of the Node Resource Interface want a container to be, put into its specification.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use vaquita_nri::api;
use vaquita_proto::cri;
use vaquita_shim::Namespaces;

use super::{cdi, probe};
use crate::error::Doing;
use crate::model::{ContainerRecord, SandboxRecord};
use crate::node::Node;
use crate::spec::{self, User};
use crate::{Result, cgroups};

/// What a specification was made for.
pub(super) struct Ground<'a> {
    pub(super) node: &'a Node,
    pub(super) pod: &'a SandboxRecord,
    pub(super) record: &'a ContainerRecord,
    /// The namespaces of the pod that it joins.
    pub(super) join: Namespaces,
    /// Whether the built-in runtime makes the container.
    pub(super) is_built_in: bool,
}

/// What has changed beside the specification.
pub(super) struct Outcome {
    pub(super) limits: cri::LinuxContainerResources,
    pub(super) join: Namespaces,
    pub(super) cgroup: PathBuf,
    /// All its groups, if there are more than there were.
    pub(super) groups: Option<Vec<u32>>,
}

impl Ground<'_> {
    /// Does all of an adjustment, or fails. Blocks.
    pub(super) fn adjust(&self, spec: &mut Spec, asked: &api::ContainerAdjustment) -> Result<Outcome> {
        self.adjust_all(spec, asked).map_err(|error| error.within("an NRI plugin's adjustment"))
    }

    fn adjust_all(&self, spec: &mut Spec, asked: &api::ContainerAdjustment) -> Result<Outcome> {
        let users = spec::users(&self.pod.config)?;
        let groups = self.devices(spec, &asked.cdi_devices, users.as_ref())?;
        let context = spec::adjust::Context {
            host: &self.node.host,
            limits: &self.record.resources,
            join: self.join,
            is_built_in: self.is_built_in,
            has_own_users: users.is_some(),
            propagates: &propagates,
        };
        let adjusted = spec::adjust::adjust(spec, asked, &context)?;
        let cgroup = match &adjusted.cgroup {
            Some(asked) => {
                let path = cgroups::chosen(&self.node.layout, &self.pod.cgroup, asked)?;
                spec.linux_mut().get_or_insert_default().set_cgroups_path(Some(path.clone()));
                path
            }
            None => self.record.cgroup.clone(),
        };
        Ok(Outcome { limits: adjusted.limits, join: adjusted.join, cgroup, groups })
    }

    /// CDI devices beside those that the client has asked for.
    fn devices(
        &self,
        spec: &mut Spec,
        asked: &[api::CdiDevice],
        users: Option<&spec::Users>,
    ) -> Result<Option<Vec<u32>>> {
        let there = &self.record.config.cdi_devices;
        let names = asked.iter().map(|device| device.name.as_str());
        let names: Vec<&str> = names.filter(|name| !there.iter().any(|there| there.name == *name)).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let edits = cdi::edits(&names, &self.node.config.cdi_spec_dirs)?;
        let context = spec::cdi::Context {
            look: &probe::device,
            is_built_in: self.is_built_in,
            has_own_users: users.is_some(),
        };
        edits.apply(spec, &context)?;
        let user = spec.process_mut().get_or_insert_default().user_mut();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        let before = groups.len();
        for group in edits.groups() {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        if groups.len() == before {
            return Ok(None);
        }
        user.set_additional_gids(Some(groups.clone()));
        if let Some(users) = users {
            users.check(&User {
                uid: user.uid(),
                gid: user.gid(),
                groups: groups.clone(),
                ..User::default()
            })?;
        }
        Ok(Some(groups))
    }
}

fn propagates(path: &Path, bidirectional: bool) -> Result<()> {
    let table = vaquita_sys::mount::mountinfo().doing(|| "read the mounts of the host")?;
    probe::propagates(&table, path, bidirectional)
}
