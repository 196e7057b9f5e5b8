//! The pod network on a real kernel. Each test makes a network namespace of its own and plays host in it, so that nothing
//! touches the machine's network and tests run side by side.
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

#[path = "root/bandwidth.rs"]
mod bandwidth;
#[path = "root/sctp.rs"]
mod sctp;
#[path = "root/six.rs"]
mod six;
#[path = "root/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use vaquita_net::{
    Bandwidth, Config, Kind, Network, PortMapping, Protocol, Resource, ResourceKind, Subnet6, inventory,
};
use vaquita_sys::ns;
use world::{Host, Pod, a_sender_follows, eventually, ip, nft, run, talk, talk_udp, tcp, unreachable};

const SUBNET: &str = "10.201.0.0/16";
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const FREE: Bandwidth = Bandwidth { ingress: None, egress: None };

#[test]
fn two_pods_reach_each_other_and_their_gateway() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let (a, b) = (Host::pod(&network, "a", &[]), Host::pod(&network, "b", &[]));
        assert_eq!((a.at.ip, b.at.ip), (Ipv4Addr::new(10, 201, 0, 2), Ipv4Addr::new(10, 201, 0, 3)));
        assert_eq!((a.at.gateway, a.at.prefix), (Ipv4Addr::new(10, 201, 0, 1), 16));
        assert_eq!(network.attachment("a").as_ref(), Some(&a.at));
        let server = b.listen(80);
        assert_eq!(a.run(|| talk(&server, b.at.ip, 80)), a.at.ip, "without masquerade");
        assert_eq!(talk(&server, b.at.ip, 80), a.at.gateway, "from the host");
        let on_host = std::net::TcpListener::bind((a.at.gateway, 9)).unwrap();
        assert_eq!(a.run(|| talk(&on_host, a.at.gateway, 9)), a.at.ip);
        let in_a = a.listen(70);
        assert!(a.run(|| talk(&in_a, LOOPBACK, 70)).is_loopback(), "lo is up");
    });
}

#[test]
fn without_ipv6_there_is_none_on_host_links_nor_in_the_pod() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(Config { subnet6: Subnet6::Off, ..host.config("br0", SUBNET) }).unwrap();
        let pod = Host::pod(&network, "a", &[]);
        for link in ["br0", &pod.at.host_link] {
            assert_eq!(host.sysctl(&format!("ipv6/conf/{link}/accept_ra")), "0", "{link}");
            assert_eq!(host.sysctl(&format!("ipv6/conf/{link}/disable_ipv6")), "1", "{link}");
        }
        let addresses = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
        assert!(!addresses.contains("eth0"), "{addresses}");
        assert_eq!((pod.at.ip6, pod.at.addresses()), (None, vec![pod.at.ip.into()]));
        assert_eq!(
            (host.sysctl("ipv4/ip_forward"), host.sysctl("ipv6/conf/all/forwarding")),
            ("1".into(), "0".into())
        );
    });
}

#[test]
fn links_are_made_as_meant() {
    let host = Host::new();
    host.run(|| {
        ip(&["link", "add", "up0", "mtu", "1280", "type", "bridge"]);
        ip(&["link", "set", "up0", "up"]);
        ip(&["addr", "add", "192.0.2.2/24", "dev", "up0"]);
        ip(&["route", "add", "default", "via", "192.0.2.1"]);
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let pod = Host::pod(&network, "a", &[]);
        let outer = run("ip", "iproute2", &["-d", "-o", "link", "show", &pod.at.host_link]);
        for part in ["mtu 1280", "master br0", "hairpin on", "state UP", "alias br0/a", "numtxqueues 1 "] {
            assert!(outer.contains(part), "{part}: {outer}");
        }
        let inner = pod.run(|| run("ip", "iproute2", &["-d", "-o", "addr", "show", "dev", "eth0"]));
        let link = pod.run(|| run("ip", "iproute2", &["-o", "link", "show", "dev", "eth0"]));
        assert!(inner.contains("inet 10.201.0.2/16 brd 10.201.255.255 scope global eth0"), "{inner}");
        assert!(link.contains("mtu 1280") && link.contains("link/ether 0a:58:0a:c9:00:02"), "{link}");
        assert_eq!(pod.at.mac, [0x0a, 0x58, 10, 201, 0, 2]);
        let bridge = run("ip", "iproute2", &["-o", "link", "show", "br0"]);
        assert!(bridge.contains("link/ether 0a:58:0a:c9:00:01") && bridge.contains("mtu 1280"), "{bridge}");

        let jumbo = Network::open(Config { mtu: Some(9000), ..host.config("br1", "10.202.0.0/16") }).unwrap();
        let pod = Host::pod(&jumbo, "b", &[]);
        let link = pod.run(|| run("ip", "iproute2", &["-o", "link", "show", "dev", "eth0"]));
        assert!(link.contains("mtu 9000"), "{link}");
    });
}

/// Two networks on one host: a "pod" of the second plays a machine somewhere outside.
#[test]
fn pods_reach_the_outside_by_the_hosts_address() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let outside = Network::open(host.config("out0", "192.0.2.0/24")).unwrap();
        let (pod, machine) = (Host::pod(&network, "pod", &[]), Host::pod(&outside, "machine", &[]));
        let server = machine.listen(80);
        assert_eq!(pod.run(|| talk(&server, machine.at.ip, 80)), machine.at.gateway, "masqueraded");
        let socket = machine.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap());
        pod.run(|| talk_udp(&socket, machine.at.ip, 53));
    });
}

#[test]
fn a_host_port_answers_everywhere_it_should() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let outside = Network::open(host.config("out0", "192.0.2.0/24")).unwrap();
        let machine = Host::pod(&outside, "machine", &[]);
        let udp = PortMapping { host_ip: None, host_port: 53, container_port: 5353, protocol: Protocol::Udp };
        let web = Host::pod(&network, "web", &[tcp(8080, 80), udp]);
        let other = Host::pod(&network, "other", &[]);
        let server = web.listen(80);

        talk(&server, LOOPBACK, 8080);
        talk(&server, web.at.gateway, 8080);
        talk(&server, machine.at.gateway, 8080);
        machine.run(|| talk(&server, machine.at.gateway, 8080));
        other.run(|| talk(&server, machine.at.gateway, 8080));
        web.run(|| talk(&server, machine.at.gateway, 8080));
        web.run(|| talk(&server, web.at.gateway, 8080));
        let socket = web.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).unwrap());
        talk_udp(&socket, LOOPBACK, 53);
        machine.run(|| talk_udp(&socket, machine.at.gateway, 53));

        // Traffic that only passes through the host is nobody's host port (CVE-2025-67499).
        let elsewhere = machine.listen(8080);
        other.run(|| talk(&elsewhere, machine.at.ip, 8080));

        network.detach("web").unwrap();
        assert!(unreachable(LOOPBACK, 8080) && machine.run(|| unreachable(machine.at.gateway, 8080)));
    });
}

#[test]
fn a_host_port_on_one_address_is_on_that_only() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let _outside = Network::open(host.config("out0", "192.0.2.0/24")).unwrap();
        let at = |ip: &str, container_port| PortMapping {
            host_ip: Some(ip.parse().unwrap()),
            ..tcp(8080, container_port)
        };
        let pod = Host::pod(&network, "a", &[at("192.0.2.1", 80)]);
        let local = Host::pod(&network, "b", &[at("127.0.0.1", 81)]);
        let (server, local_server) = (pod.listen(80), local.listen(81));
        talk(&server, Ipv4Addr::new(192, 0, 2, 1), 8080);
        talk(&local_server, LOOPBACK, 8080);
        assert!(unreachable(pod.at.gateway, 8080));
    });
}

/// The kernel remembers where a stream of datagrams went; a new owner of the port must get it all the same.
#[test]
fn a_sender_of_datagrams_follows_the_port() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let outside = Network::open(host.config("out0", "192.0.2.0/24")).unwrap();
        let machine = Host::pod(&outside, "machine", &[]);
        let port =
            PortMapping { host_ip: None, host_port: 53, container_port: 5353, protocol: Protocol::Udp };
        a_sender_follows(&network, &machine, machine.at.gateway.into(), port);
    });
}

#[test]
fn a_port_where_the_host_listens_is_refused() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config).unwrap();
        let netns = ns::new_netns().unwrap();
        let listener = std::net::TcpListener::bind((LOOPBACK, 8080)).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        let udp = PortMapping { protocol: Protocol::Udp, ..tcp(53, 53) };
        for port in [tcp(8080, 80), udp] {
            let error = network.attach("a", netns.as_fd(), &[port], FREE).unwrap_err();
            assert_eq!(error.kind(), Kind::Busy);
            let expected = format!(
                "host port {port}: a process of the host listens there; stop it or take another port"
            );
            assert_eq!(error.to_string(), expected);
        }
        // A client's port is not a listener's.
        let client = std::net::TcpStream::connect((LOOPBACK, 8080)).unwrap();
        let _served = listener.accept().unwrap();
        let elsewhere = PortMapping { host_ip: Some(Ipv4Addr::new(10, 201, 0, 1).into()), ..tcp(8080, 80) };
        let passing = tcp(client.local_addr().unwrap().port(), 81);
        drop(socket);
        network.attach("a", netns.as_fd(), &[elsewhere, passing, udp], FREE).unwrap();
    });
}

/// The bridge routes 127.0.0.0/8 for host ports; pods must not get to the host's loopback by that (CVE-2020-8558).
#[test]
fn the_hosts_loopback_is_closed_to_pods() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let route_localnet = || host.sysctl("ipv4/conf/br0/route_localnet");
        assert_eq!(route_localnet(), "0");
        let pod = Host::pod(&network, "a", &[tcp(8080, 80)]);
        let second = Host::pod(&network, "b", &[tcp(8081, 80)]);
        assert_eq!(route_localnet(), "1");

        // A hostile pod: it sends packets for 127.0.0.1 to the bridge.
        let secret = UdpSocket::bind((LOOPBACK, 7)).unwrap();
        secret.set_nonblocking(true).unwrap();
        pod.run(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            ip(&["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            ip(&["route", "add", "127.0.0.1/32", "via", &pod.at.gateway.to_string(), "dev", "eth0"]);
            let socket = UdpSocket::bind((pod.at.ip, 0)).unwrap();
            socket.send_to(b"let me in", (LOOPBACK, 7)).unwrap();
            let open = UdpSocket::bind((pod.at.ip, 0)).unwrap();
            open.send_to(b"knock", (pod.at.gateway, 9)).unwrap();
        });
        assert_eq!(secret.recv(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        // That it is the guard which stopped it: without the table the packet arrives.
        nft(&["flush", "ruleset"]);
        pod.run(|| UdpSocket::bind((pod.at.ip, 0)).unwrap().send_to(b"let me in", (LOOPBACK, 7)).unwrap());
        secret.set_nonblocking(false).unwrap();
        secret.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(secret.recv(&mut [0; 16]).unwrap(), 9);

        network.detach("a").unwrap();
        assert_eq!(route_localnet(), "1", "b still needs it");
        network.detach("b").unwrap();
        assert_eq!(route_localnet(), "0");
        drop(second);
    });
}

#[test]
fn a_taken_host_port_names_who_has_it_and_costs_nothing() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let web = Host::pod(&network, "web", &[tcp(8080, 80)]);
        let before = inventory(&config).unwrap();
        let netns = ns::new_netns().unwrap();
        let at = PortMapping { host_ip: Some(LOOPBACK.into()), ..tcp(8080, 81) };
        for port in [tcp(8080, 90), at] {
            let error = network.attach("late", netns.as_fd(), &[tcp(1, 1), port], FREE).unwrap_err();
            assert_eq!(error.kind(), Kind::Busy);
            assert!(error.to_string().contains("taken by web"), "{error}");
        }
        assert_eq!(inventory(&config).unwrap(), before);

        // A process with leases elsewhere that got hold of the same bridge is seen by the kernel's map only.
        ip(&["link", "set", "br0", "alias", ""]);
        let leases = host.dir.path().join("elsewhere");
        let stranger = Network::open(Config { leases, ..config }).unwrap();
        network.reconcile(&BTreeSet::from(["web".to_owned()]));
        let fourth = ns::new_netns().unwrap();
        for _ in 0..2 {
            // Its addresses begin where ours do: another link, another address, the same port.
            let error =
                stranger.attach("late", fourth.as_fd(), &[tcp(1, 1), tcp(8080, 90)], FREE).unwrap_err();
            assert_eq!(error.kind(), Kind::Busy, "{error}");
            assert!(error.to_string().ends_with("host port *:8080/tcp -> 90: taken by web"), "{error}");
            assert!(stranger.attachment("late").is_none());
        }
        stranger.attach("late", fourth.as_fd(), &[tcp(1, 1)], FREE).unwrap();
        talk(&web.listen(80), LOOPBACK, 8080);
    });
}

#[test]
fn nonsense_is_refused_before_anything_is_made() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(Config { subnet6: Subnet6::Off, ..host.config("br0", SUBNET) }).unwrap();
        let netns = ns::new_netns().unwrap();
        let kind = |owner: &str, ports: &[PortMapping]| {
            network.attach(owner, netns.as_fd(), ports, FREE).unwrap_err().kind()
        };
        assert_eq!(kind("", &[]), Kind::Invalid);
        assert_eq!(kind("a b", &[]), Kind::Invalid);
        assert_eq!(kind("a", &[tcp(0, 1)]), Kind::Invalid);
        assert_eq!(kind("a", &[tcp(1, 1), tcp(1, 2)]), Kind::Invalid);
        let six = PortMapping { host_ip: Some("2001:db8::1".parse().unwrap()), ..tcp(1, 1) };
        assert_eq!(kind("a", &[six]), Kind::Unsupported);
        let error = network.attach("a", host.netns.as_fd(), &[], FREE).unwrap_err();
        assert_eq!(error.to_string(), "the network namespace to attach is the host's own");
        network.attach("a", netns.as_fd(), &[], FREE).unwrap();
        assert_eq!(kind("a", &[]), Kind::Exists);
        assert!(network.detach("never seen").is_ok());
    });
}

#[test]
fn an_attachment_that_fails_half_way_leaves_nothing() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let before = inventory(&config).unwrap();
        let pod = ns::new_netns().unwrap();
        ns::in_netns(&pod, || ip(&["link", "add", "eth0", "type", "bridge"])).unwrap();
        let error = network.attach("a", pod.as_fd(), &[tcp(80, 80)], FREE).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert!(error.to_string().starts_with("attach a to br0: RTM_NEWLINK veth vq"), "{error}");
        assert_eq!(inventory(&config).unwrap(), before);

        // Fails at the last step inside: a default route is there already.
        let pod = ns::new_netns().unwrap();
        ns::in_netns(&pod, || {
            ip(&["link", "add", "odd", "type", "bridge"]);
            ip(&["link", "set", "odd", "up"]);
            ip(&["addr", "add", "198.51.100.1/24", "dev", "odd"]);
            ip(&["route", "add", "default", "via", "198.51.100.2"]);
        })
        .unwrap();
        let error = network.attach("a", pod.as_fd(), &[tcp(80, 80)], FREE).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attach a to br0: RTM_NEWROUTE default via 10.201.0.1: EEXIST (File exists)"
        );
        assert_eq!(inventory(&config).unwrap(), before);
        assert!(network.attachment("a").is_none());
    });
}

#[test]
fn detach_leaves_nothing_once_the_namespace_is_closed() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let empty = inventory(&config).unwrap();
        let kinds: Vec<_> = empty.iter().map(|resource| resource.kind).collect();
        use ResourceKind::{Address, Bridge, Table};
        assert_eq!(kinds, [Address, Address, Bridge, Table, Table]);
        assert_eq!(empty[0].name, "10.201.0.1/16");

        let pod = Host::pod(&network, "a", &[tcp(8080, 80)]);
        let owned: Vec<_> =
            inventory(&config).unwrap().into_iter().filter(|one| !one.kind.is_shared()).collect();
        let resource =
            |kind, name: &str| Resource { kind, name: name.to_owned(), owner: Some("a".to_owned()) };
        let expected = [
            resource(ResourceKind::HostPort, "0.0.0.0:8080/tcp -> 10.201.0.2:80"),
            resource(ResourceKind::HostPort, &format!("[::]:8080/tcp -> [{}]:80", pod.six())),
            resource(ResourceKind::Lease, "10.201.0.2"),
            resource(ResourceKind::Link, &pod.at.host_link),
        ];
        assert_eq!(owned, expected);

        network.detach("a").unwrap();
        network.detach("a").unwrap();
        drop(pod);
        eventually(|| inventory(&config).unwrap() == empty);
        // The same owner again, while its old link is still there or dying.
        for _ in 0..3 {
            Host::pod(&network, "again", &[]);
            network.detach("again").unwrap();
        }
        let held = Host::pod(&network, "again", &[]);
        network.detach("again").unwrap();
        drop(Host::pod(&network, "again", &[]));
        network.detach("again").unwrap();
        drop(held);
        eventually(|| inventory(&config).unwrap() == empty);
        assert!(network.close().unwrap());
        assert_eq!(inventory(&config).unwrap(), []);
        assert!(!config.leases.exists());
    });
}

#[test]
fn a_restart_keeps_leases_and_ports_and_close_keeps_what_is_used() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let pod = Host::pod(&network, "a", &[tcp(8080, 80)]);
        let server = pod.listen(80);
        let before = inventory(&config).unwrap();
        assert!(!network.close().unwrap(), "a pod is there");
        assert_eq!(inventory(&config).unwrap(), before);

        let network = Network::open(config.clone()).unwrap();
        assert_eq!(inventory(&config).unwrap(), before);
        assert_eq!(network.attachment("a").as_ref(), Some(&pod.at));
        talk(&server, LOOPBACK, 8080);
        let next = Host::pod(&network, "b", &[]);
        assert_eq!(next.at.ip, Ipv4Addr::new(10, 201, 0, 3));
        network.detach("b").unwrap();
        drop(next);
        drop(network);
        let network = Network::open(config).unwrap();
        assert_eq!(Host::pod(&network, "c", &[]).at.ip, Ipv4Addr::new(10, 201, 0, 4), "b's address rests");
    });
}

#[test]
fn reconcile_frees_what_nobody_owns() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let alive = Host::pod(&network, "alive", &[tcp(8080, 80)]);
        let dead = Host::pod(&network, "dead", &[tcp(8081, 80)]);
        let dead_closed = Host::pod(&network, "closed", &[]);
        drop(dead_closed.netns);
        std::fs::write(config.leases.join("10.201.0.99"), "").unwrap();
        nft(&["delete", "table", "ip", "br0"]);

        let live = BTreeSet::from(["alive".to_owned(), "lost".to_owned()]);
        let report = network.reconcile(&live);
        let freed: Vec<_> = report.freed.iter().map(|(ip, owner)| (ip.octets()[3], owner.as_str())).collect();
        assert_eq!(freed, [(3, "dead"), (4, "closed"), (99, "")]);
        assert!(report.links.contains(&dead.at.host_link));
        assert_eq!((report.missing, report.failures), (vec!["lost".to_owned()], vec![]));
        eventually(|| {
            inventory(&config)
                .unwrap()
                .iter()
                .all(|one| one.kind.is_shared() || one.owner.as_deref() == Some("alive"))
        });
        assert_eq!(inventory(&config).unwrap().iter().filter(|one| !one.kind.is_shared()).count(), 4);
        talk(&alive.listen(80), LOOPBACK, 8080);
        assert_eq!(network.reconcile(&BTreeSet::from(["alive".to_owned()])), vaquita_net::Report::default());
    });
}

#[test]
fn what_others_removed_is_made_again() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        let first = Host::pod(&network, "a", &[tcp(8080, 80)]);
        nft(&["flush", "ruleset"]);
        let second = Host::pod(&network, "b", &[tcp(8081, 80)]);
        talk(&first.listen(80), LOOPBACK, 8080);
        talk(&second.listen(80), LOOPBACK, 8081);
        nft(&["flush", "ruleset"]);
        network.detach("b").unwrap();
        ip(&["link", "del", "br0"]);
        let third = Host::pod(&network, "c", &[]);
        let server = third.listen(80);
        talk(&server, third.at.ip, 80);
    });
}

#[test]
fn many_attach_at_once_and_each_gets_its_own() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        // Two daemons that share a directory, and two threads in each.
        let networks = [Network::open(config.clone()).unwrap(), Network::open(config.clone()).unwrap()];
        let pods: Vec<Pod> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let network = &networks[thread % 2];
                    scope.spawn(move || {
                        let pod = |n: u16| {
                            let port = 9000 + 100 * u16::try_from(thread).unwrap() + n;
                            Host::pod(network, &format!("{thread}-{n}"), &[tcp(port, 80)])
                        };
                        (0..6).map(pod).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.at.ip).collect();
        assert_eq!(addresses.len(), 24);
        let server = pods[0].listen(80);
        for pod in &pods {
            pod.run(|| talk(&server, pods[0].at.ip, 80));
        }
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let network = &networks[thread % 2];
                scope.spawn(move || (0..6).for_each(|n| network.detach(&format!("{thread}-{n}")).unwrap()));
            }
        });
        drop((server, pods)); // A socket holds its namespace, too.
        eventually(|| inventory(&config).unwrap().iter().all(|one| one.kind.is_shared()));
    });
}

#[test]
fn a_full_subnet_says_so_and_a_freed_address_is_used_again() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", "10.201.0.0/29")).unwrap();
        let mut pods: Vec<_> = (0..5).map(|n| Host::pod(&network, &n.to_string(), &[])).collect();
        let netns = ns::new_netns().unwrap();
        let error = network.attach("late", netns.as_fd(), &[], FREE).unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
        let server = pods[0].listen(80);
        // The old link may still be there, and the other pods remember its hardware address.
        pods[0].run(|| talk(&server, pods[0].at.ip, 80));
        let old = pods.remove(2);
        let seen = old.run(|| talk(&server, pods[0].at.ip, 80));
        network.detach("2").unwrap();
        drop(old);
        let new = Host::pod(&network, "late", &[]);
        assert_eq!(seen, new.at.ip);
        assert_eq!(new.run(|| talk(&server, pods[0].at.ip, 80)), seen);
        let back = new.listen(81);
        pods[0].run(|| talk(&back, new.at.ip, 81));
    });
}

#[test]
fn names_and_subnets_of_others_are_left_alone() {
    let host = Host::new();
    host.run(|| {
        ip(&["link", "add", "taken", "type", "veth", "peer", "name", "peer"]);
        let error = Network::open(host.config("taken", SUBNET)).unwrap_err();
        assert_eq!(error.to_string(), "link taken exists and is no bridge; configure another bridge name");
        let _network = Network::open(host.config("br0", SUBNET)).unwrap();
        let elsewhere = Config { leases: host.leases("elsewhere"), ..host.config("br0", SUBNET) };
        let error = Network::open(elsewhere).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(
            error.to_string().starts_with("bridge br0 belongs to the network with its leases in "),
            "{error}"
        );
        let error = Network::open(host.config("br1", "10.201.128.0/16")).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(
            error.to_string(),
            "subnet 10.201.0.0/16 of the pods overlaps 10.201.0.1/16 of br0; configure another subnet"
        );
        for (bridge, subnet) in [("br/2", SUBNET), ("br2", "10.0.0.0/31")] {
            assert_eq!(Network::open(host.config(bridge, subnet)).unwrap_err().kind(), Kind::Invalid);
        }
    });
}

#[test]
fn networks_that_overlap_are_not_made_and_yet_start_again_and_are_taken_down() {
    let host = Host::new();
    host.run(|| {
        let (large, small) = (host.config("br0", SUBNET), host.config("br1", "10.201.7.0/24"));
        drop(Network::open(large.clone()).unwrap());
        let error = Network::open(small.clone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(
            error.to_string(),
            "subnet 10.201.7.0/24 of the pods overlaps 10.201.0.1/16 of br0; configure another subnet"
        );
        assert_eq!(inventory(&small).unwrap(), []);

        // As both would be if they were made at the same moment, or the larger one's network were a stranger's.
        let aside = host.leases("aside");
        std::fs::rename(&large.leases, &aside).unwrap();
        drop(Network::open(small.clone()).unwrap());
        std::fs::rename(&aside, &large.leases).unwrap();
        let pod = Host::pod(&Network::open(large.clone()).unwrap(), "a", &[]);
        assert!(!vaquita_net::close(&large).unwrap(), "a pod is there");
        for config in [&large, &small] {
            drop(Network::open(config.clone()).unwrap());
        }
        let stranger = Config { leases: host.leases("elsewhere"), ..small.clone() };
        assert_eq!(vaquita_net::close(&stranger).unwrap_err().kind(), Kind::Busy);
        Network::open(large.clone()).unwrap().detach("a").unwrap();
        drop(pod);
        for config in [large, small] {
            assert!(vaquita_net::close(&config).unwrap());
            assert_eq!(inventory(&config).unwrap(), []);
            assert!(!config.leases.exists());
            assert!(vaquita_net::close(&config).unwrap(), "again");
        }
    });
}

/// `nft`, which is not ours, reads the table as we mean it.
#[test]
fn nft_lists_the_table_as_meant() {
    let host = Host::new();
    host.run(|| {
        let subnet6 = Subnet6::Given("fd00::".parse().unwrap(), 64);
        let network = Network::open(Config { subnet6, ..host.config("br0", SUBNET) }).unwrap();
        let at = |ip: &str| PortMapping { host_ip: Some(ip.parse().unwrap()), ..tcp(53, 5353) };
        let udp = PortMapping { protocol: Protocol::Udp, ..at("192.0.2.7") };
        let sctp = PortMapping { protocol: Protocol::Sctp, ..at("2001:db8::7") };
        let _pod = Host::pod(&network, "a", &[tcp(8080, 80), udp, sctp]);
        // nft 1.1 has a name for this priority.
        let tables = nft(&["list", "ruleset"]);
        insta::assert_snapshot!(tables.replace("hook output priority dstnat", "hook output priority -100"));
    });
}

#[test]
fn a_firewall_in_the_way_is_told_of() {
    let host = Host::new();
    host.run(|| {
        let network = Network::open(host.config("br0", SUBNET)).unwrap();
        assert_eq!(network.obstacles().unwrap(), Vec::<String>::new());
        for (family, over) in [("ip", " over IPv4:"), ("ip6", " over IPv6:"), ("inet", ":")] {
            nft(&["add", "table", family, "filter"]);
            let chain = "{ type filter hook forward priority 0; policy drop; }";
            nft(&["add", "chain", family, "filter", "FORWARD", chain]);
            let obstacles = network.obstacles().unwrap();
            assert_eq!(obstacles.len(), 1, "{obstacles:?}");
            let advice = format!("nft insert rule {family} filter FORWARD iifname br0 accept");
            assert!(obstacles[0].contains(&advice), "{}", obstacles[0]);
            assert!(
                obstacles[0].contains(&format!("pods reach nothing beyond this host{over}")),
                "{}",
                obstacles[0]
            );
            nft(&["delete", "table", family, "filter"]);
        }
    });
}
