//! Names of objects: what they may be, and making them up.

/// Letters that make no words: generated names must not be rude.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED: usize = 5;
const GENERATED_BASE_MOST: usize = 63 - GENERATED;

/// What is wrong with a name that must be a DNS subdomain (RFC 1123).
#[must_use]
pub fn subdomain(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 253 {
        errors.push("must be no more than 253 characters".to_owned());
    }
    if !name.split('.').all(is_label) {
        errors.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    errors
}

/// What is wrong with a name that must be a DNS label (RFC 1123).
#[must_use]
pub fn label(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 63 {
        errors.push("must be no more than 63 characters".to_owned());
    }
    if !is_label(name) && name.split('.').all(is_label) {
        errors.push("must not contain dots".to_owned());
    } else if !is_label(name) {
        errors.push("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')".to_owned());
    }
    errors
}

/// What is wrong with a name that must only fit into a path.
#[must_use]
pub fn path_segment(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|one| name.contains(one))
        .map(|one| format!("may not contain '{one}'"))
        .collect()
}

/// What is wrong with the key of a label or annotation.
#[must_use]
pub fn qualified(key: &str) -> Vec<String> {
    const PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let mut errors = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain(prefix).into_iter().map(|one| format!("prefix part {one}")));
            }
            name
        }
        _ => {
            errors.push(format!("a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')", PART));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {PART}"));
    }
    errors
}

/// What is wrong with the value of a label.
#[must_use]
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !is_qualified_part(value) {
        errors.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned());
    }
    errors
}

/// A name that begins so, with five letters that nobody else has (mostly).
#[must_use]
pub fn generate(base: &str) -> String {
    let mut random = [0_u8; 16];
    fill(&mut random);
    let mut end = base.len().min(GENERATED_BASE_MOST);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.extend(random.iter().take(GENERATED).map(|byte| char::from(SAFE[usize::from(*byte) % SAFE.len()])));
    name
}

/// A random (version 4) uuid.
#[must_use]
pub fn uid() -> String {
    let mut bytes = [0_u8; 16];
    fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_qualified_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            bytes.iter().all(inner) && first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric()
        }
        _ => false,
    }
}

fn fill(bytes: &mut [u8]) {
    // The kernel's generator never fails once it is seeded, which it is long before this process runs.
    let _ = aws_lc_rs::rand::fill(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_and_differ() {
        let long = "a".repeat(100);
        assert_eq!(generate(&long).len(), 63);
        let name = generate("web-");
        assert!(name.starts_with("web-") && name.len() == 9 && subdomain(&name).is_empty(), "{name}");
        assert_ne!(generate("web-"), name);
        assert_eq!(uid().len(), 36);
    }

    #[test]
    fn names_are_checked() {
        assert!(subdomain("a.b-c.d0").is_empty());
        for bad in ["", "A", "a..b", "-a", "a-", ".a", "a_b"] {
            assert!(!subdomain(bad).is_empty(), "{bad:?}");
        }
        assert!(qualified("example.com/My_Name").is_empty());
        assert_eq!(qualified("/x"), ["prefix part must be non-empty"]);
        assert!(label_value("").is_empty() && !label_value("a b").is_empty());
    }
}
