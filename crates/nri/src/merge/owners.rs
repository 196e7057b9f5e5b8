//! Whose a property is.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{Field, FieldOwners, OwningPlugins};
use crate::{Error, Kind, Result};

/// The properties of containers that plugins have set, and which plugin each belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    /// By container, property, and name of the entry (none for a property that has one value).
    owners: BTreeMap<(String, Field, String), Owner>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Owner {
    plugin: String,
    /// It has only said that another one's wish shall not be: it may set the property, nobody else.
    has_cleared: bool,
}

/// One plugin's way of claiming properties of one container.
#[derive(Debug)]
pub(crate) struct Claims<'a> {
    owners: &'a mut Owners,
    container: &'a str,
    plugin: &'a str,
}

impl Owners {
    pub(crate) fn of<'a>(&'a mut self, container: &'a str, plugin: &'a str) -> Claims<'a> {
        Claims { owners: self, container, plugin }
    }

    /// As plugins are told.
    pub(crate) fn to_message(&self) -> OwningPlugins {
        let mut message = OwningPlugins::default();
        for ((container, field, entry), owner) in &self.owners {
            let fields: &mut FieldOwners = message.owners.entry(container.clone()).or_default();
            let mark = if owner.has_cleared { "-" } else { "" };
            let plugin = format!("{mark}{}", owner.plugin);
            match entry.is_empty() {
                true => fields.simple.insert(*field as i32, plugin),
                false => {
                    fields.compound.entry(*field as i32).or_default().owners.insert(entry.clone(), plugin)
                }
            };
        }
        message
    }
}

impl Claims<'_> {
    /// Who asks.
    pub(super) fn plugin(&self) -> &str {
        self.plugin
    }

    /// The property is this plugin's from now on.
    ///
    /// # Errors
    /// `Conflict` if it belongs to one already.
    pub(super) fn claim(&mut self, field: Field, entry: &str) -> Result<()> {
        self.check(field, entry)?;
        self.own(field, entry, false);
        Ok(())
    }

    /// The same for an entry, which has a name.
    ///
    /// # Errors
    /// `Plugin` where it has none, too.
    pub(super) fn claim_entry(&mut self, field: Field, name: &str) -> Result<()> {
        self.check_name(field, name)?;
        self.claim(field, name)
    }

    /// All of these or none.
    ///
    /// # Errors
    /// `Conflict`
    pub(super) fn claim_all(&mut self, fields: &[(Field, &str)]) -> Result<()> {
        let mut before = BTreeSet::new();
        for (field, entry) in fields {
            self.check(*field, entry)?;
            if !before.insert((field, entry)) {
                return Err(self.conflict(self.plugin, *field, entry));
            }
        }
        fields.iter().for_each(|(field, entry)| self.own(*field, entry, false));
        Ok(())
    }

    /// `Plugin` for an entry without a name.
    pub(super) fn check_name(&self, field: Field, name: &str) -> Result<()> {
        match name.is_empty() {
            true => {
                let (plugin, field) = (self.plugin, field.as_str_name());
                let message = format!("plugin {plugin} wants an entry of {field} that has no name");
                Err(Error::new(Kind::Plugin, message))
            }
            false => Ok(()),
        }
    }

    /// Whoever has set the property, this plugin may set it anew.
    pub(super) fn clear(&mut self, field: Field, entry: &str) {
        self.own(field, entry, true);
    }

    /// Whether the property belongs to a plugin.
    pub(super) fn is_owned(&self, field: Field, entry: &str) -> bool {
        self.owners.owners.contains_key(&self.key(field, entry))
    }

    /// The property is this plugin's as well.
    pub(super) fn share(&mut self, field: Field) {
        let key = self.key(field, "");
        let plugin = match self.owners.owners.get(&key) {
            Some(owner) => format!("{},{}", owner.plugin, self.plugin),
            None => self.plugin.to_owned(),
        };
        self.owners.owners.insert(key, Owner { plugin, has_cleared: false });
    }

    fn check(&self, field: Field, entry: &str) -> Result<()> {
        match self.owners.owners.get(&self.key(field, entry)) {
            Some(owner) if !(owner.has_cleared && owner.plugin == self.plugin) => {
                Err(self.conflict(&owner.plugin, field, entry))
            }
            _ => Ok(()),
        }
    }

    fn conflict(&self, other: &str, field: Field, entry: &str) -> Error {
        let (plugin, name) = (self.plugin, field.as_str_name());
        let what = if entry.is_empty() { name.to_owned() } else { format!("{name} {entry}") };
        let message = format!("plugins {other} and {plugin} both set {what} of container {}", self.container);
        Error::new(Kind::Conflict, message)
    }

    fn own(&mut self, field: Field, entry: &str, has_cleared: bool) {
        let owner = Owner { plugin: self.plugin.to_owned(), has_cleared };
        self.owners.owners.insert(self.key(field, entry), owner);
    }

    fn key(&self, field: Field, entry: &str) -> (String, Field, String) {
        (self.container.to_owned(), field, entry.to_owned())
    }
}
