//! Supplementary groups, which cannot be set everywhere.
//!
//! An ordinary user who makes a user namespace without help may not drop groups there, because a group may be what keeps
//! somebody out of a file (user_namespaces(7), "The /proc/pid/setgroups file"). The process keeps the caller's then.

use rustix::io::Errno;
use rustix::process::Pid;
use vaquita_sys::ns;
use vaquita_sys::procfs::Procfs;

use crate::Error;
use crate::plan::process::ProcessPlan;
use crate::steps::Step;

/// How the groups are set in the user namespace of `pid`, or of the caller: not at all where that is denied and none are
/// asked for.
///
/// # Errors
/// [`crate::Kind::Unsupported`] where it is denied and some are asked for.
pub(crate) fn step(process: &ProcessPlan, pid: Option<Pid>) -> Result<Option<Step<'_>>, Error> {
    let step = Some(Step::SetGroups(&process.groups));
    if pid.is_none() && !ns::is_in_user_namespace()? {
        return Ok(step);
    }
    let of = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let said = match Procfs::host()?.read(format!("{of}/setgroups"), 16) {
        // Before Linux 3.19 nothing was denied.
        Err(error) if error.errno() == Errno::NOENT => return Ok(step),
        other => other?,
    };
    if !said.starts_with(b"deny") {
        return Ok(step);
    }
    if process.groups.is_empty() {
        return Ok(None);
    }
    Err(Error::unsupported(format!(
        "process.user.additionalGids: {:?} cannot be set in a user namespace that an ordinary user made alone, where \
         setgroups(2) is denied; map more than the own group, with newgidmap, or ask for none",
        process.groups
    )))
}
