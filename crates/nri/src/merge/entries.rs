//! Properties with several entries, each of which has a name: lists and maps.

use std::collections::{BTreeMap, BTreeSet};

use super::owners::Claims;
use crate::api::{Field, KeyValue, LinuxDevice, LinuxNamespace, Mount};
use crate::{Error, Kind, Result};

/// Before the name of an entry that is to be removed.
const MARK: char = '-';

/// What a removal says about whose the entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Removal {
    /// It takes an entry away from the plugin that set it; another may set one nobody had.
    Frees,
    /// It is a wish as any other.
    Claims,
}

/// An entry of a list.
pub(super) trait Entry: Clone {
    fn name(&self) -> &str;

    /// One that asks for the removal of `name`.
    fn removal(name: String) -> Self;
}

impl Entry for Mount {
    fn name(&self) -> &str {
        &self.destination
    }

    fn removal(destination: String) -> Self {
        Self { destination, ..Self::default() }
    }
}

impl Entry for KeyValue {
    fn name(&self) -> &str {
        &self.key
    }

    fn removal(key: String) -> Self {
        Self { key, ..Self::default() }
    }
}

impl Entry for LinuxDevice {
    fn name(&self) -> &str {
        &self.path
    }

    fn removal(path: String) -> Self {
        Self { path, ..Self::default() }
    }
}

impl Entry for LinuxNamespace {
    fn name(&self) -> &str {
        &self.r#type
    }

    fn removal(name: String) -> Self {
        Self { r#type: name, ..Self::default() }
    }
}

/// Adds what a plugin wants of a list to what others want of it, and to what the next one is shown.
pub(super) fn merge_list<T: Entry>(
    claims: &mut Claims<'_>,
    field: Field,
    removal: Removal,
    wishes: Vec<T>,
    to: &mut Vec<T>,
    seen: &mut Vec<T>,
) -> Result<()> {
    let changed = names(&wishes);
    let added = merge(claims, field, removal, wishes, to)?;
    seen.retain(|entry| !changed.contains(entry.name()));
    seen.extend(added);
    Ok(())
}

/// The same for variables, which are shown as `NAME=value`.
pub(super) fn merge_env(
    claims: &mut Claims<'_>,
    wishes: Vec<KeyValue>,
    to: &mut Vec<KeyValue>,
    seen: &mut Vec<String>,
) -> Result<()> {
    if let Some(wish) = wishes.iter().find(|wish| wish.key.contains('=')) {
        let message = format!("plugin {} wants a variable with the name {:?}", claims.plugin(), wish.key);
        return Err(Error::new(Kind::Plugin, message));
    }
    let changed = names(&wishes);
    let added = merge(claims, Field::Env, Removal::Frees, wishes, to)?;
    seen.retain(|variable| !changed.contains(variable.split('=').next().unwrap_or_default()));
    seen.extend(added.into_iter().map(|KeyValue { key, value }| format!("{key}={value}")));
    Ok(())
}

/// The same for a map, where the removed name is a key.
pub(super) fn merge_map<V: Clone + Default>(
    claims: &mut Claims<'_>,
    field: Field,
    wishes: BTreeMap<String, V>,
    to: &mut BTreeMap<String, V>,
    seen: &mut BTreeMap<String, V>,
) -> Result<()> {
    for name in wishes.keys().filter_map(|key| key.strip_prefix(MARK)) {
        claims.check_name(field, name)?;
        if claims.is_owned(field, name) {
            claims.clear(field, name);
        }
        to.remove(name);
        seen.remove(name);
        if !wishes.contains_key(name) {
            to.insert(format!("{MARK}{name}"), V::default());
        }
    }
    for (name, value) in wishes.into_iter().filter(|(key, _)| !key.starts_with(MARK)) {
        claims.claim_entry(field, &name)?;
        seen.insert(name.clone(), value.clone());
        to.insert(name, value);
    }
    Ok(())
}

/// Returns what was added.
fn merge<T: Entry>(
    claims: &mut Claims<'_>,
    field: Field,
    removal: Removal,
    wishes: Vec<T>,
    to: &mut Vec<T>,
) -> Result<Vec<T>> {
    let (removed, added): (Vec<T>, Vec<T>) =
        wishes.into_iter().partition(|wish| wish.name().starts_with(MARK));
    let removed: BTreeSet<&str> = removed.iter().map(|wish| &wish.name()[1..]).collect();
    for name in &removed {
        claims.check_name(field, name)?;
        match removal {
            Removal::Claims => claims.claim(field, name)?,
            Removal::Frees if claims.is_owned(field, name) => claims.clear(field, name),
            Removal::Frees => {}
        }
    }
    for wish in &added {
        claims.claim_entry(field, wish.name())?;
    }
    to.retain(|entry| !removed.contains(bare(entry.name())));
    let kept: BTreeSet<&str> = added.iter().map(T::name).collect();
    to.extend(
        removed.iter().filter(|name| !kept.contains(**name)).map(|name| T::removal(format!("{MARK}{name}"))),
    );
    to.extend(added.iter().cloned());
    Ok(added)
}

/// The names of entries that are set or removed.
fn names<T: Entry>(wishes: &[T]) -> BTreeSet<String> {
    wishes.iter().map(|wish| bare(wish.name()).to_owned()).collect()
}

fn bare(name: &str) -> &str {
    name.strip_prefix(MARK).unwrap_or(name)
}
