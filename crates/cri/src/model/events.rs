//! What happens to sandboxes and containers, for those who want to be told.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;
use vaquita_proto::cri::ContainerEventType;

use super::now;

/// How many events wait for a client that is slow. One that falls further behind is cut off, and has to list.
const QUEUE: usize = 1024;

/// Something that happened to a container, or to a sandbox as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    /// The container's id, or the sandbox's.
    pub(crate) id: String,
    /// The sandbox that it belongs to.
    pub(crate) sandbox: String,
    /// What happened.
    pub(crate) kind: ContainerEventType,
    /// Nanoseconds since 1970.
    pub(crate) at: i64,
}

/// Tells clients what happens, each of them everything in order. Never waits for one.
#[derive(Debug, Default)]
pub(crate) struct Events {
    listeners: Mutex<Vec<mpsc::Sender<Happened>>>,
}

impl Events {
    /// Everything that happens from now on. Ends when too much of it was not taken.
    pub(crate) fn listen(&self) -> mpsc::Receiver<Happened> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// Tells all who listen. Called where the change is made, under its lock: the order of events is that of changes.
    pub(crate) fn tell(&self, id: &str, sandbox: &str, kind: ContainerEventType) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.is_empty() {
            return;
        }
        let happened = Happened { id: id.to_owned(), sandbox: sandbox.to_owned(), kind, at: now() };
        listeners.retain(|listener| listener.try_send(happened.clone()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_listen_is_cut_off_and_nobody_else_is() {
        let events = Events::default();
        let (mut lazy, mut eager) = (events.listen(), events.listen());
        for number in 0..=QUEUE {
            events.tell(&number.to_string(), "pod", ContainerEventType::ContainerStartedEvent);
            assert_eq!(eager.try_recv().unwrap().id, number.to_string());
        }
        let taken = std::iter::from_fn(|| lazy.try_recv().ok()).count();
        assert_eq!(taken, QUEUE);
        assert!(lazy.is_closed() && !eager.is_closed());
    }
}
