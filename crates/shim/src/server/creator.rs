//! Making processes: the work of a short-lived copy of the shim.
//!
//! The copy may allocate, parse JSON and wait as much as it likes; its memory goes with it. What it makes is a child of
//! the shim (`CLONE_PARENT`), of which it sends pid and descriptors back, or why there is none. It is the one that asks systemd
//! for scopes, and waits for them; the shim never does.

mod place;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Process as ProcessSpec, Spec,
};
use rustix::event::epoll;
use rustix::fs::{FileType, Uid};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use vaquita_cgroup::{Cgroup, Layout, Resources};
use vaquita_runtime::{
    Context, CreateArgs, ExecArgs, ExecPlan, ParentOf, Plan, Rendezvous, Stdio, Surroundings, document, hook,
    sandbox,
};
use vaquita_sys::ns;
use vaquita_sys::process::fork_worker;

use self::place::Place;
use super::connection::Asker;
use super::container::kinds;
use super::{Server, hooks};
use crate::transport::{self, Outgoing};
use crate::wire::{Failure, Response};
use crate::{CreateRequest, Error, IdMap, Kind, Namespaces, OciRuntime, SandboxRequest, disk};

/// A copy at work.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) token: u64,
    socket: OwnedFd,
    pub(super) pid: i32,
    pub(super) worker: OwnedFd,
    asker: Asker,
    pub(super) purpose: Purpose,
}

/// What a copy makes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    Sandbox,
    Container {
        id: String,
    },
    Exec {
        container: String,
        exec_id: String,
    },
    /// What follows is done by other runtimes, whose containers these are.
    Start {
        id: String,
    },
    /// Hooks of containers that the shim makes.
    BeforeStart {
        id: String,
    },
    AfterStart {
        id: String,
    },
    Signal {
        id: String,
    },
    Erase {
        id: String,
    },
}

/// What a copy has made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// What else there is, in an order that the purpose knows.
    pub(super) others: Vec<OwnedFd>,
}

/// The ends of a container's standard streams that its process gets.
#[derive(Debug)]
pub(super) enum Streams {
    Fds([OwnedFd; 3]),
    Terminal,
}

/// The container that a process is run in.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) bundle: PathBuf,
    pub(super) cgroup_path: PathBuf,
    pub(super) join: Namespaces,
    /// Whom its users are on the host, if they are not the host's.
    pub(super) uid_maps: Vec<IdMap>,
    pub(super) restrict_oom_score_adj: bool,
    pub(super) runtime: Option<OciRuntime>,
    /// It has hooks for its start or its end, or a class of resctrl.
    pub(super) has_late_work: bool,
}

impl Target {
    pub(super) fn of(request: &CreateRequest, uid_maps: &[IdMap]) -> Self {
        Self {
            bundle: request.bundle.clone(),
            cgroup_path: request.cgroup.clone(),
            join: request.join,
            uid_maps: uid_maps.to_vec(),
            restrict_oom_score_adj: request.restrict_oom_score_adj,
            runtime: request.runtime.clone(),
            has_late_work: request.has_late_work,
        }
    }
}

impl Purpose {
    /// The container that it is about.
    pub(super) fn container(&self) -> Option<&str> {
        match self {
            Self::Sandbox => None,
            Self::Container { id }
            | Self::Start { id }
            | Self::BeforeStart { id }
            | Self::AfterStart { id }
            | Self::Signal { id }
            | Self::Erase { id } => Some(id),
            Self::Exec { container, .. } => Some(container),
        }
    }
}

impl Server {
    /// Starts a copy with `fds` that does `work`.
    pub(super) fn begin_job(
        &mut self,
        asker: Asker,
        purpose: Purpose,
        mut fds: Vec<OwnedFd>,
        work: impl FnOnce(Vec<OwnedFd>) -> Result<Option<Made>, Error>,
    ) -> Result<(), Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(|errno| Error::kernel(errno, "socketpair"))?;
        fds.push(theirs);
        let token = self.new_token();
        let (pid, worker) = fork_worker(fds, |mut fds| match fds.pop() {
            Some(socket) => report(&socket, work(fds)),
            None => 1,
        })?;
        // Without being watched its result would never be seen: better none.
        if let Err(error) = self.watch(&socket, token) {
            let _ = vaquita_sys::signal::send(&worker, vaquita_sys::signal::Signal::KILL);
            return Err(error);
        }
        let pid = pid.as_raw_nonzero().get();
        self.jobs.push(Job { token, socket, pid, worker, asker, purpose });
        Ok(())
    }

    /// The copy of that token, if there is one, has reported or died.
    pub(super) fn finish_job(&mut self, token: u64) -> bool {
        let Some(at) = self.jobs.iter().position(|job| job.token == token) else { return false };
        let job = self.jobs.swap_remove(at);
        let _ = epoll::delete(&self.epoll, &job.socket);
        let result = self.result(&job);
        let pid = result.as_ref().ok().and_then(Option::as_ref).map_or(0, |made| made.pid);
        let made = |result: Result<Option<Made>, Error>| result?.ok_or_else(died);
        let done = |result: Result<Option<Made>, Error>| result.map(drop);
        match &job.purpose {
            Purpose::Start { id } => self.started_elsewhere(job.asker, id, done(result)),
            Purpose::BeforeStart { id } => self.hooks_before_start_ended(job.asker, id, done(result)),
            Purpose::AfterStart { .. } => self.hooks_after_start_ended(job.asker, done(result)),
            Purpose::Signal { id } => self.signalled_elsewhere(job.asker, id, done(result)),
            Purpose::Erase { id } => self.erased_elsewhere(id, done(result)),
            Purpose::Sandbox => self.sandbox_made(job.asker, made(result)),
            Purpose::Container { id } => self.container_made(job.asker, id, made(result)),
            Purpose::Exec { container, exec_id } => {
                self.exec_made(job.asker, container, exec_id, made(result));
            }
        }
        // It may have ended before we knew that it is ours.
        if let Some(at) = self.strays.iter().position(|(stray, _)| *stray == pid) {
            let (_, exit) = self.strays.swap_remove(at);
            self.process_ended(pid, exit);
        }
        if self.jobs.is_empty() {
            self.strays = Vec::new();
        }
        true
    }

    /// What a copy has made, or that it has done something else.
    fn result(&mut self, job: &Job) -> Result<Option<Made>, Error> {
        let mut buffer = std::mem::take(&mut self.receive_buffer);
        let result = transport::receive(&job.socket, &mut buffer).map_err(|_| died()).and_then(|incoming| {
            let response = Response::decode(incoming.header, incoming.body.bytes());
            match response.map_err(|error| Error::new(Kind::Corrupt, error.to_string()))? {
                Response::Process { pid } => {
                    let mut fds = incoming.fds.into_iter();
                    let pidfd = fds.next().ok_or_else(died)?;
                    Ok(Some(Made { pid, pidfd, others: fds.collect() }))
                }
                Response::Done => Ok(None),
                Response::Failed(failure) => Err(failure.into()),
                _ => Err(died()),
            }
        });
        self.receive_buffer = buffer;
        result
    }
}

/// Makes the sandbox. The other descriptors are its new namespaces, in the order of [`kinds`].
pub(super) fn make_sandbox(
    request: SandboxRequest,
    netns: Option<OwnedFd>,
    layout: &Layout,
) -> Result<Made, Error> {
    let place = Place::make(&request.cgroup, &request.id, layout, &Resources::default())?;
    let new = kinds(request.new);
    let result = sandbox::create(sandbox::SandboxArgs {
        hostname: Some(request.hostname).filter(|name| !name.is_empty()),
        namespaces: new.clone(),
        netns: netns.as_ref().map(AsFd::as_fd),
        sysctls: request.sysctls.into_iter().collect(),
        cgroup: place.cgroup(),
        uid: request.uid,
        gid: request.gid,
        seccomp: None,
        apparmor: Some(request.apparmor).filter(|profile| !profile.is_empty()),
        selinux: Some(request.selinux).filter(|label| !label.is_empty()),
        mount_label: Some(request.mount_label).filter(|label| !label.is_empty()),
        oom_score_adj: request.oom_score_adj,
        restrict_oom_score_adj: request.restrict_oom_score_adj,
        uid_mappings: mappings(&request.uid_maps)?,
        gid_mappings: mappings(&request.gid_maps)?,
        parent: ParentOf::CallersParent,
    });
    let mut sandbox = place.settle(result, |sandbox| (sandbox.pid, sandbox.pidfd.as_fd()))?;
    let mut others = Vec::new();
    for kind in new {
        let at = sandbox.namespaces.iter().position(|(made, _)| *made == kind);
        let at =
            at.ok_or_else(|| Error::new(Kind::Corrupt, format!("no descriptor of the {kind:?} namespace")))?;
        others.push(sandbox.namespaces.swap_remove(at).1);
    }
    Ok(Made { pid: sandbox.pid.as_raw_nonzero().get(), pidfd: sandbox.pidfd, others })
}

/// Makes a container. The other descriptors are its start handle and, if it has a terminal, the master side.
pub(super) fn make_container(
    request: CreateRequest,
    layout: &Layout,
    rootfs: OwnedFd,
    (streams, uid_maps): (Streams, &[IdMap]),
    join: Vec<(ns::Kind, OwnedFd)>,
) -> Result<Made, Error> {
    let mut spec = read_spec(&request.bundle)?;
    hooks::limit(&mut spec);
    let target = Target::of(&request, uid_maps);
    if spec.linux().as_ref().is_some_and(|linux| linux.net_devices().is_some()) {
        name_namespaces(&mut spec, request.join);
    }
    let plan = Plan::new(&spec, &target.context(&request.id))?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    // The rules for devices follow when the process has made its own.
    let resources =
        resources.map_or_else(Resources::default, |all| Resources { devices: None, ..all.into() });
    let place = Place::make(&request.cgroup, &request.id, layout, &resources)?;
    let stdio = match streams {
        Streams::Fds(fds) => {
            give(&fds, spec.process().as_ref().map_or(0, |process| process.user().uid()), uid_maps)?;
            Stdio::Fds(fds)
        }
        Streams::Terminal => terminal(spec.process().as_ref()),
    };
    let told = hooks::Told::new(&request.id, &target, &spec);
    let root = request.bundle.join("rootfs");
    let rendezvous = match hook::has_any(&spec) {
        true => {
            make_place(&root)?;
            let meet = |pid, pidfd: BorrowedFd<'_>| hook::early(&spec, &told.about(), (pid, pidfd));
            Some(Rendezvous { root: &root, meet: Box::new(meet) })
        }
        false => None,
    };
    let args = CreateArgs {
        rootfs,
        stdio,
        join,
        cgroup: place.cgroup(),
        extra_fds: Vec::new(),
        new_keyring: true,
        parent: ParentOf::CallersParent,
        rendezvous,
        meanwhile: None,
        start_socket: None,
        no_pivot: false,
    };
    let made = vaquita_runtime::create(&plan, args);
    let made = made.and_then(|created| {
        let pid = created.pid.as_raw_nonzero().get();
        match vaquita_runtime::owner::give(&spec, request.join.user, place.cgroup(), pid) {
            Ok(()) => Ok(created),
            Err(error) => {
                let _ = vaquita_sys::signal::send(&created.pidfd, vaquita_sys::signal::Signal::KILL);
                Err(error)
            }
        }
    });
    let made = place.settle(made, |created| (created.pid, created.pidfd.as_fd()));
    if made.is_err() && request.has_late_work {
        let _ = hooks::at_the_end(&request.id, &target);
    }
    let created = made?;
    let mut others = vec![created.start.into_fd()];
    others.extend(created.console);
    Ok(Made { pid: created.pid.as_raw_nonzero().get(), pidfd: created.pidfd, others })
}

/// Runs a process in a container. The other descriptors are its start handle and, if it has a terminal, the master side.
pub(super) fn make_exec(
    (id, container): (&str, &Target),
    layout: &Layout,
    process: &[u8],
    init: OwnedFd,
    stdio: [Option<OwnedFd>; 3],
) -> Result<Made, Error> {
    let process: ProcessSpec = document::parse_own("process", process)?;
    let context = container.context(id);
    let plan = ExecPlan::within(&process, &surroundings(container, &context)?, &context)?;
    let cgroup = Cgroup::open(layout, &container.cgroup_path)?;
    let stdio = if process.terminal().unwrap_or_default() {
        if stdio.iter().any(Option::is_some) {
            return Err(Error::new(
                Kind::Invalid,
                "a process with a terminal gets no other standard streams",
            ));
        }
        terminal(Some(&process))
    } else {
        let [stdin, stdout, stderr] = stdio;
        let fds = [or_null(stdin)?, or_null(stdout)?, or_null(stderr)?];
        give(&fds, plan.uid(), &container.uid_maps)?;
        Stdio::Fds(fds)
    };
    let parent = ParentOf::CallersParent;
    let args = ExecArgs {
        init: init.as_fd(),
        stdio,
        created: false,
        cgroup: Some(&cgroup),
        extra_fds: Vec::new(),
        new_keyring: true,
        parent,
    };
    let execed = vaquita_runtime::exec(&plan, args)?;
    let mut others = vec![execed.started.into_fd()];
    others.extend(execed.console);
    Ok(Made { pid: execed.pid.as_raw_nonzero().get(), pidfd: execed.pidfd, others })
}

/// What of the container matters to every process that is added to it.
pub(super) fn surroundings(container: &Target, context: &Context) -> Result<Surroundings, Error> {
    let mut spec = read_spec(&container.bundle)?;
    name_namespaces(&mut spec, container.join);
    Ok(Surroundings::new(&spec, context)?)
}

/// Where the root is until the container has it: hooks look for it there.
fn make_place(root: &Path) -> Result<(), Error> {
    disk::make_dir(root).map_err(|error| Error::io(error, format_args!("make {}", root.display())))
}

/// Namespaces that the container has joined count as its own, whether its specification names them or not.
fn name_namespaces(spec: &mut Spec, joined: Namespaces) {
    let Some(linux) = spec.linux_mut() else { return };
    let named = linux.namespaces_mut().get_or_insert_default();
    for kind in kinds(joined) {
        let kind = match kind {
            ns::Kind::Ipc => LinuxNamespaceType::Ipc,
            ns::Kind::Net => LinuxNamespaceType::Network,
            ns::Kind::Pid => LinuxNamespaceType::Pid,
            ns::Kind::User => LinuxNamespaceType::User,
            ns::Kind::Uts => LinuxNamespaceType::Uts,
            _ => continue,
        };
        if named.iter().all(|namespace| namespace.typ() != kind) {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            named.push(namespace);
        }
    }
}

/// `/dev/null` where there is nothing.
pub(super) fn or_null(fd: Option<OwnedFd>) -> Result<OwnedFd, Error> {
    match fd {
        Some(fd) => Ok(fd),
        None => disk::null().map_err(|errno| Error::kernel(errno, "open /dev/null")),
    }
}

/// Tells the shim; the exit code of the copy.
fn report(socket: &OwnedFd, result: Result<Option<Made>, Error>) -> i32 {
    let (response, fds) = match result {
        Ok(None) => (Response::Done, Vec::new()),
        Ok(Some(made)) => {
            let fds = std::iter::once(made.pidfd).chain(made.others).collect();
            (Response::Process { pid: made.pid }, fds)
        }
        Err(error) => (Response::Failed(Failure::from(&error)), Vec::new()),
    };
    let sent = Outgoing::new(response.code(), 0, &response.encode(), fds).and_then(|out| out.send(socket));
    i32::from(sent.is_err())
}

fn died() -> Error {
    Error::new(Kind::Unavailable, "the process that was to make it died")
}

pub(super) fn read_spec(bundle: &Path) -> Result<Spec, Error> {
    Ok(document::read_own_spec(&bundle.join("config.json"))?)
}

fn mappings(maps: &[IdMap]) -> Result<Vec<LinuxIdMapping>, Error> {
    let mapping = |map: &IdMap| {
        let builder = LinuxIdMappingBuilder::default();
        let built = builder.container_id(map.inside).host_id(map.outside).size(map.length).build();
        built.map_err(|error| Error::new(Kind::Invalid, error.to_string()))
    };
    maps.iter().map(mapping).collect()
}

/// Pipes belong to the user of a container with users of its own, who could not open /dev/stdout anew otherwise. The
/// process cannot see to it itself: the host's root, who made them, is nobody there.
pub(super) fn give(fds: &[OwnedFd; 3], inside: u32, uid_maps: &[IdMap]) -> Result<(), Error> {
    // A user that is not mapped is refused later, by its number.
    let Some(owner) = IdMap::to_host(uid_maps, inside) else { return Ok(()) };
    for fd in fds {
        let stat = rustix::fs::fstat(fd).map_err(|errno| Error::kernel(errno, "fstat of a stream"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            rustix::fs::fchown(fd, Some(Uid::from_raw(owner)), None)
                .map_err(|errno| Error::kernel(errno, "fchown of a stream"))?;
        }
    }
    Ok(())
}

fn terminal(process: Option<&ProcessSpec>) -> Stdio {
    let size = process.and_then(ProcessSpec::console_size);
    let limit = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
    Stdio::Terminal {
        rows: size.map_or(0, |size| limit(size.height())),
        columns: size.map_or(0, |size| limit(size.width())),
    }
}
