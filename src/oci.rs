//! `vaquita-oci`: the command line of the OCI runtime, with the options and exit codes of runc.

mod args;
mod criu;
mod log;
mod units;
mod update;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use vaquita_cgroup::Driver;
use vaquita_oci::{Changes, Container, Create, Error, Exec, Extra, Host, Id, Run, User, What};
use vaquita_sys::signal::Signal;

use self::args::{Cli, Command, CreateArgs, ExecArgs, Format, Global, Rootless};
use crate::terminal;

/// Runs `vaquita-oci` with these arguments, under the name it was called by.
pub(crate) fn main(name: &'static str, arguments: &[OsString]) -> ExitCode {
    let is_entering = |argument: &OsString| {
        vaquita_entry::ENTERING.iter().any(|name| argument.as_bytes() == name.to_bytes())
    };
    if arguments.iter().any(is_entering)
        && let Err(error) = vaquita_oci::seal()
    {
        let _ = terminal::err(&format!("{name}: cannot protect this program from containers: {error}\n"));
        return ExitCode::FAILURE;
    }
    let all = std::iter::once(OsString::from(name)).chain(arguments.iter().cloned());
    let parsed = Cli::command().bin_name(name).try_get_matches_from(all);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return misused(name, arguments, &error),
    };
    log::set_up(name, &cli.global);
    let what = cli.command.what();
    let failed = failure(what.split(' ').next().unwrap_or_default());
    match perform(&cli.global, cli.command) {
        // What is left to be put away the kernel puts away, and quicker.
        Ok(code) => vaquita_sys::process::exit_now(i32::from(code)),
        Err(error) => {
            log::error(&what, &error);
            ExitCode::from(failed)
        }
    }
}

fn perform(global: &Global, command: Command) -> Result<u8, Error> {
    let host = host(global);
    match command {
        Command::Checkpoint(args) => {
            let id = Id::new(&args.id)?;
            vaquita_oci::checkpoint(&host, &id, &criu::checkpoint(&global.criu, *args)?)?;
        }
        Command::Create(args) => vaquita_oci::create(&host, &Id::new(&args.id)?, &creation(&args)?)?,
        Command::Delete(args) => vaquita_oci::delete(&host, &Id::new(&args.id)?, args.force)?,
        Command::Events(args) => events(&host, &args)?,
        Command::Exec(args) => {
            let id = Id::new(&args.id)?;
            return Ok(exit_code(vaquita_oci::exec(&host, &id, &addition(*args)?)?));
        }
        Command::Features => print(&format!("{:#}\n", vaquita_oci::features(env!("CARGO_PKG_VERSION"))))?,
        Command::Kill(args) => {
            vaquita_oci::kill(&host, &Id::new(&args.id)?, signal_of(&args.signal)?, args.all)?;
        }
        Command::List(args) => list(&host, &args)?,
        Command::Pause(args) => vaquita_oci::pause(&host, &Id::new(&args.id)?)?,
        Command::Ps(args) => ps(&host, &args)?,
        Command::Restore(args) => {
            let id = Id::new(&args.id)?;
            return Ok(exit_code(vaquita_oci::restore(&host, &id, &criu::restore(&global.criu, *args)?)?));
        }
        Command::Resume(args) => vaquita_oci::resume(&host, &Id::new(&args.id)?)?,
        Command::Run(args) => {
            let how = Run {
                create: creation(&args.create)?,
                detach: args.detach,
                keep: args.keep,
                no_subreaper: args.no_subreaper,
            };
            return Ok(exit_code(vaquita_oci::run(&host, &Id::new(&args.create.id)?, &how)?));
        }
        Command::Spec(args) => vaquita_oci::write_spec(&args.bundle, args.rootless)?,
        Command::Start(args) => {
            let id = Id::new(&args.id)?;
            // A hook may run inside.
            if Container::open(&host, &id)?.record.has_start_work {
                vaquita_oci::seal()?;
            }
            vaquita_oci::start(&host, &id)?;
        }
        Command::State(args) => {
            let container = Container::open(&host, &Id::new(&args.id)?)?;
            let state = container.state(container.status()?);
            print(&format!("{state:#}\n"))?;
        }
        Command::Update(args) => {
            vaquita_oci::update(&host, &Id::new(&args.id)?, &update::changes(*args)?)?;
        }
    }
    Ok(0)
}

fn events(host: &Host, args: &args::Events) -> Result<(), Error> {
    let id = Id::new(&args.id)?;
    let tell = |event: &serde_json::Value| print(&format!("{event}\n"));
    if args.stats {
        return tell(&vaquita_oci::stats(host, &id)?);
    }
    vaquita_oci::watch(host, &id, args.interval, tell)
}

fn list(host: &Host, args: &args::List) -> Result<(), Error> {
    if args.quiet {
        return host.ids()?.iter().try_for_each(|id| print(&format!("{id}\n")));
    }
    let states = vaquita_oci::list(host)?;
    match args.format {
        Format::Json => print(&format!("{}\n", serde_json::Value::Array(states))),
        Format::Table => print(&vaquita_oci::table(&states)),
    }
}

fn ps(host: &Host, args: &args::Ps) -> Result<(), Error> {
    let pids = Container::open(host, &Id::new(&args.id)?)?.processes()?;
    match args.format {
        Format::Json => print(&format!("{}\n", serde_json::json!(pids))),
        Format::Table => print(&vaquita_oci::ps(&pids, &args.options)?),
    }
}

fn creation(args: &CreateArgs) -> Result<Create, Error> {
    Ok(Create {
        bundle: args.bundle.clone(),
        console_socket: args.console_socket.clone(),
        pid_file: args.pid_file.clone(),
        pidfd_socket: args.pidfd_socket.clone(),
        extra: Extra::take(args.preserve_fds)?,
        no_new_keyring: args.no_new_keyring,
        no_pivot: args.no_pivot,
    })
}

fn addition(args: ExecArgs) -> Result<Exec, Error> {
    let extra = Extra::take(args.preserve_fds)?;
    let gid = |text: &String| match text.parse::<User>() {
        Ok(user) if !text.contains(':') => Ok(user.uid()),
        _ => {
            let message = format!("--additional-gids {text:?}: give decimal numbers from 0 to 4294967294");
            Err(Error::new(vaquita_oci::Kind::Invalid, message))
        }
    };
    let what = match args.process {
        Some(path) => What::File(path),
        None => What::Like(Box::new(Changes {
            args: args.command,
            tty: args.tty,
            user: args.user.map(|user| user.parse()).transpose()?,
            additional_gids: args.additional_gids.iter().map(gid).collect::<Result<_, _>>()?,
            cwd: args.cwd,
            env: args.env,
            caps: args.cap,
            no_new_privs: args.no_new_privs,
            process_label: args.process_label,
            apparmor: args.apparmor,
        })),
    };
    Ok(Exec {
        what,
        detach: args.detach,
        pid_file: args.pid_file,
        console_socket: args.console_socket,
        pidfd_socket: args.pidfd_socket,
        extra,
        cgroup: args.cgroup,
        ignore_paused: args.ignore_paused,
    })
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn host(global: &Global) -> Host {
    let driver = if global.systemd_cgroup { Driver::Systemd } else { Driver::Cgroupfs };
    let rootless = match global.rootless {
        Rootless::Auto => None,
        Rootless::True => Some(true),
        Rootless::False => Some(false),
    };
    Host { root: global.root.clone().unwrap_or_else(default_root), driver, rootless, warn: log::warning }
}

fn default_root() -> PathBuf {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match runtime_dir {
        Some(dir) if !rustix::process::geteuid().is_root() => PathBuf::from(dir).join("vaquita-oci"),
        _ => PathBuf::from("/run/vaquita-oci"),
    }
}

fn signal_of(text: &str) -> Result<Option<Signal>, Error> {
    if text == "0" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let message = format!("unknown signal {text:?}: use a name like TERM or a number from 1 to 64");
        Error::new(vaquita_oci::Kind::Invalid, message)
    })
}

fn print(text: &str) -> Result<(), Error> {
    terminal::out(text).map_err(|error| {
        let errno = error.raw_os_error().map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error);
        Error::kernel("write(<standard output>)", errno)
    })
}

/// Help and version, or one line that says what is wrong.
fn misused(name: &str, arguments: &[OsString], error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let text = error.render();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = terminal::out(&text.to_string());
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = terminal::err(&format!("{name}: no command is given; see {name} --help\n"));
        return ExitCode::FAILURE;
    }
    let text = text.to_string();
    // Below the first line are hints, and then how the command is used.
    let is_hint = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more");
    let said: Vec<&str> =
        text.lines().take_while(is_hint).map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    let usage =
        text.lines().find_map(|line| line.strip_prefix("Usage: ")?.strip_prefix(name)?.strip_prefix(' '));
    let definition = Cli::command();
    let is_command = |word: &&str| definition.find_subcommand(word).is_some();
    let command = usage.and_then(|usage| usage.split(' ').next()).filter(is_command);
    // Of a wrong value no usage is shown.
    let command = command.or_else(|| arguments.iter().filter_map(|word| word.to_str()).find(is_command));
    let line = match command {
        Some(command) => format!("{name}: {command}: {said}; see {name} {command} --help\n"),
        None => format!("{name}: {said}; see {name} --help\n"),
    };
    let _ = terminal::err(&line);
    ExitCode::from(failure(command.unwrap_or_default()))
}

/// What a command that failed exits with: that of runc.
fn failure(command: &str) -> u8 {
    if command == "exec" { 255 } else { 1 }
}
