//! The shim process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

/// Runs the shim of the pod whose directory this is, until it is told to shut down or its sandbox is deleted.
///
/// `listener` is the socket that clients connect to, listening already; [`crate::client::Spawner`] passes it as
/// standard input, from where `None` takes it.
pub fn main(pod_dir: &Path, listener: Option<OwnedFd>) -> ExitCode {
    let _ = (pod_dir, listener);
    ExitCode::FAILURE
}
