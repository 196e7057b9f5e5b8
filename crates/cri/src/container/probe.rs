//! What of the host goes into a container, looked up before anything is made.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxSeccomp};
use vaquita_proto::cri;
use vaquita_proto::cri::security_profile::ProfileType;
use vaquita_sys::mount::{MountInfo, Propagation};

use crate::error::Doing;
use crate::host::Host;
use crate::{Error, Result, spec};

/// Where each mount comes from: the image volume that is known, or a path of the host, which must be able to propagate as
/// asked.
pub(super) fn sources(config: &cri::ContainerConfig, volumes: &[Option<PathBuf>]) -> Result<Vec<PathBuf>> {
    let mut table = None;
    config
        .mounts
        .iter()
        .zip(volumes)
        .map(|(mount, volume)| {
            if let Some(volume) = volume {
                return Ok(volume.clone());
            }
            let field = format!("mounts[{}].host_path", mount.container_path);
            if !mount.host_path.starts_with('/') {
                return Err(Error::invalid(format!("{field}: {:?} is not absolute", mount.host_path)));
            }
            let path = source(&mount.host_path)
                .map_err(|error| Error::invalid(format!("{field}: {:?}: {error}", mount.host_path)))?;
            if mount.propagation != cri::MountPropagation::PropagationPrivate as i32 {
                if table.is_none() {
                    table = Some(vaquita_sys::mount::mountinfo().doing(|| "read the mounts of the host")?);
                }
                let bidirectional =
                    mount.propagation == cri::MountPropagation::PropagationBidirectional as i32;
                propagates(table.as_deref().unwrap_or_default(), &path, bidirectional)
                    .map_err(|error| error.within(&field))?;
            }
            Ok(path)
        })
        .collect()
}

/// A path of the host, symbolic links resolved. Where there is nothing, a directory is made, as containerd and CRI-O do,
/// whatever the interface says: pods with a `hostPath` of no type count on it.
#[expect(clippy::disallowed_methods, reason = "a path of the host, which the client names")]
fn source(path: &str) -> std::io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o755).create(path)?;
            std::fs::canonicalize(path)
        }
        other => other,
    }
}

/// Whether the mount that holds `path` passes on what is mounted below it.
pub(super) fn propagates(table: &[MountInfo], path: &Path, bidirectional: bool) -> Result<()> {
    // The last of equals is the one on top.
    let mount = table
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
        .ok_or_else(|| Error::invalid(format!("{} is on no mount", path.display())))?;
    match mount.propagation {
        Propagation::Shared => Ok(()),
        Propagation::Slave if !bidirectional => Ok(()),
        _ => Err(Error::invalid(format!(
            "{} is on the mount {}, which is not shared, so nothing can propagate: mount --make-rshared it",
            path.display(),
            mount.mount_point.display()
        ))),
    }
}

/// The device nodes that were asked for, with what may be done with them. A directory stands for all nodes in it; a
/// privileged container gets those of the host.
#[expect(clippy::disallowed_methods, reason = "a path of the host, which the client names")]
pub(super) fn devices(config: &cri::ContainerConfig) -> Result<Vec<(LinuxDevice, String)>> {
    let mut all = Vec::new();
    if spec::context(config).privileged {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut all)?;
    }
    for device in &config.devices {
        let field = format!("devices[{}]", device.container_path);
        if !device.host_path.starts_with('/') || !device.container_path.starts_with('/') {
            return Err(Error::invalid(format!("{field}: paths must be absolute")));
        }
        let permissions = &device.permissions;
        if permissions.is_empty() || permissions.contains(|c| !matches!(c, 'r' | 'w' | 'm')) {
            return Err(Error::invalid(format!("{field}.permissions: {permissions:?} is not of r, w, m")));
        }
        let path = std::fs::canonicalize(&device.host_path)
            .map_err(|error| Error::invalid(format!("{field}.host_path: {:?}: {error}", device.host_path)))?;
        let metadata = path.metadata().doing(|| format!("look at {}", path.display()))?;
        if metadata.is_dir() {
            collect(&path, Path::new(&device.container_path), permissions, &mut all)?;
        } else {
            let node = node(&metadata, Path::new(&device.container_path)).ok_or_else(|| {
                Error::invalid(format!("{field}.host_path: {:?} is not a device", device.host_path))
            })?;
            all.push((node, permissions.clone()));
        }
    }
    // The last word on a path counts.
    let mut seen = std::collections::BTreeSet::new();
    all.reverse();
    all.retain(|(device, _)| seen.insert(device.path().clone()));
    all.reverse();
    Ok(all)
}

/// Every device node below a directory, but for what is the container's own: terminals, shared memory, queues.
#[expect(clippy::disallowed_methods, reason = "a directory of the host, which the client names")]
fn collect(from: &Path, to: &Path, permissions: &str, all: &mut Vec<(LinuxDevice, String)>) -> Result<()> {
    let doing = || format!("list {}", from.display());
    for entry in std::fs::read_dir(from).doing(doing)? {
        let entry = entry.doing(doing)?;
        let name = entry.file_name();
        let own = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "hugepages"];
        if own.iter().any(|own| name == *own) {
            continue;
        }
        let path = to.join(&name);
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            collect(&entry.path(), &path, permissions, all)?;
        } else if let Some(node) = node(&metadata, &path) {
            all.push((node, permissions.to_owned()));
        }
    }
    Ok(())
}

/// A device node of the host.
#[expect(clippy::disallowed_methods, reason = "a path of the host, which its administrator's files name")]
pub(super) fn device(path: &Path) -> Result<LinuxDevice> {
    let doing = || format!("look at {}", path.display());
    let metadata =
        std::fs::metadata(path).map_err(|error| Error::invalid(format!("{}: {error}", doing())))?;
    node(&metadata, path).ok_or_else(|| Error::invalid(format!("{} is not a device", path.display())))
}

fn node(metadata: &std::fs::Metadata, path: &Path) -> Option<LinuxDevice> {
    let kind = if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else {
        return None;
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(kind)
        .set_major(rustix::fs::major(metadata.rdev()).into())
        .set_minor(rustix::fs::minor(metadata.rdev()).into())
        .set_file_mode(Some(metadata.mode() & 0o777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Some(device)
}

/// The profile that was asked for; none for a container that is privileged or unconfined.
pub(super) fn seccomp(config: &cri::ContainerConfig, host: &Host) -> Result<Option<LinuxSeccomp>> {
    let context = spec::context(config);
    if context.privileged {
        return Ok(None);
    }
    match wanted_seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)? {
        (ProfileType::Unconfined, _) => Ok(None),
        (ProfileType::RuntimeDefault, _) => {
            let capabilities: Vec<_> = spec::capabilities(config, host)?.into_iter().collect();
            Ok(Some(vaquita_runtime::seccomp::runtime_default(&capabilities)))
        }
        (ProfileType::Localhost, path) => local_profile(path).map(Some),
    }
}

/// The file with the profile that a sandbox asks for, if it is one. pause has a profile of its own, which allows less than any.
pub(crate) fn sandbox_seccomp(config: &cri::PodSandboxConfig) -> Result<Option<&str>> {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let Some(context) = context.filter(|context| !context.privileged) else { return Ok(None) };
    let (kind, path) = wanted_seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    Ok(Some(path).filter(|_| kind == ProfileType::Localhost))
}

fn wanted_seccomp<'a>(
    profile: Option<&'a cri::SecurityProfile>,
    deprecated: &'a str,
) -> Result<(ProfileType, &'a str)> {
    if let Some(profile) = profile {
        let kind = ProfileType::try_from(profile.profile_type).map_err(|_| {
            Error::invalid(format!("seccomp.profile_type: {} is unknown", profile.profile_type))
        })?;
        return Ok((kind, &profile.localhost_ref));
    }
    match deprecated {
        "" | "unconfined" => Ok((ProfileType::Unconfined, "")),
        "runtime/default" | "docker/default" => Ok((ProfileType::RuntimeDefault, "")),
        other => match other.strip_prefix("localhost/") {
            Some(path) => Ok((ProfileType::Localhost, path)),
            None => Err(Error::invalid(format!("seccomp_profile_path: {other:?} is unknown"))),
        },
    }
}

/// A profile of the host's administrator.
#[expect(clippy::disallowed_methods, reason = "a file of the host, which the client names")]
pub(crate) fn local_profile(path: &str) -> Result<LinuxSeccomp> {
    /// More than any profile needs.
    const LIMIT: u64 = 4 << 20;
    let invalid =
        |why: &dyn std::fmt::Display| Error::invalid(format!("seccomp.localhost_ref: {path:?}: {why}"));
    if !path.starts_with('/') {
        return Err(invalid(&"is not absolute"));
    }
    let metadata = std::fs::metadata(path).map_err(|error| invalid(&error))?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err(invalid(&"is not a file of a sensible size"));
    }
    let bytes = std::fs::read(path).map_err(|error| invalid(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| invalid(&error))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use super::*;

    fn mounted(config: cri::Mount) -> cri::ContainerConfig {
        cri::ContainerConfig { mounts: vec![config], ..Default::default() }
    }

    #[test]
    fn a_host_path_that_is_not_there_becomes_a_directory() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let found = |path: &Path| {
            let config =
                mounted(cri::Mount { host_path: path.to_str().unwrap().into(), ..Default::default() });
            sources(&config, &[None])
        };
        assert_eq!(found(&dir.path().join("not/there")).unwrap(), [real.join("not/there")]);
        assert_eq!(real.join("not").metadata().unwrap().permissions().mode() & 0o7022, 0);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert_eq!(found(&link).unwrap(), [real]);
        // Neither behind a link nor below a file is anything made.
        let nowhere = dir.path().join("nowhere");
        std::os::unix::fs::symlink(dir.path().join("gone"), &nowhere).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for bad in [nowhere, dir.path().join("file/x")] {
            let error = found(&bad).unwrap_err().to_string();
            assert!(error.contains(bad.to_str().unwrap()), "{error}");
        }
        assert!(!dir.path().join("gone").exists());
    }

    #[test]
    fn propagation_needs_a_shared_mount() {
        let line =
            |id: u32, point: &str, tag: &str| format!("{id} 1 8:1 / {point} rw {tag} - ext4 /dev/sda rw\n");
        let text = [line(1, "/", "shared:1"), line(2, "/s", "master:1"), line(3, "/p", "")].concat();
        let text = text.replace("rw  -", "rw -");
        let table = vaquita_sys::mount::parse_mountinfo(text.as_bytes()).unwrap();
        for (path, bidirectional, good) in [
            ("/x", true, true),
            ("/s/x", true, false),
            ("/s/x", false, true),
            ("/p/x", false, false),
            ("/pp", true, true),
        ] {
            assert_eq!(propagates(&table, Path::new(path), bidirectional).is_ok(), good, "{path}");
        }
    }

    #[test]
    fn devices_by_node_and_by_directory() {
        let config = |device| cri::ContainerConfig { devices: vec![device], ..Default::default() };
        let null = cri::Device {
            container_path: "/dev/nix".into(),
            host_path: "/dev/null".into(),
            permissions: "rw".into(),
        };
        let found = devices(&config(null.clone())).unwrap();
        assert_eq!((found[0].0.major(), found[0].0.minor()), (1, 3));
        assert!(devices(&config(cri::Device { permissions: "x".into(), ..null.clone() })).is_err());
        assert!(devices(&config(cri::Device { host_path: "/etc/passwd".into(), ..null })).is_err());
    }

    #[test]
    fn seccomp_profiles() {
        let host = Host::default();
        let with = |change: fn(&mut cri::LinuxContainerSecurityContext)| {
            let mut context = cri::LinuxContainerSecurityContext::default();
            change(&mut context);
            let linux = cri::LinuxContainerConfig { security_context: Some(context), resources: None };
            seccomp(&cri::ContainerConfig { linux: Some(linux), ..Default::default() }, &host)
        };
        assert!(with(|_| {}).unwrap().is_none());
        assert!(with(|context| context.seccomp_profile_path = "runtime/default".into()).unwrap().is_some());
        assert!(with(|context| context.seccomp_profile_path = "what".into()).is_err());
        assert!(
            with(|context| {
                context.seccomp =
                    Some(cri::SecurityProfile { profile_type: 2, localhost_ref: "/not/there.json".into() });
            })
            .unwrap_err()
            .to_string()
            .contains("/not/there.json")
        );
    }

    #[test]
    fn seccomp_of_a_sandbox() {
        let with = |profile_type, localhost_ref: &str, privileged| {
            let context = cri::LinuxSandboxSecurityContext {
                seccomp: Some(cri::SecurityProfile { profile_type, localhost_ref: localhost_ref.into() }),
                privileged,
                ..Default::default()
            };
            let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
            let config = cri::PodSandboxConfig { linux: Some(linux), ..Default::default() };
            sandbox_seccomp(&config).map(|path| path.map(str::to_owned))
        };
        assert_eq!(with(0, "", false).unwrap(), None);
        assert_eq!(with(1, "", false).unwrap(), None);
        assert_eq!(with(2, "/a.json", false).unwrap(), Some("/a.json".to_owned()));
        assert_eq!(with(2, "/a.json", true).unwrap(), None);
        assert!(with(7, "", false).is_err());
        assert_eq!(sandbox_seccomp(&cri::PodSandboxConfig::default()).unwrap(), None);
    }
}
