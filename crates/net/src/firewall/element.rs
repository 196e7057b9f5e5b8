//! Host ports as elements of the maps, and the two families that there are tables of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Change, Map, Request, answers_for};
use crate::subnet::Addresses;
use crate::{PortMapping, Protocol};

/// Which of the two tables.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`; the same as `AF_INET` and `AF_INET6`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// As `nft` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// How many registers an address takes.
    pub(super) fn registers(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// Where the source address is in the header.
    pub(super) fn source(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    /// Where the destination address is in the header.
    pub(super) fn destination(self) -> u32 {
        self.source() + 4 * self.registers()
    }

    pub(crate) fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A host port in a map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Element {
    pub(crate) at: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    /// Of the family of the table.
    pub(crate) pod: IpAddr,
    pub(crate) pod_port: u16,
    pub(crate) owner: String,
}

/// The elements for a pod's host ports: one in each family that the port and the pod have in common.
pub(crate) fn elements(owner: &str, pod: Addresses, ports: &[PortMapping]) -> Vec<Element> {
    let element = |port: &PortMapping, pod: IpAddr| Element {
        at: port.host_ip.filter(|ip| !ip.is_unspecified()),
        protocol: port.protocol,
        host_port: port.host_port,
        pod,
        pod_port: port.container_port,
        owner: owner.to_owned(),
    };
    let addresses = || std::iter::once(IpAddr::V4(pod.ip)).chain(pod.ip6.map(IpAddr::V6));
    ports
        .iter()
        .flat_map(|port| {
            addresses().filter(|pod| answers_for(port, Family::of(*pod))).map(|pod| element(port, pod))
        })
        .collect()
}

impl Element {
    pub(crate) fn family(&self) -> Family {
        Family::of(self.pod)
    }

    pub(crate) fn map(&self) -> Map {
        if self.at.is_some() { Map::PortsAt } else { Map::Ports }
    }

    pub(crate) fn add(self) -> Request {
        Request { family: self.family(), change: Change::AddElement(self) }
    }

    pub(crate) fn delete(self) -> Request {
        Request { family: self.family(), change: Change::DeleteElement(self) }
    }

    /// Each part of a key is padded to registers of four bytes.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = self.at.map(octets).unwrap_or_default();
        key.extend_from_slice(&[protocol_number(self.protocol), 0, 0, 0]);
        key.extend_from_slice(&self.host_port.to_be_bytes());
        key.extend_from_slice(&[0, 0]);
        key
    }

    pub(crate) fn value(&self) -> Vec<u8> {
        let mut value = octets(self.pod);
        value.extend_from_slice(&self.pod_port.to_be_bytes());
        value.extend_from_slice(&[0, 0]);
        value
    }

    /// The inverse of [`Element::key`] and [`Element::value`].
    pub(crate) fn decode(family: Family, key: &[u8], value: &[u8], owner: String) -> Option<Self> {
        let (at, key) = match key.len() {
            8 => (None, key),
            _ => {
                let (at, key) = address(family, key)?;
                (Some(at), key)
            }
        };
        let (pod, value) = address(family, value)?;
        let protocol = [Protocol::Sctp, Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|protocol| Some(&protocol_number(*protocol)) == key.first())?;
        Some(Self {
            at,
            protocol,
            host_port: u16::from_be_bytes([*key.get(4)?, *key.get(5)?]),
            pod,
            pod_port: u16::from_be_bytes([*value.first()?, *value.get(1)?]),
            owner,
        })
    }
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An address at the beginning, and what follows.
fn address(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(ip, rest)| ((*ip).into(), rest)),
        Family::V6 => bytes.split_first_chunk::<16>().map(|(ip, rest)| ((*ip).into(), rest)),
    }
}

impl fmt::Display for Element {
    /// `0.0.0.0:8080/tcp -> 10.210.0.2:80`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.unwrap_or_else(|| self.family().unspecified());
        let (at, pod) = (SocketAddr::new(at, self.host_port), SocketAddr::new(self.pod, self.pod_port));
        write!(f, "{at}/{} -> {pod}", self.protocol)
    }
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
pub(super) mod tests {
    use super::*;

    /// Elements of each kind.
    pub(in crate::firewall) fn sample() -> Vec<Element> {
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
            port(Some("2001:db8::7"), 9, 10, Protocol::Sctp),
        ];
        let pod = Addresses { ip: Ipv4Addr::new(10, 210, 0, 2), ip6: Some("fd00::2".parse().unwrap()) };
        elements("web", pod, &ports)
    }

    #[test]
    fn elements_are_read_back_as_written() {
        for element in sample() {
            let (key, value) = (element.key(), element.value());
            let again = Element::decode(element.family(), &key, &value, element.owner.clone());
            assert_eq!(again.as_ref(), Some(&element));
            for length in 0..value.len() - 2 {
                assert_eq!(Element::decode(element.family(), &key, &value[..length], String::new()), None);
            }
        }
        assert_eq!(Element::decode(Family::V4, &[1, 2, 3], &[], String::new()), None);
        let shown: Vec<_> = sample().iter().map(Element::to_string).collect();
        assert_eq!(shown[..2], ["0.0.0.0:8080/tcp -> 10.210.0.2:80", "[::]:8080/tcp -> [fd00::2]:80"]);
        assert_eq!(shown.len(), 5, "a port on one address has one element");
    }
}
