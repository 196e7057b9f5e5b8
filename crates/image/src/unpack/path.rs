//! What a name in an archive means (pure).

use crate::Error;

const PATH_LIMIT: usize = 4096;
const NAME_LIMIT: usize = 255;

/// What the name of an entry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// The layer's root itself.
    Root,
    /// A file at this place; there is at least one component.
    At(Vec<&'a [u8]>),
    /// `.wh.<name>`: the last component, without the prefix, is deleted.
    Whiteout(Vec<&'a [u8]>),
    /// `.wh..wh..opq` in this directory (none: the root): everything below is hidden.
    Opaque(Vec<&'a [u8]>),
    /// Bookkeeping of aufs (`.wh..wh.plnk` and such), which everybody ignores.
    Bookkeeping,
}

/// Reads the name of an entry. Absolute names are taken from the layer's root.
pub(crate) fn read(raw: &[u8]) -> Result<Name<'_>, Error> {
    let mut parts = split(raw)?;
    if parts.iter().any(|part| part.starts_with(b".wh..wh.") && *part != b".wh..wh..opq") {
        return Ok(Name::Bookkeeping);
    }
    let Some(last) = parts.pop() else { return Ok(Name::Root) };
    if parts.iter().any(|part| part.starts_with(b".wh.")) {
        return Err(refused(raw, "a whiteout is used as a directory"));
    }
    if last == b".wh..wh..opq" {
        return Ok(Name::Opaque(parts));
    }
    match last.strip_prefix(b".wh.") {
        Some(b"" | b"." | b"..") => Err(refused(raw, "a whiteout of no name")),
        Some(name) => {
            parts.push(name);
            Ok(Name::Whiteout(parts))
        }
        None => {
            parts.push(last);
            Ok(Name::At(parts))
        }
    }
}

/// Splits a name into components; `..` is refused, since no honest archive has it.
pub(crate) fn split(raw: &[u8]) -> Result<Vec<&[u8]>, Error> {
    if raw.len() >= PATH_LIMIT {
        return Err(refused(&raw[..100], "the path is longer than 4095 bytes"));
    }
    if raw.contains(&0) {
        return Err(refused(raw, "the path contains a NUL byte"));
    }
    let parts: Vec<&[u8]> =
        raw.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err(refused(raw, "the path contains \"..\""));
    }
    if parts.iter().any(|part| part.len() > NAME_LIMIT) {
        return Err(refused(&raw[..100], "a component is longer than 255 bytes"));
    }
    Ok(parts)
}

/// An error about an entry, with its name in a printable form.
pub(crate) fn refused(raw: &[u8], why: &str) -> Error {
    Error::invalid(format!("layer entry {}: {why}", show(raw)))
}

/// A printable form of a path.
pub(crate) fn show(raw: &[u8]) -> String {
    format!("\"{}\"", raw[..raw.len().min(300)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(parts: &[&'a str]) -> Vec<&'a [u8]> {
        parts.iter().map(|p| p.as_bytes()).collect()
    }

    #[test]
    fn names() {
        assert_eq!(read(b"./").unwrap(), Name::Root);
        assert_eq!(read(b"").unwrap(), Name::Root);
        assert_eq!(read(b"/etc//passwd").unwrap(), Name::At(at(&["etc", "passwd"])));
        assert_eq!(read(b"./a/./b/").unwrap(), Name::At(at(&["a", "b"])));
        assert_eq!(read(b"a/.wh.b").unwrap(), Name::Whiteout(at(&["a", "b"])));
        assert_eq!(read(b".wh..wh..opq").unwrap(), Name::Opaque(vec![]));
        assert_eq!(read(b"a/.wh..wh..opq").unwrap(), Name::Opaque(at(&["a"])));
        assert_eq!(read(b".wh..wh.plnk/5.5").unwrap(), Name::Bookkeeping);
        assert_eq!(read(b"a/..b/...").unwrap(), Name::At(at(&["a", "..b", "..."])));
    }

    #[test]
    fn hostile_names() {
        for raw in
            [&b"../a"[..], b"a/../b", b"/..", b"a/..", b".wh.", b".wh..", b".wh...", b"a\0b", b".wh.a/b"]
        {
            assert!(read(raw).is_err(), "{}", raw.escape_ascii());
        }
        assert!(read(&[b'a'; 256]).is_err());
        assert!(read("a/".repeat(2048).as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_component_leaves_its_directory(raw: Vec<u8>) {
            if let Ok(Name::At(parts) | Name::Whiteout(parts) | Name::Opaque(parts)) = read(&raw) {
                for part in parts {
                    proptest::prop_assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&b'/'));
                }
            }
        }
    }
}
