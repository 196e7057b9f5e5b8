//! `exec`: another process in a container.

mod user;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process};
use rustix::io::Errno;
use vaquita_cgroup::{Cgroup, Layout};
use vaquita_runtime::{Context, ExecArgs, ExecPlan, Execed, ParentOf, document};
use vaquita_sys::signal::{self, Signal};

pub use self::user::User;
use crate::capabilities::{self, Document};
use crate::create::stdio;
use crate::foreground::Signals;
use crate::pid_file::PidFile;
use crate::start::SeccompAgent;
use crate::{Container, Error, Extra, Host, Id, Kind, Status, console, rootless};

/// How a process is run in a container.
#[derive(Debug)]
pub struct Exec {
    /// What is run.
    pub what: What,
    /// Return when it has been started.
    pub detach: bool,
    /// A file that gets the pid.
    pub pid_file: Option<PathBuf>,
    /// A socket that gets the master side of the terminal.
    pub console_socket: Option<PathBuf>,
    /// A socket that gets a pidfd.
    pub pidfd_socket: Option<PathBuf>,
    /// What the program has as descriptors 3, 4 and so on.
    pub extra: Extra,
    /// Groups below the container's: one `PATH` for all hierarchies, or several `CONTROLLER[,CONTROLLER...]:PATH`. None is
    /// the container's own.
    pub cgroup: Vec<String>,
    /// Run it in a paused container too; it starts when that is resumed.
    pub ignore_paused: bool,
}

/// What is run in a container.
#[derive(Debug)]
pub enum What {
    /// The process object in this file.
    File(PathBuf),
    /// The container's own process with changes.
    Like(Box<Changes>),
}

/// What is different from the container's own process.
#[derive(Debug, Default)]
pub struct Changes {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// Another user.
    pub user: Option<User>,
    /// More groups.
    pub additional_gids: Vec<u32>,
    /// Another working directory.
    pub cwd: Option<PathBuf>,
    /// More environment.
    pub env: Vec<String>,
    /// More capabilities.
    pub caps: Vec<String>,
    /// Set no_new_privs, if some; else as the container has it.
    pub no_new_privs: Option<bool>,
    /// Another SELinux label.
    pub process_label: Option<String>,
    /// Another AppArmor profile.
    pub apparmor: Option<String>,
}

/// Runs a process in a container and returns its exit code: 128 plus the signal for one that was killed, 0 with
/// `detach`.
///
/// # Errors
/// [`Kind::Status`] when the container has stopped or is paused; [`Kind::Exec`] when the program cannot be executed.
pub fn exec(host: &Host, id: &Id, how: &Exec) -> Result<i32, Error> {
    let container = Container::open(host, id)?;
    let status = container.status()?;
    match status {
        Status::Stopped | Status::Creating => {
            let message = format!("cannot exec in a {} container: container not running", status.as_str());
            return Err(Error::new(Kind::NotRunning, message));
        }
        Status::Paused if !how.ignore_paused => {
            let message = "cannot exec in a paused container: resume it, or use --ignore-paused";
            return Err(Error::new(Kind::Status, message));
        }
        _ => {}
    }
    let mut spec = container.spec()?;
    if rootless::is_needed()? {
        spec = rootless::from_inside(&spec)?;
        let init = container.init()?.ok_or_else(Error::not_running)?;
        if status == Status::Created {
            let message = "an ordinary user cannot enter a container before its program runs: start it first";
            return Err(Error::new(Kind::Status, message));
        }
        rootless::join(init.as_fd())?;
    }
    let (mut process, unknown) = match &how.what {
        What::File(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let parse = |bytes: &[u8]| document::parse::<Process>(&name, bytes);
            let (process, _, unknown) = Document::read(document::read(path)?, parse)?.split();
            (process, unknown)
        }
        What::Like(changes) => (changes.apply(spec.process().clone().unwrap_or_default())?, BTreeSet::new()),
    };
    let has_own_users = capabilities::has_own_users(&spec);
    capabilities::limit(host, &mut process, has_own_users, unknown)?;
    how.extra.announce(&mut process);
    check_console(how, process.terminal().unwrap_or_default())?;

    let context = Context {
        bundle: container.record.bundle.clone(),
        id: Some(container.id().to_string()),
        passes_listeners: true,
        ..Context::default()
    };
    let plan = ExecPlan::new(&process, &spec, &context)?;
    let signals = if how.detach { None } else { Some(Signals::take()?) };
    let cgroup = group(&container, &how.cgroup)?;
    let agent = SeccompAgent::of(&spec)?;
    let made = spawn(&container, &plan, &process, how, status, cgroup.as_ref());
    let Execed { pid, pidfd, started, console } = match made {
        // Of v2, a group with groups below it takes no process: the container has made some for itself.
        Err(error) if how.cgroup.is_empty() && error.errno() == Some(Errno::BUSY) => {
            let cgroup = group_of_init(&container)?;
            spawn(&container, &plan, &process, how, status, cgroup.as_ref())?
        }
        other => other?,
    };
    let told = (|| {
        started.wait_with(|listener| match agent {
            Some(agent) => agent.send(listener, &container, pid.as_raw_nonzero().get()),
            None => Ok(()),
        })?;
        if let Some(path) = &how.pidfd_socket {
            console::send_pidfd(path, pidfd.as_fd())?;
        }
        if let (Some(path), Some(master)) = (&how.console_socket, &console) {
            console::send_terminal(path, master)?;
        }
        how.pid_file.as_deref().map_or(Ok(()), |path| PidFile::open(path)?.write(pid.as_raw_nonzero().get()))
    })();
    if let Err(error) = told {
        let _ = signal::send(&pidfd, Signal::KILL);
        let _ = vaquita_sys::process::wait_pidfd(&pidfd);
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    let master = if how.console_socket.is_some() { None } else { console };
    signals.stay_with(&pidfd, master)
}

fn spawn(
    container: &Container,
    plan: &ExecPlan,
    process: &Process,
    how: &Exec,
    status: Status,
    cgroup: Option<&Cgroup>,
) -> Result<Execed, ExecError> {
    let init = container.init().map_err(ExecError::Own)?;
    let init = init.ok_or_else(Error::not_running).map_err(ExecError::Own)?;
    let args = ExecArgs {
        init: init.as_fd(),
        stdio: stdio(Some(process)).map_err(ExecError::Own)?,
        created: status == Status::Created,
        cgroup,
        extra_fds: how.extra.open().map_err(ExecError::Own)?,
        new_keyring: true,
        parent: ParentOf::Caller,
    };
    // Before it executes anything: what it would start first would never be counted.
    vaquita_runtime::exec_with(plan, args, |pid| match cgroup {
        Some(cgroup) => {
            let admitted = container.record.cgroup.admit(cgroup, pid.as_raw_nonzero().get());
            admitted.map_err(|error| ExecError::Own(error.into()))
        }
        None => Ok(()),
    })
}

/// With the number of the runtime's error.
enum ExecError {
    Own(Error),
    Runtime(vaquita_runtime::Error),
}

impl ExecError {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Own(_) => None,
            Self::Runtime(error) => error.errno(),
        }
    }
}

impl From<vaquita_runtime::Error> for ExecError {
    fn from(error: vaquita_runtime::Error) -> Self {
        Self::Runtime(error)
    }
}

impl From<ExecError> for Error {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Own(error) => error,
            ExecError::Runtime(error) => error.into(),
        }
    }
}

fn check_console(how: &Exec, has_terminal: bool) -> Result<(), Error> {
    match (has_terminal, &how.console_socket) {
        (true, None) if how.detach => Err(Error::invalid(
            "a terminal is asked for with --detach, and nobody would hold it: give --console-socket",
        )),
        (false, Some(_)) => Err(Error::invalid(
            "--console-socket is given, but no terminal is asked for (--tty, or terminal in the process file)",
        )),
        _ => Ok(()),
    }
}

/// The container's group, or those below it that are asked for.
fn group(container: &Container, asked: &[String]) -> Result<Option<Cgroup>, Error> {
    let own = container.cgroup()?;
    if asked.is_empty() {
        return Ok(own);
    }
    let own = own.ok_or_else(|| Error::invalid("--cgroup: the container has no cgroup"))?;
    let below = match places(asked)? {
        Places::All(path) => own.below(path),
        Places::Each(places) => own.below_each(&places),
    };
    below
        .map(Some)
        .map_err(|error| Error::from(error).while_doing(format_args!("--cgroup {}", asked.join(" "))))
}

/// Where below a container's group a process is to be.
#[derive(Debug, PartialEq)]
enum Places<'a> {
    All(&'a Path),
    Each(Vec<(&'a str, &'a Path)>),
}

/// One `PATH`, or several `CONTROLLER[,CONTROLLER...]:PATH`.
fn places(asked: &[String]) -> Result<Places<'_>, Error> {
    if let [path] = asked
        && !path.contains(':')
    {
        return Ok(Places::All(Path::new(path)));
    }
    let mut places: Vec<(&str, &Path)> = Vec::new();
    for text in asked {
        let Some((controllers, path)) = text.split_once(':') else {
            let why = "with several places each needs its controllers: CONTROLLER[,CONTROLLER...]:PATH";
            return Err(Error::invalid(format!("--cgroup {text}: {why}")));
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                let why = "a controller has no name: give CONTROLLER[,CONTROLLER...]:PATH, or PATH alone";
                return Err(Error::invalid(format!("--cgroup {text}: {why}")));
            }
            if places.iter().any(|(other, _)| *other == controller) {
                return Err(Error::invalid(format!("--cgroup {text}: {controller} is there twice")));
            }
            places.push((controller, Path::new(path)));
        }
    }
    Ok(Places::Each(places))
}

/// The v2 group that the first process is in now.
#[expect(clippy::disallowed_methods, reason = "the host's own /proc")]
fn group_of_init(container: &Container) -> Result<Option<Cgroup>, Error> {
    let pid = container.record.init.map_or(0, |init| init.pid);
    let path = format!("/proc/{pid}/cgroup");
    let text =
        std::fs::read_to_string(&path).map_err(|error| Error::io(format!("read({path:?})"), &error))?;
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::")) else { return Ok(None) };
    Ok(Some(Cgroup::open(&Layout::detect()?, Path::new(own))?))
}

impl Changes {
    fn apply(&self, mut process: Process) -> Result<Process, Error> {
        if self.args.is_empty() {
            return Err(Error::invalid("no program to execute is given"));
        }
        process.set_args(Some(self.args.clone())).set_terminal(Some(self.tty)).set_console_size(None);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(user) = self.user {
            user.apply(&mut process);
        }
        if !self.additional_gids.is_empty() {
            let mut user = process.user().clone();
            let mut gids = user.additional_gids().clone().unwrap_or_default();
            gids.extend(&self.additional_gids);
            user.set_additional_gids(Some(gids));
            process.set_user(user);
        }
        if !self.env.is_empty() {
            process.set_env(Some(self.environment(process.env().clone().unwrap_or_default())));
        }
        if let Some(value) = self.no_new_privs {
            process.set_no_new_privileges(Some(value));
        }
        if self.process_label.is_some() {
            process.set_selinux_label(self.process_label.clone());
        }
        if self.apparmor.is_some() {
            process.set_apparmor_profile(self.apparmor.clone());
        }
        self.add_capabilities(&mut process)?;
        Ok(process)
    }

    /// A name that is there already gets the new value.
    fn environment(&self, mut env: Vec<String>) -> Vec<String> {
        let name = |line: &str| line.split('=').next().unwrap_or_default().to_owned();
        for line in &self.env {
            let changed = name(line);
            env.retain(|other| name(other) != changed);
            env.push(line.clone());
        }
        env
    }

    fn add_capabilities(&self, process: &mut Process) -> Result<(), Error> {
        if self.caps.is_empty() {
            return Ok(());
        }
        let mut added = Capabilities::new();
        for name in &self.caps {
            let upper = name.to_ascii_uppercase();
            let known = upper.strip_prefix("CAP_").unwrap_or(&upper);
            let capability: Capability = serde_json::from_value(format!("CAP_{known}").into())
                .map_err(|_| Error::invalid(format!("--cap {name}: there is no such capability")))?;
            added.insert(capability);
        }
        let mut sets = process.capabilities().clone().unwrap_or_else(|| {
            let mut none = LinuxCapabilities::default();
            let empty = || Some(Capabilities::new());
            none.set_bounding(empty()).set_effective(empty()).set_permitted(empty());
            none.set_inheritable(empty()).set_ambient(empty());
            none
        });
        let with = |set: &Option<Capabilities>| {
            Some(set.iter().flatten().chain(&added).copied().collect::<Capabilities>())
        };
        let (bounding, effective, permitted) =
            (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        process.set_capabilities(Some(sets));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_process() {
        let read = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            places(&texts).map(|places| format!("{places:?}")).map_err(|error| error.to_string())
        };
        assert_eq!(read(&["/a/b"]).unwrap(), r#"All("/a/b")"#);
        assert_eq!(
            read(&["cpu,memory:a", "name=systemd:"]).unwrap(),
            r#"Each([("cpu", "a"), ("memory", "a"), ("name=systemd", "")])"#
        );
        for (texts, part) in [
            (&["a", "b"][..], "--cgroup a: with several places"),
            (&["cpu:a", "b"], "--cgroup b: with several places"),
            (&[":a"], "--cgroup :a: a controller has no name"),
            (&["cpu,:a"], "a controller has no name"),
            (&["cpu:a", "memory,cpu:b"], "cpu is there twice"),
        ] {
            let said = read(texts).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }
}
