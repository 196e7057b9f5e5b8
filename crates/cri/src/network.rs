//! The network of the pods: the built-in one, or what CNI plugins make.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use vaquita_cni::{Cni, Collection, Phase};
use vaquita_net::{Bandwidth, Network, PortMapping};
use vaquita_proto::cri;

use crate::error::Doing;
use crate::model::Joins;
use crate::node::blocking;
use crate::paths::{Paths, names};
use crate::{CniConfig, Config, Error, Kind, NetworkChoice, NetworkConfig, Result};

mod request;

/// How long whoever asks for the status waits for plugins that have to be asked: they may hang.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connects pods. A pod that is connected stays with its network, also if new ones get another.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    /// Open where new pods get it, or where one has it still.
    builtin: Option<Arc<Network>>,
    /// Open where new pods get it, or where something is recorded of one.
    cni: Option<Arc<Cni>>,
    /// What new pods get.
    for_new: Option<Which>,
    pod_cidr: Mutex<Vec<(IpAddr, u8)>>,
    paths: Paths,
    asked: Joins<(), ()>,
    /// What the plugins last said of themselves.
    status: Arc<Mutex<Option<Result<()>>>>,
    /// The sandboxes that are taken down in the background, and whether they are to be removed then.
    pub(crate) going: Mutex<HashMap<String, bool>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Which {
    Builtin,
    Cni,
}

/// A pod that is to be connected.
#[derive(Debug)]
pub(crate) struct NewPod<'a> {
    /// The id of its sandbox.
    pub(crate) id: &'a str,
    /// What its client has asked for.
    pub(crate) config: &'a cri::PodSandboxConfig,
    /// The host ports in there, checked.
    pub(crate) ports: Vec<PortMapping>,
    /// The limits in there, checked.
    pub(crate) bandwidth: Bandwidth,
    /// Its namespace.
    pub(crate) netns: Netns,
}

/// The network namespace of a new pod.
#[derive(Debug)]
pub(crate) struct Netns {
    /// The namespace.
    pub(crate) fd: OwnedFd,
    /// The pause process, which is in it, if there is one yet.
    pub(crate) pid: Option<i32>,
}

impl PodNetwork {
    /// Decides which network new pods get, and opens what is needed.
    pub(crate) fn open(config: &Config, paths: &Paths) -> Result<Self> {
        let for_new = choose(config)?;
        let has_leases = names(&paths.leases()).is_ok_and(|names| !names.is_empty());
        let builtin = match &config.network {
            Some(builtin) if for_new == Some(Which::Builtin) || has_leases => {
                Some(open_builtin(builtin, paths)?)
            }
            _ => None,
        };
        let has_records = names(&paths.cni()).is_ok_and(|names| !names.is_empty());
        let cni = match for_new == Some(Which::Cni) || has_records {
            true => Some(Arc::new(open_cni(&config.cni, paths)?)),
            false => None,
        };
        let pod_cidr = paths.read_pod_cidr().unwrap_or_default();
        Ok(Self {
            builtin,
            cni,
            for_new,
            // Written by us.
            pod_cidr: Mutex::new(request::ranges(&pod_cidr).unwrap_or_default()),
            paths: paths.clone(),
            asked: Joins::default(),
            status: Arc::default(),
            going: Mutex::default(),
        })
    }

    /// Whether pods can be connected now, else why not. Looks at the configuration each time, and asks plugins that have something to
    /// say to this; where they take long, what they said last counts.
    pub(crate) async fn ready(&self) -> Result<()> {
        match self.for_new {
            None => Err(none()),
            Some(Which::Builtin) => Ok(()),
            Some(Which::Cni) => {
                let cni = self.cni.clone().ok_or_else(none)?;
                let last = self.status.clone();
                let ask = || async move {
                    let said = cni.status().await.doing(|| "use the CNI network");
                    *lock(&last) = Some(said.clone());
                    said
                };
                match tokio::time::timeout(PATIENCE, self.asked.join((), ask)).await {
                    Ok(said) => said,
                    Err(_) => lock(&self.status).clone().unwrap_or_else(|| {
                        Err(Error::new(
                            Kind::Unavailable,
                            "the CNI plugins have not said yet whether they are ready",
                        ))
                    }),
                }
            }
        }
    }

    /// Refuses what could not be connected, before anything is made.
    pub(crate) async fn check(&self) -> Result<()> {
        match (self.for_new, &self.cni) {
            (None, _) => Err(none()),
            (Some(Which::Cni), Some(cni)) => cni.list().await.map(drop).doing(|| "use the CNI network"),
            _ => Ok(()),
        }
    }

    /// Whether new pods can be connected before there is a process in their namespace. Plugins are told one, by whose path in
    /// procfs they find the namespace again.
    pub(crate) fn needs_no_process(&self) -> bool {
        self.for_new == Some(Which::Builtin)
    }

    /// Connects a pod, and returns its addresses, the primary one first.
    ///
    /// What a CNI network has done stays when it fails, to be taken back with [`PodNetwork::detach`].
    pub(crate) async fn attach(&self, new: NewPod<'_>) -> Result<Vec<IpAddr>> {
        match (self.for_new, &self.builtin, &self.cni) {
            (Some(Which::Builtin), Some(builtin), _) => {
                let (builtin, id) = (builtin.clone(), new.id.to_owned());
                let attach = move || {
                    builtin
                        .attach(&id, new.netns.fd.as_fd(), &new.ports, new.bandwidth)
                        .doing(|| "attach the pod to its network")
                };
                Ok(blocking("attach the network", attach).await?.addresses())
            }
            (Some(Which::Cni), _, Some(cni)) => self.add(cni, new).await,
            _ => Err(none()),
        }
    }

    async fn add(&self, cni: &Cni, new: NewPod<'_>) -> Result<Vec<IpAddr>> {
        let NewPod { id, config, ports, bandwidth, netns } = new;
        let netns = blocking("bring the loopback interface up", move || {
            vaquita_net::loopback_up(netns.fd.as_fd()).doing(|| "bring the pod's loopback interface up")?;
            Ok(netns)
        })
        .await?;
        let pid = netns.pid.unwrap_or_default();
        let path = path_of(&netns.fd, &format!("/proc/{pid}/ns/net"));
        let attachment = request::attachment(id, config, (&ports, bandwidth, &self.pod_cidr()), path);
        let outcome = cni.attach(&attachment).await.doing(|| "attach the pod to its CNI network")?;
        let addresses = outcome.addresses(request::INTERFACE);
        if addresses.is_empty() {
            let message = format!("the CNI network gave the pod no address on {}", request::INTERFACE);
            return Err(Error::new(Kind::Internal, message));
        }
        Ok(addresses)
    }

    /// Whether plugins have to be asked to take a pod back.
    pub(crate) fn has_plugins(&self, id: &str) -> bool {
        // What cannot be read is none of ours to ignore.
        self.cni.as_ref().is_some_and(|cni| !matches!(cni.recorded(id), Ok(None)))
    }

    /// Asks the plugins to take a pod back. The namespace is needed for that while it is there: whoever calls keeps it.
    pub(crate) async fn delete(&self, id: &str, netns: Option<OwnedFd>) -> Result<()> {
        let Some(cni) = &self.cni else { return Ok(()) };
        let path = match (&netns, cni.recorded(id)) {
            (Some(netns), Ok(Some(recorded))) => Some(path_of(netns, &recorded.netns.to_string_lossy())),
            _ => None,
        };
        let deleted = cni.detach(id, path.as_deref()).await;
        drop(netns);
        deleted.doing(|| "detach the pod from its CNI network")
    }

    /// Takes a pod out of the built-in network; that one needs no namespace.
    pub(crate) fn detach(&self, id: &str) -> Result<()> {
        match &self.builtin {
            Some(builtin) => builtin.detach(id).doing(|| "detach the pod from its network"),
            None => Ok(()),
        }
    }

    /// Frees what the built-in network has for pods that are not in `live`.
    pub(crate) fn reconcile(&self, live: &BTreeSet<String>) {
        let Some(builtin) = &self.builtin else { return };
        // Those of the other network have no lease here.
        let live = live.iter().filter(|id| !self.has_plugins(id)).cloned().collect();
        for failure in &builtin.reconcile(&live).failures {
            tracing::warn!(failure, "the pod network could not be put right");
        }
    }

    /// What plugins have done, for whom, and how far that is.
    pub(crate) fn recorded(&self) -> Vec<(String, Option<Phase>)> {
        let all = self.cni.as_ref().map(|cni| cni.cached());
        match all {
            None => Vec::new(),
            Some(Ok(all)) => {
                all.into_iter().map(|(id, cached)| (id, cached.ok().map(|cached| cached.phase))).collect()
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the records of the CNI network could not be listed");
                Vec::new()
            }
        }
    }

    /// The right to have the plugins free what is not in use; nothing is attached while it exists.
    pub(crate) fn prepare_collection(&self) -> Option<Collection> {
        self.cni.as_ref().filter(|_| self.for_new == Some(Which::Cni))?.prepare_collection()
    }

    /// Has the plugins free what is not in `live`.
    pub(crate) async fn collect(&self, right: Collection, live: &BTreeSet<String>) {
        let Some(cni) = &self.cni else { return };
        if let Err(error) = cni.collect(right, live).await {
            tracing::warn!(%error, "CNI plugins could not free what is not in use");
        }
    }

    /// Whether a sandbox is being taken down in the background.
    pub(crate) fn is_going(&self, id: &str) -> bool {
        lock(&self.going).contains_key(id)
    }

    /// What plugins have made of a pod, and, where its namespace is given, whether they find it so: for people, who can wait for that as
    /// long as anybody waits. None where no plugin was asked.
    pub(crate) async fn describe(&self, id: &str, netns: Option<OwnedFd>) -> Option<Value> {
        let cni = self.cni.as_ref()?;
        let recorded = cni.recorded(id).ok()??;
        let found = match netns.filter(|_| recorded.phase == Phase::Attached) {
            None => None,
            Some(netns) => {
                let path = path_of(&netns, &recorded.netns.to_string_lossy());
                match tokio::time::timeout(PATIENCE, cni.check(id, &path)).await {
                    Ok(Ok(())) => Some("as it was made".to_owned()),
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("the plugins have not said it in time".to_owned()),
                }
            }
        };
        Some(
            json!({ "network": recorded.network, "phase": format!("{:?}", recorded.phase), "check": found, "result": recorded.result }),
        )
    }

    /// Keeps the range that the client has for the pods of this node: plugins can ask for it, the built-in network has its own.
    pub(crate) fn update_pod_cidr(&self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let ranges = request::ranges(text)?;
        let mut kept = lock(&self.pod_cidr);
        if *kept == ranges {
            return Ok(());
        }
        self.paths.write_pod_cidr(text)?;
        *kept = ranges;
        if self.for_new == Some(Which::Builtin) {
            tracing::info!(
                pod_cidr = text,
                "the client has a range for the pods; the built-in network keeps its own"
            );
        }
        Ok(())
    }

    /// Removes what all pods of the built-in network share, when there is none.
    pub(crate) fn close(&self, config: &Config, paths: &Paths) -> Result<()> {
        let (Some(_), Some(network)) = (&self.builtin, &config.network) else { return Ok(()) };
        vaquita_net::close(&builtin_config(network, paths))
            .doing(|| format!("take the pod network {} down", network.bridge))
            .map(drop)
    }

    /// Waits a little for what the built-in network does later.
    pub(crate) fn settle(&self) {
        if let Some(builtin) = &self.builtin {
            builtin.settle(PATIENCE);
        }
    }

    /// What new pods get, in a word.
    pub(crate) fn name(&self) -> &'static str {
        match self.for_new {
            None => "none",
            Some(Which::Builtin) => "builtin",
            Some(Which::Cni) => "cni",
        }
    }

    fn pod_cidr(&self) -> Vec<(IpAddr, u8)> {
        lock(&self.pod_cidr).clone()
    }
}

/// The built-in network's own form of its configuration.
pub(crate) fn builtin_config(config: &NetworkConfig, paths: &Paths) -> vaquita_net::Config {
    vaquita_net::Config {
        bridge: config.bridge.clone(),
        subnet: config.subnet,
        subnet6: config.subnet6,
        mtu: config.mtu,
        leases: paths.leases(),
    }
}

fn choose(config: &Config) -> Result<Option<Which>> {
    let builtin = config.network.as_ref().map(|_| Which::Builtin);
    let dir = &config.cni.conf_dir;
    match config.cni.choice {
        NetworkChoice::Builtin => Ok(builtin),
        NetworkChoice::Cni => Ok(Some(Which::Cni)),
        NetworkChoice::Auto if Cni::is_configured(dir).doing(|| "look for a CNI network")? => {
            tracing::info!(dir = %dir.display(), "pods get the CNI network that is configured here");
            Ok(Some(Which::Cni))
        }
        NetworkChoice::Auto => Ok(builtin),
    }
}

fn open_builtin(config: &NetworkConfig, paths: &Paths) -> Result<Arc<Network>> {
    let network = Network::open(builtin_config(config, paths))
        .doing(|| format!("open the pod network {}", config.bridge))?;
    for obstacle in network.obstacles().unwrap_or_default() {
        tracing::warn!(obstacle, "something on this host is in the way of the pod network");
    }
    Ok(Arc::new(network))
}

fn open_cni(config: &CniConfig, paths: &Paths) -> Result<Cni> {
    let CniConfig { choice: _, conf_dir, bin_dirs, timeout } = config.clone();
    Cni::open(vaquita_cni::Config { conf_dir, bin_dirs, cache: paths.cni(), timeout })
        .doing(|| "open the CNI network")
}

/// A path by which plugins open the namespace: that of the pause process, which stays the same when the server is another one,
/// as long as it is that namespace; else that of the descriptor, which is good while we hold it. Neither leaves anything behind.
#[expect(clippy::disallowed_methods, reason = "the namespace of a process, by way of the host's own /proc")]
fn path_of(netns: &OwnedFd, wanted: &str) -> PathBuf {
    let same = || {
        let other = std::fs::File::open(wanted).ok()?;
        let own = vaquita_sys::ns::identity(netns).ok()?;
        (vaquita_sys::ns::identity(&other).ok()? == own).then(|| Path::new(wanted).to_owned())
    };
    let held = || {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()).into()
    };
    same().unwrap_or_else(held)
}

fn none() -> Error {
    Error::new(
        Kind::Precondition,
        "namespace_options.network: this server has no pod network; only NODE is possible",
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
