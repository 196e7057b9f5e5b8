//! What clients ask for, up to the point where something has to happen first.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use vaquita_sys::ns;
use vaquita_sys::signal::{self, Signal};

use super::attach::Stdin;
use super::connection::Asker;
use super::container::{Container, Elsewhere, Phase, Process, Sandbox, SandboxPhase, kinds};
use super::creator::{self, Made, Purpose, Streams, Target, or_null};
use super::output::Output;
use super::{Server, external, now_ns};
use crate::log::{LogFile, Stream};
use crate::transport::Incoming;
use crate::wire::{Request, Response};
use crate::{CreateRequest, Error, Exit, Kind, PodState, SandboxRequest, SignalScope};

impl Server {
    pub(super) fn serve(&mut self, asker: Asker, incoming: Incoming<'_>) {
        let Incoming { header, body, fds } = incoming;
        let result = match Request::decode(header, body.bytes()) {
            Ok(request) => self.begin(asker, request, fds),
            Err(error) => Err(Error::new(Kind::Corrupt, error.to_string())),
        };
        if let Err(error) = result {
            self.reply_error(asker, &error);
        }
    }

    /// Answers, or sees to it that somebody will; an error is answered by the caller.
    fn begin(&mut self, asker: Asker, request: Request<'_>, mut fds: Vec<OwnedFd>) -> Result<(), Error> {
        match request {
            Request::CreateSandbox(request) => self.create_sandbox(asker, request, fds)?,
            Request::Create(request) => {
                let rootfs = fds.pop().ok_or_else(|| Error::new(Kind::Corrupt, "no root"))?;
                self.create(asker, request, rootfs)?;
            }
            Request::Start(id) => self.start(asker, id)?,
            Request::Signal { id, signal, scope } => {
                self.signal(asker, id, signal, scope)?;
            }
            Request::Exec { container, exec_id, stdio, process } => {
                let mut fds = fds.into_iter();
                let stdio = stdio.map(|present| if present { fds.next() } else { None });
                self.exec(asker, (container, exec_id), process, stdio)?;
            }
            Request::KillExec { container, exec_id } => {
                self.kill_exec(container, exec_id)?;
                self.reply_done(asker);
            }
            Request::Delete(id) => self.delete(asker, id),
            Request::DeleteSandbox => self.delete_sandbox(asker),
            Request::ReopenLog(id) => {
                self.reopen_log(id)?;
                self.reply_done(asker);
            }
            Request::State => {
                let sandbox = self.sandbox.as_ref().and_then(Sandbox::state);
                let containers = self.containers.iter().filter_map(Container::state).collect();
                self.reply(asker, &Response::State(PodState { sandbox, containers }), Vec::new());
            }
            Request::Netns => {
                let netns = self.namespace(ns::Kind::Net)?;
                self.reply(asker, &Response::Done, vec![netns]);
            }
            Request::Userns => {
                let userns = self.namespace(ns::Kind::User)?;
                self.reply(asker, &Response::Done, vec![userns]);
            }
            Request::Shutdown => {
                self.shutdown()?;
                self.reply_done(asker);
            }
            Request::Attach(request) => self.attach(asker, &request)?,
            Request::Resize { id, width, height } => {
                self.resize(id, width, height)?;
                self.reply_done(asker);
            }
        }
        Ok(())
    }

    fn create_sandbox(
        &mut self,
        asker: Asker,
        request: SandboxRequest,
        netns: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        if let Some(sandbox) = &self.sandbox {
            return Err(Error::new(
                Kind::Exists,
                format!("this shim has the sandbox {} already", sandbox.id),
            ));
        }
        self.refuse_at_farewell()?;
        absolute("cgroup", &request.cgroup)?;
        let sandbox = Sandbox {
            id: request.id.clone(),
            new: request.new,
            uid_maps: request.uid_maps.clone(),
            cgroup_path: request.cgroup.clone(),
            cgroup: None,
            ooms: self.ooms_of_pod(&request.cgroup),
            created_at_ns: now_ns(),
            phase: SandboxPhase::Creating,
        };
        let layout = self.layout.clone();
        self.begin_job(asker, Purpose::Sandbox, netns, |mut netns| {
            creator::make_sandbox(request, netns.pop(), &layout).map(Some)
        })?;
        self.sandbox = Some(sandbox);
        Ok(())
    }

    pub(super) fn sandbox_made(&mut self, asker: Asker, made: Result<Made, Error>) {
        let Some(sandbox) = &mut self.sandbox else { return };
        let made = made.and_then(|made| {
            let copies = (made.pidfd.try_clone(), made.others.iter().map(OwnedFd::try_clone).collect());
            match copies {
                (Ok(pidfd), Ok::<Vec<_>, _>(namespaces)) => Ok((made, pidfd, namespaces)),
                (Err(error), _) | (_, Err(error)) => Err(Error::io(error, "dup of what was made")),
            }
        });
        let (made, pidfd, namespaces) = match made {
            Ok(made) => made,
            Err(error) => {
                self.sandbox = None;
                self.reply_error(asker, &error);
                return;
            }
        };
        sandbox.cgroup = vaquita_cgroup::Cgroup::open(&self.layout, &sandbox.cgroup_path).ok();
        let kinds = kinds(sandbox.new);
        let netns = kinds.iter().position(|kind| *kind == ns::Kind::Net);
        let mut fds = vec![pidfd];
        fds.extend(netns.and_then(|at| namespaces.into_iter().nth(at)));
        sandbox.phase = SandboxPhase::Made {
            pid: made.pid,
            pidfd: made.pidfd,
            running: true,
            namespaces: kinds.into_iter().zip(made.others).collect(),
        };
        self.reply(asker, &Response::Process { pid: made.pid }, fds);
    }

    fn create(&mut self, asker: Asker, request: CreateRequest, rootfs: OwnedFd) -> Result<(), Error> {
        if self.find(&request.id).is_ok() {
            return Err(Error::new(Kind::Exists, format!("there is a container {} already", request.id)));
        }
        self.refuse_at_farewell()?;
        absolute("cgroup", &request.cgroup)?;
        absolute("bundle", &request.bundle)?;
        let join = self.namespaces_to_join(&request)?;
        let log =
            request.log_path.as_deref().map(|path| LogFile::open(path, request.log_limit)).transpose()?;
        let (streams, outputs, stdin) =
            if request.tty { (Streams::Terminal, Vec::new(), Stdin::Closed) } else { self.pipes(&request)? };
        let container = Container {
            id: request.id.clone(),
            target: Target::of(&request, &self.uid_maps(request.join)),
            surroundings: None,
            cgroup: None,
            created_at_ns: now_ns(),
            started_at_ns: 0,
            phase: Phase::Creating,
            process: None,
            log,
            outputs,
            stdin,
            open_stdin: request.stdin,
            execs: Vec::new(),
            deletion: None,
            elsewhere: match request.runtime.is_some() || request.has_late_work {
                true => Elsewhere::Something,
                false => Elsewhere::Nothing,
            },
        };
        self.begin_creation(asker, request, rootfs, streams, join)?;
        self.containers.push(container);
        Ok(())
    }

    fn begin_creation(
        &mut self,
        asker: Asker,
        request: CreateRequest,
        rootfs: OwnedFd,
        streams: Streams,
        join: Vec<(ns::Kind, OwnedFd)>,
    ) -> Result<(), Error> {
        let layout = self.layout.clone();
        let uid_maps = self.uid_maps(request.join);
        let purpose = Purpose::Container { id: request.id.clone() };
        let (kinds, mut fds): (Vec<_>, Vec<_>) = join.into_iter().unzip();
        let is_terminal = matches!(streams, Streams::Terminal);
        if let Streams::Fds(streams) = streams {
            fds.extend(streams);
        }
        fds.push(rootfs);
        self.begin_job(asker, purpose, fds, |fds| {
            // The copy has these and no others, in the order in which they were packed.
            let lost = || Error::new(Kind::Corrupt, "a descriptor got lost");
            let mut fds = fds.into_iter();
            let join: Vec<_> = kinds.into_iter().zip(fds.by_ref()).collect();
            let mut next = || fds.next().ok_or_else(lost);
            let streams = match is_terminal {
                true => Streams::Terminal,
                false => Streams::Fds([next()?, next()?, next()?]),
            };
            let rootfs = next()?;
            match request.runtime.clone() {
                Some(how) => external::make_container(&request, &how, &layout, &rootfs, streams, &join),
                None => creator::make_container(request, &layout, rootfs, (streams, &uid_maps), join),
            }
            .map(Some)
        })
    }

    /// Standard streams as pipes: the container's ends, and ours.
    fn pipes(&mut self, request: &CreateRequest) -> Result<(Streams, Vec<Output>, Stdin), Error> {
        let pipe =
            || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::kernel(errno, "pipe2"));
        let (stdin, our_stdin) = match request.stdin {
            true => {
                let (read, end) = pipe()?;
                set_nonblocking(&end)?;
                (read, Stdin::Pipe { end, once: request.stdin_once })
            }
            false => (or_null(None)?, Stdin::Closed),
        };
        let (our_stdout, stdout) = pipe()?;
        let (our_stderr, stderr) = pipe()?;
        let outputs =
            vec![self.output(our_stdout, Stream::Stdout)?, self.output(our_stderr, Stream::Stderr)?];
        Ok((Streams::Fds([stdin, stdout, stderr]), outputs, our_stdin))
    }

    /// A stream that we read.
    fn output(&mut self, fd: OwnedFd, stream: Stream) -> Result<Output, Error> {
        set_nonblocking(&fd)?;
        let token = self.new_token();
        self.watch(&fd, token)?;
        Ok(Output::new(token, fd, stream))
    }

    /// Copies of the descriptors of the namespaces that a container joins, all of which the sandbox must have.
    fn namespaces_to_join(&self, request: &CreateRequest) -> Result<Vec<(ns::Kind, OwnedFd)>, Error> {
        let wanted = kinds(request.join);
        let have = self.sandbox.as_ref().map(|sandbox| sandbox.namespaces(request.join)).unwrap_or_default();
        if have.len() != wanted.len() {
            let message = format!("container {} joins namespaces that the sandbox does not have", request.id);
            return Err(Error::new(Kind::Invalid, message));
        }
        have.into_iter()
            .map(|(kind, fd)| Ok((kind, fd.try_clone().map_err(|error| Error::io(error, "dup"))?)))
            .collect()
    }

    /// Whom the users of a container that joins these are on the host, unless they are the host's.
    fn uid_maps(&self, join: crate::Namespaces) -> Vec<crate::IdMap> {
        let sandbox = self.sandbox.as_ref().filter(|_| join.user);
        sandbox.map(|sandbox| sandbox.uid_maps.clone()).unwrap_or_default()
    }

    pub(super) fn container_made(&mut self, asker: Asker, id: &str, made: Result<Made, Error>) {
        let Ok(at) = self.find(id) else { return };
        let taken = made.and_then(|made| self.take_container(at, made));
        match taken {
            Ok((pid, pidfd)) => self.reply(asker, &Response::Process { pid }, vec![pidfd]),
            Err(error) => {
                self.forget_attempt(at);
                self.reply_error(asker, &error);
            }
        }
    }

    /// A container did not come to be. Its cgroup went with the attempt, unless that was killed.
    fn forget_attempt(&mut self, at: usize) {
        let container = &mut self.containers[at];
        let cgroup = vaquita_cgroup::Cgroup::open(&self.layout, &container.target.cgroup_path).ok();
        if let Some(deletion) = &mut container.deletion {
            deletion.look_again();
            container.cgroup = cgroup;
            container.phase = Phase::Stopped(Exit::default());
        } else {
            if container.target.runtime.is_some() {
                // A runtime that died may have left a process.
                let _ = cgroup.as_ref().map(vaquita_cgroup::Cgroup::kill);
            }
            let path = &container.target.cgroup_path;
            let _ = cgroup.map(|cgroup| super::deletion::remove_empty(&cgroup, path));
            self.close_outputs(at);
            self.containers.remove(at);
        }
    }

    fn take_container(&mut self, at: usize, made: Made) -> Result<(i32, OwnedFd), Error> {
        let lost = || Error::new(Kind::Corrupt, "a descriptor got lost");
        let copy = made.pidfd.try_clone().map_err(|error| Error::io(error, "dup"))?;
        let mut others = made.others.into_iter();
        let start = match self.containers[at].target.runtime {
            Some(_) => None,
            None => Some(vaquita_runtime::StartHandle::from_fd(others.next().ok_or_else(lost)?)),
        };
        if let Some(console) = others.next() {
            let copy = console.try_clone().map_err(|error| Error::io(error, "dup"))?;
            let output = self.output(copy, Stream::Stdout)?;
            let container = &mut self.containers[at];
            container.outputs.push(output);
            container.stdin = Stdin::Terminal { console, open: container.open_stdin };
        }
        let container = &mut self.containers[at];
        container.cgroup = vaquita_cgroup::Cgroup::open(&self.layout, &container.target.cgroup_path).ok();
        container.phase = Phase::Created(start);
        container.process = Some(Process { pid: made.pid, pidfd: made.pidfd });
        Ok((made.pid, copy))
    }

    fn start(&mut self, asker: Asker, id: &str) -> Result<(), Error> {
        let at = self.find(id)?;
        let phase = std::mem::replace(&mut self.containers[at].phase, Phase::Running);
        let Phase::Created(handle) = phase else {
            self.containers[at].phase = phase;
            return Err(Error::new(Kind::State, format!("container {id} is not waiting to be started")));
        };
        let Some(handle) = handle else { return self.start_elsewhere(asker, at) };
        match self.containers[at].target.has_late_work {
            true => self.start_after_hooks(asker, at, handle),
            false => self.release(asker, at, handle),
        }
    }

    fn signal(&mut self, asker: Asker, id: &str, number: i32, scope: SignalScope) -> Result<(), Error> {
        let at = self.find(id)?;
        let container = &self.containers[at];
        let signal = Signal::from_number(number)
            .ok_or_else(|| Error::new(Kind::Invalid, format!("there is no signal {number}")))?;
        match (&container.phase, scope) {
            (Phase::Creating, _) => Err(Error::new(Kind::State, format!("container {id} is not made yet"))),
            (_, SignalScope::All) => {
                container.cgroup.as_ref().map_or(Ok(()), |cgroup| Ok(cgroup.signal_all(signal)?))
            }
            (_, SignalScope::Init) if container.target.runtime.is_some() && container.process.is_some() => {
                return self.signal_elsewhere(asker, at, number);
            }
            (_, SignalScope::Init) => send(container.process.as_ref(), signal),
        }?;
        self.reply_done(asker);
        Ok(())
    }

    fn reopen_log(&mut self, id: &str) -> Result<(), Error> {
        let at = self.find(id)?;
        let container = &mut self.containers[at];
        match (&container.phase, &mut container.log) {
            (Phase::Stopped(_), _) => Err(Error::new(Kind::State, format!("container {id} has ended"))),
            (_, None) => Err(Error::new(Kind::State, format!("container {id} has no log file"))),
            (_, Some(log)) => log.reopen(),
        }
    }

    fn namespace(&self, kind: ns::Kind) -> Result<OwnedFd, Error> {
        let is_net = kind == ns::Kind::Net;
        let wanted = crate::Namespaces { net: is_net, user: !is_net, ..Default::default() };
        let namespaces = self.sandbox.as_ref().map(|sandbox| sandbox.namespaces(wanted)).unwrap_or_default();
        let (_, namespace) = namespaces.first().ok_or_else(|| {
            let name = if is_net { "network" } else { "user" };
            Error::new(Kind::NotFound, format!("the pod has no {name} namespace of its own"))
        })?;
        namespace.try_clone().map_err(|error| Error::io(error, "dup"))
    }

    fn shutdown(&mut self) -> Result<(), Error> {
        let sandbox = self.sandbox.as_ref().is_some_and(Sandbox::is_running);
        let container = self.containers.iter().any(|c| !matches!(c.phase, Phase::Stopped(_)));
        if sandbox || container || !self.jobs.is_empty() {
            return Err(Error::new(Kind::Busy, "processes of the pod are alive: delete them first"));
        }
        self.end();
        Ok(())
    }

    fn refuse_at_farewell(&self) -> Result<(), Error> {
        match self.farewell {
            Some(_) => Err(Error::new(Kind::State, "the pod is being deleted")),
            None => Ok(()),
        }
    }

    pub(super) fn find(&self, id: &str) -> Result<usize, Error> {
        let at = self.containers.iter().position(|container| container.id == id);
        at.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no container {id}")))
    }

    pub(super) fn find_exec(&self, container: &str, exec_id: &str) -> Option<(usize, usize)> {
        let at = self.find(container).ok()?;
        let exec = self.containers[at].execs.iter().position(|exec| exec.id == exec_id)?;
        Some((at, exec))
    }
}

/// Sends a signal to a process that may have ended, which is no error.
pub(super) fn send(process: Option<&Process>, signal: Signal) -> Result<(), Error> {
    let Some(process) = process else { return Ok(()) };
    match signal::send(&process.pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::kernel(errno, format_args!("pidfd_send_signal({}, {signal})", process.pid))),
    }
}

/// For this end only: the other end of a pipe or terminal, which the container has, is as it was.
fn set_nonblocking(fd: &OwnedFd) -> Result<(), Error> {
    rustix::fs::fcntl_getfl(fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK))
        .map_err(|errno| Error::kernel(errno, "fcntl(F_SETFL, O_NONBLOCK)"))
}

fn absolute(what: &str, path: &Path) -> Result<(), Error> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(Error::new(Kind::Invalid, format!("the {what} path {} is not absolute", path.display())))
    }
}
