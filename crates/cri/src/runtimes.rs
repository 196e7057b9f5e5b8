//! Runtime handlers: what a client may name to have the containers of a pod made in one way or another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vaquita_proto::cri;

use crate::{Error, Result};

/// The name under which the built-in runtime goes, beside "".
pub(crate) const BUILT_IN: &str = "vaquita";
/// How long a program may take to say what it can.
const PATIENCE: Duration = Duration::from_secs(10);

/// The handlers of a server.
#[derive(Debug, Default)]
pub(crate) struct Runtimes {
    others: BTreeMap<String, Other>,
}

#[derive(Debug)]
struct Other {
    program: PathBuf,
    features: cri::RuntimeHandlerFeatures,
}

impl Runtimes {
    /// Asks each program what it can do. One that cannot say, or is not there, is a handler without features: it may be
    /// installed later.
    ///
    /// # Errors
    /// `Invalid` for a name that is taken or cannot be one, and for a path that is not absolute.
    pub(crate) fn look(configured: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let mut others = BTreeMap::new();
        for (name, program) in configured {
            if name.is_empty() || name == BUILT_IN {
                return Err(Error::invalid(format!("runtime {name:?}: this is the built-in one's name")));
            }
            if !program.is_absolute() {
                let program = program.display();
                return Err(Error::invalid(format!("runtime {name}: the path {program} is not absolute")));
            }
            let features = ask(program).unwrap_or_else(|why| {
                let program = program.display();
                tracing::warn!(runtime = name, %program, why, "a runtime does not say what it can");
                cri::RuntimeHandlerFeatures::default()
            });
            others.insert(name.clone(), Other { program: program.clone(), features });
        }
        Ok(Self { others })
    }

    /// The program of a handler's runtime, none for the built-in one.
    ///
    /// # Errors
    /// `Invalid` if there is no such handler.
    pub(crate) fn find(&self, handler: &str) -> Result<Option<&Path>> {
        match self.others.get(handler) {
            Some(other) => Ok(Some(&other.program)),
            None if matches!(handler, "" | BUILT_IN) => Ok(None),
            None => {
                let known: Vec<_> = self.others.keys().map(String::as_str).collect();
                Err(Error::invalid(format!(
                    "runtime_handler: {handler:?} is unknown; there is {BUILT_IN:?}{}{}",
                    if known.is_empty() { "" } else { ", " },
                    known.join(", ")
                )))
            }
        }
    }

    /// What `Status` says, the built-in one with its features first.
    pub(crate) fn handlers(&self, built_in: cri::RuntimeHandlerFeatures) -> Vec<cri::RuntimeHandler> {
        let others = self.others.iter().map(|(name, other)| (name.as_str(), other.features));
        [("", built_in), (BUILT_IN, built_in)]
            .into_iter()
            .chain(others)
            .map(|(name, features)| cri::RuntimeHandler { name: name.into(), features: Some(features) })
            .collect()
    }
}

/// What `PROGRAM features` prints (features.md of the OCI runtime specification).
fn ask(program: &Path) -> std::result::Result<cri::RuntimeHandlerFeatures, String> {
    let mut child = Command::new(program)
        .arg("features")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let stdout = child.stdout.take();
    // It is a few kilobytes, less than a pipe holds, so it can be read when the program has ended.
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not end within {} seconds", PATIENCE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    if !status.success() {
        return Err(format!("`features` ended with {status}"));
    }
    let text = stdout.map(std::io::read_to_string).transpose().map_err(|error| error.to_string())?;
    features(&text.unwrap_or_default())
}

/// User namespaces are not among them: their set-up is the built-in runtime's.
fn features(text: &str) -> std::result::Result<cri::RuntimeHandlerFeatures, String> {
    let known: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let options = known["mountOptions"].as_array();
    let recursive_read_only_mounts = options.is_some_and(|all| all.iter().any(|option| option == "rro"));
    Ok(cri::RuntimeHandlerFeatures { recursive_read_only_mounts, user_namespaces: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_from_what_a_runtime_prints() {
        assert!(features(r#"{"mountOptions": ["ro", "rro"]}"#).unwrap().recursive_read_only_mounts);
        assert!(!features(r#"{"mountOptions": ["ro"]}"#).unwrap().recursive_read_only_mounts);
        assert!(!features("{}").unwrap().recursive_read_only_mounts);
        assert!(features("unknown command features").is_err());
    }

    #[test]
    fn handlers_are_found_by_name() {
        let configured = BTreeMap::from([("none".to_owned(), "/nothing/there".into())]);
        let runtimes = Runtimes::look(&configured).unwrap();
        assert_eq!(runtimes.find("").unwrap(), None);
        assert_eq!(runtimes.find("vaquita").unwrap(), None);
        assert_eq!(runtimes.find("none").unwrap(), Some(Path::new("/nothing/there")));
        let error = runtimes.find("other").unwrap_err().to_string();
        assert!(error.contains("\"vaquita\", none"), "{error}");
        let all = runtimes.handlers(cri::RuntimeHandlerFeatures::default());
        assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["", "vaquita", "none"]);
        for (name, path) in [("", "/a"), ("vaquita", "/a"), ("x", "a")] {
            let configured = BTreeMap::from([(name.to_owned(), path.into())]);
            assert!(Runtimes::look(&configured).is_err(), "{name} {path}");
        }
    }
}
