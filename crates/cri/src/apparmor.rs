//! AppArmor's profiles, as this kernel has them: which are loaded, and the loading of the default one.

mod profile;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Doing;
use crate::{Error, Kind, Result};

/// The profile of containers that do not ask for one. One that is loaded by that name is used as it is, whoever has loaded it.
pub(crate) const DEFAULT: &str = "vaquita-default";
/// The profiles of this kernel, one line each: `NAME (MODE)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// Where AppArmor's own policy lies.
const POLICY: &str = "/etc/apparmor.d";
/// What loads profiles.
const PARSER: &str = "apparmor_parser";
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a container is to be confined.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Wanted {
    /// By nothing.
    Unconfined,
    /// By the default profile.
    Default {
        /// Somebody has asked for it, so that there is no going on without.
        asked: bool,
    },
    /// By a profile that somebody has loaded.
    Named(String),
}

/// What a server knows of AppArmor.
#[derive(Debug, Default)]
pub(crate) struct AppArmor {
    /// Held while the default profile is loaded. Whether somebody was told that it cannot be.
    loading: Mutex<bool>,
}

impl AppArmor {
    /// The profile to execute a program under; none where nobody has asked for the default one and it cannot be had. Blocks: it
    /// looks what is loaded, and loads the default one.
    ///
    /// # Errors
    /// `Precondition` if the profile is not loaded and cannot be.
    pub(crate) fn profile(&self, wanted: &Wanted) -> Result<Option<String>> {
        match wanted {
            Wanted::Unconfined => Ok(Some("unconfined".into())),
            Wanted::Named(name) if is_loaded(name)? => Ok(Some(name.clone())),
            Wanted::Named(name) => Err(precondition(format!(
                "apparmor: the profile {name:?} is not loaded: load it on this node with `{PARSER} --replace FILE`"
            ))),
            Wanted::Default { asked } => self.default_profile(*asked),
        }
    }

    fn default_profile(&self, asked: bool) -> Result<Option<String>> {
        let mut told = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match is_loaded(DEFAULT) {
            Ok(true) => return Ok(Some(DEFAULT.into())),
            Ok(false) => match parser() {
                Some(parser) => return load(&parser).map(|()| Some(DEFAULT.into())),
                None => precondition(format!(
                    "apparmor: the profile {DEFAULT:?} is not loaded, and there is no {PARSER} to load it with: install it \
                     (Debian's and Ubuntu's package is `apparmor`), or ask for Unconfined"
                )),
            },
            Err(error) => error,
        };
        if asked {
            return Err(why);
        }
        if !std::mem::replace(&mut *told, true) {
            tracing::warn!(%why, "containers that do not ask for an AppArmor profile are not confined by one");
        }
        Ok(None)
    }

    /// What `crictl info` shows. Does not look what is loaded.
    pub(crate) fn describe(&self, enabled: bool) -> serde_json::Value {
        serde_json::json!({ "enabled": enabled, "parser": parser(), "defaultProfile": DEFAULT })
    }
}

fn precondition(message: String) -> Error {
    Error::new(Kind::Precondition, message)
}

#[expect(clippy::disallowed_methods, reason = "the host's own securityfs")]
fn is_loaded(name: &str) -> Result<bool> {
    let text = std::fs::read_to_string(PROFILES).map_err(|error| {
        precondition(format!(
            "apparmor: which profiles are loaded cannot be told: read {PROFILES}: {error}; is securityfs mounted?"
        ))
    })?;
    Ok(lists(&text, name))
}

/// Whether a profile is among these. Its name may hold anything but a line break.
fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name))
}

/// Beside where it always is, it may be on the path: so on NixOS.
#[expect(clippy::disallowed_methods, reason = "programs of the host")]
fn parser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut all = usual.into_iter().chain(std::env::split_paths(&path).filter(|dir| dir.is_absolute()));
    all.find_map(|dir| Some(dir.join(PARSER)).filter(|program| program.is_file()))
}

/// Loads the default profile, for as long as this kernel runs.
#[expect(clippy::disallowed_methods, reason = "the host's own policy and /proc")]
fn load(parser: &Path) -> Result<()> {
    let has = |file: &str| Path::new(POLICY).join(file).is_file();
    let policy = profile::Policy {
        abi: has("abi/3.0"),
        tunables: has("tunables/global"),
        base: has("abstractions/base"),
    };
    let own = std::fs::read_to_string("/proc/self/attr/apparmor/current").unwrap_or_default();
    let own = own.trim_end();
    let own = own.rsplit_once(" (").map_or(own, |(name, _)| name);
    let said = run(parser, &profile::text(policy, own))?;
    if is_loaded(DEFAULT)? {
        tracing::info!(profile = DEFAULT, "the AppArmor profile of containers was loaded");
        return Ok(());
    }
    Err(precondition(format!(
        "apparmor: {} ended well, but the profile {DEFAULT:?} is not loaded: {said}",
        parser.display()
    )))
}

/// Gives the parser a profile; returns what it says.
fn run(parser: &Path, text: &str) -> Result<String> {
    let doing = || format!("run {}", parser.display());
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(doing)?;
    let errors = child.stderr.take();
    // Both are less than a pipe holds. One that does not read says why when it ends.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(text.as_bytes());
    }
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().doing(doing)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                let message =
                    format!("apparmor: {} did not end within {} s", parser.display(), PATIENCE.as_secs());
                return Err(Error::new(Kind::Timeout, message));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let said = errors.map(std::io::read_to_string).transpose().doing(doing)?.unwrap_or_default();
    let said = said.trim().replace('\n', "; ");
    if status.success() {
        return Ok(said);
    }
    Err(precondition(format!(
        "apparmor: {} could not load the profile {DEFAULT:?}: {status}: {said}",
        parser.display()
    )))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let list = "unconfined (unconfined)\n/usr/bin/man (enforce)\nman_groff (complain)\na (b) (enforce)\n";
        for name in ["/usr/bin/man", "man_groff", "a (b)"] {
            assert!(lists(list, name), "{name}");
        }
        for name in ["/usr/bin/ma", "usr/bin/man", "man", "a", "a (b) (enforce)", "", "x"] {
            assert!(!lists(list, name), "{name:?}");
        }
    }

    #[test]
    fn what_the_parser_says_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let program = |text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.path().join("parser");
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        assert_eq!(run(&program("cat >&2"), "one\ntwo\n").unwrap(), "one; two");
        let error = run(&program("echo no such thing >&2; exit 1"), "").unwrap_err().to_string();
        assert!(error.contains("exit status: 1: no such thing"), "{error}");
        assert!(run(&dir.path().join("nothing"), "").unwrap_err().to_string().contains("nothing"));
    }

    #[test]
    fn unconfined_needs_no_kernel() {
        let wanted = AppArmor::default().profile(&Wanted::Unconfined).unwrap();
        assert_eq!(wanted.as_deref(), Some("unconfined"));
    }

    /// Elsewhere the machine of `hack/vm` has them loaded.
    #[test]
    fn a_profile_that_is_not_loaded_is_an_error() {
        let error = AppArmor::default().profile(&Wanted::Named("vq-nobody".into())).unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
        if Path::new(PROFILES).exists() {
            assert!(error.to_string().contains("apparmor_parser --replace"), "{error}");
        } else {
            assert!(error.to_string().contains("is securityfs mounted?"), "{error}");
            assert_eq!(AppArmor::default().profile(&Wanted::Default { asked: false }).unwrap(), None);
            assert!(AppArmor::default().profile(&Wanted::Default { asked: true }).is_err());
        }
    }
}
