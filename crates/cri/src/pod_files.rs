//! The files that the containers of a pod share: host name, hosts, name servers, shared memory.

use std::net::IpAddr;
use std::path::Path;

use rustix::mount::UnmountFlags;
use vaquita_proto::cri;
use vaquita_sys::mount::{Attributes, Filesystem};

use crate::error::Doing;
use crate::model::{SandboxRecord, namespaces};
use crate::paths::Paths;
use crate::{Error, Result};

/// Bytes of shared memory that a pod may use, as with every other runtime. What is used counts against the limit of the
/// container that wrote it.
const SHM_SIZE: &str = "67108864";

/// Writes host name and name servers, and mounts the shared memory. `/etc/hosts` follows when the address is known.
pub(crate) fn make(paths: &Paths, record: &SandboxRecord) -> Result<()> {
    let SandboxRecord { id, config, .. } = record;
    let label = label(record);
    let namespaces = namespaces(config);
    let root = root(config)?;
    write(&paths.hostname(id), format!("{}\n", hostname(config)).as_bytes(), root, label)?;
    let resolv = match &config.dns_config {
        Some(dns) => resolv_conf(dns)?.into_bytes(),
        None => host_resolv(namespaces.network == cri::NamespaceMode::Pod as i32)?,
    };
    write(&paths.resolv(id), &resolv, root, label)?;
    if namespaces.ipc == cri::NamespaceMode::Pod as i32 {
        mount_shm(&paths.shm(id), root, label)?;
    }
    Ok(())
}

/// Writes `/etc/hosts`: the host's where the pod has no address of its own, else the pod's own name and addresses.
pub(crate) fn write_hosts(paths: &Paths, record: &SandboxRecord, ips: &[IpAddr]) -> Result<()> {
    let SandboxRecord { id, config, .. } = record;
    let text = match ips {
        [] => host_file("/etc/hosts")?,
        ips => hosts(&hostname(config), ips).into_bytes(),
    };
    write(&paths.hosts(id), &text, root(config)?, label(record))
}

/// What SELinux gives the files of the pod.
fn label(record: &SandboxRecord) -> Option<&str> {
    record.selinux.as_ref().map(|labels| labels.mount.as_str())
}

/// To whom the files belong: the pod's root, whoever that is on the host.
fn root(config: &cri::PodSandboxConfig) -> Result<(u32, u32)> {
    Ok(crate::spec::users(config)?.map_or((0, 0), |users| users.root()))
}

/// Unmounts the shared memory. Where it is not mounted there is nothing to do.
pub(crate) fn unmount_shm(paths: &Paths, id: &str) -> Result<()> {
    let path = paths.shm(id);
    match vaquita_sys::mount::umount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(error) if matches!(error.errno(), rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        other => other.doing(|| format!("unmount {}", path.display())),
    }
}

/// The name that the processes of a pod see.
pub(crate) fn hostname(config: &cri::PodSandboxConfig) -> String {
    let own = namespaces(config).network == cri::NamespaceMode::Pod as i32 && !config.hostname.is_empty();
    if own {
        return config.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn hosts(name: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for ip in ips {
        text.push_str(&format!("{ip}\t{name}\n"));
    }
    text
}

fn resolv_conf(dns: &cri::DnsConfig) -> Result<String> {
    for word in dns.servers.iter().chain(&dns.searches).chain(&dns.options) {
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid(format!("dns_config: {word:?} is not one word")));
        }
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}

/// The host's name servers. Where these are loopback addresses alone, such as systemd-resolved's 127.0.0.53, a pod with a
/// network of its own gets the servers that systemd-resolved asks, if there is such a file: kubelet does the same.
fn host_resolv(own_network: bool) -> Result<Vec<u8>> {
    let stub = host_file("/etc/resolv.conf")?;
    if own_network && names_loopback_only(&stub) {
        let real = host_file("/run/systemd/resolve/resolv.conf")?;
        return Ok(if real.is_empty() { stub } else { real });
    }
    Ok(stub)
}

/// Whether a resolv.conf has name servers, and all of them are of the host itself.
fn names_loopback_only(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let mut servers = servers.map(|server| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()));
    servers.next().is_some_and(|first| first && servers.all(|other| other))
}

/// A file of the host, empty where it has none.
#[expect(clippy::disallowed_methods, reason = "a file of the host")]
fn host_file(path: &str) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).doing(|| format!("read {path}")),
    }
}

/// Containers of any user read these.
#[expect(
    clippy::disallowed_methods,
    reason = "the pod's directory, which is ours: its containers see the file, and not where it lies"
)]
fn write(path: &Path, bytes: &[u8], (uid, gid): (u32, u32), label: Option<&str>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let doing = || format!("write {}", path.display());
    std::fs::write(path, bytes).doing(doing)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).doing(doing)?;
    if let Some(label) = label {
        rustix::fs::lsetxattr(path, "security.selinux", label.as_bytes(), rustix::fs::XattrFlags::empty())
            .doing(|| format!("label {}", path.display()))?;
    }
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).doing(doing)
}

#[expect(clippy::disallowed_methods, reason = "the pod's directory, which is ours")]
fn mount_shm(path: &Path, (uid, gid): (u32, u32), label: Option<&str>) -> Result<()> {
    let doing = || format!("mount a tmpfs on {}", path.display());
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.doing(doing)?,
    }
    let tmpfs = Filesystem::open("tmpfs").doing(doing)?;
    tmpfs.set_string("mode", "1777").doing(doing)?;
    tmpfs.set_string("size", SHM_SIZE).doing(doing)?;
    tmpfs.set_string("uid", uid.to_string()).doing(doing)?;
    tmpfs.set_string("gid", gid.to_string()).doing(doing)?;
    if let Some(label) = label {
        tmpfs.set_string("context", label).doing(doing)?;
    }
    tmpfs.set_string("source", "shm").doing(doing)?;
    let tree = tmpfs.create_with(Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC).doing(doing)?;
    vaquita_sys::mount::move_mount(&tree, rustix::fs::CWD, path).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_itself_by_each_address() {
        let text = hosts("web", &["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(text.ends_with("ff02::2\tip6-allrouters\n10.0.0.2\tweb\nfd00::2\tweb\n"), "{text}");
    }

    #[test]
    fn a_stub_resolver_is_told_from_a_real_one() {
        for stub in ["nameserver 127.0.0.53\noptions edns0\n", "# x\nnameserver ::1\nnameserver\t127.0.0.1 "]
        {
            assert!(names_loopback_only(stub.as_bytes()), "{stub:?}");
        }
        for real in
            ["", "nameserver 10.0.0.1\n", "nameserver 127.0.0.1\nnameserver fd00::53\n", "# nameserver ::1"]
        {
            assert!(!names_loopback_only(real.as_bytes()), "{real:?}");
        }
    }

    #[test]
    fn name_servers() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let dns = cri::DnsConfig {
            servers: words(&["10.0.0.1", "10.0.0.2"]),
            searches: words(&["a.svc", "svc"]),
            options: words(&["ndots:5"]),
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "search a.svc svc\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&cri::DnsConfig::default()).unwrap(), "");
        let evil = cri::DnsConfig { servers: words(&["1.1.1.1\nnameserver 6.6.6.6"]), ..Default::default() };
        assert!(resolv_conf(&evil).is_err());
    }
}
