//! What a server is started with.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use vaquita_image::Registries;
use vaquita_net::Subnet6;
use vaquita_streaming::Config as StreamingConfig;

use crate::{CgroupDriver, NriConfig};

/// Where a server keeps its things and how it behaves.
///
/// Two servers on one host need different `root`, `state`, `socket`, `cgroup_root` and network.
#[derive(Clone, Debug)]
pub struct Config {
    /// Survives a reboot: images, snapshots. Made with mode 0700.
    pub root: PathBuf,
    /// Dies with a reboot: records, sockets, leases. Should be on a tmpfs. Made with mode 0700.
    pub state: PathBuf,
    /// The socket of the services, mode 0600.
    pub socket: PathBuf,
    /// The built-in pod network. `None`: there is none.
    pub network: Option<NetworkConfig>,
    /// The pod network that the host's administrator has configured, and when it is used instead of the built-in one.
    pub cni: CniConfig,
    /// Who makes cgroups, and so what a `cgroup_parent` has to be: a path, or a slice of systemd.
    pub cgroup_driver: CgroupDriver,
    /// The cgroup, in cgroupfs syntax, below which pods without a `cgroup_parent` get theirs. With the driver systemd it is
    /// the slice of that name: for `/vaquita` it is `vaquita.slice`.
    pub cgroup_root: PathBuf,
    /// The static executable that shims run, as it is at start. `None`: the running executable.
    pub executable: Option<PathBuf>,
    /// How registries are reached.
    pub registries: Registries,
    /// Which images are pinned: kubelet and pruning leave them alone. See [`vaquita_image::Options::pinned`].
    pub pinned_images: Vec<String>,
    /// An image that any pull of its reference gets without a registry.
    pub demo_image: Option<DemoImage>,
    /// Raise an `oom_score_adj` that this process may not set to the lowest that it may, instead of refusing the container.
    /// For hosts where root lacks `CAP_SYS_RESOURCE`.
    pub restrict_oom_score_adj: bool,
    /// Confine pods by SELinux labels. Opening the server fails where the kernel does not run SELinux.
    pub selinux: bool,
    /// Bytes after which a container's log file is renamed and begun anew by ourselves, whatever the client does, of which
    /// renamed ones one is kept. For writers that fill a disk before their client has looked at their logs.
    pub container_log_limit: Option<u64>,
    /// OCI runtimes that pods can name as their runtime handler, by the absolute paths of their programs, beside the built-in
    /// one, which goes by "" and "vaquita".
    pub runtimes: BTreeMap<String, PathBuf>,
    /// The directories of the files of the Container Device Interface. The last that has a device wins; looked at for each
    /// container that asks for one.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The program that checkpoints containers, criu(8): a path, or a name that is looked for in `PATH`.
    pub criu: PathBuf,
    /// Where exec, attach and port-forward are served.
    pub streaming: StreamingConfig,
    /// A loopback address on which the metrics of this process are served, as on `metrics.sock` in `state`.
    pub metrics_address: Option<SocketAddr>,
    /// Where an OpenTelemetry collector takes spans by OTLP over gRPC, as `http://127.0.0.1:4317`. `None`: nowhere.
    pub otlp_endpoint: Option<String>,
    /// How many of a million requests begin a trace, of those that belong to none. A client that has a trace decides by itself.
    pub otlp_sampling_per_million: u32,
    /// Where plugins of the Node Resource Interface connect, and which are started. `None`: there are none.
    pub nri: Option<NriConfig>,
    /// End when for two seconds there has been no pod and no connection.
    pub idle_exit: bool,
}

impl Default for Config {
    /// The one server of a host: `/var/lib/vaquita`, `/run/vaquita`.
    fn default() -> Self {
        Self {
            root: "/var/lib/vaquita".into(),
            state: "/run/vaquita".into(),
            socket: "/run/vaquita/vaquita.sock".into(),
            network: Some(NetworkConfig::default()),
            cni: CniConfig::default(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroup_root: "/vaquita".into(),
            executable: None,
            registries: Registries::default(),
            pinned_images: Vec::new(),
            demo_image: None,
            restrict_oom_score_adj: false,
            selinux: false,
            container_log_limit: None,
            runtimes: BTreeMap::new(),
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            criu: "criu".into(),
            streaming: StreamingConfig::default(),
            metrics_address: None,
            otlp_endpoint: None,
            otlp_sampling_per_million: 0,
            nri: None,
            idle_exit: false,
        }
    }
}

/// The built-in bridge network.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The bridge, and the name of the nftables table. At most 15 bytes.
    pub bridge: String,
    /// First address and prefix length of the range that pods get their addresses from.
    pub subnet: (Ipv4Addr, u8),
    /// Where pods get a second address from, of IPv6.
    pub subnet6: Subnet6,
    /// The MTU of the pods' interfaces. `None`: that of the bridge.
    pub mtu: Option<u32>,
}

impl Default for NetworkConfig {
    /// `vaquita0`, `10.210.0.0/16` and a subnet of IPv6 that follows from the bridge's name.
    fn default() -> Self {
        let subnet = (Ipv4Addr::new(10, 210, 0, 0), 16);
        Self { bridge: "vaquita0".into(), subnet, subnet6: Subnet6::Derived, mtu: None }
    }
}

/// Which network pods are connected with when they are made. Those that are there stay with theirs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NetworkChoice {
    /// CNI when a server starts that finds a configuration, usable or not; else the built-in one.
    #[default]
    Auto,
    /// The built-in one.
    Builtin,
    /// CNI. The network is not ready while there is no configuration.
    Cni,
}

/// The network of CNI plugins.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Which network pods get.
    pub choice: NetworkChoice,
    /// The directory of the configurations. The first in lexical order counts; looked at for each use.
    pub conf_dir: PathBuf,
    /// The directories of the plugins. The first that has one wins.
    pub bin_dirs: Vec<PathBuf>,
    /// How long one plugin may take before it is killed.
    pub timeout: Duration,
}

impl Default for CniConfig {
    /// As with containerd: `/etc/cni/net.d`, `/opt/cni/bin`; then where Debian has its plugins. One minute.
    fn default() -> Self {
        Self {
            choice: NetworkChoice::default(),
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            timeout: Duration::from_secs(60),
        }
    }
}

/// An image made of our own executable, at `/bin/vaquita`.
#[derive(Clone, Debug)]
pub struct DemoImage {
    /// What a manifest calls it.
    pub reference: String,
    /// What a container runs that gives no command.
    pub entrypoint: Vec<String>,
    /// Other names of the executable in the image, as symbolic links: `/bin/sh` …
    pub links: Vec<String>,
}
