//! What could not be taken back when it was asked for: tried again until it is.

use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::model::{Sandbox, SandboxPhase};
use crate::node::Node;

/// The wait after the first failure, doubled after each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// Goes on with taking a sandbox down, in the background, and with `remove` also removes it. One that nobody will ask for
/// again, or that only plugins keep from being gone, would otherwise stay.
pub(crate) fn take_down_later(node: &Arc<Node>, sandbox: &Arc<Sandbox>, remove: bool, first: Duration) {
    {
        let mut going = node.network.going.lock().unwrap_or_else(PoisonError::into_inner);
        match going.entry(sandbox.id().to_owned()) {
            Entry::Occupied(mut under_way) => {
                *under_way.get_mut() |= remove;
                return;
            }
            Entry::Vacant(vacant) => vacant.insert(remove),
        };
    }
    tokio::spawn(keep_on(node.clone(), sandbox.clone(), first));
}

async fn keep_on(node: Arc<Node>, sandbox: Arc<Sandbox>, mut wait: Duration) {
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).clamp(FIRST, LONGEST);
        let result = once(&node, &sandbox).await;
        match result {
            Ok(()) => tracing::info!(sandbox = sandbox.id(), "a sandbox is taken down at last"),
            Err(error) if node.network.has_plugins(sandbox.id()) => {
                tracing::warn!(sandbox = sandbox.id(), %error, again_in = ?wait, "a sandbox is not taken down yet");
                continue;
            }
            // Not for the network: its client asks again, as always.
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id(), %error, "a sandbox could not be taken down");
            }
        }
        let mut going = node.network.going.lock().unwrap_or_else(PoisonError::into_inner);
        going.remove(sandbox.id());
        return;
    }
}

async fn once(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> crate::Result<()> {
    // Somebody else may have removed it.
    super::stop(node, sandbox.id()).await?;
    let wanted = {
        let going = node.network.going.lock().unwrap_or_else(PoisonError::into_inner);
        going.get(sandbox.id()).copied().unwrap_or_default()
    };
    if wanted || sandbox.life().phase == SandboxPhase::Removing {
        super::remove(node, sandbox.id()).await
    } else {
        Ok(())
    }
}
