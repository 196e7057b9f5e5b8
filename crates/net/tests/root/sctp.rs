//! Host ports of SCTP. Many kernels have no such sockets, so the packets are made by hand.

#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is their way to fail.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use vaquita_net::{Config, Network, PortMapping, Protocol, Subnet6};

use crate::SUBNET;
use crate::world::{Host, tcp};

/// Its number in the IP header.
const SCTP: u32 = 132;
const CLIENT: u16 = 40000;

#[test]
fn an_association_to_a_host_port_reaches_the_pod() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let subnet6 = Subnet6::Given("2001:db8::".parse().unwrap(), 64);
        let outside = Network::open(Config { subnet6, ..host.config("out0", "192.0.2.0/24") }).unwrap();
        let machine = Host::pod(&outside, "machine", &[]);
        let port = PortMapping { protocol: Protocol::Sctp, ..tcp(9, 10) };
        let pod = Host::pod(&network, "pod", &[port]);
        let node: [IpAddr; 2] =
            [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
        for (to, inside) in node.into_iter().zip(pod.at.addresses()) {
            let (client, server) = (machine.run(|| raw(to)), pod.run(|| raw(inside)));
            net::sendto(&client, &init(CLIENT, 9), SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
            let (packet, peer) = receive(&server, inside);
            // The way out of the machine's network is masqueraded, so the port that it came from is another.
            let (from, port) = ports(&packet);
            assert_eq!(port, 10, "to {to}");
            assert_eq!(packet[8..12], packet_checksum(&packet), "rewritten, too");

            // The answer comes from where the client sent to: here an abort, which ends it.
            let abort = sealed(10, from, 1, &[6, 0, 0, 4]);
            net::sendto(&server, &abort, SendFlags::empty(), &peer).unwrap();
            let (answer, peer) = receive(&client, to);
            assert_eq!((ports(&answer), peer.ip()), ((9, CLIENT), to));
        }
    });
}

fn raw(like: IpAddr) -> OwnedFd {
    let family = if like.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = net::Protocol::from_raw(SCTP.try_into().unwrap());
    let socket = net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(std::time::Duration::from_secs(20)))
        .unwrap();
    socket
}

/// What a raw socket gives, without the IP header that IPv4 has in front of it, and who sent it.
fn receive(socket: &OwnedFd, family: IpAddr) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 256];
    let (length, _, from) = net::recvfrom(socket, &mut buffer, RecvFlags::empty()).unwrap();
    let header = if family.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
    let from: SocketAddr = from.unwrap().try_into().unwrap();
    (buffer[header..length].to_vec(), SocketAddr::new(from.ip(), 0))
}

fn ports(packet: &[u8]) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(0), port(2))
}

/// The first packet of an association (RFC 9260, 3.3.2): tag 1, a window, one stream each way, a sequence number.
fn init(from: u16, to: u16) -> Vec<u8> {
    let mut chunk = vec![1, 0, 0, 20];
    chunk.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    sealed(from, to, 0, &chunk)
}

fn sealed(from: u16, to: u16, tag: u32, chunk: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunk);
    let checksum = packet_checksum(&packet);
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// CRC-32C over the packet with zeros in the checksum's place.
fn packet_checksum(packet: &[u8]) -> [u8; 4] {
    let bytes = packet.iter().enumerate().map(|(at, byte)| if (8..12).contains(&at) { 0 } else { *byte });
    let crc = bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    (!crc).to_le_bytes()
}
