//! A network configuration list: which plugins run, in which order, with which configuration.

use serde_json::{Map, Value, json};

use crate::{Error, Kind, Result, Version};

mod names;

pub(crate) use names::{check_component, check_id, check_interface, check_network};

/// The most plugins that one list may have; real ones have three or four.
const PLUGINS: usize = 64;

/// A network as the administrator has configured it.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    name: String,
    version: Version,
    check_is_disabled: bool,
    gc_is_disabled: bool,
    only_inlined: bool,
    plugins: Vec<Plugin>,
}

/// One plugin of a list, with its own configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    program: String,
    document: Map<String, Value>,
}

impl List {
    /// Reads a configuration list, the contents of a `*.conflist`.
    ///
    /// Without `cniVersions` the version is `cniVersion`; with it, the highest of both that this crate speaks. The plugins may be
    /// missing where others are to be loaded beside the list.
    ///
    /// # Errors
    /// [`Kind::Invalid`] says what is wrong; [`Kind::Unsupported`] for a version that this crate does not speak.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let document = object(bytes)?;
        let name = match document.get("name") {
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err(Error::invalid("name: must be a text")),
            None => return Err(Error::invalid("name: is missing")),
        };
        check_network(&name)?;
        let only_inlined = flag(&document, "loadOnlyInlinedPlugins")?;
        let plugins = match document.get("plugins") {
            Some(Value::Array(plugins)) => {
                plugins.iter().map(Plugin::from_value).collect::<Result<Vec<_>>>()?
            }
            Some(_) => return Err(Error::invalid("plugins: must be a list")),
            None if only_inlined => {
                return Err(Error::invalid("plugins: is missing, and loadOnlyInlinedPlugins is set"));
            }
            None => Vec::new(),
        };
        let list = Self {
            name,
            version: version(&document)?,
            check_is_disabled: flag(&document, "disableCheck")?,
            gc_is_disabled: flag(&document, "disableGC")?,
            only_inlined,
            plugins: Vec::new(),
        };
        list.with(plugins)
    }

    /// Reads the configuration of a single plugin, the contents of a `*.conf` or `*.json`: a list of one.
    ///
    /// # Errors
    /// As [`List::parse`].
    pub fn parse_single(bytes: &[u8]) -> Result<Self> {
        let document = object(bytes)?;
        if document.contains_key("plugins") {
            return Err(Error::invalid("plugins: a list belongs in a file whose name ends in .conflist"));
        }
        let head = |key: &str| document.get(key).cloned();
        let list = json!({
            "name": head("name").ok_or_else(|| Error::invalid("name: is missing"))?,
            "cniVersion": head("cniVersion"),
            "loadOnlyInlinedPlugins": true,
            "plugins": [document],
        });
        Self::parse(list.to_string().as_bytes())
    }

    /// The same with more plugins at the end.
    pub(crate) fn with(mut self, more: Vec<Plugin>) -> Result<Self> {
        self.plugins.extend(more);
        if self.plugins.len() > PLUGINS {
            return Err(Error::invalid(format!("plugins: there are more than {PLUGINS}")));
        }
        Ok(self)
    }

    /// The name of the network, in which plugins keep what they know.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that requests are written in.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The plugins, in the order of ADD.
    #[must_use]
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// Whether CHECK may be asked: the version has it, and it is not disabled.
    #[must_use]
    pub fn has_check(&self) -> bool {
        self.version >= Version::CHECK && !self.check_is_disabled
    }

    /// Whether GC may be asked: the version has it, and it is not disabled.
    #[must_use]
    pub fn has_gc(&self) -> bool {
        self.has_status() && !self.gc_is_disabled
    }

    /// Whether STATUS may be asked: the version has it.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.version >= Version::NEWEST
    }

    /// Whether the plugins in the directory of the network's name are left out.
    pub(crate) fn has_only_inlined(&self) -> bool {
        self.only_inlined
    }

    /// The list as one document, complete: [`List::parse`] of it gives the same list.
    pub(crate) fn to_value(&self) -> Value {
        let plugins: Vec<_> =
            self.plugins.iter().map(|plugin| Value::Object(plugin.document.clone())).collect();
        json!({
            "name": self.name,
            "cniVersion": self.version.to_string(),
            "disableCheck": self.check_is_disabled,
            "disableGC": self.gc_is_disabled,
            "loadOnlyInlinedPlugins": self.only_inlined,
            "plugins": plugins,
        })
    }
}

impl Plugin {
    /// Reads the configuration of one plugin.
    ///
    /// # Errors
    /// [`Kind::Invalid`], also for a type that is not the name of a file in a directory: it would run a program elsewhere
    /// (CVE-2021-20206).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::from_value(&Value::Object(object(bytes)?))
    }

    fn from_value(value: &Value) -> Result<Self> {
        let document = value.as_object().ok_or_else(|| Error::invalid("plugins: each must be an object"))?;
        let Some(Value::String(program)) = document.get("type") else {
            return Err(Error::invalid("type: is missing: it names the program of the plugin"));
        };
        check_component("type", program)?;
        match document.get("capabilities") {
            None | Some(Value::Null | Value::Object(_)) => {}
            Some(_) => {
                return Err(Error::invalid(format!(
                    "capabilities of {program}: must be an object of booleans"
                )));
            }
        }
        Ok(Self { program: program.clone(), document: document.clone() })
    }

    /// The name of its program, one path component: its `type`.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Its configuration as it was written.
    pub(crate) fn document(&self) -> &Map<String, Value> {
        &self.document
    }

    /// Whether it asks for this capability.
    pub(crate) fn has(&self, capability: &str) -> bool {
        self.document.get("capabilities").and_then(|all| all.get(capability)) == Some(&Value::Bool(true))
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::invalid("is not a JSON object")),
        Err(error) => Err(Error::invalid(format!("is not JSON: {error}"))),
    }
}

/// `true`, or, as libcni reads it, the text "true".
fn flag(document: &Map<String, Value>, key: &str) -> Result<bool> {
    match document.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Error::invalid(format!("{key}: must be true or false"))),
    }
}

fn version(document: &Map<String, Value>) -> Result<Version> {
    let parse = |value: &Value, key: &str| {
        let text = value.as_str().ok_or_else(|| Error::invalid(format!("{key}: must be text")))?;
        text.parse::<Version>().map_err(|error| error.within(key))
    };
    let one = match document.get("cniVersion") {
        None | Some(Value::Null) => None,
        Some(value) => Some(parse(value, "cniVersion")?),
    };
    let several = match document.get("cniVersions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(all)) => {
            all.iter().map(|value| parse(value, "cniVersions")).collect::<Result<Vec<_>>>()?
        }
        Some(_) => return Err(Error::invalid("cniVersions: must be a list")),
    };
    let spoken = one.into_iter().chain(several).filter(|version| version.is_spoken()).max();
    spoken.ok_or_else(|| {
        let asked = match (one, document.contains_key("cniVersions")) {
            (_, true) => "cniVersions: none of them".to_owned(),
            (Some(one), false) => format!("cniVersion {one}"),
            // What its absence means in libcni.
            (None, false) => "cniVersion: its absence means 0.1.0, which".to_owned(),
        };
        Error::new(
            Kind::Unsupported,
            format!("{asked} is spoken here; that is {} to {}", Version::OLDEST, Version::NEWEST),
        )
    })
}

#[cfg(test)]
mod tests;
