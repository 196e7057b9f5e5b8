//! A daemon in the background belongs to those who use it: when it dies they start another.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::client;
use crate::options::Node;

/// Starts the background daemon again. The pods have not noticed anything: their supervisors go on.
#[derive(Debug)]
pub(crate) struct Reviver {
    node: Node,
    ours: bool,
    task: Option<JoinHandle<()>>,
}

impl Reviver {
    /// `started`: the daemon was started for this run. Otherwise the one on the socket is somebody's service, unless
    /// its record says that it was started in the background.
    pub(crate) fn new(node: &Node, started: bool) -> Self {
        let ours = started || node.config().is_ok_and(|config| in_background(&config.state));
        Self { node: node.clone(), ours, task: None }
    }

    /// Makes sure that a daemon will be there again, where that is for us to do.
    pub(crate) fn revive(&mut self) {
        if !self.ours || self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let node = self.node.clone();
        self.task = Some(tokio::spawn(async move {
            // The agent tells its user that the connection is lost, for as long as it is.
            while client::connect_or_start(&node).await.is_err() {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }));
    }
}

fn in_background(state: &std::path::Path) -> bool {
    let record = std::fs::read(state.join("daemon.json")).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&record).is_ok_and(|record| record["background"] == true)
}
