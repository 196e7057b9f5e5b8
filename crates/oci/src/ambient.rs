//! Ambient capabilities that cannot be.

use oci_spec::runtime::{Capabilities, Process};

use crate::{Error, Host, Kind};

/// Takes those out that are not also inheritable and permitted: no kernel can give them (capabilities(7)), and
/// configurations that engines and `runc spec` write have them. That is told, and takes rights away only.
pub(crate) fn limit(host: &Host, process: &mut Process) {
    let Some(mut sets) = process.capabilities().clone() else { return };
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
    process.set_capabilities(Some(sets));
}
