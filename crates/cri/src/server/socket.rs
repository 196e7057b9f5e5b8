//! The unix socket: who may connect, and how many have.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;
use tokio_stream::Stream;

use super::clients::{self, Clients};
use super::connection::Connection;
use crate::error::Doing;
use crate::paths::{keep_private, make_dir, remove_socket};
use crate::{Error, Kind, Result};

/// A listening socket that nobody else has.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    clients: Clients,
}

impl Socket {
    /// Listens at `path`, in a directory that only we may enter. A socket that nobody listens on any more is replaced.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let doing = || format!("listen on {}", path.display());
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::new(Kind::Busy, format!("another server listens on {}", path.display())));
        }
        remove_socket(path).map_err(|error| error.within(doing()))?;
        // Nobody can slip in between: until the modes are set the peers are checked all the same.
        let listener = UnixListener::bind(path).doing(doing)?;
        keep_private(path).map_err(|error| error.within(doing()))?;
        Ok(Self { listener, path: path.to_owned(), clients: Clients::default() })
    }

    /// The counter of its connections.
    pub(super) fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// The connections, as they come. Those of other users are closed at once.
    pub(super) fn connections(self) -> impl Stream<Item = std::io::Result<Connection>> {
        Connections { socket: self, pause: None, full: false }
    }
}

/// How long nobody is accepted after that failed: out of file descriptors, say, which others will give back.
const PAUSE: Duration = Duration::from_millis(100);

struct Connections {
    socket: Socket,
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether it has been said that there is no room.
    full: bool,
}

impl Stream for Connections {
    type Item = std::io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            let room = std::task::ready!(self.socket.clients.poll_room(context));
            match std::task::ready!(self.socket.listener.poll_accept(context)) {
                Ok((stream, _)) if may_connect(&stream) && room => {
                    self.full = false;
                    return Poll::Ready(Some(Ok(Connection::new(stream, &self.socket.clients))));
                }
                Ok((stream, _)) if may_connect(&stream) => {
                    if !std::mem::replace(&mut self.full, true) {
                        let calls = clients::LIMIT;
                        tracing::warn!(
                            "connections are refused: there are {calls}, each with a call under way"
                        );
                    }
                }
                Ok(_) => tracing::warn!("a connection of another user was refused"),
                Err(error) => {
                    let socket = self.socket.path.display();
                    tracing::warn!(%error, %socket, "a connection could not be accepted");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}

/// Root, or whoever we run as (`SO_PEERCRED`, unix(7)).
fn may_connect(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}
