//! Settings of registries, in files as containerd has them: `<directory>/<registry>/hosts.toml`.

mod file;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderMap;

use crate::{Error, Kind};

use super::http::Origin;
use super::tls::{self, Trust};

/// Longest settings file that is read.
const LIMIT: u64 = 1 << 20;
const FILE: &str = "hosts.toml";

/// One place to ask for a registry's content.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) origin: Origin,
    /// Nobody has said whether it speaks HTTPS, and it is this machine: HTTP is tried first.
    pub(super) guessed: bool,
    /// What paths begin with: `/v2`.
    pub(super) base: String,
    /// May be asked what a tag stands for.
    pub(super) resolve: bool,
    /// May be asked for content by its digest.
    pub(super) pull: bool,
    /// This is the registry itself, which gets the credentials that came with the pull.
    pub(super) is_registry: bool,
    /// The name that references have is not its own, so it is told which registry is meant.
    pub(super) is_proxy: bool,
    pub(super) trust: Trust,
    /// Sent with each request to it.
    pub(super) headers: HeaderMap,
    /// For a connection, where it is not the usual time.
    pub(super) connect: Option<Duration>,
}

/// The places to ask for the content of a registry, in the order to ask them. Blocks while files are read.
///
/// # Errors
/// Names the file, and where it is the content that is wrong the line.
pub(super) fn look_up(registry: &str, directory: Option<&Path>) -> Result<Vec<Host>, Error> {
    let Some((found, own)) = directory.and_then(|directory| find(registry, directory)) else {
        return Ok(vec![Host::own(registry)]);
    };
    let file = found.join(FILE);
    let mut hosts = match read(&file)? {
        Some(text) => file::parse(&text, &file, registry, own)?,
        None => vec![Host::own(registry)],
    };
    // Docker's way: files beside it are for the registry itself, where hosts.toml says nothing else of it.
    if let Some(host) = hosts.iter_mut().find(|host| host.is_registry && host.trust.is_default()) {
        host.trust = docker_files(&found)?;
        host.settle();
    }
    hosts.retain(|host| host.resolve || host.pull);
    if hosts.is_empty() {
        return Err(Error::invalid(format!("{}: there is no host that may be asked", file.display())));
    }
    Ok(hosts)
}

impl Host {
    /// The registry itself, without settings.
    fn own(registry: &str) -> Self {
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, None),
        };
        let mut origin = Origin { https: false, host: name.to_ascii_lowercase(), port: 0 };
        let guessed = origin.is_loopback() && port != Some(443);
        origin.https = !guessed;
        origin.port = port.unwrap_or(if guessed { 80 } else { 443 });
        Self {
            origin,
            guessed,
            base: "/v2".to_owned(),
            resolve: true,
            pull: true,
            is_registry: true,
            is_proxy: false,
            trust: Trust::default(),
            headers: HeaderMap::new(),
            connect: None,
        }
    }

    /// A host that has settings for TLS speaks TLS.
    fn settle(&mut self) {
        if self.guessed && !self.trust.is_default() {
            self.guessed = false;
            self.origin.https = true;
            if self.origin.port == 80 {
                self.origin.port = 443;
            }
        }
    }
}

/// The first directory that is there of those which containerd looks for, and whether it is for this registry alone.
#[expect(clippy::disallowed_methods, reason = "a directory of the settings, on the host")]
fn find(registry: &str, directory: &Path) -> Option<(PathBuf, bool)> {
    let with_port = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some(format!("{host}_{port}_")),
        _ => None,
    };
    let names = [with_port.as_deref(), Some(registry), Some("_default")];
    names
        .into_iter()
        .flatten()
        .map(|name| (directory.join(name), name != "_default"))
        .find(|(path, _)| path.is_dir())
}

/// A settings file; `None` where it is not there or empty.
#[expect(clippy::disallowed_methods, reason = "a file of the settings, on the host")]
fn read(file: &Path) -> Result<Option<String>, Error> {
    let named = |e: std::io::Error| Error::io(format!("read({})", file.display()), &e);
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(named(e)),
    };
    let mut text = Vec::new();
    opened.take(LIMIT + 1).read_to_end(&mut text).map_err(named)?;
    if text.len() as u64 > LIMIT {
        return Err(Error::invalid(format!("{}: is longer than {LIMIT} bytes", file.display())));
    }
    let text = String::from_utf8(text)
        .map_err(|_| Error::new(Kind::Invalid, format!("{}: is not UTF-8", file.display())))?;
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// `*.crt` are authorities, `*.cert` client certificates, each with a `*.key` of the same name.
#[expect(clippy::disallowed_methods, reason = "a directory of the settings, on the host")]
fn docker_files(directory: &Path) -> Result<Trust, Error> {
    let named = |e: std::io::Error| Error::io(format!("readdir({})", directory.display()), &e);
    let entries = std::fs::read_dir(directory).map_err(named)?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<PathBuf>, _>>()
        .map_err(named)?;
    files.sort();
    let mut trust = Trust::default();
    for file in &files {
        match file.extension().and_then(std::ffi::OsStr::to_str) {
            Some("crt") => trust.authorities.extend(tls::read_certificates(file)?),
            Some("cert") => trust.identities.push(tls::read_identity(file, &file.with_extension("key"))?),
            Some("key") if !files.contains(&file.with_extension("cert")) => {
                return Err(Error::invalid(format!(
                    "key file {}: there is no certificate {}",
                    file.display(),
                    file.with_extension("cert").display()
                )));
            }
            _ => {}
        }
    }
    Ok(trust)
}

#[cfg(test)]
mod tests;
