//! What of a network is on the host, for the checker.

use std::net::IpAddr;

use crate::firewall::{Family, wire};
use crate::lease::OnDisk;
use crate::netlink::Socket;
use crate::subnet::{Range6, Subnet};
use crate::{Config, Error, bridge, lease, link};

/// A thing in the kernel or on disk that belongs to a network.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name as the kernel or the file system has it.
    pub name: String,
    /// The owner given to [`crate::Network::attach`]. `None` for what all pods share; for the rest it says that nobody owns
    /// it: an orphan.
    pub owner: Option<String>,
}

/// The kinds of [`Resource`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum ResourceKind {
    /// An address of the bridge. Shared.
    Address,
    /// The bridge. Shared.
    Bridge,
    /// An element of a host port map.
    HostPort,
    /// A file that holds an address.
    Lease,
    /// The host's end of a pod's link, or the device that limits what the pod sends.
    Link,
    /// An nftables table. Shared.
    Table,
}

impl ResourceKind {
    /// Whether it belongs to all pods of the network, so that `owner` is always `None`.
    #[must_use]
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Address | Self::Bridge | Self::Table)
    }
}

/// Everything that `config`'s network has on this host, sorted. Needs no daemon and changes nothing.
///
/// A link stays listed for up to some 60 ms after its pod's namespace is closed, until the kernel has got round to it.
///
/// # Errors
/// What the kernel or file system said.
pub fn inventory(config: &Config) -> Result<Vec<Resource>, Error> {
    Range6::of(config, Subnet::new(config.subnet)?)?;
    let mut found = Vec::new();
    let mut add = |kind, name: String, owner: Option<String>| found.push(Resource { kind, name, owner });
    let leases = lease::read_dir(&config.leases)?;
    for OnDisk { ip, lease } in &leases {
        let owner = lease.as_ref().ok().map(|lease| lease.owner.clone());
        add(ResourceKind::Lease, ip.to_string(), owner);
    }

    let socket = Socket::route()?;
    let links = link::list(&socket)?;
    let bridge = links.iter().find(|link| link.name == config.bridge && link.kind == "bridge");
    if let Some(bridge) = bridge {
        add(ResourceKind::Bridge, bridge.name.clone(), None);
        for address in link::addresses(&socket)? {
            // Of IPv6 the one that the kernel gives each link is not ours.
            let link_local = matches!(address.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            if address.index == bridge.index && !link_local {
                add(ResourceKind::Address, format!("{}/{}", address.ip, address.prefix), None);
            }
        }
    }
    let known = leases.iter().filter_map(|file| Some(file.lease.as_ref().ok()?.owner.as_str()));
    let known: Vec<_> = known.collect();
    for port in bridge::ports(&links, &config.bridge, bridge.map(|bridge| bridge.index)) {
        let owner = bridge::owner(port, &config.bridge, &known);
        add(ResourceKind::Link, port.name.clone(), owner);
    }

    let socket = Socket::netfilter()?;
    for family in Family::BOTH {
        if wire::exists(&socket, family, &config.bridge)? {
            add(ResourceKind::Table, format!("{family} {}", config.bridge), None);
        }
    }
    for element in wire::elements(&socket, &config.bridge)? {
        let owner = Some(element.owner.clone()).filter(|owner| !owner.is_empty());
        add(ResourceKind::HostPort, element.to_string(), owner);
    }
    found.sort();
    Ok(found)
}
