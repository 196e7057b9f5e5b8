//! The part of a network that is about host ports: the nftables table and what goes with it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::Network;
use crate::firewall::{self, Change, Element, Family, Request, wire};
use crate::lease::{self, Lease};
use crate::link;
use crate::netlink::Socket;
use crate::subnet::Addresses;
use crate::{Error, Kind, PortMapping, Protocol, conntrack, host};

/// `TCP_LISTEN` and, for a datagram socket without a peer, `TCP_CLOSE` as `/proc/net/{tcp,udp}` print them.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

impl Network {
    /// Opens all or none.
    pub(super) fn open_ports(&self, owner: &str, ips: Addresses, ports: &[PortMapping]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        let requests: Vec<_> = firewall::elements(owner, ips, ports).into_iter().map(Element::add).collect();
        match self.commit(&requests) {
            // Somebody flushed the ruleset. The table is made anew from the leases, which have these ports already.
            Err(error) if error.kind() == Kind::NotFound => self.install()?,
            Err(error) if error.kind() == Kind::Exists => return Err(self.port_conflict(ports, error)),
            added => added?,
        }
        if ports.iter().any(connectionless) {
            let local = Socket::route().and_then(|socket| link::addresses(&socket)).unwrap_or_default();
            let is_local = |ip: IpAddr| ip.is_loopback() || local.iter().any(|address| address.ip == ip);
            for port in ports.iter().filter(|port| connectionless(port)) {
                self.forget(port, ips, |flow| is_local(flow.to) && !answers(flow, ips, port));
            }
        }
        Ok(())
    }

    /// Closes those that are open. They must be the owner's, which they are once it was attached.
    pub(super) fn close_ports(
        &self,
        owner: &str,
        ips: Addresses,
        ports: &[PortMapping],
    ) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        let elements = firewall::elements(owner, ips, ports);
        let requests: Vec<_> = elements.into_iter().map(Element::delete).collect();
        match self.commit(&requests) {
            Err(error) if error.kind() == Kind::NotFound => {
                // One of them is gone already, so none was removed: a transaction each.
                for request in &requests {
                    match self.commit(std::slice::from_ref(request)) {
                        Err(error) if error.kind() == Kind::NotFound => {}
                        removed => removed?,
                    }
                }
            }
            removed => removed?,
        }
        for port in ports.iter().filter(|port| connectionless(port)) {
            self.forget(port, ips, |flow| answers(flow, ips, port));
        }
        Ok(())
    }

    /// Puts the tables in place with the ports of all leases.
    pub(super) fn install(&self) -> Result<(), Error> {
        let ports = |(ip, lease): (Ipv4Addr, Lease)| {
            firewall::elements(&lease.owner, lease.addresses(ip), &lease.ports)
        };
        let elements = self.leases.all().into_iter().flat_map(ports);
        let requests = firewall::install(&self.config.bridge, self.subnet, self.range6, elements);
        let families = if self.range6.is_some() { &Family::BOTH[..] } else { &[Family::V4] };
        let Err(error) = self.commit(&requests) else {
            // That of a time when there was IPv6.
            return if self.range6.is_none() { self.delete_tables(&[Family::V6]) } else { Ok(()) };
        };
        if error.kind() == Kind::Denied {
            return Err(error);
        }
        let missing: Vec<_> = families.iter().flat_map(|family| wire::missing_features(*family)).collect();
        if missing.is_empty() {
            return Err(error);
        }
        let needs =
            format!("this kernel lacks parts of nftables that the pod network needs: {}", missing.join(", "));
        Err(error.context(&needs).with_kind(Kind::Unsupported))
    }

    pub(super) fn delete_tables(&self, families: &[Family]) -> Result<(), Error> {
        for family in families {
            if wire::exists(&self.netfilter(), *family, &self.config.bridge)? {
                self.commit(&[Request { family: *family, change: Change::DeleteTable }])?;
            }
        }
        Ok(())
    }

    pub(super) fn commit(&self, requests: &[Request]) -> Result<(), Error> {
        wire::commit(&self.netfilter(), &self.config.bridge, requests)
    }

    pub(super) fn netfilter(&self) -> MutexGuard<'_, Socket> {
        self.netfilter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fit_localnet_after(&self, ports: &[PortMapping]) -> Result<(), Error> {
        if ports.iter().any(firewall::on_loopback) { self.fit_localnet() } else { Ok(()) }
    }

    /// Routes 127.0.0.0/8 over the bridge as long as a pod has a host port there, and not longer: should somebody flush the
    /// nftables rules that guard it, the host's loopback services would be open to pods.
    pub(super) fn fit_localnet(&self) -> Result<(), Error> {
        let _one_at_a_time = self.localnet.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = self.leases.any_port(firewall::on_loopback);
        host::route_localnet(&self.config.bridge, needed).map(drop)
    }

    /// Names who holds the element; another process may have written it.
    fn port_conflict(&self, ports: &[PortMapping], error: Error) -> Error {
        let held = wire::elements(&self.netfilter(), &self.config.bridge).unwrap_or_default();
        let somebody = Addresses { ip: Ipv4Addr::UNSPECIFIED, ip6: Some(Ipv6Addr::UNSPECIFIED) };
        let same = |a: &Element, b: &Element| a.family() == b.family() && a.key() == b.key();
        let taken = ports.iter().find_map(|port| {
            let wanted = firewall::elements("", somebody, std::slice::from_ref(port));
            let holder = held.iter().find(|held| wanted.iter().any(|wanted| same(wanted, held)))?;
            Some((port, &holder.owner))
        });
        match taken {
            Some((port, owner)) => Error::new(Kind::Busy, format!("host port {port}: taken by {owner}")),
            None => error.with_kind(Kind::Busy),
        }
    }

    /// Forgets connections by a host port. It is no reason to fail if that does not work.
    fn forget(&self, port: &PortMapping, ips: Addresses, stale: impl Fn(&conntrack::Flow) -> bool) {
        let protocol = firewall::protocol_number(port.protocol);
        for element in firewall::elements("", ips, std::slice::from_ref(port)) {
            let (family, socket) = (element.family(), self.netfilter());
            if let Err(error) = conntrack::forget(&socket, family, protocol, port.host_port, &stale) {
                tracing::warn!(%error, %port, "senders may go on reaching the former owner of the port");
            }
        }
    }
}

/// Whether it is the pod who answers, at the port that the mapping leads to.
fn answers(flow: &conntrack::Flow, ips: Addresses, port: &PortMapping) -> bool {
    ips.contains(flow.answers.0) && flow.answers.1 == port.container_port
}

/// Refuses ports that cannot be, or on which a process of the host listens.
pub(super) fn check(ports: &[PortMapping], has_ipv6: bool) -> Result<(), Error> {
    for (index, port) in ports.iter().enumerate() {
        if port.host_port == 0 || port.container_port == 0 {
            return Err(Error::new(Kind::Invalid, format!("host port {port}: ports are 1 to 65535")));
        }
        if let Some(IpAddr::V6(ip)) = port.host_ip {
            check_ipv6(port, ip, has_ipv6)?;
        }
        if ports[..index].iter().any(|earlier| lease::collide(earlier, port)) {
            return Err(Error::new(Kind::Invalid, format!("host port {port}: asked for twice")));
        }
        let taken = |family: Family| firewall::answers_for(port, family) && is_taken(port, family);
        if taken(Family::V4) || has_ipv6 && taken(Family::V6) {
            let message = format!(
                "host port {port}: a process of the host listens there; stop it or take another port"
            );
            return Err(Error::new(Kind::Busy, message));
        }
    }
    Ok(())
}

fn check_ipv6(port: &PortMapping, ip: Ipv6Addr, has_ipv6: bool) -> Result<(), Error> {
    let refused = |kind, why: &str| Err(Error::new(kind, format!("host port {port}: {why}")));
    if ip.to_ipv4_mapped().is_some() {
        return refused(Kind::Invalid, "this is an address of IPv4; write it as such");
    }
    if !has_ipv6 {
        return refused(Kind::Unsupported, "pods of this network have no IPv6");
    }
    if ip.is_loopback() {
        return refused(
            Kind::Unsupported,
            "the kernel lets no packet from or to ::1 leave the host; take 127.0.0.1 or another address",
        );
    }
    Ok(())
}

fn is_taken(port: &PortMapping, family: Family) -> bool {
    match port.protocol {
        // Asking for such a socket would load the kernel's module.
        Protocol::Sctp => has_endpoint(port.host_port),
        Protocol::Tcp | Protocol::Udp => cannot_bind(port, family) && has_listener(port, family),
    }
}

fn connectionless(port: &PortMapping) -> bool {
    port.protocol != Protocol::Tcp
}

/// Whether the kernel refuses the port to a socket of ours. So it does for a passing connection of some client, too.
fn cannot_bind(port: &PortMapping, family: Family) -> bool {
    let kind = if port.protocol == Protocol::Udp { SocketType::DGRAM } else { SocketType::STREAM };
    let domain = AddressFamily::from_raw(family.number().into());
    let address = SocketAddr::new(port.host_ip.unwrap_or(family.unspecified()), port.host_port);
    let bound = net::socket_with(domain, kind, SocketFlags::CLOEXEC, None).and_then(|socket| {
        if port.protocol == Protocol::Tcp {
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        if family == Family::V6 {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        net::bind(&socket, &address)
    });
    bound == Err(Errno::ADDRINUSE)
}

/// Whether a socket waits at the port for whoever comes.
#[expect(clippy::disallowed_methods, reason = "the host's own /proc")]
fn has_listener(port: &PortMapping, family: Family) -> bool {
    let (name, state) = match port.protocol {
        Protocol::Udp => ("udp", UNCONNECTED),
        _ => ("tcp", LISTENING),
    };
    // A socket of IPv6 may take IPv4, too.
    let versions = if family == Family::V4 { &["", "6"][..] } else { &["6"] };
    versions.iter().any(|version| {
        // The thread's namespace, not that of the process.
        let path = format!("/proc/thread-self/net/{name}{version}");
        fs::read_to_string(path).is_ok_and(|table| lists(&table, port.host_port, state))
    })
}

/// Whether a process waits for SCTP associations at the port. Where the module is not loaded there is none.
#[expect(clippy::disallowed_methods, reason = "the host's own /proc")]
fn has_endpoint(port: u16) -> bool {
    fs::read_to_string("/proc/thread-self/net/sctp/eps").is_ok_and(|table| lists_endpoint(&table, port))
}

/// Whether the table of SCTP endpoints has one with this port that listens.
fn lists_endpoint(table: &str, port: u16) -> bool {
    // ENDPT SOCK STY SST HBKT LPORT …; SST is a state of TCP, in decimal.
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields.get(3) == Some(&"10") && fields.get(5) == Some(&port.to_string().as_str())
    })
}

/// Whether a table of `/proc/net` has a socket with this local port in this state.
fn lists(table: &str, port: u16, state: &str) -> bool {
    let ending = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _remote) = (fields.next(), fields.next());
        local.is_some_and(|local| local.ends_with(&ending)) && fields.next() == Some(state)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
";
        assert!(lists(table, 22, LISTENING));
        assert!(!lists(table, 8080, LISTENING) && lists(table, 8080, "01"));
        assert!(!lists(table, 16, LISTENING) && !lists("", 22, LISTENING));
        let endpoints = "\
 ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS
ffff8880 ffff8881 2   10  29   9999     0 12345 0.0.0.0
ffff8882 ffff8883 0   7   31   10       0 12346 127.0.0.1
";
        assert!(lists_endpoint(endpoints, 9999));
        assert!(!lists_endpoint(endpoints, 10), "a client");
        assert!(!lists_endpoint(endpoints, 29) && !lists_endpoint("", 9999));
    }
}
