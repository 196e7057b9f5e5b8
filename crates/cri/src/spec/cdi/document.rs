//! One file: its fields and what they must be.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// How a file is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    /// `*.json`
    Json,
    /// `*.yaml`
    Yaml,
}

/// A vendor's file. What it says that is unknown to us is an error: we could not do it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    cdi_version: String,
    kind: String,
    annotations: Option<BTreeMap<String, String>>,
    devices: Option<Vec<Device>>,
    #[serde(default)]
    container_edits: Option<Edits>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    container_edits: Edits,
}

/// What has to be done to a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Edits {
    pub(super) env: Option<Vec<String>>,
    pub(super) device_nodes: Option<Vec<DeviceNode>>,
    pub(super) mounts: Option<Vec<Mount>>,
    pub(super) hooks: Option<Vec<Hook>>,
    pub(super) additional_gids: Option<Vec<u32>>,
    pub(super) intel_rdt: Option<IntelRdt>,
    pub(super) net_devices: Option<Vec<NetDevice>>,
}

/// A class of service, as the OCI specification has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(super) clos_id: Option<String>,
    #[serde(rename = "l3CacheSchema")]
    pub(super) l3_cache_schema: Option<String>,
    #[serde(rename = "memBwSchema")]
    pub(super) mem_bw_schema: Option<String>,
    pub(super) schemata: Option<Vec<String>>,
    #[serde(rename = "enableMonitoring")]
    pub(super) enable_monitoring: Option<bool>,
    /// Both up to 1.0.0, and never of any effect.
    #[serde(rename = "enableCMT")]
    pub(super) enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    pub(super) enable_mbm: Option<bool>,
}

/// A link of the host that becomes the container's.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    #[serde(default)]
    pub(super) host_path: String,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) major: i64,
    #[serde(default)]
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    pub(super) options: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    pub(super) timeout: Option<i64>,
}

/// The names of hooks, as the OCI runtime specification has them.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The versions that we know, in ascending order.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

impl Document {
    /// Reads a file and checks all of it.
    pub(super) fn parse(text: &str, format: Format) -> Result<Self, String> {
        let document: Self = match format {
            Format::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
            Format::Yaml => {
                let options = serde_saphyr::options! {
                    duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
                    legacy_octal_numbers: true,
                    with_snippet: false,
                };
                serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?
            }
        };
        document.check()?;
        Ok(document)
    }

    /// `vendor/class`.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// What every device of the file needs.
    pub(super) fn edits(&self) -> Option<&Edits> {
        self.container_edits.as_ref()
    }

    /// What one device needs beside.
    pub(super) fn device(&self, name: &str) -> Option<&Edits> {
        self.devices().find(|device| device.name == name).map(|device| &device.container_edits)
    }

    fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().flatten()
    }

    fn check(&self) -> Result<(), String> {
        kind(&self.kind)?;
        if let Some(edits) = &self.container_edits {
            edits.check().map_err(|why| format!("containerEdits: {why}"))?;
        }
        let mut seen = BTreeSet::new();
        for device in self.devices() {
            let within = |why: String| format!("device {:?}: {why}", device.name);
            device_name(&device.name).map_err(within)?;
            if !seen.insert(&device.name) {
                return Err(within("is there twice".into()));
            }
            if device.container_edits.is_empty() {
                return Err(within("has no containerEdits".into()));
            }
            device.container_edits.check().map_err(within)?;
        }
        if seen.is_empty() {
            return Err("there are no devices".into());
        }
        self.check_version()
    }

    /// A file may only use what its version has.
    fn check_version(&self) -> Result<(), String> {
        let version = &self.cdi_version;
        let place = |wanted: &str| VERSIONS.iter().position(|known| *known == wanted);
        let known = place(version)
            .ok_or_else(|| format!("cdiVersion {version:?} is none of {}", VERSIONS.join(", ")))?;
        let edits =
            || self.container_edits.iter().chain(self.devices().map(|device| &device.container_edits));
        let is_annotated =
            |annotations: &Option<BTreeMap<_, _>>| annotations.as_ref().is_some_and(|all| !all.is_empty());
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let nodes = || edits().flat_map(|edits| edits.device_nodes.iter().flatten());
        let mut mounts = edits().flat_map(|edits| edits.mounts.iter().flatten());
        let uses = [
            ("0.4.0", "the type of a mount", mounts.any(|mount| !mount.kind.is_empty())),
            ("0.5.0", "hostPath of a device node", nodes().any(|node| !node.host_path.is_empty())),
            (
                "0.5.0",
                "a device name that begins with a digit",
                self.devices().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit())),
            ),
            (
                "0.6.0",
                "annotations",
                is_annotated(&self.annotations)
                    || self.devices().any(|device| is_annotated(&device.annotations)),
            ),
            ("0.6.0", "a dot in the class", class.contains('.')),
            (
                "0.7.0",
                "additionalGids or intelRdt",
                edits().any(|edits| edits.additional_gids.is_some() || edits.intel_rdt.is_some()),
            ),
            ("1.1.0", "netDevices", edits().any(|edits| edits.net_devices.is_some())),
            (
                "1.1.0",
                "schemata or enableMonitoring in intelRdt",
                edits().filter_map(|edits| edits.intel_rdt.as_ref()).any(IntelRdt::is_new),
            ),
        ];
        match uses.iter().find(|(since, _, used)| *used && place(since) > Some(known)) {
            Some((since, what, _)) => {
                Err(format!("cdiVersion {version:?} is too old for {what}: it takes {since}"))
            }
            None => Ok(()),
        }
    }
}

impl Edits {
    /// The groups that processes are in beside their own.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u32> {
        self.additional_gids.iter().flatten().copied().filter(|gid| *gid != 0)
    }

    pub(super) fn append(&mut self, more: Option<&Self>) {
        fn extend<T: Clone>(all: &mut Option<Vec<T>>, more: &Option<Vec<T>>) {
            all.get_or_insert_default().extend(more.iter().flatten().cloned());
        }
        let Some(more) = more else { return };
        extend(&mut self.env, &more.env);
        extend(&mut self.device_nodes, &more.device_nodes);
        extend(&mut self.mounts, &more.mounts);
        extend(&mut self.hooks, &more.hooks);
        extend(&mut self.additional_gids, &more.additional_gids);
        extend(&mut self.net_devices, &more.net_devices);
        // A process is in one class.
        self.intel_rdt = more.intel_rdt.clone().or_else(|| self.intel_rdt.take());
    }

    fn is_empty(&self) -> bool {
        fn none<T>(list: &Option<Vec<T>>) -> bool {
            list.as_ref().is_none_or(Vec::is_empty)
        }
        none(&self.env)
            && none(&self.device_nodes)
            && none(&self.mounts)
            && none(&self.hooks)
            && none(&self.additional_gids)
            && none(&self.net_devices)
            && self.intel_rdt.is_none()
    }

    fn check(&self) -> Result<(), String> {
        environment(&self.env)?;
        for node in self.device_nodes.iter().flatten() {
            node.check().map_err(|why| format!("deviceNodes: {:?}: {why}", node.path))?;
        }
        for mount in self.mounts.iter().flatten() {
            let (from, to) = (&mount.host_path, &mount.container_path);
            if from.is_empty() || to.is_empty() {
                return Err(format!("mounts: {from:?} at {to:?}: hostPath and containerPath are needed"));
            }
        }
        for hook in self.hooks.iter().flatten() {
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(format!("hooks: hookName {:?} is none of {}", hook.hook_name, HOOKS.join(", ")));
            }
            if !hook.path.starts_with('/') {
                return Err(format!("hooks: the path {:?} is not absolute", hook.path));
            }
            environment(&hook.env)?;
        }
        for device in self.net_devices.iter().flatten() {
            let (from, to) = (&device.host_interface_name, &device.name);
            if from.is_empty() || to.is_empty() {
                return Err(format!("netDevices: {from:?} as {to:?}: hostInterfaceName and name are needed"));
            }
        }
        if let Some(name) = self.intel_rdt.as_ref().and_then(|rdt| rdt.clos_id.as_deref())
            && (matches!(name, "." | "..") || name.len() >= 4096 || name.contains(['/', '\n']))
        {
            return Err(format!("intelRdt: closID {name:?} is not the name of a class"));
        }
        match self.groups().find(|gid| i32::try_from(*gid).is_err()) {
            Some(gid) => Err(format!("additionalGids: {gid} is not in 0…2147483647")),
            None => Ok(()),
        }
    }
}

impl IntelRdt {
    /// Whether it has what came with 1.1.0.
    pub(super) fn is_new(&self) -> bool {
        self.schemata.is_some() || self.enable_monitoring.is_some_and(|wanted| wanted)
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        if !self.path.starts_with('/') || !(self.host_path.is_empty() || self.host_path.starts_with('/')) {
            return Err("path and hostPath must be absolute".into());
        }
        if !matches!(self.kind.as_str(), "" | "b" | "c" | "u" | "p") {
            return Err(format!("type {:?} is none of b, c, u, p", self.kind));
        }
        if self.permissions.contains(|c| !matches!(c, 'r' | 'w' | 'm')) {
            return Err(format!("permissions {:?} are not of r, w, m", self.permissions));
        }
        Ok(())
    }
}

fn environment(entries: &Option<Vec<String>>) -> Result<(), String> {
    match entries.iter().flatten().find(|entry| entry.find('=').unwrap_or(0) == 0 || entry.contains('\0')) {
        Some(entry) => Err(format!("env: {entry:?} is not NAME=VALUE")),
        None => Ok(()),
    }
}

/// The kind and the device of `vendor/class=device`.
pub(super) fn qualified(name: &str) -> Result<(&str, &str), String> {
    let (of_kind, device) = name.split_once('=').ok_or("is not VENDOR/CLASS=DEVICE")?;
    kind(of_kind)?;
    device_name(device)?;
    Ok((of_kind, device))
}

fn kind(text: &str) -> Result<(), String> {
    let (vendor, class) = text.split_once('/').ok_or_else(|| format!("kind {text:?} is not VENDOR/CLASS"))?;
    for (what, part) in [("vendor", vendor), ("class", class)] {
        if !is_name(part, "_-.") || !part.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(format!(
                "{what} {part:?} is not of letters, digits, '_', '-' and '.', beginning with a letter and ending \
                 with a letter or digit"
            ));
        }
    }
    Ok(())
}

fn device_name(text: &str) -> Result<(), String> {
    if is_name(text, "_-.:") {
        return Ok(());
    }
    Err(format!(
        "device name {text:?} is not of letters, digits, '_', '-', '.' and ':', beginning and ending with a letter or digit"
    ))
}

fn is_name(text: &str, also: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(ends) && text.ends_with(ends) && text.chars().all(|c| ends(c) || also.contains(c))
}
