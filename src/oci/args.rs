//! The options.

use std::path::PathBuf;
use std::time::Duration;

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
    /// Accepted for other programs' sake: errors always say all that is known
    #[arg(long)]
    pub(super) debug: bool,
    /// Whether a new container does without cgroups that are not permitted, if it asks for no limits; auto: for ordinary
    /// users, and in a user namespace to which no cgroups were given
    #[arg(long, value_name = "true|false|auto", default_value = "auto", hide_possible_values = true)]
    pub(super) rootless: Rootless,
    /// The program that checkpoint and restore use
    #[arg(long, value_name = "FILE", default_value = "criu")]
    pub(super) criu: PathBuf,
    /// Let systemd make the cgroups; cgroupsPath is then "slice:prefix:name"
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Rootless {
    Auto,
    False,
    True,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(super) enum Command {
    /// Write a running container to files, by CRIU
    Checkpoint(Box<CheckpointArgs>),
    /// Make a container; it waits to be started
    Create(CreateArgs),
    /// Remove a container that has stopped or was not started
    Delete(Delete),
    /// Print what a container uses, again and again, and when it runs out of memory, as JSON
    Events(Events),
    /// Run another process in a container; exits as that does
    Exec(Box<ExecArgs>),
    /// Print what this runtime can do, as JSON
    Features,
    /// Send a signal to a container's first process
    Kill(Kill),
    /// List the containers
    List(List),
    /// Stop all processes of a container until it is resumed
    Pause(Which),
    /// List the processes of a container
    Ps(Ps),
    /// Make a container from such files, by CRIU
    Restore(Box<RestoreArgs>),
    /// Let the processes of a paused container go on
    Resume(Which),
    /// Create, start, wait for the end and delete; exits as the container's program does
    Run(RunArgs),
    /// Write a config.json to begin with
    Spec(Spec),
    /// Let a created container execute its program
    Start(Which),
    /// Print the state of a container as JSON
    State(Which),
    /// Change the limits of a container
    Update(Box<Update>),
}

impl Command {
    /// For errors: what was asked for.
    pub(super) fn what(&self) -> String {
        let (name, id) = match self {
            Self::Checkpoint(args) => ("checkpoint", &args.id),
            Self::Create(args) => ("create", &args.id),
            Self::Delete(args) => ("delete", &args.id),
            Self::Events(args) => ("events", &args.id),
            Self::Exec(args) => ("exec", &args.id),
            Self::Features => return "features".to_owned(),
            Self::Kill(args) => ("kill", &args.id),
            Self::List(_) => return "list".to_owned(),
            Self::Pause(args) => ("pause", &args.id),
            Self::Ps(args) => ("ps", &args.id),
            Self::Restore(args) => ("restore", &args.id),
            Self::Resume(args) => ("resume", &args.id),
            Self::Run(args) => ("run", &args.create.id),
            Self::Spec(_) => return "spec".to_owned(),
            Self::Start(args) => ("start", &args.id),
            Self::State(args) => ("state", &args.id),
            Self::Update(args) => ("update", &args.id),
        };
        format!("{name} {id}")
    }
}

// Not a doc comment: that would become the description of the commands.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Id of the container
    pub(super) id: String,
}

#[derive(Args, Debug)]
pub(super) struct Delete {
    /// Id of the container
    pub(super) id: String,
    /// Kill it if it runs; no error if there is none
    #[arg(long, short)]
    pub(super) force: bool,
}

#[derive(Args, Debug)]
pub(super) struct Events {
    /// Id of the container
    pub(super) id: String,
    /// Print what it uses once
    #[arg(long)]
    pub(super) stats: bool,
    /// How often: a number with a unit, such as 500ms, 5s or 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = super::units::duration)]
    pub(super) interval: Duration,
}

#[derive(Args, Debug)]
pub(super) struct Kill {
    /// Id of the container
    pub(super) id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM")]
    pub(super) signal: String,
    /// Send it to all processes of the container
    #[arg(long, short)]
    pub(super) all: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Format {
    Json,
    Table,
}

#[derive(Args, Debug)]
pub(super) struct List {
    /// How they are printed
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub(super) format: Format,
    /// Print the ids only
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Args, Debug)]
pub(super) struct Ps {
    /// Id of the container
    pub(super) id: String,
    /// A table of ps(1), or the pids as JSON
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub(super) format: Format,
    /// Options for ps(1) [default: -ef]
    #[arg(value_name = "PS OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) options: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct Spec {
    /// Directory that gets it
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// For an ordinary user: a user namespace, and nothing that needs root
    #[arg(long)]
    pub(super) rootless: bool,
}

#[derive(Args, Debug)]
pub(super) struct Update {
    /// Id of the container
    pub(super) id: String,
    /// Take all changes from this JSON file, or from standard input for "-": an object as linux.resources in config.json.
    /// Other options but those of schemas have no effect then
    #[arg(long, short, value_name = "FILE", allow_hyphen_values = true)]
    pub(super) resources: Option<PathBuf>,
    /// Weight of block IO, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub(super) blkio_weight: Option<u16>,
    /// Period of the CPU limit in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_period: Option<u64>,
    /// CPU time in a period in microseconds; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    /// CPU time above the limit that may be saved up, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_burst: Option<u64>,
    /// Weight of CPU time against other containers
    #[arg(long, value_name = "SHARES")]
    pub(super) cpu_share: Option<u64>,
    /// Period of the limit for real-time processes in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_rt_period: Option<u64>,
    /// Their CPU time in it in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// 1: run only when nothing else wants the CPU; 0: as usual
    #[arg(long, value_name = "0|1")]
    pub(super) cpu_idle: Option<i64>,
    /// CPUs that may be used, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,
    /// Memory limit: bytes, or with a unit such as 512m; -1 for none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = super::units::bytes)]
    pub(super) memory: Option<i64>,
    /// Memory to be kept for it, or to which it is held under pressure (cgroup v1)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = super::units::bytes)]
    pub(super) memory_reservation: Option<i64>,
    /// Limit of memory and swap together; -1 for none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = super::units::bytes)]
    pub(super) memory_swap: Option<i64>,
    /// Gone from the kernel
    #[arg(long, hide = true, allow_hyphen_values = true, value_parser = super::units::bytes)]
    pub(super) kernel_memory: Option<i64>,
    /// Gone from the kernel
    #[arg(long, hide = true, allow_hyphen_values = true, value_parser = super::units::bytes)]
    pub(super) kernel_memory_tcp: Option<i64>,
    /// Number of processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    /// Schema of the L3 cache (resctrl)
    #[arg(long, value_name = "SCHEMA")]
    pub(super) l3_cache_schema: Option<String>,
    /// Schema of the memory bandwidth (resctrl)
    #[arg(long, value_name = "SCHEMA")]
    pub(super) mem_bw_schema: Option<String>,
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
    /// A cgroup below the container's that is there already. With cgroup v1 also for some controllers alone, and then
    /// several times
    #[arg(long, value_name = "[CONTROLLER,...:]PATH")]
    pub(super) cgroup: Vec<String>,
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

// Not a doc comment: that would become the description of the commands.
// What both ways have; criu(8) explains each.
#[derive(Args, Debug)]
pub(super) struct CriuArgs {
    /// Directory of the files
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub(super) image_path: PathBuf,
    /// Directory of logs [default: that of the files]
    #[arg(long, value_name = "DIR")]
    pub(super) work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub(super) tcp_established: bool,
    /// Allow unix sockets whose other end is outside
    #[arg(long)]
    pub(super) ext_unix_sk: bool,
    /// Allow a terminal that is outside
    #[arg(long)]
    pub(super) shell_job: bool,
    /// Allow file locks
    #[arg(long)]
    pub(super) file_locks: bool,
    /// Move memory only when it is used (userfaultfd)
    #[arg(long)]
    pub(super) lazy_pages: bool,
    /// Do not keep the same memory twice
    #[arg(long)]
    pub(super) auto_dedup: bool,
    /// What is done with cgroups
    #[arg(long, value_name = "MODE", default_value = "soft", value_parser = ["soft", "full", "strict", "ignore"])]
    pub(super) manage_cgroups_mode: String,
    /// Make this namespace, but do not restore what is in it
    #[arg(long, value_name = "KIND", value_parser = ["network"])]
    pub(super) empty_ns: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct CheckpointArgs {
    /// Id of the container
    pub(super) id: String,
    #[command(flatten)]
    pub(super) criu: CriuArgs,
    /// Let the container go on
    #[arg(long)]
    pub(super) leave_running: bool,
    /// Write the memory only, and let the container go on
    #[arg(long)]
    pub(super) pre_dump: bool,
    /// Files of a pre-dump before, relative to the directory of the files
    #[arg(long, value_name = "DIR")]
    pub(super) parent_path: Option<PathBuf>,
    /// Link files that were removed back into place, where that is possible
    #[arg(long)]
    pub(super) link_remap: bool,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    pub(super) tcp_skip_in_flight: bool,
    /// Send the memory to a page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) page_server: Option<String>,
    /// Descriptor that gets a NUL byte when --lazy-pages is ready
    #[arg(long, value_name = "FD")]
    pub(super) status_fd: Option<u16>,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// Id of the new container
    pub(super) id: String,
    #[command(flatten)]
    pub(super) criu: CriuArgs,
    /// Directory with config.json
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// Return when the container runs
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Write the pid of the first process here
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Refused: CRIU restores no terminal of another process
    #[arg(long, value_name = "SOCKET", hide = true)]
    pub(super) console_socket: Option<PathBuf>,
    /// Accepted for other programs' sake: CRIU makes the root
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Accepted for other programs' sake
    #[arg(long)]
    pub(super) no_subreaper: bool,
    /// Profile of a security module
    #[arg(long, value_name = "TYPE:NAME")]
    pub(super) lsm_profile: Option<String>,
    /// Label of the mounts
    #[arg(long, value_name = "LABEL")]
    pub(super) lsm_mount_context: Option<String>,
}
