//! How long attaching and detaching take, step by step: `cargo run --release --example attach -p vaquita-net [pods] [--no-ipv6]`, as
//! root.
//!
//! Runs in a network namespace of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A program for people to run by hand.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use vaquita_net::{Bandwidth, Config, Network, PortMapping, Protocol, Subnet6, loopback_up};
use vaquita_sys::ns;

fn main() {
    let pods = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(100);
    let host = ns::new_netns().unwrap();
    loopback_up(host.as_fd()).unwrap();
    ns::in_netns(&host, || measure(pods)).unwrap();
}

fn measure(pods: u16) {
    let dir = std::path::Path::new("/dev/shm").join(format!("vaquita-net-{}", std::process::id()));
    let subnet = ("10.201.0.0".parse().unwrap(), 16);
    let subnet6 = if std::env::args().any(|argument| argument == "--no-ipv6") {
        Subnet6::Off
    } else {
        Subnet6::Derived
    };
    let config = Config { bridge: "bench0".to_owned(), subnet, subnet6, mtu: None, leases: dir };
    let start = Instant::now();
    let network = Network::open(config.clone()).unwrap();
    println!("open       {:>8.3} ms", millis(start.elapsed()));
    let mut serial = 0_u64;
    for (with_port, together) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut pods_at_once = Vec::new();
        let [mut namespace, mut attach, mut detach, mut close] = [const { Vec::new() }; 4];
        for number in 0..pods {
            serial += 1;
            let owner = format!("{:016x}", serial.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let ports = [PortMapping {
                host_ip: None,
                host_port: 20000 + number,
                container_port: 80,
                protocol: Protocol::Tcp,
            }];
            let ports = if with_port { ports.as_slice() } else { &[] };
            let netns = timed(&mut namespace, || ns::new_netns().unwrap());
            timed(&mut attach, || {
                network.attach(&owner, netns.as_fd(), ports, Bandwidth::default()).unwrap()
            });
            if together {
                pods_at_once.push((owner, netns));
                continue;
            }
            timed(&mut detach, || network.detach(&owner).unwrap());
            timed(&mut close, || drop(netns));
        }
        for (owner, netns) in pods_at_once {
            timed(&mut detach, || network.detach(&owner).unwrap());
            timed(&mut close, || drop(netns));
        }
        let order = if together { "all at once" } else { "one after another" };
        println!("{pods} pods {order}, {} host port", if with_port { "one" } else { "no" });
        for (what, times) in
            [("new netns", namespace), ("attach", attach), ("detach", detach), ("close", close)]
        {
            report(what, times);
        }
    }
    drop(network);
    let start = Instant::now();
    let network = Network::open(config).unwrap();
    println!("reopen     {:>8.3} ms", millis(start.elapsed()));
    network.close().unwrap();
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    times.push(start.elapsed());
    done
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| millis(times[times.len() * percent / 100]);
    println!("{what:<10} p50 {:>8.3}  p95 {:>8.3} ms", at(50), at(95));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
