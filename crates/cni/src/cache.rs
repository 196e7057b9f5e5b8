//! The record of each attachment: intent before, result after, and what is needed to take it back.

#![expect(clippy::disallowed_methods, reason = "our own directory, which no container can write")]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::list::check_id;
use crate::outcome::Outcome;
use crate::{Capabilities, Error, Kind, List, Result};

/// Where an attachment is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Plugins may have done something.
    Adding,
    /// All plugins have succeeded.
    Attached,
    /// Somebody asked for its end, which goes on until it is reached.
    Detaching,
}

/// An attachment as it is recorded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Cached {
    /// Who has it: the id that was given to ADD.
    pub id: String,
    /// The name of the network.
    pub network: String,
    /// The pod's interface.
    pub interface: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// The addresses of the interface, once they are known.
    pub addresses: Vec<std::net::IpAddr>,
    /// The path of the namespace that ADD was given.
    pub netns: PathBuf,
    /// What the last plugin said that has succeeded.
    pub result: Option<Map<String, Value>>,
}

/// One file of the cache.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) interface: String,
    pub(crate) phase: Phase,
    /// The `CNI_ARGS` of ADD.
    pub(crate) args: String,
    pub(crate) capabilities: Capabilities,
    /// The namespace as ADD had it: later operations get the same path as long as it is the same namespace.
    pub(crate) netns: PathBuf,
    /// Which process of ours has last run plugins for it.
    pub(crate) instance: String,
    /// The list that ADD was done with.
    list: Value,
    /// The result so far.
    pub(crate) result: Option<Map<String, Value>>,
}

impl Entry {
    /// The intent.
    pub(crate) fn new(id: &str, interface: &str, list: &List) -> Self {
        Self {
            id: id.to_owned(),
            interface: interface.to_owned(),
            phase: Phase::Adding,
            args: String::new(),
            capabilities: Capabilities::default(),
            netns: PathBuf::new(),
            instance: String::new(),
            list: list.to_value(),
            result: None,
        }
    }

    /// The list that ADD was done with.
    pub(crate) fn list(&self) -> Result<List> {
        List::parse(self.list.to_string().as_bytes())
    }

    /// What ADD resulted in.
    pub(crate) fn outcome(&self) -> Result<Option<Outcome>> {
        let version = self.list()?.version();
        self.result.clone().map(|document| Outcome::from_document(document, version)).transpose()
    }

    /// What others may know of it.
    pub(crate) fn cached(&self) -> Result<Cached> {
        let outcome = self.outcome()?;
        Ok(Cached {
            id: self.id.clone(),
            network: self.list()?.name().to_owned(),
            interface: self.interface.clone(),
            phase: self.phase,
            addresses: outcome.map(|outcome| outcome.addresses(&self.interface)).unwrap_or_default(),
            netns: self.netns.clone(),
            result: self.result.clone(),
        })
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    /// Makes the directory (0700), and removes what a crash has left half written.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |error: std::io::Error| Error::file("make the directory", dir, error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(Self(dir.to_owned()))
    }

    /// The record of an attachment; none where there is none.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Entry>> {
        check_id(id)?;
        read(&self.path(id))
    }

    /// Keeps a record, also through a power cut: what plugins give out on disks survives that too.
    pub(crate) fn write(&self, entry: &Entry) -> Result<()> {
        check_id(&entry.id)?;
        let path = self.path(&entry.id);
        let failed = |error: &dyn std::fmt::Display| Error::file("write", &path, error);
        let mut bytes = serde_json::to_vec(entry).map_err(|error| failed(&error))?;
        bytes.push(b'\n');
        let dir = vaquita_sys::fs::open_dir(&self.0).map_err(|error| failed(&error))?;
        vaquita_sys::fs::write_atomic(&dir, &file_name(&entry.id), &bytes, 0o600, true)
            .map_err(|error| failed(&error))
    }

    /// Forgets an attachment.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        check_id(id)?;
        let path = self.path(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("remove", &path, error)),
            _ => Ok(()),
        }
    }

    /// Where the record of an attachment is.
    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.0.join(file_name(id))
    }
}

/// Lists the attachments that are recorded in a cache directory, by id; those whose record cannot be read as an error with the
/// name of the file. Needs no [`crate::Cni`] and changes nothing.
///
/// # Errors
/// When the directory cannot be listed. One that is not there is empty.
pub fn cached(dir: &Path) -> Result<Vec<(String, Result<Cached>)>> {
    let failed = |error: std::io::Error| Error::file("list", dir, error);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
        if check_id(id).is_err() {
            continue;
        }
        match read(&dir.join(&name)) {
            // Removed meanwhile.
            Ok(None) => {}
            Ok(Some(entry)) => all.push((id.to_owned(), entry.cached())),
            Err(error) => all.push((id.to_owned(), Err(error))),
        }
    }
    all.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(all)
}

fn file_name(id: &str) -> String {
    format!("{id}.json")
}

fn read(path: &Path) -> Result<Option<Entry>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let path = path.display();
            let message = format!(
                "the record {path} cannot be read: {error}; remove it to give up what plugins have given out for it"
            );
            Error::new(Kind::Corrupt, message)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept_for_root_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cni");
        let cache = Cache::open(&dir).unwrap();
        let list =
            List::parse(br#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "x"}]}"#).unwrap();
        let mut entry = Entry::new("one", "eth0", &list);
        cache.write(&entry).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("one.json"))), (0o700, 0o600));
        assert_eq!(cached(&dir).unwrap()[0].1.as_ref().unwrap().phase, Phase::Adding);
        let document = serde_json::json!({"ips": [{"address": "10.1.0.2/24"}]});
        entry.result = document.as_object().cloned();
        entry.phase = Phase::Attached;
        cache.write(&entry).unwrap();
        let read = cache.read("one").unwrap().unwrap();
        assert_eq!((read.list().unwrap(), read.phase), (list, Phase::Attached));
        assert_eq!(cached(&dir).unwrap()[0].1.as_ref().unwrap().addresses[0].to_string(), "10.1.0.2");
        cache.remove("one").unwrap();
        cache.remove("one").unwrap();
        assert!(cache.read("one").unwrap().is_none() && cached(&dir).unwrap().is_empty());
        assert!(cache.read("../one").is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bad.json"), "{").unwrap();
        std::fs::write(dir.path().join(".half.json.1.0.tmp"), "{").unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        assert!(!dir.path().join(".half.json.1.0.tmp").exists());
        let error = cache.read("bad").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("bad.json"), "{error}");
        let all = cached(dir.path()).unwrap();
        assert!(all[0].0 == "bad" && all[0].1.is_err());
        assert!(cached(&dir.path().join("none")).unwrap().is_empty());
    }
}
