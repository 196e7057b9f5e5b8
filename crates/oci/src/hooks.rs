//! Which hooks run when, and what follows from a failure (runtime-spec, "Lifecycle").

use std::os::fd::BorrowedFd;

use oci_spec::runtime::{Hook, Spec};
use rustix::process::Pid;
use vaquita_cgroup::Cgroup;
use vaquita_runtime::{Context, hook};

use crate::state::Record;
use crate::{Error, Host, Id, Status};

/// Whether there are any: they are announced to the runtime, which refuses a specification with hooks otherwise.
pub(crate) fn has_any(spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| {
        let (created, started) = (hooks.create_container(), hooks.start_container());
        [hooks.prestart(), hooks.create_runtime(), created, started, hooks.poststart(), hooks.poststop()]
            .iter()
            .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    })
}

/// `prestart`, `createRuntime` and `createContainer`, in the middle of the set-up. The first failure ends it.
pub(crate) fn early(
    spec: &Spec,
    record: &Record,
    id: &Id,
    (pid, pidfd): (Pid, BorrowedFd<'_>),
) -> Result<(), vaquita_runtime::Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let pid = pid.as_raw_nonzero().get();
    // The oldest hooks were made for a container that is created and about to be started; they are told so.
    let created = text(record, id, Status::Created, pid);
    hooks.prestart().iter().flatten().try_for_each(|hook| hook::run(hook, &created))?;
    let state = text(record, id, Status::Creating, pid);
    hooks.create_runtime().iter().flatten().try_for_each(|hook| hook::run(hook, &state))?;
    hooks.create_container().iter().flatten().try_for_each(|hook| hook::run_inside(hook, &state, pidfd))
}

/// `startContainer`, before the program is executed. The first failure ends it.
pub(crate) fn start_container(
    spec: &Spec,
    record: &Record,
    id: &Id,
    init: BorrowedFd<'_>,
    cgroup: Option<&Cgroup>,
) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let list: Vec<&Hook> = hooks.start_container().iter().flatten().collect();
    if list.is_empty() {
        return Ok(());
    }
    let pid = record.init.map_or(0, |init| init.pid);
    let state = text(record, id, Status::Created, pid);
    let context = Context {
        bundle: record.bundle.clone(),
        id: Some(id.to_string()),
        passes_listeners: true,
        ..Context::default()
    };
    let container = hook::Container { spec, context: &context, init, cgroup };
    for hook in list {
        hook::run_as_container(hook, &state, &container)
            .map_err(|error| Error::from(error).while_doing("startContainer"))?;
    }
    Ok(())
}

/// `poststart`, when the program has been executed. A failure is told, and changes nothing.
pub(crate) fn poststart(host: &Host, record: &Record, id: &Id) {
    let hooks = record.hooks.as_ref().and_then(|hooks| hooks.poststart().as_ref());
    let pid = record.init.map_or(0, |init| init.pid);
    run_and_tell(host, "poststart", hooks, &text(record, id, Status::Running, pid));
}

/// `poststop`, when the container is deleted. A failure is told, and changes nothing.
pub(crate) fn poststop(host: &Host, record: &Record, id: &Id) {
    let hooks = record.hooks.as_ref().and_then(|hooks| hooks.poststop().as_ref());
    run_and_tell(host, "poststop", hooks, &text(record, id, Status::Stopped, 0));
}

fn run_and_tell(host: &Host, name: &str, hooks: Option<&Vec<Hook>>, state: &[u8]) {
    for hook in hooks.into_iter().flatten() {
        if let Err(error) = hook::run(hook, state) {
            (host.warn)(&Error::from(error).while_doing(name));
        }
    }
}

fn text(record: &Record, id: &Id, status: Status, pid: i32) -> Vec<u8> {
    record.state(id, status, pid).to_string().into_bytes()
}
