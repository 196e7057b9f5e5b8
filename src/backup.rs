//! `vaquita backup` and `vaquita restore`: the objects of the cluster in one file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use vaquita_apiserver::client as api;
use vaquita_store::Store;

use crate::client;
use crate::daemon::{Busy, Lock};
use crate::options::Node;
use crate::terminal;
use crate::up::Place;

/// Saves the objects to a file that is not there yet: by the API where that runs, else from the store.
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
    match Lock::take(&config, false) {
        Ok(_lock) => {
            let store = Store::open(&place.store(), vaquita_store::Options::default())
                .with_context(|| format!("cannot open {}", place.store().display()))?;
            store.backup(file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Err(busy) if busy.is::<Busy>() => {
            let kubeconfig = std::fs::read_to_string(place.kubeconfig())
                .with_context(|| format!("{busy}, and {} cannot be read", place.kubeconfig().display()))?;
            client::block_on(download(&kubeconfig, file))?;
        }
        Err(error) => return Err(error),
    }
    done("Saved", file)
}

/// The file is there when it is whole.
async fn download(kubeconfig: &str, file: &Path) -> Result<()> {
    let mut name = file.file_name().context("the file has no name")?.to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let cannot = || format!("cannot write {}", part.display());
    let mut out =
        File::options().write(true).create_new(true).mode(0o600).open(&part).with_context(cannot)?;
    let fetched = api::fetch(kubeconfig, "/vaquita/v1/backup", |piece| out.write_all(piece)).await;
    let kept = fetched.map_err(anyhow::Error::from).and_then(|()| {
        out.sync_all().with_context(cannot)?;
        std::fs::rename(&part, file).with_context(cannot)
    });
    if kept.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    kept
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
