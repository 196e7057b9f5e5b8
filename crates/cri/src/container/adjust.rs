//! What plugins of the Node Resource Interface want a container to be, put into its specification.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use vaquita_nri::api;
use vaquita_proto::cri;
use vaquita_shim::{CreateRequest, Namespaces};

use super::{cdi, probe};
use crate::error::Doing;
use crate::model::{ContainerRecord, Sandbox, SandboxRecord};
use crate::node::{Node, blocking};
use crate::spec::{self, User};
use crate::{Result, cgroups};

/// Does what plugins want, and writes the specification and the record anew. Returns whether there is work at the start or
/// the end of the container.
pub(super) async fn adjust_all(
    node: &Arc<Node>,
    sandbox: &Arc<Sandbox>,
    (record, request): (&mut ContainerRecord, &mut CreateRequest),
    mut spec: Box<Spec>,
    asked: api::ContainerAdjustment,
) -> Result<bool> {
    let (worker, pod, copy) = (node.clone(), sandbox.clone(), record.clone());
    let (join, is_built_in) = (request.join, request.runtime.is_none());
    let (outcome, has_late_work) = blocking("adjust the container", move || {
        let ground = Ground { node: &worker, pod: &pod.record, record: &copy, join, is_built_in };
        let outcome = ground.adjust(&mut spec, &asked)?;
        worker.paths.write_spec(pod.id(), &copy.id, &spec)?;
        Ok((outcome, has_late_work(&spec)))
    })
    .await?;
    if request.cgroup != outcome.cgroup {
        let (worker, made) = (node.clone(), request.cgroup.clone());
        blocking("remove a cgroup", move || cgroups::remove(&worker.layout, [made.as_path()])).await?;
    }
    record.resources = outcome.limits;
    record.cgroup.clone_from(&outcome.cgroup);
    if let Some(groups) = outcome.groups {
        record.user.supplemental_groups = groups.into_iter().map(i64::from).collect();
    }
    request.join = outcome.join;
    if request.cgroup != outcome.cgroup {
        request.cgroup = outcome.cgroup;
        // Before there is such a group: whoever takes it away has to know of it.
        node.paths.write_container(record)?;
    }
    Ok(has_late_work)
}

/// Whether a specification asks for something at the start or the end.
pub(super) fn has_late_work(spec: &Spec) -> bool {
    vaquita_runtime::hook::has_late(spec)
        || spec.linux().as_ref().is_some_and(|linux| linux.intel_rdt().is_some())
}

/// What a specification was made for.
struct Ground<'a> {
    node: &'a Node,
    pod: &'a SandboxRecord,
    record: &'a ContainerRecord,
    /// The namespaces of the pod that it joins.
    join: Namespaces,
    /// Whether the built-in runtime makes the container.
    is_built_in: bool,
}

/// What has changed beside the specification.
struct Outcome {
    limits: cri::LinuxContainerResources,
    join: Namespaces,
    cgroup: PathBuf,
    /// All its groups, if there are more than there were.
    groups: Option<Vec<u32>>,
}

impl Ground<'_> {
    /// Does all of an adjustment, or fails. Blocks.
    fn adjust(&self, spec: &mut Spec, asked: &api::ContainerAdjustment) -> Result<Outcome> {
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
