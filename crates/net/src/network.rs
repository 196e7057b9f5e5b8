//! A bridge with its pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use crate::{Config, Error, Kind, PortMapping};

/// A bridge on the host, its address leases and its nftables table.
///
/// Shared by reference between threads; attaching one pod never waits for another except in the kernel.
#[derive(Debug)]
pub struct Network {
    config: Config,
}

/// What a pod got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Its default gateway: the bridge.
    pub gateway: Ipv4Addr,
    /// Prefix length of the subnet.
    pub prefix: u8,
    /// Name of the link's end on the host.
    pub host_link: String,
    /// Hardware address of the pod's end. It follows from the address, so a reused address finds no stale neighbour.
    pub mac: [u8; 6],
    /// The host ports that lead to the pod.
    pub ports: Vec<PortMapping>,
}

/// What [`Network::reconcile`] did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Addresses freed, with the owner that was not alive (empty when the lease could not be read).
    pub freed: Vec<(Ipv4Addr, String)>,
    /// Links deleted whose owner was not alive.
    pub links: Vec<String>,
    /// Owners that are alive and have no lease.
    pub missing: Vec<String>,
    /// What could not be put right, one sentence each.
    pub failures: Vec<String>,
}

/// A thing in the kernel or on disk that belongs to a network.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name as the kernel or the file system has it.
    pub name: String,
    /// The owner given to [`Network::attach`]. `None` for what all pods share; for the rest it says that nobody owns
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
    /// The host's end of a pod's link.
    Link,
    /// The nftables table. Shared.
    Table,
}

impl ResourceKind {
    /// Whether it belongs to all pods of the network, so that `owner` is always `None`.
    #[must_use]
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Address | Self::Bridge | Self::Table)
    }
}

impl Network {
    /// Makes what is missing of bridge, address, forwarding and nftables table, and reads the leases.
    ///
    /// Idempotent: what a former daemon left is kept, host ports included; pods notice nothing.
    ///
    /// # Errors
    /// `Invalid` for a configuration that cannot be; `Exists` when the name or the subnet belongs to something else on the
    /// host; `Unsupported` names what the kernel lacks; `Denied` without CAP_NET_ADMIN.
    pub fn open(config: Config) -> Result<Self, Error> {
        Ok(Self { config })
    }

    /// Connects the pod whose network namespace is `netns`, under the key `owner` (the sandbox id).
    ///
    /// The lease is written before anything is made. When a step fails, everything that was made is taken back.
    ///
    /// # Errors
    /// `Exists` when `owner` is attached; `Busy` names the owner of a host port that is taken; `Exhausted` when no address is
    /// free; `Invalid`, `Unsupported` for ports that cannot be; else what the kernel said.
    pub fn attach(
        &self,
        owner: &str,
        netns: BorrowedFd<'_>,
        ports: &[PortMapping],
    ) -> Result<Attachment, Error> {
        let _ = (owner, netns, ports);
        Err(Error::new(
            Kind::Unsupported,
            format!("attaching to {} is not implemented yet", self.config.bridge),
        ))
    }

    /// Takes back host ports and address of `owner`. Nothing happens when it has none.
    ///
    /// The link is not touched: it goes when the last reference to the pod's namespace does, which costs nobody anything,
    /// while deleting it would wait some 40 ms for the kernel.
    ///
    /// # Errors
    /// What the kernel or file system said; the lease is then kept, and the call can be repeated.
    pub fn detach(&self, owner: &str) -> Result<(), Error> {
        let _ = owner;
        Ok(())
    }

    /// What `owner` has, from memory.
    #[must_use]
    pub fn attachment(&self, owner: &str) -> Option<Attachment> {
        let _ = owner;
        None
    }

    /// Frees what belongs to owners that are not in `live`, and installs the nftables table anew if it is gone.
    ///
    /// Goes on after a failure and tells it in the report.
    pub fn reconcile(&self, live: &BTreeSet<String>) -> Report {
        let _ = live;
        Report::default()
    }

    /// Removes bridge and table when no lease is left; says whether it did.
    ///
    /// `net.ipv4.ip_forward` stays as it is: others may rely on it by now.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn close(self) -> Result<bool, Error> {
        Ok(false)
    }
}

/// Everything that `config`'s network has on this host, sorted. Needs no daemon and changes nothing.
///
/// # Errors
/// What the kernel or file system said.
pub fn inventory(config: &Config) -> Result<Vec<Resource>, Error> {
    let _ = config;
    Ok(Vec::new())
}

/// Brings `lo` up in a network namespace; for pods without a network of their own.
///
/// # Errors
/// What the kernel said.
pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<(), Error> {
    let _ = netns;
    Err(Error::new(Kind::Unsupported, "bringing lo up is not implemented yet"))
}
