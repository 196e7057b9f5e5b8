//! The command line.

mod handler;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use vaquita_cri::{
    CgroupDriver, CniConfig, Config, DemoImage, NetworkChoice, NetworkConfig, StreamingConfig, Subnet6, Tls,
};
use vaquita_image::Registries;

use self::handler::Handler;
use crate::{applets, size};

/// Kubernetes pods on one bare Linux host.
#[derive(Debug, Parser)]
#[command(name = "vaquita", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Try `vaquita demo`.")]
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
    /// Run the node as a service: CRI on a unix socket
    Daemon(Daemon),
    /// List everything of vaquita on this host with its owner; exit 1 on an orphan
    Check(Check),
    /// Pull, load, list and remove images
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

/// Which node to work with. Two nodes on one host differ in all of these.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node (also from the environment: VAQUITA_ROOT, VAQUITA_STATE, …)")]
pub(crate) struct Node {
    /// Directory of what survives a reboot: images, volumes
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_ROOT",
        value_name = "DIR",
        default_value = "/var/lib/vaquita"
    )]
    root: PathBuf,
    /// Directory of what dies with a reboot: records, sockets, leases
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_STATE",
        value_name = "DIR",
        default_value = "/run/vaquita"
    )]
    state: PathBuf,
    /// Socket of the daemon [default: vaquita.sock in the state directory]
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Bridge of the pod network, and name of its nftables table
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_BRIDGE",
        value_name = "NAME",
        default_value = "vaquita0"
    )]
    bridge: String,
    /// Range of the pods' addresses
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_SUBNET",
        value_name = "CIDR",
        default_value = "10.210.0.0/16"
    )]
    subnet: Subnet,
    /// Range of the pods' IPv6 addresses, or `none`; `auto` is a /64 of the unique local addresses that follows from the
    /// bridge's name, where the host has IPv6
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_SUBNET6",
        value_name = "CIDR",
        default_value = "auto"
    )]
    subnet6: Six,
    /// Which network pods get. auto: that of CNI plugins where --cni-conf-dir has a configuration when the daemon
    /// starts, else the built-in bridge [default: auto; builtin for a daemon that `run`, `demo` or `image` starts]
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_NETWORK", value_enum, value_name = "WHICH")]
    network: Option<Network>,
    /// Directory of CNI network configurations, of which the first in lexical order counts
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CNI_CONF_DIR",
        value_name = "DIR",
        default_value = "/etc/cni/net.d"
    )]
    cni_conf_dir: PathBuf,
    /// Directories of CNI plugins
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CNI_BIN_DIR",
        value_name = "DIR",
        value_delimiter = ',',
        default_value = "/opt/cni/bin,/usr/lib/cni"
    )]
    cni_bin_dir: Vec<PathBuf>,
    /// Seconds that one CNI plugin may take before it is killed
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CNI_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    cni_timeout: u64,
    /// Directories of the Container Device Interface's files; the last that has a device wins
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CDI_SPEC_DIRS",
        value_name = "DIR",
        value_delimiter = ',',
        default_value = "/etc/cdi,/var/run/cdi"
    )]
    cdi_spec_dirs: Vec<PathBuf>,
    /// Program that checkpoints containers: criu(8)
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CRIU",
        value_name = "PROGRAM",
        default_value = "criu"
    )]
    criu: PathBuf,
    /// MTU of the pods' interfaces [default: that of the bridge]
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_MTU", value_name = "BYTES")]
    mtu: Option<u32>,
    /// Who makes cgroups, which has to be what kubelet's cgroupDriver says. auto: systemd where it is init and the host has
    /// cgroup v2 alone [default: auto; cgroupfs for a daemon that `run`, `demo` or `image` starts]
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CGROUP_DRIVER",
        value_enum,
        value_name = "WHICH"
    )]
    cgroup_driver: Option<Driver>,
    /// Cgroup below which everything runs; with the driver systemd it is the slice of that name
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CGROUP",
        value_name = "PATH",
        default_value = "/vaquita"
    )]
    cgroup: PathBuf,
    /// Directory with REGISTRY/ca.crt for each registry whose certificate no public authority has signed
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CERTS_DIR",
        value_name = "DIR",
        default_value = "/etc/vaquita/certs.d"
    )]
    certs_dir: PathBuf,
    /// Where root lacks CAP_SYS_RESOURCE: raise an oom_score_adj that may not be set to the lowest that may,
    /// instead of refusing the container
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_RESTRICT_OOM_SCORE_ADJ")]
    #[arg(action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    restrict_oom_score_adj: bool,
    /// Confine pods by SELinux labels, each at a level of its own; needs a kernel that runs SELinux. Without it a pod that
    /// asks for a label is refused
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_SELINUX")]
    #[arg(action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    selinux: bool,
    /// Size, as in 512Mi, at which the daemon's supervisors begin a container's log anew by themselves and keep one old file,
    /// whatever the client does; see ARCHITECTURE.md [default: no limit]
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_CONTAINER_LOG_MAX_SIZE")]
    #[arg(value_name = "SIZE", value_parser = log_size)]
    container_log_max_size: Option<u64>,
    /// Another OCI runtime, which pods name as their runtime handler; may be given several times
    #[arg(long, global = true, value_name = "NAME=PATH")]
    runtime: Vec<Handler>,
}

impl Node {
    /// The same with absolute paths, as the daemon takes it.
    pub(crate) fn config(&self) -> Result<Config> {
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))
        };
        let state = absolute(&self.state)?;
        let socket = self.socket.as_ref().map(absolute).transpose()?;
        Ok(Config {
            root: absolute(&self.root)?,
            socket: socket.unwrap_or_else(|| state.join("vaquita.sock")),
            state,
            network: Some(NetworkConfig {
                bridge: self.bridge.clone(),
                subnet: (self.subnet.address, self.subnet.prefix),
                subnet6: self.subnet6.0,
                mtu: self.mtu,
            }),
            cni: CniConfig {
                choice: self.network.unwrap_or_default().into(),
                conf_dir: absolute(&self.cni_conf_dir)?,
                bin_dirs: self.cni_bin_dir.iter().map(absolute).collect::<Result<_>>()?,
                timeout: Duration::from_secs(self.cni_timeout),
            },
            cgroup_driver: match self.cgroup_driver {
                Some(Driver::Systemd) => CgroupDriver::Systemd,
                _ => CgroupDriver::Cgroupfs,
            },
            cgroup_root: self.cgroup.clone(),
            demo_image: Some(DemoImage {
                reference: crate::demo::IMAGE.into(),
                entrypoint: vec!["/bin/vaquita".into(), "demo-server".into()],
                links: applets::NAMES.iter().map(|name| format!("/bin/{name}")).collect(),
            }),
            registries: Registries {
                certificates: Some(absolute(&self.certs_dir)?),
                ..Registries::default()
            },
            restrict_oom_score_adj: self.restrict_oom_score_adj,
            selinux: self.selinux,
            container_log_limit: self.container_log_max_size,
            runtimes: self.runtimes()?,
            criu: self.criu.clone(),
            cdi_spec_dirs: self.cdi_spec_dirs.iter().map(absolute).collect::<Result<_>>()?,
            ..Config::default()
        })
    }

    /// Who makes cgroups for a daemon that this process becomes: auto is decided by what the host has.
    pub(crate) fn cgroup_driver(&self) -> CgroupDriver {
        match self.cgroup_driver.unwrap_or_default() {
            Driver::Cgroupfs => CgroupDriver::Cgroupfs,
            Driver::Systemd => CgroupDriver::Systemd,
            Driver::Auto => {
                let is_v2 = || vaquita_cgroup::Layout::detect().is_ok_and(|layout| layout.is_v2());
                match vaquita_cgroup::systemd::is_running() && is_v2() {
                    true => CgroupDriver::Systemd,
                    false => CgroupDriver::Cgroupfs,
                }
            }
        }
    }

    fn runtimes(&self) -> Result<BTreeMap<String, PathBuf>> {
        let mut runtimes = BTreeMap::new();
        for Handler { name, program } in &self.runtime {
            if runtimes.insert(name.clone(), program.clone()).is_some() {
                bail!("--runtime {name}: given twice");
            }
        }
        Ok(runtimes)
    }

    /// The arguments that make another process work with the same node.
    pub(crate) fn to_args(&self) -> Result<Vec<OsString>> {
        let config = self.config()?;
        let mut args: Vec<OsString> = vec![
            "--root".into(),
            config.root.into(),
            "--state".into(),
            config.state.into(),
            "--socket".into(),
            config.socket.into(),
            "--bridge".into(),
            self.bridge.clone().into(),
            "--subnet".into(),
            self.subnet.to_string().into(),
            "--subnet6".into(),
            self.subnet6.to_string().into(),
            "--cgroup".into(),
            self.cgroup.clone().into(),
            "--certs-dir".into(),
            config.registries.certificates.unwrap_or_default().into(),
        ];
        // Who only runs a manifest has not asked for the network of whatever else uses this host.
        let network = self.network.unwrap_or(Network::Builtin).to_possible_value();
        args.extend(["--network".into(), network.unwrap_or_default().get_name().into()]);
        // Nor has it a kubelet that would have to agree.
        let driver = self.cgroup_driver.unwrap_or(Driver::Cgroupfs).to_possible_value();
        args.extend(["--cgroup-driver".into(), driver.unwrap_or_default().get_name().into()]);
        args.extend(["--cni-conf-dir".into(), config.cni.conf_dir.into()]);
        for dir in config.cni.bin_dirs {
            args.extend(["--cni-bin-dir".into(), dir.into()]);
        }
        args.extend(["--criu".into(), config.criu.into()]);
        for dir in config.cdi_spec_dirs {
            args.extend(["--cdi-spec-dirs".into(), dir.into()]);
        }
        args.extend(["--cni-timeout".into(), self.cni_timeout.to_string().into()]);
        if let Some(mtu) = self.mtu {
            args.extend(["--mtu".into(), mtu.to_string().into()]);
        }
        if let Some(size) = self.container_log_max_size {
            args.extend(["--container-log-max-size".into(), size.to_string().into()]);
        }
        for handler in &self.runtime {
            args.extend(["--runtime".into(), handler.to_string().into()]);
        }
        if self.restrict_oom_score_adj {
            args.push("--restrict-oom-score-adj".into());
        }
        if self.selinux {
            args.push("--selinux".into());
        }
        Ok(args)
    }
}

/// User and password for a registry.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl FromStr for Credentials {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some((username, password)) if !username.is_empty() => {
                Ok(Self { username: username.into(), password: password.into() })
            }
            _ => bail!("credentials are USER:PASSWORD"),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A size for logs: less than this is rotated so often that nothing can be read.
fn log_size(text: &str) -> Result<u64> {
    match size::parse(text) {
        Some(bytes) if bytes >= 1 << 20 => Ok(bytes),
        Some(_) => bail!("it must be 1Mi at least"),
        None => bail!("want bytes, or a number with Ki, Mi or Gi"),
    }
}

/// An IPv4 network: `10.210.0.0/16`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl FromStr for Subnet {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, prefix) = text.split_once('/').context("want ADDRESS/PREFIX, as in 10.210.0.0/16")?;
        let address: Ipv4Addr = address.parse().context("the address is not an IPv4 address")?;
        let prefix: u8 = prefix.parse().context("the prefix is not a number")?;
        if !(8..=30).contains(&prefix) {
            bail!("the prefix must be from 8 to 30, so that it holds a gateway and pods");
        }
        let network = address.to_bits() & (u32::MAX << (32 - u32::from(prefix)));
        if network != address.to_bits() {
            bail!("bits behind the prefix are set: did you mean {}/{prefix}?", Ipv4Addr::from_bits(network));
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The IPv6 network of the pods: `auto`, `none`, or `fd00:10::/64`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Six(Subnet6);

impl FromStr for Six {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => return Ok(Self(Subnet6::Derived)),
            "none" => return Ok(Self(Subnet6::Off)),
            _ => {}
        }
        let (address, prefix) =
            text.split_once('/').context("want ADDRESS/PREFIX, as in fd00:10::/64, or auto, or none")?;
        let address: Ipv6Addr = address.parse().context("the address is not an IPv6 address")?;
        let prefix: u8 = prefix.parse().context("the prefix is not a number")?;
        if !(32..=126).contains(&prefix) {
            bail!("the prefix must be from 32 to 126, with room for as many pods as --subnet has");
        }
        let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - u32::from(prefix))));
        if network != address {
            bail!("bits behind the prefix are set: did you mean {network}/{prefix}?");
        }
        Ok(Self(Subnet6::Given(address, prefix)))
    }
}

impl std::fmt::Display for Six {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Subnet6::Derived => f.write_str("auto"),
            Subnet6::Given(address, prefix) => write!(f, "{address}/{prefix}"),
            Subnet6::Off => f.write_str("none"),
        }
    }
}

/// Which network pods get.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Network {
    /// CNI where it is configured
    #[default]
    Auto,
    /// The bridge
    Builtin,
    /// The plugins of the first configuration in --cni-conf-dir, whether it is there yet or not
    Cni,
}

impl From<Network> for NetworkChoice {
    fn from(network: Network) -> Self {
        match network {
            Network::Auto => Self::Auto,
            Network::Builtin => Self::Builtin,
            Network::Cni => Self::Cni,
        }
    }
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Driver {
    /// systemd where it is init and the host has cgroup v2 alone
    #[default]
    Auto,
    /// The daemon, by directories
    Cgroupfs,
    /// systemd, as slices and scopes
    Systemd,
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
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
    /// json: one object per line
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Pull an image from its registry
    Pull {
        /// As in a manifest: `busybox`, `registry.example/team/app:1.2`, `…@sha256:…`
        reference: String,
        /// Credentials for the registry; better in the environment than on the command line, which everybody can read
        #[arg(long, hide_env_values = true, env = "VAQUITA_CREDS", value_name = "USER:PASSWORD")]
        #[arg(value_parser = Credentials::from_str)]
        creds: Option<Credentials>,
    },
    /// List the images that are there
    Ls,
    /// Remove images, by reference, digest or id
    Rm {
        /// Which ones
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Import the images of a tar file: an OCI layout or a Docker archive, also gzipped
    Load {
        /// The file; `-` is standard input
        file: PathBuf,
    },
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_for_another_process_mean_the_same_node() {
        let args = [
            "vaquita",
            "version",
            "--root",
            "/r",
            "--state",
            "/s",
            "--subnet",
            "10.9.0.0/24",
            "--subnet6",
            "fd00:9::/64",
            "--mtu",
            "1400",
            "--network",
            "cni",
            "--cni-bin-dir",
            "/a,/b",
            "--cni-timeout",
            "7",
            "--cgroup-driver",
            "systemd",
        ];
        let node = Cli::try_parse_from(args).unwrap().node;
        let mut again: Vec<OsString> = vec!["vaquita".into(), "version".into()];
        again.extend(node.to_args().unwrap());
        let other = Cli::try_parse_from(again).unwrap().node;
        assert_eq!(format!("{:?}", node.config().unwrap()), format!("{:?}", other.config().unwrap()));
    }

    #[test]
    fn a_size_of_logs_is_not_too_small() {
        assert_eq!(log_size("512Mi").unwrap(), 512 << 20);
        assert!(log_size("1000Ki").unwrap_err().to_string().contains("at least"));
        assert!(log_size("much").unwrap_err().to_string().contains("want bytes"));
    }

    #[test]
    fn a_subnet_says_what_is_wrong_with_it() {
        let error = |text: &str| text.parse::<Subnet>().unwrap_err().to_string();
        assert_eq!("10.0.0.0/24".parse::<Subnet>().unwrap().to_string(), "10.0.0.0/24");
        assert!(error("10.0.0.0").contains("ADDRESS/PREFIX"));
        assert!(error("10.0.0.7/24").contains("did you mean 10.0.0.0/24?"));
        assert!(error("10.0.0.0/32").contains("from 8 to 30"));
        assert!(error("a/24").contains("IPv4"));
        let error = |text: &str| text.parse::<Six>().unwrap_err().to_string();
        for good in ["auto", "none", "fd00:9::/64"] {
            assert_eq!(good.parse::<Six>().unwrap().to_string(), good);
        }
        assert!(error("fd00::").contains("auto, or none") && error("off").contains("none"));
        assert!(error("fd00::7/64").contains("did you mean fd00::/64?"));
        assert!(error("fd00::/127").contains("from 32 to 126"));
        assert!(error("10.0.0.0/64").contains("IPv6"));
    }
}
