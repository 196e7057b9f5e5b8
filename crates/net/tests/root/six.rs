//! IPv6: what pods have of it, and what nobody may do with it.

#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is their way to fail.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use vaquita_net::{Config, Kind, Network, PortMapping, Protocol, Subnet6, inventory};
use vaquita_sys::ns;

use crate::world::{Host, Pod, a_sender_follows, eventually, ip, run, talk, talk_udp, tcp, unreachable};
use crate::{FREE, SUBNET};

fn given(host: &Host, bridge: &str, subnet: &str, six: &str) -> Config {
    Config { subnet6: Subnet6::Given(six.parse().unwrap(), 64), ..host.config(bridge, subnet) }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside_at_once() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let outside = Network::open(given(&host, "out0", "192.0.2.0/24", "2001:db8::")).unwrap();
        let (a, b) = (Host::pod(&network, "a", &[]), Host::pod(&network, "b", &[]));
        let machine = Host::pod(&outside, "machine", &[]);
        assert_eq!(machine.at.addresses(), [address("192.0.2.2"), address("2001:db8::2")]);
        // The addresses of each link alone come when the kernel has seen that it is up. (`ip` would have it look.)
        let seen = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        for (links, link) in [(seen(), "br0"), (seen(), "out0"), (a.run(seen), "eth0"), (b.run(seen), "eth0")]
        {
            let found = links.lines().any(|line| line.starts_with("fe80") && line.ends_with(link));
            assert!(found, "{link} is up and the kernel knows: {links}");
        }
        let IpAddr::V6(six) = a.six() else { panic!("{:?}", a.at) };
        assert_eq!(
            (six.octets()[0], six.segments()[7]),
            (0xfd, 2),
            "a unique local address, with the IPv4 number"
        );
        assert_eq!(network.attachment("a").as_ref(), Some(&a.at));

        let server = b.listen(80);
        assert_eq!(a.run(|| talk(&server, b.six(), 80)), a.six(), "without masquerade");
        let gateway = Ipv6Addr::from_bits(six.to_bits() & !0xffff | 1);
        assert_eq!(talk(&server, b.six(), 80), gateway, "from the host");
        let on_host = TcpListener::bind((gateway, 9)).unwrap();
        assert_eq!(a.run(|| talk(&on_host, gateway, 9)), a.six());
        let far = machine.listen(80);
        assert_eq!(a.run(|| talk(&far, address("2001:db8::2"), 80)), address("2001:db8::1"), "masqueraded");
        let socket = machine.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)).unwrap());
        a.run(|| talk_udp(&socket, address("2001:db8::2"), 53));
        let in_a = a.listen(70);
        assert!(a.run(|| talk(&in_a, Ipv6Addr::LOCALHOST, 70)).is_loopback(), "lo has it, too");
        // Nothing of it waits until it is sure to be the only one.
        for pod in [&a, &b] {
            let shown = pod.run(|| run("ip", "iproute2", &["-6", "addr", "show", "dev", "eth0"]));
            assert!(shown.contains("scope global nodad") && !shown.contains("tentative"), "{shown}");
        }
    });
}

#[test]
fn a_host_port_answers_on_ipv6() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let outside = Network::open(given(&host, "out0", "192.0.2.0/24", "2001:db8::")).unwrap();
        let machine = Host::pod(&outside, "machine", &[]);
        let udp = PortMapping { protocol: Protocol::Udp, ..tcp(53, 5353) };
        let six_only = PortMapping { host_ip: Some(address("::")), ..tcp(8081, 81) };
        let four_only = PortMapping { host_ip: Some(address("0.0.0.0")), ..tcp(8082, 82) };
        let at = PortMapping { host_ip: Some(address("2001:db8::1")), ..tcp(8083, 83) };
        let web = Host::pod(&network, "web", &[tcp(8080, 80), udp, six_only, four_only, at]);
        let other = Host::pod(&network, "other", &[]);
        let server = web.listen(80);
        let node = address("2001:db8::1");

        talk(&server, node, 8080);
        talk(&server, Ipv4Addr::new(192, 0, 2, 1), 8080);
        machine.run(|| talk(&server, node, 8080));
        other.run(|| talk(&server, node, 8080));
        web.run(|| talk(&server, node, 8080));
        let socket = web.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 5353)).unwrap());
        machine.run(|| talk_udp(&socket, node, 53));
        let [six_server, four_server, at_server] = [81, 82, 83].map(|port| web.listen(port));
        machine.run(|| talk(&six_server, node, 8081));
        machine.run(|| talk(&four_server, Ipv4Addr::new(192, 0, 2, 1), 8082));
        machine.run(|| talk(&at_server, node, 8083));
        assert!(machine.run(|| unreachable(Ipv4Addr::new(192, 0, 2, 1), 8081)), "IPv6 only");
        assert!(machine.run(|| unreachable(node, 8082)), "IPv4 only");
        let gateway = network.attachment("other").unwrap().gateway;
        assert!(other.run(|| unreachable(gateway, 8083)), "on one address only");
        // The kernel lets nothing from ::1 out of the host; whoever tries is told so and takes 127.0.0.1.
        let refused = std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, 8080)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

        // T50: traffic that only passes through the host is nobody's host port (CVE-2025-67499).
        let elsewhere = machine.listen(8080);
        other.run(|| talk(&elsewhere, machine.six(), 8080));

        network.detach("web").unwrap();
        assert!(unreachable(node, 8080) && machine.run(|| unreachable(node, 8080)));
    });
}

/// As with IPv4: the kernel remembers where a stream of datagrams went.
#[test]
fn a_sender_of_datagrams_follows_the_port_on_ipv6() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let outside = Network::open(given(&host, "out0", "192.0.2.0/24", "2001:db8::")).unwrap();
        let machine = Host::pod(&outside, "machine", &[]);
        let port = PortMapping { protocol: Protocol::Udp, ..tcp(53, 5353) };
        a_sender_follows(&network, &machine, address("2001:db8::1"), port);
    });
}

#[test]
fn host_ports_that_cannot_be_are_refused() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let before = inventory(&config).unwrap();
        let netns = ns::new_netns().unwrap();
        let refusal = |network: &Network, ip: &str, port: u16| {
            let port = PortMapping { host_ip: (!ip.is_empty()).then(|| address(ip)), ..tcp(port, 80) };
            let error = network.attach("a", netns.as_fd(), &[port], FREE).unwrap_err();
            (error.kind(), error.to_string())
        };
        let (kind, text) = refusal(&network, "::1", 8080);
        assert_eq!(kind, Kind::Unsupported);
        assert_eq!(
            text,
            "host port [::1]:8080/tcp -> 80: the kernel lets no packet from or to ::1 leave the host; take 127.0.0.1 or \
             another address"
        );
        assert_eq!(refusal(&network, "::ffff:127.0.0.1", 8080).0, Kind::Invalid);
        let _listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 8080)).unwrap();
        for ip in ["", "::"] {
            let (kind, text) = refusal(&network, ip, 8080);
            assert_eq!(kind, Kind::Busy, "{text}");
            assert!(text.ends_with("a process of the host listens there; stop it or take another port"), "{text}");
        }
        assert_eq!(inventory(&config).unwrap(), before);
        let four = PortMapping { host_ip: Some(address("0.0.0.0")), ..tcp(8080, 80) };
        network.attach("four", netns.as_fd(), &[four], FREE).unwrap();

        let off = Config { subnet6: Subnet6::Off, ..host.config("br1", "10.202.0.0/16") };
        let off = Network::open(off).unwrap();
        let (kind, text) = refusal(&off, "2001:db8::1", 1);
        assert_eq!(kind, Kind::Unsupported);
        assert_eq!(text, "host port [2001:db8::1]:1/tcp -> 80: pods of this network have no IPv6");
    });
}

/// T49: a pod that announces itself as a router is heard by nobody (CVE-2020-10749).
#[test]
fn cve_2020_10749_no_pod_is_taken_for_a_router() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let (evil, victim) = (Host::pod(&network, "evil", &[]), Host::pod(&network, "victim", &[]));
        for link in ["br0", &victim.at.host_link] {
            assert_eq!(host.sysctl(&format!("ipv6/conf/{link}/accept_ra")), "0", "{link}");
        }
        assert_eq!(host.sysctl(&format!("ipv6/conf/{}/disable_ipv6", victim.at.host_link)), "1");
        let routes = || run("ip", "iproute2", &["-6", "route", "show"]);
        let addresses = || run("ip", "iproute2", &["-6", "addr", "show", "scope", "global"]);
        let state = || (routes(), addresses(), victim.run(routes), victim.run(addresses));
        // The routes of each link alone come when the kernel has seen that it is up.
        eventually(|| routes().contains("fe80::/64") && victim.run(routes).contains("fe80::/64"));
        let before = state();
        let heard = || {
            let table = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
            let line = table.lines().find(|line| line.starts_with("Icmp6InRouterAdvertisements")).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        advertise(&evil);
        eventually(|| heard() > 0 && victim.run(heard) > 0);
        assert_eq!(state(), before);

        // That it is this setting which keeps it off: with it the advertisement is believed.
        victim.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1").unwrap());
        advertise(&evil);
        eventually(|| victim.run(routes).contains("proto ra"));
    });
}

/// Sends a router advertisement with a default route and a prefix to all nodes of the pod's link.
fn advertise(pod: &Pod) {
    pod.run(|| {
        let socket = rustix::net::socket_with(
            AddressFamily::INET6,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(ipproto::ICMPV6),
        )
        .unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        // Not from /sys, which shows the links of the namespace in which it was mounted.
        let shown = run("ip", "iproute2", &["-o", "link", "show", "dev", "eth0"]);
        let index = shown.split(':').next().unwrap().trim().parse().unwrap();
        // Type 134, hop limit 64, lifetime 1800 s; then the option of a prefix for routes and addresses (RFC 4861, 4.2).
        let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
        message.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
        let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        // The address of the link alone, which it is sent from, comes when the kernel has seen that the link is up.
        eventually(|| rustix::net::sendto(&socket, &message, SendFlags::empty(), &everybody).is_ok());
    });
}

/// A host that learns its own route from advertisements goes on to do so when it begins to forward.
#[test]
fn forwarding_keeps_the_routes_of_the_host() {
    let host = Host::new();
    host.run(|| {
        ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
        ip(&["link", "add", "quiet0", "type", "bridge"]);
        std::fs::write("/proc/sys/net/ipv6/conf/quiet0/accept_ra", "0").unwrap();
        Network::open(Config { subnet6: Subnet6::Off, ..host.config("br0", SUBNET) }).unwrap();
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "0", "not needed, not touched");
        assert_eq!(host.sysctl("ipv6/conf/up0/accept_ra"), "1");
        let _network = Network::open(host.config("br0", SUBNET)).unwrap();
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "1");
        assert_eq!(host.sysctl("ipv6/conf/up0/accept_ra"), "2");
        assert_eq!(host.sysctl("ipv6/conf/quiet0/accept_ra"), "0");
        assert_eq!(host.sysctl("ipv6/conf/default/accept_ra"), "1");
        assert_eq!(host.sysctl("ipv6/conf/br0/accept_ra"), "0");
    });
}

#[test]
fn a_host_without_ipv6_gives_ipv4_alone_unless_asked_for_more() {
    let host = Host::new();
    host.run(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let error = Network::open(given(&host, "br0", SUBNET, "2001:db8::")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(error.to_string(), "subnet 2001:db8::/64: net.ipv6.conf.all.disable_ipv6 is set");
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let (a, b) = (Host::pod(&network, "a", &[tcp(8080, 80)]), Host::pod(&network, "b", &[]));
        assert_eq!(a.at.ip6, None);
        let server = a.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap());
        b.run(|| talk(&server, a.at.ip, 80));
        talk(&server, Ipv4Addr::LOCALHOST, 8080);
        assert_eq!(host.sysctl("ipv6/conf/br0/disable_ipv6"), "1");
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "0");
    });
}

/// Pods keep what they have when the network is opened with another configuration.
#[test]
fn ipv6_comes_and_goes_with_the_configuration() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let off = Config { subnet6: Subnet6::Off, ..config.clone() };
        let old = Host::pod(&Network::open(off.clone()).unwrap(), "old", &[tcp(8080, 80)]);
        let network = Network::open(config.clone()).unwrap();
        assert_eq!(network.attachment("old").as_ref(), Some(&old.at), "a pod without stays without");
        let new = Host::pod(&network, "new", &[tcp(8081, 81)]);
        assert_eq!(new.at.addresses().len(), 2);
        let (old_server, new_server) = (old.listen(80), new.listen(81));
        new.run(|| talk(&old_server, old.at.ip, 80));
        talk(&old_server, Ipv4Addr::LOCALHOST, 8080);
        talk(&new_server, new.six(), 81);
        drop(network);

        let network = Network::open(off).unwrap();
        assert!(
            inventory(&config)
                .unwrap()
                .iter()
                .all(|one| !one.name.contains("ip6") && !one.name.contains("[::]"))
        );
        talk(&new_server, Ipv4Addr::LOCALHOST, 8081);
        network.detach("new").unwrap();
        network.detach("old").unwrap();
        assert!(
            inventory(&config).unwrap().iter().all(|one| one.kind.is_shared() || one.name.starts_with("vq"))
        );
    });
}

#[test]
fn ipv6_subnets_of_others_are_left_alone() {
    let host = Host::new();
    host.run(|| {
        ip(&["link", "add", "lan0", "type", "bridge"]);
        ip(&["link", "set", "lan0", "up"]);
        ip(&["addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad"]);
        let error = Network::open(given(&host, "br0", SUBNET, "2001:db8::")).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(
            error.to_string(),
            "subnet 2001:db8::/64 of the pods overlaps 2001:db8::1/64 of lan0; configure another subnet"
        );
        let none = Config { subnet6: Subnet6::Given(address6("fe80::"), 64), ..host.config("br1", SUBNET) };
        assert_eq!(Network::open(none).unwrap_err().kind(), Kind::Invalid);
    });
}

fn address6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}
