//! Overlays for containers in user namespaces: the layers, which all containers share, are mounted with their identities
//! mapped (Linux 5.12; below an overlay 5.19). The overlay itself cannot be mapped, and neither can the writable
//! directory: overlayfs works there as the host's root, who has no place in the map of a pod.

use std::path::{Path, PathBuf};

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use vaquita_sys::mount::{Attr, Attributes, Filesystem, mount_setattr, move_mount, open_tree_clone};

use super::apart::apart;

/// The layers of an overlay, topmost first, each as `users` sees it.
pub(super) fn layers(paths: &[PathBuf], users: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, vaquita_sys::Error> {
    paths.iter().map(|path| layer(path, users)).collect()
}

/// A layer as the user namespace `users` sees it. Nobody but the overlay gets hold of it.
#[expect(clippy::disallowed_methods, reason = "a directory of the store")]
fn layer(path: &Path, users: BorrowedFd<'_>) -> Result<OwnedFd, vaquita_sys::Error> {
    let tree = open_tree_clone(CWD, path, false)?;
    mount_setattr(&tree, "", false, &Attr { userns: Some(users), ..Attr::default() })?;
    Ok(tree)
}

/// Mounts `layers` (topmost first) detached; `writable` has `upper` and `work`.
pub(super) fn mount(
    store: &Path,
    layers: &[OwnedFd],
    writable: Option<&Path>,
    label: Option<&str>,
) -> Result<OwnedFd, vaquita_sys::Error> {
    match by_descriptor(layers, writable, label) {
        // Overlays take layers by descriptor since Linux 6.13, and mounts that are attached nowhere since 6.15.
        Err(error) if [Errno::INVAL, Errno::BADF].contains(&error.errno()) => {
            by_path(store, layers, writable, label).map_err(|errno| {
                vaquita_sys::Error::new("mount(overlay of layers with mapped identities)", errno)
            })
        }
        other => other,
    }
}

#[expect(clippy::disallowed_methods, reason = "a layer itself, by its descriptor")]
fn by_descriptor(
    layers: &[OwnedFd],
    writable: Option<&Path>,
    label: Option<&str>,
) -> Result<OwnedFd, vaquita_sys::Error> {
    let overlay = Filesystem::open("overlay")?;
    for layer in layers {
        // One that may be read: others are not taken.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layer = rustix::fs::openat(layer, ".", flags, Mode::empty())
            .map_err(|errno| vaquita_sys::Error::new("open(<layer>)", errno))?;
        overlay.set_fd("lowerdir+", &layer)?;
    }
    match writable {
        None => drop(overlay.set_flag("ro")?),
        Some(dir) => {
            overlay.set_string("upperdir", dir.join("upper"))?;
            overlay.set_string("workdir", dir.join("work"))?;
            overlay.set_flag("volatile")?;
        }
    }
    for key in ["index", "metacopy"] {
        overlay.set_string(key, "off")?;
    }
    if let Some(label) = label {
        overlay.set_string("context", label)?;
    }
    overlay.create()
}

/// The layers are attached in a mount namespace that only this thread is in, and that goes with it.
#[expect(clippy::disallowed_methods, reason = "directories of the store, in a mount namespace of its own")]
pub(super) fn by_path(
    store: &Path,
    layers: &[OwnedFd],
    writable: Option<&Path>,
    label: Option<&str>,
) -> Result<OwnedFd, Errno> {
    let [place, writable] = [Some(store.join("empty")), writable.map(Path::to_owned)]
        .map(|path| path.map(std::path::absolute).transpose().map_err(|_| Errno::NOENT));
    let (place, writable) = (place?.unwrap_or_default(), writable?);
    apart(|| {
        let errno = |error: vaquita_sys::Error| error.errno();
        let workshop = Filesystem::open("tmpfs").and_then(|tmpfs| tmpfs.create_with(Attributes::NOSUID));
        let workshop = workshop.map_err(errno)?;
        move_mount(&workshop, CWD, &place).map_err(errno)?;
        rustix::process::chdir(&place)?;
        let private = Mode::from_raw_mode(0o700);
        rustix::fs::mkdir("root", private)?;
        let mut lower = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let name = number.to_string();
            rustix::fs::mkdir(&name, private)?;
            move_mount(layer, CWD, Path::new(&name)).map_err(errno)?;
            lower.push(name);
        }
        let mut options = format!("index=off,metacopy=off,lowerdir={}", lower.join(":"));
        let mut flags = MountFlags::RDONLY;
        if let Some(dir) = &writable {
            flags = MountFlags::empty();
            // By a short name, because everything must fit a page, and a comma would end the option.
            rustix::fs::symlink(dir, "w")?;
            options.push_str(",volatile,upperdir=w/upper,workdir=w/work");
        }
        options.push_str(&super::classic::context(label));
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount("overlay", "root", "overlay", flags, options.as_c_str())?;
        open_tree_clone(CWD, "root", false).map_err(errno)
    })
}
