//! Paths inside a root filesystem, taken apart before the clone.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// A path inside a root filesystem, cleaned lexically, with all that is needed to make its missing parts.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    /// Absolute, as the container sees it.
    shown: PathBuf,
    /// Relative to the root; "." for the root itself.
    pub(crate) path: CString,
    /// Each component: the relative path up to and with it, and its name.
    pub(crate) parts: Vec<(CString, CString)>,
}

impl Inside {
    /// `field` is what an error names.
    pub(crate) fn new(field: &str, path: &Path) -> Result<Self, Error> {
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => {
                    clean.pop();
                }
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        let c_string = |text: &Path| {
            CString::new(text.as_os_str().as_bytes())
                .map_err(|_| Error::invalid(format!("{field}: {path:?} has a NUL character")))
        };
        let mut parts = Vec::new();
        let mut prefix = PathBuf::new();
        for name in clean.components() {
            prefix.push(name);
            parts.push((c_string(&prefix)?, c_string(name.as_ref())?));
        }
        let path = if parts.is_empty() { c".".to_owned() } else { c_string(&clean)? };
        Ok(Self { shown: Path::new("/").join(clean), path, parts })
    }

    /// Absolute, as the container sees it.
    pub(crate) fn as_path(&self) -> &Path {
        &self.shown
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_taken_apart() {
        for (path, shown, relative, parts) in [
            ("/", "/", ".", 0),
            ("/proc", "/proc", "proc", 1),
            ("proc/", "/proc", "proc", 1),
            ("/a/./b//../c", "/a/c", "a/c", 2),
            ("/../../etc", "/etc", "etc", 1),
        ] {
            let inside = Inside::new("field", Path::new(path)).unwrap();
            assert_eq!(inside.as_path(), Path::new(shown), "{path}");
            assert_eq!(inside.path.to_str().unwrap(), relative, "{path}");
            assert_eq!(inside.parts.len(), parts, "{path}");
        }
        assert!(Inside::new("field", Path::new("a\0b")).is_err());
    }
}
