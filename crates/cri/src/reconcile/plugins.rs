//! What CNI plugins have done before this server was started. Whatever they are asked happens in the background: they may hang, and
//! the socket does not wait for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use vaquita_cni::Phase;

use crate::Result;
use crate::model::{Sandbox, SandboxPhase};
use crate::node::Node;
use crate::pod::take_down_later;

/// The wait after a failure to free what no sandbox has, doubled after each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// Takes a sandbox down that is not wanted, or was half made: listed as not ready until that is done.
pub(super) fn take_down(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    if sandbox.life().phase == SandboxPhase::Creating {
        node.paths.write_sandbox(&sandbox.advance(SandboxPhase::Dead, |_| {})?)?;
    }
    take_down_later(node, sandbox, true, Duration::ZERO);
    Ok(())
}

/// Goes on with what was being taken back, frees what no sandbox has, tells the plugins what is in use, and has them look after it.
pub(super) fn run(node: &Arc<Node>) {
    let mut live = BTreeSet::new();
    let mut attached = Vec::new();
    for (id, phase) in node.network.recorded() {
        let sandbox = node.tables.sandbox(&id).ok();
        let sandbox =
            sandbox.filter(|sandbox| sandbox.id() == id && sandbox.life().phase != SandboxPhase::Stopped);
        match (sandbox, phase) {
            (None, _) => drop(tokio::spawn(free(node.clone(), id))),
            (Some(_), _) if node.network.is_going(&id) => {}
            (Some(sandbox), Some(Phase::Detaching)) => take_down_later(node, &sandbox, false, Duration::ZERO),
            (Some(sandbox), Some(Phase::Attached)) => {
                live.insert(id);
                attached.push(sandbox);
            }
            // Unreadable: its client will ask, and be told which file it is.
            (Some(_), _) => {}
        }
    }
    let right = node.network.prepare_collection();
    let node = node.clone();
    tokio::spawn(async move {
        if let Some(right) = right {
            node.network.collect(right, &live).await;
        }
        for sandbox in attached {
            look_after(&node, &sandbox).await;
        }
    });
}

/// Frees what no sandbox has: this host was started anew, or a record was lost.
async fn free(node: Arc<Node>, id: String) {
    let mut wait = FIRST;
    while let Err(error) = node.network.delete(&id, None).await {
        tracing::warn!(id, %error, again_in = ?wait, "a CNI attachment that no sandbox has is not freed yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
    tracing::info!(id, "a CNI attachment that no sandbox has is freed");
}

/// A pod whose network was damaged while nobody looked is told in the log: whether that is its end is its client's to say.
async fn look_after(node: &Node, sandbox: &Sandbox) {
    let Some(shim) = sandbox.shim.get().filter(|shim| !shim.is_lost()) else { return };
    let Ok(netns) = shim.netns().await else { return };
    if let Err(error) = node.network.look_after(sandbox.id(), netns).await {
        // Not more than that: some plugins do not find what they have made, as portmap 1.1 with two families of addresses.
        tracing::info!(sandbox = sandbox.id(), %error, "a CNI plugin does not find the network of a pod as it was made");
    }
}
