//! What follows from a failure of a hook, and what is told of the container.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::Spec;
use vaquita_cgroup::Cgroup;
use vaquita_runtime::{Context, hook};

use crate::state::Record;
use crate::{Error, Host, Id};

/// `startContainer`, before the program is executed. The first failure ends it.
pub(crate) fn start_container(
    spec: &Spec,
    record: &Record,
    id: &Id,
    init: BorrowedFd<'_>,
    cgroup: Option<&Cgroup>,
) -> Result<(), Error> {
    let context = Context {
        bundle: record.bundle.clone(),
        id: Some(id.to_string()),
        passes_listeners: true,
        ..Context::default()
    };
    let container = hook::Container { spec, context: &context, init, cgroup };
    hook::start_container(&record.about(id), pid(record), &container)
        .map_err(|error| Error::from(error).while_doing("startContainer"))
}

/// `poststart`, when the program has been executed. A failure is told, and changes nothing.
pub(crate) fn poststart(host: &Host, record: &Record, id: &Id) {
    hook::poststart(record.hooks.as_ref(), &record.about(id), pid(record), |error| {
        (host.warn)(&Error::from(error).while_doing("poststart"));
    });
}

/// `poststop`, when the container is deleted. A failure is told, and changes nothing.
pub(crate) fn poststop(host: &Host, record: &Record, id: &Id) {
    hook::poststop(record.hooks.as_ref(), &record.about(id), |error| {
        (host.warn)(&Error::from(error).while_doing("poststop"));
    });
}

fn pid(record: &Record) -> i32 {
    record.init.map_or(0, |init| init.pid)
}
