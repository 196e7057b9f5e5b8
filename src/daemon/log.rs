//! The daemon's own log, on standard error.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::options::Output;

/// Starts it, for the whole process.
pub(crate) fn start(format: Output, level: &str) -> Result<()> {
    let filter = EnvFilter::try_new(level)
        .with_context(|| format!("--log-level {level}: want a level or `info,vaquita_net=debug`"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let started = match format {
        Output::Json => builder.json().flatten_event(true).try_init(),
        Output::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    // A panic ends a call or a task, not the daemon: what it said belongs into the log.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let said = panic.payload_as_str().unwrap_or("no reason given");
        tracing::error!(place, panic = said, "a fault of vaquita: please report it");
    }));
    Ok(())
}
