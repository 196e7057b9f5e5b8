//! Devices of pods that are gone, deleted when nobody waits.
//!
//! Deleting one takes the kernel 60 to 200 ms. A thread does it that is there only while there is something to delete.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::netlink::Socket;
use crate::{Error, link};

/// The wait after a failure, doubled after each that follows it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// The names of devices that are to be deleted. With its end the thread stops after the one that it is about.
#[derive(Debug, Default)]
pub(super) struct Leaving(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<String>,
    /// Being deleted now.
    current: Option<String>,
    has_thread: bool,
    ended: bool,
}

impl Leaving {
    /// Has a device deleted, in the network namespace of the calling thread.
    pub(super) fn add(&self, name: String) -> Result<(), Error> {
        let mut state = self.0.state();
        if !state.has_thread {
            let socket = Socket::route()?;
            let shared = self.0.clone();
            let thread = thread::Builder::new().name("links".to_owned());
            thread
                .spawn(move || shared.work(&socket))
                .map_err(|error| Error::file("start a thread that deletes links", error))?;
            state.has_thread = true;
        }
        state.waiting.push_back(name);
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }

    /// Sees to it that the device is not deleted later: another is to have the name.
    pub(super) fn take_back(&self, name: &str) {
        let mut state = self.0.state();
        state.waiting.retain(|waiting| waiting != name);
        while state.current.as_deref() == Some(name) {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until nothing is left to be deleted, at most this long.
    pub(super) fn settle(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.0.state();
        while state.has_thread {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(links = ?state.waiting, "links of pods that are gone are left to the next start");
                return;
            }
            state = self.0.wait(state, left);
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn work(&self, socket: &Socket) {
        let mut pause = FIRST;
        let mut state = self.state();
        while !state.ended
            && let Some(name) = state.waiting.pop_front()
        {
            state.current = Some(name.clone());
            drop(state);
            let removed = link::remove(socket, &name);
            state = self.state();
            state.current = None;
            self.changed.notify_all();
            match removed {
                Ok(()) => pause = FIRST,
                Err(error) => {
                    tracing::warn!(%error, again_in = ?pause, "a link of a pod that is gone is not deleted yet");
                    state.waiting.push_back(name);
                    state = self.rest(state, pause);
                    pause = (pause * 2).min(LONGEST);
                }
            }
        }
        state.has_thread = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Lets the time pass, whatever else is added meanwhile: that would fail, too.
    fn rest<'a>(&self, mut state: MutexGuard<'a, State>, pause: Duration) -> MutexGuard<'a, State> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return state;
            }
            state = self.wait(state, left);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
