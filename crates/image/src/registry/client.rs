//! Asking a registry and its mirrors for manifests and blobs.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::mpsc;

use crate::manifest::{self, Blob, DOCUMENT_LIMIT};
use crate::store::Piece;
use crate::{Auth, Digest, Error, Reference, Registries};

use super::docker::DockerConfig;
use super::endpoint::{Ask, Endpoint};
use super::hosts::{self, Host};
use super::http::Failure;
use super::tries::Tries;

/// Progress after which a broken blob gets its attempts back.
const PROGRESS: u64 = 1 << 20;

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The registry of one reference, with its mirrors. Lives as long as a pull: connections go with it.
#[derive(Debug)]
pub(crate) struct Client {
    reference: Reference,
    endpoints: Vec<Endpoint>,
    pause: std::time::Duration,
}

/// A manifest or index as it came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

impl Client {
    /// Reads the settings of the reference's registry.
    ///
    /// # Errors
    /// Settings that are wrong, with the file's name.
    pub(crate) async fn open(
        reference: &Reference,
        auth: Option<&Auth>,
        registries: &Registries,
    ) -> Result<Self, Error> {
        let registry = reference.registry().to_owned();
        let (directory, auth_file) = (registries.certs_dir.clone(), registries.auth_file.clone());
        let (hosts, node) = crate::store::blocking(move || {
            let hosts = hosts::look_up(&registry, directory.as_deref())?;
            let node = auth_file.map(|file| DockerConfig::read(&file).map(|config| (file, config)));
            Ok((hosts, node.transpose()?))
        })
        .await
        .map_err(|e| e.context(format!("pull of {reference}")))?;
        let endpoints = hosts.into_iter().map(|host| {
            let auth = match auth {
                Some(auth) if host.is_registry => Some(auth.clone()),
                _ => node.as_ref().map_or(Ok(None), |(file, config)| {
                    of_node(config, &host, reference).map_err(|e| e.context(file.display()))
                })?,
            };
            Ok(Endpoint::new(host, reference.registry(), reference.repository(), auth, registries))
        });
        let endpoints = endpoints.collect::<Result<_, Error>>()?;
        Ok(Self { reference: reference.clone(), endpoints, pause: registries.timeouts.retry })
    }

    /// What is being pulled from where, for errors.
    pub(crate) fn describe(&self) -> String {
        let origin = self.endpoints.last().map(|endpoint| endpoint.origin().to_string()).unwrap_or_default();
        format!("pull of {} from {origin}", self.reference)
    }

    /// The digest that the reference has at the moment; `None` where the registry does not say.
    pub(crate) async fn head(&self) -> Result<Option<Digest>, Error> {
        let path = format!("manifests/{}", self.reference.selector());
        let ask = Ask::new(Method::HEAD, &path, Some(ACCEPTED));
        let tries = self.tries_for(&self.reference.selector());
        self.document(tries, &ask, "manifest", 0, |headers, _| Ok(claimed_digest(headers))).await
    }

    /// Fetches and verifies a manifest or index, by tag or digest.
    pub(crate) async fn manifest(&self, selector: &str) -> Result<Fetched, Error> {
        let wanted = Digest::parse(selector).ok();
        let verify = |headers: &HeaderMap, bytes: Bytes| {
            let digest = Digest::of(&bytes);
            let claimed = wanted.or_else(|| claimed_digest(headers));
            if let Some(claimed) = claimed.filter(|claimed| *claimed != digest) {
                return Err(Error::corrupt(format!("manifest {claimed} has the digest {digest}")));
            }
            let content_type =
                headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok(Fetched { bytes, digest, content_type })
        };
        let ask = Ask::new(Method::GET, &format!("manifests/{selector}"), Some(ACCEPTED));
        self.document(self.tries_for(selector), &ask, "manifest", DOCUMENT_LIMIT, verify).await
    }

    /// Fetches and verifies a small blob: a configuration.
    pub(crate) async fn blob(&self, blob: &Blob) -> Result<Bytes, Error> {
        manifest::check_size("image configuration", blob.size)?;
        let verify = |_: &HeaderMap, bytes: Bytes| {
            let digest = Digest::of(&bytes);
            if digest == blob.digest {
                Ok(bytes)
            } else {
                Err(Error::corrupt(format!("blob {} has the digest {digest}", blob.digest)))
            }
        };
        let ask = Ask::new(Method::GET, &format!("blobs/{}", blob.digest), None);
        self.document(self.tries(|host| host.pull), &ask, "image configuration", blob.size, verify).await
    }

    /// Sends a blob's bytes from `offset` on, and [`Piece::End`] after the last one. A broken connection is taken up where it broke.
    /// Digest and size are verified by the receiver; when that has gone, this ends.
    pub(crate) async fn stream(
        &self,
        blob: &Blob,
        mut offset: u64,
        to: &mpsc::Sender<Piece>,
    ) -> Result<(), Error> {
        let mut tries = self.tries(|host| host.pull);
        let mut mark = offset;
        loop {
            let endpoint = tries.next().await?;
            match stream_once(endpoint, blob, &mut offset, to).await {
                Ok(()) => return Ok(()),
                Err(failure) => tries.failed(failure),
            }
            if offset >= mark + PROGRESS {
                tries.renew();
                mark = offset;
            }
        }
    }

    /// A small answer, verified.
    async fn document<T: Send>(
        &self,
        mut tries: Tries<'_>,
        ask: &Ask<'_>,
        what: &str,
        limit: u64,
        verify: impl Fn(&HeaderMap, Bytes) -> Result<T, Error> + Send + Sync,
    ) -> Result<T, Error> {
        loop {
            let endpoint = tries.next().await?;
            let verified = read(endpoint, ask, what, limit)
                .await
                .and_then(|(headers, bytes)| verify(&headers, bytes).map_err(Failure::Final));
            match verified {
                Ok(value) => {
                    endpoint.set_down(false);
                    return Ok(value);
                }
                Err(failure) => tries.failed(failure),
            }
        }
    }

    /// Hosts to ask for a manifest: what a tag stands for not everybody may say.
    fn tries_for(&self, selector: &str) -> Tries<'_> {
        let by_digest = Digest::parse(selector).is_ok();
        self.tries(move |host| if by_digest { host.pull } else { host.resolve })
    }

    fn tries(&self, may: impl Fn(&Host) -> bool) -> Tries<'_> {
        let endpoints = self.endpoints.iter().filter(|endpoint| may(endpoint.host()));
        Tries::new(&self.reference, endpoints, self.pause)
    }
}

/// The credentials of the node's own file for a host: those of the registry for itself, those of the mirror's name for a mirror.
fn of_node(config: &DockerConfig, host: &Host, reference: &Reference) -> Result<Option<Auth>, Error> {
    if host.is_registry {
        return config.entry_alone(reference.registry(), &reference.name());
    }
    let mirror = host.origin.authority();
    config.entry_alone(&mirror, &format!("{mirror}/{}", reference.repository()))
}

async fn read(
    endpoint: &Endpoint,
    ask: &Ask<'_>,
    what: &str,
    limit: u64,
) -> Result<(HeaderMap, Bytes), Failure> {
    let response = endpoint.ask(ask).await?;
    let headers = response.headers().clone();
    Ok((headers, response.into_body().read(what, limit).await?))
}

async fn stream_once(
    endpoint: &Endpoint,
    blob: &Blob,
    offset: &mut u64,
    to: &mpsc::Sender<Piece>,
) -> Result<(), Failure> {
    let ask = Ask { offset: *offset, ..Ask::new(Method::GET, &format!("blobs/{}", blob.digest), None) };
    let response = if *offset < blob.size || blob.size == 0 {
        endpoint.ask(&ask).await?
    } else {
        let _ = to.send(Piece::End).await;
        return Ok(());
    };
    // A server that does not know ranges starts anew: what is there already is passed over.
    let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT {
        check_range(response.headers(), *offset, blob.size)?;
        0
    } else {
        *offset
    };
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = announced
        && length != blob.size - (*offset - skip)
    {
        return Err(Failure::Final(Error::corrupt(format!(
            "layer {}: the registry announces {length} bytes where the manifest says {}",
            blob.digest,
            blob.size - (*offset - skip)
        ))));
    }
    let mut body = response.into_body();
    while let Some(mut bytes) = body.next().await? {
        if skip > 0 {
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= passed as u64;
            let _ = bytes.split_to(passed);
        }
        *offset += bytes.len() as u64;
        // A receiver that has gone has its reason.
        if !bytes.is_empty() && to.send(Piece::Data(bytes)).await.is_err() {
            return Ok(());
        }
    }
    if *offset < blob.size {
        return Err(Failure::Unreachable(format!("the body ended after {offset} of {} bytes", blob.size)));
    }
    let _ = to.send(Piece::End).await;
    Ok(())
}

fn claimed_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get("docker-content-digest")?.to_str().ok()?).ok()
}

/// Sees that a part of a blob is the one that was asked for: `bytes 500-999/1000` (RFC 9110, 14.4).
fn check_range(headers: &HeaderMap, offset: u64, size: u64) -> Result<(), Failure> {
    let value = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let fits = || {
        let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let is = |text: &str, number: u64| text.trim().parse() == Ok(number);
        Some(is(first, offset) && is(last, size - 1) && (total.trim() == "*" || is(total, size)))
    };
    if fits() == Some(true) {
        Ok(())
    } else {
        Err(Failure::Final(Error::corrupt(format!(
            "the registry sent another range, {:?}, than bytes {offset} to {}",
            value.chars().take(100).collect::<String>(),
            size - 1
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, value.parse().unwrap());
            check_range(&headers, 500, 1000).is_ok()
        };
        assert!(check("bytes 500-999/1000") && check("bytes 500-999/*"));
        for wrong in [
            "",
            "bytes 0-999/1000",
            "bytes 500-998/1000",
            "bytes 500-999/1001",
            "bytes */1000",
            "500-999/1000",
        ] {
            assert!(!check(wrong), "{wrong}");
        }
        assert!(check_range(&HeaderMap::new(), 500, 1000).is_err());
    }
}
