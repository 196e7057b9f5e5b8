//! Names of units (systemd.unit(5)).

use std::path::PathBuf;

use crate::{Error, Kind, Result};

/// The longest name of a unit (`UNIT_NAME_MAX`).
const MAX: usize = 255;

/// Fails for what is not the name of a scope.
pub(super) fn check_scope(name: &str) -> Result<()> {
    let stem = name.strip_suffix(".scope").unwrap_or_default();
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte);
    if stem.is_empty() || name.len() > MAX || !stem.bytes().all(is_legal) {
        let message = format!(
            "{name:?} is not the name of a systemd scope: letters, digits and :-_.\\ only, at most {MAX}, ending in .scope"
        );
        return Err(Error::refused(Kind::Invalid, message));
    }
    Ok(())
}

/// Where a slice is below the root: `a-b.slice` is `a.slice/a-b.slice`, `-.slice` the root itself (systemd.slice(5)).
pub(super) fn expand_slice(slice: &str) -> Result<PathBuf> {
    let invalid = || {
        let message = format!("{slice:?} is not the name of a systemd slice, as in a-b.slice");
        Error::refused(Kind::Invalid, message)
    };
    let stem = slice.strip_suffix(".slice").filter(|_| slice.len() <= MAX).ok_or_else(invalid)?;
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\".contains(&byte);
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in stem.split('-') {
        if part.is_empty() || !part.bytes().all(is_legal) {
            return Err(invalid());
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix.push_str(part);
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn slices() {
        for (slice, path) in [
            ("-.slice", ""),
            ("system.slice", "system.slice"),
            ("test-a-b.slice", "test.slice/test-a.slice/test-a-b.slice"),
        ] {
            assert_eq!(expand_slice(slice).unwrap(), Path::new(path), "{slice}");
        }
        let long = format!("{}.slice", "a".repeat(250));
        for bad in ["", ".slice", "a", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice", "a b.slice", &long]
        {
            assert_eq!(expand_slice(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn scopes() {
        check_scope("vaquita-0f_:.\\x2d.scope").unwrap();
        let long = format!("{}.scope", "a".repeat(250));
        for bad in ["", ".scope", "a.service", "a/b.scope", "a b.scope", "a@b.scope", "ä.scope", &long] {
            assert_eq!(check_scope(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
