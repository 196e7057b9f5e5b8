//! Names of images, as people write them.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// The name of an image: registry, repository, and a tag or a digest or both.
///
/// Short names are read as everybody reads them: `busybox` is `docker.io/library/busybox:latest`,
/// `quay.io/a/b` has the tag `latest`. The grammar is that of the distribution reference library.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference as a user or a pod manifest writes it.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::invalid("an image reference is empty"));
        }
        if text.len() > NAME_LIMIT + TAG_LIMIT + 100 {
            return Err(Error::invalid("an image reference is longer than 483 bytes"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|e| e.context(quoted(text)))?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(|e| e.context(quoted(text)))?;
        }
        if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::invalid(format!(
                "{}: 64 hex digits are an image id, not a name",
                quoted(text)
            )));
        }
        let (registry, path) = split_registry(name);
        check_registry(registry).map_err(|e| e.context(quoted(text)))?;
        check_repository(path).map_err(|e| e.context(quoted(text)))?;
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if registry.len() + 1 + repository.len() > NAME_LIMIT {
            return Err(Error::invalid(format!("{}: a name has at most {NAME_LIMIT} bytes", quoted(text))));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The registry's host name, with a port where one was given: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository below the registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only where a digest was given without one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, where the reference pins one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What goes into `repo_tags`: name and tag. `None` for a reference by digest, even when it also has a tag:
    /// the tag was not asked of the registry.
    #[must_use]
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// What goes into `repo_digests` for a manifest of this repository.
    #[must_use]
    pub fn repo_digest(&self, manifest: &Digest) -> String {
        format!("{}@{manifest}", self.name())
    }

    /// The tag or digest to ask the registry for; the digest wins.
    #[must_use]
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// As people write it: without `docker.io/library/` or `docker.io/`, where what is left means the same.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let shorter =
            ["docker.io/library/", "docker.io/"].into_iter().filter_map(|head| full.strip_prefix(head));
        let same = |text: &&str| Self::parse(text).is_ok_and(|again| again == *self);
        let shortest = shorter.into_iter().find(same).map(str::to_owned);
        shortest.unwrap_or(full)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// The first component is a registry when it looks like a host: it has a dot or a port, or is `localhost`, or
/// has an upper-case letter (a repository has none).
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_registry(registry: &str) -> Result<(), Error> {
    let wrong =
        || Error::invalid(format!("registry {} is not a host name with an optional port", quoted(registry)));
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            ("v6", if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err(wrong());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err(wrong()) }
}

fn check_repository(path: &str) -> Result<(), Error> {
    if path.is_empty() {
        return Err(Error::invalid("the repository's name is missing"));
    }
    match path.split('/').find(|part| !is_component(part)) {
        None => Ok(()),
        Some(part) if part.bytes().any(|b| b.is_ascii_uppercase()) => {
            Err(Error::invalid(format!("repository {} must be lower-case", quoted(path))))
        }
        Some(part) => Err(Error::invalid(format!(
            "{} in repository {} is not letters and digits separated by '.', '_', '__' or '-'",
            quoted(part),
            quoted(path)
        ))),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(first) || !alnum(last) || !bytes.iter().all(|&b| alnum(b) || matches!(b, b'.' | b'_' | b'-')) {
        return false;
    }
    bytes
        .split(|&b| alnum(b))
        .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|&b| b == b'-'))
}

/// `[\w][\w.-]{0,127}`
fn check_tag(tag: &str) -> Result<(), Error> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let right = (1..=TAG_LIMIT).contains(&tag.len())
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
        && tag.bytes().next().is_some_and(word);
    if right {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "tag {} is not 1 to {TAG_LIMIT} letters, digits, '_', '.', '-' beginning with none of '.', '-'",
            quoted(tag)
        )))
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(300).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn familiar_names() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("a__b/c-d.e_f/g--h", "docker.io/a__b/c-d.e_f/g--h:latest"),
            ("UPPER/a", "UPPER/a:latest"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(Reference::parse(full).unwrap(), reference);
        }
        let short = |text: &str| Reference::parse(text).unwrap().familiar();
        // Without the head these are other images.
        for text in ["docker.io/library/o/nginx:1.2", "docker.io/foo.bar/baz:1"] {
            let parsed = |text: &str| Reference::parse(text).unwrap();
            assert_eq!(parsed(&short(text)), parsed(text), "{text}");
        }
        assert_eq!(short("docker.io/library/busybox"), "busybox:latest");
        assert_eq!(short("docker.io/grafana/loki:1"), "grafana/loki:1");
        assert_eq!(short("quay.io/library/x"), "quay.io/library/x:latest");
    }

    #[test]
    fn digests_win_over_tags() {
        let both = Reference::parse(&format!("busybox:1.36@{D}")).unwrap();
        assert_eq!((both.tag(), both.selector().as_str()), (Some("1.36"), D));
        assert_eq!(both.repo_tag(), None);
        let alone = Reference::parse(&format!("quay.io/a/b@{D}")).unwrap();
        assert_eq!((alone.tag(), alone.to_string()), (None, format!("quay.io/a/b@{D}")));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in [
            "",
            ":",
            "@",
            ":tag",
            "a:",
            "a@",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "a b",
            "a\n",
            "a:b c",
            "a:.b",
            "a:-b",
            "../a",
            "a/../b",
            "./a",
            "a:5000",
            "ex_ample.com/a",
            "a.b:x/c",
            "a.b:/c",
            "a.b:99999/c",
            ".a.b/c",
            "a.b./c",
            "[::1/a",
            "[zz]/a",
            "a@sha256:../../x",
            "a@md5:00",
            "a\0",
            "é/a",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            let ok = text == "a:5000";
            assert_eq!(Reference::parse(text).is_ok(), ok, "{text:?}");
        }
        assert!(Reference::parse(&"a/".repeat(200)).is_err());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(Reference::parse(&"a".repeat(256)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn printed_form_reads_back(text in "[a-z0-9.:/@_-]{1,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                proptest::prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,300}") {
            let _ = Reference::parse(&text);
        }
    }
}
