//! What several plugins want, as one. Pure.
//!
//! Plugins are asked one after the other. Each property belongs to the first that sets it, and a second one that sets it too is a conflict;
//! unless it has said before that what the first one wants shall not be (a removal). A plugin is shown the container as those before it
//! want it to be.

mod entries;
mod owners;
mod resources;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, Field, Hook, Hooks, LinuxContainer,
    LinuxContainerAdjustment, LinuxRdt, LinuxResources, OwningPlugins,
};
use crate::{Creation, Error, Kind, Result, Update};
use entries::Removal;
pub(crate) use owners::Owners;

/// The answers about a container that is being made.
#[derive(Debug)]
pub(crate) struct Creating {
    /// As the next plugin is to see it.
    container: Container,
    adjustment: ContainerAdjustment,
    others: Others,
}

/// The answers about a container that is to get other resources.
#[derive(Debug)]
pub(crate) struct Updating {
    id: String,
    /// As the next plugin is to see them.
    resources: LinuxResources,
    others: Others,
}

/// What is wanted of containers that the question is not about.
#[derive(Debug, Default)]
pub(crate) struct Others {
    owners: Owners,
    /// By container.
    updates: BTreeMap<String, ContainerUpdate>,
    evictions: Vec<ContainerEviction>,
}

impl Creating {
    pub(crate) fn new(container: Container) -> Self {
        Self { container, adjustment: ContainerAdjustment::default(), others: Others::default() }
    }

    /// As the next plugin is to see it.
    pub(crate) fn container(&self) -> &Container {
        &self.container
    }

    /// What all want so far.
    pub(crate) fn adjustment(&self) -> &ContainerAdjustment {
        &self.adjustment
    }

    /// What all want of other containers so far.
    pub(crate) fn updates(&self) -> Vec<ContainerUpdate> {
        self.others.updates.values().cloned().collect()
    }

    /// Who wants what, as plugins that judge it are told.
    pub(crate) fn owners(&self) -> OwningPlugins {
        self.others.owners.to_message()
    }

    /// Adds the answer of a plugin.
    ///
    /// # Errors
    /// `Conflict`; `Plugin` for what makes no sense.
    pub(crate) fn add(
        &mut self,
        plugin: &str,
        adjustment: Option<ContainerAdjustment>,
        updates: Vec<ContainerUpdate>,
        evictions: Vec<ContainerEviction>,
    ) -> Result<()> {
        if let Some(adjustment) = adjustment {
            self.adjust(plugin, adjustment)?;
        }
        for update in updates {
            if update.container_id == self.container.id {
                return Err(Error::new(
                    Kind::Plugin,
                    format!(
                        "plugin {plugin} wants to update container {} that is being made",
                        self.container.id
                    ),
                ));
            }
            self.others.update(plugin, update)?;
        }
        self.others.evictions.extend(evictions);
        Ok(())
    }

    /// What comes of it.
    pub(crate) fn finish(self) -> Creation {
        let Others { updates, evictions, .. } = self.others;
        Creation { adjustment: self.adjustment, updates: updates.into_values().collect(), evictions }
    }

    fn adjust(&mut self, plugin: &str, wish: ContainerAdjustment) -> Result<()> {
        let ContainerAdjustment { annotations, mounts, env, hooks, linux, rlimits, cdi_devices, args } = wish;
        let (to, seen) = (&mut self.adjustment, &mut self.container);
        let mut claims = self.others.owners.of(&seen.id, plugin);

        entries::merge_map(
            &mut claims,
            Field::Annotations,
            annotations,
            &mut to.annotations,
            &mut seen.annotations,
        )?;
        entries::merge_list(
            &mut claims,
            Field::Mounts,
            Removal::Frees,
            mounts,
            &mut to.mounts,
            &mut seen.mounts,
        )?;
        entries::merge_env(&mut claims, env, &mut to.env, &mut seen.env)?;
        if !args.is_empty() {
            let replaces = args.first().is_some_and(String::is_empty);
            if replaces {
                claims.clear(Field::Args, "");
            }
            claims.claim(Field::Args, "")?;
            to.args = args.into_iter().skip(usize::from(replaces)).collect();
            seen.args.clone_from(&to.args);
        }
        if let Some(hooks) = hooks {
            claims.share(Field::OciHooks);
            add_hooks(seen.hooks.get_or_insert_default(), &hooks);
            add_hooks(to.hooks.get_or_insert_default(), &hooks);
        }
        for limit in &rlimits {
            claims.claim_entry(Field::Rlimits, &limit.r#type)?;
        }
        let changed: BTreeSet<&str> = rlimits.iter().map(|limit| limit.r#type.as_str()).collect();
        seen.rlimits.retain(|limit| !changed.contains(limit.r#type.as_str()));
        seen.rlimits.extend_from_slice(&rlimits);
        to.rlimits.extend(rlimits);
        // They are names of things that are looked up later: nobody is shown them, and nobody can remove them.
        for device in cdi_devices {
            claims.claim_entry(Field::CdiDevices, &device.name)?;
            to.cdi_devices.push(device);
        }
        match linux {
            Some(linux) => adjust_linux(
                &mut claims,
                linux,
                to.linux.get_or_insert_default(),
                seen.linux.get_or_insert_default(),
            ),
            None => Ok(()),
        }
    }
}

impl Updating {
    pub(crate) fn new(id: &str, resources: LinuxResources) -> Self {
        Self { id: id.to_owned(), resources, others: Others::default() }
    }

    /// As the next plugin is to see them.
    pub(crate) fn resources(&self) -> &LinuxResources {
        &self.resources
    }

    /// Adds the answer of a plugin.
    ///
    /// # Errors
    /// `Conflict`, where the plugin does not say that this may fail.
    pub(crate) fn add(
        &mut self,
        plugin: &str,
        updates: Vec<ContainerUpdate>,
        evictions: Vec<ContainerEviction>,
    ) -> Result<()> {
        for update in updates {
            if update.container_id != self.id {
                self.others.update(plugin, update)?;
                continue;
            }
            let Some(wish) = update.linux.and_then(|linux| linux.resources) else { continue };
            match self.others.owners.of(&self.id, plugin).claim_all(&resources::named(&wish)) {
                Ok(()) => resources::overlay(&mut self.resources, wish),
                Err(_) if update.ignore_failure => {}
                Err(error) => return Err(error),
            }
        }
        self.others.evictions.extend(evictions);
        Ok(())
    }

    /// What comes of it.
    pub(crate) fn finish(self) -> Update {
        let Others { updates, evictions, .. } = self.others;
        Update { resources: self.resources, updates: updates.into_values().collect(), evictions }
    }
}

impl Others {
    /// Adds what a plugin wants of one of them.
    ///
    /// # Errors
    /// `Conflict`, where the plugin does not say that this may fail.
    pub(crate) fn update(&mut self, plugin: &str, update: ContainerUpdate) -> Result<()> {
        let ContainerUpdate { container_id, linux, ignore_failure } = update;
        let wish = linux.and_then(|linux| linux.resources).unwrap_or_default();
        match self.owners.of(&container_id, plugin).claim_all(&resources::named(&wish)) {
            Ok(()) => {}
            Err(_) if ignore_failure => return Ok(()),
            Err(error) => return Err(error),
        }
        let known = self.updates.entry(container_id).or_insert_with_key(|id| ContainerUpdate {
            container_id: id.clone(),
            linux: None,
            ignore_failure: true,
        });
        known.ignore_failure &= ignore_failure;
        let linux = known.linux.get_or_insert_default();
        resources::overlay(linux.resources.get_or_insert_default(), wish);
        Ok(())
    }

    /// What comes of it.
    pub(crate) fn finish(self) -> Vec<ContainerUpdate> {
        self.updates.into_values().collect()
    }
}

fn adjust_linux(
    claims: &mut owners::Claims<'_>,
    wish: LinuxContainerAdjustment,
    to: &mut LinuxContainerAdjustment,
    seen: &mut LinuxContainer,
) -> Result<()> {
    entries::merge_list(
        claims,
        Field::Devices,
        Removal::Frees,
        wish.devices,
        &mut to.devices,
        &mut seen.devices,
    )?;
    entries::merge_list(
        claims,
        Field::Namespace,
        Removal::Claims,
        wish.namespaces,
        &mut to.namespaces,
        &mut seen.namespaces,
    )?;
    entries::merge_map(claims, Field::Sysctl, wish.sysctl, &mut to.sysctl, &mut seen.sysctl)?;
    entries::merge_map(
        claims,
        Field::LinuxNetDevices,
        wish.net_devices,
        &mut to.net_devices,
        &mut seen.net_devices,
    )?;
    if let Some(wish) = wish.resources {
        claims.claim_all(&resources::named(&wish))?;
        resources::overlay(seen.resources.get_or_insert_default(), wish.clone());
        resources::overlay(to.resources.get_or_insert_default(), wish);
    }
    if !wish.cgroups_path.is_empty() {
        claims.claim(Field::CgroupsPath, "")?;
        seen.cgroups_path.clone_from(&wish.cgroups_path);
        to.cgroups_path = wish.cgroups_path;
    }
    macro_rules! set {
        ($($name:ident: $field:ident),*) => {$(
            if wish.$name.is_some() {
                claims.claim(Field::$field, "")?;
                seen.$name.clone_from(&wish.$name);
                to.$name = wish.$name;
            }
        )*};
    }
    set!(
        oom_score_adj: OomScoreAdj, io_priority: IoPriority, seccomp_policy: SeccompPolicy, scheduler: LinuxSched
    );
    if wish.memory_policy.is_some() {
        claims.claim(Field::MemoryPolicy, "")?;
        to.memory_policy = wish.memory_policy;
    }
    match wish.rdt {
        Some(rdt) => adjust_rdt(claims, rdt, &mut to.rdt),
        None => Ok(()),
    }
}

/// What is set after a removal stands in its place.
fn adjust_rdt(claims: &mut owners::Claims<'_>, wish: LinuxRdt, to: &mut Option<LinuxRdt>) -> Result<()> {
    if wish.remove {
        for field in [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring] {
            claims.clear(field, "");
        }
        *to = Some(LinuxRdt { remove: true, ..LinuxRdt::default() });
    }
    macro_rules! set {
        ($($name:ident: $field:ident),*) => {$(
            if wish.$name.is_some() {
                claims.claim(Field::$field, "")?;
                let to = to.get_or_insert_default();
                to.$name = wish.$name;
                to.remove = false;
            }
        )*};
    }
    set!(clos_id: RdtClosId, schemata: RdtSchemata, enable_monitoring: RdtEnableMonitoring);
    Ok(())
}

fn add_hooks(to: &mut Hooks, from: &Hooks) {
    let add = |to: &mut Vec<Hook>, from: &[Hook]| to.extend_from_slice(from);
    add(&mut to.prestart, &from.prestart);
    add(&mut to.create_runtime, &from.create_runtime);
    add(&mut to.create_container, &from.create_container);
    add(&mut to.start_container, &from.start_container);
    add(&mut to.poststart, &from.poststart);
    add(&mut to.poststop, &from.poststop);
}
