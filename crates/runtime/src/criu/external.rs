//! What is not the container's: mounts of the host's files, and namespaces of others.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use vaquita_cgroup::{Layout, Version};
use vaquita_sys::mount::{MountInfo, mountinfo, parse_mountinfo};
use vaquita_sys::ns;
use vaquita_sys::procfs::Procfs;
use vaquita_sys::root::Root;

use super::arguments::text;
use super::io;
use crate::{Error, Kind};

/// Of what a container's mountinfo may have, in bytes.
const LONGEST_TABLE: usize = 16 << 20;

/// The mounts of a container as its processes see them.
pub(super) struct Seen {
    pub(super) mounts: Vec<MountInfo>,
    root: Option<Root>,
}

impl Seen {
    /// As the process `pid` sees them.
    pub(super) fn by(procfs: &Procfs, pid: i32) -> Result<Self, Error> {
        let table = procfs.read(format!("{pid}/mountinfo"), LONGEST_TABLE)?;
        let mounts = parse_mountinfo(&table).map_err(|line| {
            Error::new(Kind::Invalid, format!("line {line:?} of /proc/{pid}/mountinfo does not read"))
        })?;
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
            .map_err(|errno| Error::kernel(format!("open({path:?}, O_PATH)"), errno))?;
        Ok(Self { mounts, root: Some(Root::from_fd(root)) })
    }

    /// Where a destination is when symbolic links are followed; itself where that cannot be told.
    fn place(&self, destination: &Path) -> PathBuf {
        let found = self.root.as_ref().and_then(|root| {
            let fd = root.open(destination, OFlags::PATH).ok()?;
            std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
        });
        found.unwrap_or_else(|| destination.to_owned())
    }
}

/// A mount of what is the host's: where the specification wants it, and from where.
struct External {
    destination: String,
    source: String,
}

/// `mnt[PLACE]:NAME`, where the name is the destination in the specification, or a path below it for what is mounted below
/// the source.
pub(super) fn on_dump(spec: &Spec, layout: &Layout, seen: &Seen) -> Vec<String> {
    let external = mounts(spec, layout);
    let mut places: Vec<(PathBuf, Option<&str>)> =
        spec.mounts().iter().flatten().map(|mount| (seen.place(mount.destination()), None)).collect();
    places.extend(external.iter().map(|mount| {
        let destination = mount.destination.as_str();
        (seen.place(Path::new(destination)), Some(destination))
    }));
    let mut all: Vec<String> = Vec::new();
    for mount in &seen.mounts {
        let above = places.iter().filter(|(place, _)| mount.mount_point.starts_with(place));
        // The last of equals: those that are external come after the others.
        let nearest = above.max_by_key(|(place, _)| place.components().count());
        let Some((place, Some(name))) = nearest else { continue };
        let below = mount.mount_point.strip_prefix(place).unwrap_or(Path::new(""));
        let point = text(&mount.mount_point);
        let name =
            if below == Path::new("") { (*name).to_owned() } else { format!("{name}/{}", text(below)) };
        let argument = format!("mnt[{point}]:{name}");
        if !all.contains(&argument) {
            all.push(argument);
        }
    }
    // The terminal at /dev/console, whose other side is outside.
    let consoles = seen.mounts.iter().filter(|one| one.fs_type == "devpts" && is_console(&one.root));
    all.extend(consoles.map(|one| format!("mnt[{0}]:{0}", text(&one.mount_point))));
    // Files are masked with /dev/null; directories with a filesystem that is the container's.
    let masked = masked(spec).iter().map(Path::new);
    let masked = masked.filter(|path| seen.mounts.iter().any(|one| one.mount_point == *path && is_null(one)));
    all.extend(masked.map(|path| format!("mnt[{}]:/dev/null", text(path))));
    flagged(all)
}

/// What takes its place when it is made again: `mnt[NAME]:SOURCE`.
pub(super) fn on_restore(spec: &Spec, layout: &Layout) -> Result<Vec<String>, Error> {
    let here = mountinfo()?;
    let mut all = Vec::new();
    for External { destination, source } in mounts(spec, layout) {
        all.push(format!("mnt[{destination}]:{source}"));
        for mount in &here {
            match mount.mount_point.strip_prefix(&source) {
                Ok(below) if below != Path::new("") && source != "/" => {
                    let below = text(below);
                    all.push(format!("mnt[{destination}/{below}]:{}", text(&mount.mount_point)));
                }
                _ => {}
            }
        }
    }
    if !masked(spec).is_empty() {
        all.push("mnt[/dev/null]:/dev/null".to_owned());
    }
    Ok(flagged(all))
}

/// The namespaces that a specification has at a path.
///
/// # Errors
/// Those of opening them.
pub fn joined(spec: &Spec) -> Result<Vec<(ns::Kind, OwnedFd)>, Error> {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let mut joined = Vec::new();
    for namespace in list {
        let path = namespace.path().as_deref().filter(|path| path.as_os_str() != OsStr::new(""));
        let Some(path) = path else { continue };
        let kind = crate::plan::kind(namespace.typ());
        let file = std::fs::File::open(path).map_err(|error| io(format!("open({path:?})"), &error))?;
        joined.push((kind, file.into()));
    }
    Ok(joined)
}

/// `net[INODE]:NAME`. Those that CRIU knows no such thing of it writes as if they were the container's own, and they
/// are left alone when it is made again in those of others.
pub(super) fn namespaces_on_dump(joined: &[(ns::Kind, u64)]) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for (kind, inode) in joined {
        match kind {
            ns::Kind::Net | ns::Kind::Pid => {
                all.push(format!("{}[{inode}]:{}", kind.file_name(), key(*kind)))
            }
            ns::Kind::Ipc | ns::Kind::Uts => {}
            other => return Err(cannot(*other, "written")),
        }
    }
    Ok(flagged(all))
}

/// Arguments, and the descriptors that they name.
pub(super) struct Namespaces {
    pub(super) arguments: Vec<String>,
    pub(super) kept: Vec<OwnedFd>,
}

/// Those that are external come by descriptor, the others by path.
pub(super) fn namespaces_on_restore(joined: &[(ns::Kind, OwnedFd)]) -> Result<Namespaces, Error> {
    let mut all = Namespaces { arguments: Vec::new(), kept: Vec::new() };
    for (kind, fd) in joined {
        match kind {
            ns::Kind::Net | ns::Kind::Pid => {
                let copy = fd.try_clone().map_err(|error| io("dup", &error))?;
                rustix::io::fcntl_setfd(&copy, FdFlags::empty())
                    .map_err(|errno| Error::kernel("fcntl(F_SETFD)", errno))?;
                all.arguments.push("--inherit-fd".to_owned());
                all.arguments.push(format!("fd[{}]:{}", copy.as_raw_fd(), key(*kind)));
                all.kept.push(copy);
            }
            ns::Kind::Ipc | ns::Kind::Uts => {
                let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
                all.arguments.extend(["--join-ns".to_owned(), format!("{}:{path}", kind.file_name())]);
            }
            other => return Err(cannot(*other, "made again")),
        }
    }
    Ok(all)
}

fn cannot(kind: ns::Kind, what: &str) -> Error {
    Error::unsupported(format!(
        "the {} namespace is shared with others: such a container cannot be {what} by CRIU",
        kind.file_name()
    ))
}

fn flagged(values: Vec<String>) -> Vec<String> {
    values.into_iter().flat_map(|value| ["--external".to_owned(), value]).collect()
}

/// Bind mounts and the hierarchies of v1.
fn mounts(spec: &Spec, layout: &Layout) -> Vec<External> {
    let mut all = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let destination = text(mount.destination());
        if is_bind(mount) {
            let source = mount.source().as_deref().map(text).unwrap_or_default();
            all.push(External { destination, source });
        } else if mount.typ().as_deref() == Some("cgroup") && !layout.is_v2() {
            let hierarchies = layout.hierarchies().iter().filter(|one| one.version == Version::V1);
            for name in hierarchies.filter_map(|one| one.mount.file_name()) {
                let name = name.to_string_lossy();
                all.push(External {
                    destination: format!("{destination}/{name}"),
                    source: format!("/sys/fs/cgroup/{name}"),
                });
            }
        }
    }
    all
}

fn is_bind(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind")
        || options.any(|option| matches!(option.as_str(), "bind" | "rbind"))
}

fn masked(spec: &Spec) -> &[String] {
    spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default()
}

/// Whether it is a mount of the host's /dev/null.
fn is_null(mount: &MountInfo) -> bool {
    mount.root.ends_with("null") && matches!(mount.fs_type.as_str(), "devtmpfs" | "tmpfs")
}

/// Whether what is mounted of a devpts is one terminal.
fn is_console(root: &Path) -> bool {
    root.file_name().is_some_and(|name| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
}

/// The name of an external namespace, as other runtimes have it.
fn key(kind: ns::Kind) -> &'static str {
    if kind == ns::Kind::Net { "extRootNetNS" } else { "extRootPidNS" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(table: &str) -> Seen {
        Seen { mounts: parse_mountinfo(table.as_bytes()).unwrap(), root: None }
    }

    #[test]
    fn what_is_the_hosts_is_external() {
        let text = r#"{"ociVersion": "1.0.0", "linux": {"maskedPaths": ["/proc/keys"]}, "mounts": [
            {"destination": "/data", "source": "/srv/data", "options": ["rbind", "ro"]},
            {"destination": "/data/own", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/gone", "source": "/srv/gone", "type": "bind"},
            {"destination": "/proc", "type": "proc", "source": "proc"}]}"#;
        let spec = serde_json::from_str(text).unwrap();
        let layout = Layout::detect().unwrap();
        let table = "48 40 0:9 / / rw - overlay overlay rw\n\
                     49 48 0:5 / /proc rw - proc proc rw\n\
                     50 49 0:6 /null /proc/keys rw,nosuid master:2 - devtmpfs udev rw\n\
                     51 48 8:1 /srv/data /data ro - ext4 /dev/sda1 rw\n\
                     52 51 0:7 / /data/own rw - tmpfs tmpfs rw\n\
                     53 51 8:2 / /data/disk rw - ext4 /dev/sda2 rw\n\
                     55 48 0:8 / /dev/pts rw - devpts devpts rw\n\
                     56 48 0:8 /0 /dev/console rw - devpts devpts rw\n\
                     54 48 8:2 / /database rw - ext4 /dev/sda2 rw\n";
        let dumped = on_dump(&spec, &layout, &seen(table)).join(" ");
        assert_eq!(
            dumped,
            "--external mnt[/data]:/data --external mnt[/data/disk]:/data/disk \
             --external mnt[/dev/console]:/dev/console --external mnt[/proc/keys]:/dev/null"
        );
        let restored = on_restore(&spec, &layout).unwrap().join(" ");
        assert_eq!(
            restored,
            "--external mnt[/data]:/srv/data --external mnt[/gone]:/srv/gone --external mnt[/dev/null]:/dev/null"
        );
    }

    #[test]
    fn namespaces_of_others_are_named() {
        let joined = [(ns::Kind::Net, 7), (ns::Kind::Ipc, 8), (ns::Kind::Pid, 9)];
        assert_eq!(
            namespaces_on_dump(&joined).unwrap().join(" "),
            "--external net[7]:extRootNetNS --external pid[9]:extRootPidNS"
        );
        let error = namespaces_on_dump(&[(ns::Kind::User, 7)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let own = || ns::open(None, ns::Kind::Net).unwrap();
        let made = namespaces_on_restore(&[(ns::Kind::Net, own()), (ns::Kind::Uts, own())]).unwrap();
        let fd = made.kept[0].as_raw_fd();
        assert_eq!(made.arguments[..2], ["--inherit-fd".to_owned(), format!("fd[{fd}]:extRootNetNS")]);
        assert!(made.arguments[3].starts_with("uts:/proc/"), "{:?}", made.arguments);
    }
}
