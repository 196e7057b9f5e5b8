//! The parts of messages: each `put_` writes what its counterpart reads.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::codec::{Reader, Writer};
use super::{Failure, MAX_ID, MAX_LIST, MAX_PATH, MAX_TEXT, Malformed};
use crate::{
    ContainerState, CreateRequest, Exit, IdMap, Kind, Namespaces, OciRuntime, PodState, SandboxRequest,
    SandboxState, Status,
};

pub(super) fn put_sandbox_request(w: &mut Writer, request: &SandboxRequest) {
    let SandboxRequest {
        id,
        hostname,
        new,
        cgroup,
        sysctls,
        uid,
        gid,
        apparmor,
        selinux,
        mount_label,
        oom_score_adj,
        restrict_oom_score_adj,
        uid_maps,
        gid_maps,
    } = request;
    w.text(id).text(hostname);
    put_namespaces(w, *new);
    put_path(w, cgroup);
    w.list(sysctls, |w, (key, value)| {
        w.text(key).text(value);
    });
    w.u32(*uid)
        .u32(*gid)
        .text(apparmor)
        .text(selinux)
        .text(mount_label)
        .option(*oom_score_adj, |w, adjustment| {
            w.i32(adjustment);
        })
        .bool(*restrict_oom_score_adj);
    for maps in [uid_maps, gid_maps] {
        w.list(maps, |w, IdMap { inside, outside, length }| {
            w.u32(*inside).u32(*outside).u32(*length);
        });
    }
}

pub(super) fn sandbox_request(r: &mut Reader<'_>) -> Result<SandboxRequest, Malformed> {
    Ok(SandboxRequest {
        id: r.text(MAX_ID)?.to_owned(),
        hostname: r.text(MAX_ID)?.to_owned(),
        new: namespaces(r)?,
        cgroup: path(r)?,
        sysctls: r.list(MAX_LIST, |r| Ok((r.text(MAX_PATH)?.to_owned(), r.text(MAX_PATH)?.to_owned())))?,
        uid: r.u32()?,
        gid: r.u32()?,
        apparmor: r.text(MAX_PATH)?.to_owned(),
        selinux: r.text(MAX_PATH)?.to_owned(),
        mount_label: r.text(MAX_PATH)?.to_owned(),
        oom_score_adj: r.option(Reader::i32)?,
        restrict_oom_score_adj: r.bool()?,
        uid_maps: id_maps(r)?,
        gid_maps: id_maps(r)?,
    })
}

fn id_maps(r: &mut Reader<'_>) -> Result<Vec<IdMap>, Malformed> {
    r.list(MAX_LIST, |r| Ok(IdMap { inside: r.u32()?, outside: r.u32()?, length: r.u32()? }))
}

pub(super) fn put_create_request(w: &mut Writer, request: &CreateRequest) {
    let CreateRequest {
        id,
        bundle,
        cgroup,
        log_path,
        stdin,
        stdin_once,
        tty,
        join,
        restrict_oom_score_adj,
        // What came later is not for the shims that do not know it.
        log_limit: _,
        runtime: _,
        has_late_work: _,
    } = request;
    w.text(id);
    put_path(w, bundle);
    put_path(w, cgroup);
    w.option(log_path.as_deref(), put_path).bool(*stdin).bool(*stdin_once).bool(*tty);
    put_namespaces(w, *join);
    w.bool(*restrict_oom_score_adj);
}

pub(super) fn create_request(r: &mut Reader<'_>) -> Result<CreateRequest, Malformed> {
    Ok(CreateRequest {
        id: r.text(MAX_ID)?.to_owned(),
        bundle: path(r)?,
        cgroup: path(r)?,
        log_path: r.option(path)?,
        stdin: r.bool()?,
        stdin_once: r.bool()?,
        tty: r.bool()?,
        join: namespaces(r)?,
        restrict_oom_score_adj: r.bool()?,
        log_limit: 0,
        runtime: None,
        has_late_work: false,
    })
}

/// What the first version of a creation had not.
pub(super) fn put_create_extension(w: &mut Writer, request: &CreateRequest) {
    w.option(request.runtime.as_ref(), |w, OciRuntime { program, systemd_cgroup }| {
        put_path(w, program);
        w.bool(*systemd_cgroup);
    })
    .u64(request.log_limit);
}

pub(super) fn create_extension(
    r: &mut Reader<'_>,
    request: CreateRequest,
) -> Result<CreateRequest, Malformed> {
    let runtime = r.option(|r| Ok(OciRuntime { program: path(r)?, systemd_cgroup: r.bool()? }))?;
    Ok(CreateRequest { runtime, log_limit: r.u64()?, ..request })
}

pub(super) fn put_namespaces(w: &mut Writer, namespaces: Namespaces) {
    let Namespaces { ipc, net, pid, user, uts } = namespaces;
    w.bool(ipc).bool(net).bool(pid).bool(user).bool(uts);
}

pub(super) fn namespaces(r: &mut Reader<'_>) -> Result<Namespaces, Malformed> {
    Ok(Namespaces { ipc: r.bool()?, net: r.bool()?, pid: r.bool()?, user: r.bool()?, uts: r.bool()? })
}

pub(super) fn put_path(w: &mut Writer, path: &Path) {
    w.bytes(path.as_os_str().as_bytes());
}

pub(super) fn path(r: &mut Reader<'_>) -> Result<PathBuf, Malformed> {
    let bytes = r.bytes(MAX_PATH)?;
    if bytes.contains(&0) {
        return Err(Malformed("a path with a NUL byte"));
    }
    Ok(std::ffi::OsStr::from_bytes(bytes).into())
}

pub(super) fn put_exit(w: &mut Writer, exit: &Exit) {
    let Exit { code, signal, oom, started_at_ns, finished_at_ns } = exit;
    w.i32(*code)
        .option(*signal, |w, signal| {
            w.i32(signal);
        })
        .bool(*oom);
    w.i64(*started_at_ns).i64(*finished_at_ns);
}

pub(super) fn exit(r: &mut Reader<'_>) -> Result<Exit, Malformed> {
    Ok(Exit {
        code: r.i32()?,
        signal: r.option(Reader::i32)?,
        oom: r.bool()?,
        started_at_ns: r.i64()?,
        finished_at_ns: r.i64()?,
    })
}

pub(super) fn put_pod_state(w: &mut Writer, state: &PodState) {
    w.option(state.sandbox.as_ref(), |w, sandbox| {
        let SandboxState { id, pid, running, created_at_ns } = sandbox;
        w.text(id).i32(*pid).bool(*running).i64(*created_at_ns);
    });
    w.list(&state.containers, |w, container| {
        let ContainerState { id, status, pid, created_at_ns, started_at_ns, exit, execs, log_lost_bytes } =
            container;
        let status = match status {
            Status::Created => 0,
            Status::Running => 1,
            Status::Stopped => 2,
        };
        w.text(id).u8(status).i32(*pid).i64(*created_at_ns).i64(*started_at_ns);
        w.option(exit.as_ref(), put_exit)
            .list(execs, |w, id| {
                w.text(id);
            })
            .u64(*log_lost_bytes);
    });
}

pub(super) fn pod_state(r: &mut Reader<'_>) -> Result<PodState, Malformed> {
    let sandbox = r.option(|r| {
        Ok(SandboxState {
            id: r.text(MAX_ID)?.to_owned(),
            pid: r.i32()?,
            running: r.bool()?,
            created_at_ns: r.i64()?,
        })
    })?;
    let containers = r.list(MAX_LIST, |r| {
        Ok(ContainerState {
            id: r.text(MAX_ID)?.to_owned(),
            status: match r.u8()? {
                0 => Status::Created,
                1 => Status::Running,
                2 => Status::Stopped,
                _ => return Err(Malformed("an unknown container status")),
            },
            pid: r.i32()?,
            created_at_ns: r.i64()?,
            started_at_ns: r.i64()?,
            exit: r.option(exit)?,
            execs: r.list(MAX_LIST, |r| Ok(r.text(MAX_ID)?.to_owned()))?,
            log_lost_bytes: r.u64()?,
        })
    })?;
    Ok(PodState { sandbox, containers })
}

pub(super) fn put_failure(w: &mut Writer, failure: &Failure) {
    let (kind, errno) = match failure.kind {
        Kind::Kernel(errno) => (0, errno.raw_os_error()),
        Kind::Busy => (1, 0),
        Kind::Corrupt => (2, 0),
        Kind::Denied => (3, 0),
        Kind::Exists => (4, 0),
        Kind::Invalid => (5, 0),
        Kind::NotFound => (6, 0),
        Kind::State => (7, 0),
        Kind::Timeout => (8, 0),
        Kind::Unavailable => (9, 0),
        Kind::Unsupported => (10, 0),
        Kind::Exec(errno) => (11, errno.raw_os_error()),
        Kind::Hook => (12, 0),
    };
    w.u8(kind).i32(errno).text(&failure.message);
}

pub(super) fn failure(r: &mut Reader<'_>) -> Result<Failure, Malformed> {
    let (kind, errno) = (r.u8()?, r.i32()?);
    let kind = match kind {
        0 if (1..4096).contains(&errno) => Kind::Kernel(Errno::from_raw_os_error(errno)),
        1 => Kind::Busy,
        2 => Kind::Corrupt,
        3 => Kind::Denied,
        4 => Kind::Exists,
        5 => Kind::Invalid,
        6 => Kind::NotFound,
        7 => Kind::State,
        8 => Kind::Timeout,
        9 => Kind::Unavailable,
        10 => Kind::Unsupported,
        12 => Kind::Hook,
        11 if (1..4096).contains(&errno) => Kind::Exec(Errno::from_raw_os_error(errno)),
        _ => return Err(Malformed("an unknown kind of failure")),
    };
    Ok(Failure { kind, message: r.text(MAX_TEXT)?.to_owned() })
}
