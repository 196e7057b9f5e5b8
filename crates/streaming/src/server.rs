//! The listener, and what it is told to do.

mod http;
mod socket;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub(crate) use socket::Watch;

use crate::session::Patience;
use crate::tokens::Tokens;
use crate::{Attach, Error, Exec, Kind, PortForward, Request, Streams};

/// How a server listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where: a loopback address unless there is TLS. Port 0 takes any that is free.
    pub address: SocketAddr,
    /// The server's certificate and key. Without them the connections are plain.
    pub tls: Option<Tls>,
    /// After how long without a byte in either direction a session ends.
    pub idle_timeout: Duration,
}

impl Default for Config {
    /// Any port of 127.0.0.1, plain, four hours.
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            idle_timeout: Duration::from_secs(4 * 60 * 60),
        }
    }
}

/// The files of TLS, in PEM form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// The certificate, and those that lead from it to one that clients know.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What is done over the connections.
pub trait Backend: Send + Sync + 'static {
    /// Runs a process and returns its exit code, from 0 to 255. When the client goes, [`crate::Client::gone`] tells, and
    /// this should return soon.
    ///
    /// # Errors
    /// Why there is no exit code, as a sentence for the client.
    fn exec(&self, request: Exec, streams: Streams) -> impl Future<Output = Result<u8, String>> + Send;

    /// Connects the client with a process that runs; returns when the process ends, or as above.
    ///
    /// # Errors
    /// Why that cannot be done, as a sentence for the client.
    fn attach(&self, request: Attach, streams: Streams) -> impl Future<Output = Result<(), String>> + Send;

    /// Connects to a port (1–65535) of a pod.
    ///
    /// # Errors
    /// Why that cannot be done, as a sentence for the client.
    fn connect(
        &self,
        request: &PortForward,
        port: u16,
    ) -> impl Future<Output = Result<TcpStream, String>> + Send;
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    tokens: Mutex<Tokens>,
    sessions: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
    patience: Patience,
}

/// Sessions at a time.
const SESSIONS: usize = 1000;
/// Connections that have not said yet what they want. With one more, the oldest of them is closed.
const STRANGERS: usize = 256;
/// How long a connection may take to say what it wants.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// How long a client may take to open all streams of a session.
const CREATION: Duration = Duration::from_secs(30);
/// How long a client is waited for at the end.
const FAREWELL: Duration = Duration::from_secs(10);

impl Server {
    /// Listens. Must be called within a tokio runtime; connections are answered by [`Self::serve`].
    ///
    /// # Errors
    /// [`Kind::Invalid`] for an address that is not a loopback one without TLS, or not one that clients can be told, and
    /// for files that are no certificate and key; else what the kernel refused.
    pub fn bind(config: &Config) -> Result<Self, Error> {
        let address = config.address;
        if address.ip().is_unspecified() {
            let message = format!("{address} is no address that a client can be told: name one of this host");
            return Err(Error::new(Kind::Invalid, message));
        }
        if !address.ip().is_loopback() && config.tls.is_none() {
            let message = format!(
                "exec, attach and port-forward are not served on {address} without TLS: give a certificate and a key, \
                 or a loopback address"
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, address))
        };
        let (listener, address) =
            listen().map_err(|error| Error::io(error, format_args!("listen on {address}")))?;
        let patience = Patience { idle: config.idle_timeout, creation: CREATION, farewell: FAREWELL };
        let shared = Arc::new(Shared {
            tokens: Mutex::default(),
            sessions: Arc::new(Semaphore::new(SESSIONS)),
            tasks: Mutex::default(),
            patience,
        });
        Ok(Self { listener, address, tls, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL over which the request will be served, once and within a minute.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for streams that cannot be had together, [`Kind::Exhausted`] when 1000 URLs wait for their clients.
    pub fn url_for(&self, request: Request) -> Result<String, Error> {
        if let Request::Exec(Exec { streams, .. }) | Request::Attach(Attach { streams, .. }) = &request {
            streams.validate()?;
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let verb = request.verb();
        let token = self.shared.tokens().insert(request, Instant::now())?;
        Ok(format!("{scheme}://{}/{verb}/{token}", self.address))
    }

    /// Answers connections. Sessions end when this is dropped.
    pub async fn serve<B: Backend>(&self, backend: Arc<B>) {
        let _end = EndSessions(&self.shared);
        let mut strangers = JoinSet::new();
        let mut oldest = std::collections::VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = strangers.join_next() => continue,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of descriptors, most of the time: they come back.
                    tracing::warn!(%error, "a connection for exec, attach or port-forward was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            oldest.retain(|stranger: &tokio::task::AbortHandle| !stranger.is_finished());
            while oldest.len() >= STRANGERS
                && let Some(stranger) = oldest.pop_front()
            {
                stranger.abort();
            }
            let meet = http::meet(socket, self.tls.clone(), self.shared.clone(), backend.clone());
            oldest.push_back(strangers.spawn(async move {
                let _ = tokio::time::timeout(INTRODUCTION, meet).await;
            }));
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Shared {
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        // Nothing that holds the lock can panic half-way through a change.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a session beside all others.
    fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(session);
    }
}

/// Ends all sessions when it is dropped.
struct EndSessions<'a>(&'a Shared);

impl Drop for EndSessions<'_> {
    fn drop(&mut self) {
        self.0.tasks().abort_all();
    }
}
