//! SELinux labels of what is mounted into a container, where its client asks for that.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use vaquita_proto::cri;
use vaquita_sys::root;

use crate::error::Doing;
use crate::host::Host;
use crate::{Error, Result};

/// Directories below each other. Whoever has more than that of them in a volume wants to see what happens.
const DEPTH: usize = 256;
/// The attribute that holds a label.
const ATTRIBUTE: &str = "security.selinux";

/// A file itself, whatever it is.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// With everything below them: what the host lives on. Its own services could not use it any more (CVE-2021-43816).
const HOSTS: &[&str] =
    &["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"];
/// Themselves alone: places below which volumes are.
const ABOVE: &[&str] = &[
    "/",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/var",
    "/var/lib",
    "/var/lib/kubelet",
    "/var/lib/vaquita",
    "/var/log",
];

/// Gives what the mounts of a configuration come from the label of the container's files, where they ask for it. `volumes` says
/// which of them are images, which have theirs by their mount.
///
/// # Errors
/// `Unsupported` where SELinux runs and the container has no labels, `Invalid` for a place that is the host's own and for a
/// volume with another mount in it, and whatever the kernel says, with the path.
pub(super) fn sources(
    config: &cri::ContainerConfig,
    volumes: &[Option<PathBuf>],
    sources: &[PathBuf],
    label: Option<&str>,
    host: &Host,
) -> Result<()> {
    for ((mount, volume), source) in config.mounts.iter().zip(volumes).zip(sources) {
        if !mount.selinux_relabel {
            continue;
        }
        let field = || format!("mounts[{}].selinux_relabel", mount.container_path);
        match label {
            Some(label) if volume.is_none() => {
                relabel(source, label).map_err(|error| error.within(field()))?;
            }
            None if host.selinux => {
                let why =
                    "the pod has no SELinux labels: it would get them by a daemon that runs with --selinux";
                return Err(Error::unsupported(why).within(field()));
            }
            // A host without SELinux has no labels; kubelet asks for them all the same.
            _ => {}
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a path of the host, of which it is then asked where it led")]
fn relabel(source: &Path, label: &str) -> Result<()> {
    let top =
        rustix::fs::open(source, PLACE, Mode::empty()).map_err(|errno| failed("open", source, errno))?;
    // The path was free of links when it was looked up, and may have been exchanged since.
    let path = std::fs::read_link(link(top.as_fd())).doing(|| format!("find {}", source.display()))?;
    check(&path)?;
    // It gets its label last, so that one that has it is done: a volume is looked through once, not for each container.
    if has(top.as_fd(), label) {
        return Ok(());
    }
    below(top, &path, label, DEPTH)
}

fn check(path: &Path) -> Result<()> {
    let is_hosts = HOSTS.iter().any(|place| path.starts_with(place));
    if is_hosts || ABOVE.iter().any(|place| path == Path::new(place)) {
        let path = path.display();
        return Err(Error::invalid(format!("{path} is the host's own, whose labels stay as they are")));
    }
    Ok(())
}

/// A file, and what is below it on the same mount. What is a link is labelled itself; no path is followed. A file that goes
/// meanwhile is none of ours. However much there is, one descriptor for each of the directories below each other is open.
fn below(file: OwnedFd, path: &Path, label: &str, depth: usize) -> Result<()> {
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed("fstat", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return set(file.as_fd(), path, label);
    }
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::invalid(format!("{} lies deeper than {DEPTH} directories", path.display())));
    };
    let list = |errno| failed("list", path, errno);
    let readable = root::reopen(file.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(list)?;
    drop(file);
    let mut dir = Dir::new(readable).map_err(list)?;
    while let Some(entry) = dir.read() {
        let entry = entry.map_err(list)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = path.join(OsStr::from_bytes(name.to_bytes()));
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        match root::openat2(dir.fd().map_err(list)?, name, PLACE, Mode::empty(), resolve) {
            Ok(child) => below(child, &path, label, depth)?,
            Err(Errno::NOENT) => {}
            Err(Errno::XDEV) => {
                let path = path.display();
                return Err(Error::invalid(format!(
                    "{path} is another mount, whose labels stay as they are"
                )));
            }
            Err(errno) => return Err(failed("open", &path, errno)),
        }
    }
    set(dir.fd().map_err(list)?, path, label)
}

fn set(file: BorrowedFd<'_>, path: &Path, label: &str) -> Result<()> {
    match rustix::fs::setxattr(link(file), ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        // Its filesystem has no labels, or one for all of it.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(failed("set the label of", path, errno)),
    }
}

fn has(file: BorrowedFd<'_>, label: &str) -> bool {
    let mut buffer = [0_u8; 4096];
    let length = rustix::fs::getxattr(link(file), ATTRIBUTE, &mut buffer).unwrap_or(0);
    let found = buffer.get(..length).unwrap_or_default();
    found.strip_suffix(b"\0").unwrap_or(found) == label.as_bytes()
}

/// A path that leads to a descriptor's file itself, a link too.
fn link(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn failed(what: &str, path: &Path, errno: Errno) -> Error {
    Error::new(crate::Kind::Internal, format!("{what} {}: {errno}", path.display()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    /// A place of the host that takes no labels: a test that fails is to leave the machine as it was.
    const UNLABELLED: &str = "/proc/version";

    fn mounted(relabel: bool) -> cri::ContainerConfig {
        let mount =
            cri::Mount { container_path: "/m".into(), selinux_relabel: relabel, ..Default::default() };
        cri::ContainerConfig { mounts: vec![mount], ..Default::default() }
    }

    fn host(selinux: bool) -> Host {
        Host { selinux, ..Host::default() }
    }

    fn relabelled(source: &Path, label: &str) -> Result<()> {
        sources(&mounted(true), &[None], &[source.into()], Some(label), &host(true))
    }

    fn of(path: &Path) -> String {
        let mut buffer = [0; 100];
        let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut buffer);
        length.map(|length| String::from_utf8(buffer[..length].to_vec()).unwrap()).unwrap_or_default()
    }

    /// T26: CVE-2021-43816.
    #[test]
    fn cve_2021_43816_what_the_host_lives_on_stays_as_it_is() {
        for path in ["/", "/etc", "/etc/hosts", "/usr/share", "/sys/kernel", "/var/lib", "/home", "/run"] {
            assert_eq!(check(Path::new(path)).unwrap_err().kind(), crate::Kind::Invalid, "{path}");
        }
        let error = relabelled(Path::new(UNLABELLED), LABEL).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
        let error = error.to_string();
        assert!(error.contains("mounts[/m].selinux_relabel") && error.contains(UNLABELLED), "{error}");
        for path in ["/var/lib/kubelet/pods/x/volumes/y", "/home/me/data", "/etcetera", "/srv/data"] {
            check(Path::new(path)).unwrap();
        }
    }

    /// T26.
    #[test]
    fn cve_2021_43816_a_link_that_took_a_directory_s_place_leads_nowhere() {
        let dir = vaquita_testing::temp_dir();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        let error = relabelled(&link.join("proc/version"), LABEL).unwrap_err().to_string();
        assert!(error.contains("/proc/version is the host's own"), "{error}");
    }

    /// T26: who has no label can give none.
    #[test]
    fn cve_2021_43816_nothing_is_relabelled() {
        let of = |relabel, selinux| {
            sources(&mounted(relabel), &[None], &["/nowhere".into()], None, &host(selinux))
        };
        let error = of(true, true).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Unsupported);
        assert!(error.to_string().contains("mounts[/m].selinux_relabel"), "{error}");
        of(false, true).unwrap();
        of(true, false).unwrap();
    }

    /// The attribute is there without SELinux, too, for whoever is root.
    #[test]
    fn a_volume_is_labelled_to_its_last_file_and_no_further() {
        vaquita_testing::require_root();
        let dir = vaquita_testing::temp_dir();
        let outside = dir.path().join("outside");
        let volume = dir.path().join("volume");
        let deep = volume.join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(&outside, "").unwrap();
        std::fs::write(deep.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("a/link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), volume.join("up")).unwrap();
        let all = [volume.clone(), volume.join("a"), deep.clone(), deep.join("file"), volume.join("a/link")];
        let before = all.each_ref().map(|path| of(path));
        let only = std::slice::from_ref(&volume);
        sources(&mounted(false), &[None], only, Some(LABEL), &host(true)).unwrap();
        sources(&mounted(true), &[Some(volume.clone())], only, Some(LABEL), &host(true)).unwrap();
        assert_eq!(all.each_ref().map(|path| of(path)), before, "nobody has asked, or it is an image");
        let host = [of(&outside), of(dir.path())];
        relabelled(&volume, LABEL).unwrap();
        for path in &all {
            assert_eq!(of(path), LABEL, "{}", path.display());
        }
        assert_eq!([of(&outside), of(dir.path())], host);

        // What is done is not done again.
        let new = volume.join("new");
        std::fs::write(&new, "").unwrap();
        let own = of(&new);
        relabelled(&volume, LABEL).unwrap();
        assert_eq!(of(&new), own);
        relabelled(&volume, "system_u:object_r:container_file_t:s0").unwrap();
        assert_eq!(of(&new), "system_u:object_r:container_file_t:s0");
    }

    #[test]
    fn a_volume_that_has_no_end_is_refused() {
        vaquita_testing::require_root();
        let dir = vaquita_testing::temp_dir();
        let mut deep = dir.path().to_owned();
        deep.extend(std::iter::repeat_n("d", DEPTH));
        std::fs::create_dir_all(&deep).unwrap();
        let error = relabelled(dir.path(), LABEL).unwrap_err().to_string();
        assert!(error.contains("deeper than"), "{error}");
        std::fs::remove_dir(&deep).unwrap();
        relabelled(dir.path(), LABEL).unwrap();
    }

    #[test]
    fn a_volume_with_another_mount_in_it_is_refused() {
        vaquita_testing::require_root();
        let dir = vaquita_testing::temp_dir();
        let point = dir.path().join("point");
        std::fs::create_dir(&point).unwrap();
        let tmpfs = vaquita_sys::mount::Filesystem::open("tmpfs").unwrap().create().unwrap();
        vaquita_sys::mount::move_mount(&tmpfs, rustix::fs::CWD, &point).unwrap();
        let mounted = vaquita_testing::Defer::new(|| {
            vaquita_sys::mount::umount(&point, rustix::mount::UnmountFlags::DETACH).unwrap();
        });
        let before = of(&point);
        let error = relabelled(dir.path(), LABEL).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
        assert!(error.to_string().contains("another mount"), "{error}");
        assert_eq!(of(&point), before);
        drop(mounted);
        relabelled(dir.path(), LABEL).unwrap();
    }
}
