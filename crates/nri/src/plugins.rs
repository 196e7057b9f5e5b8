//! What the user of the crate holds: the plugins that are connected, and the events to tell them of.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    CreateContainerResponse, Empty, Event, LinuxResources, PluginInstance, PodSandbox,
    PostCreateContainerRequest, PostStartContainerRequest, PostUpdateContainerRequest,
    PostUpdatePodSandboxRequest, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopContainerResponse, StopPodSandboxRequest,
    UpdateContainerRequest, UpdateContainerResponse, UpdatePodSandboxRequest,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use crate::hub::{Hub, Newcomer};
use crate::launch::{self, Program};
use crate::listener::Listener;
use crate::merge::{Creating, Others, Updating};
use crate::plugin::{Name, News, Plugin, encode};
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
    #[expect(clippy::type_complexity, reason = "written out, as everywhere")]
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
    hub: Option<Arc<Hub>>,
}

/// While it is held no plugin joins.
#[derive(Debug)]
#[must_use = "a plugin may join as soon as it is dropped"]
pub struct Change {
    _guard: Option<OwnedRwLockReadGuard<()>>,
}

/// Plugins that wait to be let in. Without it the socket is closed again.
#[derive(Debug)]
#[must_use = "nobody joins before it has begun"]
pub struct Beginning {
    hub: Arc<Hub>,
    programs: Vec<Program>,
    listener: Listener,
}

impl Beginning {
    /// Starts the programs of the directory, waits until each has joined or failed, which is logged, and lets others in.
    pub async fn begin(self) {
        let Self { hub, programs, listener } = self;
        let mut joining = Vec::new();
        for program in programs {
            let (started, stream) = match program.start() {
                Ok(started) => started,
                Err(error) => {
                    warn!(plugin = %program.name, %error, "a plugin could not be started");
                    continue;
                }
            };
            let (pid, displaced) = (started.pid(), CancellationToken::new());
            let started = Some((started, program.name, program.config));
            let (joined, waiting) = oneshot::channel();
            hub.tasks.spawn(Arc::clone(&hub).serve(Newcomer { stream, pid, started, displaced }, (), joined));
            joining.push(waiting);
        }
        for waiting in joining {
            let _ = waiting.await;
        }
        hub.tasks.spawn(listener.accept(Arc::clone(&hub)));
    }
}

/// Who is asked after a plugin has failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Failing {
    /// Nobody: what was to be done is not.
    Ends,
    /// All others: it is done in any case.
    IsTold,
}

impl Plugins {
    /// No plugins, now and ever: everything is answered at once, without an allocation or a lock.
    #[must_use]
    pub const fn none() -> Self {
        Self { hub: None }
    }

    /// Plugins that may come from now on, and what lets them. In between whoever is to tell them of events can be told where they are: one that
    /// has joined waits for its first event. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// `Busy` when another server listens there; `Invalid` for directories and programs that others may write to and for names that are
    /// none of a plugin; `System`.
    pub fn open(config: Config, runtime: Arc<dyn Runtime>) -> Result<(Self, Beginning)> {
        let programs = match &config.plugin_dir {
            Some(dir) => launch::programs(dir, config.plugin_config_dir.as_deref())?,
            None => Vec::new(),
        };
        let listener = Listener::open(&config.socket)?;
        let hub = Hub::new(config, runtime);
        Ok((Self { hub: Some(Arc::clone(&hub)) }, Beginning { hub, programs, listener }))
    }

    /// [`open`](Self::open), where no event is told before.
    ///
    /// # Errors
    /// As there.
    pub async fn start(config: Config, runtime: Arc<dyn Runtime>) -> Result<Self> {
        let (plugins, beginning) = Self::open(config, runtime)?;
        beginning.begin().await;
        Ok(plugins)
    }

    /// Whether there are plugins, or one is about to join. Where not, nobody needs to convert anything for them.
    #[must_use]
    pub fn any(&self) -> bool {
        self.hub.as_ref().is_some_and(|hub| !hub.plugins().is_empty())
    }

    /// To be held while an operation changes what [`Runtime::state`] returns and tells the plugins of it: a plugin that joins is
    /// synchronized either wholly before or wholly after, so it neither misses a container nor hears of it twice. Not to be
    /// asked for by who holds one.
    pub async fn change(&self) -> Change {
        match &self.hub {
            Some(hub) => Change { _guard: Some(Arc::clone(&hub.changes).read_owned().await) },
            None => Change { _guard: None },
        }
    }

    /// A pod has been set up and is not listed yet.
    ///
    /// # Errors
    /// `Plugin`: one refused, and the pod is to be taken down.
    pub async fn run_pod_sandbox(&self, pod: &PodSandbox) -> Result<()> {
        let request = || encode(&RunPodSandboxRequest { pod: Some(pod.clone()) });
        self.tell(Event::RunPodSandbox, Failing::Ends, pod, None, request).await
    }

    /// A pod is about to get other resources.
    ///
    /// # Errors
    /// `Plugin`: one refused.
    pub async fn update_pod_sandbox(
        &self,
        pod: &PodSandbox,
        overhead: Option<&LinuxResources>,
        resources: Option<&LinuxResources>,
    ) -> Result<()> {
        let request = || {
            encode(&UpdatePodSandboxRequest {
                pod: Some(pod.clone()),
                overhead_linux_resources: overhead.cloned(),
                linux_resources: resources.cloned(),
            })
        };
        self.tell(Event::UpdatePodSandbox, Failing::Ends, pod, None, request).await
    }

    /// A pod has got other resources.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn post_update_pod_sandbox(&self, pod: &PodSandbox) -> Result<()> {
        let request = || encode(&PostUpdatePodSandboxRequest { pod: Some(pod.clone()) });
        self.tell(Event::PostUpdatePodSandbox, Failing::IsTold, pod, None, request).await
    }

    /// A pod's containers have been stopped, and it is being.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn stop_pod_sandbox(&self, pod: &PodSandbox) -> Result<()> {
        let request = || encode(&StopPodSandboxRequest { pod: Some(pod.clone()) });
        self.tell(Event::StopPodSandbox, Failing::IsTold, pod, None, request).await
    }

    /// A pod is being removed.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn remove_pod_sandbox(&self, pod: &PodSandbox) -> Result<()> {
        let request = || encode(&RemovePodSandboxRequest { pod: Some(pod.clone()) });
        self.tell(Event::RemovePodSandbox, Failing::IsTold, pod, None, request).await
    }

    /// A container is about to be made.
    ///
    /// # Errors
    /// `Plugin`: one refused, `Conflict`: two do not agree; it is not to be made.
    pub async fn create_container(&self, pod: &PodSandbox, container: &Container) -> Result<Creation> {
        let plugins = self.plugins();
        if plugins.is_empty() {
            return Ok(Creation::default());
        }
        let event = Event::CreateContainer;
        let mut creating = Creating::new(container.clone());
        for plugin in plugins.iter().filter(|plugin| plugin.hears(event)) {
            let shown = creating.container();
            let request =
                encode(&CreateContainerRequest { pod: Some(pod.clone()), container: Some(shown.clone()) });
            let news = News { event, pod, container: Some(shown), request };
            if let Some(CreateContainerResponse { adjust, update, evict }) = plugin.tell(&news).await? {
                creating.add(&plugin.name.to_string(), adjust, update, evict)?;
            }
        }
        judge(&plugins, pod, container, &creating).await?;
        Ok(creating.finish())
    }

    /// A container has been made.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn post_create_container(&self, pod: &PodSandbox, container: &Container) -> Result<()> {
        let request = || {
            let (pod, container) = (Some(pod.clone()), Some(container.clone()));
            encode(&PostCreateContainerRequest { pod, container })
        };
        self.tell(Event::PostCreateContainer, Failing::IsTold, pod, Some(container), request).await
    }

    /// A container is about to be started.
    ///
    /// # Errors
    /// `Plugin`: one refused, and it is not to be started.
    pub async fn start_container(&self, pod: &PodSandbox, container: &Container) -> Result<()> {
        let request = || {
            let (pod, container) = (Some(pod.clone()), Some(container.clone()));
            encode(&StartContainerRequest { pod, container })
        };
        self.tell(Event::StartContainer, Failing::Ends, pod, Some(container), request).await
    }

    /// A container has been started.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn post_start_container(&self, pod: &PodSandbox, container: &Container) -> Result<()> {
        let request = || {
            let (pod, container) = (Some(pod.clone()), Some(container.clone()));
            encode(&PostStartContainerRequest { pod, container })
        };
        self.tell(Event::PostStartContainer, Failing::IsTold, pod, Some(container), request).await
    }

    /// A container is about to get these resources.
    ///
    /// # Errors
    /// `Plugin`: one refused, `Conflict`: two do not agree; it is to stay as it is.
    pub async fn update_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
        resources: LinuxResources,
    ) -> Result<Update> {
        let event = Event::UpdateContainer;
        let mut updating = Updating::new(&container.id, resources);
        for plugin in self.plugins().iter().filter(|plugin| plugin.hears(event)) {
            let request = encode(&UpdateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(container.clone()),
                linux_resources: Some(updating.resources().clone()),
            });
            let news = News { event, pod, container: Some(container), request };
            if let Some(UpdateContainerResponse { update, evict }) = plugin.tell(&news).await? {
                updating.add(&plugin.name.to_string(), update, evict)?;
            }
        }
        Ok(updating.finish())
    }

    /// A container has got other resources.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn post_update_container(&self, pod: &PodSandbox, container: &Container) -> Result<()> {
        let request = || {
            let (pod, container) = (Some(pod.clone()), Some(container.clone()));
            encode(&PostUpdateContainerRequest { pod, container })
        };
        self.tell(Event::PostUpdateContainer, Failing::IsTold, pod, Some(container), request).await
    }

    /// A container has been stopped. What plugins want of others because of it comes back, also if some have failed.
    ///
    /// # Errors
    /// `Plugin`, `Conflict`, to be logged, where nothing is wanted; all have been told.
    pub async fn stop_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<Vec<ContainerUpdate>> {
        let event = Event::StopContainer;
        let (mut others, mut failed) = (Others::default(), Ok(()));
        for plugin in self.plugins().iter().filter(|plugin| plugin.hears(event)) {
            let (owner, whose) = (Some(pod.clone()), Some(container.clone()));
            let request = encode(&StopContainerRequest { pod: owner, container: whose });
            let news = News { event, pod, container: Some(container), request };
            let wanted = plugin.tell::<StopContainerResponse>(&news).await.and_then(|answer| {
                let updates = answer.map(|answer| answer.update).unwrap_or_default();
                updates.into_iter().try_for_each(|update| others.update(&plugin.name.to_string(), update))
            });
            failed = first(failed, wanted);
        }
        match (others.finish(), failed) {
            (updates, Err(error)) if updates.is_empty() => Err(error),
            (updates, failed) => {
                let _ =
                    failed.inspect_err(|error| warn!(container = container.id, %error, "a plugin failed"));
                Ok(updates)
            }
        }
    }

    /// A container is being removed.
    ///
    /// # Errors
    /// `Plugin`, to be logged; all have been told.
    pub async fn remove_container(&self, pod: &PodSandbox, container: &Container) -> Result<()> {
        let request = || {
            let (pod, container) = (Some(pod.clone()), Some(container.clone()));
            encode(&RemoveContainerRequest { pod, container })
        };
        self.tell(Event::RemoveContainer, Failing::IsTold, pod, Some(container), request).await
    }

    /// Tells the plugins that the runtime ends, closes their connections and the socket, and ends those that were started here. Takes at most
    /// seven seconds.
    pub async fn stop(self) {
        if let Some(hub) = self.hub {
            hub.stop().await;
        }
    }

    /// The names of the plugins, as `10-name`, in the order in which they are asked.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.plugins().iter().map(|plugin| plugin.name.to_string()).collect()
    }

    fn plugins(&self) -> Arc<[Arc<Plugin>]> {
        self.hub.as_ref().map(|hub| hub.plugins()).unwrap_or_default()
    }

    /// Tells all of an event that has no answer. Returns the first error.
    async fn tell(
        &self,
        event: Event,
        failing: Failing,
        pod: &PodSandbox,
        container: Option<&Container>,
        request: impl FnOnce() -> Bytes,
    ) -> Result<()> {
        let plugins = self.plugins();
        if !plugins.iter().any(|plugin| plugin.hears(event)) {
            return Ok(());
        }
        let news = News { event, pod, container, request: request() };
        let mut result = Ok(());
        for plugin in plugins.iter() {
            let told = plugin.tell::<Empty>(&news).await.map(drop);
            if failing == Failing::Ends {
                told?;
            } else {
                result = first(result, told);
            }
        }
        result
    }
}

/// The first error; a second one is logged.
fn first(result: Result<()>, other: Result<()>) -> Result<()> {
    match (result, other) {
        (Ok(()), other) => other,
        (Err(error), other) => {
            let _ = other.inspect_err(|error| warn!(%error, "another plugin failed, too"));
            Err(error)
        }
    }
}

/// Asks those that judge what the others want. One that does not answer has not agreed.
async fn judge(
    plugins: &[Arc<Plugin>],
    pod: &PodSandbox,
    container: &Container,
    creating: &Creating,
) -> Result<()> {
    let event = Event::ValidateContainerAdjustment;
    if !plugins.iter().any(|plugin| plugin.hears(event)) {
        return Ok(());
    }
    let name = |plugin: &Arc<Plugin>| {
        let Name { index, name } = plugin.name.clone();
        PluginInstance { name, index }
    };
    let request = encode(&ValidateContainerAdjustmentRequest {
        pod: Some(pod.clone()),
        container: Some(container.clone()),
        adjust: Some(creating.adjustment().clone()),
        update: creating.updates(),
        owners: Some(creating.owners()),
        plugins: plugins.iter().map(name).collect(),
    });
    let news = News { event, pod, container: Some(container), request };
    for plugin in plugins.iter().filter(|plugin| plugin.hears(event)) {
        let error = |why: &str| Err(Error::new(Kind::Plugin, format!("plugin {} {why}", plugin.name)));
        match plugin.tell::<ValidateContainerAdjustmentResponse>(&news).await? {
            Some(answer) if answer.reject => {
                return error(&format!("rejects what is to be done to the container: {}", answer.reason));
            }
            None if plugin.connection.is_closed() => {
                return error("was closed before it could judge what is to be done to the container");
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}
