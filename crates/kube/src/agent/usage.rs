//! How much of the disk a pod's volumes take, and whether that is more than they may.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::context::Context;
use crate::api::{Quantity, StorageMedium};
use crate::worker::Input;

/// The least time between two looks. The kubelet looks every ten seconds.
const PERIOD: Duration = Duration::from_secs(1);
/// A look that takes long is followed by a pause of this many times its length.
const PAUSE: u32 = 20;

/// Measures the emptyDirs on disk that have a limit, and has the pod evicted when one has outgrown it.
/// Those in memory cannot.
pub(super) async fn watch(context: Arc<Context>, inputs: mpsc::UnboundedSender<Input>) {
    let limited: Vec<(String, Quantity)> = limited(&context);
    if limited.is_empty() {
        return;
    }
    let limited = Arc::new(limited);
    loop {
        let began = Instant::now();
        let (context, limited) = (Arc::clone(&context), Arc::clone(&limited));
        let found = tokio::task::spawn_blocking(move || outgrown(&context, &limited)).await;
        if let Ok(Some(message)) = found {
            let _ = inputs.send(Input::Evict { reason: "Evicted".to_owned(), message });
            return;
        }
        tokio::time::sleep(PERIOD.max(began.elapsed() * PAUSE)).await;
    }
}

fn limited(context: &Context) -> Vec<(String, Quantity)> {
    let on_disk = context.pod.spec.volumes.iter().filter_map(|volume| {
        let source = volume.empty_dir.as_ref().filter(|source| source.medium == StorageMedium::Disk)?;
        // Zero is no limit, as with the kubelet.
        let limit = source.size_limit.clone().filter(|limit| limit.nanos() > 0)?;
        Some((volume.name.clone(), limit))
    });
    on_disk.collect()
}

/// What to say of the first volume that is larger than it may be.
fn outgrown(context: &Context, limited: &[(String, Quantity)]) -> Option<String> {
    let over = |(name, limit): &&(String, Quantity)| {
        measure(&context.volume(name)).is_some_and(|used| i128::from(used) * 1_000_000_000 > limit.nanos())
    };
    let (name, limit) = limited.iter().find(over)?;
    Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit \"{limit}\"."))
}

/// Bytes on disk; none while the volume is not there or cannot be read.
fn measure(path: &Path) -> Option<u64> {
    let dir = std::fs::File::open(path).ok()?;
    vaquita_sys::fs::disk_usage(&dir).ok().map(|(bytes, _)| bytes)
}
