//! What the edits do to a specification.

use std::path::Path;

use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceType, LinuxIntelRdt, LinuxNetDevice, Mount, Spec,
};

use super::Edits;
use super::document::{self, IntelRdt};
use crate::spec::{mounts, security};
use crate::{Error, Result};

/// What the edits depend on beside the specification.
pub(crate) struct Context<'a> {
    /// Looks a device node of the host up.
    pub(crate) look: &'a dyn Fn(&Path) -> Result<LinuxDevice>,
    /// Whether the built-in runtime makes the container.
    pub(crate) is_built_in: bool,
    /// Whether the container has users of its own, so that the nodes in it are those of the host.
    pub(crate) has_own_users: bool,
}

impl Edits {
    /// Does all that the edits say, but for the groups, which belong to the user: see [`Edits::groups`].
    ///
    /// # Errors
    /// `Unsupported` for what the pod's runtime may not know, and for owners and modes of nodes in a container with users of
    /// its own; `Invalid` for nodes that the host does not have.
    pub(crate) fn apply(&self, spec: &mut Spec, context: &Context<'_>) -> Result<()> {
        self.refuse_for_other_runtimes(context)?;
        self.apply_environment(spec);
        for node in self.device_nodes.iter().flatten() {
            add_device(spec, node, context)
                .map_err(|error| error.within(format!("CDI_devices: deviceNodes: {:?}", node.path)))?;
        }
        self.apply_mounts(spec).map_err(|error| error.within("CDI_devices"))?;
        self.apply_links(spec);
        self.apply_class(spec)?;
        self.apply_hooks(spec)
    }

    fn apply_environment(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else { return };
        let all = process.env_mut().get_or_insert_default();
        let name = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned());
        for entry in self.env.iter().flatten() {
            match all.iter_mut().find(|other| name(other) == name(entry)) {
                Some(old) => entry.clone_into(old),
                None => all.push(entry.clone()),
            }
        }
    }

    fn apply_mounts(&self, spec: &mut Spec) -> Result<()> {
        let all = spec.mounts_mut().get_or_insert_default();
        for asked in self.mounts.iter().flatten() {
            let made = mount(asked)?;
            all.retain(|other| other.destination() != made.destination());
            all.push(made);
        }
        // Parents before children.
        if self.mounts.iter().flatten().next().is_some() {
            all.sort_by_key(|mount| mount.destination().components().count());
        }
        Ok(())
    }

    fn apply_hooks(&self, spec: &mut Spec) -> Result<()> {
        if self.hooks.iter().flatten().next().is_none() {
            return Ok(());
        }
        let all = spec.hooks_mut().get_or_insert_default();
        for asked in self.hooks.iter().flatten() {
            list(all, &asked.hook_name)?.get_or_insert_default().push(hook(asked)?);
        }
        Ok(())
    }

    /// Other runtimes leave out what they do not know and say nothing.
    fn refuse_for_other_runtimes(&self, context: &Context<'_>) -> Result<()> {
        let new = [
            ("netDevices", self.net_devices.iter().flatten().next().is_some()),
            ("intelRdt: schemata or enableMonitoring", self.intel_rdt.as_ref().is_some_and(IntelRdt::is_new)),
        ];
        match new.iter().find(|(_, is_asked)| *is_asked && !context.is_built_in) {
            Some((name, _)) => Err(Error::unsupported(format!(
                "CDI_devices: {name}: only the built-in runtime is known to do that: not for pods of another runtime handler"
            ))),
            None => Ok(()),
        }
    }

    fn apply_links(&self, spec: &mut Spec) {
        let Some(asked) = self.net_devices.as_ref().filter(|asked| !asked.is_empty()) else { return };
        let linux = spec.linux_mut().get_or_insert_default();
        let mut all = linux.net_devices().clone().unwrap_or_default();
        for device in asked {
            let mut made = LinuxNetDevice::default();
            made.set_name(Some(device.name.clone()));
            all.insert(device.host_interface_name.clone(), made);
        }
        linux.set_net_devices(Some(all));
    }

    fn apply_class(&self, spec: &mut Spec) -> Result<()> {
        let Some(asked) = &self.intel_rdt else { return Ok(()) };
        if asked.enable_cmt.unwrap_or(false) || asked.enable_mbm.unwrap_or(false) {
            return Err(Error::unsupported(
                "CDI_devices: intelRdt: enableCMT and enableMBM, which CDI 1.1.0 has dropped: use enableMonitoring",
            ));
        }
        let mut class = LinuxIntelRdt::default();
        class
            .set_clos_id(asked.clos_id.clone())
            .set_l3_cache_schema(asked.l3_cache_schema.clone())
            .set_mem_bw_schema(asked.mem_bw_schema.clone())
            .set_schemata(asked.schemata.clone())
            .set_enable_monitoring(asked.enable_monitoring);
        spec.linux_mut().get_or_insert_default().set_intel_rdt(Some(class));
        Ok(())
    }
}

fn mount(asked: &document::Mount) -> Result<Mount> {
    let mut options = asked.options.clone().unwrap_or_default();
    let kind = if asked.kind.is_empty() { "bind" } else { &asked.kind };
    if kind == "bind" {
        if !asked.host_path.starts_with('/') {
            return Err(Error::invalid(format!("mounts: hostPath {:?} is not absolute", asked.host_path)));
        }
        if !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.insert(0, "rbind".into());
        }
    }
    let destination = mounts::destination(&asked.container_path)?;
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Ok(crate::spec::mount(&destination, kind, &asked.host_path, &options))
}

/// A node replaces one at the same path, and may be used as its permissions say.
fn add_device(spec: &mut Spec, node: &document::DeviceNode, context: &Context<'_>) -> Result<()> {
    let mut device = device(node, context)?;
    if context.has_own_users {
        if node.file_mode.is_some() || node.uid.is_some() || node.gid.is_some() {
            return Err(Error::unsupported(
                "fileMode, uid and gid cannot be had in a pod with users of its own (userns_options): its nodes are the host's",
            ));
        }
        device.set_file_mode(None).set_uid(None).set_gid(None);
    } else {
        // Who uses it, unless the file says otherwise.
        let user = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
        let (uid, gid) = user.unwrap_or_default();
        device.set_file_mode(node.file_mode).set_uid(node.uid.or(Some(uid))).set_gid(node.gid.or(Some(gid)));
    }
    let linux = spec.linux_mut().get_or_insert_default();
    if device.typ() != LinuxDeviceType::P {
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let kind = if device.typ() == LinuxDeviceType::B { LinuxDeviceType::B } else { LinuxDeviceType::C };
        let numbers = (Some(device.major()), Some(device.minor()));
        let rule = security::device_rule(true, Some(kind), Some(numbers), access);
        linux.resources_mut().get_or_insert_default().devices_mut().get_or_insert_default().push(rule);
    }
    let all = linux.devices_mut().get_or_insert_default();
    all.retain(|other| other.path() != device.path());
    all.push(device);
    Ok(())
}

/// What the file does not say of a node is looked up on the host.
fn device(node: &document::DeviceNode, context: &Context<'_>) -> Result<LinuxDevice> {
    let kind = match node.kind.as_str() {
        "b" => Some(LinuxDeviceType::B),
        "c" => Some(LinuxDeviceType::C),
        "u" => Some(LinuxDeviceType::U),
        "p" => Some(LinuxDeviceType::P),
        _ => None,
    };
    let mut device = LinuxDevice::default();
    device.set_path((&node.path).into()).set_major(node.major).set_minor(node.minor);
    match kind {
        Some(LinuxDeviceType::P) => {
            device.set_typ(LinuxDeviceType::P);
            return Ok(device);
        }
        Some(kind) if node.major != 0 => {
            device.set_typ(kind);
            return Ok(device);
        }
        _ => {}
    }
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let found = (context.look)(Path::new(host))?;
    let is_block = |kind: LinuxDeviceType| kind == LinuxDeviceType::B;
    if kind.is_some_and(|kind| is_block(kind) != is_block(found.typ())) {
        let there = found.typ();
        let there = there.as_str();
        return Err(Error::invalid(format!("type is {:?}, but {host:?} has type {there:?}", node.kind)));
    }
    device.set_typ(kind.unwrap_or(found.typ()));
    if node.major == 0 {
        device.set_major(found.major()).set_minor(found.minor());
    }
    Ok(device)
}

/// The hooks of a name.
fn list<'a>(all: &'a mut Hooks, name: &str) -> Result<&'a mut Option<Vec<Hook>>> {
    Ok(match name {
        "prestart" => all.prestart_mut(),
        "createRuntime" => all.create_runtime_mut(),
        "createContainer" => all.create_container_mut(),
        "startContainer" => all.start_container_mut(),
        "poststart" => all.poststart_mut(),
        "poststop" => all.poststop_mut(),
        _ => return Err(Error::invalid(format!("CDI_devices: hooks: hookName {name:?} is unknown"))),
    })
}

fn hook(asked: &document::Hook) -> Result<Hook> {
    let mut hook = HookBuilder::default()
        .path(&asked.path)
        .build()
        .map_err(|error| Error::invalid(format!("CDI_devices: hooks: {:?}: {error}", asked.path)))?;
    hook.set_args(asked.args.clone()).set_env(asked.env.clone()).set_timeout(asked.timeout);
    Ok(hook)
}
