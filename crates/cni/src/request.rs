//! What a plugin is told: its standard input and its environment.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::{Capabilities, Error, List, Plugin, Result};

/// The operations of CNI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Command {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// What is the same for all plugins of an operation on one attachment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) container_id: String,
    pub(crate) interface: String,
    /// Empty where there is none any more.
    pub(crate) netns: PathBuf,
    /// The value of `CNI_ARGS`.
    pub(crate) args: String,
}

/// The configuration of one plugin as it is executed: its own, with the name and the version of the list, with the values of
/// those capabilities that it asks for, and with the result so far.
///
/// `capabilities` stays in it, as libcni leaves it: plugins that call others look at it.
pub(crate) fn document(
    list: &List,
    plugin: &Plugin,
    capabilities: &Capabilities,
    previous: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let mut document = bare(list, plugin);
    let wanted: Map<String, Value> = capabilities
        .iter()
        .filter(|(name, _)| plugin.has(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !wanted.is_empty() {
        document.insert("runtimeConfig".into(), wanted.into());
    }
    if let Some(previous) = previous {
        document.insert("prevResult".into(), previous.clone().into());
    }
    document
}

/// The configuration of one plugin for an operation on the whole network.
pub(crate) fn bare(list: &List, plugin: &Plugin) -> Map<String, Value> {
    let mut document = plugin.document().clone();
    document.insert("cniVersion".into(), list.version().to_string().into());
    document.insert("name".into(), list.name().into());
    document
}

/// The configuration for GC: what is not in `valid` may be freed. Under the two names that were specified for it.
pub(crate) fn collection(list: &List, plugin: &Plugin, valid: &[(String, String)]) -> Map<String, Value> {
    let valid: Vec<Value> =
        valid.iter().map(|(id, interface)| json!({"containerID": id, "ifname": interface})).collect();
    let mut document = bare(list, plugin);
    document.insert("cni.dev/valid-attachments".into(), valid.clone().into());
    document.insert("cni.dev/attachments".into(), valid.into());
    document
}

/// `CNI_ARGS`: `A=1;B=2`.
pub(crate) fn args(pairs: &[(String, String)]) -> Result<String> {
    let mut text = String::new();
    for (key, value) in pairs {
        let fits = |word: &str| !word.contains(|c: char| c == ';' || c == '=' || c.is_control());
        if key.is_empty() || !fits(key) || !fits(value) {
            return Err(Error::invalid(format!(
                "the argument {key:?}={value:?} cannot be given to plugins: \";\", \"=\" and control characters have no place in it"
            )));
        }
        if !text.is_empty() {
            text.push(';');
        }
        text.push_str(&format!("{key}={value}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_told_what_it_asked_for_and_no_more() {
        let list = List::parse(
            br#"{"cniVersion": "1.1.0", "name": "net", "plugins": [
                {"type": "portmap", "name": "own", "cniVersion": "0.1.0", "x": 1,
                 "capabilities": {"portMappings": true, "mac": false, "dns": true}}]}"#,
        )
        .unwrap();
        let mut capabilities = Capabilities::default();
        capabilities.mac([0; 6]);
        capabilities.set("portMappings", json!([1]));
        capabilities.set("unasked", json!(1));
        let previous = json!({"cniVersion": "1.1.0", "ips": []});
        let plugin = &list.plugins()[0];
        let told = document(&list, plugin, &capabilities, previous.as_object());
        assert_eq!(
            Value::Object(told),
            json!({
                "type": "portmap", "name": "net", "cniVersion": "1.1.0", "x": 1,
                "capabilities": {"portMappings": true, "mac": false, "dns": true},
                "runtimeConfig": {"portMappings": [1]},
                "prevResult": {"cniVersion": "1.1.0", "ips": []},
            })
        );
        let nothing = document(&list, plugin, &Capabilities::default(), None);
        assert!(!nothing.contains_key("runtimeConfig") && !nothing.contains_key("prevResult"));
        let gc = collection(&list, plugin, &[("a".into(), "eth0".into())]);
        assert_eq!(gc["cni.dev/valid-attachments"], json!([{"containerID": "a", "ifname": "eth0"}]));
        assert_eq!(collection(&list, plugin, &[])["cni.dev/valid-attachments"], json!([]));
    }

    #[test]
    fn arguments_cannot_smuggle_others() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(args(&[pair("A", "1"), pair("B", "")]).unwrap(), "A=1;B=");
        assert_eq!(args(&[]).unwrap(), "");
        for (key, value) in [("A", "1;B=2"), ("A", "x=y"), ("A", "\n"), ("", "1"), ("A;B", "1")] {
            assert!(args(&[pair(key, value)]).is_err(), "{key} {value}");
        }
    }
}
