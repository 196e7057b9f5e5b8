//! What plugins of the Node Resource Interface want to be otherwise in a container's specification. Pure: what has to be
//! looked up is asked of the [`Context`].
//!
//! Plugins are part of the node: they may give a container what its client may not. What cannot be done is an error with
//! the name of the field; whether the kernel can do it is found out by whoever makes the container.

mod linux;
mod process;
mod resources;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, HookBuilder, Hooks, Mount, Spec};
use serde::de::DeserializeOwned;
use vaquita_nri::api;
use vaquita_proto::cri;
use vaquita_shim::Namespaces;

use super::mounts;
use crate::host::Host;
use crate::{Error, Result};

pub(crate) use resources::{add_rest, merge, refuse_late};

/// What an adjustment depends on beside the specification.
pub(crate) struct Context<'a> {
    /// What the host can do.
    pub(crate) host: &'a Host,
    /// The limits that the specification was made from.
    pub(crate) limits: &'a cri::LinuxContainerResources,
    /// The namespaces of the pod that the container joins.
    pub(crate) join: Namespaces,
    /// Whether the built-in runtime makes the container.
    pub(crate) is_built_in: bool,
    /// Whether the container has users of its own, so that the nodes in it are those of the host.
    pub(crate) has_own_users: bool,
    /// Whether the mount that holds a path of the host passes on what is mounted below it, to the host too if that is asked.
    pub(crate) propagates: &'a dyn Fn(&Path, bool) -> Result<()>,
}

/// What is not in the specification.
#[derive(Debug, PartialEq)]
pub(crate) struct Adjusted {
    /// The limits that the container has now.
    pub(crate) limits: cri::LinuxContainerResources,
    /// The namespaces of the pod that it joins still.
    pub(crate) join: Namespaces,
    /// Another cgroup, as a plugin has written it.
    pub(crate) cgroup: Option<PathBuf>,
}

/// Applies all of an adjustment but its CDI devices, which are edits of their own.
///
/// # Errors
/// `Invalid` for what makes no sense, `Unsupported` for what this host, or the pod's runtime, cannot do.
pub(crate) fn adjust(
    spec: &mut Spec,
    asked: &api::ContainerAdjustment,
    context: &Context<'_>,
) -> Result<Adjusted> {
    annotations(spec, asked);
    process::adjust(spec, asked, context)?;
    if let Some(asked) = &asked.hooks {
        hooks(spec.hooks_mut().get_or_insert_default(), asked)?;
    }
    let adjusted = linux::adjust(spec, asked.linux.as_ref(), context)?;
    mount_all(spec, &asked.mounts, context)?;
    Ok(adjusted)
}

/// The name that is meant, and whether it is to go.
fn marked(name: &str) -> (&str, bool) {
    name.strip_prefix('-').map_or((name, false), |name| (name, true))
}

/// A word of the OCI specification.
fn word<T: DeserializeOwned>(field: &str, text: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| Error::invalid(format!("{field}: {text:?} is unknown")))
}

/// A number that stands for nothing that we know.
fn unknown(field: &str, number: i32) -> Error {
    Error::invalid(format!("{field}: {number} is unknown"))
}

fn annotations(spec: &mut Spec, asked: &api::ContainerAdjustment) {
    if asked.annotations.is_empty() {
        return;
    }
    let all = spec.annotations_mut().get_or_insert_default();
    for name in asked.annotations.keys().filter_map(|name| name.strip_prefix('-')) {
        all.remove(name);
    }
    let kept = asked.annotations.iter().filter(|(name, _)| !name.starts_with('-'));
    all.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
}

fn hooks(all: &mut Hooks, asked: &api::Hooks) -> Result<()> {
    add_hooks("prestart", all.prestart_mut(), &asked.prestart)?;
    add_hooks("create_runtime", all.create_runtime_mut(), &asked.create_runtime)?;
    add_hooks("create_container", all.create_container_mut(), &asked.create_container)?;
    add_hooks("start_container", all.start_container_mut(), &asked.start_container)?;
    add_hooks("poststart", all.poststart_mut(), &asked.poststart)?;
    add_hooks("poststop", all.poststop_mut(), &asked.poststop)
}

fn add_hooks(name: &str, list: &mut Option<Vec<Hook>>, asked: &[api::Hook]) -> Result<()> {
    for asked in asked {
        let mut hook = HookBuilder::default()
            .path(&asked.path)
            .build()
            .map_err(|error| Error::invalid(format!("hooks.{name}: {:?}: {error}", asked.path)))?;
        hook.set_args(Some(asked.args.clone()).filter(|args| !args.is_empty()))
            .set_env(Some(asked.env.clone()).filter(|env| !env.is_empty()))
            .set_timeout(asked.timeout.map(|timeout| timeout.value));
        list.get_or_insert_default().push(hook);
    }
    Ok(())
}

fn mount_all(spec: &mut Spec, asked: &[api::Mount], context: &Context<'_>) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let all = spec.mounts_mut().get_or_insert_default();
    for gone in asked.iter().filter_map(|mount| mount.destination.strip_prefix('-')) {
        let gone = Path::new(gone);
        all.retain(|mount| mount.destination() != gone);
    }
    let mut propagation = None;
    for asked in asked.iter().filter(|mount| !mount.destination.starts_with('-')) {
        let made = mount(asked)?;
        let options = made.options().iter().flatten();
        for option in options {
            let bidirectional = match option.as_str() {
                "shared" | "rshared" => true,
                "slave" | "rslave" => false,
                _ => continue,
            };
            let source = made.source().as_deref().unwrap_or(Path::new("/"));
            (context.propagates)(source, bidirectional)
                .map_err(|error| error.within(format!("mounts[{}]", asked.destination)))?;
            propagation = Some(propagation.unwrap_or_default() || bidirectional);
        }
        all.retain(|other| other.destination() != made.destination());
        all.push(made);
    }
    // Parents before children.
    all.sort_by_key(|mount| mount.destination().components().count());
    if let Some(bidirectional) = propagation {
        let linux = spec.linux_mut().get_or_insert_default();
        if bidirectional || linux.rootfs_propagation().is_none() {
            let how = if bidirectional { "rshared" } else { "rslave" };
            linux.set_rootfs_propagation(Some(how.into()));
        }
    }
    Ok(())
}

fn mount(asked: &api::Mount) -> Result<Mount> {
    let destination = mounts::destination(&asked.destination)?;
    let mut options = asked.options.clone();
    let is_bind = |option: &String| option == "bind" || option == "rbind";
    let kind = match asked.r#type.as_str() {
        "" if options.iter().any(is_bind) || asked.source.starts_with('/') => "bind",
        kind => kind,
    };
    if kind == "bind" {
        if !asked.source.starts_with('/') {
            let message = format!("mounts[{destination}].source: {:?} is not absolute", asked.source);
            return Err(Error::invalid(message));
        }
        if !options.iter().any(is_bind) {
            options.insert(0, "rbind".into());
        }
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Ok(super::mount(&destination, kind, &asked.source, &options))
}

#[cfg(test)]
mod tests;
