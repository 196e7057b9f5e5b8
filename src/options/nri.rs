//! Where plugins of the Node Resource Interface are.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use vaquita_cri::NriConfig;

use super::absolute;

#[derive(Args, Debug)]
pub(crate) struct Nri {
    /// Socket on which plugins of the Node Resource Interface connect, where other runtimes have /var/run/nri/nri.sock. They
    /// can change any container: see docs/nri.md [default: none, and no plugins]
    #[arg(long, hide_env = true, env = "VAQUITA_NRI_SOCKET", value_name = "PATH")]
    nri_socket: Option<PathBuf>,
    /// Directory of plugins that are started with the daemon, in the order of their names, NN-NAME [default: none]
    #[arg(
        long,
        hide_env = true,
        env = "VAQUITA_NRI_PLUGIN_PATH",
        value_name = "DIR",
        requires = "nri_socket"
    )]
    nri_plugin_path: Option<PathBuf>,
    /// Directory of these plugins' configurations, NN-NAME.conf or NAME.conf [default: none]
    #[arg(
        long,
        hide_env = true,
        env = "VAQUITA_NRI_PLUGIN_CONFIG_PATH",
        value_name = "DIR",
        requires = "nri_plugin_path"
    )]
    nri_plugin_config_path: Option<PathBuf>,
    /// Milliseconds that a plugin may take for one event before it is left out
    #[arg(
        long,
        hide_env = true,
        env = "VAQUITA_NRI_REQUEST_TIMEOUT",
        value_name = "MS",
        default_value_t = 2000
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60_000))]
    nri_request_timeout: u64,
    /// Milliseconds that a plugin may take to register, and to take note of what is there
    #[arg(
        long,
        hide_env = true,
        env = "VAQUITA_NRI_REGISTRATION_TIMEOUT",
        value_name = "MS",
        default_value_t = 5000
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60_000))]
    nri_registration_timeout: u64,
}

impl Nri {
    /// What the daemon is started with, with absolute paths.
    pub(crate) fn config(&self) -> Result<Option<NriConfig>> {
        let Some(socket) = &self.nri_socket else { return Ok(None) };
        Ok(Some(NriConfig {
            socket: absolute(socket)?,
            plugin_dir: self.nri_plugin_path.as_ref().map(absolute).transpose()?,
            plugin_config_dir: self.nri_plugin_config_path.as_ref().map(absolute).transpose()?,
            registration_timeout: Duration::from_millis(self.nri_registration_timeout),
            request_timeout: Duration::from_millis(self.nri_request_timeout),
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};

    fn parse(args: &[&str]) -> Result<Option<super::NriConfig>, String> {
        let cli = Cli::try_parse_from(["vaquita", "daemon"].iter().chain(args))
            .map_err(|error| error.to_string())?;
        let Command::Daemon(daemon) = cli.command else { return Err("no daemon".into()) };
        daemon.nri.config().map_err(|error| error.to_string())
    }

    #[test]
    fn plugins_are_asked_for_by_the_socket() {
        assert_eq!(parse(&[]).unwrap().map(|config| config.socket), None);
        let config = parse(&["--nri-socket", "/s", "--nri-plugin-path", "/p"]).unwrap().unwrap();
        assert_eq!((config.socket, config.plugin_dir), ("/s".into(), Some("/p".into())));
        assert_eq!((config.request_timeout.as_secs(), config.registration_timeout.as_secs()), (2, 5));
        assert!(parse(&["--nri-plugin-path", "/p"]).unwrap_err().contains("--nri-socket"));
        assert!(parse(&["--nri-socket", "/s", "--nri-request-timeout", "0"]).is_err());
    }
}
