//! Forms of names that only some fields have, and what Kubernetes says about those that are wrong
//! (`k8s.io/apimachinery/pkg/util/validation`). Each returns the messages; none means right.

fn max(bytes: usize) -> String {
    format!("must be no more than {bytes} characters")
}

fn pattern(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// A DNS subdomain whose labels may have underscores, as search domains have.
pub(crate) fn subdomain_underscore(name: &str) -> Vec<String> {
    let part = |part: &str| {
        let bytes = part.strip_prefix('_').unwrap_or(part).as_bytes();
        bytes.first().is_some_and(|b| lower(*b))
            && bytes.last().is_some_and(|b| lower(*b))
            && bytes.iter().all(|b| lower(*b) || matches!(b, b'-' | b'_'))
    };
    let mut messages = Vec::new();
    if name.len() > 253 {
        messages.push(max(253));
    }
    if !name.split('.').all(part) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        let one = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        messages.push(pattern(message, &format!("{one}(\\.{one})*"), &["example.com"]));
    }
    messages
}

/// A DNS label (RFC 1035), which begins with a letter: names of services.
pub(crate) fn label_1035(name: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if name.len() > 63 {
        messages.push(max(63));
    }
    let inner = name.bytes().all(|b| lower(b) || b == b'-');
    if !inner || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.ends_with('-') {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        messages.push(pattern(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    messages
}

/// The name of a port.
pub(crate) fn port(name: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if name.len() > 15 {
        messages.push(max(15));
    }
    let mut say = |bad: bool, message: &str| {
        if bad {
            messages.push(message.to_owned());
        }
    };
    let charset = !name.is_empty() && name.bytes().all(|b| lower(b) || b == b'-');
    say(!charset, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    say(!name.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    say(name.contains("--"), "must not contain consecutive hyphens");
    say(name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen");
    messages
}

/// The name of an environment variable.
pub(crate) fn variable(name: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if name.is_empty() {
        messages.push("environment variable name must be non-empty".to_owned());
    }
    if name.bytes().any(|b| !(0x20..0x7f).contains(&b) || b == b'=') {
        let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        messages.push(message.to_owned());
    }
    messages
}

/// A key of a ConfigMap or Secret.
pub(crate) fn config_key(key: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if key.len() > 253 {
        messages.push(max(253));
    }
    let form = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if key.is_empty() || !key.bytes().all(form) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        messages.push(pattern(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match key {
        "." | ".." => messages.push(format!("must not be '{key}'")),
        key if key.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// The name of an HTTP header.
pub(crate) fn header(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(
            port("Http--"),
            [
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "must not contain consecutive hyphens",
                "must not begin or end with a hyphen"
            ]
        );
        assert_eq!(config_key("..data"), ["must not start with '..'"]);
        assert_eq!(
            config_key(""),
            [
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            ]
        );
        assert_eq!(
            variable("A=B"),
            [
                "a valid environment variable name must consist only of printable ASCII characters other than '='"
            ]
        );
        assert_eq!(header("X Y").len(), 1);
        assert!(label_1035("a-1").is_empty() && label_1035("1a").len() == 1 && label_1035("").len() == 1);
        assert!(subdomain_underscore("_a.b_c").is_empty() && subdomain_underscore("a..b").len() == 1);
    }
}
