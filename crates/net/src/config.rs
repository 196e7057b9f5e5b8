//! What a caller asks for: the network and the host ports of a pod.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a network lives and which addresses it gives out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Name of the bridge, and of the nftables table. At most 15 bytes of letters, digits, `-`, `_`; starts with a letter.
    pub bridge: String,
    /// Address of the IPv4 subnet and its prefix length, 8 to 30. The first host address is the gateway, held by the bridge.
    pub subnet: (Ipv4Addr, u8),
    /// From where pods get a second address.
    pub subnet6: Subnet6,
    /// MTU in bytes of the bridge and the pods' links. Without it, that of the device which has the default route,
    /// else 1500.
    pub mtu: Option<u32>,
    /// Directory with one file for each address that is given out. Created (0700) when absent.
    pub leases: PathBuf,
}

/// The IPv6 addresses of a network.
///
/// A pod's has the number of its IPv4 address: with `10.210.0.0/16` and `fd00::/64` the pod `10.210.1.2` is `fd00::102`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Subnet6 {
    /// A /64 of the unique local addresses (RFC 4193) that follows from the bridge's name. Pods have IPv4 alone, with a line
    /// in the log, where the host has no IPv6: no module, `net.ipv6.conf.all.disable_ipv6`, or no nftables for it.
    #[default]
    Derived,
    /// This subnet: address and prefix length, 32 to 126, with room for as many pods as the IPv4 subnet has. Refused where
    /// the host has no IPv6.
    Given(Ipv6Addr, u8),
    /// Pods have IPv4 alone.
    Off,
}

/// How fast a pod's traffic may be, in bits per second. `None`: as fast as it gets.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Bandwidth {
    /// What comes to the pod, from whomever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<u64>,
    /// What the pod sends, to whomever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<u64>,
}

impl Bandwidth {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// A port of the host whose traffic goes to a pod.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PortMapping {
    /// The address of the host on which the port is taken. `0.0.0.0` means each IPv4 address of the host, `127.0.0.0/8`
    /// included; `::` each IPv6 address but `::1`, which the kernel does not let out of the host; `None` all of these.
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
    /// `*:8080/tcp -> 80`, `[fd00::1]:8080/tcp -> 80`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            None => write!(f, "*:{}", self.host_port)?,
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.host_port))?,
        }
        write!(f, "/{} -> {}", self.protocol, self.container_port)
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
