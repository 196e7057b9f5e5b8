//! OCI runtimes on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use vaquita_cri::OciRuntime;

/// A runtime handler: `runc=/usr/sbin/runc`, `kata=/opt/kata,systemd-cgroup=true`.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    /// What pods call it.
    pub(super) name: String,
    /// The program.
    pub(super) runtime: OciRuntime,
}

impl FromStr for Handler {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("want NAME=PATH, as in runc=/usr/sbin/runc")?;
        let mut parts = rest.split(',');
        let program = PathBuf::from(parts.next().unwrap_or_default());
        if name.is_empty() || name == "vaquita" {
            bail!("the name {name:?} is the built-in runtime's");
        }
        if !program.is_absolute() {
            bail!("the path {} is not absolute", program.display());
        }
        let mut systemd_cgroup = false;
        for option in parts {
            systemd_cgroup = match option {
                "systemd-cgroup=true" => true,
                "systemd-cgroup=false" => false,
                _ => bail!("{option:?} is no option; there is systemd-cgroup=true"),
            };
        }
        Ok(Self { name: name.to_owned(), runtime: OciRuntime { program, systemd_cgroup } })
    }
}

impl std::fmt::Display for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let OciRuntime { program, systemd_cgroup } = &self.runtime;
        write!(f, "{}={},systemd-cgroup={systemd_cgroup}", self.name, program.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_says_what_is_wrong_with_it() {
        let parse = |text: &str| text.parse::<Handler>();
        let handler = parse("runc=/usr/sbin/runc,systemd-cgroup=true").unwrap();
        assert_eq!((handler.name.as_str(), handler.runtime.systemd_cgroup), ("runc", true));
        assert_eq!(
            parse("runc=/usr/sbin/runc").unwrap().to_string(),
            "runc=/usr/sbin/runc,systemd-cgroup=false"
        );
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error("runc").contains("NAME=PATH"));
        assert!(error("vaquita=/x").contains("built-in"));
        assert!(error("runc=runc").contains("not absolute"));
        assert!(error("runc=/runc,debug=true").contains("no option"));
    }
}
