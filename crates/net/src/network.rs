//! A bridge with its pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::firewall::{Change, Family, Request, wire};
use crate::lease::{self, Leases, OnDisk};
use crate::link::{self, POD_LINK, Veth};
use crate::netlink::{Batch, Socket};
use crate::subnet::{Addresses, Range6, Subnet};
use crate::{Bandwidth, Config, Error, Kind, PortMapping, Subnet6, bridge, host, shaper};

mod leaving;
mod ports;

use leaving::Leaving;

/// The longest owner that fits as a comment of an nftables element, with its zero byte.
const OWNER_ROOM: usize = 127;

/// A bridge on the host, its address leases and its nftables tables.
///
/// Shared by reference between threads; attaching one pod never waits for another except in the kernel.
#[derive(Debug)]
pub struct Network {
    config: Config,
    subnet: Subnet,
    /// `None`: pods have IPv4 alone.
    range6: Option<Range6>,
    leases: Leases,
    bridge: Mutex<bridge::Bridge>,
    /// Kept, since closing one waits some 14 ms until the kernel has freed what the last transaction deleted.
    netfilter: Mutex<Socket>,
    /// Held while `route_localnet` is made to fit the leases.
    localnet: Mutex<()>,
    leaving: Leaving,
}

/// What a pod got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Its second address, unless it has IPv4 alone.
    pub ip6: Option<Ipv6Addr>,
    /// Its default gateway: the bridge.
    pub gateway: Ipv4Addr,
    /// Prefix length of the IPv4 subnet.
    pub prefix: u8,
    /// Name of the link's end on the host.
    pub host_link: String,
    /// Hardware address of the pod's end. It follows from the address, so a reused address finds no stale neighbour.
    pub mac: [u8; 6],
    /// The host ports that lead to the pod.
    pub ports: Vec<PortMapping>,
}

impl Attachment {
    /// The pod's addresses, the primary one first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(self.ip.into()).chain(self.ip6.map(IpAddr::from)).collect()
    }
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

impl Network {
    /// Makes what is missing of bridge, addresses, forwarding and nftables tables, and reads the leases.
    ///
    /// Idempotent: what a former daemon left is kept, host ports included; pods notice nothing. The only settings of the
    /// host that change beside the bridge's own are `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`, with what the
    /// latter takes to keep the host's own routes, each with a line in the log.
    ///
    /// # Errors
    /// `Invalid` for a configuration that cannot be; `Exists` when the name or a subnet belongs to something else on the
    /// host; `Unsupported` names what the kernel lacks; `Denied` without CAP_NET_ADMIN.
    pub fn open(config: Config) -> Result<Self, Error> {
        bridge::check_name(&config.bridge)?;
        let subnet = Subnet::new(config.subnet)?;
        let Some(range6) = Range6::of(&config, subnet)? else { return Self::open_with(config, subnet, None) };
        let opened = match host::has_ipv6() {
            Ok(()) => Self::open_with(config.clone(), subnet, Some(range6)),
            Err(reason) => {
                let what = format!("subnet {}/{}: {reason}", range6.network(), range6.prefix());
                Err(Error::new(Kind::Unsupported, what))
            }
        };
        match opened {
            Err(error) if error.kind() == Kind::Unsupported && config.subnet6 == Subnet6::Derived => {
                // If it was not IPv6 that is in the way, this says so.
                let opened = Self::open_with(config, subnet, None)?;
                tracing::info!(reason = %error, "pods have IPv4 alone");
                Ok(opened)
            }
            opened => opened,
        }
    }

    fn open_with(config: Config, subnet: Subnet, range6: Option<Range6>) -> Result<Self, Error> {
        let leases = Leases::open(&config.leases, subnet, range6)?;
        let bridge = {
            let _lock = leases.lock()?;
            bridge::ensure(&config, subnet, range6)?
        };
        host::forward()?;
        if range6.is_some() {
            host::forward6()?;
        }
        let network = Self {
            config,
            subnet,
            range6,
            leases,
            bridge: Mutex::new(bridge),
            netfilter: Mutex::new(Socket::netfilter()?),
            localnet: Mutex::new(()),
            leaving: Leaving::default(),
        };
        network.install()?;
        network.fit_localnet()?;
        for obstacle in network.obstacles()? {
            tracing::warn!("{obstacle}");
        }
        Ok(network)
    }

    /// Connects the pod whose network namespace is `netns`, under the key `owner` (the sandbox id).
    ///
    /// The lease is written before anything is made. A host port on which a process of the host listens is refused, as it
    /// would be cut off. `bandwidth` is enforced on the host's side. When a step fails, everything that was made is taken back.
    ///
    /// # Errors
    /// `Exists` when `owner` is attached; `Busy` names the owner of a host port that is taken, or says that a process
    /// of the host has it; `Exhausted` when no address is
    /// free; `Invalid`, `Unsupported` for ports that cannot be; else what the kernel said.
    pub fn attach(
        &self,
        owner: &str,
        netns: BorrowedFd<'_>,
        ports: &[PortMapping],
        bandwidth: Bandwidth,
    ) -> Result<Attachment, Error> {
        check_owner(owner)?;
        ports::check(ports, self.range6.is_some())?;
        shaper::check(bandwidth)?;
        host::is_not_ours(netns)?;
        if bandwidth.egress.is_some() {
            self.leaving.take_back(&shaper::device_name(&bridge::link_name(owner)));
        }
        let ips = self.leases.take(owner, ports, bandwidth)?;
        // Ports first: that somebody has one is found out before there is a link to delete.
        let failed = |error: Error| error.context(&format!("attach {owner} to {}", self.config.bridge));
        if let Err(error) = self.open_ports(owner, ips, ports) {
            // None was opened; to close them would close those of whoever has them.
            self.undo(owner, ports, self.leases.release(owner));
            return Err(failed(error));
        }
        let connected =
            self.fit_localnet_after(ports).and_then(|()| self.connect(owner, ips, netns, bandwidth));
        if let Err(error) = connected {
            let closed =
                self.close_ports(owner, ips, ports).and_then(|()| self.lift_limits(owner, bandwidth));
            self.undo(owner, ports, closed.and_then(|()| self.leases.release(owner)));
            return Err(failed(error));
        }
        Ok(self.describe(owner, ips, ports))
    }

    /// Takes back host ports and address of `owner`. Nothing happens when it has none.
    ///
    /// The link is not touched: it goes when the last reference to the pod's namespace does, which costs nobody anything,
    /// while deleting it would wait some 40 ms for the kernel. The device that limits what a pod sends is in the host's
    /// namespace and must be deleted, which is done in the background, and again until it is done. It says itself whose it
    /// is, so [`Network::reconcile`] finds it should this process end before.
    ///
    /// # Errors
    /// What the kernel or file system said; the lease is then kept, and the call can be repeated.
    pub fn detach(&self, owner: &str) -> Result<(), Error> {
        let Some((ip, lease)) = self.leases.find(owner) else { return Ok(()) };
        self.close_ports(owner, lease.addresses(ip), &lease.ports)?;
        if lease.bandwidth.egress.is_some() {
            self.leaving.add(shaper::device_name(&bridge::link_name(owner)))?;
        }
        self.leases.release(owner)?;
        self.fit_localnet_after(&lease.ports)
    }

    /// What `owner` has, from memory.
    #[must_use]
    pub fn attachment(&self, owner: &str) -> Option<Attachment> {
        let (ip, lease) = self.leases.find(owner)?;
        Some(self.describe(owner, lease.addresses(ip), &lease.ports))
    }

    /// Frees what belongs to owners that are not in `live`, and installs the nftables tables anew, so that its elements are
    /// those of the leases.
    ///
    /// Goes on after a failure and tells it in the report. Not to be called while something is attached: its owner could
    /// not be in `live` yet.
    pub fn reconcile(&self, live: &BTreeSet<String>) -> Report {
        let mut report = Report::default();
        let entries = match self.leases.reload().and_then(|()| self.leases.on_disk()) {
            Ok(entries) => entries,
            Err(error) => {
                report.failures.push(error.to_string());
                return report;
            }
        };
        let mut leased = BTreeSet::new();
        for OnDisk { ip, lease } in entries {
            let owner = lease.map(|lease| lease.owner).unwrap_or_default();
            if live.contains(&owner) {
                leased.insert(owner);
                continue;
            }
            match self.leases.release_address(ip) {
                Ok(()) => report.freed.push((ip, owner)),
                Err(error) => report.failures.push(error.to_string()),
            }
        }
        report.missing = live.difference(&leased).cloned().collect();
        self.sweep_links(live, &mut report);
        let restored = self.install().and_then(|()| self.fit_localnet());
        report.failures.extend(restored.err().map(|error| error.to_string()));
        report
    }

    /// What on this host keeps pods from the outside that is not ours to change, one sentence each.
    ///
    /// nftables asks every chain of a hook, and one that drops cannot be overruled from another: a firewall whose
    /// `forward` chain has the policy drop needs a rule of its own. Legacy iptables (not the nf_tables one) is not seen.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn obstacles(&self) -> Result<Vec<String>, Error> {
        let bridge = &self.config.bridge;
        let chains = wire::dropping_chains(&self.netfilter())?;
        let sentence = |chain: &wire::DroppingChain| {
            let place = format!("{} {} {}", chain.family, chain.table, chain.name);
            let over = match chain.family {
                "ip" => " over IPv4",
                "ip6" => " over IPv6",
                _ => "",
            };
            format!(
                "nftables chain `{place}` drops forwarded packets by policy; unless its rules accept them, pods reach nothing \
                 beyond this host{over}: nft insert rule {place} iifname {bridge} accept; nft insert rule {place} oifname {bridge} accept"
            )
        };
        let ours = |chain: &&wire::DroppingChain| self.range6.is_some() || chain.family != "ip6";
        Ok(chains.iter().filter(ours).map(sentence).collect())
    }

    /// Waits until what [`Network::detach`] has left for later is done, at most this long. What is not goes with the next
    /// [`Network::reconcile`].
    pub fn settle(&self, patience: Duration) {
        self.leaving.settle(patience);
    }

    /// As [`close`], when nobody uses it any more.
    ///
    /// # Errors
    /// As [`close`].
    pub fn close(self) -> Result<bool, Error> {
        close(&self.config)
    }

    /// Makes the pod's link and everything inside the pod.
    fn connect(
        &self,
        owner: &str,
        ips: Addresses,
        netns: BorrowedFd<'_>,
        bandwidth: Bandwidth,
    ) -> Result<(), Error> {
        let name = bridge::link_name(owner);
        let alias = bridge::link_alias(&self.config.bridge, owner);
        let mut at = *self.bridge();
        let veth = |at: bridge::Bridge| Veth {
            name: &name,
            alias: &alias,
            bridge: at.index,
            mtu: at.mtu,
            mac: Subnet::mac(ips.ip),
            netns,
        };
        let socket = Socket::route()?;
        let create = |at| {
            let mut batch = Batch::new();
            link::create_veth(&mut batch, &veth(at));
            socket.run(&batch)
        };
        if let Err(error) = create(at) {
            // Not there any more: it went between the refusal and this look.
            let stale = link::find(&socket, &name)?.is_none_or(|link| link.alias == alias);
            let bridge = link::find(&socket, &self.config.bridge)?.map(|link| link.index);
            if bridge != Some(at.index) {
                // Somebody removed the bridge.
                at = self.restore_bridge()?;
            } else if error.kind() == Kind::Exists && stale {
                // The owner was attached before, and the kernel has not got round to destroying that link.
                link::remove(&socket, &name)?;
            } else {
                return Err(error);
            }
            create(at)?;
        }
        // Packets are bridged there, whatever their family; the host itself has nothing to say on that link.
        let finished = host::no_ipv6(&name)
            .and_then(|()| {
                let mut batch = Batch::new();
                link::configure_port(&mut batch, &veth(at));
                socket.run(&batch)
            })
            .and_then(|()| match bandwidth.is_unlimited() {
                true => Ok(()),
                false => shaper::limit(&socket, &name, &alias, bandwidth),
            })
            .and_then(|()| host::inside(netns, || self.configure_pod(ips)))
            .and_then(|()| settle(&socket, &[&name, &self.config.bridge]));
        if finished.is_err() {
            // The namespace is the caller's and stays, so here the link must be deleted, however long that takes.
            let mut batch = Batch::new();
            link::delete(&mut batch, &name);
            if let Err(error) = socket.run(&batch) {
                tracing::warn!(%error, "a link of a failed attachment stays until its namespace is closed");
            }
        }
        finished
    }

    /// Brings up `lo` and `eth0` inside the pod, with addresses and default routes.
    fn configure_pod(&self, ips: Addresses) -> Result<(), Error> {
        let six = self.range6.zip(ips.ip6);
        match six {
            Some(_) => host::own_ipv6(POD_LINK)?,
            None => host::no_ipv6(POD_LINK)?,
        }
        let socket = Socket::route()?;
        let eth0 = link::find(&socket, POD_LINK)?
            .ok_or_else(|| Error::new(Kind::NotFound, format!("{POD_LINK} is gone from the pod")))?;
        let link = (POD_LINK, eth0.index);
        let mut batch = Batch::new();
        link::up(&mut batch, "lo");
        link::add_address(&mut batch, link, ips.ip.into(), self.subnet.prefix());
        link::up(&mut batch, POD_LINK);
        link::add_default_route(&mut batch, self.subnet.gateway().into(), eth0.index);
        if let Some((range6, ip6)) = six {
            // On a link that is down the kernel would forget its route.
            link::add_address(&mut batch, link, ip6.into(), range6.prefix());
            link::add_default_route(&mut batch, range6.gateway().into(), eth0.index);
        }
        socket.run(&batch)?;
        settle(&socket, &[POD_LINK])
    }

    /// Deletes what limits a pod and does not go with its link.
    fn lift_limits(&self, owner: &str, bandwidth: Bandwidth) -> Result<(), Error> {
        match bandwidth.egress {
            Some(_) => shaper::remove(&Socket::route()?, &bridge::link_name(owner)),
            None => Ok(()),
        }
    }

    /// The end of a failed attachment: its lease is `released`, or why it is not.
    fn undo(&self, owner: &str, ports: &[PortMapping], released: Result<(), Error>) {
        if let Err(error) = released.and_then(|()| self.fit_localnet_after(ports)) {
            tracing::warn!(%error, owner, "a failed attachment was not taken back in full");
        }
    }

    fn sweep_links(&self, live: &BTreeSet<String>, report: &mut Report) {
        let known: Vec<_> = live.iter().map(String::as_str).collect();
        let swept = Socket::route().and_then(|socket| {
            let links = link::list(&socket)?;
            for port in bridge::ports(&links, &self.config.bridge, Some(self.bridge().index)) {
                let owner = bridge::owner(port, &self.config.bridge, &known);
                if owner.is_some_and(|owner| live.contains(&owner)) {
                    continue;
                }
                let mut batch = Batch::new();
                link::delete(&mut batch, &port.name);
                match socket.run(&batch) {
                    Ok(()) => report.links.push(port.name.clone()),
                    // Its namespace was closed meanwhile.
                    Err(error) if error.kind() == Kind::NotFound => {}
                    Err(error) => report.failures.push(error.to_string()),
                }
            }
            Ok(())
        });
        report.failures.extend(swept.err().map(|error| error.to_string()));
    }

    fn restore_bridge(&self) -> Result<bridge::Bridge, Error> {
        tracing::warn!(bridge = %self.config.bridge, "the bridge was removed by somebody else; making it again");
        let _lock = self.leases.lock()?;
        let restored = bridge::ensure(&self.config, self.subnet, self.range6)?;
        *self.bridge() = restored;
        Ok(restored)
    }

    fn describe(&self, owner: &str, ips: Addresses, ports: &[PortMapping]) -> Attachment {
        Attachment {
            ip: ips.ip,
            ip6: ips.ip6,
            gateway: self.subnet.gateway(),
            prefix: self.subnet.prefix(),
            host_link: bridge::link_name(owner),
            mac: Subnet::mac(ips.ip),
            ports: ports.to_vec(),
        }
    }

    fn bridge(&self) -> MutexGuard<'_, bridge::Bridge> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the kernel take note that links are up, in this order. It would do so a little later by itself, and drop until then what is
/// sent to them, so that a pod's first datagram would be lost. Asking for a link does it at once (Linux 6.8).
fn settle(socket: &Socket, names: &[&str]) -> Result<(), Error> {
    names.iter().try_for_each(|name| link::find(socket, name).map(drop))
}

/// Removes bridge and tables of a network when no lease is left, and links that pods have left behind; says whether it did.
///
/// Makes nothing and asks for nothing else of the host: what could not be opened, since its subnet overlaps another's by now,
/// can be removed. Forwarding stays as it is: others may rely on it by now.
///
/// # Errors
/// `Busy` when the bridge is another network's; else what the kernel said.
pub fn close(config: &Config) -> Result<bool, Error> {
    bridge::check_name(&config.bridge)?;
    let route = Socket::route()?;
    let bridge = link::find(&route, &config.bridge)?.filter(|link| link.kind == "bridge");
    if let Some(bridge) = &bridge {
        bridge::refuse_stranger(config, bridge)?;
    }
    let _lock = match lease::lock(&config.leases) {
        Err(error) if error.kind() == Kind::NotFound => None,
        locked => Some(locked?),
    };
    if !lease::read_dir(&config.leases)?.is_empty() {
        return Ok(false);
    }
    let netfilter = Socket::netfilter()?;
    for family in Family::BOTH {
        if wire::exists(&netfilter, family, &config.bridge)? {
            let request = Request { family, change: Change::DeleteTable };
            wire::commit(&netfilter, &config.bridge, &[request])?;
        }
    }
    let links = link::list(&route)?;
    let ports = bridge::ports(&links, &config.bridge, bridge.as_ref().map(|bridge| bridge.index));
    for name in ports.map(|port| &port.name).chain(bridge.as_ref().map(|bridge| &bridge.name)) {
        link::remove(&route, name)?;
    }
    lease::remove(&config.leases);
    Ok(true)
}

/// Brings `lo` up in a network namespace; for pods without a network of their own.
///
/// # Errors
/// What the kernel said.
pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<(), Error> {
    host::inside(netns, || {
        let mut batch = Batch::new();
        link::up(&mut batch, "lo");
        Socket::route()?.run(&batch)
    })
}

fn check_owner(owner: &str) -> Result<(), Error> {
    let fits = (1..=OWNER_ROOM).contains(&owner.len()) && owner.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        return Ok(());
    }
    let message =
        format!("owner {owner:?}: must be 1 to {OWNER_ROOM} printable ASCII characters without spaces");
    Err(Error::new(Kind::Invalid, message))
}
