//! Volumes of configuration as their sources are now, as long as the pod lives.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::tokens::Tokens;
use super::{make_all, nfs, payload, write};
use crate::agent::actions::Hands;
use crate::agent::context::Context;
use crate::api::Volume;
use crate::event::EventKind;
use crate::{Error, Result};

/// Between two looks: many changes at once are one.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest sleep with a token to renew: the wall clock may jump.
const LOOK: Duration = Duration::from_secs(60);
/// Between looks while something is wrong.
const RETRY: Duration = Duration::from_secs(10);

/// What the volumes of one pod need beside it.
#[derive(Debug, Default)]
pub(in crate::agent) struct Keeper {
    tokens: Tokens,
    /// One at a time writes the files.
    writing: Mutex<()>,
    /// The pod ends: nothing is waited for any more.
    given_up: CancellationToken,
}

/// Makes all volumes of a pod that are not there yet.
///
/// # Errors
/// What could not be looked up, or the volume that could not be made, and why.
pub(in crate::agent) async fn prepare(hands: &Hands) -> Result<()> {
    let hands = informed(hands).await?;
    let keeper = Arc::clone(&hands.volumes);
    hands
        .blocking(move |context| {
            let _alone = keeper.alone();
            make_all(context)
        })
        .await?;
    for volume in &hands.context.pod.spec.volumes {
        if let Some(source) = &volume.nfs {
            let target = hands.context.volume(&volume.name);
            let mounted = nfs::mount(&hands.context.config.helpers, source, &target);
            let given_up = || Err(Error::failed("the pod ends before its server has answered"));
            let mounted = hands.volumes.given_up.run_until_cancelled(mounted).await;
            mounted.unwrap_or_else(given_up).map_err(|error| error.of_volume(&volume.name))?;
        }
    }
    Ok(())
}

/// Writes anew what has changed, until nobody tells of the pod any more.
pub(in crate::agent) async fn keep(
    mut current: watch::Receiver<Hands>,
    told: mpsc::UnboundedSender<EventKind>,
) {
    // Volumes of a pod do not change: there is nothing to do, or there is for ever.
    if !current.borrow().context.pod.spec.volumes.iter().any(is_kept) {
        return;
    }
    let mut changed = current.borrow().objects.changed();
    let mut complaints: BTreeMap<String, String> = BTreeMap::new();
    loop {
        changed.mark_unchanged();
        let hands = current.borrow_and_update().clone();
        let found = refresh(&hands).await;
        for (volume, message) in &found {
            if complaints.get(volume) != Some(message) {
                let event = EventKind::VolumeFailed { volume: volume.clone(), message: message.clone() };
                let _ = told.send(event);
            }
        }
        complaints = found;
        let woken = async {
            tokio::select! {
                () = due(&hands.volumes, !complaints.is_empty()) => {}
                () = hands.volumes.tokens.renewed() => {}
                // Whose sender is gone never changes again.
                () = async { if changed.changed().await.is_err() { std::future::pending().await } } => {}
            }
        };
        tokio::select! {
            () = woken => {}
            other = current.changed() => if other.is_err() { return },
        }
        drop(hands);
        tokio::time::sleep(PAUSE).await;
        if current.has_changed().is_err() {
            return;
        }
    }
}

impl Keeper {
    /// Ends waiting for servers that do not answer: the pod is to end.
    pub(in crate::agent) fn give_up(&self) {
        self.given_up.cancel();
    }

    /// See [`super::remove_all`]. What is being written is waited for.
    pub(in crate::agent) fn remove_all(&self, root: &Path, uid: &str) -> Vec<String> {
        let _alone = self.alone();
        super::remove_all(root, uid)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when something has to be done though nothing has changed: a token is to be renewed, or what went wrong tried again.
async fn due(keeper: &Keeper, has_failed: bool) {
    let renew = async {
        while let Some(due) = keeper.tokens.due() {
            let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
        std::future::pending().await
    };
    let retry = async {
        match has_failed {
            true => tokio::time::sleep(RETRY).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = renew => {}
        () = retry => {}
    }
}

/// What the pod refers to, and its tokens, as they are now.
async fn informed(hands: &Hands) -> Result<Hands> {
    let hands = hands.informed().await?;
    let pod = &hands.context.pod;
    let tokens = hands.volumes.tokens.get(pod, &*hands.objects, Timestamp::now()).await;
    let tokens = tokens.map_err(|error| {
        let projects = |volume: &&Volume| {
            let projected = volume.projected.iter().flat_map(|projected| &projected.sources);
            projected.into_iter().any(|source| source.service_account_token.is_some())
        };
        let name = pod.spec.volumes.iter().find(projects).map(|volume| volume.name.clone());
        error.of_volume(&name.unwrap_or_default())
    })?;
    let objects = hands.context.objects.clone().with_tokens(tokens);
    let context = Context { objects, ..Context::clone(&hands.context) };
    Ok(Hands { context: Arc::new(context), ..hands })
}

/// Looks at every volume that is there. Returns what is wrong with which; those stay as they were.
async fn refresh(hands: &Hands) -> BTreeMap<String, String> {
    let one = |error: &Error| {
        let volume = error.volume().unwrap_or_default().to_owned();
        BTreeMap::from([(volume, error.message().to_owned())])
    };
    let hands = match informed(hands).await {
        Ok(hands) => hands,
        Err(error) => return one(&error),
    };
    let keeper = Arc::clone(&hands.volumes);
    let written = hands.blocking(move |context| {
        let _alone = keeper.alone();
        Ok(write_all(context))
    });
    written.await.unwrap_or_else(|error| one(&error))
}

fn write_all(context: &Context) -> BTreeMap<String, String> {
    let mut wrong = BTreeMap::new();
    for volume in context.pod.spec.volumes.iter().filter(|volume| is_kept(volume)) {
        let path = context.volume(&volume.name);
        // What is not there yet is made with the sandbox.
        if !write::is_written(&path) {
            continue;
        }
        let written = payload::of(context, volume).and_then(|payload| match payload {
            Some(payload) => write::write(&path, &payload, super::group(context)).map(drop),
            None => Ok(()),
        });
        if let Err(error) = written {
            wrong.insert(volume.name.clone(), error.message().to_owned());
        }
    }
    wrong
}

/// Whether a volume shows what may change.
fn is_kept(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

#[cfg(test)]
mod tests;
