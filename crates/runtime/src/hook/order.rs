//! Which hooks run when (runtime-spec, "Lifecycle"), and what they are told.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;

use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::process::Pid;
use serde_json::{Value, json};

use super::Container;
use crate::Error;

/// What hooks are told of a container beside how it stands.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The version of the runtime specification that the caller implements.
    pub version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// The directory with its `config.json`.
    pub bundle: &'a Path,
    /// Those of its configuration.
    pub annotations: &'a BTreeMap<String, String>,
}

impl About<'_> {
    /// The state as the specification has it ("State"): `status` is one of its words, `pid` is 0 where there is no process.
    #[must_use]
    pub fn state(&self, status: &str, pid: i32) -> Value {
        json!({
            "ociVersion": self.version,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        })
    }

    fn text(&self, status: &str, pid: i32) -> Vec<u8> {
        self.state(status, pid).to_string().into_bytes()
    }
}

/// Whether there are any, which takes a [`crate::Rendezvous`].
#[must_use]
pub fn has_any(spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| {
        let early = [hooks.prestart(), hooks.create_runtime(), hooks.create_container()];
        has_late(spec) || early.into_iter().any(is_filled)
    })
}

/// Whether there are any that run at the start or later.
#[must_use]
pub fn has_late(spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| {
        [hooks.start_container(), hooks.poststart(), hooks.poststop()].into_iter().any(is_filled)
    })
}

fn is_filled(list: &Option<Vec<Hook>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

/// `prestart`, `createRuntime` and `createContainer`, in the middle of the set-up ([`crate::Rendezvous::meet`]).
///
/// # Errors
/// The first failure, which ends the creation.
pub fn early(spec: &Spec, about: &About<'_>, (pid, pidfd): (Pid, BorrowedFd<'_>)) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let pid = pid.as_raw_nonzero().get();
    // The oldest hooks were made for a container that is created and about to be started; they are told so.
    let created = about.text("created", pid);
    hooks.prestart().iter().flatten().try_for_each(|hook| super::run(hook, &created))?;
    let state = about.text("creating", pid);
    hooks.create_runtime().iter().flatten().try_for_each(|hook| super::run(hook, &state))?;
    hooks.create_container().iter().flatten().try_for_each(|hook| super::run_inside(hook, &state, pidfd))
}

/// `startContainer`, before the program is executed.
///
/// # Errors
/// The first failure, which ends the container.
pub fn start_container(about: &About<'_>, pid: i32, container: &Container<'_>) -> Result<(), Error> {
    let list = container.spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    let state = about.text("created", pid);
    list.into_iter().flatten().try_for_each(|hook| super::run_as_container(hook, &state, container))
}

/// `poststart`, when the program has been executed. `failed` is told of each that fails, which changes nothing.
pub fn poststart(hooks: Option<&Hooks>, about: &About<'_>, pid: i32, failed: impl FnMut(Error)) {
    let list = hooks.and_then(|hooks| hooks.poststart().as_ref());
    run_all(list, &about.text("running", pid), failed);
}

/// `poststop`, when the container is deleted. `failed` is told of each that fails, which changes nothing.
pub fn poststop(hooks: Option<&Hooks>, about: &About<'_>, failed: impl FnMut(Error)) {
    let list = hooks.and_then(|hooks| hooks.poststop().as_ref());
    run_all(list, &about.text("stopped", 0), failed);
}

fn run_all(list: Option<&Vec<Hook>>, state: &[u8], failed: impl FnMut(Error)) {
    list.into_iter().flatten().filter_map(|hook| super::run(hook, state).err()).for_each(failed);
}
