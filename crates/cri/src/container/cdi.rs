//! The files of the Container Device Interface, read anew for each container that asks for such devices: what puts them
//! there does not tell anybody.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::Result;
use crate::error::Doing;
use crate::spec::cdi::{Catalogue, Edits, Format};

/// More than the file of any vendor needs.
const LIMIT: u64 = 4 << 20;
/// More files than any directory has.
const FILES: usize = 1024;

/// What devices do to a container that gets them.
pub(super) fn edits(names: &[&str], dirs: &[PathBuf]) -> Result<Edits> {
    if names.is_empty() {
        return Ok(Edits::default());
    }
    let mut catalogue = Catalogue::default();
    for dir in dirs {
        let files = list(dir)?.into_iter().map(|(path, format)| {
            let text = read(&path);
            (path, format, text)
        });
        let files = files.collect();
        catalogue.add(dir.clone(), files);
    }
    catalogue.resolve(names.iter().copied())
}

/// The files of a directory in lexical order; none if there is no directory.
#[expect(clippy::disallowed_methods, reason = "the directories of the host's administrator")]
fn list(dir: &Path) -> Result<Vec<(PathBuf, Format)>> {
    let doing = || format!("list the CDI files in {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(doing)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.doing(doing)?.path();
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Format::Json,
            Some("yaml") => Format::Yaml,
            _ => continue,
        };
        files.push((path, format));
        if files.len() > FILES {
            let error = std::io::Error::other(format!("there are more than {FILES}"));
            return Err(error).doing(doing);
        }
    }
    files.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(files)
}

/// The text of a regular file, or why there is none.
#[expect(clippy::disallowed_methods, reason = "a file of the host's administrator")]
fn read(path: &Path) -> std::result::Result<String, String> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let open = || {
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let is_file = file.metadata()?.is_file();
        Ok((file, is_file))
    };
    let (file, is_file) = open().map_err(|error: std::io::Error| error.to_string())?;
    if !is_file {
        return Err("it is not a regular file".into());
    }
    let mut text = String::new();
    file.take(LIMIT + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LIMIT {
        return Err(format!("it is larger than {LIMIT} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use super::*;

    fn of(dirs: &[PathBuf]) -> Result<Edits> {
        edits(&["v.com/c=d"], dirs)
    }

    #[test]
    fn files_are_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("none"), dir.path().to_owned()];
        let text = "cdiVersion: 0.3.0\nkind: v.com/c\ndevices: [{name: d, containerEdits: {env: [A=b]}}]\n";
        std::fs::write(dir.path().join("a.yml"), text).unwrap();
        let error = of(&dirs).unwrap_err().to_string();
        assert!(error.contains(&format!("{}, {}", dirs[0].display(), dirs[1].display())), "{error}");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe.json"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let large = File::create(dir.path().join("large.yaml")).unwrap();
        large.set_len(LIMIT + 1).unwrap();
        let error = of(&dirs).unwrap_err().to_string();
        assert!(error.contains("not a regular file") && error.contains("larger than"), "{error}");
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        of(&dirs).unwrap();
    }
}
