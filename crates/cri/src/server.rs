//! The server on its socket.

mod calls;
mod clients;
mod connection;
mod idle;
mod socket;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Server as Transport;
use vaquita_proto::cri::image_service_server::ImageServiceServer;
use vaquita_proto::cri::runtime_service_server::RuntimeServiceServer;
use vaquita_proto::node::images_server::ImagesServer;
use vaquita_proto::node::node_server::NodeServer;

use crate::encoded::MESSAGE;
use crate::node::{Failures, Node, blocking};
use crate::nri::Nri;
use crate::paths::remove_socket;
use crate::service::Service;
use crate::streaming::Sessions;
use crate::telemetry::{Listeners, Observe};
use crate::{Config, Error, Kind, Result, cgroups, reconcile};

/// The most calls at once on one connection: kubelet has one for each probe that runs a command, and asks for no more
/// than it is allowed. Without a limit one client's calls could take all memory.
const CALLS: u32 = 1024;

/// The most bytes of the headers of one call: those of gRPC take some hundred.
const HEADERS: u32 = 16 << 10;

/// The most calls of one connection that were taken back before they were looked at, and that had to be refused
/// (CVE-2023-44487, RUSTSEC-2024-0003): beyond that it is closed.
const TAKEN_BACK: usize = 64;

/// How long a collector may take for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// A node that has taken up everything that was running, and answers on its socket.
#[derive(Debug)]
pub struct Server {
    node: Arc<Node>,
    socket: socket::Socket,
    metrics: Listeners,
}

impl Server {
    /// Reconciles records and kernel, then opens the socket: whoever can connect sees the truth.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another server uses the same directories or socket; otherwise what the kernel refused.
    pub async fn start(config: Config) -> Result<Self> {
        let port = Listeners::port(&config).await?;
        let node = Node::open(config).await?;
        reconcile::run(&node).await?;
        // Before anybody can ask for anything that they would miss.
        Nri::start(&node).await?;
        let socket = socket::Socket::open(&node.config.socket)?;
        let metrics = Listeners::bind(&node.config, port)?;
        let worker = node.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = reconcile::sweep_cgroups(&worker) {
                tracing::warn!(%error, "cgroups that nobody owns could not be removed");
            }
        });
        Ok(Self { node, socket, metrics })
    }

    /// The cgroup below which clients put pods, as the verbose Status tells it too.
    pub fn pod_cgroups(&self) -> &std::path::Path {
        &self.node.cgroup_root
    }

    /// Answers until `shutdown` is ready or, with [`Config::idle_exit`], until nobody needs it.
    ///
    /// Pods are left running. Where none is left the network and the cgroup root are taken down.
    ///
    /// # Errors
    /// When the socket fails, or when something could not be taken down.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let Self { node, socket, metrics } = self;
        let idle = {
            let (node, clients) = (node.clone(), socket.clients());
            async move {
                match node.config.idle_exit {
                    true => idle::wait(|| node.tables.is_empty() && clients.count() == 0).await,
                    false => std::future::pending().await,
                }
            }
        };
        let path = node.config.socket.clone();
        let service = Service::new(node.clone());
        // No keep-alive: the kernel says when the other end of a unix socket is gone.
        let serving = Transport::builder()
            .max_concurrent_streams(CALLS)
            .http2_max_header_list_size(HEADERS)
            .http2_max_pending_accept_reset_streams(Some(TAKEN_BACK))
            .http2_max_local_error_reset_streams(Some(TAKEN_BACK))
            .layer(Observe(node.clone()))
            .layer(calls::CallsLayer)
            .add_service(
                RuntimeServiceServer::new(service.clone())
                    .max_decoding_message_size(MESSAGE)
                    .max_encoding_message_size(MESSAGE),
            )
            .add_service(
                ImageServiceServer::new(service.clone())
                    .max_decoding_message_size(MESSAGE)
                    .max_encoding_message_size(MESSAGE),
            )
            .add_service(ImagesServer::new(service.clone()).max_decoding_message_size(MESSAGE))
            .add_service(NodeServer::new(service).max_decoding_message_size(MESSAGE))
            .serve_with_incoming(socket.connections());
        // Not the graceful way: a client that never ends its stream would keep us for ever, and every operation under
        // way is taken up again by the next start.
        let served = tokio::select! {
            result = serving => result.map_err(|error| {
                Error::new(Kind::Internal, format!("serving {}: {error}", path.display()))
            }),
            () = node.streaming.serve(Arc::new(Sessions(node.clone()))) => Ok(()),
            never = metrics.serve(node.clone()) => match never {},
            () = shutdown => Ok(()),
            () = idle => Ok(()),
        };
        let _ = remove_socket(&path);
        served?;
        take_down(node).await
    }
}

/// Leaves nothing on the host when there is nothing to be kept for.
async fn take_down(node: Arc<Node>) -> Result<()> {
    if let Some(spans) = &node.spans {
        spans.flush(LAST_SPANS).await;
    }
    node.nri.stop().await;
    blocking("take the node down", move || {
        node.network.settle();
        if !node.tables.is_empty() {
            return Ok(());
        }
        let mut failures = Failures::default();
        failures.note(node.network.close(&node.config, &node.paths));
        for cgroup in cgroups::roots(&node.config).iter().flat_map(|root| cgroups::shared(root)) {
            failures.note(cgroups::remove_unused(&node.layout, &cgroup));
        }
        failures.finish("ending")
    })
    .await
}
