//! What the daemon that answers was started with, beside what was asked of us.

use anyhow::{Context, Result};
use serde::Deserialize;
use tonic::transport::Channel;
use vaquita_cri::{CgroupDriver, Config, NetworkChoice};
use vaquita_proto::cri::StatusRequest;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;

/// The settings that a daemon tells of itself, in the verbose answer to Status.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    cgroup_root: String,
    /// Not told by older daemons.
    #[serde(default)]
    cgroup_driver: CgroupDriver,
    /// The group below which pods are; not told by older daemons, which have them in the root.
    pod_cgroups: Option<String>,
    network: Option<Network>,
    /// Not told by older daemons.
    #[serde(default)]
    pod_network: String,
    restrict_oom_score_adj: bool,
    /// Not told by older daemons.
    #[serde(default)]
    selinux: bool,
    root: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Network {
    bridge: String,
    subnet: String,
}

impl Settings {
    /// Asks the daemon; `None` where it is another runtime, which tells other things.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn of(channel: Channel) -> Result<Option<Self>> {
        let answer = RuntimeServiceClient::new(channel).status(StatusRequest { verbose: true }).await;
        let answer = answer.context("cannot ask the daemon for its settings")?.into_inner();
        Ok(answer.info.get("config").and_then(|config| serde_json::from_str(config).ok()))
    }

    /// The group below which pods are.
    pub(crate) fn pod_cgroups(&self) -> &str {
        self.pod_cgroups.as_ref().unwrap_or(&self.cgroup_root)
    }

    /// What was asked for on the command line and this daemon does not do: a sentence for each option.
    pub(crate) fn unmet(&self, asked: &Config) -> Vec<String> {
        let usual = Config::default();
        let text = |path: &std::path::Path| path.display().to_string();
        let network = |config: &Config| {
            let network = config.network.clone().unwrap_or_default();
            (network.bridge, format!("{}/{}", network.subnet.0, network.subnet.1))
        };
        let choice = |config: &Config| {
            let name = match config.cni.choice {
                NetworkChoice::Auto => "auto",
                NetworkChoice::Builtin => "builtin",
                NetworkChoice::Cni => "cni",
            };
            name.to_owned()
        };
        let driver = |driver| match driver {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        };
        let own_driver = driver(self.cgroup_driver);
        let (asked_driver, usual_driver) =
            (driver(asked.cgroup_driver).to_owned(), driver(usual.cgroup_driver).to_owned());
        let (bridge, subnet) = network(asked);
        let (usual_bridge, usual_subnet) = network(&usual);
        let own = self.network.as_ref().map_or(("", ""), |network| (&*network.bridge, &*network.subnet));
        let rows = [
            ("--root", text(&asked.root), text(&usual.root), &*self.root),
            ("--state", text(&asked.state), text(&usual.state), &*self.state),
            ("--cgroup", text(&asked.cgroup_root), text(&usual.cgroup_root), &*self.cgroup_root),
            ("--cgroup-driver", asked_driver, usual_driver, own_driver),
            ("--bridge", bridge, usual_bridge, own.0),
            ("--subnet", subnet, usual_subnet, own.1),
            ("--network", choice(asked), choice(&usual), &*self.pod_network),
        ];
        let differs = rows.into_iter().filter(|(_, asked, usual, own)| asked != usual && asked != own);
        let mut unmet: Vec<_> = differs
            .map(|(flag, asked, _, own)| {
                format!("{flag} {asked} has no effect: the daemon on the socket runs with {own}")
            })
            .collect();
        if asked.restrict_oom_score_adj && !self.restrict_oom_score_adj {
            unmet.push(
                "--restrict-oom-score-adj has no effect: the daemon on the socket runs without it".into(),
            );
        }
        if asked.selinux && !self.selinux {
            unmet.push("--selinux has no effect: the daemon on the socket runs without it".into());
        }
        unmet
    }
}

#[cfg(test)]
mod tests {
    use vaquita_cri::CniConfig;

    use super::*;

    fn daemon() -> Settings {
        serde_json::from_str(
            r#"{"cgroupRoot":"/vaquita","network":{"bridge":"vaquita0","subnet":"10.210.0.0/16"},
                "podNetwork":"builtin","restrictOomScoreAdj":false,"root":"/var/lib/vaquita","state":"/run/vaquita","more":1}"#,
        )
        .unwrap()
    }

    #[test]
    fn what_is_not_asked_for_is_not_missed() {
        assert_eq!(daemon().unmet(&Config::default()), Vec::<String>::new());
        let other = Settings { root: "/srv".into(), ..daemon() };
        assert_eq!(other.unmet(&Config::default()), Vec::<String>::new());
    }

    #[test]
    fn each_option_that_the_daemon_does_not_follow_is_named() {
        let cni = CniConfig { choice: NetworkChoice::Cni, ..CniConfig::default() };
        let asked = Config {
            root: "/srv".into(),
            restrict_oom_score_adj: true,
            cni,
            cgroup_driver: CgroupDriver::Systemd,
            ..Config::default()
        };
        assert_eq!(
            daemon().unmet(&asked),
            [
                "--root /srv has no effect: the daemon on the socket runs with /var/lib/vaquita",
                "--cgroup-driver systemd has no effect: the daemon on the socket runs with cgroupfs",
                "--network cni has no effect: the daemon on the socket runs with builtin",
                "--restrict-oom-score-adj has no effect: the daemon on the socket runs without it"
            ]
        );
    }
}
