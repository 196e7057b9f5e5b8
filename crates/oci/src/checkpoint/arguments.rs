//! What CRIU is told, as arguments of criu(8).

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use vaquita_cgroup::{Layout, Version};
use vaquita_sys::mount::MountInfo;

use super::{Checkpoint, Criu, Restore};
use crate::Error;

/// `criu dump` or `criu pre-dump` of the processes below `pid`.
pub(super) fn dump(how: &Checkpoint, pid: i32, rootfs: &Path) -> Vec<String> {
    let mut arguments = vec![if how.pre_dump { "pre-dump" } else { "dump" }.to_owned()];
    arguments.extend(["--tree".to_owned(), pid.to_string()]);
    arguments.extend(["--root".to_owned(), text(rootfs)]);
    arguments.extend(common(&how.criu, "dump.log"));
    if how.leave_running {
        arguments.push("--leave-running".to_owned());
    }
    if let Some(parent) = &how.parent {
        arguments.extend(["--prev-images-dir".to_owned(), text(parent)]);
    }
    if how.pre_dump || how.parent.is_some() {
        arguments.push("--track-mem".to_owned());
    }
    arguments
}

/// `criu restore` below `root`, in this cgroup.
pub(super) fn restore(how: &Restore, root: &Path, pid_file: &Path, cgroup: Option<&Path>) -> Vec<String> {
    let mut arguments =
        vec!["restore".to_owned(), "--restore-detached".to_owned(), "--evasive-devices".to_owned()];
    arguments.extend(["--root".to_owned(), text(root), "--pidfile".to_owned(), text(pid_file)]);
    if let Some(cgroup) = cgroup {
        arguments.extend(["--cgroup-root".to_owned(), text(cgroup)]);
    }
    arguments.extend(common(&how.criu, "restore.log"));
    arguments
}

/// What is not the container's when it is written: `mnt[DESTINATION]:NAME` and `KIND[INODE]:NAME`.
pub(super) fn external_on_dump(
    spec: &Spec,
    layout: &Layout,
    seen: &[MountInfo],
) -> Result<Vec<String>, Error> {
    let mut arguments = Vec::new();
    for (destination, _) in mounts(spec, layout) {
        arguments.extend(["--external".to_owned(), format!("mnt[{destination}]:{destination}")]);
    }
    // Files are masked with /dev/null; directories with a filesystem that is the container's.
    let masked = masked(spec).iter().map(Path::new);
    for path in masked.filter(|path| seen.iter().any(|mount| mount.mount_point == *path && is_null(mount))) {
        arguments.extend(["--external".to_owned(), format!("mnt[{}]:/dev/null", text(path))]);
    }
    for (kind, path) in joined(spec) {
        let stat = std::fs::metadata(path).map_err(|error| Error::io(format!("stat({path:?})"), &error))?;
        arguments.extend(["--external".to_owned(), format!("{kind}[{}]:{}", stat.ino(), key(kind))]);
    }
    Ok(arguments)
}

/// What takes its place when it is made again: `mnt[NAME]:SOURCE`, and namespaces by path.
pub(super) fn external_on_restore(spec: &Spec, layout: &Layout) -> Result<Vec<String>, Error> {
    let mut arguments = Vec::new();
    for (destination, source) in mounts(spec, layout) {
        arguments.extend(["--external".to_owned(), format!("mnt[{destination}]:{source}")]);
    }
    if !masked(spec).is_empty() {
        arguments.extend(["--external".to_owned(), "mnt[/dev/null]:/dev/null".to_owned()]);
    }
    if let Some((kind, path)) = joined(spec).next() {
        // criu(8) takes those by descriptors that it inherits, which a program started by name does not get.
        return Err(Error::new(
            crate::Kind::Unsupported,
            format!(
                "the {kind} namespace is that of {path:?}: a container that joins one cannot be restored"
            ),
        ));
    }
    Ok(arguments)
}

fn common(criu: &Criu, log: &str) -> Vec<String> {
    let mut arguments = vec!["--images-dir".to_owned(), text(&criu.images), "-v4".to_owned()];
    arguments.extend(["--log-file".to_owned(), log.to_owned()]);
    if let Some(work) = &criu.work {
        arguments.extend(["--work-dir".to_owned(), text(work)]);
    }
    arguments.push(format!("--manage-cgroups={}", criu.cgroups));
    arguments.extend(criu.options.iter().cloned());
    arguments
}

/// Bind mounts and the hierarchies of v1, with their sources.
fn mounts(spec: &Spec, layout: &Layout) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let destination = text(mount.destination());
        let options = mount.options().iter().flatten();
        let is_bind = mount.typ().as_deref() == Some("bind")
            || options.clone().any(|option| matches!(option.as_str(), "bind" | "rbind"));
        if is_bind {
            all.push((destination, mount.source().as_deref().map(text).unwrap_or_default()));
        } else if mount.typ().as_deref() == Some("cgroup") && !layout.is_v2() {
            let hierarchies = layout.hierarchies().iter().filter(|one| one.version == Version::V1);
            for name in hierarchies.filter_map(|one| one.mount.file_name()) {
                let name = name.to_string_lossy();
                all.push((format!("{destination}/{name}"), format!("/sys/fs/cgroup/{name}")));
            }
        }
    }
    all
}

fn masked(spec: &Spec) -> &[String] {
    spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default()
}

/// Whether it is a mount of the host's /dev/null.
fn is_null(mount: &MountInfo) -> bool {
    mount.root.ends_with("null") && matches!(mount.fs_type.as_str(), "devtmpfs" | "tmpfs")
}

/// Network and PID namespaces at a path.
fn joined(spec: &Spec) -> impl Iterator<Item = (&'static str, &Path)> {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    list.iter().filter_map(|namespace| {
        let path = namespace.path().as_deref().filter(|path| path.as_os_str() != OsStr::new(""))?;
        match namespace.typ() {
            LinuxNamespaceType::Network => Some(("net", path)),
            LinuxNamespaceType::Pid => Some(("pid", path)),
            _ => None,
        }
    })
}

fn key(kind: &str) -> &'static str {
    if kind == "net" { "extRootNetNS" } else { "extRootPidNS" }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn criu() -> Criu {
        Criu {
            program: PathBuf::from("criu"),
            images: PathBuf::from("/images"),
            work: Some(PathBuf::from("/work")),
            options: vec!["--tcp-established".to_owned()],
            cgroups: "soft".to_owned(),
        }
    }

    #[test]
    fn a_dump() {
        let how = Checkpoint { criu: criu(), leave_running: true, ..Checkpoint::default() };
        assert_eq!(
            dump(&how, 42, Path::new("/rootfs")).join(" "),
            "dump --tree 42 --root /rootfs --images-dir /images -v4 --log-file dump.log --work-dir /work \
             --manage-cgroups=soft --tcp-established --leave-running"
        );
        let how = Checkpoint {
            criu: criu(),
            pre_dump: true,
            parent: Some("../one".into()),
            ..Checkpoint::default()
        };
        let arguments = dump(&how, 42, Path::new("/rootfs")).join(" ");
        assert!(arguments.starts_with("pre-dump "), "{arguments}");
        assert!(arguments.ends_with("--prev-images-dir ../one --track-mem"), "{arguments}");
    }

    #[test]
    fn what_is_the_hosts_is_external() {
        let text = r#"{"ociVersion": "1.0.0", "linux": {"maskedPaths": ["/proc/keys"]}, "mounts": [
            {"destination": "/data", "source": "/srv/data", "options": ["rbind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"}]}"#;
        let spec = serde_json::from_str(text).unwrap();
        let layout = Layout::detect().unwrap();
        let seen = "50 49 0:6 /null /proc/keys rw,nosuid master:2 - devtmpfs udev rw\n";
        let seen = vaquita_sys::mount::parse_mountinfo(seen.as_bytes()).unwrap();
        let dumped = external_on_dump(&spec, &layout, &seen).unwrap().join(" ");
        assert_eq!(dumped, "--external mnt[/data]:/data --external mnt[/proc/keys]:/dev/null");
        assert_eq!(external_on_dump(&spec, &layout, &[]).unwrap().len(), 2);
        let restored = external_on_restore(&spec, &layout).unwrap().join(" ");
        assert_eq!(restored, "--external mnt[/data]:/srv/data --external mnt[/dev/null]:/dev/null");
    }
}
