//! Hooks of containers that this program makes itself, and what else belongs to their ends.
//!
//! Copies of the shim run them (`creator`), so that a hook that takes its time holds up its own container only. A
//! container without hooks never comes here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{Hook, Spec};
use vaquita_cgroup::{Cgroup, Layout};
use vaquita_runtime::{Context, StartHandle, hook, resctrl};
use vaquita_sys::signal::Signal;

use super::connection::Asker;
use super::container::{Phase, Start};
use super::creator::{Purpose, Target, read_spec};
use super::requests::send;
use super::{Server, complain, now_ns};
use crate::{Error, Kind};

/// How many seconds a hook has that names no `timeout`: a client would wait for ever.
const PATIENCE_S: i64 = 100;
/// What it is told of the specification that is implemented.
const SPEC_VERSION: &str = "1.3.0";

/// What the hooks of a container are told.
pub(super) struct Told<'a> {
    id: &'a str,
    target: &'a Target,
    annotations: BTreeMap<String, String>,
}

impl<'a> Told<'a> {
    pub(super) fn new(id: &'a str, target: &'a Target, spec: &Spec) -> Self {
        let annotations = spec.annotations().iter().flatten();
        Self { id, target, annotations: annotations.map(|(k, v)| (k.clone(), v.clone())).collect() }
    }

    pub(super) fn about(&self) -> hook::About<'_> {
        hook::About {
            version: SPEC_VERSION,
            id: self.id,
            bundle: &self.target.bundle,
            annotations: &self.annotations,
        }
    }
}

/// Gives every hook a time to end in.
pub(super) fn limit(spec: &mut Spec) {
    let Some(hooks) = spec.hooks_mut() else { return };
    let limit = |list: &mut Option<Vec<Hook>>| {
        for hook in list.iter_mut().flatten().filter(|hook| hook.timeout().is_none()) {
            hook.set_timeout(Some(PATIENCE_S));
        }
    };
    limit(hooks.prestart_mut());
    limit(hooks.create_runtime_mut());
    limit(hooks.create_container_mut());
    limit(hooks.start_container_mut());
    limit(hooks.poststart_mut());
    limit(hooks.poststop_mut());
}

/// Runs those that come before the program is executed.
fn before_start(
    id: &str,
    target: &Target,
    layout: &Layout,
    (pid, init): (i32, BorrowedFd<'_>),
) -> Result<(), Error> {
    let spec = limited_spec(target)?;
    let context = target.context(id);
    let cgroup = Cgroup::open(layout, &target.cgroup_path)?;
    let container = hook::Container { spec: &spec, context: &context, init, cgroup: Some(&cgroup) };
    let told = Told::new(id, target, &spec);
    hook::start_container(&told.about(), pid, &container)
        .map_err(Error::from)
        .map_err(|error| Error::new(error.kind(), format!("startContainer: {error}")))
}

fn after_start(id: &str, target: &Target, pid: i32) -> Result<(), Error> {
    let spec = limited_spec(target)?;
    let told = Told::new(id, target, &spec);
    hook::poststart(spec.hooks().as_ref(), &told.about(), pid, |error| {
        complain(format_args!("container {id}: poststart: {error}"));
    });
    Ok(())
}

/// Runs those that come when all of a container is gone, and takes its class of resctrl away.
pub(super) fn at_the_end(id: &str, target: &Target) -> Result<(), Error> {
    let spec = limited_spec(target)?;
    let told = Told::new(id, target, &spec);
    hook::poststop(spec.hooks().as_ref(), &told.about(), |error| {
        complain(format_args!("container {id}: poststop: {error}"));
    });
    Ok(resctrl::remove(&spec, id)?)
}

fn limited_spec(target: &Target) -> Result<Spec, Error> {
    let mut spec = read_spec(&target.bundle)?;
    limit(&mut spec);
    Ok(spec)
}

impl Target {
    /// What its specification depends on.
    pub(super) fn context(&self, id: &str) -> Context {
        Context {
            bundle: self.bundle.clone(),
            id: Some(id.to_owned()),
            restrict_oom_score_adj: self.restrict_oom_score_adj,
            ..Context::default()
        }
    }
}

impl Server {
    /// Begins to start a container with hooks. It waits until they have ended.
    pub(super) fn start_after_hooks(
        &mut self,
        asker: Asker,
        at: usize,
        handle: StartHandle,
    ) -> Result<(), Error> {
        let container = &mut self.containers[at];
        container.phase = Phase::Preparing(handle);
        let gone = || Error::new(Kind::State, "the container has ended");
        let process = container.process.as_ref().ok_or_else(gone)?;
        let init = process.pidfd.try_clone().map_err(|error| Error::io(error, "dup"))?;
        let (id, target, pid) = (container.id.clone(), container.target.clone(), process.pid);
        let layout = self.layout.clone();
        let purpose = Purpose::BeforeStart { id: id.clone() };
        let begun = self.begin_job(asker, purpose, vec![init], move |fds: Vec<OwnedFd>| {
            let init = fds.first().ok_or_else(|| Error::new(Kind::Corrupt, "a descriptor got lost"))?;
            before_start(&id, &target, &layout, (pid, init.as_fd())).map(|()| None)
        });
        if begun.is_err() {
            self.give_up_start(at);
        }
        begun
    }

    /// They have ended: the container may go, or must.
    pub(super) fn hooks_before_start_ended(&mut self, asker: Asker, id: &str, result: Result<(), Error>) {
        let Ok(at) = self.find(id) else {
            return self.reply_error(asker, &Error::new(Kind::NotFound, format!("container {id} is gone")));
        };
        let result =
            result.and_then(|()| match std::mem::replace(&mut self.containers[at].phase, Phase::Running) {
                Phase::Preparing(handle) => self.release(asker, at, handle),
                other => {
                    self.containers[at].phase = other;
                    Err(Error::new(Kind::State, format!("container {id} ended before it was started")))
                }
            });
        if let Err(error) = result {
            self.give_up_start(at);
            self.reply_error(asker, &error);
        }
    }

    /// It stops, as one does that could not execute its program.
    fn give_up_start(&mut self, at: usize) {
        let container = &mut self.containers[at];
        if let Phase::Preparing(_) = container.phase {
            container.phase = Phase::Running;
        }
        container.started_at_ns = 0;
        let _ = send(container.process.as_ref(), Signal::KILL);
    }

    /// Lets a container go.
    pub(super) fn release(&mut self, asker: Asker, at: usize, handle: StartHandle) -> Result<(), Error> {
        let token = self.new_token();
        let released = self.watch(&handle, token).and_then(|()| Ok(handle.release()?));
        // Without having been released it ends by itself when the handle goes.
        released?;
        self.containers[at].started_at_ns = now_ns();
        self.containers[at].phase = Phase::Starting(Start { token, handle, asker });
        Ok(())
    }

    /// Its program is executed: who started it hears of that when the hooks for that have ended, which can fail as they like.
    pub(super) fn tell_after_hooks(&mut self, asker: Asker, at: usize) {
        let container = &self.containers[at];
        let (id, target) = (container.id.clone(), container.target.clone());
        let pid = container.process.as_ref().map_or(0, |process| process.pid);
        let purpose = Purpose::AfterStart { id: id.clone() };
        let begun = self
            .begin_job(asker, purpose, Vec::new(), move |_| after_start(&id, &target, pid).map(|()| None));
        if let Err(error) = begun {
            self.hooks_after_start_ended(asker, Err(error));
        }
    }

    pub(super) fn hooks_after_start_ended(&mut self, asker: Asker, result: Result<(), Error>) {
        if let Err(error) = result {
            complain(format_args!("hooks did not run: poststart: {error}"));
        }
        self.reply_result(asker, Ok(()));
    }
}
