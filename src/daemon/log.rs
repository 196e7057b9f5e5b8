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
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
