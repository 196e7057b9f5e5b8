//! Limits of bandwidth. How fast it really is a busy machine cannot tell; what the kernel was told, it can.

#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is their way to fail.

use std::os::fd::AsFd as _;

use vaquita_net::{Bandwidth, Kind, Network, ResourceKind, inventory};
use vaquita_sys::ns;

use crate::SUBNET;
use crate::world::{Host, PATIENCE, Pod, eventually, run, talk};

fn limited(network: &Network, owner: &str, ingress: Option<u64>, egress: Option<u64>) -> Pod {
    let netns = ns::new_netns().unwrap();
    let at = network.attach(owner, netns.as_fd(), &[], Bandwidth { ingress, egress }).unwrap();
    Pod { netns, at }
}

fn tc(args: &[&str]) -> String {
    run("tc", "iproute2", args)
}

#[test]
fn a_limit_is_a_token_bucket_on_the_hosts_side() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let empty = inventory(&config).unwrap();
        let pod = limited(&network, "slow", Some(8_000_000), Some(80_000_000_000));
        let free = Host::pod(&network, "free", &[]);
        let link = pod.at.host_link.as_str();
        let device = format!("{link}i");

        let shown = tc(&["qdisc", "show", "dev", link]);
        assert!(
            shown.contains("qdisc tbf 1: root ") && shown.contains(" rate 8Mbit burst 64Kb lat 25ms"),
            "{shown}"
        );
        assert!(shown.contains("qdisc ingress ffff:"), "{shown}");
        let shown = tc(&["qdisc", "show", "dev", &device]);
        assert!(shown.contains(" rate 80Gbit burst ") && shown.contains(" lat 25ms"), "{shown}");
        let shown = tc(&["filter", "show", "dev", link, "ingress"]);
        assert!(shown.contains(&format!("mirred (Egress Redirect to device {device}) stolen")), "{shown}");
        assert!(shown.contains("protocol all") && shown.contains("match 00000000/00000000 at 0"), "{shown}");
        let shown = tc(&["qdisc", "show", "dev", &free.at.host_link]);
        assert!(!shown.contains("tbf") && !shown.contains("ingress"), "{shown}");

        // Everything still gets through, both ways, of both families.
        let server = pod.listen(80);
        for to in pod.at.addresses() {
            free.run(|| talk(&server, to, 80));
        }
        let server = free.listen(80);
        for to in free.at.addresses() {
            pod.run(|| talk(&server, to, 80));
        }
        let sent = tc(&["-s", "qdisc", "show", "dev", &device]);
        assert!(!sent.contains("Sent 0 bytes"), "what the pod sent went through the bucket: {sent}");

        let links = |owner: &str| {
            let found = inventory(&config).unwrap().into_iter();
            found.filter(|one| one.kind == ResourceKind::Link && one.owner.as_deref() == Some(owner)).count()
        };
        assert_eq!(links("slow"), 2);
        // A restart keeps it, and the next start of the same owner finds nothing in its way.
        drop(network);
        let network = Network::open(config.clone()).unwrap();
        assert!(network.reconcile(&["slow".to_owned(), "free".to_owned()].into()).links.is_empty());
        assert_eq!(links("slow"), 2);
        network.detach("slow").unwrap();
        network.settle(PATIENCE);
        assert!(links("slow") <= 1, "the device is gone, the link is the pod's");
        drop((pod, server));
        let pod = limited(&network, "slow", None, Some(1_000));
        network.detach("slow").unwrap();
        network.detach("free").unwrap();
        drop((pod, free));
        eventually(|| inventory(&config).unwrap() == empty);
    });
}

#[test]
fn a_limit_of_a_dead_pod_is_swept_and_one_that_fails_leaves_nothing() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        let empty = inventory(&config).unwrap();
        let pod = limited(&network, "dead", None, Some(1_000_000));
        drop(pod);
        let report = network.reconcile(&[].into());
        assert_eq!(report.failures, Vec::<String>::new());
        eventually(|| inventory(&config).unwrap() == empty);

        let netns = ns::new_netns().unwrap();
        ns::in_netns(&netns, || {
            run("ip", "iproute2", &["link", "add", "odd", "type", "bridge"]);
            run("ip", "iproute2", &["link", "set", "odd", "up"]);
            run("ip", "iproute2", &["addr", "add", "198.51.100.1/24", "dev", "odd"]);
            run("ip", "iproute2", &["route", "add", "default", "via", "198.51.100.2"]);
        })
        .unwrap();
        let both = Bandwidth { ingress: Some(1_000_000), egress: Some(1_000_000) };
        network.attach("a", netns.as_fd(), &[], both).unwrap_err();
        assert_eq!(inventory(&config).unwrap(), empty);
        let nonsense = Bandwidth { ingress: Some(999), egress: None };
        let error = network.attach("a", netns.as_fd(), &[], nonsense).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::Invalid, "ingress bandwidth of 999 bit/s: must be 1k to 1P".into())
        );
    });
}

#[test]
fn a_pod_that_comes_back_keeps_its_new_device_and_what_is_left_at_the_end_is_taken_down() {
    let host = Host::new();
    host.run(|| {
        let config = host.config("br0", SUBNET);
        let network = Network::open(config.clone()).unwrap();
        // The others keep the kernel busy for a while.
        let owners: Vec<_> = (0..20).map(|number| format!("other{number}")).chain(["again".into()]).collect();
        let pods: Vec<_> =
            owners.iter().map(|owner| limited(&network, owner, None, Some(1_000_000))).collect();
        owners.iter().for_each(|owner| network.detach(owner).unwrap());
        drop(pods);
        let pod = limited(&network, "again", None, Some(1_000_000));
        network.settle(PATIENCE);
        let device = format!("{}i", pod.at.host_link);
        assert!(tc(&["qdisc", "show", "dev", &device]).contains("qdisc tbf 1: root"));

        // Nothing was told to delete this one: its process ended before.
        std::fs::remove_file(config.leases.join(pod.at.ip.to_string())).unwrap();
        assert!(network.close().unwrap());
        assert_eq!(inventory(&config).unwrap(), []);
    });
}
