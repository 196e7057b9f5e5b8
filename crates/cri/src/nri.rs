//! Plugins of the Node Resource Interface: when they are told of what, and what becomes of their wishes.
//!
//! Each pod and container has a [`Stage`]: what was said of it last. A stage is entered once, so a call that is repeated is
//! announced once, and it decides what a plugin that joins is told: while a stage is entered ([`Plugins::change`]) none
//! joins. Without plugins only the stage changes.
//!
//! Locks are taken in this order: the lane of a pod, the turn of a stage, the change, the lane of a container. Who is synchronized holds all
//! changes, and may have the limits of any container set.

mod containers;
mod convert;
mod limits;
mod pods;
mod runtime;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, MutexGuard};
use vaquita_nri::{Change, Plugins};

use crate::Result;
use crate::error::Doing;
use crate::node::Node;

pub(crate) use containers::{
    Candidate, post_create, post_start, post_update, removed, start, stopped, update,
};
pub(crate) use pods::{post_update as post_update_pod, remove_pod, run_pod, stop_pod, update_pod};
pub(crate) use runtime::{apply, evict};

/// What plugins were told last of a pod or a container.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Nothing.
    Unknown,
    /// It is being made, or is there.
    Made,
    /// It is being started, or runs.
    Started,
    /// It is stopped.
    Stopped,
    /// It is removed.
    Removed,
}

/// The stage of a pod or a container.
#[derive(Debug)]
pub(crate) struct Told {
    stage: AtomicU8,
    turn: Mutex<()>,
}

impl Told {
    /// As it was found when the server started: no plugin was there before.
    pub(crate) fn new(stage: Stage) -> Self {
        Self { stage: AtomicU8::new(stage as u8), turn: Mutex::new(()) }
    }

    /// The last one.
    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Unknown,
            1 => Stage::Made,
            2 => Stage::Started,
            3 => Stage::Stopped,
            _ => Stage::Removed,
        }
    }

    /// Enters a stage that follows. False when it, or a later one, was entered.
    pub(crate) fn enter(&self, stage: Stage) -> bool {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst) < stage as u8
    }

    /// Waits until who tells something of it has done so.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

/// While it is held no plugin joins.
pub(crate) struct Right<'a> {
    /// None where nobody has to be told.
    plugins: Option<&'a Plugins>,
    _change: Option<Change>,
}

/// The plugins of a node, once they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Nri {
    plugins: OnceLock<Plugins>,
}

impl Nri {
    /// Starts and awaits plugins.
    ///
    /// # Errors
    /// When the socket or the directory of the plugins cannot be used.
    pub(crate) async fn start(node: &Arc<Node>) -> Result<()> {
        let Some(config) = node.config.nri.clone() else { return Ok(()) };
        let runtime = Arc::new(runtime::OfNode::new(node));
        let (plugins, beginning) = Plugins::open(config, runtime).doing(|| "start NRI")?;
        // First: a container of before may end while they join.
        let _ = node.nri.plugins.set(plugins);
        beginning.begin().await;
        Ok(())
    }

    /// Ends the connections.
    pub(crate) async fn stop(&self) {
        if let Some(plugins) = self.plugins.get() {
            plugins.clone().stop().await;
        }
    }

    /// The right to enter a stage, and the plugins to tell of it.
    pub(crate) async fn change(&self) -> Right<'_> {
        let Some(plugins) = self.plugins.get() else { return Right { plugins: None, _change: None } };
        let change = plugins.change().await;
        Right { plugins: Some(plugins).filter(|plugins| plugins.any()), _change: Some(change) }
    }

    /// The plugins, to be told what needs no right. None without plugins.
    fn any(&self) -> Option<&Plugins> {
        self.plugins.get().filter(|plugins| plugins.any())
    }

    /// Those that are connected, in the order in which they are asked. None where they cannot connect.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        self.plugins.get().map(Plugins::names)
    }

    /// Whether anybody may ever have to be told.
    fn is_used(&self) -> bool {
        self.plugins.get().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_entered_once_and_never_left_backwards() {
        let told = Told::new(Stage::Unknown);
        assert!(told.enter(Stage::Made) && !told.enter(Stage::Made));
        assert!(told.enter(Stage::Stopped) && !told.enter(Stage::Started) && !told.enter(Stage::Stopped));
        assert_eq!(told.stage(), Stage::Stopped);
        assert!(told.enter(Stage::Removed) && !told.enter(Stage::Removed));
        assert_eq!(told.stage(), Stage::Removed);
    }
}
