//! The directory of network configurations.

#![expect(clippy::disallowed_methods, reason = "the directory of the host's administrator")]

use std::ffi::OsString;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::{Error, Kind, List, Plugin, Result};

/// The most bytes of a configuration file.
const LARGEST: u64 = 1 << 20;

/// Reads the configuration that counts: the first file in lexical order. Says also which that is.
///
/// It counts also if it is malformed: the next one would be another network than the administrator has asked for.
pub(crate) fn load(dir: &Path) -> Result<(PathBuf, List)> {
    let name = names(dir, &["conf", "conflist", "json"])?.into_iter().next().ok_or_else(|| {
        let message =
            format!("there is no network configuration (*.conflist, *.conf, *.json) in {}", dir.display());
        Error::new(Kind::NotFound, message)
    })?;
    let path = dir.join(name);
    let bytes = read(&path)?;
    let is_list = path.extension().is_some_and(|ending| ending == "conflist");
    let list = if is_list { List::parse(&bytes) } else { List::parse_single(&bytes) };
    let list = list.and_then(|list| complete(dir, list)).map_err(|error| {
        error.within(format_args!("the network configuration {} cannot be used", path.display()))
    })?;
    Ok((path, list))
}

/// Whether there is any configuration, usable or not.
pub(crate) fn any(dir: &Path) -> Result<bool> {
    names(dir, &["conf", "conflist", "json"]).map(|names| !names.is_empty())
}

/// Adds the plugins that lie as single files in the directory of the network's name, since 1.1.
fn complete(dir: &Path, list: List) -> Result<List> {
    let list = if list.has_only_inlined() {
        list
    } else {
        let below = dir.join(list.name());
        let mut more = Vec::new();
        for name in names(&below, &["conf"])? {
            let path = below.join(name);
            more.push(Plugin::parse(&read(&path)?).map_err(|error| error.within(path.display()))?);
        }
        list.with(more)?
    };
    if list.plugins().is_empty() {
        return Err(Error::invalid("plugins: there are none"));
    }
    Ok(list)
}

/// The files with one of these endings, in lexical order. A directory that is not there has none.
fn names(dir: &Path, endings: &[&str]) -> Result<Vec<OsString>> {
    let failed = |error: std::io::Error| Error::file("list", dir, error);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| endings.contains(&ending))
            && !entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::file("read", path, error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::invalid(format!("{} is not a file", path.display())));
    }
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::invalid(format!("{} is larger than {LARGEST} bytes", path.display())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str, more: &str) -> String {
        format!(r#"{{"cniVersion": "1.0.0", "name": "{name}"{more}}}"#)
    }

    #[test]
    fn the_first_counts_even_if_malformed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(load(&dir.path().join("none")).unwrap_err().kind(), Kind::NotFound);
        write("00-notes.txt", "");
        write("00-other.conflist.bak", "");
        std::fs::create_dir(dir.path().join("01-dir.conf")).unwrap();
        assert_eq!(load(dir.path()).unwrap_err().kind(), Kind::NotFound);
        assert!(!any(dir.path()).unwrap());
        write("20-b.conflist", &list("b", r#", "plugins": [{"type": "x"}]"#));
        write("10-a.json", &list("a", r#", "type": "y""#));
        let (path, first) = load(dir.path()).unwrap();
        assert_eq!((first.name(), path), ("a", dir.path().join("10-a.json")));
        write("05-c.conf", "{");
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("05-c.conf") && error.contains("is not JSON"), "{error}");
        assert!(any(dir.path()).unwrap());
    }

    #[test]
    fn plugins_beside_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("net");
        std::fs::create_dir(&below).unwrap();
        let write = |text: &str| std::fs::write(dir.path().join("1.conflist"), text).unwrap();
        write(&list("net", ""));
        assert!(load(dir.path()).unwrap_err().to_string().contains("there are none"));
        std::fs::write(below.join("20-b.conf"), r#"{"type": "b"}"#).unwrap();
        std::fs::write(below.join("10-a.conf"), r#"{"type": "a"}"#).unwrap();
        let programs = || {
            let (_, list) = load(dir.path()).unwrap();
            list.plugins().iter().map(|plugin| plugin.program().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(programs(), ["a", "b"]);
        write(&list("net", r#", "plugins": [{"type": "first"}]"#));
        assert_eq!(programs(), ["first", "a", "b"]);
        write(&list("net", r#", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "first"}]"#));
        assert_eq!(programs(), ["first"]);
        write(&list("net", r#", "plugins": [{"type": "first"}]"#));
        std::fs::write(below.join("10-a.conf"), r#"{"type": "../a"}"#).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("10-a.conf") && error.contains("../a"), "{error}");
    }

    #[test]
    fn a_file_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("1.conf")).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("is not a file"));
        std::fs::remove_file(dir.path().join("1.conf")).unwrap();
        std::fs::write(dir.path().join("1.conf"), vec![b' '; (1 << 20) + 1]).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("larger than"));
    }
}
