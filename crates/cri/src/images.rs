//! Pulls, and the image that needs none.

use std::path::PathBuf;

use vaquita_image::{Auth, BuiltinFile, Image, ImageConfig, Reference, Source};
use vaquita_proto::cri;

use crate::config::DemoImage;
use crate::node::Node;
use crate::{Error, Result};

/// Fetches an image, or makes the demo image.
pub(crate) async fn pull(node: &Node, name: &str, auth: Option<&Auth>) -> Result<Image> {
    let pulled = pull_now(node, name, auth).await;
    node.telemetry.pulled(pulled.is_ok());
    pulled
}

async fn pull_now(node: &Node, name: &str, auth: Option<&Auth>) -> Result<Image> {
    let reference = Reference::parse(name)?;
    if let Some(demo) = &node.config.demo_image
        && is_demo(demo, &reference)?
    {
        return demo_image(node, demo, &reference).await;
    }
    Ok(node.images.pull(&reference, auth, &node.config.registries).await?)
}

/// Credentials as kubelet and crictl pass them; none where the message is empty, and none that are for another registry than that of
/// the image `name` (as with containerd).
pub(crate) fn auth(config: &cri::AuthConfig, name: &str) -> Result<Option<Auth>> {
    if !config.server_address.is_empty() && !is_of(&config.server_address, &Reference::parse(name)?) {
        tracing::info!(image = name, server = config.server_address, "credentials are for another registry");
        return Ok(None);
    }
    if !config.identity_token.is_empty() {
        return Ok(Some(Auth::IdentityToken(config.identity_token.clone())));
    }
    if !config.registry_token.is_empty() {
        return Ok(Some(Auth::RegistryToken(config.registry_token.clone())));
    }
    if !config.username.is_empty() {
        let (username, password) = (config.username.clone(), config.password.clone());
        return Ok(Some(Auth::Basic { username, password }));
    }
    if config.auth.is_empty() {
        return Ok(None);
    }
    let text =
        base64(&config.auth).ok_or_else(|| Error::invalid("auth.auth: is not base64 of user:password"))?;
    let (username, password) =
        text.split_once(':').ok_or_else(|| Error::invalid("auth.auth: is not base64 of user:password"))?;
    let (username, password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
    Ok(Some(Auth::Basic { username, password }))
}

/// Whether an address of a registry, as in Docker's configuration (a host, or a URL), is that of an image's registry.
fn is_of(address: &str, reference: &Reference) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    match reference.registry() {
        "docker.io" => ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host),
        registry => host.eq_ignore_ascii_case(registry),
    }
}

/// Standard base64 of UTF-8 text (RFC 4648), padded or not.
fn base64(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

fn is_demo(demo: &DemoImage, reference: &Reference) -> Result<bool> {
    let own = Reference::parse(&demo.reference)?;
    let tag = reference.tag().unwrap_or("latest");
    Ok(reference.name() == own.name() && reference.digest().is_none() && tag == own.tag().unwrap_or("latest"))
}

/// The demo image, made once: several containers of a pod pull it at the same time.
async fn demo_image(node: &Node, demo: &DemoImage, reference: &Reference) -> Result<Image> {
    let mut made = node.demo.lock().await;
    let there = node.images.find(&reference.to_string());
    if let Some(image) = there.filter(|image| made.as_deref() == Some(&image.id.to_string())) {
        return Ok(Image::clone(&image));
    }
    let image = make_demo(node, demo, reference).await?;
    *made = Some(image.id.to_string());
    Ok(image)
}

async fn make_demo(node: &Node, demo: &DemoImage, reference: &Reference) -> Result<Image> {
    let executable = match &node.config.executable {
        Some(path) => path.clone(),
        None => PathBuf::from("/proc/self/exe"),
    };
    let file = |path: &str, mode, source| BuiltinFile { path: path.into(), mode, source };
    let text = |text: &str| Source::Bytes(text.as_bytes().to_vec());
    let mut files = vec![
        file("/bin/vaquita", 0o755, Source::File(executable)),
        file(
            "/etc/passwd",
            0o644,
            text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ),
        file("/etc/group", 0o644, text("root:x:0:\nnobody:x:65534:\n")),
        file("/root", 0o700, Source::Directory),
        file("/tmp", 0o1777, Source::Directory),
    ];
    files.extend(demo.links.iter().map(|link| file(link, 0o777, Source::Symlink("/bin/vaquita".into()))));
    let mut config = ImageConfig::default();
    config.entrypoint.clone_from(&demo.entrypoint);
    config.env = vec!["PATH=/bin".into()];
    config.working_dir = "/".into();
    config.exposed_ports = vec!["8080/tcp".into()];
    Ok(node.images.builtin(reference, config, files).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials() {
        let basic = |username: &str, password: &str| {
            Some(Auth::Basic { username: username.into(), password: password.into() })
        };
        let with = |auth: &str| auth_of(cri::AuthConfig { auth: auth.into(), ..Default::default() });
        assert_eq!(with("dXNlcjpwYXNzOndvcmQ=").unwrap(), basic("user", "pass:word"));
        assert_eq!(with("dXNlcjpwYXNzOndvcmQ").unwrap(), basic("user", "pass:word"));
        assert!(with("dXNlcg==").is_err());
        assert!(with("%%").is_err());
        assert_eq!(with("").unwrap(), None);
        let named = cri::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
        assert_eq!(auth_of(named).unwrap(), basic("u", "p"));
    }

    /// T39.
    #[test]
    fn credentials_are_for_their_own_registry() {
        for (address, image, is) in [
            ("https://index.docker.io/v1/", "busybox", true),
            ("docker.io", "docker.io/library/busybox:1", true),
            ("registry.example:5000", "registry.example:5000/a:1", true),
            ("http://Registry.example/v2/", "registry.example/a", true),
            ("registry.example", "registry.example:5000/a:1", false),
            ("registry.example", "evil.example/registry.example/a", false),
            ("https://evil.example/registry.example", "registry.example/a", false),
            ("docker.io", "registry.example/a", false),
        ] {
            let config = cri::AuthConfig {
                username: "u".into(),
                password: "p".into(),
                server_address: address.into(),
                ..Default::default()
            };
            assert_eq!(auth(&config, image).unwrap().is_some(), is, "{address} {image}");
        }
    }

    fn auth_of(config: cri::AuthConfig) -> Result<Option<Auth>> {
        auth(&config, "busybox")
    }

    #[test]
    fn the_demo_image_by_its_names() {
        let demo = DemoImage {
            reference: "vaquita.local/demo:latest".into(),
            entrypoint: Vec::new(),
            links: Vec::new(),
        };
        for (name, is) in [
            ("vaquita.local/demo", true),
            ("vaquita.local/demo:latest", true),
            ("vaquita.local/demo:1", false),
            ("vaquita.local/other", false),
            ("docker.io/vaquita.local/demo", false),
        ] {
            assert_eq!(is_demo(&demo, &Reference::parse(name).unwrap()).unwrap(), is, "{name}");
        }
    }
}
