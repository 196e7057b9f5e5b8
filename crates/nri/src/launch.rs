//! Plugins that are programs of a directory: found, started with a connection, and ended.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::UnixStream;
use tokio::process::Child;

use crate::plugin::Name;
use crate::{Error, Kind, Result};

/// Where a program finds its connection.
const SOCKET: i32 = 3;
/// The longest configuration of a plugin.
const CONFIG: u64 = 1 << 20;
/// How long a killed process may take to be gone before it is left to itself: it hangs in the kernel.
const REAP: Duration = Duration::from_secs(5);

/// A program to start.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: Name,
    path: PathBuf,
    /// What it is told as its configuration.
    pub(crate) config: String,
}

/// A program that was started. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    group: Option<Pid>,
}

/// The programs of a directory; none if there is no such directory. Files that are not executable are not looked at.
///
/// # Errors
/// `Invalid` if others may write to the directory or a program, or a name is none of a plugin; `System`.
pub(crate) fn programs(dir: &Path, config_dir: Option<&Path>) -> Result<Vec<Program>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| Error::file("read", dir, error))?,
    };
    owned(dir)?;
    let mut programs = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::file("read", dir, error))?.path();
        let metadata = std::fs::metadata(&path).map_err(|error| Error::file("look at", &path, error))?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            continue;
        }
        owned(&path)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = Name::parse(&file)
            .map_err(|why| Error::new(Kind::Invalid, format!("{}: {why}", path.display())))?;
        let config = config_dir.map_or(Ok(String::new()), |dir| config(dir, &name))?;
        programs.push(Program { name, path, config });
    }
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

/// Only its owner may write to it, and that is us or root.
///
/// # Errors
/// `Invalid` if not; `System`.
pub(crate) fn owned(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::file("look at", path, error))?;
    let is_ours = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    match is_ours && metadata.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Invalid,
            format!(
                "others may write to {} (owner {}, mode {:o}): whoever does so would decide about containers",
                path.display(),
                metadata.uid(),
                metadata.mode() & 0o7777
            ),
        )),
    }
}

/// The configuration of a plugin: of its whole name, else of its name; else nothing.
fn config(dir: &Path, name: &Name) -> Result<String> {
    for file in [format!("{name}.conf"), format!("{}.conf", name.name)] {
        let path = dir.join(file);
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(|error| Error::file("look at", &path, error))?,
        };
        if !metadata.is_file() || metadata.len() > CONFIG {
            let message = format!("{} is no file of at most {CONFIG} bytes", path.display());
            return Err(Error::new(Kind::Invalid, message));
        }
        return std::fs::read_to_string(&path).map_err(|error| Error::file("read", &path, error));
    }
    Ok(String::new())
}

impl Program {
    /// Starts it, with nothing in its environment but who it is and where its connection is.
    ///
    /// # Errors
    /// `System`
    pub(crate) fn start(&self) -> Result<(Started, UnixStream)> {
        let failed = |error: std::io::Error| Error::file("start", &self.path, error);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed(errno.into()))?;
        let stream = stream(ours).map_err(failed)?;
        let mut command = tokio::process::Command::new(&self.path);
        command.env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("NRI_PLUGIN_NAME", &self.name.name).env("NRI_PLUGIN_IDX", &self.name.index);
        command.env("NRI_PLUGIN_SOCKET", SOCKET.to_string());
        vaquita_sys::process::pass_as(command.as_std_mut(), theirs, SOCKET)
            .map_err(|error| Error::file("start", &self.path, error))?;
        let child = command.spawn().map_err(failed)?;
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok((Started { child, group }, stream))
    }
}

fn stream(fd: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Started {
    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        self.group.map_or(0, |pid| pid.as_raw_nonzero().get())
    }

    /// Kills it with all that it has started in its process group, and waits until it is gone.
    pub(crate) async fn end(mut self) {
        self.kill();
        let _ = tokio::time::timeout(REAP, self.child.wait()).await;
    }

    fn kill(&mut self) {
        // Until it is waited for its number is nobody else's.
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn programs_are_found_in_order_with_their_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let confs = tempfile::tempdir().unwrap();
        for name in ["20-b", "10-z", "10-a"] {
            write(&dir.path().join(name), "", 0o755);
        }
        write(&dir.path().join("README"), "", 0o644);
        write(&confs.path().join("20-b.conf"), "whole", 0o644);
        write(&confs.path().join("b.conf"), "other", 0o644);
        write(&confs.path().join("z.conf"), "short", 0o644);
        let programs = programs(dir.path(), Some(confs.path())).unwrap();
        let found: Vec<_> =
            programs.iter().map(|program| (program.name.to_string(), program.config.as_str())).collect();
        let expected = [("10-a", ""), ("10-z", "short"), ("20-b", "whole")];
        assert_eq!(found, expected.map(|(name, config)| (name.to_owned(), config)));
    }

    #[test]
    fn a_directory_that_is_not_there_has_none() {
        assert!(programs(Path::new("/nonexistent/plugins"), None).unwrap().is_empty());
    }

    #[test]
    fn what_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("10-a");
        write(&program, "", 0o757);
        let error = programs(dir.path(), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("10-a"), "{error}");
        write(&program, "", 0o755);
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o775)).unwrap();
        assert_eq!(programs(dir.path(), None).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_program_with_another_name_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("plugin"), "", 0o755);
        let error = programs(dir.path(), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("10-name"), "{error}");
    }
}
