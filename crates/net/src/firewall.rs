//! What the network wants of nftables, as data. Nothing here talks to the kernel.
//!
//! One table, `ip <bridge>`:
//!
//! * `ports` and `ports_at` map (protocol, host port) and (host address, protocol, host port) to a pod's address and
//!   port. A pod's host ports are elements: adding and removing one is one small message, and their number costs
//!   packets nothing.
//! * `prerouting` and `output` send what is addressed to the host itself (`fib daddr type local`, so that no traffic
//!   which only passes through is caught) through the maps.
//! * `postrouting` masquerades what leaves the subnet, what a pod sends to a pod through a host port (the answer
//!   would not come back through us otherwise), and what comes from 127.0.0.1.
//! * `guard` drops what pods send to or from 127.0.0.0/8. The bridge accepts such packets from the network as soon as
//!   host ports answer on 127.0.0.1 (`route_localnet`), which would open the host's loopback services to pods
//!   (CVE-2020-8558). It stands before connection tracking, where answers to the host's own connections still carry the
//!   bridge's address.
//!
//! There is no chain that accepts forwarded packets: where another table's chain drops them, an accept in ours would
//! change nothing, since each chain of a hook has its say. [`crate::Network::obstacles`] tells of such chains.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::subnet::Subnet;
use crate::{PortMapping, Protocol};

pub(crate) mod wire;

/// An IFNAMSIZ field: what the kernel compares interface names in.
const NAME_ROOM: usize = 16;
/// Registers of four bytes (NFT_REG32_00 …): keys are built from here …
const KEY: u32 = 8;
/// … and what a map gives is put here: address, then port.
const VALUE: u32 = 16;
/// `RTN_LOCAL` (linux/rtnetlink.h).
const LOCAL: u32 = 2;
/// `IPS_DST_NAT` (linux/netfilter/nf_conntrack_common.h).
const DESTINATION_CHANGED: u32 = 1 << 5;

/// One request of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    AddChain { name: &'static str, base: Option<Base> },
    AddElement(Element),
    AddMap(Map),
    AddRule { chain: &'static str, exprs: Vec<Expr> },
    AddTable,
    DeleteElement(Element),
    DeleteTable,
}

/// Where a chain hangs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Base {
    pub(crate) kind: &'static str,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

/// The hooks of netfilter, by their numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Output = 3,
    Postrouting = 4,
}

/// The two maps of host ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Map {
    /// On each address of the host.
    Ports,
    /// On one address of the host.
    PortsAt,
}

/// A host port in a map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Element {
    pub(crate) at: Option<Ipv4Addr>,
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    pub(crate) pod: Ipv4Addr,
    pub(crate) pod_port: u16,
    pub(crate) owner: String,
}

/// A step of a rule, as the kernel runs it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Expr {
    /// Goes on if the registers from `from` on equal `value` (or differ, if not `equal`).
    Compare {
        from: u32,
        equal: bool,
        value: Vec<u8>,
    },
    /// Connection tracking status.
    ConnectionStatus {
        to: u32,
    },
    /// Rewrites the destination to address and port in registers.
    DestinationNat {
        address: u32,
        port: u32,
    },
    /// What kind of address the destination is to this host.
    DestinationType {
        to: u32,
    },
    Drop,
    /// Name of the interface the packet came in by, or goes out by.
    InterfaceName {
        outgoing: bool,
        to: u32,
    },
    Jump {
        chain: &'static str,
    },
    LayerFourProtocol {
        to: u32,
    },
    /// Looks registers up in a map; ends the rule when there is no such key.
    Lookup {
        map: Map,
        from: u32,
        to: u32,
    },
    Mask {
        register: u32,
        mask: Vec<u8>,
    },
    /// Rewrites the source to the outgoing interface's address, with a random port, so that two connections that begin at
    /// once do not fight for one.
    Masquerade,
    /// Bytes of the packet.
    Payload {
        base: Header,
        offset: u32,
        length: u32,
        to: u32,
    },
}

/// From where a payload offset counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Header {
    Network = 1,
    Transport = 2,
}

/// Replaces the table by a fresh one with these elements, whatever is there. As one transaction no packet sees a gap.
pub(crate) fn install(
    bridge: &str,
    subnet: Subnet,
    elements: impl IntoIterator<Item = Element>,
) -> Vec<Change> {
    // Adding a table that exists is no error, deleting one that does not is: hence add, delete, add.
    let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
    changes.extend([Change::AddMap(Map::Ports), Change::AddMap(Map::PortsAt)]);
    let base = |kind, hook, priority| Some(Base { kind, hook, priority });
    changes.extend([
        Change::AddChain { name: "guard", base: base("filter", Hook::Prerouting, -300) },
        Change::AddChain { name: "hostports", base: None },
        Change::AddChain { name: "prerouting", base: base("nat", Hook::Prerouting, -100) },
        Change::AddChain { name: "output", base: base("nat", Hook::Output, -100) },
        Change::AddChain { name: "postrouting", base: base("nat", Hook::Postrouting, 100) },
    ]);
    let mut rule =
        |chain, parts: Vec<Vec<Expr>>| changes.push(Change::AddRule { chain, exprs: parts.concat() });
    let loopback = (Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(255, 0, 0, 0));
    let pods = (subnet.network(), subnet.mask());
    let (saddr, daddr) = (12, 16);

    rule("guard", vec![interface(false, bridge, true), within(saddr, loopback, true), vec![Expr::Drop]]);
    rule("guard", vec![interface(false, bridge, true), within(daddr, loopback, true), vec![Expr::Drop]]);
    rule("hostports", vec![port_lookup(Map::PortsAt)]);
    rule("hostports", vec![port_lookup(Map::Ports)]);
    for chain in ["prerouting", "output"] {
        rule(chain, vec![to_this_host(), vec![Expr::Jump { chain: "hostports" }]]);
    }
    let masquerade = vec![Expr::Masquerade];
    let leaves = interface(true, bridge, false);
    let to_pods = interface(true, bridge, true);
    rule(
        "postrouting",
        vec![within(saddr, pods, true), within(daddr, pods, false), leaves, masquerade.clone()],
    );
    rule(
        "postrouting",
        vec![within(saddr, pods, true), within(daddr, pods, true), was_redirected(), masquerade.clone()],
    );
    rule("postrouting", vec![within(saddr, loopback, true), to_pods, masquerade]);
    changes.extend(elements.into_iter().map(Change::AddElement));
    changes
}

/// The elements for a pod's host ports.
pub(crate) fn elements(owner: &str, pod: Ipv4Addr, ports: &[PortMapping]) -> Vec<Element> {
    let element = |port: &PortMapping| Element {
        at: match port.host_ip {
            Some(IpAddr::V4(ip)) if !ip.is_unspecified() => Some(ip),
            _ => None,
        },
        protocol: port.protocol,
        host_port: port.host_port,
        pod,
        pod_port: port.container_port,
        owner: owner.to_owned(),
    };
    ports.iter().map(element).collect()
}

/// Whether a port answers on 127.0.0.1, for which the kernel must be told to route such addresses.
pub(crate) fn on_loopback(port: &PortMapping) -> bool {
    port.host_ip.is_none_or(|ip| ip.is_unspecified() || ip.is_loopback())
}

impl Map {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::PortsAt => "ports_at",
        }
    }
}

impl Element {
    pub(crate) fn map(&self) -> Map {
        if self.at.is_some() { Map::PortsAt } else { Map::Ports }
    }

    /// Each part of a key is padded to a register of four bytes.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(12);
        if let Some(at) = self.at {
            key.extend_from_slice(&at.octets());
        }
        key.extend_from_slice(&[protocol_number(self.protocol), 0, 0, 0]);
        key.extend_from_slice(&self.host_port.to_be_bytes());
        key.extend_from_slice(&[0, 0]);
        key
    }

    pub(crate) fn value(&self) -> Vec<u8> {
        let mut value = self.pod.octets().to_vec();
        value.extend_from_slice(&self.pod_port.to_be_bytes());
        value.extend_from_slice(&[0, 0]);
        value
    }

    /// The inverse of [`Element::key`] and [`Element::value`].
    pub(crate) fn decode(key: &[u8], value: &[u8], owner: String) -> Option<Self> {
        let (at, key) = match key.len() {
            12 => (Some(Ipv4Addr::from(*key.first_chunk::<4>()?)), &key[4..]),
            _ => (None, key),
        };
        let protocol = [Protocol::Sctp, Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|protocol| Some(&protocol_number(*protocol)) == key.first())?;
        Some(Self {
            at,
            protocol,
            host_port: u16::from_be_bytes([*key.get(4)?, *key.get(5)?]),
            pod: Ipv4Addr::from(*value.first_chunk::<4>()?),
            pod_port: u16::from_be_bytes([*value.get(4)?, *value.get(5)?]),
            owner,
        })
    }
}

impl fmt::Display for Element {
    /// `0.0.0.0:8080/tcp -> 10.210.0.2:80`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.unwrap_or(Ipv4Addr::UNSPECIFIED);
        write!(f, "{at}:{}/{} -> {}:{}", self.host_port, self.protocol, self.pod, self.pod_port)
    }
}

impl fmt::Display for Change {
    /// What an error says was asked; for rules in the notation of `nft --debug=netlink`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddChain { name, base: None } => write!(f, "add chain {name}"),
            Self::AddChain { name, base: Some(base) } => {
                write!(f, "add chain {name} {} {:?} {}", base.kind, base.hook, base.priority)
            }
            Self::AddElement(element) => {
                write!(f, "add element {}: {element} ({})", element.map().name(), element.owner)
            }
            Self::AddMap(map) => write!(f, "add map {}", map.name()),
            Self::AddRule { chain, exprs } => {
                write!(f, "add rule {chain}")?;
                exprs.iter().try_for_each(|expr| write!(f, " [ {expr} ]"))
            }
            Self::AddTable => f.write_str("add table"),
            Self::DeleteElement(element) => {
                write!(f, "delete element {}: {element} ({})", element.map().name(), element.owner)
            }
            Self::DeleteTable => f.write_str("delete table"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare { from, equal, value } => {
                write!(f, "cmp {} reg {from} 0x{}", if *equal { "eq" } else { "neq" }, Hex(value))
            }
            Self::ConnectionStatus { to } => write!(f, "ct load status => reg {to}"),
            Self::DestinationNat { address, port } => {
                write!(f, "nat dnat ip addr reg {address} proto reg {port}")
            }
            Self::DestinationType { to } => write!(f, "fib daddr type => reg {to}"),
            Self::Drop => f.write_str("immediate drop"),
            Self::InterfaceName { outgoing, to } => {
                write!(f, "meta load {} => reg {to}", if *outgoing { "oifname" } else { "iifname" })
            }
            Self::Jump { chain } => write!(f, "immediate jump {chain}"),
            Self::LayerFourProtocol { to } => write!(f, "meta load l4proto => reg {to}"),
            Self::Lookup { map, from, to } => write!(f, "lookup reg {from} map {} => reg {to}", map.name()),
            Self::Mask { register, mask } => write!(f, "bitwise reg {register} & 0x{}", Hex(mask)),
            Self::Masquerade => f.write_str("masq fully-random"),
            Self::Payload { base, offset, length, to } => {
                write!(f, "payload load {length}b @ {base:?} header + {offset} => reg {to}")
            }
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `iifname`, `oifname` `==` or `!=` name.
fn interface(outgoing: bool, name: &str, equal: bool) -> Vec<Expr> {
    let mut value = name.as_bytes().to_vec();
    value.resize(NAME_ROOM, 0);
    vec![Expr::InterfaceName { outgoing, to: KEY }, Expr::Compare { from: KEY, equal, value }]
}

/// The address at this offset of the IPv4 header is in the subnet, or is not.
fn within(offset: u32, (network, mask): (Ipv4Addr, Ipv4Addr), inside: bool) -> Vec<Expr> {
    vec![
        Expr::Payload { base: Header::Network, offset, length: 4, to: KEY },
        Expr::Mask { register: KEY, mask: mask.octets().to_vec() },
        Expr::Compare { from: KEY, equal: inside, value: network.octets().to_vec() },
    ]
}

/// `fib daddr type local`
fn to_this_host() -> Vec<Expr> {
    let value = LOCAL.to_ne_bytes().to_vec();
    vec![Expr::DestinationType { to: KEY }, Expr::Compare { from: KEY, equal: true, value }]
}

/// `ct status dnat`
fn was_redirected() -> Vec<Expr> {
    vec![
        Expr::ConnectionStatus { to: KEY },
        Expr::Mask { register: KEY, mask: DESTINATION_CHANGED.to_ne_bytes().to_vec() },
        Expr::Compare { from: KEY, equal: false, value: vec![0; 4] },
    ]
}

/// `dnat ip to [ip daddr .] meta l4proto . th dport map @…`; TCP, UDP and SCTP have the port at the same place.
fn port_lookup(map: Map) -> Vec<Expr> {
    let mut exprs = Vec::new();
    let mut to = KEY;
    if map == Map::PortsAt {
        exprs.push(Expr::Payload { base: Header::Network, offset: 16, length: 4, to });
        to += 1;
    }
    exprs.push(Expr::LayerFourProtocol { to });
    exprs.push(Expr::Payload { base: Header::Transport, offset: 2, length: 2, to: to + 1 });
    exprs.push(Expr::Lookup { map, from: KEY, to: VALUE });
    exprs.push(Expr::DestinationNat { address: VALUE, port: VALUE + 1 });
    exprs
}

/// Its number in the IP header.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Sctp => 132,
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Element> {
        let port = |host_ip: Option<&str>, host_port, container_port, protocol| PortMapping {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port,
            protocol,
        };
        let ports = [
            port(None, 8080, 80, Protocol::Tcp),
            port(Some("::"), 53, 5353, Protocol::Udp),
            port(Some("192.0.2.7"), 9, 10, Protocol::Sctp),
        ];
        elements("web", Ipv4Addr::new(10, 210, 0, 2), &ports)
    }

    #[test]
    fn the_table_as_a_transaction() {
        let subnet = Subnet::new((Ipv4Addr::new(10, 210, 0, 0), 16)).unwrap();
        let listing: Vec<_> = install("vaquita0", subnet, sample()).iter().map(Change::to_string).collect();
        insta::assert_snapshot!(listing.join("\n"));
    }

    #[test]
    fn elements_are_read_back_as_written() {
        for element in sample() {
            let again = Element::decode(&element.key(), &element.value(), element.owner.clone());
            assert_eq!(again.as_ref(), Some(&element));
        }
        assert_eq!(Element::decode(&[1, 2, 3], &[], String::new()), None);
    }
}
