//! What readers, watchers and the writer share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

use crate::state::{Event, State};

/// The state, and who waits for it to change.
#[derive(Debug)]
pub(crate) struct Memory {
    state: RwLock<State>,
    /// By resource, so that a change wakes only who looks at its kind.
    bells: Mutex<HashMap<Box<str>, Arc<Notify>>>,
    is_closed: AtomicBool,
}

/// Bells that are kept although nobody may listen to them any more.
const IDLE_BELLS: usize = 256;

impl Memory {
    pub(crate) fn new(state: State) -> Self {
        Self { state: RwLock::new(state), bells: Mutex::default(), is_closed: AtomicBool::new(false) }
    }

    /// The state as of the last commit. Never held over anything that waits.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is durable, forgets the oldest changes, and tells who waits.
    pub(crate) fn advance(&self, events: &[Event], forget: usize) {
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.forget(forget);
            for event in events {
                state.apply(event.clone());
            }
        }
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rung: Vec<&str> = Vec::new();
        for event in events {
            let resource = event.change.entry.key.resource();
            if !rung.contains(&resource) {
                rung.push(resource);
                if let Some(bell) = bells.get(resource) {
                    bell.notify_waiters();
                }
            }
        }
    }

    /// What rings when something of a resource has changed.
    pub(crate) fn bell(&self, resource: &str) -> Arc<Notify> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(resource) {
            return Arc::clone(bell);
        }
        if bells.len() >= IDLE_BELLS {
            bells.retain(|_, bell| Arc::strong_count(bell) > 1);
        }
        let bell = Arc::default();
        bells.insert(resource.into(), Arc::clone(&bell));
        bell
    }

    /// Nothing will change any more.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        for bell in self.bells.lock().unwrap_or_else(PoisonError::into_inner).values() {
            bell.notify_waiters();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}
