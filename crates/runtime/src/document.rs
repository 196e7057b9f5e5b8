//! OCI documents, `config.json` and its like, from bytes that nobody has looked at.
//!
//! A document is a regular file of at most [`MAX_SIZE`] bytes of JSON. What is wrong with it is told in one line with the
//! path of the property (`process.user.uid: …`). Unknown properties are ignored, as the specification wants
//! (config.md, "Extensibility"); a name that stands twice in one object is refused, since readers differ in which one
//! they take.

mod objects;
mod unique;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{Capability, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::objects::Objects;
use self::unique::Unique;
use crate::Error;

/// The longest document that is read, in bytes. A specification of a thousand mounts takes a tenth of it.
pub const MAX_SIZE: usize = 4 * 1024 * 1024;

/// Reads the specification in a file, usually `config.json` of a bundle.
///
/// # Errors
/// As [`read`] and [`parse_spec`].
pub fn read_spec(path: &Path) -> Result<Spec, Error> {
    parse_spec(&name(path), &read(path)?)
}

/// As [`read_spec`], for a file that this program has written: it has no name twice, and oci-spec's spelling of everything.
///
/// # Errors
/// As [`read`], and [`crate::Kind::Invalid`] when it is no specification.
pub fn read_own_spec(path: &Path) -> Result<Spec, Error> {
    deserialize(&name(path), &read(path)?)
}

/// As [`parse`], for an object that this program has written.
///
/// # Errors
/// [`crate::Kind::Invalid`] names the property, and says what is wrong with it and where.
pub fn parse_own<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Error> {
    deserialize(name, bytes)
}

/// The bytes of a document. A symbolic link is followed; what it leads to must be a regular file of at most [`MAX_SIZE`]
/// bytes. Never waits, and reads no more than that whatever the file says of its size.
///
/// # Errors
/// [`crate::Kind::Kernel`] when it cannot be opened or read, [`crate::Kind::Invalid`] for another type of file or a longer
/// one.
#[expect(clippy::disallowed_methods, reason = "a file of the bundle, which whoever calls vouches for")]
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
        .map_err(|errno| Error::kernel(format_args!("open({path:?})"), errno))?;
    let kernel = |errno| Error::kernel(format_args!("read({path:?})"), errno);
    let stat = rustix::fs::fstat(fd.as_fd()).map_err(kernel)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        other => {
            return Err(Error::invalid(format!("{path:?} is no regular file but a {}", kind(other))));
        }
    }
    // One read, and one that finds the end; what the file says of its size is a hint alone.
    let size = usize::try_from(stat.st_size).unwrap_or(MAX_SIZE).min(MAX_SIZE);
    let mut bytes = Vec::with_capacity(size + 64);
    File::from(fd)
        .take(MAX_SIZE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| kernel(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)))?;
    if bytes.len() > MAX_SIZE {
        return Err(Error::invalid(format!("{path:?} is longer than {MAX_SIZE} bytes")));
    }
    Ok(bytes)
}

/// The specification that `bytes` are; `name` is what an error calls them.
///
/// # Errors
/// As [`parse`], and when `ociVersion` is missing or of another major version than 1.
pub fn parse_spec(name: &str, bytes: &[u8]) -> Result<Spec, Error> {
    let spec: Spec = parse(name, bytes)?;
    version(spec.version()).map_err(|why| Error::invalid(format!("{name}: ociVersion: {why}")))?;
    Ok(spec)
}

/// The object that `bytes` are; `name` is what an error calls them.
///
/// # Errors
/// [`crate::Kind::Invalid`] names the property, and says what is wrong with it and where.
pub fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() > MAX_SIZE {
        return Err(Error::invalid(format!("{name}: longer than {MAX_SIZE} bytes")));
    }
    // Names are compared first: what derives Deserialize sees duplicates in structures only, not in maps.
    deserialize::<Unique>(name, bytes)?;
    match respelled(bytes) {
        Some(bytes) => deserialize(name, &bytes),
        None => deserialize(name, bytes),
    }
}

/// Flags of a scheduler (config.md), and as version 0.10 of oci-spec spells them.
const SPELLINGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// The same document with what oci-spec understands, if it has any of [`SPELLINGS`].
fn respelled(bytes: &[u8]) -> Option<Vec<u8>> {
    let has = |name: &str| bytes.windows(name.len()).any(|part| part == name.as_bytes());
    if !SPELLINGS.iter().any(|(name, _)| has(name)) {
        return None;
    }
    let mut document: Value = serde_json::from_slice(bytes).ok()?;
    for pointer in ["/process/scheduler/flags", "/scheduler/flags"] {
        let flags = document.pointer_mut(pointer).and_then(Value::as_array_mut);
        for flag in flags.into_iter().flatten() {
            let spelling = SPELLINGS.iter().find(|(name, _)| flag == name);
            if let Some((_, spelling)) = spelling {
                *flag = (*spelling).into();
            }
        }
    }
    serde_json::to_vec(&document).ok()
}

/// The same document, a specification or a process object, without the names in `capabilities` that no capability has, and
/// these names; none where all are known. A document that is not even read for another reason is none, too.
#[must_use]
pub fn without_unknown_capabilities(bytes: &[u8]) -> Option<(Vec<u8>, BTreeSet<String>)> {
    // What is written anew has no name twice.
    deserialize::<Unique>("document", bytes).ok()?;
    let mut document: Value = serde_json::from_slice(bytes).ok()?;
    let mut unknown = BTreeSet::new();
    for pointer in ["/process/capabilities", "/capabilities"] {
        let sets = document.pointer_mut(pointer).and_then(Value::as_object_mut);
        for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
            set.retain(|name| match name {
                Value::String(text) if serde_json::from_value::<Capability>(name.clone()).is_err() => {
                    unknown.insert(text.clone());
                    false
                }
                _ => true,
            });
        }
    }
    if unknown.is_empty() {
        return None;
    }
    Some((serde_json::to_vec(&document).ok()?, unknown))
}

fn deserialize<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Objects(&mut json)).map_err(|error| {
        let path = error.path().to_string();
        let what = error.into_inner();
        match path.as_str() {
            "." | "" => Error::invalid(format!("{name}: {what}")),
            path => Error::invalid(format!("{name}: {path}: {what}")),
        }
    })?;
    json.end().map_err(|error| Error::invalid(format!("{name}: {error}")))?;
    Ok(value)
}

/// The part of semantic versioning that decides: the specification is compatible within a major version, and a
/// property of a newer minor version that is unknown here is one to ignore.
fn version(version: &str) -> Result<(), String> {
    if version.is_empty() {
        return Err("missing; it names the version of the specification, such as \"1.3.0\"".to_owned());
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let number = |part: &&str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    let parts: Vec<&str> = core.split('.').collect();
    let rest = &version[core.len()..];
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    if parts.len() != 3 || !parts.iter().all(number) || !rest.chars().all(plain) || rest.len() == 1 {
        return Err(format!("{version:?} is not a version; one is like \"1.3.0\""));
    }
    if parts[0] != "1" {
        return Err(format!("{version:?} is not supported; this runtime reads 1.x"));
    }
    Ok(())
}

/// What an error calls a file: the last part of its path.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(OsStr::new("document")).to_string_lossy().into_owned()
}

fn kind(of: FileType) -> &'static str {
    match of {
        FileType::Directory => "directory",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        _ => "file of another type",
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files that the tests make")]
mod tests;
