//! What ends a run from outside.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT.
pub(crate) const INTERRUPT: u8 = 2;

/// SIGINT, SIGTERM, and SIGHUP: a terminal that closes must not leave pods behind.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let ask = |kind| signal(kind).context("cannot ask for signals");
        Ok(Self {
            hangup: ask(SignalKind::hangup())?,
            interrupt: ask(SignalKind::interrupt())?,
            terminate: ask(SignalKind::terminate())?,
        })
    }

    /// The number of the next one.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.hangup.recv() => 1,
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => 15,
        }
    }
}
