//! The options that say which node it is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use vaquita_cri::{CgroupDriver, CniConfig, Config, DemoImage, NetworkConfig};
use vaquita_image::{Proxies, Registries};

use super::absolute;
use super::handler::Handler;
use super::network::{Network, Six, Subnet};
use crate::{applets, size};

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
    /// Directory of settings for registries, as containerd and Docker have it: REGISTRY/hosts.toml with mirrors and certificates,
    /// REGISTRY/ca.crt, _default/hosts.toml; see docs/images.md
    #[arg(
        long,
        global = true,
        hide_env = true,
        env = "VAQUITA_CERTS_DIR",
        value_name = "DIR",
        default_value = "/etc/vaquita/certs.d"
    )]
    certs_dir: PathBuf,
    /// File with credentials, as Docker's config.json, for pulls that come without any, and for mirrors [default: none]
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_REGISTRY_AUTH_FILE", value_name = "FILE")]
    registry_auth_file: Option<PathBuf>,
    /// An image that neither kubelet nor `image prune` removes: its name, or NAME* for all that begin so, or *PART* for all
    /// that have it inside; several with commas
    #[arg(long, global = true, hide_env = true, env = "VAQUITA_PINNED_IMAGE", value_name = "NAME")]
    #[arg(value_delimiter = ',')]
    pinned_image: Vec<String>,
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
                certs_dir: Some(absolute(&self.certs_dir)?),
                auth_file: self.registry_auth_file.as_ref().map(absolute).transpose()?,
                proxies: Proxies::from_env(),
                ..Registries::default()
            },
            pinned_images: self.pinned_image.clone(),
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
            config.registries.certs_dir.unwrap_or_default().into(),
        ];
        if let Some(file) = config.registries.auth_file {
            args.extend(["--registry-auth-file".into(), file.into()]);
        }
        for name in config.pinned_images {
            args.extend(["--pinned-image".into(), name.into()]);
        }
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

/// A size for logs: less than this is rotated so often that nothing can be read.
fn log_size(text: &str) -> Result<u64> {
    match size::parse(text) {
        Some(bytes) if bytes >= 1 << 20 => Ok(bytes),
        Some(_) => bail!("it must be 1Mi at least"),
        None => bail!("want bytes, or a number with Ki, Mi or Gi"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;
    use super::*;

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
            "--registry-auth-file",
            "/auth.json",
            "--pinned-image",
            "a,b*",
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
}
