//! Getting images: policy, credentials, progress.

use std::time::Duration;

use serde::Deserialize;
use vaquita_proto::cri;

use super::context::Context;
use super::cri::{CALL, Cri};
use crate::api::{Bytes, Container, PullPolicy, Secret};
use crate::event::EventKind;
use crate::{Error, Kind, Result};

/// Between looks at the progress of a pull.
const PROGRESS: Duration = Duration::from_millis(200);

/// An image that could not be had.
#[derive(Debug)]
pub(super) struct Failure {
    /// ErrImagePull, ErrImageNeverPull, InvalidImageName.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Sees that an image is there, by the container's policy. Returns its id.
///
/// # Errors
/// Why it is not.
pub(super) async fn ensure(
    cri: &Cri,
    context: &Context,
    container: &Container,
    tell: impl Fn(EventKind),
) -> Result<String, Failure> {
    let name = with_tag(&container.image);
    let failure = |error: Error| Failure {
        reason: if error.kind() == Kind::Invalid { "InvalidImageName" } else { "ErrImagePull" },
        // Which call it was is of no interest beside the event's own words.
        message: match context.kept {
            true => error.to_string().trim_start_matches("PullImage: ").to_owned(),
            false => error.to_string(),
        },
    };
    let policy = container.image_pull_policy.unwrap_or_default();
    if policy != PullPolicy::Always {
        if let Some(image) = status(cri, &name).await.map_err(failure)? {
            tell(EventKind::Pulled {
                container: container.name.clone(),
                image: container.image.clone(),
                cached: true,
                duration: 0.0,
                size: image.size,
            });
            return Ok(image.id);
        }
        if policy == PullPolicy::Never {
            let message = match context.kept {
                true => {
                    format!("Container image {:?} is not present with pull policy of Never", container.image)
                }
                false => format!("image {:?} is not there, and imagePullPolicy is Never", container.image),
            };
            return Err(Failure { reason: "ErrImageNeverPull", message });
        }
    }
    let started = tokio::time::Instant::now();
    tell(EventKind::PullStarted { container: container.name.clone(), image: container.image.clone() });
    let id = tokio::select! {
        result = pull(cri, context, &name) => result.map_err(failure)?,
        // Nobody watches the pulls of a cluster's pods.
        never = report(cri, &name, &container.image, &tell), if !context.kept => match never {},
    };
    tell(EventKind::Pulled {
        container: container.name.clone(),
        image: container.image.clone(),
        cached: false,
        duration: started.elapsed().as_secs_f64(),
        size: status(cri, &id).await.ok().flatten().map_or(0, |image| image.size),
    });
    Ok(id)
}

/// What the server knows of an image that is there.
///
/// # Errors
/// The server cannot say.
pub(super) async fn status(cri: &Cri, name: &str) -> Result<Option<cri::Image>> {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..cri::ImageSpec::default() });
    let request = cri::ImageStatusRequest { image, verbose: false };
    let call = |mut client: crate::client::Client| {
        let request = request.clone();
        async move { client.image.image_status(request).await }
    };
    Ok(cri.call("ImageStatus", Some(CALL), call).await?.image)
}

/// Tries each credential that fits, or none at all.
async fn pull(cri: &Cri, context: &Context, name: &str) -> Result<String> {
    let mut last = None;
    let mut credentials: Vec<Option<cri::AuthConfig>> =
        credentials(context, name).into_iter().map(Some).collect();
    if credentials.is_empty() {
        credentials.push(match &context.config.keyring {
            Some(keyring) => keyring.find(name).await.map_err(|why| Error::new(Kind::Failed, why))?,
            None => None,
        });
    }
    for auth in credentials {
        let request = cri::PullImageRequest {
            image: Some(cri::ImageSpec { image: name.to_owned(), ..cri::ImageSpec::default() }),
            auth,
            sandbox_config: None,
        };
        let call = |mut client: crate::client::Client| {
            let request = request.clone();
            async move { client.image.pull_image(request).await }
        };
        // Pulls take as long as they take.
        match cri.call("PullImage", None, call).await {
            Ok(answer) => return Ok(answer.image_ref),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Failed, "no credentials")))
}

/// An image name with the tag that it has if it has none (the kubelet's `applyDefaultImageTag`).
pub(super) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// One pull under way, as vaquita's Status lists them under "pulls". Other servers list none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    reference: String,
    bytes_done: u64,
    bytes_total: u64,
    layers_done: u64,
    layers_total: u64,
}

/// Tells how far a pull is, for as long as it is waited for.
async fn report(cri: &Cri, name: &str, image: &str, tell: &impl Fn(EventKind)) -> std::convert::Infallible {
    let mut before = None;
    loop {
        tokio::time::sleep(PROGRESS).await;
        let request = cri::StatusRequest { verbose: true };
        let call = |mut client: crate::client::Client| async move { client.runtime.status(request).await };
        let Ok(answer) = cri.once("Status", Some(CALL), call).await else { continue };
        let pulls =
            answer.info.get("pulls").and_then(|text| serde_json::from_str::<Vec<Progress>>(text).ok());
        let mut pulls = pulls.into_iter().flatten();
        let Some(pull) = pulls.find(|pull| same_image(&pull.reference, name)) else { continue };
        let Progress { bytes_done, bytes_total, layers_done, layers_total, .. } = pull;
        if before.replace((bytes_done, layers_done)) != Some((bytes_done, layers_done)) {
            let image = image.to_owned();
            tell(EventKind::PullProgress { image, bytes_done, bytes_total, layers_done, layers_total });
        }
    }
}

/// Whether a full reference is the one that a short name stands for.
fn same_image(reference: &str, name: &str) -> bool {
    let strip = |text: &str| {
        let text = text.strip_prefix("docker.io/").unwrap_or(text);
        text.strip_prefix("library/").unwrap_or(text).to_owned()
    };
    strip(reference) == strip(name)
}

/// Credentials for an image's registry from the pod's imagePullSecrets, the most specific first.
fn credentials(context: &Context, name: &str) -> Vec<cri::AuthConfig> {
    let mut found: Vec<(usize, cri::AuthConfig)> = Vec::new();
    for reference in &context.pod.spec.image_pull_secrets {
        // A secret that is missing is no reason not to try, as for the kubelet.
        let Ok(Some(secret)) = context.secret(&reference.name, true) else { continue };
        for (server, entry) in entries(secret) {
            if let Some(len) = matching(&server, name) {
                found.push((len, entry.auth(&server)));
            }
        }
    }
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    found.into_iter().map(|(_, auth)| auth).collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: std::collections::BTreeMap<String, Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: Option<Bytes>,
    identitytoken: String,
}

impl Entry {
    fn auth(&self, server: &str) -> cri::AuthConfig {
        let decoded =
            self.auth.as_ref().map(|auth| String::from_utf8_lossy(&auth.0).into_owned()).unwrap_or_default();
        let (user, password) = decoded.split_once(':').unwrap_or((&self.username, &self.password));
        cri::AuthConfig {
            username: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
            server_address: server.to_owned(),
            identity_token: self.identitytoken.clone(),
            ..cri::AuthConfig::default()
        }
    }
}

fn entries(secret: &Secret) -> Vec<(String, Entry)> {
    let parse = |key: &str| secret.data.get(key).map(|value| value.0.as_slice());
    let auths = if let Some(text) = parse(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(text).unwrap_or_default().auths
    } else if let Some(text) = parse(".dockercfg") {
        serde_json::from_slice(text).unwrap_or_default()
    } else {
        return Vec::new();
    };
    auths.into_iter().collect()
}

/// Whether a registry (with or without scheme, path and wildcards in the host) is where an image comes from, and how
/// much of it says so.
fn matching(server: &str, name: &str) -> Option<usize> {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    // The old address of Docker's registry.
    let server = match server {
        "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    let first = name.split('/').next().unwrap_or_default();
    let explicit = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let full = if explicit { name.to_owned() } else { format!("docker.io/{name}") };
    let (server_host, server_path) = server.split_once('/').unwrap_or((server, ""));
    let (host, path) = full.split_once('/')?;
    let parts = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (wanted, have) = (parts(server_host), parts(host));
    let fits = wanted.len() == have.len()
        && wanted.iter().zip(&have).all(|(wanted, have)| wanted == "*" || wanted == have);
    let inside = server_path.is_empty()
        || path.strip_prefix(server_path).is_some_and(|rest| rest.starts_with(['/', ':', '@']));
    (fits && inside).then_some(server.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (image, full) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("a@sha256:b", "a@sha256:b"),
        ] {
            assert_eq!(with_tag(image), full);
        }
        assert!(same_image("docker.io/library/busybox:latest", "busybox:latest"));
        assert!(same_image("docker.io/a/b:1", "a/b:1"));
        assert!(!same_image("docker.io/a/b:1", "b:1"));
    }

    #[test]
    fn registries() {
        assert!(matching("https://index.docker.io/v1/", "busybox:1").is_some());
        assert!(matching("quay.io", "busybox:1").is_none());
        assert!(matching("quay.io", "quay.io/a/b").is_some());
        assert!(matching("quay.io/a", "quay.io/a/b:1").is_some());
        assert!(matching("quay.io/a", "quay.io/ab/c").is_none());
        assert!(matching("*.example.com", "r.example.com/a").is_some());
        assert!(matching("*.example.com", "example.com/a").is_none());
        assert!(matching("localhost:5000", "localhost:5000/a").is_some());
    }

    #[test]
    fn docker_config() {
        let mut secret = Secret::default();
        let text =
            br#"{"auths":{"quay.io":{"auth":"dTpwOng="},"r.example":{"username":"a","password":"b"}}}"#;
        secret.data.insert(".dockerconfigjson".to_owned(), Bytes(text.to_vec()));
        let all: Vec<_> = entries(&secret).into_iter().map(|(server, entry)| entry.auth(&server)).collect();
        assert_eq!((all[0].username.as_str(), all[0].password.as_str()), ("u", "p:x"));
        assert_eq!((all[1].username.as_str(), all[1].password.as_str()), ("a", "b"));
    }
}
