//! The pod network: netlink, nftables, address leases, host ports.
//!
//! One [`Network`] is one bridge on the host. A pod gets a veth pair whose inner end is born as `eth0` inside the
//! pod's network namespace, an address leased from the subnet, and a default route to the bridge. One nftables
//! table with the bridge's name masquerades what leaves the subnet and forwards host ports. Everything goes
//! through netlink: no `ip`, `nft` or CNI program is started.
//!
//! All calls are synchronous. A network lives in the network namespace of the thread that opens it, and must be used from
//! threads in that namespace.
//!
//! What it does not do: IPv6 (which is switched off on its links, so that no pod can announce routes to the host or to
//! other pods); open a firewall of somebody else that drops forwarded packets ([`Network::obstacles`] tells of those of
//! nftables, not of legacy iptables); set `net.ipv4.ip_forward` back.

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
mod subnet;

pub use config::{Config, PortMapping, Protocol};
pub use error::{Error, Kind};
pub use inventory::{Resource, ResourceKind, inventory};
pub use network::{Attachment, Network, Report, loopback_up};
