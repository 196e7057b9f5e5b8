//! How a pod is called: host name, /etc/hosts, resolv.conf.

use vaquita_proto::cri;

use super::host::Host;
use crate::api::{DnsPolicy, Pod};
use crate::{Error, Result};

/// The domain of a cluster that has none of its own.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Host name and domain of a pod (`GeneratePodHostNameAndDomain`).
pub(super) fn host_and_domain(pod: &Pod) -> (String, Option<String>) {
    let name = if pod.spec.hostname.is_empty() { &pod.metadata.name } else { &pod.spec.hostname };
    // A pod's name may be longer than a host's, and may contain dots; the kubelet cuts it in the same way.
    let host = name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned();
    let domain = (!pod.spec.subdomain.is_empty())
        .then(|| format!("{}.{}.svc.{CLUSTER_DOMAIN}", pod.spec.subdomain, pod.metadata.namespace));
    (host, domain)
}

/// The kernel's host name for the pod; empty on the host's network, which has one.
///
/// # Errors
/// [`crate::Kind::Invalid`] where the full name is wanted and longer than the kernel's 64 characters.
pub(super) fn kernel_name(pod: &Pod) -> Result<String> {
    if pod.spec.host_network {
        return Ok(String::new());
    }
    let (host, domain) = host_and_domain(pod);
    let full = match domain {
        Some(domain) if pod.spec.set_hostname_as_fqdn == Some(true) => format!("{host}.{domain}"),
        _ => return Ok(host),
    };
    if full.len() > 64 {
        return Err(Error::invalid(format!("setHostnameAsFQDN: {full:?} is longer than 64 characters")));
    }
    Ok(full)
}

/// Text of the pod's /etc/hosts (`managedHostsFileContent`).
pub(super) fn hosts_file(pod: &Pod, host: &Host, ips: &[String]) -> String {
    let mut text = if pod.spec.host_network {
        format!("# Kubernetes-managed hosts file (host network).\n{}", host.hosts)
    } else {
        let (name, domain) = host_and_domain(pod);
        let names = domain.map_or_else(|| name.clone(), |domain| format!("{name}.{domain}\t{name}"));
        let own = ips.iter().map(|ip| format!("{ip}\t{names}\n")).collect::<String>();
        format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{own}"
        )
    };
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    text
}

/// The pod's resolver configuration. `ClusterFirst` without a cluster is the host's.
pub(super) fn dns(pod: &Pod, host: &Host) -> cri::DnsConfig {
    let mut dns = match pod.spec.dns_policy {
        DnsPolicy::None => cri::DnsConfig::default(),
        _ => parse_resolv_conf(&host.resolv_conf),
    };
    if let Some(config) = &pod.spec.dns_config {
        append_new(&mut dns.servers, &config.nameservers);
        append_new(&mut dns.searches, &config.searches);
        for option in &config.options {
            let text = match &option.value {
                Some(value) if !value.is_empty() => format!("{}:{value}", option.name),
                _ => option.name.clone(),
            };
            // The pod's own options win over those of the same name.
            dns.options.retain(|other| other.split(':').next() != Some(option.name.as_str()));
            dns.options.push(text);
        }
    }
    // What resolvers read (resolv.conf(5)).
    dns.servers.truncate(3);
    dns.searches.truncate(32);
    dns
}

fn append_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn parse_resolv_conf(text: &str) -> cri::DnsConfig {
    let mut dns = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            // The last one counts.
            Some("search") => dns.searches = words.filter(|word| *word != ".").map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::context::tests::context;

    const CONTAINERS: &str = "containers: [{name: a, image: x}]\n";

    fn with(spec: &str) -> (Pod, Host) {
        let context = context(&format!("{CONTAINERS}{spec}"));
        (context.pod, context.host)
    }

    #[test]
    fn host_names() {
        let (mut pod, _) = with("hostname: h\nsubdomain: s");
        assert_eq!(kernel_name(&pod).unwrap(), "h");
        assert_eq!(host_and_domain(&pod).1.as_deref(), Some("s.default.svc.cluster.local"));
        pod.spec.set_hostname_as_fqdn = Some(true);
        assert_eq!(kernel_name(&pod).unwrap(), "h.s.default.svc.cluster.local");
        pod.spec.hostname = "h".repeat(60);
        assert!(kernel_name(&pod).is_err());
        let (mut pod, _) = with("");
        pod.metadata.name = format!("{}.b", "a".repeat(62));
        assert_eq!(kernel_name(&pod).unwrap(), "a".repeat(62));
        assert_eq!(kernel_name(&with("hostNetwork: true").0).unwrap(), "");
    }

    #[test]
    fn hosts_files() {
        let aliases = "hostAliases: [{ip: 192.0.2.7, hostnames: [a.example, b]}]";
        let (pod, host) = with(&format!("subdomain: s\n{aliases}"));
        insta::assert_snapshot!(hosts_file(&pod, &host, &["10.0.0.2".to_owned(), "fd00::2".to_owned()]));
        let (pod, host) = with(&format!("hostNetwork: true\n{aliases}"));
        insta::assert_snapshot!(hosts_file(&pod, &host, &[]));
    }

    #[test]
    fn resolvers() {
        let config = "dnsConfig: {nameservers: [192.0.2.53, 192.0.2.54], searches: [a.b], options: [{name: ndots, value: '5'}, {name: debug}]}";
        let (pod, host) = with("");
        assert_eq!(dns(&pod, &host), parse_resolv_conf(&host.resolv_conf));
        let (pod, host) = with(config);
        let merged = dns(&pod, &host);
        assert_eq!(merged.servers, ["192.0.2.53", "192.0.2.54"]);
        assert_eq!(merged.searches, ["example.com", "a.b"]);
        assert_eq!(merged.options, ["edns0", "ndots:5", "debug"]);
        let (pod, host) = with(&format!("dnsPolicy: None\n{config}"));
        let own = dns(&pod, &host);
        assert_eq!((own.servers.len(), own.searches.len(), own.options.len()), (2, 1, 2));
    }
}
