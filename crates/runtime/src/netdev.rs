//! Links of the host that are moved into a container's network namespace (runtime-spec, config-linux.md, "Network Devices").
//!
//! The kernel keeps a link's hardware address and MTU when it is moved, but takes its addresses away; those of global scope
//! that were set by hand are given back, and the link is set up. When the namespace ends, the kernel gives physical links
//! back to the host and removes the others.

mod route;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use oci_spec::runtime::Linux;
use rustix::io::Errno;
use rustix::process::Pid;
use vaquita_sys::{netlink, ns};

use self::route::Route;
use crate::Error;

/// A link to move.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NetDevice {
    /// Its name on the host.
    pub(crate) host: String,
    /// Its name in the container; with `%d` the kernel finds a number.
    pub(crate) container: String,
}

impl NetDevice {
    /// Those that the specification asks for, by name.
    pub(crate) fn list(linux: &Linux, has_netns: bool) -> Result<Vec<Self>, Error> {
        let asked = linux.net_devices().iter().flatten();
        let mut devices = Vec::new();
        let mut names = BTreeSet::new();
        for (host, device) in asked {
            let container = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host);
            check(host, host, false)?;
            check(host, container, true)?;
            if !container.contains('%') && !names.insert(container) {
                return Err(Error::invalid(format!(
                    "linux.netDevices: two devices are to be {container:?} in the container"
                )));
            }
            devices.push(Self { host: host.clone(), container: container.to_owned() });
        }
        if !devices.is_empty() && !has_netns {
            return Err(Error::invalid("linux.netDevices: the container has the host's network namespace"));
        }
        devices.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(devices)
    }
}

/// Moves the links into the network namespace of the process.
///
/// Nothing is moved when a link is not there or a name is taken.
pub(crate) fn move_all(devices: &[NetDevice], pid: Pid) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let netns = ns::open(Some(pid), ns::Kind::Net)?;
    if ns::identity(&netns)? == ns::identity(ns::open(None, ns::Kind::Net)?)? {
        return Err(Error::invalid("linux.netDevices: the container's network namespace is this one"));
    }
    let mut host = Route::new(netlink::socket(None)?);
    let mut container = Route::new(ns::in_netns(&netns, || netlink::socket(None))??);

    let here = host.links()?;
    let taken = container.links()?;
    let mut indices = Vec::new();
    for device in devices {
        let fail = |errno| Error::kernel(shown(device), errno);
        let Some(link) = here.iter().find(|link| link.name == device.host) else {
            return Err(fail(Errno::NODEV));
        };
        if taken.iter().any(|link| link.name == device.container) {
            return Err(fail(Errno::EXIST));
        }
        indices.push(link.index);
    }
    for (device, index) in devices.iter().zip(indices) {
        move_one(&mut host, &mut container, (device, index), &netns)
            .map_err(|(call, errno)| Error::kernel(format!("{}: {call}", shown(device)), errno))?;
    }
    Ok(())
}

fn move_one(
    host: &mut Route,
    container: &mut Route,
    (device, index): (&NetDevice, i32),
    netns: &OwnedFd,
) -> Result<(), (&'static str, Errno)> {
    let addresses = host.addresses(index).map_err(|errno| ("RTM_GETADDR", errno))?;
    let list = |route: &mut Route| route.links().map_err(|_| ("RTM_GETLINK", Errno::IO));
    let before = list(container)?;
    host.move_link(index, &device.container, netns)
        .map_err(|errno| ("RTM_NEWLINK (IFLA_NET_NS_FD)", errno))?;
    // Its number may be another one there, and its name was perhaps the kernel's to find.
    let after = list(container)?;
    let is_new = |link: &&route::Link| !before.iter().any(|other| other.index == link.index);
    let Some(moved) = after.iter().find(is_new) else { return Err(("RTM_GETLINK", Errno::NODEV)) };
    container.set_up(moved.index).map_err(|errno| ("RTM_NEWLINK (IFF_UP)", errno))?;
    for address in &addresses {
        container.add(moved.index, address).map_err(|errno| ("RTM_NEWADDR", errno))?;
    }
    Ok(())
}

fn shown(device: &NetDevice) -> String {
    format!("linux.netDevices: moving {:?} into the container as {:?}", device.host, device.container)
}

/// What the kernel takes as a name (`dev_valid_name`), which `%` would make a template.
fn check(device: &str, name: &str, may_be_template: bool) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::invalid(format!("linux.netDevices.{device:?}: {name:?} {why}")));
    if name.is_empty() || name.len() > 15 || [".", ".."].contains(&name) {
        return refuse("is no name of a link: 1 to 15 bytes");
    }
    if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return refuse("is no name of a link: it has a character that the kernel does not take");
    }
    let rest = if may_be_template { name.replacen("%d", "", 1) } else { name.to_owned() };
    if rest.contains('%') {
        return refuse("has a % that is not the one of a single %d");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str) -> Result<Vec<NetDevice>, Error> {
        let mut linux = Linux::default();
        linux.set_net_devices(serde_json::from_str(json).unwrap());
        NetDevice::list(&linux, true)
    }

    #[test]
    fn names() {
        let devices = list(r#"{"b":{"name":"eth%d"},"a":{}}"#).unwrap();
        let shown: Vec<_> = devices.iter().map(|device| (&*device.host, &*device.container)).collect();
        assert_eq!(shown, [("a", "a"), ("b", "eth%d")]);
        for bad in [
            r#"{"a":{"name":"x/y"}}"#,
            r#"{"a":{"name":"x y"}}"#,
            r#"{"a":{"name":".."}}"#,
            r#"{"a":{"name":"%d%d"}}"#,
            r#"{"a":{"name":"%s"}}"#,
            r#"{"a":{"name":"0123456789abcdef"}}"#,
            r#"{"a%d":{"name":"x"}}"#,
            r#"{"":{"name":"x"}}"#,
            r#"{"a":{"name":"x"},"b":{"name":"x"}}"#,
        ] {
            let error = list(bad).unwrap_err().to_string();
            assert!(error.starts_with("linux.netDevices"), "{error}");
        }
        let mut linux = Linux::default();
        linux.set_net_devices(serde_json::from_str(r#"{"a":{}}"#).unwrap());
        assert!(NetDevice::list(&linux, false).is_err());
    }
}
