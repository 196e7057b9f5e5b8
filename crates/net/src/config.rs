//! What a caller asks for: the network and the host ports of a pod.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a network lives and which addresses it gives out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Name of the bridge, and of the nftables table. At most 15 bytes of letters, digits, `-`, `_`; starts with a letter.
    pub bridge: String,
    /// Address of the subnet and its prefix length, 8 to 30. The first host address is the gateway, held by the bridge.
    pub subnet: (Ipv4Addr, u8),
    /// MTU in bytes of the bridge and the pods' links. Without it, that of the device which has the default route,
    /// else 1500.
    pub mtu: Option<u32>,
    /// Directory with one file for each address that is given out. Created (0700) when absent.
    pub leases: PathBuf,
}

/// A port of the host whose traffic goes to a pod.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PortMapping {
    /// The address of the host on which the port is taken. `None`, `0.0.0.0` and `::` mean each IPv4 address of the
    /// host, loopback included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The host's port, 1 to 65535.
    pub host_port: u16,
    /// The pod's port, 1 to 65535.
    pub container_port: u16,
    /// The transport.
    pub protocol: Protocol,
}

impl fmt::Display for PortMapping {
    /// `0.0.0.0:8080/tcp -> 80`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        write!(f, "{ip}:{}/{} -> {}", self.host_port, self.protocol, self.container_port)
    }
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// IP protocol 132.
    Sctp,
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sctp => "sctp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
