//! Directories of NFS servers, mounted by the host's helper in a process of its own: a server that is dead holds up the pod that
//! wants it, and nothing else.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::mount::UnmountFlags;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};
use vaquita_sys::mount;

use super::system;
use crate::api::NFSVolumeSource;
use crate::{Error, Kind, Result};

/// What mounts (mount.nfs(8)).
const HELPER: &str = "mount.nfs";
/// How long the helper may take. It is tried again after that.
const LIMIT: Duration = Duration::from_secs(30);
/// How long what is dead may hold up its removal.
const UNMOUNT: Duration = Duration::from_secs(10);
/// Most bytes of what a helper says.
const WORDS: usize = 4096;

/// Mounts a server's directory at `target`, which is there, unless it is mounted already. `dirs` is where the helper may be.
///
/// # Errors
/// [`Kind::Unsupported`] without a helper, [`Kind::Timeout`], or what the helper said. Nothing is mounted then.
pub(super) async fn mount(dirs: &[PathBuf], source: &NFSVolumeSource, target: &Path) -> Result<()> {
    mount_within(LIMIT, dirs, source, target).await
}

async fn mount_within(
    limit: Duration,
    dirs: &[PathBuf],
    source: &NFSVolumeSource,
    target: &Path,
) -> Result<()> {
    // The table says it; to look at the directory itself would be to ask the server.
    if is_mounted(target)? {
        return Ok(());
    }
    let what = export(source)?;
    let helper = dirs.iter().map(|dir| dir.join(HELPER)).find(|path| path.is_file()).ok_or_else(|| {
        let message = format!(
            "mount {what}: there is no {HELPER} on this host; install nfs-common (Debian) or nfs-utils (Fedora)"
        );
        Error::new(Kind::Unsupported, message)
    })?;
    let mut command = Command::new(&helper);
    command.arg(&what).arg(target);
    if source.read_only {
        command.args(["-o", "ro"]);
    }
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
    command.process_group(0).kill_on_drop(true);
    let failed = |text: String| Error::new(Kind::Failed, format!("mount {what}: {text}"));
    let mut child = command.spawn().map_err(|error| failed(format!("{}: {error}", helper.display())))?;
    // Whoever gives up on the pod gives up on this, and on what it has started.
    let mut group = Group::of(&child);
    let words = Words::of(&mut child);
    let ended = tokio::time::timeout(limit, child.wait()).await;
    if ended.is_ok() {
        // Its number may be another's now.
        group.0 = None;
    }
    let words = words.text().await;
    match ended {
        Ok(Ok(status)) if status.success() => match is_mounted(target)? {
            true => Ok(()),
            false => Err(failed(format!("{HELPER} ended well and mounted nothing{words}"))),
        },
        Ok(Ok(status)) => Err(failed(format!("{HELPER}: {status}{words}"))),
        Ok(Err(error)) => Err(failed(format!("wait for {HELPER}: {error}"))),
        Err(_) => {
            drop(group);
            // One that hangs in the kernel is waited for in the background.
            let _ = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
            // It may have come to it in the last moment.
            let late = target.to_owned();
            let _ = tokio::task::spawn_blocking(move || unmount(&late)).await;
            let text = format!("the server did not answer within {} s{words}", limit.as_secs());
            Err(Error::new(Kind::Timeout, format!("mount {what}: {text}")))
        }
    }
}

/// Server and path, as the helper takes them.
fn export(source: &NFSVolumeSource) -> Result<String> {
    let NFSVolumeSource { server, path, .. } = source;
    // What comes first must not be read as an option.
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '%' | '[' | ']');
    if server.is_empty() || server.starts_with('-') || !server.chars().all(is_name) {
        return Err(Error::invalid(format!("{server:?} is no name of a server")));
    }
    if !path.starts_with('/') || path.contains(char::is_control) {
        return Err(Error::invalid(format!("{path:?} is no absolute path")));
    }
    let is_bare = server.contains(':') && !server.starts_with('[');
    Ok(if is_bare { format!("[{server}]:{path}") } else { format!("{server}:{path}") })
}

/// Unmounts what is at a path and is served by somebody else, at once and whatever still uses it. What the kernel has to clear up
/// with a server that is dead it does alone.
///
/// # Errors
/// The kernel refused, or takes longer than a little while, of which nobody knows how long.
pub(super) fn unmount(path: &Path) -> Result<()> {
    let (done, answer) = std::sync::mpsc::channel();
    let point = path.to_owned();
    let name = "unmount".to_owned();
    let spawned = std::thread::Builder::new().name(name).spawn(move || {
        let _ = done.send(mount::umount(&point, UnmountFlags::DETACH));
    });
    spawned.map_err(|error| Error::io("spawn a thread to unmount", path, &error))?;
    match answer.recv_timeout(UNMOUNT) {
        Ok(result) => result.map_err(|error| system(&error)),
        // It is out of the tree before the server is told.
        Err(_) if is_mounted(path).is_ok_and(|mounted| !mounted) => Ok(()),
        Err(_) => {
            let text = format!("unmount {}: the kernel waits for the server", path.display());
            Err(Error::new(Kind::Timeout, text))
        }
    }
}

/// Whether a filesystem is served by somebody who may not answer.
pub(super) fn is_remote(fs_type: &str) -> bool {
    fs_type.starts_with("nfs") || fs_type.starts_with("fuse")
}

fn is_mounted(path: &Path) -> Result<bool> {
    let all = mount::mountinfo().map_err(|error| system(&error))?;
    Ok(all.iter().any(|mount| mount.mount_point == path))
}

/// A helper and all that it has started: killed when dropped, as far as the kernel lets go of it.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// What a helper says, read while it runs so that it is never held up.
struct Words {
    heard: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Words {
    fn of(child: &mut Child) -> Self {
        let heard = Arc::default();
        let task = tokio::spawn(listen(child.stderr.take(), Arc::clone(&heard)));
        Self { heard, task }
    }

    /// With a colon in front, if there are any. A daemon that the helper has started may hold the pipe for ever.
    async fn text(mut self) -> String {
        if tokio::time::timeout(Duration::from_millis(200), &mut self.task).await.is_err() {
            self.task.abort();
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&heard);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
    }
}

async fn listen(pipe: Option<ChildStderr>, heard: Arc<Mutex<Vec<u8>>>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(read) = pipe.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let room = WORDS - heard.len();
        heard.extend_from_slice(&buffer[..read.min(room)]);
    }
}

#[cfg(test)]
mod tests;
