//! What is mounted where in a container.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use vaquita_proto::cri;

use super::{Input, mount};
use crate::{Error, Result};

/// The defaults, then the files of the pod and what the client asks for, parents before children.
pub(super) fn build(input: &Input<'_>, context: &cri::LinuxContainerSecurityContext) -> Result<Vec<Mount>> {
    let users = super::users(input.sandbox)?;
    let asked = input
        .config
        .mounts
        .iter()
        .zip(input.sources)
        .map(|(mount, source)| {
            let mut made = asked(mount, source)?;
            super::users::map(&mut made, mount, users.as_ref())?;
            Ok(made)
        })
        .collect::<Result<Vec<_>>>()?;
    let overridden = |mount: &Mount| asked.iter().any(|other| same(other.destination(), mount.destination()));
    let mut all: Vec<Mount> =
        defaults(context.privileged).into_iter().filter(|mount| !overridden(mount)).collect();
    let shares_network = !super::joined(input.sandbox, super::PidNamespace::Own).net;
    if users.is_some() && shares_network {
        // Only who the network belongs to may mount a new one.
        let sys = mount("/sys", "bind", "/sys", &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"]);
        let news = |mount: &&mut Mount| mount.typ().as_deref() == Some("sysfs");
        all.iter_mut().filter(news).for_each(|mount| *mount = sys.clone());
    }
    let mut above: Vec<Mount> =
        of_the_pod(input, context).into_iter().filter(|mount| !overridden(mount)).collect();
    above.extend(
        input.volumes.iter().map(|(path, source)| mount(path, "bind", source, &["rbind", "rprivate", "rw"])),
    );
    above.extend(asked);
    above.sort_by_key(|mount| mount.destination().components().count());
    all.extend(above);
    Ok(all)
}

/// Whether every container has a mount there.
pub(super) fn is_everybodys(destination: &str) -> bool {
    OF_THE_POD.contains(&destination)
        || defaults(false).iter().any(|mount| mount.destination() == Path::new(destination))
}

/// Where the files of the pod go.
const OF_THE_POD: [&str; 4] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm"];

/// How the root of the container's mounts receives mounts of the host.
pub(super) fn root_propagation(config: &cri::ContainerConfig) -> Option<String> {
    let most = config.mounts.iter().map(|mount| mount.propagation).max().unwrap_or_default();
    match cri::MountPropagation::try_from(most) {
        Ok(cri::MountPropagation::PropagationBidirectional) => Some("rshared".into()),
        Ok(cri::MountPropagation::PropagationHostToContainer) => Some("rslave".into()),
        _ => None,
    }
}

/// As containerd has them, without `/dev/shm`, which is the pod's.
fn defaults(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

fn of_the_pod(input: &Input<'_>, context: &cri::LinuxContainerSecurityContext) -> Vec<Mount> {
    let access = if context.readonly_rootfs { "ro" } else { "rw" };
    let bind = |destination: &str, source: &Path, access: &str| {
        mount(destination, "bind", source, &["rbind", "rprivate", access])
    };
    let [hostname, hosts, resolv, shm] = OF_THE_POD;
    vec![
        bind(hostname, input.pod.hostname, access),
        bind(hosts, input.pod.hosts, access),
        bind(resolv, input.pod.resolv, access),
        bind(shm, input.pod.shm, "rw"),
    ]
}

fn asked(asked: &cri::Mount, source: &Path) -> Result<Mount> {
    let field = format!("mounts[{}]", asked.container_path);
    let destination = destination(&asked.container_path)?;
    let propagation = cri::MountPropagation::try_from(asked.propagation)
        .map_err(|_| Error::invalid(format!("{field}.propagation: {} is unknown", asked.propagation)))?;
    let propagation = match propagation {
        cri::MountPropagation::PropagationPrivate => "rprivate",
        cri::MountPropagation::PropagationHostToContainer => "rslave",
        cri::MountPropagation::PropagationBidirectional => "rshared",
    };
    if asked.recursive_read_only && (!asked.readonly || propagation != "rprivate") {
        return Err(Error::invalid(format!(
            "{field}.recursive_read_only needs readonly and PROPAGATION_PRIVATE"
        )));
    }
    let access = match (asked.readonly, asked.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    for option in &asked.mount_options {
        match option.as_str() {
            "noexec" | "nodev" | "nosuid" => options.push(option),
            _ => {
                return Err(Error::invalid(format!(
                    "{field}.mount_options: {option:?} is none of noexec, nodev, nosuid"
                )));
            }
        }
    }
    Ok(mount(&destination, "bind", source, &options))
}

/// The place in the container as an absolute path without `.` and `..`.
pub(super) fn destination(text: &str) -> Result<String> {
    let refuse = |why: &str| Error::invalid(format!("mounts: container_path {text:?} {why}"));
    if text.is_empty() {
        return Err(refuse("is empty"));
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(refuse("has a \"..\"")),
            Component::CurDir | Component::Prefix(_) | Component::RootDir => {}
        }
    }
    if clean == Path::new("/") {
        return Err(refuse("is the root"));
    }
    clean.into_os_string().into_string().map_err(|_| refuse("is not UTF-8"))
}

fn same(one: &Path, other: &Path) -> bool {
    one.components().eq(other.components())
}
