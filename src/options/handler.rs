//! OCI runtimes on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
/// A runtime handler: `runc=/usr/sbin/runc`.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    /// What pods call it.
    pub(super) name: String,
    /// The program.
    pub(super) program: PathBuf,
}

impl FromStr for Handler {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("want NAME=PATH, as in runc=/usr/sbin/runc")?;
        let (program, option) = rest.split_once(',').unwrap_or((rest, ""));
        let program = PathBuf::from(program);
        if name.is_empty() || name == "vaquita" {
            bail!("the name {name:?} is the built-in runtime's");
        }
        if !program.is_absolute() {
            bail!("the path {} is not absolute", program.display());
        }
        if !option.is_empty() {
            bail!("{option:?} is no option; whether systemd makes the cgroups is for --cgroup-driver to say");
        }
        Ok(Self { name: name.to_owned(), program })
    }
}

impl std::fmt::Display for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.program.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_says_what_is_wrong_with_it() {
        let parse = |text: &str| text.parse::<Handler>();
        assert_eq!(parse("runc=/usr/sbin/runc").unwrap().to_string(), "runc=/usr/sbin/runc");
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error("runc").contains("NAME=PATH"));
        assert!(error("vaquita=/x").contains("built-in"));
        assert!(error("runc=runc").contains("not absolute"));
        assert!(error("runc=/runc,systemd-cgroup=true").contains("--cgroup-driver"));
    }
}
