//! Credentials of the user who pulls: of the command line, else of the files that podman and Docker keep.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;
use vaquita_image::{Auth, Reference};
use vaquita_proto::cri::AuthConfig;
use vaquita_proto::node::PullImageRequest;

use crate::demo;
use crate::options::Credentials;

/// The request for a pull with the credentials that there are.
///
/// `file` is the only one that is looked into where it is given; it has to be there then.
pub(crate) async fn request(
    reference: &str,
    given: Option<Credentials>,
    file: Option<&Path>,
) -> Result<PullImageRequest> {
    let auth = match given {
        Some(Credentials { username, password }) => {
            AuthConfig { username, password, ..AuthConfig::default() }
        }
        None => find(&Reference::parse(reference)?, file).await?.map(message).unwrap_or_default(),
    };
    let AuthConfig { username, password, identity_token, registry_token, .. } = auth;
    Ok(PullImageRequest {
        reference: reference.to_owned(),
        username,
        password,
        identity_token,
        registry_token,
    })
}

/// The user's credentials for an image of a manifest. An error is one sentence.
pub(crate) async fn of_user(image: String) -> Result<Option<AuthConfig>, String> {
    if image == demo::IMAGE {
        return Ok(None);
    }
    let told = |e: &dyn std::fmt::Display| format!("credentials for {image}: {e}");
    let reference = Reference::parse(&image).map_err(|e| told(&e))?;
    Ok(find(&reference, None).await.map_err(|e| told(&e))?.map(message))
}

fn message(auth: Auth) -> AuthConfig {
    let mut message = AuthConfig::default();
    match auth {
        Auth::Basic { username, password } => (message.username, message.password) = (username, password),
        Auth::IdentityToken(token) => message.identity_token = token,
        Auth::RegistryToken(token) => message.registry_token = token,
        _ => {}
    }
    message
}

async fn find(reference: &Reference, file: Option<&Path>) -> Result<Option<Auth>> {
    if let Some(file) = file {
        return Ok(Auth::from_docker_config(file, reference).await?);
    }
    for file in usual_files().iter().filter(|file| file.exists()) {
        if let Some(auth) = Auth::from_docker_config(file, reference).await? {
            return Ok(Some(auth));
        }
    }
    Ok(None)
}

/// Where credentials are, the first first: containers-auth.json(5), and `docker login`.
fn usual_files() -> Vec<PathBuf> {
    let directory = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = rustix::process::getuid().as_raw();
    let runtime = directory("XDG_RUNTIME_DIR").map(|dir| dir.join("containers"));
    let runtime = runtime.unwrap_or_else(|| format!("/run/containers/{user}").into());
    let home = directory("HOME");
    let config = directory("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let docker = directory("DOCKER_CONFIG").or_else(|| Some(home?.join(".docker")));
    let files = [
        Some(runtime.join("auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ];
    files.into_iter().flatten().collect()
}
