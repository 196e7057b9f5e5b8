//! The connection behind all clones of a client.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::transport::{self, Outgoing, RECEIVE_BUFFER, Stop};
use crate::wire::{self, Request, Response};
use crate::{Error, Event, Exit, Exited, Kind};

/// What the task that reads and all clones of a client share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The pod's directory, for errors.
    name: String,
    socket: AsyncFd<OwnedFd>,
    state: Mutex<State>,
}

/// Ends the task that reads when the last client goes.
#[derive(Debug)]
pub(super) struct Owner {
    shared: Arc<Shared>,
    reader: AbortHandle,
}

/// A response with its descriptors.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) fds: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    lost: bool,
    last_number: u32,
    waiting: HashMap<u32, oneshot::Sender<Answer>>,
    /// Who wants to know of the end of an exec session, by container and session.
    exits: HashMap<(String, String), oneshot::Sender<Exit>>,
    subscribers: Vec<mpsc::UnboundedSender<Event>>,
}

/// Forgets a request whose caller does not wait any more.
struct Forget<'a> {
    shared: &'a Shared,
    number: u32,
}

impl Owner {
    pub(super) fn new(pod_dir: &Path, socket: OwnedFd) -> Result<Self, Error> {
        let socket = watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        let name = pod_dir.display().to_string();
        let shared = Arc::new(Shared { name, socket, state: Mutex::default() });
        let reader = tokio::spawn(Arc::clone(&shared).read()).abort_handle();
        Ok(Self { shared, reader })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    pub(super) async fn call(&self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Result<Answer, Error> {
        let (sender, receiver) = oneshot::channel();
        let number = self.expect_answer(sender)?;
        let _forget = Forget { shared: self, number };
        let outgoing = Outgoing::new(request.code(), number, &request.encode(), fds)
            .map_err(|errno| Error::new(Kind::Invalid, format!("the request cannot be sent: {errno}")))?;
        // A packet goes whole or not at all, so many callers can send without a lock, and giving up does no harm.
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| Ok(outgoing.send(socket)?)).await;
        match sent {
            Ok(()) => {}
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::PIPE | Errno::CONNRESET)) => {
                return Err(self.lost());
            }
            Err(error) => return Err(Error::io(error, format_args!("send to the shim of {}", self.name))),
        }
        drop(outgoing);
        receiver.await.map_err(|_| self.lost())
    }

    /// The exit of the session that is about to be asked for.
    pub(super) fn expect_exit(
        &self,
        container: &str,
        exec_id: &str,
    ) -> Result<oneshot::Receiver<Exit>, Error> {
        let mut state = self.state();
        if state.lost {
            return Err(self.lost());
        }
        // Of those that never began, nobody waits any more.
        state.exits.retain(|_, waiting| !waiting.is_closed());
        let (sender, receiver) = oneshot::channel();
        let key = (container.to_owned(), exec_id.to_owned());
        if state.exits.contains_key(&key) {
            let message = format!("container {container} has an exec session {exec_id} already");
            return Err(Error::new(Kind::Exists, message));
        }
        state.exits.insert(key, sender);
        Ok(receiver)
    }

    pub(super) fn subscribe(&self) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state();
        if state.lost {
            let _ = sender.send(Event::Lost);
        } else {
            state.subscribers.push(sender);
        }
        receiver
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state().lost
    }

    fn expect_answer(&self, sender: oneshot::Sender<Answer>) -> Result<u32, Error> {
        let mut state = self.state();
        if state.lost {
            return Err(self.lost());
        }
        loop {
            // 0 is the number of events.
            state.last_number = state.last_number.checked_add(1).unwrap_or(1);
            let number = state.last_number;
            if let std::collections::hash_map::Entry::Vacant(entry) = state.waiting.entry(number) {
                entry.insert(sender);
                return Ok(number);
            }
        }
    }

    async fn read(self: Arc<Self>) {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let Ok(mut ready) = self.socket.readable().await else { break };
            match transport::receive(self.socket.get_ref(), &mut buffer) {
                Ok(incoming) => {
                    let (header, body) = (incoming.header, incoming.body.bytes());
                    if wire::is_event(header) {
                        // An event that we do not know comes from a newer shim: it is not for us.
                        if let Ok(event) = wire::decode_event(header, body) {
                            self.publish(event);
                        }
                    } else if let Ok(response) = Response::decode(header, body) {
                        self.answer(header.number, Answer { response, fds: incoming.fds });
                    } else {
                        break;
                    }
                }
                Err(Stop::Empty) => ready.clear_ready(),
                Err(Stop::Closed | Stop::Malformed(_)) => break,
            }
        }
        self.lose();
    }

    fn answer(&self, number: u32, answer: Answer) {
        let waiting = self.state().waiting.remove(&number);
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    fn publish(&self, event: Event) {
        let mut state = self.state();
        if let Event::Exited(Exited { id, exec_id: Some(exec_id), exit }) = &event
            && let Some(waiting) = state.exits.remove(&(id.clone(), exec_id.clone()))
        {
            let _ = waiting.send(exit.clone());
        }
        state.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    fn lose(&self) {
        let mut state = self.state();
        state.lost = true;
        for subscriber in state.subscribers.drain(..) {
            let _ = subscriber.send(Event::Lost);
        }
        // Who waits learns it from their sender being gone.
        state.waiting.clear();
        state.exits.clear();
    }

    fn lost(&self) -> Error {
        Error::new(Kind::Unavailable, format!("the connection to the shim of {} is lost", self.name))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets tokio watch a descriptor that it owns from now on.
#[expect(
    deprecated,
    reason = "the replacement is unsafe for types that may give up their descriptor; OwnedFd cannot"
)]
pub(super) fn watch(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, Error> {
    AsyncFd::with_interest(fd, interest).map_err(|error| Error::io(error, "watch a descriptor"))
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.state().waiting.remove(&self.number);
    }
}
