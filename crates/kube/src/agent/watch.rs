//! Sees what happens to a pod: by listing, at intervals, and at once when the server announces something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use vaquita_proto::cri;

use super::actions::Hands;
use crate::client::Client;

/// Between looks at a server that announces nothing, and at one that does.
const POLL: Duration = Duration::from_millis(250);
const POLL_ANNOUNCED: Duration = Duration::from_secs(5);

/// What there was at a time.
#[derive(Debug)]
pub(super) struct Seen {
    /// When the look began: what was made later is not in it.
    pub(super) at: Instant,
    /// Sandboxes, and whether they are ready.
    pub(super) sandboxes: BTreeMap<String, bool>,
    /// Containers, and whether they have ended.
    pub(super) containers: BTreeMap<String, bool>,
    /// The sandboxes that containers are in.
    pub(super) occupied: BTreeSet<String>,
}

/// Looks until nobody wants to know; at once when `wake` says that there may be something to see.
pub(super) async fn watch(hands: Hands, seen: mpsc::Sender<Seen>, wake: Arc<Notify>) {
    let announcements = Announcements::default();
    let listen = announce(&hands, &wake, &announcements);
    let look = async {
        loop {
            let at = Instant::now();
            if let (Ok(sandboxes), Ok(containers)) = (hands.sandboxes().await, hands.containers().await) {
                let exited = cri::ContainerState::ContainerExited;
                let ready = cri::PodSandboxState::SandboxReady;
                let look = Seen {
                    at,
                    sandboxes: sandboxes
                        .into_iter()
                        .map(|one| (one.id.clone(), one.state() == ready))
                        .collect(),
                    occupied: containers.iter().map(|one| one.pod_sandbox_id.clone()).collect(),
                    containers: containers
                        .into_iter()
                        .map(|one| (one.id.clone(), one.state() == exited))
                        .collect(),
                };
                if seen.send(look).await.is_err() {
                    return;
                }
            }
            let poll = if announcements.heard() { POLL_ANNOUNCED } else { POLL };
            tokio::select! {
                () = tokio::time::sleep(poll) => {}
                () = wake.notified() => {}
            }
        }
    };
    tokio::select! {
        () = look => {}
        () = async { listen.await; std::future::pending().await } => {}
    }
}

/// Whether the server announces events.
#[derive(Debug, Default)]
struct Announcements(std::sync::atomic::AtomicBool);

impl Announcements {
    fn heard(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn set(&self, heard: bool) {
        self.0.store(heard, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Wakes at every event of this pod. Ends where the server has no events.
async fn announce(hands: &Hands, wake: &Notify, announcements: &Announcements) {
    loop {
        let call = |mut client: Client| async move {
            client.runtime.get_container_events(cri::GetEventsRequest {}).await
        };
        match hands.cri.once("GetContainerEvents", None, call).await {
            Ok(mut stream) => {
                // What happened before the stream began is not in it.
                while let Ok(Some(event)) = stream.message().await {
                    announcements.set(true);
                    let pod = event.pod_sandbox_status.and_then(|status| status.metadata);
                    if pod.is_none_or(|pod| pod.uid == hands.context.pod.metadata.uid) {
                        wake.notify_one();
                    }
                }
                announcements.set(false);
                wake.notify_one();
            }
            Err(error) if error.kind() == crate::Kind::Unsupported => return,
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
