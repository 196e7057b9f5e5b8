//! A runtime with a state that tests set, and its plugins on a socket of their own.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vaquita_nri::api::{Container, ContainerEviction, ContainerUpdate, PodSandbox};
use vaquita_nri::{Config, Plugins, Runtime};

/// What there is, and what plugins wanted.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) pods: Mutex<Vec<PodSandbox>>,
    pub(super) containers: Mutex<Vec<Container>>,
    pub(super) updates: Mutex<Vec<ContainerUpdate>>,
    pub(super) evictions: Mutex<Vec<ContainerEviction>>,
    /// A container whose updates fail.
    pub(super) stubborn: Mutex<String>,
    /// How long an update takes.
    pub(super) slowness: Mutex<Duration>,
}

impl Runtime for Node {
    fn state(&self) -> Pin<Box<dyn Future<Output = (Vec<PodSandbox>, Vec<Container>)> + Send + '_>> {
        let state = (self.pods.lock().unwrap().clone(), self.containers.lock().unwrap().clone());
        Box::pin(std::future::ready(state))
    }

    fn update(
        &self,
        updates: Vec<ContainerUpdate>,
        evictions: Vec<ContainerEviction>,
    ) -> Pin<Box<dyn Future<Output = Vec<ContainerUpdate>> + Send + '_>> {
        let slowness = *self.slowness.lock().unwrap();
        Box::pin(async move {
            tokio::time::sleep(slowness).await;
            self.updates.lock().unwrap().extend(updates.iter().cloned());
            self.evictions.lock().unwrap().extend(evictions);
            let stubborn = self.stubborn.lock().unwrap();
            updates.into_iter().filter(|update| update.container_id == *stubborn).collect()
        })
    }
}

/// Plugins with a socket in a directory that goes with this.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) node: Arc<Node>,
    pub(super) plugins: Plugins,
}

impl Bench {
    /// With limits of time that no test reaches which does not want to.
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path().join("nri/nri.sock"));
        change(&mut config);
        let node = Arc::new(Node::default());
        let plugins = Plugins::start(config, Arc::clone(&node) as Arc<dyn Runtime>).await.unwrap();
        Self { dir, node, plugins }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("nri/nri.sock")
    }
}

pub(super) fn config(socket: PathBuf) -> Config {
    Config {
        socket,
        plugin_dir: None,
        plugin_config_dir: None,
        registration_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(20),
    }
}

pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not come true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(super) fn pod(id: &str) -> PodSandbox {
    PodSandbox { id: id.to_owned(), name: format!("name of {id}"), ..PodSandbox::default() }
}

pub(super) fn container(id: &str) -> Container {
    let env = vec!["PATH=/bin".to_owned()];
    Container { id: id.to_owned(), pod_sandbox_id: "pod".to_owned(), env, ..Container::default() }
}
