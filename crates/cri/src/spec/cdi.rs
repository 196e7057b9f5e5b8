//! Devices by the Container Device Interface: what a vendor's file on the host says that a container needs to use one.
//! <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>
//!
//! Pure: the files were read before. Only the CRI's field counts; annotations of pods and images are left alone, since
//! whoever makes an image is not asked which devices of the host it gets.

mod apply;
mod document;

use std::path::PathBuf;

pub(crate) use apply::Context;
use document::Document;
pub(crate) use document::{Edits, Format};

use crate::{Error, Kind, Result};

/// What the files of all directories say, in ascending order of precedence.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    dirs: Vec<Dir>,
}

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// A file that makes no sense takes away its own devices only.
    document: std::result::Result<Document, String>,
}

impl Catalogue {
    /// Adds a directory, whose devices replace those of the same name in the ones before, with the text of each file or
    /// why there is none.
    pub(crate) fn add(
        &mut self,
        dir: PathBuf,
        files: Vec<(PathBuf, Format, std::result::Result<String, String>)>,
    ) {
        let parse = |(path, format, text): (PathBuf, Format, std::result::Result<String, String>)| File {
            path,
            document: text.and_then(|text| Document::parse(&text, format)),
        };
        self.dirs.push(Dir { path: dir, files: files.into_iter().map(parse).collect() });
    }

    /// What has to be done to a container for the devices named: for each file that has one what it says of all its
    /// devices, then what it says of this one.
    ///
    /// # Errors
    /// `Invalid` for what is no name, `NotFound` for a device that no file has, `Precondition` for one that two files of
    /// one directory have.
    pub(crate) fn resolve<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Edits> {
        let mut all = Edits::default();
        let mut files: Vec<&File> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for name in names {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let (kind, device) = document::qualified(name)
                .map_err(|why| Error::invalid(format!("CDI_devices: {name:?}: {why}")))?;
            let (file, document) = self.find(name, kind, device)?;
            if !files.iter().any(|other| std::ptr::eq(*other, file)) {
                files.push(file);
                all.append(document.edits());
            }
            all.append(document.device(device));
        }
        Ok(all)
    }

    fn find(&self, name: &str, kind: &str, device: &str) -> Result<(&File, &Document)> {
        for dir in self.dirs.iter().rev() {
            let having: Vec<(&File, &Document)> = dir
                .files
                .iter()
                .filter_map(|file| Some((file, file.document.as_ref().ok()?)))
                .filter(|(_, document)| document.kind() == kind && document.device(device).is_some())
                .collect();
            match having[..] {
                [] => {}
                [one] => return Ok(one),
                [(one, _), (other, _), ..] => {
                    let (one, other) = (one.path.display(), other.path.display());
                    let message = format!(
                        "CDI_devices: {name:?}: both {one} and {other} define it: remove it from one of them"
                    );
                    return Err(Error::new(Kind::Precondition, message));
                }
            }
        }
        Err(Error::new(Kind::NotFound, self.unknown(name)))
    }

    /// With the files that could not be read: it may be in one of these.
    fn unknown(&self, name: &str) -> String {
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.path.display().to_string()).collect();
        let mut message =
            format!("CDI_devices: {name:?}: no file in {} defines this device", dirs.join(", "));
        for file in self.dirs.iter().flat_map(|dir| &dir.files) {
            if let Err(why) = &file.document {
                message.push_str(&format!("; {} is not usable: {why}", file.path.display()));
            }
        }
        message
    }
}

#[cfg(test)]
mod tests;
