//! The part of a network that is about host ports: the nftables table and what goes with it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::Network;
use crate::firewall::{self, Change, wire};
use crate::lease::{self, Lease};
use crate::link;
use crate::netlink::Socket;
use crate::{Error, Kind, PortMapping, Protocol, conntrack, host};

/// `TCP_LISTEN` and, for a datagram socket without a peer, `TCP_CLOSE` as `/proc/net/{tcp,udp}` print them.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

impl Network {
    /// Opens all or none.
    pub(super) fn open_ports(&self, owner: &str, ip: Ipv4Addr, ports: &[PortMapping]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> =
            firewall::elements(owner, ip, ports).into_iter().map(Change::AddElement).collect();
        match self.commit(&changes) {
            // Somebody flushed the ruleset. The table is made anew from the leases, which have these ports already.
            Err(error) if error.kind() == Kind::NotFound => self.install()?,
            Err(error) if error.kind() == Kind::Exists => return Err(self.port_conflict(ports, error)),
            added => added?,
        }
        if ports.iter().any(connectionless) {
            let local = Socket::route().and_then(|socket| link::addresses(&socket)).unwrap_or_default();
            let is_local = |ip: Ipv4Addr| ip.is_loopback() || local.iter().any(|address| address.ip == ip);
            for port in ports.iter().filter(|port| connectionless(port)) {
                self.forget(port, |flow| is_local(flow.to) && flow.answers != (ip, port.container_port));
            }
        }
        Ok(())
    }

    /// Closes those that are open. They must be the owner's, which they are once it was attached.
    pub(super) fn close_ports(&self, owner: &str, ip: Ipv4Addr, ports: &[PortMapping]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> =
            firewall::elements(owner, ip, ports).into_iter().map(Change::DeleteElement).collect();
        match self.commit(&changes) {
            Err(error) if error.kind() == Kind::NotFound => {
                // One of them is gone already, so none was removed: a transaction each.
                for change in &changes {
                    match self.commit(std::slice::from_ref(change)) {
                        Err(error) if error.kind() == Kind::NotFound => {}
                        removed => removed?,
                    }
                }
            }
            removed => removed?,
        }
        for port in ports.iter().filter(|port| connectionless(port)) {
            self.forget(port, |flow| flow.answers == (ip, port.container_port));
        }
        Ok(())
    }

    /// Puts the table in place with the ports of all leases.
    pub(super) fn install(&self) -> Result<(), Error> {
        let ports = |(ip, lease): (Ipv4Addr, Lease)| firewall::elements(&lease.owner, ip, &lease.ports);
        let elements = self.leases.all().into_iter().flat_map(ports);
        let changes = firewall::install(&self.config.bridge, self.subnet, elements);
        let Err(error) = self.commit(&changes) else { return Ok(()) };
        if error.kind() == Kind::Denied {
            return Err(error);
        }
        let missing = wire::missing_features();
        if missing.is_empty() {
            return Err(error);
        }
        let needs =
            format!("this kernel lacks parts of nftables that the pod network needs: {}", missing.join(", "));
        Err(error.context(&needs).with_kind(Kind::Unsupported))
    }

    pub(super) fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        wire::commit(&self.netfilter(), &self.config.bridge, changes)
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
        let wanted = firewall::elements("", Ipv4Addr::UNSPECIFIED, ports);
        let taken = wanted.iter().zip(ports).find_map(|(wanted, port)| {
            let holder = held.iter().find(|held| held.key() == wanted.key())?;
            Some((port, &holder.owner))
        });
        match taken {
            Some((port, owner)) => Error::new(Kind::Busy, format!("host port {port}: taken by {owner}")),
            None => error.with_kind(Kind::Busy),
        }
    }

    /// Forgets connections by a host port. It is no reason to fail if that does not work.
    fn forget(&self, port: &PortMapping, stale: impl Fn(&conntrack::Flow) -> bool) {
        let protocol = firewall::protocol_number(port.protocol);
        if let Err(error) = conntrack::forget(&self.netfilter(), protocol, port.host_port, stale) {
            tracing::warn!(%error, %port, "senders may go on reaching the former owner of the port");
        }
    }
}

/// Refuses ports that cannot be, or on which a process of the host listens.
pub(super) fn check(ports: &[PortMapping]) -> Result<(), Error> {
    for (index, port) in ports.iter().enumerate() {
        if port.host_port == 0 || port.container_port == 0 {
            return Err(Error::new(Kind::Invalid, format!("host port {port}: ports are 1 to 65535")));
        }
        if let Some(IpAddr::V6(ip)) = port.host_ip
            && !ip.is_unspecified()
        {
            let message =
                format!("host port {port}: host addresses of IPv6 are not supported, pods have IPv4 only");
            return Err(Error::new(Kind::Unsupported, message));
        }
        if ports[..index].iter().any(|earlier| lease::collide(earlier, port)) {
            return Err(Error::new(Kind::Invalid, format!("host port {port}: asked for twice")));
        }
        if cannot_bind(port) && has_listener(port) {
            let message = format!(
                "host port {port}: a process of the host listens there; stop it or take another port"
            );
            return Err(Error::new(Kind::Busy, message));
        }
    }
    Ok(())
}

fn connectionless(port: &PortMapping) -> bool {
    port.protocol != Protocol::Tcp
}

/// Whether the kernel refuses the port to a socket of ours. So it does for a passing connection of some client, too.
fn cannot_bind(port: &PortMapping) -> bool {
    let kind = match port.protocol {
        Protocol::Sctp => return false,
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let ip = match port.host_ip {
        Some(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let bound = net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).and_then(|socket| {
        if port.protocol == Protocol::Tcp {
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        net::bind(&socket, &SocketAddrV4::new(ip, port.host_port))
    });
    bound == Err(Errno::ADDRINUSE)
}

/// Whether a socket waits at the port for whoever comes.
fn has_listener(port: &PortMapping) -> bool {
    let (name, state) = match port.protocol {
        Protocol::Udp => ("udp", UNCONNECTED),
        _ => ("tcp", LISTENING),
    };
    ["", "6"].iter().any(|version| {
        // The thread's namespace, not that of the process.
        let path = format!("/proc/thread-self/net/{name}{version}");
        fs::read_to_string(path).is_ok_and(|table| lists(&table, port.host_port, state))
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
    }
}
