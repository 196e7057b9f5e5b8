//! Forms of names.

/// A DNS label (RFC 1123): lower-case letters, digits and `-`, at most 63.
pub(super) fn label(name: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    let message = "must be lower-case letters, digits and '-', begin and end with a letter or digit, and have at most 63 characters";
    ensure(valid, name, message)
}

/// A DNS subdomain (RFC 1123): labels with dots between them, at most 253.
pub(super) fn subdomain(name: &str) -> Result<(), String> {
    // Unlike a label on its own, a part may be longer than 63.
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let valid = (1..=253).contains(&name.len()) && name.split('.').all(part);
    let message = "must be lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit, at most 253 characters";
    ensure(valid, name, message)
}

/// A key of labels or annotations: `[prefix/]name`.
pub(super) fn qualified(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        subdomain(prefix).map_err(|message| format!("prefix {message}"))?;
    }
    let message = "the name must be letters, digits, '-', '_' and '.', begin and end with a letter or digit, and have at most 63 characters";
    ensure(!name.is_empty() && name_form(name), key, message)
}

/// The value of a label.
pub(super) fn label_value(value: &str) -> Result<(), String> {
    let message = "a label's value must be letters, digits, '-', '_' and '.', begin and end with a letter or digit, and have at most 63 characters";
    ensure(name_form(value), value, message)
}

fn name_form(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && edge(name.chars().next())
        && edge(name.chars().next_back())
}

/// The name of a port (RFC 6335).
pub(super) fn port(name: &str) -> Result<(), String> {
    let valid = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    let message = "a port's name must be at most 15 lower-case letters, digits and single '-', with at least one letter, and begin and end with a letter or digit";
    ensure(valid, name, message)
}

/// The name of an environment variable: any printable ASCII but `=`.
pub(super) fn variable(name: &str) -> Result<(), String> {
    let valid = !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    ensure(valid, name, "a variable's name must be printable ASCII without '='")
}

/// The key of a ConfigMap or Secret.
pub(super) fn config_key(key: &str) -> Result<(), String> {
    let valid = (1..=253).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..");
    ensure(
        valid,
        key,
        "a key must be letters, digits, '-', '_' and '.', not '.' and not begin with '..', with at most 253 characters",
    )
}

/// A path inside a volume: relative and without `..`.
pub(super) fn relative(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Err(format!("{path:?}: must be a relative path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("{path:?}: must not contain '..'"));
    }
    if path.contains('\0') {
        return Err("must not contain a null character".to_owned());
    }
    Ok(())
}

/// A path of a file in a configuration volume: relative, without `..`, and not with `..` in front.
pub(super) fn file_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("is required".to_owned());
    }
    relative(path)?;
    if path.starts_with("..") {
        return Err(format!("{path:?}: must not begin with '..'"));
    }
    if path.split('/').any(|part| part.is_empty() || part == ".") {
        return Err(format!("{path:?}: must not contain empty parts or '.'"));
    }
    Ok(())
}

/// The server of an NFS volume: what `mount.nfs` takes before the colon.
pub(super) fn nfs_server(server: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'%');
    let valid = server.bytes().all(inner) && !server.starts_with(['-', ':']);
    ensure(valid, server, "must be a host name or an IP address")
}

/// An IP address.
pub(super) fn ip(address: &str) -> Result<(), String> {
    ensure(address.parse::<std::net::IpAddr>().is_ok(), address, "must be an IP address")
}

/// A number in a range.
pub(super) fn range(value: i64, min: i64, max: i64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        Ok(())
    } else if max == i64::MAX || max == i64::from(i32::MAX) {
        Err(format!("{value}: must be at least {min}"))
    } else {
        Err(format!("{value}: must be from {min} to {max}"))
    }
}

fn ensure(valid: bool, value: &str, message: &str) -> Result<(), String> {
    if valid { Ok(()) } else { Err(format!("{value:?}: {message}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert_eq!(label(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(label(bad).is_err(), "{bad}");
        }
        assert!(subdomain("a.b-c.d").is_ok() && subdomain("a..b").is_err() && subdomain(".a").is_err());
        assert!(
            qualified("app.kubernetes.io/name").is_ok()
                && qualified("/x").is_err()
                && qualified("a/b/c").is_err()
        );
        assert!(label_value("").is_ok() && label_value("-a").is_err());
        assert!(
            port("http").is_ok()
                && port("8080").is_err()
                && port("a--b").is_err()
                && port("toolongportname1").is_err()
        );
        assert!(variable("A.b-c").is_ok() && variable("A=b").is_err() && variable("").is_err());
        assert!(
            config_key(".dockerconfigjson").is_ok()
                && config_key("..x").is_err()
                && config_key("a/b").is_err()
        );
        assert!(relative("a/b").is_ok() && relative("/a").is_err() && relative("a/../b").is_err());
        assert!(file_path("a/b").is_ok() && file_path("..a").is_err() && file_path("a//b").is_err());
    }
}
