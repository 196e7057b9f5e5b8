//! vaquita: Kubernetes pods on one bare Linux host.
//!
//! One static binary that is several programs: which one is decided by the name it is called by, before anything
//! else happens, because the supervisor of a pod must stay small and have one thread.

mod applets;
mod backup;
mod check;
mod client;
mod credentials;
mod daemon;
mod demo;
mod images;
mod kubeconfig;
mod oci;
mod options;
mod run;
mod size;
mod table;
mod terminal;
mod up;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::options::{Cli, Command};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    match name {
        Some("vaquita-shim") => vaquita_shim::server::main(),
        Some("vaquita-unpack") => vaquita_image::unpack::main(),
        Some("vaquita-oci") => oci::main("vaquita-oci", &args[1..]),
        Some(_) if args.get(1).is_some_and(|arg| arg == "oci") => oci::main("vaquita oci", &args[2..]),
        Some(name) if applets::is_applet(name) => applets::main(name, &args[1..]),
        _ => command_line(),
    }
}

fn command_line() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Backup { file } => backup::backup(&cli.node, &file),
        Command::Check(args) => check::main(&cli.node, &args),
        Command::Daemon(args) => daemon::main(&cli.node, args),
        Command::Demo(args) => demo::main(&cli.node, &args),
        Command::DemoServer(args) => demo::server::main(&args),
        Command::Image(args) => images::main(&cli.node, args),
        Command::Kubeconfig(args) => kubeconfig::main(&cli.node, &args),
        Command::Oci { arguments } => return oci::main("vaquita oci", &arguments),
        Command::Restore { file } => backup::restore(&cli.node, &file),
        Command::Run(args) => run::main(&cli.node, &args),
        Command::Up(args) => daemon::main(&cli.node, options::Daemon { api: true, ..args }),
        Command::Version => version(),
    };
    result.unwrap_or_else(|error| fail(&error))
}

fn version() -> anyhow::Result<ExitCode> {
    terminal::out(&format!("vaquita {} (CRI v1)\n", env!("CARGO_PKG_VERSION")))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints why on standard error, in one line.
fn fail(error: &anyhow::Error) -> ExitCode {
    // Where standard error is closed too there is nobody left to tell.
    let _ = terminal::err(&format!("vaquita: {error:#}\n"));
    ExitCode::FAILURE
}
