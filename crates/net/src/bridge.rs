//! The bridge, and the names of the links that hang on it.

use std::net::IpAddr;
use std::path::Path;

use crate::link::{self, Link};
use crate::netlink::{Batch, Socket};
use crate::subnet::{Range6, Subnet, fnv1a};
use crate::{Config, Error, Kind, host};

/// IFNAMSIZ without its zero byte.
const LINK_NAME: usize = 15;
const PREFIX: &str = "vq";
/// How many hex digits of the owner go into a link's name.
const DIGITS: usize = 11;
/// What Ethernet carries when nobody says otherwise.
const USUAL_MTU: u32 = 1500;

/// A bridge as it was found or made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    /// For the pods' links.
    pub(crate) mtu: u32,
}

/// Whether this can be a bridge's name and a part of a sysctl's.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = name.len() <= LINK_NAME
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits && !["all", "default", "lo"].contains(&name) && !name.starts_with(PREFIX) {
        return Ok(());
    }
    let message = format!(
        "bridge name {name:?}: must be 1 to {LINK_NAME} letters, digits, '-' and '_', begin with a letter, and not be \
         reserved (all, default, lo, {PREFIX}…)"
    );
    Err(Error::new(Kind::Invalid, message))
}

/// Makes what is missing of the bridge: link, sysctls, addresses, up.
pub(crate) fn ensure(config: &Config, subnet: Subnet, range6: Option<Range6>) -> Result<Bridge, Error> {
    let socket = Socket::route()?;
    let name = config.bridge.as_str();
    let existing = link::find(&socket, name)?;
    if let Some(link) = &existing
        && link.kind != "bridge"
    {
        let message = format!("link {name} exists and is no bridge; configure another bridge name");
        return Err(Error::new(Kind::Exists, message));
    }
    if let Some(link) = &existing {
        refuse_stranger(config, link)?;
    }
    refuse_overlap(&socket, (subnet, range6), existing.as_ref().map(|link| link.index))?;
    let link = match existing {
        Some(link) => link,
        None => create(&socket, config, subnet)?,
    };
    // Before it is up, so that no router advertisement is ever heard.
    match range6 {
        Some(_) => host::own_ipv6(name)?,
        None => host::no_ipv6(name)?,
    }
    let mut batch = Batch::new();
    link::set_alias(&mut batch, name, &bridge_alias(config));
    link::add_address(&mut batch, (name, link.index), subnet.gateway().into(), subnet.prefix());
    link::up(&mut batch, name);
    if let Some(range6) = range6 {
        link::add_address(&mut batch, (name, link.index), range6.gateway().into(), range6.prefix());
    }
    socket.run(&batch)?;
    Ok(Bridge { index: link.index, mtu: config.mtu.unwrap_or(link.mtu) })
}

/// Two networks with leases of their own on one bridge would take each other's pods for leftovers.
#[expect(clippy::disallowed_methods, reason = "a directory of the host, which another node's server gave")]
pub(crate) fn refuse_stranger(config: &Config, link: &Link) -> Result<(), Error> {
    let stranger = !link.alias.is_empty() && link.alias != bridge_alias(config);
    if stranger && Path::new(&link.alias).exists() {
        let message = format!(
            "bridge {} belongs to the network with its leases in {}; give this one another bridge and subnet",
            config.bridge, link.alias
        );
        return Err(Error::new(Kind::Busy, message));
    }
    Ok(())
}

/// What is written on the bridge: the directory of the leases, as far as it fits (IFALIASZ).
fn bridge_alias(config: &Config) -> String {
    const LONGEST: usize = 255;
    let leases = std::path::absolute(&config.leases).unwrap_or_else(|_| config.leases.clone());
    let alias = leases.to_string_lossy();
    alias
        .char_indices()
        .take_while(|(at, char)| at + char.len_utf8() <= LONGEST)
        .map(|(_, char)| char)
        .collect()
}

/// The name of the host's end of the owner's link: `vq` and the first 11 hex digits of the owner, or of its hash when the
/// owner is no such id.
pub(crate) fn link_name(owner: &str) -> String {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    match owner.get(..DIGITS) {
        Some(digits) if digits.bytes().all(hex) => format!("{PREFIX}{digits}"),
        _ => {
            let digits = format!("{:016x}", fnv1a(owner.bytes()));
            format!("{PREFIX}{}", &digits[..DIGITS])
        }
    }
}

/// What is written on the host's end: whose it is, even when the bridge is gone.
pub(crate) fn link_alias(bridge: &str, owner: &str) -> String {
    format!("{bridge}/{owner}")
}

/// The pods' links among all links of the host.
pub(crate) fn ports<'a>(
    links: &'a [Link],
    bridge: &'a str,
    index: Option<u32>,
) -> impl Iterator<Item = &'a Link> {
    links.iter().filter(move |link| {
        let on_bridge = link.master.is_some() && link.master == index;
        link.name.starts_with(PREFIX) && (on_bridge || alias_owner(link, bridge).is_some())
    })
}

/// Whose a link is: by what is written on it, else by its name, if it is that of a known owner.
pub(crate) fn owner(link: &Link, bridge: &str, known: &[&str]) -> Option<String> {
    let by_name = || known.iter().find(|owner| link_name(owner) == link.name).copied();
    alias_owner(link, bridge).or_else(by_name).map(str::to_owned)
}

fn alias_owner<'a>(link: &'a Link, bridge: &str) -> Option<&'a str> {
    link.alias.strip_prefix(bridge)?.strip_prefix('/')
}

fn create(socket: &Socket, config: &Config, subnet: Subnet) -> Result<Link, Error> {
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => outer_mtu(socket)?,
    };
    let mut batch = Batch::new();
    link::create_bridge(&mut batch, &config.bridge, Subnet::mac(subnet.gateway()), mtu);
    socket.run(&batch)?;
    link::find(socket, &config.bridge)?
        .ok_or_else(|| Error::new(Kind::NotFound, format!("bridge {} is gone at once", config.bridge)))
}

/// The MTU of the device with the default route: what pods send goes out there.
fn outer_mtu(socket: &Socket) -> Result<u32, Error> {
    let Some(device) = link::default_device(socket)? else { return Ok(USUAL_MTU) };
    let links = link::list(socket)?;
    Ok(links.iter().find(|link| link.index == device).map_or(USUAL_MTU, |link| link.mtu))
}

/// Refuses a subnet that a device of the host is in already: its hosts would be out of reach. A device in a larger subnet
/// around ours is only told of, since nobody may live in our part of it; but the bridge of another network gives its pods
/// all of its addresses. Once the bridge has its address it keeps it, or a restart would take the network from its pods.
fn refuse_overlap(
    socket: &Socket,
    (subnet, range6): (Subnet, Option<Range6>),
    bridge: Option<u32>,
) -> Result<(), Error> {
    let addresses = link::addresses(socket)?;
    let in_place = |ip: IpAddr| addresses.iter().any(|one| Some(one.index) == bridge && one.ip == ip);
    for address in &addresses {
        let (network, prefix, overlaps, gateway): (IpAddr, _, _, IpAddr) = match (address.ip, range6) {
            (IpAddr::V4(ip), _) => {
                let overlaps = subnet.overlaps(ip, address.prefix);
                (subnet.network().into(), subnet.prefix(), overlaps, subnet.gateway().into())
            }
            (IpAddr::V6(ip), Some(range6)) => {
                let overlaps = range6.overlaps(ip, address.prefix);
                (range6.network().into(), range6.prefix(), overlaps, range6.gateway().into())
            }
            (IpAddr::V6(_), None) => continue,
        };
        if Some(address.index) == bridge || !overlaps {
            continue;
        }
        let links = link::list(socket)?;
        let device = links.iter().find(|link| link.index == address.index);
        let message = format!(
            "subnet {network}/{prefix} of the pods overlaps {}/{} of {}; configure another subnet",
            address.ip,
            address.prefix,
            device.map_or("a device", |link| link.name.as_str()),
        );
        if (address.prefix >= prefix || device.is_some_and(is_network)) && !in_place(gateway) {
            return Err(Error::new(Kind::Exists, message));
        }
        tracing::warn!("{message}");
    }
    Ok(())
}

/// Whether this is the bridge of a network, whose leases it names.
#[expect(clippy::disallowed_methods, reason = "a directory of the host, which another node's server gave")]
fn is_network(link: &Link) -> bool {
    let leases = Path::new(&link.alias);
    link.kind == "bridge" && leases.is_absolute() && leases.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        for name in ["vaquita0", "a", "br-pods_1", "abcdefghijklmno"] {
            check_name(name).unwrap();
        }
        for name in ["", "1x", "a.b", "a/b", "all", "vq0", "abcdefghijklmnop", "ä"] {
            assert_eq!(check_name(name).unwrap_err().kind(), Kind::Invalid, "{name}");
        }
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(link_name(&id), "vq0123456789a");
        for owner in ["x", "ABCDEF012345", "ä", ""] {
            let name = link_name(owner);
            assert_eq!((name.len(), &name[..2]), (13, "vq"), "{owner}");
        }
        assert_ne!(link_name("one"), link_name("two"));
    }

    #[test]
    fn a_link_is_known_by_its_alias_or_its_name() {
        let link = |name: &str, alias: &str, master| Link {
            name: name.to_owned(),
            alias: alias.to_owned(),
            master,
            ..Link::default()
        };
        let links = [
            link("eth0", "", None),
            link("vq1", "br0/web", Some(7)),
            link("vq2", "br0/lost", None),
            link("vq3", "br1/other", Some(8)),
            link(&link_name("young"), "", Some(7)),
            link("vq5", "", Some(7)),
        ];
        let ours: Vec<_> = ports(&links, "br0", Some(7)).collect();
        let owners: Vec<_> = ours.iter().map(|link| owner(link, "br0", &["young"])).collect();
        let expected = ["web", "lost", "young"].map(|owner| Some(owner.to_owned()));
        assert_eq!(owners[..3], expected);
        assert_eq!(owners[3..], [None]);
    }
}
