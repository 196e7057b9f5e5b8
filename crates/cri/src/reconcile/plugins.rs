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

/// Goes on with what was being taken back, frees what no sandbox has, and tells the plugins what is in use.
pub(super) fn run(node: &Arc<Node>) {
    let mut live = BTreeSet::new();
    for (id, phase) in node.network.recorded() {
        let sandbox = node.tables.sandbox(&id).ok();
        let sandbox =
            sandbox.filter(|sandbox| sandbox.id() == id && sandbox.life().phase != SandboxPhase::Stopped);
        match (sandbox, phase) {
            (None, _) => drop(tokio::spawn(free(node.clone(), id))),
            (Some(_), _) if node.network.is_going(&id) => {}
            (Some(sandbox), Some(Phase::Detaching)) => take_down_later(node, &sandbox, false, Duration::ZERO),
            (Some(_), Some(Phase::Attached)) => drop(live.insert(id)),
            // Unreadable: its client will ask, and be told which file it is.
            (Some(_), _) => {}
        }
    }
    let right = node.network.prepare_collection();
    if let Some(right) = right {
        let node = node.clone();
        tokio::spawn(async move { node.network.collect(right, &live).await });
    }
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
