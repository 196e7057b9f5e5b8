//! A host of its own for each test: a fresh network namespace with a network in it, and pods that are namespaces too.

#![allow(clippy::unwrap_used)] // A test helper: a panic is its way to fail.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vaquita_net::{Attachment, Bandwidth, Config, Network, PortMapping, Protocol, Subnet6, loopback_up};
use vaquita_sys::ns;
use vaquita_testing::TempDir;

/// Long enough for a loaded machine; what should work never takes it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What must not arrive is waited for so long.
const IN_VAIN: Duration = Duration::from_millis(400);

/// A host: a network namespace of its own and a directory for leases.
pub(crate) struct Host {
    pub(crate) netns: OwnedFd,
    pub(crate) dir: TempDir,
}

/// A pod's network namespace.
pub(crate) struct Pod {
    pub(crate) netns: OwnedFd,
    pub(crate) at: Attachment,
}

impl Host {
    pub(crate) fn new() -> Self {
        vaquita_testing::require_root();
        let netns = ns::new_netns().unwrap();
        loopback_up(netns.as_fd()).unwrap();
        Self { netns, dir: vaquita_testing::temp_dir() }
    }

    /// Runs something in the host's namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        ns::in_netns(&self.netns, work).unwrap()
    }

    pub(crate) fn config(&self, bridge: &str, subnet: &str) -> Config {
        let (ip, prefix) = subnet.split_once('/').unwrap();
        let subnet = (ip.parse().unwrap(), prefix.parse().unwrap());
        let subnet6 = Subnet6::Derived;
        Config { bridge: bridge.to_owned(), subnet, subnet6, mtu: None, leases: self.leases(bridge) }
    }

    pub(crate) fn leases(&self, bridge: &str) -> PathBuf {
        self.dir.path().join(bridge)
    }

    pub(crate) fn sysctl(&self, name: &str) -> String {
        let path = Path::new("/proc/sys/net").join(name);
        self.run(|| std::fs::read_to_string(path).unwrap().trim_end().to_owned())
    }

    /// A pod attached to the network, which must be called in the host's namespace.
    pub(crate) fn pod(network: &Network, owner: &str, ports: &[PortMapping]) -> Pod {
        let netns = ns::new_netns().unwrap();
        let at = network.attach(owner, netns.as_fd(), ports, Bandwidth::default()).unwrap();
        Pod { netns, at }
    }
}

impl Pod {
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        ns::in_netns(&self.netns, work).unwrap()
    }

    /// Listens in the pod, for both families; the listener works from any thread.
    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap())
    }

    /// Its address of IPv6.
    pub(crate) fn six(&self) -> IpAddr {
        self.at.ip6.unwrap().into()
    }
}

/// A port of the host on all its addresses.
pub(crate) fn tcp(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { host_ip: None, host_port, container_port, protocol: Protocol::Tcp }
}

/// Connects in the calling thread's namespace, and sees that `listener` is who answers. Gives the address under which the
/// listener saw the caller.
pub(crate) fn talk(listener: &TcpListener, to: impl Into<IpAddr>, port: u16) -> IpAddr {
    let to = SocketAddr::new(to.into(), port);
    let mut stream =
        TcpStream::connect_timeout(&to, PATIENCE).unwrap_or_else(|error| panic!("connect {to}: {error}"));
    // Whoever answers, it may be somebody else.
    listener.set_nonblocking(true).unwrap();
    let start = Instant::now();
    let (mut served, peer) = loop {
        match listener.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(start.elapsed() < PATIENCE, "somebody else answered for {to}");
                std::thread::yield_now();
            }
            accepted => break accepted.unwrap(),
        }
    };
    served.write_all(b"vaquita").unwrap();
    drop(served);
    let mut text = String::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "vaquita");
    peer.ip().to_canonical()
}

/// Sends datagrams from a machine's port 4000 to port 53 of a host, and sees that each pod that gets the port in turn (its
/// 5353, by `port`) gets them: the kernel remembers where a stream of datagrams went.
pub(crate) fn a_sender_follows(network: &Network, machine: &Pod, to: IpAddr, port: PortMapping) {
    let any = |port: u16| match to {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    };
    let sender = machine.run(|| UdpSocket::bind(any(4000)).unwrap());
    sender.connect((to, 53)).unwrap();
    // Nobody has the port: the host refuses, and its kernel remembers a connection to itself.
    while sender.send(b"0").is_ok() {
        std::thread::yield_now();
    }
    for owner in ["first", "second", "third"] {
        let pod = Host::pod(network, owner, &[port]);
        let socket = pod.run(|| UdpSocket::bind(any(5353)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // An earlier datagram may have been refused, which the next send tells.
        while sender.send(owner.as_bytes()).is_err() {}
        let mut buffer = [0; 16];
        let mut receive = || {
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        // What was on its way when the port was opened may come first.
        while receive() != owner.as_bytes() {}
        network.detach(owner).unwrap();
    }
}

/// Whether a connection is refused or never answered.
pub(crate) fn unreachable(to: impl Into<IpAddr>, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(to.into(), port), IN_VAIN).is_err()
}

/// Sends a datagram in the calling thread's namespace, and sees that `socket` gets it and its answer comes back.
pub(crate) fn talk_udp(socket: &UdpSocket, to: impl Into<IpAddr>, port: u16) {
    let to = to.into();
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let client = UdpSocket::bind((any, 0)).unwrap();
    for socket in [&client, socket] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.connect(SocketAddr::new(to, port)).unwrap();
    client.send(b"ping").unwrap();
    let mut buffer = [0; 16];
    let (length, peer) = socket.recv_from(&mut buffer).unwrap();
    socket.send_to(&buffer[..length], peer).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 4);
}

/// Waits for what the kernel does when it gets round to it, such as destroying the links of a closed namespace.
pub(crate) fn eventually(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not done in time");
        std::thread::yield_now();
    }
}

pub(crate) fn nft(args: &[&str]) -> String {
    run("nft", "nftables", args)
}

pub(crate) fn ip(args: &[&str]) {
    run("ip", "iproute2", args);
}

/// Runs a program in the calling thread's namespace, as the test's judge or its villain.
pub(crate) fn run(program: &str, package: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|_| panic!("this test needs the program `{program}`: apt-get install {package}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
