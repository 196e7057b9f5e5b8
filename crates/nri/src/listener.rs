//! The socket that plugins connect to.

use std::collections::VecDeque;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::hub::{Hub, Newcomer};
use crate::launch::owned;
use crate::{Error, Kind, Result};

/// Connections that have not registered. One more takes the place of the oldest: a plugin registers in an instant.
const WAITING: usize = 16;
/// How long nobody is accepted after that failed: out of file descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket, which is removed with it.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

/// Those who have not registered, the oldest first.
#[derive(Clone, Debug, Default)]
struct Waiting {
    connections: Arc<Mutex<VecDeque<(u64, CancellationToken)>>>,
}

/// A place among them.
#[derive(Debug)]
struct Place {
    waiting: Waiting,
    number: u64,
}

impl Listener {
    /// Listens at `path`, for ourselves alone. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// `Busy` if another server does; `Invalid` if others may write to its directory; `System`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("{} is in no directory: give a whole path", path.display()))
        })?;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir).map_err(|error| Error::file("make", dir, error))?;
        owned(dir)?;
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::new(Kind::Busy, format!("another runtime listens on {}", path.display())));
        }
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(|error| Error::file("remove", path, error))?;
            }
            Ok(_) => return Err(Error::new(Kind::Invalid, format!("{} is no socket", path.display()))),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(|error| Error::file("listen on", path, error))?;
        let listener = Self { listener, path: path.to_owned() };
        // Whoever slips in between is looked at all the same.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| Error::file("set the mode of", path, error))?;
        Ok(listener)
    }

    /// Lets plugins in until the hub stops.
    pub(crate) async fn accept(self, hub: Arc<Hub>) {
        let waiting = Waiting::default();
        for number in 0.. {
            let accepted = tokio::select! {
                biased;
                () = hub.stopping.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "could not accept a plugin");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(pid) = peer(&stream) else { continue };
            let (place, displaced) = waiting.add(number);
            let newcomer = Newcomer { stream, pid, started: None, displaced };
            let (joined, _) = oneshot::channel();
            hub.tasks.spawn(Arc::clone(&hub).serve(newcomer, place, joined));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Waiting {
    fn add(&self, number: u64) -> (Place, CancellationToken) {
        let token = CancellationToken::new();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push_back((number, token.clone()));
        if connections.len() > WAITING
            && let Some((_, oldest)) = connections.pop_front()
        {
            oldest.cancel();
        }
        (Place { waiting: self.clone(), number }, token)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.waiting.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|(number, _)| *number != self.number);
    }
}

/// The process on the other side, if it is root's or has our user.
fn peer(stream: &UnixStream) -> Option<i32> {
    let peer = stream.peer_cred().ok()?;
    let is_ours = peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw();
    if !is_ours {
        debug!(uid = peer.uid(), "another user is no plugin");
    }
    is_ours.then(|| peer.pid().unwrap_or_default())
}
