//! All of it started and ended together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use vaquita_apiserver::Cluster;
use vaquita_kube::agent;
use vaquita_kube::client::Client;

use crate::events::Recorder;
use crate::{Error, Result, Tokens, evict, feed, images, node, scheduler};

/// How the node is set up.
#[derive(Clone)]
pub struct Config {
    /// The CRI server that runs the pods. It need not answer yet.
    pub cri: Client,
    /// Settings of the agent that runs the pods: its directory, which must be of this cluster alone, and the node's name.
    pub agent: agent::Config,
    /// A folder of manifests of pods that the node runs whatever the API says.
    pub static_pods: Option<PathBuf>,
    /// The node's address; that of the default route where none is given.
    pub node_ip: Option<IpAddr>,
    /// Labels that the node gets when it is new, beside its own.
    pub labels: BTreeMap<String, String>,
    /// Addresses that pods get, such as `10.88.0.0/16`; for the Node object alone.
    pub pod_cidrs: Vec<String>,
    /// Percent of a disk, but 2 GiB at most, below which the node is under pressure and takes no pods, and which pods do not
    /// get. kubelet has 10 (and 15 for images) however large the disk is; distributions for one machine have 5.
    pub disk_percent: u8,
    /// Who gives pods the tokens of their service accounts.
    pub tokens: Arc<dyn Tokens>,
}

impl Config {
    /// The defaults, without static pods.
    pub fn new(cri: Client, agent: agent::Config, tokens: Arc<dyn Tokens>) -> Self {
        Self {
            cri,
            agent,
            static_pods: None,
            node_ip: None,
            labels: BTreeMap::new(),
            pod_cidrs: Vec::new(),
            disk_percent: 5,
            tokens,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("agent", &self.agent)
            .field("static_pods", &self.static_pods)
            .finish_non_exhaustive()
    }
}

/// What all parts have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: Cluster,
    pub(crate) config: Config,
    /// The node's name.
    pub(crate) name: String,
    pub(crate) recorder: Recorder,
}

/// The node at work: it runs the pods of the cluster, and gives machines to those that have none.
#[derive(Debug)]
pub struct Control {
    tasks: JoinSet<()>,
    ready: watch::Receiver<bool>,
}

impl Control {
    /// Starts to work. Waits for neither the CRI server nor the pods: both are tried until they answer.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: the node's name cannot be one.
    pub fn start(cluster: Cluster, config: Config) -> Result<Self> {
        let name = config.agent.node_name.clone();
        if let [problem, ..] = vaquita_apiserver::names::subdomain(&name).as_slice() {
            return Err(Error::invalid(format!(
                "the node's name {name:?} cannot be used: {problem}: give another with --node-name"
            )));
        }
        let mut tasks = JoinSet::new();
        let (recorder, recording) = Recorder::new(cluster.clone(), name.clone());
        tasks.spawn(recording);
        let shared = Arc::new(Shared { cluster, config, name, recorder });
        let (tell, ready) = watch::channel(false);
        tasks.spawn(node::keep(Arc::clone(&shared), tell));
        tasks.spawn(node::mind(Arc::clone(&shared)));
        tasks.spawn(node::renew(Arc::clone(&shared)));
        tasks.spawn(scheduler::run(Arc::clone(&shared)));
        tasks.spawn(evict::run(Arc::clone(&shared)));
        tasks.spawn(images::keep(Arc::clone(&shared), ready.clone()));
        tasks.spawn(feed::run(shared, ready.clone()));
        Ok(Self { tasks, ready })
    }

    /// Waits until the Node object says that the node is ready.
    pub async fn ready(&self) {
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Ends the work. Pods go on, and are taken up again by the next start.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}
