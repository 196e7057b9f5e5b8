//! Images as volumes, read-only, and the volumes that a container's own image asks for: mounted on the host for as long as
//! the container's maker needs to find them.
//!
//! A volume of the second kind is a part of another writable snapshot of the image. So it begins with what the image has
//! there, without a copy; it can be written to where the root cannot; and it goes with the container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Gid, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use vaquita_image::Image;
use vaquita_proto::cri;
use vaquita_sys::root::Root;

use crate::error::Doing;
use crate::model::ContainerRecord;
use crate::node::Node;
use crate::paths::{names, private_dir};
use crate::{Error, Kind, Result};

/// How kubelet recognises that it was the image volume that failed.
const PREFIX: &str = "ImageVolumeMountFailed";

/// The images that the mounts of a container ask for, `None` for a mount of another kind.
pub(super) fn images(node: &Node, config: &cri::ContainerConfig) -> Result<Vec<Option<Arc<Image>>>> {
    config
        .mounts
        .iter()
        .map(|mount| {
            asked(mount)?
                .map(|name| {
                    node.images.find(name).ok_or_else(|| {
                        let message = format!("{PREFIX}: image {name:?} is not on this node: pull it first");
                        Error::new(Kind::NotFound, message)
                    })
                })
                .transpose()
        })
        .collect()
}

/// Which image a mount asks for, if that makes sense.
fn asked(mount: &cri::Mount) -> Result<Option<&str>> {
    let refuse = |what: &str| Err(Error::invalid(format!("mounts[{}].{what}", mount.container_path)));
    let Some(name) = mount.image.as_ref().map(|image| image.image.as_str()).filter(|name| !name.is_empty())
    else {
        // Of other mounts kubelet has joined the sub-path to `host_path`, and gives it here as well.
        return Ok(None);
    };
    if !mount.host_path.is_empty() {
        return refuse("image: is given beside host_path");
    }
    if !mount.readonly {
        return refuse("readonly: an image volume is read-only, and must be asked for as such");
    }
    if mount.propagation != cri::MountPropagation::PropagationPrivate as i32 {
        return refuse("propagation: nothing propagates from an image volume");
    }
    let path = Path::new(&mount.image_sub_path);
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return refuse("image_sub_path: must be relative and without \"..\"");
    }
    Ok(Some(name))
}

/// The names of the snapshots that hold the layers of a container's image volumes.
pub(crate) fn snapshots(record: &ContainerRecord) -> impl Iterator<Item = String> {
    let is_image = |mount: &cri::Mount| mount.image.as_ref().is_some_and(|image| !image.image.is_empty());
    let mounts = record.config.mounts.iter().enumerate();
    let asked = mounts.filter(move |(_, mount)| is_image(mount)).map(|(index, _)| index);
    let first = record.config.mounts.len();
    asked.chain(first..first + record.image_volumes.len()).map(|index| snapshot(&record.id, index))
}

fn snapshot(id: &str, index: usize) -> String {
    format!("{id}.{index}")
}

/// Whose snapshot it is, of the container itself or of one of its volumes.
pub(crate) fn owner(snapshot: &str) -> &str {
    snapshot.split_once('.').map_or(snapshot, |(id, _)| id)
}

/// Mounts on the host that go when this is dropped. The container has copies of its own by then.
#[derive(Default)]
pub(super) struct Volumes {
    points: Vec<PathBuf>,
    /// Where each mount of the configuration comes from, `None` for those of another kind.
    pub(super) sources: Vec<Option<PathBuf>>,
    /// Where each volume of the container's image goes, and where it comes from.
    pub(super) defined: Vec<(String, PathBuf)>,
}

impl Volumes {
    pub(super) fn mount(
        node: &Node,
        bundle: &Path,
        (id, config): (&str, &cri::ContainerConfig),
        images: &[Option<Arc<Image>>],
        (users, label): (Option<&OwnedFd>, Option<&str>),
    ) -> Result<Self> {
        let mut volumes = Self::default();
        for (index, (mount, image)) in config.mounts.iter().zip(images).enumerate() {
            let source = match image {
                Some(image) => Some(
                    volumes
                        .add(
                            node,
                            &bundle.join("volumes").join(index.to_string()),
                            (&snapshot(id, index), image, true),
                            // An overlay cannot be mapped when it is there.
                            (users.filter(|_| !mount.uid_mappings.is_empty()), label),
                        )
                        .and_then(|point| below(&point, &mount.image_sub_path))
                        .map_err(|error| {
                            error.within(format!("{PREFIX}: mounts[{}]", mount.container_path))
                        })?,
                ),
                None => None,
            };
            volumes.sources.push(source);
        }
        Ok(volumes)
    }

    /// Those that the container's own image asks for, at `paths` of it. `owner` is the pod's root, to whom directories belong
    /// that the image does not have.
    pub(super) fn define(
        &mut self,
        node: &Node,
        bundle: &Path,
        (id, image): (&str, &Image),
        paths: &[String],
        how: (Option<&OwnedFd>, Option<&str>),
        owner: Option<(u32, u32)>,
    ) -> Result<()> {
        let first = self.sources.len();
        for (number, path) in paths.iter().enumerate() {
            let index = first + number;
            let point = bundle.join("volumes").join(index.to_string());
            let source = self
                .add(node, &point, (&snapshot(id, index), image, false), how)
                .and_then(|point| made(&point, path, owner))
                .map_err(|error| error.within(format!("the image's volume {path:?}")))?;
            self.defined.push((path.clone(), source));
        }
        Ok(())
    }

    fn add(
        &mut self,
        node: &Node,
        point: &Path,
        (snapshot, image, readonly): (&str, &Image, bool),
        (users, label): (Option<&OwnedFd>, Option<&str>),
    ) -> Result<PathBuf> {
        let snapshot = node.images.snapshot(snapshot, &image.id)?;
        let snapshot = match label {
            Some(label) => snapshot.labelled(label),
            None => snapshot,
        };
        let tree = match users {
            Some(users) => snapshot.mount_mapped(readonly, users.as_fd())?,
            None => snapshot.mount(readonly)?,
        };
        private_dir(point)?;
        vaquita_sys::mount::move_mount(&tree, CWD, point).doing(|| "attach the image")?;
        self.points.push(point.to_owned());
        Ok(point.to_owned())
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for point in &self.points {
            if let Err(error) = vaquita_sys::mount::umount(point, UnmountFlags::DETACH) {
                tracing::warn!(%error, "an image volume stays mounted on the host until its container is removed");
            }
        }
    }
}

/// A place in a mounted image, whose own symbolic links lead nowhere else.
#[expect(
    clippy::disallowed_methods,
    reason = "a mount that nobody can write; then a magic link of ours, which says where a descriptor leads"
)]
fn below(point: &Path, sub_path: &str) -> Result<PathBuf> {
    if sub_path.is_empty() {
        return Ok(point.to_owned());
    }
    let doing = || format!("find image_sub_path {sub_path:?} in the image");
    let root = Root::open_host(point).doing(doing)?;
    let found = root.open(sub_path, OFlags::PATH).doing(doing)?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).doing(doing)
}

/// A directory in a mounted image, made where there is none; links of the image lead nowhere else.
#[expect(
    clippy::disallowed_methods,
    reason = "a directory of ours, in which it is mounted; then a magic link of ours, which says where a descriptor leads"
)]
fn made(point: &Path, path: &str, owner: Option<(u32, u32)>) -> Result<PathBuf> {
    let doing = || format!("find the directory {path:?} in the image");
    let root = Root::open_host(point).doing(doing)?;
    let found = match root.open_dir(path) {
        Err(error) if error.errno() == Errno::NOENT => {
            let made = root.mkdir_all(path, 0o755).doing(doing)?;
            if let Some((uid, gid)) = owner {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).doing(doing)?;
            }
            made
        }
        other => other.doing(doing)?,
    };
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).doing(doing)
}

/// Takes away what a daemon that died while it made the container has left mounted.
pub(super) fn unmount_all(bundle: &Path) -> Result<()> {
    let dir = bundle.join("volumes");
    for name in names(&dir)? {
        match vaquita_sys::mount::umount(dir.join(name), UnmountFlags::DETACH) {
            // Nothing is mounted there.
            Err(error) if error.errno() == Errno::INVAL => {}
            other => other.doing(|| format!("unmount what is in {}", dir.display()))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_volume_may_be() {
        let mount = |change: fn(&mut cri::Mount)| {
            let image = cri::ImageSpec { image: "i".into(), ..Default::default() };
            let mut mount = cri::Mount { readonly: true, image: Some(image), ..Default::default() };
            change(&mut mount);
            mount
        };
        assert_eq!(asked(&mount(|_| {})).unwrap(), Some("i"));
        assert_eq!(asked(&mount(|mount| mount.image_sub_path = "a/b".into())).unwrap(), Some("i"));
        assert_eq!(asked(&mount(|mount| mount.image = None)).unwrap(), None);
        let of_kubelet = |mount: &mut cri::Mount| {
            (mount.image, mount.host_path, mount.image_sub_path) = (None, "/v/f".into(), "f".into());
        };
        assert_eq!(asked(&mount(of_kubelet)).unwrap(), None);
        let refused: [fn(&mut cri::Mount); 5] = [
            |mount| mount.readonly = false,
            |mount| mount.host_path = "/".into(),
            |mount| mount.propagation = cri::MountPropagation::PropagationHostToContainer as i32,
            |mount| mount.image_sub_path = "../etc".into(),
            |mount| mount.image_sub_path = "/etc".into(),
        ];
        for change in refused {
            assert!(asked(&mount(change)).is_err());
        }
    }

    #[test]
    fn whose_a_snapshot_is() {
        assert_eq!((owner("ab"), owner(&snapshot("ab", 3))), ("ab", "ab"));
    }
}
