//! What a runtime knows of a pod that plugins can ask for: the well-known capabilities of the CNI conventions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The values of the capabilities of one attachment. A plugin gets those that its configuration asks for, as `runtimeConfig`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Capabilities(BTreeMap<String, Value>);

/// A port of the host that leads to the pod.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The port of the host.
    pub host_port: u16,
    /// The port of the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The address of the host on which the port is taken; empty: each.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// What may flow, in bits per second, with bursts in bits. 0: no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub ingress_rate: u64,
    /// Towards the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub ingress_burst: u64,
    /// From the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub egress_rate: u64,
    /// From the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub egress_burst: u64,
}

/// Name servers and how to ask them.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Dns {
    /// Addresses of the servers.
    pub servers: Vec<String>,
    /// Domains that names are looked for in.
    pub searches: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

impl Capabilities {
    /// Sets the value of a capability by its name, also of one that no convention knows.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// `portMappings`. None are no value.
    pub fn port_mappings(&mut self, ports: &[PortMapping]) {
        self.set_list("portMappings", json!(ports));
    }

    /// `bandwidth`. No limit is no value.
    pub fn bandwidth(&mut self, bandwidth: Bandwidth) {
        if bandwidth != Bandwidth::default() {
            self.set("bandwidth", json!(bandwidth));
        }
    }

    /// `dns`.
    pub fn dns(&mut self, dns: &Dns) {
        self.set("dns", json!(dns));
    }

    /// `ipRanges`, in which the pod's addresses are to be: one set for each range. None are no value.
    pub fn ip_ranges(&mut self, ranges: &[(IpAddr, u8)]) {
        let sets = ranges.iter().map(|(address, prefix)| json!([{"subnet": format!("{address}/{prefix}")}]));
        self.set_list("ipRanges", sets.collect());
    }

    /// `ips`, the addresses that the pod is to have. None are no value.
    pub fn ips(&mut self, ips: &[(IpAddr, u8)]) {
        let ips = ips.iter().map(|(address, prefix)| Value::from(format!("{address}/{prefix}")));
        self.set_list("ips", ips.collect());
    }

    /// `mac`, the hardware address that the pod is to have.
    pub fn mac(&mut self, mac: [u8; 6]) {
        let text: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        self.set("mac", text.join(":").into());
    }

    /// `aliases`, names by which other pods of the network find this one. None are no value.
    pub fn aliases(&mut self, aliases: &[String]) {
        self.set_list("aliases", json!(aliases));
    }

    /// The value of a capability.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }

    fn set_list(&mut self, name: &str, list: Value) {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            self.set(name, list);
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_conventions() {
        let mut all = Capabilities::default();
        all.port_mappings(&[]);
        all.bandwidth(Bandwidth::default());
        all.ip_ranges(&[]);
        assert_eq!(all, Capabilities::default());
        all.port_mappings(&[PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "tcp".into(),
            host_ip: String::new(),
        }]);
        all.bandwidth(Bandwidth { ingress_rate: 8000, ingress_burst: 10, ..Bandwidth::default() });
        all.dns(&Dns { servers: vec!["1.1.1.1".into()], ..Dns::default() });
        all.ip_ranges(&[("10.1.0.0".parse().unwrap(), 24), ("fd00::".parse().unwrap(), 64)]);
        all.ips(&[("10.1.0.9".parse().unwrap(), 24)]);
        all.mac([2, 0, 0, 0, 0, 0xab]);
        all.aliases(&["web".into()]);
        assert_eq!(
            json!(all),
            json!({
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
                "bandwidth": {"ingressRate": 8000, "ingressBurst": 10},
                "dns": {"servers": ["1.1.1.1"], "searches": [], "options": []},
                "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
                "ips": ["10.1.0.9/24"],
                "mac": "02:00:00:00:00:ab",
                "aliases": ["web"],
            })
        );
    }
}
