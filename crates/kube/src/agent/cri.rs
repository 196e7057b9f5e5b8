//! CRI calls: with time limits, and tried again while the server cannot be reached.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::client::Client;
use crate::event::EventKind;
use crate::{Error, Kind, Result};

/// The CRI server as one pod uses it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Cri {
    client: Client,
    link: Arc<Mutex<Link>>,
}

#[derive(Debug)]
struct Link {
    lost: bool,
    /// When calls stop being tried again.
    give_up: Option<Instant>,
    events: mpsc::UnboundedSender<EventKind>,
}

/// Time limit of calls that have no other, as the kubelet has it.
pub(super) const CALL: Duration = Duration::from_secs(120);

impl Cri {
    pub(super) fn new(client: Client, events: mpsc::UnboundedSender<EventKind>) -> Self {
        Self { client, link: Arc::new(Mutex::new(Link { lost: false, give_up: None, events })) }
    }

    /// From then on a server that cannot be reached is an error.
    pub(super) fn give_up_in(&self, time: Duration) {
        let at = Instant::now() + time;
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.give_up = Some(link.give_up.map_or(at, |earlier| earlier.min(at)));
    }

    /// Makes a call once.
    pub(super) async fn once<T, F>(
        &self,
        name: &str,
        limit: Option<Duration>,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let call = call(self.client.clone());
        let answer = match limit {
            Some(limit) => match tokio::time::timeout(limit, call).await {
                Ok(answer) => answer,
                Err(_) => {
                    let message =
                        format!("{name}: the CRI server did not answer within {} s", limit.as_secs());
                    return Err(Error::new(Kind::Timeout, message));
                }
            },
            None => call.await,
        };
        answer.map(Response::into_inner).map_err(|status| Error::status(name, &status))
    }

    /// Makes a call that may be repeated, until the server can be reached.
    pub(super) async fn call<T, F>(
        &self,
        name: &str,
        limit: Option<Duration>,
        call: impl Fn(Client) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut attempts = self.attempts();
        loop {
            let result = self.once(name, limit, &call).await;
            if let Some(result) = attempts.settle(result).await {
                return result;
            }
        }
    }

    /// Attempts at something, while the server cannot be reached.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts { cri: self, made: 0, delay: Duration::from_millis(100) }
    }

    fn found(&self) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut link.lost) {
            let _ = link.events.send(EventKind::Reconnected {});
        }
    }

    /// Notes that the server cannot be reached. Returns whether to give up.
    fn lost(&self, error: &Error) -> bool {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut link.lost, true) {
            let _ = link.events.send(EventKind::Disconnected { message: error.to_string() });
        }
        link.give_up.is_some_and(|at| Instant::now() >= at)
    }
}

/// Attempts at something that is tried again while the server cannot be reached.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    cri: &'a Cri,
    made: u32,
    delay: Duration,
}

impl Attempts<'_> {
    /// Whether something has been tried already, and nobody knows how far it came.
    pub(super) fn again(&self) -> bool {
        self.made > 0
    }

    /// The result, if it is one; otherwise waits (0.1 s to 3 s, longer each time) for the next attempt.
    pub(super) async fn settle<T>(&mut self, result: Result<T>) -> Option<Result<T>> {
        let error = match result {
            Err(error) if error.kind() == Kind::Unavailable => error,
            result => {
                self.cri.found();
                return Some(result);
            }
        };
        if self.cri.lost(&error) {
            return Some(Err(error));
        }
        tokio::time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(Duration::from_secs(3));
        self.made += 1;
        None
    }
}
