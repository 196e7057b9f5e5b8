//! What the user of the crate holds: the plugins that are connected, and the events to tell them of.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::api::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, LinuxResources, PodSandbox,
};
use crate::{Error, Kind, Result};

/// Where plugins come from, and how long they may take.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where plugins connect, with mode 0600. A directory that is missing is made with mode 0700; one that others may write to is refused.
    pub socket: PathBuf,
    /// A directory of programs named `NN-name`, which are started with a connection.
    pub plugin_dir: Option<PathBuf>,
    /// A directory of `NN-name.conf` or `name.conf`, for programs of `plugin_dir`.
    pub plugin_config_dir: Option<PathBuf>,
    /// How long a plugin may take to register, and to be synchronized. 5 s with other runtimes.
    pub registration_timeout: Duration,
    /// How long a plugin may take for one event. 2 s with other runtimes.
    pub request_timeout: Duration,
}

/// What plugins need of whoever runs the containers.
pub trait Runtime: Send + Sync + 'static {
    /// What is there now. Asked while nobody holds a [`Change`].
    fn state(&self) -> Pin<Box<dyn Future<Output = (Vec<PodSandbox>, Vec<Container>)> + Send + '_>>;

    /// Updates that no event has asked for, and containers to stop. Returns the updates that failed, and an update without resources for each
    /// container that could not be stopped.
    fn update(
        &self,
        updates: Vec<ContainerUpdate>,
        evictions: Vec<ContainerEviction>,
    ) -> Pin<Box<dyn Future<Output = Vec<ContainerUpdate>> + Send + '_>>;
}

/// What plugins want of a container that is being made, and of others because of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Creation {
    /// All wishes as one. A removal (`-` before a name) is to be applied before anything else of its list.
    pub adjustment: ContainerAdjustment,
    /// At most one for each other container.
    pub updates: Vec<ContainerUpdate>,
    /// Containers to stop.
    pub evictions: Vec<ContainerEviction>,
}

/// What plugins make of an update, and want of other containers because of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// What the container is to have instead of what was asked for.
    pub resources: LinuxResources,
    /// At most one for each other container.
    pub updates: Vec<ContainerUpdate>,
    /// Containers to stop.
    pub evictions: Vec<ContainerEviction>,
}

/// The plugins of a runtime; a clone is another name of the same.
#[derive(Clone, Debug)]
pub struct Plugins {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    changes: Arc<RwLock<()>>,
}

/// While it is held no plugin joins.
#[derive(Debug)]
#[must_use = "a plugin may join as soon as it is dropped"]
pub struct Change {
    _guard: Option<OwnedRwLockReadGuard<()>>,
}

impl Plugins {
    /// No plugins, now and ever: everything is answered at once, without an allocation or a lock.
    #[must_use]
    pub const fn none() -> Self {
        Self { inner: None }
    }

    /// Starts the programs of the directory, waits until each has joined or failed, and listens for others.
    ///
    /// # Errors
    /// `Busy` when another server listens there; `Invalid` for directories that others may write to and for names that are none of a
    /// plugin; `System`.
    pub async fn start(config: Config, _runtime: Arc<dyn Runtime>) -> Result<Self> {
        Err(Error::new(Kind::System, format!("could not listen on {}", config.socket.display())))
    }

    /// Whether there are plugins, or one is about to join. Where not, nobody needs to convert anything for them.
    #[must_use]
    pub fn any(&self) -> bool {
        false
    }

    /// To be held while an operation changes what [`Runtime::state`] returns and tells the plugins of it: a plugin that joins is
    /// synchronized either wholly before or wholly after, so it neither misses a container nor hears of it twice.
    pub async fn change(&self) -> Change {
        match &self.inner {
            Some(inner) => Change { _guard: Some(Arc::clone(&inner.changes).read_owned().await) },
            None => Change { _guard: None },
        }
    }

    /// A pod has been set up and is not listed yet.
    ///
    /// # Errors
    /// `Plugin`: one refused, and the pod is to be taken down.
    pub async fn run_pod_sandbox(&self, _pod: &PodSandbox) -> Result<()> {
        Ok(())
    }

    /// A pod is about to get other resources.
    ///
    /// # Errors
    /// `Plugin`: one refused.
    pub async fn update_pod_sandbox(
        &self,
        _pod: &PodSandbox,
        _overhead: Option<&LinuxResources>,
        _resources: Option<&LinuxResources>,
    ) -> Result<()> {
        Ok(())
    }

    /// A pod has got other resources.
    ///
    /// # Errors
    /// `Plugin`, to be logged.
    pub async fn post_update_pod_sandbox(&self, _pod: &PodSandbox) -> Result<()> {
        Ok(())
    }

    /// A pod's containers have been stopped, and it is being.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn stop_pod_sandbox(&self, _pod: &PodSandbox) -> Result<()> {
        Ok(())
    }

    /// A pod is being removed.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn remove_pod_sandbox(&self, _pod: &PodSandbox) -> Result<()> {
        Ok(())
    }

    /// A container is about to be made.
    ///
    /// # Errors
    /// `Plugin`: one refused, `Conflict`: two do not agree; it is not to be made.
    pub async fn create_container(&self, _pod: &PodSandbox, _container: &Container) -> Result<Creation> {
        Ok(Creation::default())
    }

    /// A container has been made.
    ///
    /// # Errors
    /// `Plugin`, to be logged.
    pub async fn post_create_container(&self, _pod: &PodSandbox, _container: &Container) -> Result<()> {
        Ok(())
    }

    /// A container is about to be started.
    ///
    /// # Errors
    /// `Plugin`: one refused, and it is not to be started.
    pub async fn start_container(&self, _pod: &PodSandbox, _container: &Container) -> Result<()> {
        Ok(())
    }

    /// A container has been started.
    ///
    /// # Errors
    /// `Plugin`, to be logged.
    pub async fn post_start_container(&self, _pod: &PodSandbox, _container: &Container) -> Result<()> {
        Ok(())
    }

    /// A container is about to get these resources.
    ///
    /// # Errors
    /// `Plugin`: one refused, `Conflict`: two do not agree; it is to stay as it is.
    pub async fn update_container(
        &self,
        _pod: &PodSandbox,
        _container: &Container,
        resources: LinuxResources,
    ) -> Result<Update> {
        Ok(Update { resources, ..Update::default() })
    }

    /// A container has got other resources.
    ///
    /// # Errors
    /// `Plugin`, to be logged.
    pub async fn post_update_container(&self, _pod: &PodSandbox, _container: &Container) -> Result<()> {
        Ok(())
    }

    /// A container has been stopped. What plugins want of others because of it comes back.
    ///
    /// # Errors
    /// `Plugin`, `Conflict`, to be logged; all have been told.
    pub async fn stop_container(
        &self,
        _pod: &PodSandbox,
        _container: &Container,
    ) -> Result<Vec<ContainerUpdate>> {
        Ok(Vec::new())
    }

    /// A container is being removed.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn remove_container(&self, _pod: &PodSandbox, _container: &Container) -> Result<()> {
        Ok(())
    }

    /// Tells the plugins that the runtime ends, closes their connections, and ends those that were started here.
    pub async fn stop(self) {}
}
