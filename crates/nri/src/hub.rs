//! Where plugins come and go: registration, the order, and what they ask of the runtime.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, RwLock, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::api::{
    Container, ContainerUpdate, Empty, PodSandbox, RegisterPluginRequest, UpdateContainersRequest,
    UpdateContainersResponse,
};
use crate::connection::{Asked, Connection, Method};
use crate::error::cut;
use crate::launch::Started;
use crate::plugin::{Name, Plugin, encode};
use crate::synchronize::synchronize;
use crate::ttrpc::{Status, decode};
use crate::{Config, Runtime};

/// Plugins at once.
const MOST: usize = 64;
/// How long a plugin that joins makes others wait at first, and lets them go on before it makes them wait twice as long.
const TRY: Duration = Duration::from_millis(250);
/// At most.
const LONGEST_TRY: Duration = Duration::from_secs(1);
/// How long a plugin may take to hear that the runtime ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long plugins that were started may take to be gone.
const GONE: Duration = Duration::from_secs(6);

/// All plugins.
pub(crate) struct Hub {
    pub(crate) config: Config,
    runtime: Arc<dyn Runtime>,
    /// In their order. Never changed: replaced.
    plugins: std::sync::RwLock<Arc<[Arc<Plugin>]>>,
    /// Read by operations that change what there is, written by a plugin that joins.
    pub(crate) changes: Arc<RwLock<()>>,
    /// Who may wait for that: one at a time.
    turn: Mutex<()>,
    room: Arc<Semaphore>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// A connection, and what is known of it before it says a word.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) stream: UnixStream,
    pub(crate) pid: i32,
    /// A program that was started here: it, its name, and its configuration.
    pub(crate) started: Option<(Started, Name, String)>,
    /// Somebody else has got its place before it registered.
    pub(crate) displaced: CancellationToken,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("config", &self.config)
            .field("plugins", &self.plugins())
            .finish_non_exhaustive()
    }
}

impl Hub {
    pub(crate) fn new(config: Config, runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self {
            config,
            runtime,
            plugins: std::sync::RwLock::new(Arc::new([])),
            changes: Arc::default(),
            turn: Mutex::default(),
            room: Arc::new(Semaphore::new(MOST)),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// All that are there, in their order. Some may be closed.
    pub(crate) fn plugins(&self) -> Arc<[Arc<Plugin>]> {
        Arc::clone(&self.plugins.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets a plugin in and serves it until its connection is closed. `registered` is dropped when it has registered, `joined` when it has
    /// joined, both in any case.
    pub(crate) async fn serve<R: Send>(
        self: Arc<Self>,
        newcomer: Newcomer,
        registered: R,
        joined: oneshot::Sender<()>,
    ) {
        let Newcomer { stream, pid, started, displaced } = newcomer;
        let (connection, mut asked) = Connection::open(stream);
        let (started, given) = match started {
            Some((started, name, config)) => (Some(started), Some((name, config))),
            None => (None, None),
        };
        let mut name = given.as_ref().map_or_else(String::new, |(name, _)| name.to_string());
        let admitted = tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err("the runtime ends".to_owned()),
            () = displaced.cancelled() => Err("others wait to register".to_owned()),
            admitted = self.admit(&connection, &mut asked, given, registered, &mut name) => admitted,
        };
        drop(joined);
        match admitted {
            Ok((plugin, _room, updates)) => {
                info!(plugin = name, pid, "a plugin has joined");
                self.apply(&plugin.name, updates).await;
                self.listen(&plugin, &mut asked).await;
                info!(plugin = name, pid, why = connection.why(), "a plugin has left");
            }
            Err(why) => {
                let why = cut(why);
                // Who has not said a word is nobody whom an administrator misses, and there may be many.
                match name.is_empty() {
                    true => debug!(pid, why, "a connection is closed before it has registered"),
                    false => warn!(plugin = name, pid, why, "a plugin could not join"),
                }
                connection.close(why);
            }
        }
        self.forget_closed();
        if let Some(started) = started {
            started.end().await;
        }
    }

    /// Registration, configuration, synchronization; an error says why not. `known` is its name as soon as it has told it.
    async fn admit<R>(
        &self,
        connection: &Connection,
        asked: &mut mpsc::Receiver<Asked>,
        given: Option<(Name, String)>,
        registered: R,
        known: &mut String,
    ) -> Result<(Arc<Plugin>, OwnedSemaphorePermit, Vec<ContainerUpdate>), String> {
        let limit = self.config.registration_timeout;
        let (given, config) = given.unzip();
        let (name, room) = timeout(limit, self.register(connection, asked, given))
            .await
            .map_err(|_| format!("it did not register within {} s", limit.as_secs_f32()))?
            .ok_or_else(|| connection.why().to_owned())?;
        drop(registered);
        *known = name.to_string();
        connection.has_registered();
        let config = config.unwrap_or_default();
        let plugin = Arc::new(Plugin::configure(name, connection.clone(), config, &self.config).await?);
        let updates = self.join(&plugin).await?;
        Ok((plugin, room, updates))
    }

    /// Tells the plugin of all that is there, and puts it among the others: no change is in between.
    async fn join(&self, plugin: &Arc<Plugin>) -> Result<Vec<ContainerUpdate>, String> {
        let limit = self.config.registration_timeout;
        let (_lane, (pods, containers)) = tokio::select! {
            () = plugin.connection.closed() => return Err(plugin.connection.why().to_owned()),
            found = timeout(limit, self.between_changes(plugin)) => found.map_err(|_| {
                format!("something has been changing for {} s: it is to try again", limit.as_secs_f32())
            })?,
        };
        synchronize(&plugin.connection, pods, containers, limit).await
    }

    /// Waits for a moment without a change. From it on, the plugin is among the others, who wait for it as long as its lane is held.
    async fn between_changes<'a>(
        &self,
        plugin: &'a Arc<Plugin>,
    ) -> (MutexGuard<'a, ()>, (Vec<PodSandbox>, Vec<Container>)) {
        let _turn = self.turn.lock().await;
        let mut patience = TRY;
        let _moment = loop {
            // Who waits to write keeps others from reading. An operation that goes on for long shall not hold up all others.
            match timeout(patience, self.changes.write()).await {
                Ok(moment) => break moment,
                Err(_) => tokio::time::sleep(patience).await,
            }
            patience = LONGEST_TRY.min(patience * 2);
        };
        let state = self.runtime.state().await;
        let lane = plugin.lane().await;
        self.change(|plugins| {
            plugins.push(Arc::clone(plugin));
            plugins.sort_by(|one, other| one.name.cmp(&other.name));
        });
        (lane, state)
    }

    /// Does what the plugin asks until it is closed.
    async fn listen(&self, plugin: &Plugin, asked: &mut mpsc::Receiver<Asked>) {
        loop {
            let request = tokio::select! {
                biased;
                () = plugin.connection.closed() => return,
                request = asked.recv() => match request {
                    Some(request) => request,
                    None => return plugin.connection.closed().await,
                },
            };
            let answer = match request.method {
                Method::RegisterPlugin => {
                    Err(Status::new(Status::INVALID_ARGUMENT, "it has registered already"))
                }
                Method::UpdateContainers => match decode(request.payload.clone()) {
                    Ok(UpdateContainersRequest { update, evict }) => {
                        let failed = self.runtime.update(update, evict).await;
                        Ok(encode(&UpdateContainersResponse { failed }))
                    }
                    Err(why) => Err(Status::new(Status::INVALID_ARGUMENT, why)),
                },
            };
            plugin.connection.answer(&request, answer).await;
        }
    }

    /// Does what a plugin wants because of what it was told.
    async fn apply(&self, plugin: &Name, updates: Vec<ContainerUpdate>) {
        if updates.is_empty() {
            return;
        }
        let failed = self.runtime.update(updates, Vec::new()).await;
        let failed = failed.iter().filter(|update| !update.ignore_failure).count();
        if failed > 0 {
            warn!(%plugin, failed, "updates that a plugin wants when it joins have failed");
        }
    }

    fn forget_closed(&self) {
        self.change(|plugins| plugins.retain(|plugin| !plugin.connection.is_closed()));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Plugin>>)) {
        let mut plugins = self.plugins.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = plugins.to_vec();
        change(&mut changed);
        *plugins = changed.into();
    }

    /// Tells all plugins that it is over, and ends everything.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        let limit = self.config.request_timeout.min(FAREWELL);
        let farewells: Vec<_> = self
            .plugins()
            .iter()
            .cloned()
            .map(|plugin| {
                tokio::spawn(async move {
                    let told = plugin.connection.call::<Empty>("Shutdown", Bytes::new(), limit).await;
                    debug!(plugin = %plugin.name, ?told, "told a plugin that the runtime ends");
                    plugin.connection.close("the runtime ends");
                })
            })
            .collect();
        for farewell in farewells {
            let _ = farewell.await;
        }
        self.tasks.close();
        if timeout(GONE, self.tasks.wait()).await.is_err() {
            warn!("a plugin that was killed is not gone");
        }
    }

    /// The name of a plugin that registers (the one it was started with, else its own), and its place. It may try again. None if it is
    /// closed on the way.
    async fn register(
        &self,
        connection: &Connection,
        asked: &mut mpsc::Receiver<Asked>,
        given: Option<Name>,
    ) -> Option<(Name, OwnedSemaphorePermit)> {
        loop {
            let request = asked.recv().await?;
            match self.registration(&request, given.as_ref()) {
                Ok(registered) => {
                    connection.answer(&request, Ok(Bytes::new())).await;
                    return Some(registered);
                }
                Err(status) => {
                    debug!(why = status.message, "refused the registration of a plugin");
                    connection.answer(&request, Err(status)).await;
                }
            }
        }
    }

    fn registration(
        &self,
        request: &Asked,
        given: Option<&Name>,
    ) -> Result<(Name, OwnedSemaphorePermit), Status> {
        let invalid = |why: String| Status::new(Status::INVALID_ARGUMENT, why);
        if request.method != Method::RegisterPlugin {
            return Err(invalid("register first".to_owned()));
        }
        let registration: RegisterPluginRequest = decode(request.payload.clone()).map_err(invalid)?;
        let name = given.cloned().map_or_else(|| Name::of(&registration), Ok).map_err(invalid)?;
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Status::new(Status::RESOURCE_EXHAUSTED, format!("there are {MOST} plugins already"))
        })?;
        Ok((name, room))
    }
}
