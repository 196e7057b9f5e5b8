//! What a sandbox is made of.

use std::net::IpAddr;
use std::path::Path;

use vaquita_net::{PortMapping, Protocol};
use vaquita_proto::cri;
use vaquita_shim::{Namespaces, SandboxRequest};

use super::{User, Users};
use crate::apparmor::Wanted;
use crate::host::Host;
use crate::model::{is_hostname, namespaces};
use crate::{Error, Result};

/// Whom pause runs as unless told otherwise: nobody's files are its own.
const PAUSE_USER: u32 = 65535;

/// What the shim has to make. Refuses what we cannot do, by the name of the field.
pub(crate) fn request(
    id: &str,
    config: &cri::PodSandboxConfig,
    cgroup: &Path,
    host: &Host,
) -> Result<SandboxRequest> {
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    if config.windows.is_some() {
        return Err(Error::invalid("windows: this is not Windows"));
    }
    super::apparmor::of_sandbox(&context, host)?;
    let users = super::users(config)?;
    let new = Namespaces { user: users.is_some(), ..new_namespaces(&namespaces(config))? };
    if new.uts && !is_hostname(&config.hostname) {
        return Err(Error::invalid(format!("hostname: {:?} cannot be the name of a host", config.hostname)));
    }
    let (uid, gid) = match (&context.run_as_user, &context.run_as_group) {
        (None, None) => {
            let user = users.map_or(PAUSE_USER, |users| PAUSE_USER.min(users.uids.length - 1));
            (user, user)
        }
        (None, Some(_)) => return Err(Error::invalid("run_as_group: a group without run_as_user")),
        (Some(user), group) => (
            super::id("run_as_user", user.value)?,
            super::id("run_as_group", group.map_or(0, |group| group.value))?,
        ),
    };
    if let Some(users) = &users {
        users.check(&User { uid, gid, ..User::default() })?;
    }
    Ok(SandboxRequest {
        id: id.to_owned(),
        hostname: if new.uts { config.hostname.clone() } else { String::new() },
        new,
        cgroup: cgroup.to_owned(),
        sysctls: sysctls(&linux.sysctls, new, users.as_ref())?,
        uid,
        gid,
        apparmor: String::new(),
        selinux: String::new(),
        mount_label: String::new(),
        // The last to go in a pod: it holds what the others share. As low as kubelet has it, where that is allowed.
        oom_score_adj: Some(host.lowest_oom_score_adj.max(-998)),
        restrict_oom_score_adj: host.restrict_oom_score_adj,
        uid_maps: users.iter().map(|users| users.uids).collect(),
        gid_maps: users.iter().map(|users| users.gids).collect(),
    })
}

/// The AppArmor profile that the sandbox's own process asks for.
pub(crate) fn apparmor(config: &cri::PodSandboxConfig, host: &Host) -> Result<Option<Wanted>> {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.map_or(Ok(None), |context| super::apparmor::of_sandbox(context, host))
}

fn new_namespaces(options: &cri::NamespaceOption) -> Result<Namespaces> {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let mode = |name: &str, value: i32| {
        let mode = cri::NamespaceMode::try_from(value);
        match (name, mode) {
            (_, Ok(Pod)) => Ok(true),
            (_, Ok(Node)) | ("pid", Ok(Container)) => Ok(false),
            (_, Ok(mode @ (Container | Target))) => Err(Error::invalid(format!(
                "namespace_options.{name}: {mode:?} makes no sense for a sandbox"
            ))),
            (_, Err(_)) => Err(Error::invalid(format!("namespace_options.{name}: {value} is unknown"))),
        }
    };
    let net = mode("network", options.network)?;
    Ok(Namespaces {
        ipc: mode("ipc", options.ipc)?,
        net,
        pid: mode("pid", options.pid)?,
        user: false,
        // As every runtime does: who has the host's network has the host's name.
        uts: net,
    })
}

/// What the pod asks for after what every pod gets: unprivileged programs may listen on low ports and ping.
fn sysctls(
    asked: &std::collections::BTreeMap<String, String>,
    new: Namespaces,
    users: Option<&Users>,
) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    if new.net {
        // Every group that there is.
        let last = users.map_or(0x7fff_ffff, |users| users.gids.length - 1);
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
            ("net.ipv4.ping_group_range", format!("0 {last}")),
        ] {
            if !asked.contains_key(name) {
                all.push((name.to_owned(), value));
            }
        }
    }
    for (name, value) in asked {
        check_sysctl(name, value, new)?;
        all.push((name.clone(), value.clone()));
    }
    Ok(all)
}

/// Only what belongs to a namespace that the pod has for itself (CVE-2022-0811, CVE-2022-0532).
fn check_sysctl(name: &str, value: &str, new: Namespaces) -> Result<()> {
    let strange = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if name.split('.').any(str::is_empty) || name.contains(strange) {
        return Err(Error::invalid(format!("sysctls: {name:?} is not the name of a kernel parameter")));
    }
    if value.contains(['\n', '\r', '\0']) || value.len() > 1024 {
        return Err(Error::invalid(format!("sysctls[{name}]: the value must be one line")));
    }
    let ipc = matches!(name, "kernel.sem")
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    let net = name.starts_with("net.");
    match (ipc, net) {
        (true, _) if new.ipc => Ok(()),
        (_, true) if new.net => Ok(()),
        (true, _) | (_, true) => Err(Error::invalid(format!(
            "sysctls[{name}]: the pod uses that namespace of the host, whose parameters it may not change"
        ))),
        _ => {
            Err(Error::invalid(format!("sysctls[{name}]: this parameter belongs to the host, not to a pod")))
        }
    }
}

/// The ports of the host that lead into the pod. Port 0 is none.
pub(crate) fn ports(config: &cri::PodSandboxConfig) -> Result<Vec<PortMapping>> {
    config
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            let port = |name: &str, value: i32| {
                u16::try_from(value)
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| Error::invalid(format!("port_mappings: {name} {value} is not a port")))
            };
            let host_ip = match mapping.host_ip.as_str() {
                "" => None,
                text => Some(text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| {
                    Error::invalid(format!("port_mappings: host_ip {text:?} is not an address"))
                })?),
            };
            let protocol = match cri::Protocol::try_from(mapping.protocol) {
                Ok(cri::Protocol::Tcp) => Protocol::Tcp,
                Ok(cri::Protocol::Udp) => Protocol::Udp,
                Ok(cri::Protocol::Sctp) => Protocol::Sctp,
                Err(_) => {
                    return Err(Error::invalid(format!(
                        "port_mappings: protocol {} is unknown",
                        mapping.protocol
                    )));
                }
            };
            Ok(PortMapping {
                host_ip,
                host_port: port("host_port", mapping.host_port)?,
                container_port: port("container_port", mapping.container_port)?,
                protocol,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Namespaces = Namespaces { ipc: true, net: true, pid: false, user: false, uts: true };
    const HOST: Namespaces = Namespaces { ipc: false, net: false, pid: false, user: false, uts: false };

    /// T24.
    #[test]
    fn cve_2022_0811_sysctls_stay_in_the_pod() {
        for name in
            ["net.core.somaxconn", "kernel.shmmax", "kernel.msgmax", "kernel.sem", "fs.mqueue.msg_max"]
        {
            check_sysctl(name, "1", OWN).unwrap();
            assert!(check_sysctl(name, "1", HOST).is_err(), "{name}");
        }
        for name in [
            "kernel.core_pattern",
            "+kernel.core_pattern",
            "net.ipv4.x+kernel.core_pattern",
            "net/../kernel/core_pattern",
            "net...kernel",
            "net.ipv4.a=1",
            "kernel.shmmax\nkernel.core_pattern",
            "kernel.hostname",
            "vm.swappiness",
            "fs.file-max",
            "",
            "net.",
        ] {
            assert!(check_sysctl(name, "1", OWN).is_err(), "{name:?}");
        }
        assert!(check_sysctl("kernel.shmmax", "1\n2", OWN).is_err());
    }

    #[test]
    fn a_group_needs_a_user() {
        let config = cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    run_as_group: Some(cri::Int64Value { value: 5 }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let error = request("x", &config, Path::new("/a"), &Host::default()).unwrap_err();
        assert!(error.to_string().contains("run_as_group"), "{error}");
    }

    #[test]
    fn ports_are_checked() {
        let with =
            |mapping| ports(&cri::PodSandboxConfig { port_mappings: vec![mapping], ..Default::default() });
        let good = cri::PortMapping {
            protocol: 1,
            container_port: 53,
            host_port: 5353,
            host_ip: "127.0.0.1".into(),
        };
        assert_eq!(with(good.clone()).unwrap()[0].to_string(), "127.0.0.1:5353/udp -> 53");
        assert!(with(cri::PortMapping { host_port: 0, ..good.clone() }).unwrap().is_empty());
        for bad in [
            cri::PortMapping { host_port: 65536, ..good.clone() },
            cri::PortMapping { host_port: -1, ..good.clone() },
            cri::PortMapping { container_port: 0, ..good.clone() },
            cri::PortMapping { host_ip: "x".into(), ..good.clone() },
            cri::PortMapping { protocol: 9, ..good },
        ] {
            assert!(with(bad).is_err());
        }
    }
}
