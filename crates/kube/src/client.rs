//! The connection to a CRI server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use vaquita_proto::cri::image_service_client::ImageServiceClient;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;

use crate::{Error, Kind, Result};

/// A CRI client. Cheap to clone; connects when first used, and again when the connection is lost.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) image: ImageServiceClient<Channel>,
}

impl Client {
    /// A client of the CRI server on a unix socket. Does not connect yet.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if the channel cannot be configured.
    pub fn connect(socket: &Path) -> Result<Self> {
        let socket: Arc<PathBuf> = Arc::new(socket.to_owned());
        let endpoint = Endpoint::try_from("http://localhost")
            .map_err(|error| Error::new(Kind::Invalid, format!("CRI endpoint: {error}")))?;
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let socket = Arc::clone(&socket);
            async move { tokio::net::UnixStream::connect(&**socket).await.map(TokioIo::new) }
        }));
        Ok(Self::from_channel(channel))
    }

    /// The calls about pods and containers, for those who have more to ask than the agent.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// A client over a channel that exists already.
    pub fn from_channel(channel: Channel) -> Self {
        // The largest answer that CRI servers send, as kubelet sets it.
        const MAX_MESSAGE: usize = 16 << 20;
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            image: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        }
    }

    /// The calls about images.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.image.clone()
    }
}
