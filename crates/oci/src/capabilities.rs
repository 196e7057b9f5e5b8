//! Capabilities that cannot be granted. The specification wants a warning of them and a container without them (config.md,
//! "Linux Process"): each case takes rights away only.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxNamespaceType, Process, Spec};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use vaquita_runtime::document;
use vaquita_sys::cap::{self, CapSet, Capability};

use crate::{Error, Host, Kind};

/// The most names in a warning, and the most characters of each: a document may have any.
const MOST: usize = 64;

/// A document, and the names in it that no capability has. It is as it would be without them.
#[derive(Debug)]
pub(crate) struct Document<T> {
    pub(crate) value: T,
    /// What it was made of.
    pub(crate) bytes: Vec<u8>,
    unknown: BTreeSet<String>,
}

impl<T: DeserializeOwned> Document<T> {
    /// Has `parse` read it.
    pub(crate) fn read(
        bytes: Vec<u8>,
        parse: impl Fn(&[u8]) -> Result<T, vaquita_runtime::Error>,
    ) -> Result<Self, Error> {
        let error = match parse(&bytes) {
            Ok(value) => return Ok(Self { value, bytes, unknown: BTreeSet::new() }),
            Err(error) => error,
        };
        match document::without_unknown_capabilities(&bytes) {
            Some((bytes, unknown)) => Ok(Self { value: parse(&bytes)?, bytes, unknown }),
            None => Err(error.into()),
        }
    }

    /// The document, and the names that `limit` takes.
    pub(crate) fn split(self) -> (T, Vec<u8>, BTreeSet<String>) {
        (self.value, self.bytes, self.unknown)
    }
}

/// Takes those out that cannot be granted: what this process does not have itself, unless the container's users are its own
/// (a user namespace has all), and ambient ones that are not also inheritable and permitted (capabilities(7)), as
/// configurations that engines and `runc spec` write have them. `unknown` was taken out before.
pub(crate) fn limit(
    host: &Host,
    process: &mut Process,
    has_own_users: bool,
    mut unknown: BTreeSet<String>,
) -> Result<(), Error> {
    if let Some(sets) = process.capabilities() {
        let mut sets = sets.clone();
        if !has_own_users {
            let lacking = lacking(&sets)?;
            if !lacking.is_empty() {
                without(&mut sets, &lacking);
                unknown.extend(lacking.iter().map(|one| format!("CAP_{one}")));
            }
        }
        limit_ambient(host, &mut sets);
        process.set_capabilities(Some(sets));
    }
    if !unknown.is_empty() {
        let message = format!(
            "process.capabilities: ignoring unknown or unavailable capabilities: [{}]",
            shown(&unknown)
        );
        (host.warn)(&Error::new(Kind::Invalid, message));
    }
    Ok(())
}

/// Whether a container has users of its own, new ones or those of a namespace that it joins.
pub(crate) fn has_own_users(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// Those that this process cannot give, because it does not have them or its bounding set does not.
fn lacking(sets: &LinuxCapabilities) -> Result<Capabilities, Error> {
    let permitted = cap::held().map_err(|errno| Error::kernel("capget", errno))?.permitted;
    let mut lacking = Capabilities::new();
    let all: Capabilities = all_of(sets).into_iter().flatten().flatten().copied().collect();
    for capability in all {
        let known = format!("CAP_{capability}").parse::<Capability>().map(|one| CapSet::default().with(one));
        let has = match known {
            Err(_) => false,
            Ok(one) if !one.difference(permitted).is_empty() => false,
            Ok(one) => match cap::bounded(one) {
                Ok(bounded) => !bounded.is_empty(),
                // Younger than the kernel.
                Err(Errno::INVAL) => false,
                Err(errno) => return Err(Error::kernel("prctl(PR_CAPBSET_READ)", errno)),
            },
        };
        if !has {
            lacking.insert(capability);
        }
    }
    Ok(lacking)
}

fn all_of(sets: &LinuxCapabilities) -> [&Option<Capabilities>; 5] {
    [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()]
}

fn without(sets: &mut LinuxCapabilities, lacking: &Capabilities) {
    let [bounding, effective, permitted, inheritable, ambient] = all_of(sets).map(|set| {
        set.as_ref().map(|set| set.iter().filter(|one| !lacking.contains(one)).copied().collect())
    });
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    sets.set_inheritable(inheritable).set_ambient(ambient);
}

fn limit_ambient(host: &Host, sets: &mut LinuxCapabilities) {
    let empty = Capabilities::new();
    let ambient = sets.ambient().clone().unwrap_or_default();
    let inheritable = sets.inheritable().as_ref().unwrap_or(&empty);
    let permitted = sets.permitted().as_ref().unwrap_or(&empty);
    let (possible, impossible): (Capabilities, Capabilities) =
        ambient.into_iter().partition(|one| inheritable.contains(one) && permitted.contains(one));
    if impossible.is_empty() {
        return;
    }
    let mut names: Vec<String> = impossible.iter().map(ToString::to_string).collect();
    names.sort();
    (host.warn)(&Error::new(
        Kind::Invalid,
        format!(
            "process.capabilities.ambient: {} cannot be ambient without being inheritable and permitted, and is not set",
            names.join(", ")
        ),
    ));
    sets.set_ambient(Some(possible));
}

/// The names as the other runtimes show them.
fn shown(names: &BTreeSet<String>) -> String {
    let plain = |name: &String| -> String {
        name.chars().take(MOST).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
    };
    let mut all: Vec<String> = names.iter().take(MOST).map(plain).collect();
    if names.len() > MOST {
        all.push("...".to_owned());
    }
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_in_order_and_not_without_end() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(shown(&names(&["CAP_B", "CAP_A", "x\n]"])), "CAP_A CAP_B x?]");
        assert_eq!(shown(&names(&[&"x".repeat(1000)])).len(), MOST);
        let many = (0..1000).map(|number| number.to_string()).collect();
        assert!(shown(&many).ends_with(" ..."));
    }
}
