//! The node: everything that requests work on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use vaquita_cgroup::Layout;
use vaquita_image::{Store, Unpacker};
use vaquita_shim::client::Spawner;

use crate::apparmor::AppArmor;
use crate::error::Doing;
use crate::host::Host;
use crate::model::{Joins, SandboxKey, Tables};
use crate::network::PodNetwork;
use crate::paths::{Paths, private_dir};
use crate::runtimes::Runtimes;
use crate::{Config, Error, Kind, Result, cgroups};

/// What requests share. Behind an [`Arc`], because operations outlive the requests that began them.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) host: Host,
    pub(crate) tables: Tables,
    pub(crate) images: Store,
    pub(crate) apparmor: AppArmor,
    /// Held while a pod gets a level of SELinux that no other has.
    pub(crate) levels: std::sync::Mutex<()>,
    /// Whether pods can have users of their own, and if not, why.
    pub(crate) users: std::result::Result<(), String>,
    pub(crate) network: PodNetwork,
    pub(crate) layout: Arc<Layout>,
    /// The cgroup of pods whose clients name no parent, for the driver that makes it.
    pub(crate) cgroup_root: PathBuf,
    pub(crate) spawner: Spawner,
    pub(crate) runtimes: Runtimes,
    pub(crate) running: Running,
    pub(crate) streaming: vaquita_streaming::Server,
    pub(crate) usage: crate::stats::Cache,
    pub(crate) telemetry: crate::telemetry::Telemetry,
    /// Where spans go, if anywhere.
    pub(crate) spans: Option<crate::telemetry::Spans>,
    /// The plugins that are told of pods and containers.
    pub(crate) nri: crate::nri::Nri,
    /// The id of the demo image once it is made: our executable does not change while we run.
    pub(crate) demo: tokio::sync::Mutex<Option<String>>,
}

/// The operations under way that a retry joins.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) run_pod: Joins<SandboxKey, String>,
    pub(crate) stop_pod: Joins<String, ()>,
    pub(crate) remove_pod: Joins<String, ()>,
    pub(crate) create: Joins<(String, String, u32), String>,
    pub(crate) start: Joins<String, ()>,
    pub(crate) remove: Joins<String, ()>,
}

impl Node {
    /// Opens everything that a node needs, and makes what is missing. What needs nothing of each other is done at once:
    /// whoever waits for a restart counts milliseconds.
    pub(crate) async fn open(config: Config) -> Result<Arc<Self>> {
        let paths = Paths::of(&config);
        for dir in [&config.root, &config.state, &paths.pods()] {
            private_dir(dir)?;
        }
        let telemetry = crate::telemetry::Telemetry::default();
        let spans = crate::telemetry::Spans::start(&config, &telemetry.spans)?;
        let streaming = vaquita_streaming::Server::bind(&config.streaming)?;
        let layout = Layout::detect().doing(|| "find the cgroup hierarchies")?;
        let host = Host::look(&layout, &config)?;
        let cgroup_root = cgroups::root(&config)?;
        let existed = cgroups::claim(&layout, &config, &cgroup_root)?;
        let network = {
            let (config, paths) = (config.clone(), paths.clone());
            blocking("open the network", move || PodNetwork::open(&config, &paths))
        };
        let executable = config.executable.clone();
        let executable = blocking("seal the executable", move || sealed(executable.as_deref()));
        let images = {
            let dir = paths.images();
            let unpacker = unpacker(config.executable.as_deref())?;
            let pinned = config.pinned_images.clone();
            blocking("open the image store", move || {
                let mut options = vaquita_image::Options::default();
                options.unpacker = unpacker;
                options.pinned = pinned;
                let store = Store::open(&dir, options)?;
                let users = can_map_users(&store);
                Ok((store, users))
            })
        };
        let configured = config.runtimes.clone();
        let runtimes = blocking("ask the runtimes", move || Runtimes::look(&configured));
        let (network, executable, (images, users), runtimes) =
            tokio::try_join!(network, executable, images, runtimes).inspect_err(|_| {
                if !existed {
                    let _ = cgroups::remove_unused(&layout, &cgroup_root);
                }
            })?;
        Ok(Arc::new(Self {
            host,
            paths,
            tables: Tables::default(),
            images,
            apparmor: AppArmor::default(),
            levels: std::sync::Mutex::default(),
            users,
            network,
            layout: Arc::new(layout),
            cgroup_root,
            spawner: Spawner::new(executable),
            runtimes,
            running: Running::default(),
            streaming,
            usage: crate::stats::Cache::default(),
            telemetry,
            spans,
            nri: crate::nri::Nri::default(),
            demo: tokio::sync::Mutex::default(),
            config,
        }))
    }
}

/// Whether pods can have users of their own: found out by making a namespace and a root for it.
fn can_map_users(store: &Store) -> std::result::Result<(), String> {
    let ids = "0 65536 65536\n";
    let users = vaquita_sys::ns::new_userns(ids, ids).map_err(|error| error.to_string())?;
    store.can_map(users.as_fd()).map_err(|error| error.to_string())
}

/// Who unpacks layers: never inside a container, so the file itself will do.
#[expect(clippy::disallowed_methods, reason = "our own program")]
fn unpacker(executable: Option<&Path>) -> Result<Unpacker> {
    let Some(path) = executable else { return Ok(Unpacker::Own) };
    let file = std::fs::File::open(path).doing(|| format!("open {}", path.display()))?;
    Ok(Unpacker::Exe(Arc::new(file.into())))
}

/// The executable of the shims where no container can write to it (CVE-2019-5736): the file itself on a mount of its own, so
/// that its pages are in memory once; a sealed copy in memory where the kernel refuses that.
#[expect(clippy::disallowed_methods, reason = "our own program")]
fn sealed(executable: Option<&Path>) -> Result<OwnedFd> {
    let path = executable.unwrap_or(Path::new("/proc/self/exe"));
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let refused = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => match vaquita_sys::process::read_only(file) {
            Ok(file) => return Ok(file),
            Err(error) => error.to_string(),
        },
        Err(errno) => errno.to_string(),
    };
    tracing::debug!(%refused, "shims run from a copy of the executable in memory");
    let doing = || format!("seal a copy of {}", path.display());
    match executable {
        None => vaquita_sys::process::sealed_self().doing(doing),
        Some(path) => {
            let bytes = std::fs::read(path).doing(doing)?;
            vaquita_sys::process::sealed_copy(c"vaquita", &bytes).doing(doing)
        }
    }
}

/// Runs what may block beside the tasks that answer.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::Internal, format!("{what}: the worker failed: {error}"))),
    }
}

/// Collects what went wrong where going on is better than giving up: a teardown.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Error>);

impl Failures {
    /// Notes a failure.
    pub(crate) fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push(error);
                None
            }
        }
    }

    /// One error out of all of them.
    pub(crate) fn finish(self, what: impl std::fmt::Display) -> Result<()> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        Err(Error::new(first.kind(), format!("{what}: {}", all.join("; "))))
    }
}
