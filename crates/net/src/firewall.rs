//! What the network wants of nftables, as data. Nothing here talks to the kernel.
//!
//! A table of each family that pods have addresses of, `ip <bridge>` and `ip6 <bridge>`:
//!
//! * `ports` and `ports_at` map (protocol, host port) and (host address, protocol, host port) to a pod's address and
//!   port. A pod's host ports are elements: adding and removing one is one small message, and their number costs
//!   packets nothing.
//! * `prerouting` and `output` send what is addressed to the host itself (`fib daddr type local`, so that no traffic
//!   which only passes through is caught) through the maps.
//! * `postrouting` masquerades what leaves the subnet, what a pod sends to a pod through a host port (the answer
//!   would not come back through us otherwise), and what comes from 127.0.0.1.
//! * `guard`, for IPv4 alone, drops what pods send to or from 127.0.0.0/8. The bridge accepts such packets from the network as soon as
//!   host ports answer on 127.0.0.1 (`route_localnet`), which would open the host's loopback services to pods
//!   (CVE-2020-8558). It stands before connection tracking, where answers to the host's own connections still carry the
//!   bridge's address. IPv6 needs none: packets to or from `::1` that arrive on a link are always dropped. So host ports
//!   cannot answer there; that a connection is refused at once and not lost, `output` leaves `::1` alone.
//!
//! There is no chain that accepts forwarded packets: where another table's chain drops them, an accept in ours would
//! change nothing, since each chain of a hook has its say. [`crate::Network::obstacles`] tells of such chains.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::PortMapping;
use crate::subnet::{Range6, Subnet};

mod element;
pub(crate) mod wire;

use element::octets;
pub(crate) use element::{Element, Family, elements, protocol_number};

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

/// One request of a transaction, and the table that it is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Request {
    pub(crate) family: Family,
    pub(crate) change: Change,
}

/// What is asked.
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
        family: Family,
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

/// Replaces the tables by fresh ones with these elements, whatever is there. As one transaction no packet sees a gap.
pub(crate) fn install(
    bridge: &str,
    subnet: Subnet,
    range6: Option<Range6>,
    elements: impl IntoIterator<Item = Element>,
) -> Vec<Request> {
    let pods = (subnet.network().into(), subnet.mask().into());
    let mut requests = table(Family::V4, bridge, pods);
    if let Some(range6) = range6 {
        requests.extend(table(Family::V6, bridge, (range6.network().into(), range6.mask().into())));
    }
    // A pod of a time with IPv6 has no table there any more.
    let elements = elements.into_iter().filter(|element| element.pod.is_ipv4() || range6.is_some());
    requests.extend(elements.map(Element::add));
    requests
}

fn table(family: Family, bridge: &str, pods: (IpAddr, IpAddr)) -> Vec<Request> {
    // Adding a table that exists is no error, deleting one that does not is: hence add, delete, add.
    let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
    changes.extend([Change::AddMap(Map::Ports), Change::AddMap(Map::PortsAt)]);
    let base = |kind, hook, priority| Some(Base { kind, hook, priority });
    if family == Family::V4 {
        changes.push(Change::AddChain { name: "guard", base: base("filter", Hook::Prerouting, -300) });
    }
    changes.extend([
        Change::AddChain { name: "hostports", base: None },
        Change::AddChain { name: "prerouting", base: base("nat", Hook::Prerouting, -100) },
        Change::AddChain { name: "output", base: base("nat", Hook::Output, -100) },
        Change::AddChain { name: "postrouting", base: base("nat", Hook::Postrouting, 100) },
    ]);
    let mut rule =
        |chain, parts: Vec<Vec<Expr>>| changes.push(Change::AddRule { chain, exprs: parts.concat() });
    let loopback: (IpAddr, IpAddr) = (Ipv4Addr::new(127, 0, 0, 0).into(), Ipv4Addr::new(255, 0, 0, 0).into());
    let (source, destination) = (family.source(), family.destination());
    let masquerade = || vec![Expr::Masquerade];
    let jump = || vec![Expr::Jump { chain: "hostports" }];

    if family == Family::V4 {
        for address in [source, destination] {
            let drop = vec![Expr::Drop];
            rule("guard", vec![interface(false, bridge, true), within(address, loopback, true), drop]);
        }
    }
    rule("hostports", vec![port_lookup(family, Map::PortsAt)]);
    rule("hostports", vec![port_lookup(family, Map::Ports)]);
    rule("prerouting", vec![to_this_host(), jump()]);
    let not_loopback = match family {
        Family::V4 => Vec::new(),
        Family::V6 => is(destination, Ipv6Addr::LOCALHOST.into(), false),
    };
    rule("output", vec![not_loopback, to_this_host(), jump()]);
    let leaves = interface(true, bridge, false);
    rule(
        "postrouting",
        vec![within(source, pods, true), within(destination, pods, false), leaves, masquerade()],
    );
    rule(
        "postrouting",
        vec![within(source, pods, true), within(destination, pods, true), was_redirected(), masquerade()],
    );
    if family == Family::V4 {
        let to_pods = interface(true, bridge, true);
        rule("postrouting", vec![within(source, loopback, true), to_pods, masquerade()]);
    }
    changes.into_iter().map(|change| Request { family, change }).collect()
}

/// Whether a port is one of this family.
pub(crate) fn answers_for(port: &PortMapping, family: Family) -> bool {
    port.host_ip.is_none_or(|ip| Family::of(ip) == family)
}

/// Whether a port answers on 127.0.0.1, for which the kernel must be told to route such addresses.
pub(crate) fn on_loopback(port: &PortMapping) -> bool {
    answers_for(port, Family::V4) && port.host_ip.is_none_or(|ip| ip.is_unspecified() || ip.is_loopback())
}

impl Map {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::PortsAt => "ports_at",
        }
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
            Self::DestinationNat { family, address, port } => {
                write!(f, "nat dnat {family} addr reg {address} proto reg {port}")
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

/// The address at this offset of the IP header is in the subnet, or is not.
fn within(offset: u32, (network, mask): (IpAddr, IpAddr), inside: bool) -> Vec<Expr> {
    let mut exprs = is(offset, network, inside);
    exprs.insert(1, Expr::Mask { register: KEY, mask: octets(mask) });
    exprs
}

/// The address at this offset of the IP header is this one, or is not.
fn is(offset: u32, ip: IpAddr, equal: bool) -> Vec<Expr> {
    let length = 4 * Family::of(ip).registers();
    vec![
        Expr::Payload { base: Header::Network, offset, length, to: KEY },
        Expr::Compare { from: KEY, equal, value: octets(ip) },
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
fn port_lookup(family: Family, map: Map) -> Vec<Expr> {
    let mut exprs = Vec::new();
    let mut to = KEY;
    if map == Map::PortsAt {
        let (offset, length) = (family.destination(), 4 * family.registers());
        exprs.push(Expr::Payload { base: Header::Network, offset, length, to });
        to += family.registers();
    }
    exprs.push(Expr::LayerFourProtocol { to });
    exprs.push(Expr::Payload { base: Header::Transport, offset: 2, length: 2, to: to + 1 });
    exprs.push(Expr::Lookup { map, from: KEY, to: VALUE });
    exprs.push(Expr::DestinationNat { family, address: VALUE, port: VALUE + family.registers() });
    exprs
}

#[cfg(test)]
mod tests {
    use super::element::tests::sample;
    use super::*;

    #[test]
    fn the_tables_as_a_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::Config {
            bridge: "vaquita0".to_owned(),
            subnet: (Ipv4Addr::new(10, 210, 0, 0), 16),
            subnet6: crate::Subnet6::Given("fd00::".parse().unwrap(), 64),
            mtu: None,
            leases: dir.path().to_owned(),
        };
        let subnet = Subnet::new(config.subnet).unwrap();
        let range6 = Range6::of(&config, subnet).unwrap();
        let list = |range6| {
            let requests = install("vaquita0", subnet, range6, sample());
            requests
                .iter()
                .map(|request| format!("{}: {}", request.family, request.change))
                .collect::<Vec<_>>()
        };
        insta::assert_snapshot!(list(range6).join("\n"));
        let four: Vec<_> = list(range6).into_iter().filter(|line| line.starts_with("ip: ")).collect();
        assert_eq!(list(None), four, "without IPv6");
    }
}
