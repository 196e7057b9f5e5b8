//! The command line.

mod cluster;
mod handler;
mod image;
mod network;
mod node;
mod nri;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use vaquita_cri::{StreamingConfig, Tls};

pub(crate) use self::cluster::{Cluster, Kubeconfig};
pub(crate) use self::image::{Credentials, Image, ImageCommand};
pub(crate) use self::node::Node;

/// Kubernetes pods on one bare Linux host.
#[derive(Debug, Parser)]
#[command(name = "vaquita", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Try `vaquita demo`, or `vaquita up` and then kubectl.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) node: Node,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the pods of Kubernetes manifests, and remove them when they end or on Ctrl-C
    Run(Run),
    /// Run a built-in pod: a web server with probes to play with
    Demo(Demo),
    /// Run this host as a Kubernetes of one node, for kubectl: the daemon with `--api`
    #[command(mut_arg("api", |flag| flag.hide(true)))]
    Up(Daemon),
    /// Print the kubeconfig of the administrator, or merge it into a file
    Kubeconfig(Kubeconfig),
    /// Save the objects of the cluster to a file, also while it runs
    Backup {
        /// The file to make; it must not be there yet
        file: PathBuf,
    },
    /// Put back the objects of a backup, instead of those that are there; the daemon must not run
    Restore {
        /// What `vaquita backup` made
        file: PathBuf,
    },
    /// Run the node as a service: CRI on a unix socket
    Daemon(Daemon),
    /// List everything of vaquita on this host with its owner; exit 1 on an orphan
    Check(Check),
    /// Pull, load, save, list, name and remove images, and see what takes the disk
    Image(Image),
    /// Run single containers from OCI bundles, with runc's command line (also called as `vaquita-oci`)
    #[command(disable_help_flag = true)]
    Oci {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        arguments: Vec<OsString>,
    },
    /// Print the version
    Version,
    /// The web server of the demo image
    #[command(hide = true)]
    DemoServer(DemoServer),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON object per line
    Json,
}

const EXIT_STATUS: &str = "\
Exit status:
  0    every pod ended and succeeded
  N    a pod failed: the exit status of its container that failed first, 1 where there is none
  1    something could not be done: the reason is on standard error
  2    the command line or a manifest is wrong: nothing was started
  130  ended by Ctrl-C (SIGINT), 143 by SIGTERM, 129 by SIGHUP: the pods are removed all the same";

#[derive(Args, Debug)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Run {
    /// Manifests with Pods, and with ConfigMaps and Secrets for them; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// json: events and logs as JSON lines on standard output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Demo {
    /// Print the manifest and do nothing else
    #[arg(long)]
    pub(crate) print: bool,
    /// json: events and logs as JSON lines on standard output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct Daemon {
    /// Serve the Kubernetes API too, and run what it says
    #[arg(long, hide_env = true, env = "VAQUITA_API", conflicts_with = "idle_exit")]
    #[arg(action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub(crate) api: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// End when for two seconds there has been no pod and no connection
    #[arg(long)]
    pub(crate) idle_exit: bool,
    /// Where exec, attach and port-forward are served: a loopback address, or any with TLS; port 0 takes one that is free
    #[arg(
        long,
        hide_env = true,
        env = "VAQUITA_STREAMING_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:0"
    )]
    pub(crate) streaming_address: SocketAddr,
    /// Certificate for that, in PEM form
    #[arg(long, value_name = "FILE", requires = "streaming_tls_key")]
    pub(crate) streaming_tls_cert: Option<PathBuf>,
    /// The key of the certificate, in PEM form
    #[arg(long, value_name = "FILE", requires = "streaming_tls_cert")]
    pub(crate) streaming_tls_key: Option<PathBuf>,
    /// Loopback address on which the daemon's own metrics are served for Prometheus, as they always are on metrics.sock in
    /// the state directory [default: none]
    #[arg(long, hide_env = true, env = "VAQUITA_METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    pub(crate) metrics_address: Option<SocketAddr>,
    /// OpenTelemetry collector that gets a span for each request of a trace that its client records: OTLP over gRPC without
    /// TLS, as http://127.0.0.1:4317 [default: none]
    #[arg(long, hide_env = true, env = "VAQUITA_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// How many of a million requests without a trace begin one
    #[arg(long, hide_env = true, env = "VAQUITA_OTLP_SAMPLING_PER_MILLION", value_name = "NUMBER")]
    #[arg(default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000), requires = "otlp_endpoint")]
    pub(crate) otlp_sampling_per_million: u32,
    #[command(flatten)]
    pub(crate) nri: nri::Nri,
    /// How the log is written to standard error
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_env = true,
        env = "VAQUITA_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: Output,
    /// What is logged: error, warn, info, debug, trace, or directives such as `info,vaquita_net=debug`
    #[arg(long, default_value = "info", hide_env = true, env = "VAQUITA_LOG", value_name = "LEVEL")]
    pub(crate) log_level: String,
    /// Started by `vaquita run`: own session, and one line on standard output when ready or failed
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

impl Daemon {
    /// How exec, attach and port-forward are served.
    pub(crate) fn streaming(&self) -> StreamingConfig {
        let files = self.streaming_tls_cert.clone().zip(self.streaming_tls_key.clone());
        StreamingConfig {
            address: self.streaming_address,
            tls: files.map(|(certificate, key)| Tls { certificate, key }),
            ..StreamingConfig::default()
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// json: one object per line
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct DemoServer {
    /// Where to listen
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Seconds from the start until /ready says yes
    #[arg(long, default_value_t = 0)]
    pub(crate) ready_after: u64,
}

/// The same place from any working directory.
fn absolute(path: &PathBuf) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
