//! What the network sets on the host beside links: sysctls, and entering a pod's namespace.

#![expect(clippy::disallowed_methods, reason = "the host's own /proc/sys")]

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use vaquita_sys::ns;

use crate::{Error, Kind};

/// Turns on forwarding of IPv4 packets on the whole host, without which no pod reaches the outside.
///
/// Every container network does this and none takes it back, since others may have come to rely on it.
pub(crate) fn forward() -> Result<(), Error> {
    if set_sysctl("ipv4/ip_forward", "1")? {
        tracing::info!("net.ipv4.ip_forward was 0; it is 1 now and stays so");
    }
    Ok(())
}

/// Keeps IPv6 off a link, so that no pod can give the host an address or a route by router advertisements
/// (CVE-2020-10749). Does nothing where the kernel has no IPv6.
pub(crate) fn no_ipv6(link: &str) -> Result<(), Error> {
    for name in ["accept_ra", "disable_ipv6"] {
        let value = if name == "accept_ra" { "0" } else { "1" };
        match set_sysctl(&format!("ipv6/conf/{link}/{name}"), value) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            set => set?,
        };
    }
    Ok(())
}

/// Whether this namespace has IPv6, and it is not switched off; the reason if not.
pub(crate) fn has_ipv6() -> Result<(), &'static str> {
    match fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        Ok(text) if text.trim_end() == "0" => Ok(()),
        Ok(_) => Err("net.ipv6.conf.all.disable_ipv6 is set"),
        Err(_) => Err("the kernel has no IPv6"),
    }
}

/// Turns on forwarding of IPv6 packets on the whole host; the kernel looks at no other switch before version 6.17.
///
/// A host that forwards stops to hear router advertisements, and forgets the default route that it has from one, unless it is
/// told to go on: so links that hear them now are told.
pub(crate) fn forward6() -> Result<(), Error> {
    const CONF: &str = "/proc/sys/net/ipv6/conf";
    let read =
        |link: &str, name: &str| fs::read_to_string(format!("{CONF}/{link}/{name}")).unwrap_or_default();
    if read("all", "forwarding").trim_end() == "1" {
        return Ok(());
    }
    let entries = fs::read_dir(CONF).map_err(|error| Error::file(&format!("read {CONF}"), error))?;
    for link in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let hears = read(&link, "accept_ra").trim_end() == "1" && read(&link, "forwarding").trim_end() == "0";
        if ["all", "default", "lo"].contains(&link.as_str()) || !hears {
            continue;
        }
        match set_sysctl(&format!("ipv6/conf/{link}/accept_ra"), "2") {
            Err(error) if error.kind() == Kind::NotFound => {}
            set => {
                set?;
                tracing::info!(
                    "net.ipv6.conf.{link}.accept_ra was 1; it is 2 now, so that forwarding does not end it"
                );
            }
        }
    }
    if set_sysctl("ipv6/conf/all/forwarding", "1")? {
        tracing::info!("net.ipv6.conf.all.forwarding was 0; it is 1 now and stays so");
    }
    Ok(())
}

/// Has a link speak IPv6 with the addresses that it is given, at once: no router advertisement is heard (CVE-2020-10749), and
/// nobody is asked whether an address is taken, since hardware addresses follow from leases.
pub(crate) fn own_ipv6(link: &str) -> Result<(), Error> {
    for (name, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")] {
        set_sysctl(&format!("ipv6/conf/{link}/{name}"), value)?;
    }
    Ok(())
}

/// Lets packets from and to 127.0.0.0/8 be routed over the bridge, or not. Says whether that was a change.
pub(crate) fn route_localnet(bridge: &str, on: bool) -> Result<bool, Error> {
    set_sysctl(&format!("ipv4/conf/{bridge}/route_localnet"), if on { "1" } else { "0" })
}

/// Runs `work` on a fresh thread inside the network namespace; the caller's thread stays where it is.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    ns::in_netns(netns, work)?
}

/// Refuses what would make `eth0` and a default route on the host.
pub(crate) fn is_not_ours(netns: BorrowedFd<'_>) -> Result<(), Error> {
    let own = ns::open(None, ns::Kind::Net)?;
    if ns::identity(own)? == ns::identity(netns)? {
        return Err(Error::new(Kind::Invalid, "the network namespace to attach is the host's own"));
    }
    Ok(())
}

/// Writes a sysctl below `net` of the calling thread's network namespace, if it has another value. Says whether it did.
fn set_sysctl(name: &str, value: &str) -> Result<bool, Error> {
    let path = format!("/proc/sys/net/{name}");
    let failed = |what: &str, error: io::Error| Error::file(&format!("{what} {path}"), error);
    let before = fs::read_to_string(&path).map_err(|error| failed("read", error))?;
    if before.trim_end() == value {
        return Ok(false);
    }
    fs::write(&path, value).map_err(|error| failed(&format!("write {value} to"), error))?;
    Ok(true)
}
