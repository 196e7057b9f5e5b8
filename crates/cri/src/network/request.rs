//! What CNI plugins are told of a pod. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::json;
use vaquita_cni::{Attachment, Bandwidth, Capabilities, Dns};
use vaquita_net::{Bandwidth as Limits, PortMapping};
use vaquita_proto::cri;

use crate::{Error, Result};

/// The interface of a pod, as everywhere.
pub(super) const INTERFACE: &str = "eth0";

/// As containerd: no burst is too large.
const BURST: u64 = u32::MAX as u64;

/// A pod, as plugins see it.
pub(super) fn attachment(
    id: &str,
    config: &cri::PodSandboxConfig,
    wanted: (&[PortMapping], Limits, &[(IpAddr, u8)]),
    netns: PathBuf,
) -> Attachment {
    let metadata = config.metadata.clone().unwrap_or_default();
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &metadata.namespace),
        ("K8S_POD_NAME", &metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", id),
        ("K8S_POD_UID", &metadata.uid),
    ];
    Attachment {
        id: id.to_owned(),
        interface: INTERFACE.to_owned(),
        netns,
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        capabilities: capabilities(config, wanted),
    }
}

fn capabilities(
    config: &cri::PodSandboxConfig,
    (ports, limits, ranges): (&[PortMapping], Limits, &[(IpAddr, u8)]),
) -> Capabilities {
    let mut all = Capabilities::default();
    let ports: Vec<_> = ports
        .iter()
        .map(|port| vaquita_cni::PortMapping {
            host_port: port.host_port,
            container_port: port.container_port,
            protocol: port.protocol.to_string(),
            host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        })
        .collect();
    all.port_mappings(&ports);
    let burst = |rate: Option<u64>| rate.map_or(0, |_| BURST);
    all.bandwidth(Bandwidth {
        ingress_rate: limits.ingress.unwrap_or_default(),
        ingress_burst: burst(limits.ingress),
        egress_rate: limits.egress.unwrap_or_default(),
        egress_burst: burst(limits.egress),
    });
    if let Some(dns) = &config.dns_config {
        all.dns(&Dns {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        });
    }
    all.ip_ranges(ranges);
    // The names that containerd has for these.
    all.set("io.kubernetes.cri.pod-annotations", json!(config.annotations));
    let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
    if !parent.is_empty() {
        all.set("cgroupPath", parent.into());
    }
    all
}

/// `10.1.0.0/24,fd00::/64`.
pub(super) fn ranges(text: &str) -> Result<Vec<(IpAddr, u8)>> {
    let range = |text: &str| {
        let (address, prefix) = text.trim().split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
    };
    text.split(',')
        .map(|one| {
            range(one).ok_or_else(|| {
                Error::invalid(format!("pod_cidr: {one:?} is not a range such as 10.1.0.0/24"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use vaquita_net::Protocol;

    use super::*;

    #[test]
    fn plugins_are_told_what_containerd_tells_them() {
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".into(),
                namespace: "default".into(),
                uid: "u1".into(),
                attempt: 0,
            }),
            annotations: [("kubernetes.io/egress-bandwidth".to_owned(), "1M".to_owned())].into(),
            dns_config: Some(cri::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() }),
            linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: "/a".into(), ..Default::default() }),
            ..Default::default()
        };
        let port =
            PortMapping { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        let limits = Limits { ingress: None, egress: Some(1_000_000) };
        let ranges = ranges("10.1.0.0/24,fd00::/64").unwrap();
        let told = attachment("id", &config, (&[port], limits, &ranges), "/proc/1/ns/net".into());
        let args: Vec<_> = told.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            args.join(";"),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=u1"
        );
        assert_eq!(
            serde_json::to_value(&told.capabilities).unwrap(),
            json!({
                "bandwidth": {"egressRate": 1_000_000, "egressBurst": u32::MAX},
                "cgroupPath": "/a",
                "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
                "io.kubernetes.cri.pod-annotations": {"kubernetes.io/egress-bandwidth": "1M"},
                "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            })
        );
    }

    #[test]
    fn ranges_are_checked() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/24", "10.0.0.0/24,", "fd00::/129"] {
            assert!(ranges(bad).unwrap_err().to_string().contains("pod_cidr"), "{bad}");
        }
    }
}
