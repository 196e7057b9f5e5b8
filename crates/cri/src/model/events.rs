//! What happens to sandboxes and containers, for those who want to be told.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use vaquita_proto::cri::ContainerEventType;

use super::{Sandbox, now};

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
    /// The sandbox, where this was its end and nobody can look it up any more.
    pub(crate) last: Option<Arc<Sandbox>>,
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
        self.send(|| Happened {
            id: id.to_owned(),
            sandbox: sandbox.to_owned(),
            kind,
            at: now(),
            last: None,
        });
    }

    /// The same of a sandbox that is forgotten now. kubelet ignores what is told of a sandbox without its status.
    pub(crate) fn tell_end(&self, sandbox: Arc<Sandbox>) {
        let id = sandbox.id().to_owned();
        let kind = ContainerEventType::ContainerDeletedEvent;
        self.send(|| Happened { sandbox: id.clone(), id, kind, at: now(), last: Some(sandbox) });
    }

    fn send(&self, happened: impl FnOnce() -> Happened) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.is_empty() {
            return;
        }
        let happened = happened();
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
