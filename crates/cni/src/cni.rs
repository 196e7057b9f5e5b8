//! The operations on attachments and on the network.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedRwLockWriteGuard, RwLock};

use crate::cache::{Cache, Entry};
use crate::exec::Runner;
use crate::request::{self, Command, Scope};
use crate::{
    Cached, Capabilities, Error, Kind, List, Outcome, Phase, Plugin, Result, files, leftovers, list, outcome,
};

/// The most that a plugin may take for what others wait for: STATUS, VERSION, GC.
const SHORT: Duration = Duration::from_secs(10);

/// Where a [`Cni`] finds its configuration, its plugins and its records.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of the configurations, of which the first in lexical order counts.
    pub conf_dir: PathBuf,
    /// The directories of the plugins; the first that has a program of the name wins.
    pub bin_dirs: Vec<PathBuf>,
    /// The directory of the records, which nobody else uses. Made with mode 0700. Should survive a reboot, as what plugins give
    /// out does.
    pub cache: PathBuf,
    /// How long one plugin may take before it is killed.
    pub timeout: Duration,
}

/// What a pod is to be connected with.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Whose it is, at most one attachment each.
    pub id: String,
    /// The interface to be made in the pod.
    pub interface: String,
    /// A path by which plugins open the network namespace.
    pub netns: PathBuf,
    /// Pairs of `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// What plugins can ask for.
    pub capabilities: Capabilities,
}

/// Runs the plugins of a directory's configuration.
///
/// The configuration is read anew for each use. Operations on one id wait for each other; those on different ids do not.
pub struct Cni {
    config: Config,
    runner: Arc<Runner>,
    cache: Cache,
    /// Tells this process from those before.
    instance: String,
    lanes: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
    /// Held for writing while plugins free what is in no list: what is added meanwhile could not be in it.
    collecting: Arc<RwLock<()>>,
    /// The list whose plugins are there and speak its version.
    valid: Mutex<Option<List>>,
}

/// The right to free what nobody owns. Nothing is attached while it exists.
#[derive(Debug)]
pub struct Collection {
    _nothing_is_attached: OwnedRwLockWriteGuard<()>,
}

impl fmt::Debug for Cni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cni").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Cni {
    /// Makes the directory of the records. The configuration and the plugins need not be there yet.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn open(config: Config) -> Result<Self> {
        let mut random = [0_u8; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Error::new(Kind::System, format!("getrandom: {error}")))?;
        Ok(Self {
            runner: Arc::new(Runner { bin_dirs: config.bin_dirs.clone(), mark: config.cache.clone() }),
            cache: Cache::open(&config.cache)?,
            instance: random.iter().map(|byte| format!("{byte:02x}")).collect(),
            lanes: Mutex::default(),
            collecting: Arc::default(),
            valid: Mutex::default(),
            config,
        })
    }

    /// Whether a directory has any configuration, usable or not.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn is_configured(conf_dir: &Path) -> Result<bool> {
        files::any(conf_dir)
    }

    /// The configuration that counts now, and its file.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none; else what is wrong with the first one, which is named.
    pub async fn list(&self) -> Result<(PathBuf, List)> {
        let dir = self.config.conf_dir.clone();
        blocking(move || files::load(&dir)).await
    }

    /// Connects a pod: ADD of each plugin, each with the result of the one before.
    ///
    /// What was recorded and done stays when a plugin fails, to be taken back with [`Cni::detach`].
    ///
    /// # Errors
    /// [`Kind::Exists`] when the id is attached; what is wrong with the configuration; what a plugin says.
    pub async fn attach(&self, wanted: &Attachment) -> Result<Outcome> {
        list::check_id(&wanted.id)?;
        list::check_interface(&wanted.interface)?;
        let args = request::args(&wanted.args)?;
        let _collected = self.collecting.read().await;
        let lane = self.lane(&wanted.id);
        let _alone = lane.lock().await;
        let (_, list) = self.list().await?;
        let mut entry = Entry::new(&wanted.id, &wanted.interface, &list);
        entry.args = args;
        entry.capabilities = wanted.capabilities.clone();
        entry.netns.clone_from(&wanted.netns);
        entry.instance.clone_from(&self.instance);
        if self.read(&wanted.id).await?.is_some() {
            return Err(Error::new(Kind::Exists, format!("{} is attached already", wanted.id)));
        }
        self.write(&entry).await?;
        let scope = scope(&entry, &wanted.netns);
        let mut outcome: Option<Outcome> = None;
        for plugin in list.plugins() {
            let previous = outcome.as_ref().map(Outcome::document);
            let input = request::document(&list, plugin, &wanted.capabilities, previous);
            let printed =
                self.runner.run(plugin.program(), Command::Add, &scope, &input, self.config.timeout).await?;
            let result = Outcome::parse(&printed, list.version());
            let result = result.map_err(|error| {
                error.within(format_args!("the result of plugin {} (ADD)", plugin.program()))
            })?;
            // Some find what they have made by the addresses in there alone, also when the next one fails.
            entry.result = Some(result.document().clone());
            self.write(&entry).await?;
            outcome = Some(result);
        }
        let outcome = outcome.ok_or_else(|| Error::invalid("plugins: there are none"))?;
        entry.phase = Phase::Attached;
        self.write(&entry).await?;
        Ok(outcome)
    }

    /// Disconnects a pod: DEL of each plugin, the last first, with the configuration and the result of its ADD, or what there is of one
    /// that was not finished. Plugins that still run for it, because an operation was given up, are waited for. Nothing happens where
    /// nothing is recorded.
    ///
    /// `netns` is none where the namespace is gone.
    ///
    /// # Errors
    /// What the first plugin says that fails: as specified, none is asked after it. The record then stays, and the call can be
    /// repeated.
    pub async fn detach(&self, id: &str, netns: Option<&Path>) -> Result<()> {
        let lane = self.lane(id);
        let _alone = lane.lock().await;
        let Some(mut entry) = self.read(id).await? else { return Ok(()) };
        let list = self.listed(&entry)?;
        // Whatever was begun for it and given up; nothing was where the last word is that of a whole ADD of ours.
        if entry.instance != self.instance || entry.phase != Phase::Attached {
            let (cache, id, patience) = (self.config.cache.clone(), id.to_owned(), self.config.timeout);
            blocking(move || leftovers::end(&cache, &id, patience)).await?;
        }
        if entry.instance != self.instance || entry.phase != Phase::Detaching {
            entry.instance.clone_from(&self.instance);
            entry.phase = Phase::Detaching;
            self.write(&entry).await?;
        }
        let scope = scope(&entry, netns.unwrap_or(Path::new("")));
        let previous = entry.result.as_ref().filter(|_| list.version() >= crate::Version::CHECK);
        for plugin in list.plugins().iter().rev() {
            let input = request::document(&list, plugin, &entry.capabilities, previous);
            self.runner.run(plugin.program(), Command::Del, &scope, &input, self.config.timeout).await?;
        }
        let (cache, id) = (self.cache.clone(), id.to_owned());
        blocking(move || cache.remove(&id)).await
    }

    /// Asks the plugins whether an attachment is as they have made it: CHECK, where the configuration has it.
    ///
    /// # Errors
    /// What a plugin says; [`Kind::NotFound`] where nothing is recorded.
    pub async fn check(&self, id: &str, netns: &Path) -> Result<()> {
        let lane = self.lane(id);
        let _alone = lane.lock().await;
        let entry = self.read(id).await?.filter(|entry| entry.phase == Phase::Attached);
        let entry = entry.ok_or_else(|| Error::new(Kind::NotFound, format!("{id} is not attached")))?;
        let list = self.listed(&entry)?;
        if !list.has_check() {
            return Ok(());
        }
        let scope = scope(&entry, netns);
        for plugin in list.plugins() {
            let input = request::document(&list, plugin, &entry.capabilities, entry.result.as_ref());
            self.runner.run(plugin.program(), Command::Check, &scope, &input, self.limit()).await?;
        }
        Ok(())
    }

    /// Whether pods can be connected: there is a configuration that can be read, its plugins are there and speak its version, and
    /// where it has STATUS they say that they are ready.
    ///
    /// # Errors
    /// The reason why not.
    pub async fn status(&self) -> Result<()> {
        let (path, list) = self.list().await?;
        let of_file =
            |error: Error| error.within(format_args!("the network configuration {}", path.display()));
        if self.valid().as_ref() != Some(&list) {
            for plugin in list.plugins() {
                self.validate(&list, plugin).await.map_err(of_file)?;
            }
            *self.valid() = Some(list.clone());
        }
        for plugin in list.plugins() {
            // Looked for each time: somebody may have removed it.
            self.runner.find(plugin.program()).map_err(of_file)?;
            if list.has_status() {
                let input = request::bare(&list, plugin);
                let scope = Scope::default();
                self.runner.run(plugin.program(), Command::Status, &scope, &input, self.limit()).await?;
            }
        }
        Ok(())
    }

    /// The right to call [`Cni::collect`]; none while something is being attached.
    #[must_use]
    pub fn prepare_collection(&self) -> Option<Collection> {
        self.collecting.clone().try_write_owned().ok().map(|guard| Collection { _nothing_is_attached: guard })
    }

    /// Tells the plugins of the current configuration which attachments are in use, so that they free all others of the
    /// network: GC, where the configuration has it. Those of `live` count that are attached and not being detached.
    ///
    /// # Errors
    /// What the plugins say, all of them; the others are asked all the same.
    pub async fn collect(&self, _right: Collection, live: &BTreeSet<String>) -> Result<()> {
        let (_, list) = match self.list().await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            list => list?,
        };
        if !list.has_gc() {
            return Ok(());
        }
        let dir = self.config.cache.clone();
        let valid: Vec<_> = blocking(move || crate::cached(&dir))
            .await?
            .into_iter()
            .filter_map(|(_, cached)| cached.ok())
            .filter(|cached| cached.phase == Phase::Attached && live.contains(&cached.id))
            .filter(|cached| cached.network == list.name())
            .map(|Cached { id, interface, .. }| (id, interface))
            .collect();
        let mut failures = Vec::new();
        for plugin in list.plugins() {
            let input = request::collection(&list, plugin, &valid);
            let scope = Scope::default();
            let done = self.runner.run(plugin.program(), Command::Gc, &scope, &input, self.limit()).await;
            failures.extend(done.err());
        }
        let Some(first) = failures.first() else { return Ok(()) };
        let all: Vec<_> = failures.iter().map(ToString::to_string).collect();
        Err(Error::new(first.kind(), all.join("; ")))
    }

    /// What is recorded of an attachment; none where nothing is.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when the record cannot be read.
    pub fn recorded(&self, id: &str) -> Result<Option<Cached>> {
        self.cache.read(id)?.map(|entry| entry.cached()).transpose()
    }

    /// All that is recorded, by id; what cannot be read as an error.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn cached(&self) -> Result<Vec<(String, Result<Cached>)>> {
        crate::cached(&self.config.cache)
    }

    async fn validate(&self, list: &List, plugin: &Plugin) -> Result<()> {
        let version = list.version().to_string();
        let input = [("cniVersion".to_owned(), version.clone().into())].into_iter().collect();
        // What libcni gives for the sake of old plugins.
        let dummy = Scope { interface: "dummy".into(), netns: "dummy".into(), ..Scope::default() };
        let program = plugin.program();
        let printed = self.runner.run(program, Command::Version, &dummy, &input, self.limit()).await?;
        let versions = outcome::versions(&printed)
            .map_err(|error| error.within(format_args!("the answer of plugin {program} (VERSION)")))?;
        if versions.contains(&version) {
            return Ok(());
        }
        let message =
            format!("plugin {program} does not speak version {version}, but {}", versions.join(", "));
        Err(Error::new(Kind::Unsupported, message))
    }

    fn limit(&self) -> Duration {
        self.config.timeout.min(SHORT)
    }

    fn listed(&self, entry: &Entry) -> Result<List> {
        entry.list().map_err(|error| {
            let path = self.cache.path(&entry.id);
            Error::new(Kind::Corrupt, format!("the record {} cannot be read: {error}", path.display()))
        })
    }

    async fn read(&self, id: &str) -> Result<Option<Entry>> {
        let (cache, id) = (self.cache.clone(), id.to_owned());
        blocking(move || cache.read(&id)).await
    }

    async fn write(&self, entry: &Entry) -> Result<()> {
        let (cache, entry) = (self.cache.clone(), entry.clone());
        blocking(move || cache.write(&entry)).await
    }

    /// Whoever works on an id holds this.
    fn lane(&self, id: &str) -> Arc<AsyncMutex<()>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        lanes.entry(id.to_owned()).or_default().clone()
    }

    fn valid(&self) -> std::sync::MutexGuard<'_, Option<List>> {
        self.valid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scope(entry: &Entry, netns: &Path) -> Scope {
    Scope {
        container_id: entry.id.clone(),
        interface: entry.interface.clone(),
        netns: netns.to_owned(),
        args: entry.args.clone(),
    }
}

/// Runs what waits for the disk beside the tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::System, format!("a worker failed: {error}"))),
    }
}
