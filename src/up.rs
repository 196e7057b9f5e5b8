//! `vaquita up`: the daemon with the Kubernetes API, and a node that runs what it says.

use std::io::{ErrorKind, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vaquita_apiserver::pki::Pki;
use vaquita_apiserver::{Access, Api, Cluster, Status, http, tokens};
use vaquita_control::{Control, Controllers, CriNode, Tokens};
use vaquita_cri::{Config, Server};
use vaquita_kube::agent;
use vaquita_kube::client::Client;
use vaquita_store::Store;

use crate::options;
use crate::terminal;

/// How long requests and the node may take to come to an end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Open files that are enough for clients, pods and watches of files.
const FILES: u64 = 65536;

/// What `vaquita up` was asked for.
#[derive(Debug)]
pub(crate) struct Settings {
    asked: options::Cluster,
    place: Place,
    node_name: String,
    socket: PathBuf,
    subnets: Vec<String>,
    begun: Instant,
}

/// Where the cluster's data lies.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// Below the root directory of the node.
    pub(crate) fn of(config: &Config) -> Self {
        Self(config.root.join("cluster"))
    }

    /// The objects.
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    /// The administrator's kubeconfig, with the address at which the API was served last.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.0.join("admin.kubeconfig")
    }

    fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    fn pods(&self) -> PathBuf {
        self.0.join("pods")
    }
}

impl Settings {
    pub(crate) fn new(config: &Config, args: &options::Daemon) -> Result<Self> {
        let mut asked = args.cluster.clone();
        if let Some(folder) = &mut asked.static_pods {
            *folder = std::path::absolute(&folder).context("--static-pods")?;
        }
        if args.streaming_tls_cert.is_some() {
            bail!(
                "--streaming-tls-cert: clients of the API reach exec, attach and port-forward by the API's own address"
            );
        }
        if !config.cgroup_root.is_absolute() {
            bail!("--cgroup {}: want a path from the root, as /vaquita", config.cgroup_root.display());
        }
        let host = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        let network = config.network.clone().unwrap_or_default();
        Ok(Self {
            node_name: asked.node_name.clone().unwrap_or_else(host),
            asked,
            place: Place::of(config),
            socket: config.socket.clone(),
            subnets: vec![format!("{}/{}", network.subnet.0, network.subnet.1)],
            begun: Instant::now(),
        })
    }
}

/// All that can fail because of what was asked for: addresses, certificates, the store.
#[derive(Debug)]
pub(crate) struct Opened {
    settings: Settings,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    pki: Pki,
    cluster: Cluster,
}

impl Opened {
    pub(crate) async fn open(settings: Settings) -> Result<Self> {
        allow_files();
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for address in &settings.asked.api_address {
            let listener = listen(*address).await?;
            addresses.push(listener.local_addr().context("cannot ask for the API's address")?);
            listeners.push(listener);
        }
        let Settings { asked, place, .. } = &settings;
        std::fs::create_dir_all(&place.0).with_context(|| format!("cannot make {}", place.0.display()))?;
        let mut names = asked.api_san.clone();
        names.extend(addresses.iter().map(|address| address.ip().to_string()));
        let pki = Pki::open(&place.pki(), &names).context("cannot prepare certificates")?;
        let store = Store::open(&place.store(), vaquita_store::Options::default())
            .with_context(|| format!("cannot open {}", place.store().display()))?;
        let options = vaquita_apiserver::Options { all_kinds: asked.all_kinds };
        let cluster = Cluster::new(store, options);
        cluster.bootstrap().await.context("cannot make what a new cluster has")?;
        Ok(Self { settings, listeners, addresses, pki, cluster })
    }

    /// Begins to serve, and to run pods on the server as soon as that answers.
    pub(crate) fn start(self, server: &Server) -> Result<Running> {
        let Self { settings, listeners, addresses, pki, cluster } = self;
        let Settings { place, node_name, socket, .. } = &settings;
        let client = Client::connect(socket).context("cannot reach the node")?;
        let access = Access::new(pki.signer(), Box::new(cluster.clone()));
        let node = Arc::new(CriNode::new(&client, node_name.clone()));
        let agent = agent::Config {
            cgroup_root: server.pod_cgroups().display().to_string(),
            node_name: node_name.clone(),
            ..agent::Config::new(place.pods())
        };
        let controllers = Controllers::start(cluster.clone(), pki.ca().to_owned());
        let tokens = Arc::new(PodTokens { cluster: cluster.clone(), access: access.clone() });
        let control = Control::start(
            cluster.clone(),
            vaquita_control::Config {
                static_pods: settings.asked.static_pods.clone(),
                pod_cidrs: settings.subnets.clone(),
                ..vaquita_control::Config::new(client, agent, tokens)
            },
        )
        .context("cannot start the node")?;

        let server = reachable(&addresses);
        pki.write_kubeconfig(&place.kubeconfig(), &server).context("cannot write the kubeconfig")?;
        let renewing = tokio::spawn({
            let (pki, path, server) = (pki.clone(), place.kubeconfig(), server.clone());
            async move {
                pki.renew(|pki| {
                    if let Err(error) = pki.write_kubeconfig(&path, &server) {
                        tracing::warn!(%error, "the kubeconfig could not be written anew");
                    }
                })
                .await;
            }
        });
        let (end, ended) = oneshot::channel::<()>();
        let api = Arc::new(Api { cluster, access, node });
        let serving = tokio::spawn(async move {
            let config = http::Config { listeners, pki };
            let ended = async {
                let _ = ended.await;
            };
            if let Err(error) = http::serve(api, config, ended).await {
                tracing::error!(%error, "the API is not served");
            }
        });
        tracing::info!(server, node = node_name, kubeconfig = %place.kubeconfig().display(), "the API answers");
        greet(&server, &place.kubeconfig(), &settings);
        Ok(Running { control, controllers, serving, renewing, end })
    }
}

/// Gives pods tokens as the API does.
struct PodTokens {
    cluster: Cluster,
    access: Access,
}

impl Tokens for PodTokens {
    fn request<'a>(
        &'a self,
        namespace: &'a str,
        service_account: &'a str,
        request: Value,
    ) -> Pin<Box<dyn Future<Output = Result<Value, Status>> + Send + 'a>> {
        let answer = tokens::request(&self.cluster, &self.access, namespace, service_account, request);
        Box::pin(std::future::ready(answer))
    }
}

/// The API and the node at work.
#[derive(Debug)]
pub(crate) struct Running {
    control: Control,
    controllers: Controllers,
    serving: JoinHandle<()>,
    renewing: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Running {
    /// Ends both. Pods go on.
    pub(crate) async fn shutdown(self) {
        self.renewing.abort();
        let _ = self.end.send(());
        let ended = async {
            let _ = self.serving.await;
            self.controllers.shutdown().await;
            self.control.shutdown().await;
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            tracing::warn!("the node did not come to an end");
        }
    }
}

/// Each client is an open file, and terminals begin programs with room for 1024.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(FILES).min(FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        // Fewer clients is what comes of it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow::anyhow!(
            "another program serves {address} already (see `ss -ltnp`): end it, or choose another by --api-address"
        ),
        ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("--api-address {address}: this host does not have that address")
        }
        _ => anyhow::anyhow!("--api-address {address}: {error}"),
    })
}

/// How a client on this host calls the API: by loopback where it is served there.
fn reachable(addresses: &[SocketAddr]) -> String {
    let local = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
        _ => *address,
    };
    let mut all: Vec<SocketAddr> = addresses.iter().map(local).collect();
    all.sort_by_key(|address| !address.ip().is_loopback());
    all.first().map(|address| format!("https://{address}")).unwrap_or_default()
}

/// Tells a person what to do next.
fn greet(server: &str, kubeconfig: &Path, settings: &Settings) {
    if !std::io::stdout().is_terminal() {
        return;
    }
    let (path, node) = (kubeconfig.display(), &settings.node_name);
    let took = settings.begun.elapsed().as_secs_f64();
    let text = format!(
        "\nThe Kubernetes API of node {node} answers at {server} ({took:.1} s).\nIn another terminal, as root:\n\n    \
         export KUBECONFIG={path}\n    kubectl get nodes\n\nOr `vaquita kubeconfig --merge` for ~/.kube/config. Ctrl-C ends the API; pods go on.\n\n",
    );
    // Who has closed the terminal does not read it.
    let _ = terminal::out(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_on_this_host_calls_loopback_where_it_can() {
        let addresses =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(reachable(&addresses(&["192.0.2.1:6443", "127.0.0.1:7000"])), "https://127.0.0.1:7000");
        assert_eq!(reachable(&addresses(&["0.0.0.0:6443"])), "https://127.0.0.1:6443");
        assert_eq!(reachable(&addresses(&["[::]:6443"])), "https://[::1]:6443");
        assert_eq!(reachable(&addresses(&["192.0.2.1:6443"])), "https://192.0.2.1:6443");
    }
}
