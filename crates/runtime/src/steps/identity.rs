//! Steps that change who the process is, and the last one: execve.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Access, AtFlags, CWD, Mode};
use rustix::io::Errno;
use vaquita_sys::cap::{self, CapSet, Capability, Sets};
use vaquita_sys::process::{self, CStrArray};

use super::{At, Failure, State, fail};
use crate::plan::process::ProgramFile;
use crate::seccomp::Program;

pub(super) fn await_id_maps(state: &State<'_>) -> Result<(), Failure> {
    match crate::handshake::await_word(state.socket) {
        Ok(()) => Ok(()),
        Err(errno) => fail("recv", errno),
    }
}

pub(super) fn become_root() -> Result<(), Failure> {
    process::set_gid(0).at("setresgid")?;
    process::set_uid(0).at("setresuid")?;
    // Changing the user makes a process dumpable or not by itself.
    process::set_dumpable(false).at("prctl")
}

pub(super) fn new_keyring() -> Result<(), Failure> {
    match process::join_session_keyring(None) {
        // A kernel without keyrings has none to keep apart.
        Ok(()) | Err(Errno::NOSYS) => Ok(()),
        Err(errno) => fail("keyctl", errno),
    }
}

pub(super) fn set_umask(mask: u32) -> Result<(), Failure> {
    rustix::process::umask(Mode::from_raw_mode(mask));
    Ok(())
}

/// Becomes the user, with what is needed to set capabilities and a filter afterwards.
pub(super) fn set_uid(uid: u32, sets: &Sets) -> Result<(), Failure> {
    process::set_keep_caps(true).at("prctl(PR_SET_KEEPCAPS)")?;
    cap::set_bounding(sets.bounding).at("prctl(PR_CAPBSET_DROP)")?;
    process::set_uid(uid).at("setresuid")?;
    process::set_keep_caps(false).at("prctl(PR_SET_KEEPCAPS)")?;
    // A filter without no_new_privs needs CAP_SYS_ADMIN until it is there.
    let held = CapSet(sets.permitted.0 | sets.effective.0).with(Capability::SYS_ADMIN);
    cap::set(held, held, sets.inheritable).at("capset")
}

pub(super) fn set_capabilities(sets: &Sets) -> Result<(), Failure> {
    cap::set(sets.effective, sets.permitted, sets.inheritable).at("capset")?;
    cap::set_ambient(sets.ambient).at("prctl(PR_CAP_AMBIENT)")
}

pub(super) fn install_filter(state: &State<'_>, program: &Program) -> Result<(), Failure> {
    let listener = vaquita_sys::seccomp::install(program.instructions(), program.flags()).at("seccomp")?;
    match listener {
        None => Ok(()),
        Some(listener) => crate::handshake::say_listener(state.starter(), listener.as_fd()).at("sendmsg"),
    }
}

/// With the rights that the process has during its set-up: what only those of its program forbid comes out later.
pub(super) fn look_for_program(program: &ProgramFile) -> Result<(), Failure> {
    let mut worst = Errno::NOENT;
    for candidate in &program.candidates {
        match rustix::fs::accessat(CWD, candidate, Access::EXEC_OK, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::ACCESS) if program.search.is_some() => worst = Errno::ACCESS,
            Err(errno) => return fail("", errno),
        }
    }
    fail("", worst)
}

/// Returns only when none of the candidates could be executed.
pub(super) fn execute(
    program: &ProgramFile,
    arguments: &CStrArray,
    environment: &CStrArray,
) -> Result<(), Failure> {
    let mut worst = Errno::NOENT;
    for candidate in &program.candidates {
        match process::execveat(CWD, candidate, arguments, environment, 0) {
            Errno::NOENT | Errno::NOTDIR => {}
            // There, but not to be executed: a later directory may have a better one.
            Errno::ACCESS if program.search.is_some() => worst = Errno::ACCESS,
            errno => return fail("", errno),
        }
    }
    fail("", worst)
}

pub(super) fn execute_file(
    file: BorrowedFd<'_>,
    arguments: &CStrArray,
    environment: &CStrArray,
) -> Result<(), Failure> {
    fail("", process::execveat(file, c"", arguments, environment, 0))
}
