//! The options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run containers from OCI bundles
///
/// A bundle is a directory with a config.json (OCI runtime specification 1.3) and a root filesystem. `create` makes a
/// container of it, `start` lets its program go, `delete` removes what is left; `run` does all three.
#[derive(Debug, Parser)]
#[command(name = "vaquita-oci", max_term_width = 100, disable_help_subcommand = true)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"), subcommand_required = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options before the command.
#[derive(Args, Debug)]
pub(super) struct Global {
    /// Directory of the containers' state [default: /run/vaquita-oci; for ordinary users vaquita-oci in $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// Also write errors to this file
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// How errors are written there
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Let systemd make the cgroups; cgroupsPath is then "slice:prefix:name"
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a container; it waits to be started
    Create(CreateArgs),
    /// Remove a container that has stopped or was not started
    Delete {
        /// Id of the container
        id: String,
        /// Kill it if it runs; no error if there is none
        #[arg(long, short)]
        force: bool,
    },
    /// Run another process in a container; exits as that does
    Exec(ExecArgs),
    /// Send a signal to a container's first process
    Kill {
        /// Id of the container
        id: String,
        /// Name or number of the signal
        #[arg(default_value = "SIGTERM")]
        signal: String,
        /// Send it to all processes of the container
        #[arg(long, short)]
        all: bool,
    },
    /// Create, start, wait for the end and delete; exits as the container's program does
    Run(RunArgs),
    /// Let a created container execute its program
    Start {
        /// Id of the container
        id: String,
    },
    /// Print the state of a container as JSON
    State {
        /// Id of the container
        id: String,
    },
}

impl Command {
    /// For errors: what was asked for.
    pub(super) fn what(&self) -> String {
        let (name, id) = match self {
            Self::Create(args) => ("create", &args.id),
            Self::Delete { id, .. } => ("delete", id),
            Self::Exec(args) => ("exec", &args.id),
            Self::Kill { id, .. } => ("kill", id),
            Self::Run(args) => ("run", &args.create.id),
            Self::Start { id } => ("start", id),
            Self::State { id } => ("state", id),
        };
        format!("{name} {id}")
    }
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Id of the new container: letters, digits and _+-.
    pub(super) id: String,
    /// Directory with config.json
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// Unix socket that gets the master side of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Write the pid of the first process here
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Unix socket that gets a pidfd of the first process
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Pass this many descriptors, from 3 on, besides those of LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u16,
    /// Leave it the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Move the root filesystem over the host's instead of exchanging them: for hosts that run from a ramdisk
    #[arg(long)]
    pub(super) no_pivot: bool,
}

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) create: CreateArgs,
    /// Return when the container has been started
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Do not delete the container when it ends
    #[arg(long)]
    pub(super) keep: bool,
    /// Do not take in processes of the container whose parents end
    #[arg(long)]
    pub(super) no_subreaper: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExecArgs {
    /// Id of the container
    pub(super) id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, required_unless_present = "process")]
    pub(super) command: Vec<String>,
    /// Run what this process.json says; other options about the process have no effect then
    #[arg(long, short, value_name = "FILE", conflicts_with = "command")]
    pub(super) process: Option<PathBuf>,
    /// With a terminal
    #[arg(long, short)]
    pub(super) tty: bool,
    /// Return when it has been started
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Numbers of its user and group [default: those of the container's process]
    #[arg(long, short, value_name = "UID[:GID]", allow_hyphen_values = true)]
    pub(super) user: Option<String>,
    /// Another group; may be given several times
    #[arg(long, short = 'g', value_name = "GID", value_delimiter = ',')]
    pub(super) additional_gids: Vec<String>,
    /// Its working directory
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,
    /// Add to the environment; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Add a capability to the bounding, permitted and effective sets; may be given several times
    #[arg(long, short, value_name = "CAP")]
    pub(super) cap: Vec<String>,
    /// Set no_new_privs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) no_new_privs: Option<bool>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,
    /// A cgroup below the container's that is there already
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Option<String>,
    /// Unix socket that gets the master side of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Write the pid here
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Unix socket that gets a pidfd
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Pass this many descriptors, from 3 on, besides those of LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u16,
    /// Also in a paused container; the process starts when that is resumed
    #[arg(long)]
    pub(super) ignore_paused: bool,
}
