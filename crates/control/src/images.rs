//! Images that nobody uses go when the disk is full.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use vaquita_proto::cri;

use crate::control::Shared;
use crate::events::KUBELET;
use crate::node::{self, Room};

/// Between looks, as kubelet has it; so are the other numbers here.
const PERIOD: Duration = Duration::from_mins(5);
/// Percent of the disk from which on images go, and how far.
const HIGH: u64 = 85;
const LOW: u64 = 80;
/// An image that came just now is to be used.
const YOUNG: SignedDuration = SignedDuration::from_mins(2);

/// Looks after images until the node ends.
pub(crate) async fn keep(shared: Arc<Shared>, mut ready: watch::Receiver<bool>) {
    let _ = ready.wait_for(|ready| *ready).await;
    let mut seen = Seen::default();
    loop {
        if let Err(error) = collect(&shared, &mut seen).await {
            tracing::warn!(error, "unused images cannot be removed");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// An image as the CRI server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    id: String,
    size: u64,
    /// It must not go: pinned, or it did not come from a registry, from which it could come again.
    kept: bool,
    used: bool,
}

/// When images were seen for the first time, and used for the last.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, (Timestamp, Option<Timestamp>)>);

impl Seen {
    fn note(&mut self, images: &[Image], now: Timestamp) {
        self.0.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let (_, last) = self.0.entry(image.id.clone()).or_insert((now, None));
            if image.used {
                *last = Some(now);
            }
        }
    }

    /// Images that may go, those that were not used for longest first.
    fn unused<'a>(&self, images: &'a [Image], now: Timestamp) -> Vec<&'a Image> {
        let times = |image: &Image| self.0.get(&image.id).copied().unwrap_or((now, Some(now)));
        let may = |image: &&Image| !image.kept && !image.used && now.duration_since(times(image).0) >= YOUNG;
        let mut unused: Vec<&Image> = images.iter().filter(may).collect();
        unused.sort_by_key(|image| {
            let (first, last) = times(image);
            (last, first)
        });
        unused
    }
}

/// Bytes that have to be freed, where there are too few.
fn missing(room: Room) -> Option<(u64, u64)> {
    let capacity = room.capacity.max(1);
    let available = room.available.min(capacity);
    let used = 100 - available * 100 / capacity;
    (used >= HIGH).then(|| (used, (capacity / 100 * (100 - LOW)).saturating_sub(available)))
}

async fn collect(shared: &Shared, seen: &mut Seen) -> Result<(), String> {
    let failed = |status: tonic::Status| status.message().to_owned();
    let mut client = shared.config.cri.images();
    let list =
        client.list_images(cri::ListImagesRequest { filter: None }).await.map_err(failed)?.into_inner();
    let mut runtime = shared.config.cri.runtime();
    let containers = runtime.list_containers(cri::ListContainersRequest { filter: None });
    let mut used = BTreeSet::new();
    for container in containers.await.map_err(failed)?.into_inner().containers {
        used.insert(container.image_ref);
        used.insert(container.image_id);
        used.extend(container.image.map(|image| image.image));
    }
    let images: Vec<Image> = list
        .images
        .into_iter()
        .map(|image| Image {
            used: std::iter::once(&image.id)
                .chain(&image.repo_tags)
                .chain(&image.repo_digests)
                .any(|name| used.contains(name)),
            kept: image.pinned || image.repo_digests.is_empty(),
            id: image.id,
            size: image.size,
        })
        .collect();
    let now = Timestamp::now();
    seen.note(&images, now);
    let info = client.image_fs_info(cri::ImageFsInfoRequest {}).await.map_err(failed)?.into_inner();
    let place = info.image_filesystems.into_iter().find_map(|usage| usage.fs_id);
    let place = place.ok_or("the CRI server names no place of images")?.mountpoint;
    let room = tokio::task::spawn_blocking(move || Room::of(Path::new(&place))).await.ok().flatten();
    let room = room.ok_or("the filesystem of images cannot be measured")?;
    let Some((percent, wanted)) = missing(room) else { return Ok(()) };
    let mut freed = 0;
    for image in seen.unused(&images, now) {
        if freed >= wanted {
            break;
        }
        let spec = cri::ImageSpec { image: image.id.clone(), ..cri::ImageSpec::default() };
        client.remove_image(cri::RemoveImageRequest { image: Some(spec) }).await.map_err(failed)?;
        tracing::info!(image = image.id, bytes = image.size, "an unused image is removed: the disk is full");
        freed += image.size;
    }
    if freed < wanted {
        let message = format!(
            "Insufficient free disk space on the node's image filesystem ({percent}% of {} GiB used). Failed to free \
             sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used \
             by active images, logs, volumes, or other data.",
            room.capacity >> 30
        );
        shared.recorder.warning(KUBELET, node::reference(&shared.name), "FreeDiskSpaceFailed", message);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, used: bool) -> Image {
        Image { id: id.to_owned(), size: 1, kept: false, used }
    }

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let at = |minutes: i64| Timestamp::from_second(1_800_000_000 + 60 * minutes).unwrap();
        let mut seen = Seen::default();
        seen.note(&[image("a", true), image("b", true), image("never", false)], at(0));
        seen.note(&[image("a", true), image("b", false), image("never", false)], at(5));
        let pinned = Image { kept: true, ..image("pinned", false) };
        let now = [
            image("a", false),
            image("b", false),
            image("never", false),
            image("new", false),
            pinned,
            image("c", true),
        ];
        seen.note(&now, at(10));
        let ids = |now: &[Image], minutes| {
            let unused = seen.unused(now, at(minutes));
            unused.iter().map(|image| image.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&now, 10), ["never", "b", "a"]);
        assert_eq!(ids(&now, 12), ["never", "new", "b", "a"]);
    }

    #[test]
    fn images_go_from_one_threshold_to_the_other() {
        let room = |available| Room { capacity: 1000, available, ..Room::default() };
        assert_eq!(missing(room(160)), None);
        assert_eq!(missing(room(150)), Some((85, 50)));
        assert_eq!(missing(room(0)), Some((100, 200)));
    }
}
