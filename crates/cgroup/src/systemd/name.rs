//! Names of units (systemd.unit(5)).

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

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

/// The group of the slice that somebody names: by its name, `a-b.slice`, or by that group, `/a.slice/a-b.slice`, as kubelet
/// does.
///
/// # Errors
/// `Invalid` for what is neither, and for the root.
pub fn slice_path(given: &str) -> Result<PathBuf> {
    let name = given.rsplit('/').next().unwrap_or_default();
    let path = Path::new("/").join(expand_slice(name)?);
    let is_it = given == name || Path::new(given) == path;
    if !is_it || path.parent().is_none() {
        let message = format!(
            "{given:?} is not a slice of systemd below the root: {name} alone would be one, whose control group is {}",
            path.display()
        );
        return Err(Error::refused(Kind::Invalid, message));
    }
    Ok(path)
}

/// The group of the slice that has the name of a group made without systemd: of `/a/b-c` it is `/a.slice/a-b\x2dc.slice`.
///
/// # Errors
/// `Invalid` for the root, for a path with `..`, and for a name that gets too long.
pub fn slice_for(path: &Path) -> Result<PathBuf> {
    let mut stem = String::new();
    for part in path.components() {
        match part {
            Component::RootDir => {}
            Component::Normal(part) => {
                let part = part.to_str().ok_or_else(|| no_slice(path))?;
                stem = if stem.is_empty() { escape(part) } else { format!("{stem}-{}", escape(part)) };
            }
            _ => return Err(no_slice(path)),
        }
    }
    if stem.is_empty() {
        return Err(no_slice(path));
    }
    slice_path(&format!("{stem}.slice"))
}

/// The group of the slice `name` in the slice with the group `slice`: `b` in `/a.slice` is `/a.slice/a-b.slice`.
///
/// # Errors
/// `Invalid` where `slice` is not the group of a slice, and for a name that gets too long.
pub fn slice_below(slice: &Path, name: &str) -> Result<PathBuf> {
    let outer = slice.file_name().and_then(|outer| outer.to_str()?.strip_suffix(".slice"));
    slice_path(&format!("{}-{}.slice", outer.ok_or_else(|| no_slice(slice))?, escape(name)))
}

fn no_slice(path: &Path) -> Error {
    Error::refused(Kind::Invalid, format!("{path:?} is not the path of a group that a slice could stand for"))
}

/// As systemd-escape(1) does it.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => escaped.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => escaped.push(byte.into()),
            _ => {
                let _ = write!(escaped, "\\x{byte:02x}");
            }
        }
    }
    escaped
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
    fn slices_are_named_by_their_name_or_by_their_group() {
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
        assert_eq!(slice_path(pod).unwrap(), Path::new(pod));
        assert_eq!(slice_path("kubepods-burstable-pod1_2.slice").unwrap(), Path::new(pod));
        for bad in
            ["", "/", "-.slice", "/-.slice", "/kubepods/burstable/pod1", "/a-b.slice", "/b.slice/a.slice"]
        {
            assert_eq!(slice_path(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        for bad in
            ["/a.slice/../a.slice", "a.slice/a-b.slice", "/a.slice/", "a.slice\n", "/x/a.slice/a-b.slice"]
        {
            assert_eq!(slice_path(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn a_path_has_a_slice_of_its_own() {
        for (path, slice) in [
            ("/vaquita", "/vaquita.slice"),
            ("/a/b-c", r"/a.slice/a-b\x2dc.slice"),
            ("/.a/ü", r"/\x2ea.slice/\x2ea-\xc3\xbc.slice"),
        ] {
            assert_eq!(slice_for(path.as_ref()).unwrap(), Path::new(slice));
        }
        assert_eq!(
            slice_below("/a.slice/a-b.slice".as_ref(), "c-d").unwrap(),
            Path::new(r"/a.slice/a-b.slice/a-b-c\x2dd.slice")
        );
        for bad in ["", "/", "/a/../b"] {
            assert_eq!(slice_for(bad.as_ref()).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        assert!(
            slice_below("/a".as_ref(), "b").is_err()
                && slice_below("/a.slice".as_ref(), &"b".repeat(250)).is_err()
        );
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
