//! Links that are moved into a container. The maker is in a network namespace of its own, which takes all of it away.

use std::process::Command;

use serde_json::{Value, json};
use vaquita_sys::ns;

use crate::harness::{Bundle, Outcome};

/// Runs a command line that iproute2 and busybox understand, in the network namespace of this thread.
#[track_caller]
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// On a thread in a new network namespace.
fn apart(inside: impl FnOnce() + Send) {
    vaquita_testing::require_root();
    ns::in_netns(ns::new_netns().unwrap(), inside).unwrap();
}

fn moving(orders: &str, devices: Value) -> Bundle {
    Bundle::new(orders).set("/linux/netDevices", devices)
}

fn names(outcome: &Outcome) -> Vec<&str> {
    let text = outcome.of("cat /proc/net/dev");
    let mut names: Vec<&str> =
        text.split('|').filter_map(|line| line.split_once(':').map(|(name, _)| name.trim())).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_link_keeps_what_it_is_and_its_addresses() {
    apart(|| {
        ip("link add name out type veth");
        ip("link set out address 02:00:00:00:00:05");
        ip("link set out mtu 1400");
        ip("link set out up");
        ip("addr add 192.0.2.5/24 broadcast 192.0.2.255 label out:x dev out");
        ip("addr add 192.0.2.6 peer 192.0.2.7/32 dev out");
        ip("addr add 2001:db8::5/64 dev out");
        ip("addr add 169.254.0.5/16 scope link dev out");
        let orders = "cat /proc/net/dev\ncat /proc/net/if_inet6\ncat /proc/net/fib_trie\ncat /sys/class/net/in/address\ncat /sys/class/net/in/mtu\n\
                      cat /sys/class/net/in/flags";
        let outcome = moving(orders, json!({"out": {"name": "in"}})).run();
        assert_eq!(names(&outcome), ["in", "lo"]);
        assert_eq!(outcome.of("cat /sys/class/net/in/address"), "02:00:00:00:00:05");
        assert_eq!(outcome.of("cat /sys/class/net/in/mtu"), "1400");
        // IFF_UP.
        assert!(
            outcome.of("cat /sys/class/net/in/flags").ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f'])
        );
        let local = |address: &str| {
            outcome.of("cat /proc/net/fib_trie").contains(&format!("{address}|           /32 host LOCAL"))
        };
        assert!(local("192.0.2.5") && local("192.0.2.6"), "{}", outcome.of("cat /proc/net/fib_trie"));
        assert!(!local("169.254.0.5"), "of limited scope");
        assert!(outcome.of("cat /proc/net/if_inet6").contains("20010db8000000000000000000000005"));
    });
}

#[test]
fn several_links_and_names_that_the_kernel_finds() {
    apart(|| {
        ip("link add name a type veth");
        ip("link add name eth0 type veth");
        let devices = json!({"a": {"name": "eth%d"}, "eth0": {"name": "eth7"}, "veth0": {}});
        let outcome = moving("cat /proc/net/dev", devices).run();
        assert_eq!(names(&outcome), ["eth0", "eth7", "lo", "veth0"]);
    });
}

#[test]
fn what_cannot_be_moved_stays() {
    apart(|| {
        ip("link add name a type veth");
        for (devices, text) in [
            (json!({"a": {}, "nope": {}}), "moving \"nope\" into the container as \"nope\": ENODEV"),
            (json!({"a": {"name": "lo"}}), "moving \"a\" into the container as \"lo\": EEXIST"),
            (
                json!({"lo": {"name": "other"}}),
                "moving \"lo\" into the container as \"other\": RTM_NEWLINK (IFLA_NET_NS_FD): EINVAL",
            ),
        ] {
            let error = moving("pid", devices).create().err().unwrap().to_string();
            assert!(error.starts_with("linux.netDevices: ") && error.contains(text), "{error}");
            assert!(ip("-o link").contains(" a@"), "{error}");
        }
        let mut own = moving("pid", json!({"a": {}})).without_namespace("network");
        assert!(own.create().err().unwrap().to_string().contains("has the host's network namespace"));
        let this = json!({"type": "network", "path": "/proc/thread-self/ns/net"});
        own.spec["linux"]["namespaces"].as_array_mut().unwrap().push(this);
        assert!(own.create().err().unwrap().to_string().contains("network namespace is this one"));
    });
}
