//! The pod network: netlink, nftables, address leases, host ports.
//!
//! One [`Network`] is one bridge on the host. A pod gets a veth pair whose inner end is born as `eth0` inside the
//! pod's network namespace, an address leased from the subnet, an IPv6 address with the same number, and default routes to
//! the bridge. An nftables table of each family with the bridge's name masquerades what leaves the subnet and forwards host
//! ports. Everything goes through netlink: no `ip`, `nft`, `tc` or CNI program is started.
//!
//! All calls are synchronous. A network lives in the network namespace of the thread that opens it, and must be used from
//! threads in that namespace.
//!
//! No router advertisement is heard, neither on the host's links of the network nor in pods: no pod can announce routes to the
//! host or to other pods (CVE-2020-10749).
//!
//! What it does not do: answer on `[::1]` for host ports; open a firewall of somebody else that drops forwarded packets
//! ([`Network::obstacles`] tells of those of nftables, not of legacy iptables); set forwarding back.

mod bridge;
mod config;
mod conntrack;
mod error;
mod firewall;
mod host;
mod inventory;
mod lease;
mod link;
mod netlink;
mod network;
mod shaper;
mod subnet;

pub use config::{Bandwidth, Config, PortMapping, Protocol, Subnet6};
pub use error::{Error, Kind};
pub use inventory::{Resource, ResourceKind, inventory};
pub use network::{Attachment, Network, Report, close, loopback_up};
