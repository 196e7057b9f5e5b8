//! The execution of one plugin: found, fed, listened to, and ended in any case.

use std::collections::VecDeque;
use std::io::{Error as IoError, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::{Map, Value};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;

use crate::leftovers::session;
use crate::outcome::{excerpt, refusal};
use crate::request::{Command, Scope};
use crate::{Error, Kind, Result};

/// The most that a plugin may print as its result.
const STDOUT: usize = 1 << 20;
/// How much of its messages is kept, the last of them.
const STDERR: usize = 8 << 10;
/// How long a killed process may take to be gone before it is left to itself: it hangs in the kernel.
const REAP: Duration = Duration::from_secs(5);
/// Tries to run a program that somebody has open for writing, 20 ms apart: it is being installed.
const BEING_WRITTEN: u32 = 50;
/// Where programs are looked for by plugins, when we were not told.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// In the environment of each plugin and of what it starts: whose they are. The value is the cache directory.
pub(crate) const MARK: &str = "VAQUITA_CNI";
/// In the environment of each plugin: our session. Who is in another has left it.
pub(crate) const SESSION: &str = "VAQUITA_CNI_SESSION";
/// In the environment of each plugin: which attachment it works on.
pub(crate) const CONTAINER: &str = "CNI_CONTAINERID";

/// Runs plugins.
#[derive(Debug)]
pub(crate) struct Runner {
    /// Where programs are, the first that has one wins.
    pub(crate) bin_dirs: Vec<PathBuf>,
    /// What says that a process is ours.
    pub(crate) mark: PathBuf,
}

impl Runner {
    /// The program of a plugin.
    #[expect(clippy::disallowed_methods, reason = "programs of the host")]
    pub(crate) fn find(&self, program: &str) -> Result<PathBuf> {
        // It was checked when the configuration was read; whatever changes there, nothing else is ever executed.
        crate::list::check_component("type", program)?;
        let paths = self.bin_dirs.iter().map(|dir| dir.join(program));
        paths.into_iter().find(|path| path.is_file()).ok_or_else(|| {
            let dirs: Vec<_> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
            Error::new(Kind::NotFound, format!("there is no plugin {program} in {}", dirs.join(", ")))
        })
    }

    /// Runs a plugin to its end, for at most `limit`, and returns what it printed. An error says which plugin and command it is of.
    pub(crate) async fn run(
        &self,
        program: &str,
        command: Command,
        scope: &Scope,
        input: &Map<String, Value>,
        limit: Duration,
    ) -> Result<Vec<u8>> {
        let path = self.find(program)?;
        let failed = |error: Error| error.within(format_args!("plugin {program} ({})", command.name()));
        let system = |what: &str, error: IoError| {
            failed(Error::new(Kind::System, format!("could not {what} {}: {error}", path.display())))
        };
        let input = serde_json::to_vec(input).map_err(|error| failed(Error::invalid(error.to_string())))?;
        let mut child = self.spawn(&path, command, scope).await.map_err(|error| system("run", error))?;
        let Some(mut group) = Group::of(&child, command) else {
            return Err(system("run", ErrorKind::NotFound.into()));
        };
        let said = tokio::time::timeout(limit, converse(&mut child, &mut group, &input)).await;
        if !matches!(said, Ok(Ok(Heard { status: Some(_), .. }))) {
            group.kill();
            let _ = tokio::time::timeout(REAP, child.wait()).await;
        }
        group.is_over();
        let said = match said {
            Ok(result) => result.map_err(|error| system("talk to", error))?,
            Err(_) => {
                let message = format!("was killed because it did not end within {} s", limit.as_secs_f32());
                return Err(failed(Error::new(Kind::Timeout, message)));
            }
        };
        said.judge().map_err(failed)
    }

    async fn spawn(&self, path: &Path, command: Command, scope: &Scope) -> std::io::Result<Child> {
        let mut process = tokio::process::Command::new(path);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.process_group(0).current_dir("/");
        for (name, _) in std::env::vars_os() {
            let bytes = name.as_encoded_bytes();
            // Our own conversation with the service manager is not theirs.
            if bytes.starts_with(b"CNI_") || bytes.starts_with(b"LISTEN_") || bytes == b"NOTIFY_SOCKET" {
                process.env_remove(name);
            }
        }
        if std::env::var_os("PATH").is_none() {
            process.env("PATH", PATH);
        }
        let bins = std::env::join_paths(&self.bin_dirs).map_err(IoError::other)?;
        process.env("CNI_COMMAND", command.name()).env("CNI_PATH", bins).env(MARK, &self.mark);
        process.env(SESSION, session("self")?);
        for (name, value) in [
            (CONTAINER, scope.container_id.as_ref()),
            ("CNI_NETNS", scope.netns.as_os_str()),
            ("CNI_IFNAME", scope.interface.as_ref()),
            ("CNI_ARGS", scope.args.as_ref()),
        ] {
            process.env(name, value);
        }
        for _ in 0..BEING_WRITTEN {
            match process.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
        process.spawn()
    }
}

/// Whoever is in the process group of a plugin.
struct Group {
    leader: Option<Pid>,
    /// Whether it may be killed in the middle: one that changes nothing.
    is_harmless: bool,
}

impl Group {
    fn of(child: &Child, command: Command) -> Option<Self> {
        let leader = Pid::from_raw(child.id()?.try_into().ok()?)?;
        let is_harmless = matches!(command, Command::Check | Command::Status | Command::Version);
        Some(Self { leader: Some(leader), is_harmless })
    }

    /// Only while its leader was not waited for: the number cannot be another's until then.
    fn kill(&mut self) {
        if let Some(pid) = self.leader {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    fn is_over(&mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    /// The operation is given up, as when the server ends. What changes something goes on, to be waited for by who takes it back.
    fn drop(&mut self) {
        if self.is_harmless {
            self.kill();
        }
    }
}

/// What a plugin has said, and how it ended. No end: it said too much and runs still.
#[derive(Debug, Default)]
struct Heard {
    stdout: Vec<u8>,
    stderr: VecDeque<u8>,
    status: Option<ExitStatus>,
}

impl Heard {
    fn judge(self) -> Result<Vec<u8>> {
        let Some(status) = self.status else {
            return Err(Error::new(
                Kind::Corrupt,
                format!("was killed because it printed more than {STDOUT} bytes"),
            ));
        };
        let stderr: Vec<u8> = self.stderr.into();
        if status.success() {
            if !stderr.is_empty() {
                tracing::debug!(said = excerpt(&stderr), "a plugin had something to say");
            }
            return Ok(self.stdout);
        }
        Err(refusal(&self.stdout, &stderr, &format!("ended with {status}")))
    }

    /// Takes what is there. Says whether more can come.
    fn take_stdout(&mut self, from: &Receiver) -> std::io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        match from.try_read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.stdout.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes what is there and forgets what is older. Says whether more can come.
    fn take_stderr(&mut self, from: &Receiver) -> std::io::Result<bool> {
        let mut buffer = [0; STDERR];
        match from.try_read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.stderr.extend(&buffer[..count]);
                self.stderr.drain(..self.stderr.len().saturating_sub(STDERR));
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn is_too_much(&self) -> bool {
        self.stdout.len() > STDOUT
    }
}

/// Feeds a plugin and listens until it ends. What it has started and not waited for is killed then, and what is in the pipes
/// is read without waiting for those who left the group and hold them open.
async fn converse(child: &mut Child, group: &mut Group, input: &[u8]) -> std::io::Result<Heard> {
    let gone = || IoError::from(ErrorKind::BrokenPipe);
    let mut stdin = child.stdin.take();
    let stdout = Receiver::from_owned_fd(child.stdout.take().ok_or_else(gone)?.into_owned_fd()?)?;
    let stderr = Receiver::from_owned_fd(child.stderr.take().ok_or_else(gone)?.into_owned_fd()?)?;
    let pid = group.leader.ok_or_else(gone)?;
    let exited = watch(pidfd_open(pid, PidfdFlags::empty())?)?;
    let mut write = std::pin::pin!(async {
        if let Some(stdin) = &mut stdin {
            // A plugin need not read it: what it says of that is its result.
            let _ = stdin.write_all(input).await;
        }
        stdin = None;
        std::future::pending::<()>().await;
    });
    let mut heard = Heard::default();
    let (mut out_is_open, mut err_is_open) = (true, true);
    while !heard.is_too_much() {
        tokio::select! {
            ended = exited.readable() => {
                drop(ended?);
                group.kill();
                while out_is_open && !heard.is_too_much() {
                    let before = heard.stdout.len();
                    out_is_open = heard.take_stdout(&stdout)? && heard.stdout.len() > before;
                }
                // A pipe holds eight of these; who left the group may fill it for ever.
                for _ in 0..16 {
                    err_is_open = err_is_open && heard.take_stderr(&stderr)?;
                }
                if !heard.is_too_much() {
                    heard.status = Some(child.wait().await?);
                    group.is_over();
                }
                break;
            }
            ready = stdout.readable(), if out_is_open => {
                ready?;
                out_is_open = heard.take_stdout(&stdout)?;
            }
            ready = stderr.readable(), if err_is_open => {
                ready?;
                err_is_open = heard.take_stderr(&stderr)?;
            }
            () = &mut write => {}
        }
    }
    Ok(heard)
}

/// Lets tokio say when a process has ended; it is not waited for by that.
#[expect(
    deprecated,
    reason = "the replacement is unsafe for types that may give up their descriptor; OwnedFd cannot"
)]
fn watch(pidfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}
