//! Objects of a kind, and what becomes of them.

use std::time::Duration;

use vaquita_apiserver::{Cluster, Kind, ListOptions, Object, Watch, WatchEvent, WatchOptions};

/// Follows the objects of a kind in all namespaces.
#[derive(Debug)]
pub(crate) struct Follow {
    cluster: Cluster,
    kind: &'static Kind,
    watch: Option<Watch>,
    pause: Duration,
}

/// What there is to know.
#[derive(Debug)]
pub(crate) enum Told {
    /// All that there are: the first thing, and again when changes were missed.
    All(Vec<Object>),
    /// One is new or changed.
    Set(Object),
    /// One is gone; this is what it was.
    Gone(Object),
}

impl Follow {
    /// Follows a kind.
    pub(crate) fn new(cluster: Cluster, kind: &'static Kind) -> Self {
        Self { cluster, kind, watch: None, pause: Duration::ZERO }
    }

    /// What is followed.
    pub(crate) fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// The next thing to know. May be dropped while it waits without losing one.
    pub(crate) async fn next(&mut self) -> Told {
        loop {
            if let Some(watch) = &mut self.watch {
                match watch.next().await {
                    Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                        return Told::Set(object);
                    }
                    Some(WatchEvent::Deleted(object)) => return Told::Gone(object),
                    Some(WatchEvent::Bookmark { .. }) => continue,
                    Some(WatchEvent::Failed(_)) | None => self.watch = None,
                }
            }
            tokio::time::sleep(std::mem::replace(&mut self.pause, Duration::from_secs(1))).await;
            match self.begin() {
                Ok(objects) => {
                    self.pause = Duration::ZERO;
                    return Told::All(objects);
                }
                Err(error) => {
                    tracing::warn!(kind = self.kind.plural, error = %error.message, "objects cannot be followed");
                }
            }
        }
    }

    fn begin(&mut self) -> Result<Vec<Object>, vaquita_apiserver::Status> {
        let list = self.cluster.list(self.kind, None, &ListOptions::default())?;
        let options = WatchOptions { version: Some(list.revision), ..WatchOptions::default() };
        self.watch = Some(self.cluster.watch(self.kind, None, &options)?);
        Ok(list.items)
    }
}
