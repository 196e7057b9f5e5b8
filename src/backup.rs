//! `vaquita backup` and `vaquita restore`: the objects of the cluster in one file.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use vaquita_store::Store;

use crate::client;
use crate::daemon::Lock;
use crate::options::Node;
use crate::terminal;
use crate::up::Place;

/// Saves the objects to a file that is not there yet.
pub(crate) fn backup(node: &Node, file: &Path) -> Result<ExitCode> {
    client::need_root("a backup")?;
    let config = node.config()?;
    let place = Place::of(&config);
    if !place.store().exists() {
        bail!("{} is not there: there is no cluster to save", place.store().display());
    }
    if file.exists() {
        bail!("{} is there already: name another file", file.display());
    }
    let _lock = Lock::take(&config, false)?;
    let store = Store::open(&place.store(), vaquita_store::Options::default())
        .with_context(|| format!("cannot open {}", place.store().display()))?;
    store.backup(file).with_context(|| format!("cannot write {}", file.display()))?;
    done("Saved", file)
}

/// Puts a backup in the place of what is there.
pub(crate) fn restore(node: &Node, file: &Path) -> Result<ExitCode> {
    client::need_root("restoring a backup")?;
    let config = node.config()?;
    let place = Place::of(&config);
    let _lock = Lock::take(&config, false).context("the daemon has to end first")?;
    if let Some(dir) = place.store().parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Store::restore(file, &place.store()).with_context(|| format!("cannot restore {}", file.display()))?;
    done("Restored", file)
}

fn done(what: &str, file: &Path) -> Result<ExitCode> {
    terminal::out(&format!("{what} {}\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}
