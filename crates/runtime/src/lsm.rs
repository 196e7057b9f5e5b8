//! Labels of security modules, which a program gets on execve.

use std::ffi::CString;

use rustix::fs::{Mode, OFlags};
use vaquita_sys::procfs::Procfs;
use vaquita_sys::selinux;

use crate::Error;
use crate::plan::label;
use crate::plan::process::ProcessPlan;
use crate::steps::Step;

/// What is to be written below /proc/self/attr, where the security module is there that it is for.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    on_exec: Vec<(CString, Vec<u8>)>,
    /// Before the process makes its session keyring: what runs with the label has no access to one with the maker's.
    keyring: Option<(CString, Vec<u8>)>,
}

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
        let mut labels = Self::default();
        if let Some(profile) = apparmor {
            if apparmor_runs() {
                // apparmor(7), aa_change_onexec(2).
                labels
                    .on_exec
                    .push((label("self/attr/apparmor/exec"), format!("exec {profile}").into_bytes()));
            } else if profile != "unconfined" {
                return Err(Error::unsupported(format!(
                    "process.apparmorProfile: {profile:?} needs AppArmor, which this kernel does not run ({APPARMOR} is not Y)"
                )));
            }
        }
        if let Some(context) = selinux {
            if !selinux::is_enabled() {
                return Err(Error::unsupported(format!(
                    "process.selinuxLabel: {context:?} needs SELinux, which this kernel does not run (no {})",
                    selinux::PLACE
                )));
            }
            check_selinux("process.selinuxLabel", context)?;
            // proc_pid_attr(5), setexeccon(3), setkeycreatecon(3). execve forgets both.
            labels.on_exec.push((label("self/attr/exec"), context.as_bytes().to_vec()));
            labels.keyring = Some((label("self/attr/keycreate"), context.as_bytes().to_vec()));
        }
        Ok(labels)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.on_exec.is_empty()
    }

    /// What the program gets.
    pub(crate) fn steps<'a>(&'a self, procfs: &'a Procfs) -> impl Iterator<Item = Step<'a>> {
        write(self.on_exec.iter(), procfs)
    }

    /// A session keyring (keyrings(7)), that the program may use.
    pub(crate) fn new_keyring<'a>(&'a self, procfs: Option<&'a Procfs>) -> impl Iterator<Item = Step<'a>> {
        procfs.into_iter().flat_map(|procfs| write(self.keyring.iter(), procfs)).chain([Step::NewKeyring])
    }
}

fn write<'a>(
    labels: impl Iterator<Item = &'a (CString, Vec<u8>)>,
    procfs: &'a Procfs,
) -> impl Iterator<Item = Step<'a>> {
    labels.map(move |(file, value)| Step::WriteProc { procfs, file: file.clone(), value })
}

/// # Errors
/// [`crate::Kind::Invalid`] for a label that the loaded policy does not have.
pub(crate) fn check_selinux(field: &str, context: &str) -> Result<(), Error> {
    if selinux::has_label(context) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{field}: {context:?} is no label of the SELinux policy that this host has loaded"
    )))
}

const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

#[expect(clippy::disallowed_methods, reason = "a file of the host's own sysfs")]
fn apparmor_runs() -> bool {
    let mut answer = [0];
    rustix::fs::open(APPARMOR, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut answer))
        .is_ok()
        && answer == *b"Y"
}
