//! `create`: from a bundle to a process that waits.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::io::Errno;
use rustix::process::Pid;
use vaquita_cgroup::{Cgroup, Layout, Location, Placed, Resources};
use vaquita_runtime::{
    Context, CreateArgs, Created, Meanwhile, ParentOf, Plan, Rendezvous, Stdio, document, hook, owner,
};
use vaquita_sys::fs::Draft;
use vaquita_sys::ns;
use vaquita_sys::signal::{self, Signal};
use vaquita_sys::socket::Listener;

use crate::capabilities::{self, Document};
use crate::extra::Extra;
use crate::pid_file::{self, PidFile};
use crate::rootless::Groups;
use crate::state::{CONFIG, FILES, Init, Record, START, STATE, stand_in};
use crate::store::Directory;
use crate::{Container, Error, Host, Id, console, rootless};

/// How a container is made.
#[derive(Debug, Default)]
pub struct Create {
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// A socket (`SOCK_STREAM`, unix(7)) that gets the master side of the terminal.
    pub console_socket: Option<PathBuf>,
    /// A file that gets the pid.
    pub pid_file: Option<PathBuf>,
    /// A socket that gets a pidfd.
    pub pidfd_socket: Option<PathBuf>,
    /// What the program has as descriptors 3, 4 and so on.
    pub extra: Extra,
    /// Leave it the caller's session keyring.
    pub no_new_keyring: bool,
    /// Do not exchange the root of the mount namespace: for a host that runs from a ramdisk.
    pub no_pivot: bool,
}

/// Makes a container, which waits to be started.
///
/// # Errors
/// [`crate::Kind::Exists`]; else what is wrong with the configuration or with what it asks for. Nothing is left behind.
pub fn create(host: &Host, id: &Id, how: &Create) -> Result<(), Error> {
    let request = Request::read(host, how)?;
    if request.has_terminal() && how.console_socket.is_none() {
        return Err(Error::invalid(
            "process.terminal is set, and nobody would hold the terminal: give --console-socket",
        ));
    }
    if !request.has_terminal() && how.console_socket.is_some() {
        return Err(Error::invalid(
            "--console-socket is given, but process.terminal is not set: nothing would be sent",
        ));
    }
    let made = make(host, id, how, &request, Start::Socket)?;
    made.created.start.release().map_err(Error::from)
}

/// A bundle that was read.
pub(crate) struct Request {
    pub(crate) bundle: PathBuf,
    config: Vec<u8>,
    pub(crate) spec: Spec,
    /// The process of `spec` is none of the configuration's.
    pub(crate) has_no_process: bool,
}

impl Request {
    pub(crate) fn read(host: &Host, how: &Create) -> Result<Self, Error> {
        let bundle = std::path::absolute(&how.bundle)
            .map_err(|error| Error::io(format!("getcwd() for {:?}", how.bundle), &error))?;
        let config = document::read(&bundle.join(CONFIG))?;
        let (mut spec, config, unknown) =
            Document::read(config, |bytes| document::parse_spec(CONFIG, bytes))?.split();
        let has_no_process = spec.process().is_none();
        if has_no_process {
            // Nothing but start needs one (runtime.md, "Start").
            spec.set_process(Some(stand_in()));
        }
        // Who is not root makes containers with users of their own, or none.
        let has_own_users = rootless::is_needed()? || capabilities::has_own_users(&spec);
        if let Some(process) = spec.process_mut() {
            capabilities::limit(host, process, has_own_users, unknown)?;
            how.extra.announce(process);
        }
        Ok(Self { bundle, config, spec, has_no_process })
    }

    /// What is to be made of it.
    pub(crate) fn plan(&self, id: &Id) -> Result<Plan, Error> {
        let context = Context {
            bundle: self.bundle.clone(),
            id: Some(id.to_string()),
            passes_listeners: true,
            ..Context::default()
        };
        let plan = Plan::new(&self.spec, &context)?;
        if !rootless::is_needed()? {
            return Ok(plan);
        }
        Ok(Plan::new(&rootless::from_inside(&self.spec)?, &context)?)
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(Process::terminal).unwrap_or_default()
    }

    fn rootfs(&self) -> Result<PathBuf, Error> {
        let root = self.spec.root().as_ref().ok_or_else(|| Error::invalid("config.json: root is missing"))?;
        if root.path().as_os_str() == OsStr::new("") {
            return Err(Error::invalid("config.json: root.path is empty"));
        }
        if root.path().as_os_str().as_bytes().contains(&0) {
            let message = format!("config.json: root.path {:?} has a NUL character", root.path());
            return Err(Error::invalid(message));
        }
        Ok(self.bundle.join(root.path()))
    }
}

/// Where a new process waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Start {
    /// On a socket that listens, for another process.
    Socket,
    /// For its maker.
    Here,
}

/// A container that was made, its directory locked.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) container: Container,
    pub(crate) created: Created,
    pub(crate) cgroup: Option<Cgroup>,
}

/// Makes a container. If that fails, all of it is taken back.
pub(crate) fn make(
    host: &Host,
    id: &Id,
    how: &Create,
    request: &Request,
    start: Start,
) -> Result<Made, Error> {
    let spec = &request.spec;
    let plan = request.plan(id)?;
    let is_rootless = rootless::is_needed()?;
    let mut container = prepare(host, id, request)?;
    let layout = Layout::detect();
    let placed = layout.map_err(Error::from).and_then(|layout| place(&mut container, &layout, spec, &plan));
    let mut placed = match placed {
        Ok(placed) => placed,
        Err(error) => return Err(unclean(error, crate::delete::forget(host, container))),
    };
    let entered = if is_rootless { rootless::enter(spec) } else { Ok(()) };
    match entered.and_then(|()| make_in(&mut container, how, request, &plan, start, &mut placed)) {
        Ok(created) => Ok(Made { container, created, cgroup: placed.into_cgroup() }),
        Err(error) => {
            drop(placed);
            Err(unclean(error, crate::delete::clear(host, container)))
        }
    }
}

/// Takes the id and writes down what is about to be made.
pub(crate) fn prepare(host: &Host, id: &Id, request: &Request) -> Result<Container, Error> {
    let record = record(host, id, request, rootless::groups(host)?)?;
    let directory = Directory::make(host, id)?;
    let written = directory
        .write_new(CONFIG, &request.config)
        .and_then(|()| record.encode())
        // In one step: what is there is whole, also when this process is killed.
        .and_then(|bytes| Ok(directory.draft(STATE, &bytes)?.publish()?));
    match written {
        Ok(()) => Ok(Container::locked(directory, record)),
        Err(error) => {
            let _ = directory.remove(FILES);
            Err(error)
        }
    }
}

/// Why something could not be made, and that it could not be taken back if so.
fn unclean(error: Error, undone: Result<(), Error>) -> Error {
    match undone {
        Ok(()) => error,
        Err(left) => {
            Error::new(error.kind(), format!("{error}; not all was taken back, use delete --force: {left}"))
        }
    }
}

/// Begins to make the cgroup with its limits, or makes nothing.
pub(crate) fn place(
    container: &mut Container,
    layout: &Layout,
    spec: &Spec,
    plan: &Plan,
) -> Result<Placed, Error> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let mut resources = resources.map_or_else(Resources::default, Resources::from);
    // With those that every container has: what systemd is told must not be less than what holds.
    resources.devices = Some(plan.device_rules().to_vec());
    let none = std::collections::HashMap::new();
    let annotations = spec.annotations().as_ref().unwrap_or(&none);
    Ok(container.record.cgroup.create(layout, &resources, annotations)?)
}

/// Makes what the record announces.
fn make_in(
    container: &mut Container,
    how: &Create,
    request: &Request,
    plan: &Plan,
    start: Start,
    placed: &mut Placed,
) -> Result<Created, Error> {
    let spec = &request.spec;
    let path = &container.record.rootfs;
    let open = || match plan.has_own_mounts() {
        true => vaquita_runtime::rootfs::open(path),
        false => vaquita_runtime::rootfs::open_directory(path),
    };
    let rootfs = match open() {
        // The mounts that this root of a user namespace sees are still those of others.
        Err(error) if error.errno() == Some(Errno::PERM) && ns::is_in_user_namespace()? => {
            rootless::take_mounts()?;
            open()?
        }
        other => other?,
    };
    let start_socket = match start {
        Start::Socket => Some(Listener::bind(container.directory.file(START))?),
        Start::Here => None,
    };
    let pid_file = how.pid_file.as_deref().map(PidFile::open).transpose()?;
    let Container { directory, record, .. } = container;
    let id = directory.id();
    let mut notes = None;
    let take_notes = |pid| notes = Some(Notes::take(directory, record, placed, pid_file.as_ref(), pid));
    let rendezvous = hook::has_any(spec).then(|| Rendezvous {
        root: &record.rootfs,
        meet: Box::new(|pid, pidfd| hook::early(spec, &record.about(id), (pid, pidfd))),
    });
    let args = CreateArgs {
        rootfs,
        stdio: stdio(spec.process().as_ref())?,
        join: Vec::new(),
        cgroup: placed.cgroup(),
        parent: ParentOf::Caller,
        rendezvous,
        meanwhile: Some(Meanwhile(Box::new(take_notes))),
        start_socket,
        extra_fds: how.extra.open()?,
        new_keyring: !how.no_new_keyring,
        no_pivot: how.no_pivot,
    };
    let created = vaquita_runtime::create(plan, args);
    // Also to remove them, if that has failed.
    record.cgroup.note_parents(placed);
    let created = created?;
    let done = (|| {
        let take = || Notes::take(directory, record, placed, pid_file.as_ref(), created.pid);
        let notes = notes.unwrap_or_else(take)?;
        let init = notes.init;
        placed.settle(init.pid)?;
        notes.state.replace()?;
        record.init = Some(init);
        owner::give(spec, plan.has_other_users(), placed.cgroup(), init.pid)?;
        if let Some((path, master)) = how.console_socket.as_ref().zip(created.console.as_ref()) {
            console::send_terminal(path, master)?;
        }
        if let Some(path) = &how.pidfd_socket {
            console::send_pidfd(path, created.pidfd.as_fd())?;
        }
        notes.pid_file.map_or(Ok(()), pid_file::publish)
    })();
    match done {
        Ok(()) => Ok(created),
        Err(error) => {
            // A child: a zombie would keep its cgroup.
            let _ = signal::send(&created.pidfd, Signal::KILL);
            let _ = vaquita_sys::process::wait_pidfd(&created.pidfd);
            Err(error)
        }
    }
}

/// What is written down of a new process. It is written while that sets itself up, and has its names when it is ready.
struct Notes<'a> {
    init: Init,
    state: Draft<'a>,
    pid_file: Option<Draft<'a>>,
}

impl<'a> Notes<'a> {
    fn take(
        directory: &'a Directory,
        record: &Record,
        placed: &Placed,
        pid_file: Option<&'a PidFile<'_>>,
        pid: Pid,
    ) -> Result<Self, Error> {
        let init = Init::new(pid)?;
        let mut record = Record { init: Some(init), ..record.clone() };
        record.cgroup.note_parents(placed);
        let state = directory.draft(STATE, &record.encode()?)?;
        let pid_file = pid_file.map(|file| file.draft(init.pid)).transpose()?;
        Ok(Self { init, state, pid_file })
    }
}

/// What is about to be made.
fn record(host: &Host, id: &Id, request: &Request, groups: Groups) -> Result<Record, Error> {
    let spec = &request.spec;
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let path = path.filter(|path| path.as_os_str() != OsStr::new(""));
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let has_own_pids = namespaces.iter().any(|namespace| {
        let joins = namespace.path().as_ref().is_some_and(|path| path.as_os_str() != OsStr::new(""));
        namespace.typ() == LinuxNamespaceType::Pid && !joins
    });
    let hooks = spec.hooks().as_ref();
    let has_start_hooks =
        hooks.is_some_and(|hooks| hooks.start_container().as_ref().is_some_and(|list| !list.is_empty()));
    let has_agent = linux.is_some_and(|linux| {
        linux.seccomp().as_ref().is_some_and(|seccomp| seccomp.listener_path().is_some())
    });
    let has_late_hooks = hooks.is_some_and(|hooks| hooks.poststart().is_some() || hooks.poststop().is_some());
    Ok(Record {
        rootfs: request.rootfs()?,
        bundle: request.bundle.clone(),
        created: jiff::Timestamp::now().to_string(),
        owner: rustix::process::geteuid().as_raw(),
        annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        cgroup: match groups {
            Groups::Root => Location::new(host.driver, path, id.as_str())?,
            Groups::Ordinary => Location::rootless(&Layout::detect()?, host.driver, path, id.as_str())?,
            Groups::AsGiven => {
                Location::in_user_namespace(&Layout::detect()?, host.driver, path, id.as_str())?
            }
        },
        init: None,
        shares_pids: !has_own_pids,
        has_start_work: has_start_hooks || has_agent,
        has_no_process: request.has_no_process,
        hooks: hooks.filter(|_| has_late_hooks).cloned(),
    })
}

/// The caller's own streams, or a terminal.
pub(crate) fn stdio(process: Option<&Process>) -> Result<Stdio, Error> {
    if process.and_then(Process::terminal).unwrap_or_default() {
        let limit = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        let asked = process.and_then(Process::console_size);
        let asked = asked.map(|size| (limit(size.height()), limit(size.width())));
        let (rows, columns) = asked.unwrap_or_default();
        return Ok(Stdio::Terminal { rows, columns });
    }
    let own = |fd: std::os::fd::BorrowedFd<'_>| -> Result<OwnedFd, Error> {
        fd.try_clone_to_owned().map_err(|error| Error::io("fcntl(<stdio>, F_DUPFD_CLOEXEC)", &error))
    };
    Ok(Stdio::Fds([
        own(std::io::stdin().as_fd())?,
        own(std::io::stdout().as_fd())?,
        own(std::io::stderr().as_fd())?,
    ]))
}
