//! Labels of security modules, which a program gets on execve.

use std::ffi::CString;

use rustix::fs::{Mode, OFlags};
use vaquita_sys::procfs::Procfs;

use crate::Error;
use crate::plan::label;
use crate::plan::process::ProcessPlan;
use crate::steps::Step;

/// What is to be written below /proc/self/attr, where the security module is there that it is for.
#[derive(Debug, Default)]
pub(crate) struct Labels(Vec<(CString, Vec<u8>)>);

impl Labels {
    /// # Errors
    /// [`crate::Kind::Unsupported`] for a label of a security module that this kernel does not run.
    pub(crate) fn new(process: &ProcessPlan) -> Result<Self, Error> {
        Self::of(process.apparmor.as_deref(), process.selinux.as_deref())
    }

    /// The same for an AppArmor profile and an SELinux label.
    ///
    /// # Errors
    /// As [`Labels::new`].
    pub(crate) fn of(apparmor: Option<&str>, selinux: Option<&str>) -> Result<Self, Error> {
        let mut labels = Vec::new();
        if let Some(profile) = apparmor {
            if apparmor_runs() {
                // apparmor(7), aa_change_onexec(2).
                labels.push((label("self/attr/apparmor/exec"), format!("exec {profile}").into_bytes()));
            } else if profile != "unconfined" {
                return Err(Error::unsupported(format!(
                    "process.apparmorProfile: {profile:?} needs AppArmor, which this kernel does not run ({APPARMOR} is not Y)"
                )));
            }
        }
        if let Some(context) = selinux {
            if !is_there(SELINUX) {
                return Err(Error::unsupported(format!(
                    "process.selinuxLabel: {context:?} needs SELinux, which this kernel does not run (no {SELINUX})"
                )));
            }
            // selinux(8), setexeccon(3).
            labels.push((label("self/attr/exec"), context.as_bytes().to_vec()));
        }
        Ok(Self(labels))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn steps<'a>(&'a self, procfs: &'a Procfs) -> impl Iterator<Item = Step<'a>> {
        self.0.iter().map(move |(file, value)| Step::WriteProc { procfs, file: file.clone(), value })
    }
}

const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
/// Made when SELinux is running (selinuxfs's place).
const SELINUX: &str = "/sys/fs/selinux";

#[expect(clippy::disallowed_methods, reason = "a file of the host's own sysfs")]
fn apparmor_runs() -> bool {
    let mut answer = [0];
    rustix::fs::open(APPARMOR, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut answer))
        .is_ok()
        && answer == *b"Y"
}

#[expect(clippy::disallowed_methods, reason = "a directory of the host's own sysfs")]
fn is_there(path: &str) -> bool {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_ok()
}
