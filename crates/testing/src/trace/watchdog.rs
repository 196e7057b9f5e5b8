//! Ends what does not end by itself.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

/// Kills all processes it was told of, unless it is stopped in time.
pub(super) struct Watchdog {
    processes: Arc<Mutex<Vec<OwnedFd>>>,
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    pub(super) fn new(patience: Duration) -> Self {
        let processes = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel();
        let all = processes.clone();
        let thread = std::thread::spawn(move || {
            let is_late = stopped.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if is_late {
                for process in all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    // It may have ended.
                    let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
                }
            }
            is_late
        });
        Self { processes, stop, thread }
    }

    pub(super) fn watch(&self, process: OwnedFd) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).push(process);
    }

    /// Whether it had to act, and all processes.
    pub(super) fn stop(self) -> (bool, Vec<OwnedFd>) {
        drop(self.stop);
        let is_late = self.thread.join().unwrap_or(true);
        let processes = std::mem::take(&mut *self.processes.lock().unwrap_or_else(PoisonError::into_inner));
        (is_late, processes)
    }
}
