//! The options of `checkpoint` and `restore`, as the operations take them.

use std::path::Path;

use vaquita_oci::{Checkpoint, Create, Criu, Error, Kind, Restore};

use super::args::{CheckpointArgs, CriuArgs, RestoreArgs};

pub(super) fn checkpoint(program: &Path, args: CheckpointArgs) -> Result<Checkpoint, Error> {
    let mut criu = common(program, args.criu)?;
    if let Some(server) = &args.page_server {
        let (address, port) = server
            .rsplit_once(':')
            .filter(|(address, port)| !address.is_empty() && port.parse::<u16>().is_ok())
            .ok_or_else(|| {
                Error::new(Kind::Invalid, format!("--page-server {server:?}: give ADDRESS:PORT"))
            })?;
        criu.options.extend(["--page-server", "--address", address, "--port", port].map(str::to_owned));
    }
    for (option, is_on) in [("--link-remap", args.link_remap), ("--skip-in-flight", args.tcp_skip_in_flight)]
    {
        criu.options.extend(is_on.then(|| option.to_owned()));
    }
    if let Some(fd) = args.status_fd {
        criu.options.extend(["--status-fd".to_owned(), fd.to_string()]);
    }
    Ok(Checkpoint {
        criu,
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        parent: args.parent_path,
    })
}

pub(super) fn restore(program: &Path, args: RestoreArgs) -> Result<Restore, Error> {
    if args.console_socket.is_some() {
        let message = "--console-socket: a terminal cannot be restored; restore the container without one";
        return Err(Error::new(Kind::Unsupported, message));
    }
    let mut criu = common(program, args.criu)?;
    for (option, value) in
        [("--lsm-profile", args.lsm_profile), ("--lsm-mount-context", args.lsm_mount_context)]
    {
        if let Some(value) = value {
            criu.options.extend([option.to_owned(), value]);
        }
    }
    let create = Create { bundle: args.bundle, pid_file: args.pid_file, ..Create::default() };
    Ok(Restore { criu, create, detach: args.detach })
}

fn common(program: &Path, args: CriuArgs) -> Result<Criu, Error> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| Error::new(Kind::Invalid, format!("{path:?}: {error}")))
    };
    let mut options = Vec::new();
    for (option, is_on) in [
        ("--tcp-established", args.tcp_established),
        ("--ext-unix-sk", args.ext_unix_sk),
        ("--shell-job", args.shell_job),
        ("--file-locks", args.file_locks),
        ("--lazy-pages", args.lazy_pages),
        ("--auto-dedup", args.auto_dedup),
    ] {
        if is_on {
            options.push(option.to_owned());
        }
    }
    for _ in &args.empty_ns {
        options.extend(["--empty-ns", "net"].map(str::to_owned));
    }
    Ok(Criu {
        program: program.to_owned(),
        images: absolute(&args.image_path)?,
        work: args.work_path.as_deref().map(absolute).transpose()?,
        options,
        cgroups: args.manage_cgroups_mode,
    })
}
