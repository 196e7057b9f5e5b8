//! `update`: other limits for a container.

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value};
use vaquita_cgroup::{DeviceRule, Layout, Resources};
use vaquita_runtime::{Context, Plan, document};

use crate::state::CONFIG;
use crate::{Container, Error, Host, Id, Kind, Status};

/// What is changed of a container.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Limits: a JSON object as `linux.resources` of the specification, or null. A limit of 0 stays as it is, as with runc;
    /// rules for devices replace those that there are.
    pub resources: Value,
    /// `linux.intelRdt.l3CacheSchema`.
    pub l3_cache_schema: Option<String>,
    /// `linux.intelRdt.memBwSchema`.
    pub mem_bw_schema: Option<String>,
}

/// Changes the limits of a container.
///
/// # Errors
/// [`Kind::NotRunning`] for a container that has stopped; [`Kind::Invalid`] for what is no resource;
/// [`Kind::Unsupported`] for schemas on a host without resctrl; those of the kernel.
pub fn update(host: &Host, id: &Id, how: &Update) -> Result<(), Error> {
    let container = Container::lock(host, id)?;
    if container.progress()? == Status::Stopped {
        return Err(Error::new(Kind::NotRunning, "container not running: it has no limits to change"));
    }
    let mut config: Value = container
        .directory
        .read(CONFIG)?
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Error::new(Kind::Other, "the container's config.json is gone"))?;
    // First: what this host may lack altogether.
    schemas(&container, how, &mut config)?;
    if how.resources.is_null() {
        return Ok(());
    }
    let changes = without_zeros(&how.resources);
    let before = config.pointer("/linux/resources").cloned().unwrap_or_default();
    let mut resources = resources(&with_partners(&changes, &before))?;
    let devices = changes.get("devices").filter(|list| list.as_array().is_none_or(|list| !list.is_empty()));
    let has_new_devices = devices.is_some_and(|list| before.get("devices") != Some(list));

    // What is changed next is seen against this.
    if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
        let now = linux.entry("resources").or_insert_with(|| Value::Object(Map::new()));
        merge(now, &changes);
    }
    if has_new_devices {
        resources.devices = Some(device_rules(&container, &config)?);
    }
    container.record.cgroup.update(&Layout::detect()?, &resources)?;
    container.directory.replace(CONFIG, config.to_string().as_bytes())
}

/// Caches and memory bandwidth. Written down at once: a class that was made is removed with the container.
fn schemas(container: &Container, how: &Update, config: &mut Value) -> Result<(), Error> {
    let given = [("l3CacheSchema", &how.l3_cache_schema), ("memBwSchema", &how.mem_bw_schema)];
    let change: Map<String, Value> = given
        .into_iter()
        .filter_map(|(field, schema)| Some((field.to_owned(), Value::String(schema.clone()?))))
        .filter(|(_, schema)| schema != "")
        .collect();
    if change.is_empty() {
        return Ok(());
    }
    let change = Value::Object(change);
    let asked = document::parse("schemas", change.to_string().as_bytes())?;
    let tasks = tasks(&container.processes()?);
    vaquita_runtime::resctrl::update(&container.spec()?, container.id().as_str(), &asked, &tasks)?;
    if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
        merge(linux.entry("intelRdt").or_insert_with(|| Value::Object(Map::new())), &change);
    }
    container.directory.replace(CONFIG, config.to_string().as_bytes())
}

/// The threads of these processes: each is in a class of its own choice.
#[expect(clippy::disallowed_methods, reason = "the host's own /proc")]
fn tasks(pids: &[i32]) -> Vec<i32> {
    let threads = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok());
    threads.flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn resources(changes: &Value) -> Result<Resources, Error> {
    let text = changes.to_string();
    let resources: LinuxResources = document::parse("resources", text.as_bytes())?;
    Ok(Resources { devices: None, ..Resources::from(&resources) })
}

/// With what every container may use besides.
fn device_rules(container: &Container, config: &Value) -> Result<Vec<DeviceRule>, Error> {
    let mut spec = document::parse_spec(CONFIG, config.to_string().as_bytes())?;
    container.record.complete(&mut spec);
    let context = Context {
        bundle: container.record.bundle.clone(),
        id: Some(container.id().to_string()),
        passes_listeners: true,
        ..Context::default()
    };
    Ok(Plan::new(&spec, &context)?.device_rules().to_vec())
}

/// Numbers that runc takes for "not given".
fn without_zeros(changes: &Value) -> Value {
    let mut changes = changes.clone();
    for (section, keys) in [
        ("memory", &["limit", "reservation", "swap", "kernel", "kernelTCP"][..]),
        ("cpu", &["shares", "quota", "period", "realtimeRuntime", "realtimePeriod"]),
        ("blockIO", &["weight", "leafWeight"]),
    ] {
        if let Some(section) = changes.get_mut(section).and_then(Value::as_object_mut) {
            section.retain(|key, value| !(keys.contains(&key.as_str()) && value.as_i64() == Some(0)));
        }
    }
    if let Some(cpu) = changes.get_mut("cpu").and_then(Value::as_object_mut) {
        cpu.retain(|_, value| value.as_str() != Some(""));
    }
    changes
}

/// Limits that the kernel sees together: one that is not changed is given as it is.
fn with_partners(changes: &Value, before: &Value) -> Value {
    let mut all = changes.clone();
    for (section, partners) in [("memory", &["limit", "swap"][..]), ("cpu", &["quota", "period"])] {
        let Some(changed) = all.get_mut(section).and_then(Value::as_object_mut) else { continue };
        if !partners.iter().any(|key| changed.contains_key(*key)) {
            continue;
        }
        for key in partners {
            let old = before.get(section).and_then(|section| section.get(*key));
            if let Some(old) = old.filter(|old| !old.is_null() && !changed.contains_key(*key)) {
                changed.insert((*key).to_owned(), old.clone());
            }
        }
    }
    // An unlimited memory leaves nothing that swap could be counted with.
    if let Some(memory) = all.get_mut("memory").and_then(Value::as_object_mut) {
        let given = changes.get("memory").is_some_and(|memory| memory.get("swap").is_some());
        if memory.get("limit").and_then(Value::as_i64) == Some(-1) && !given {
            memory.remove("swap");
        }
    }
    all
}

fn merge(into: &mut Value, changes: &Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zeros_and_empty_lists_change_nothing() {
        let changes =
            json!({"memory": {"limit": 0, "swap": -1}, "cpu": {"shares": 0, "cpus": "", "idle": 0}});
        assert_eq!(without_zeros(&changes), json!({"memory": {"swap": -1}, "cpu": {"idle": 0}}));
    }

    #[test]
    fn limits_that_belong_together_are_given_together() {
        let before =
            json!({"memory": {"limit": 100, "swap": 200}, "cpu": {"quota": 5, "period": 10, "shares": 2}});
        let all = with_partners(&json!({"memory": {"limit": 150}, "cpu": {"period": 20}}), &before);
        assert_eq!(all, json!({"memory": {"limit": 150, "swap": 200}, "cpu": {"period": 20, "quota": 5}}));
        let all = with_partners(&json!({"memory": {"limit": -1}, "cpu": {"shares": 3}}), &before);
        assert_eq!(all, json!({"memory": {"limit": -1}, "cpu": {"shares": 3}}));
    }

    #[test]
    fn changes_are_kept() {
        let mut now = json!({"memory": {"limit": 1}, "pids": {"limit": 2}});
        merge(&mut now, &json!({"memory": {"swap": 3}, "cpu": {"shares": 4}}));
        assert_eq!(
            now,
            json!({"memory": {"limit": 1, "swap": 3}, "pids": {"limit": 2}, "cpu": {"shares": 4}})
        );
    }
}
