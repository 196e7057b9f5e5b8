//! The server on its socket.

use std::future::Future;

use crate::{Config, Error, Kind, Result};

/// A node that has taken up everything that was running, and answers on its socket.
#[derive(Debug)]
pub struct Server {
    config: Config,
}

impl Server {
    /// Reconciles records and kernel, then opens the socket: whoever can connect sees the truth.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another server uses the same directories; otherwise what the kernel refused.
    pub async fn start(config: Config) -> Result<Self> {
        Ok(Self { config })
    }

    /// Answers until `shutdown` is ready or, with [`Config::idle_exit`], until nobody needs it.
    ///
    /// Pods are left running. Where none is left the network and the cgroup root are taken down.
    ///
    /// # Errors
    /// When the socket fails, or when something could not be taken down.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        shutdown.await;
        Err(Error::new(
            Kind::Unsupported,
            format!("serving {} is not there yet", self.config.socket.display()),
        ))
    }
}
