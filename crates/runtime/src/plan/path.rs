//! Paths inside a root filesystem, taken apart before the clone.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// The longest path that the kernel takes, in bytes, the NUL at its end counted (`PATH_MAX`, linux/limits.h).
pub(crate) const PATH_MAX: usize = 4096;

/// A path inside a root filesystem, cleaned lexically.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    /// Absolute, as the container sees it.
    shown: PathBuf,
    /// Relative to the root; "." for the root itself.
    pub(crate) path: CString,
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
        let bytes = clean.as_os_str().as_bytes();
        if bytes.len() >= PATH_MAX {
            return Err(Error::invalid(format!("{field}: {path:?} is longer than {} bytes", PATH_MAX - 1)));
        }
        let path = if bytes.is_empty() { &b"."[..] } else { bytes };
        let path = CString::new(path)
            .map_err(|_| Error::invalid(format!("{field}: {path:?} has a NUL character", path = clean)))?;
        Ok(Self { shown: Path::new("/").join(clean), path })
    }

    /// How many components it has.
    pub(crate) fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.path.to_bytes().split(|byte| *byte == b'/').count() }
    }

    /// The name of the last component; none of the root itself.
    pub(crate) fn name(&self) -> Option<&CStr> {
        let start = self.path.to_bytes().iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let name = CStr::from_bytes_with_nul(&self.path.to_bytes_with_nul()[start..]).ok();
        name.filter(|_| !self.is_root())
    }

    fn is_root(&self) -> bool {
        self.path.as_c_str() == c"."
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
    fn paths_are_cleaned() {
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
            assert_eq!(inside.depth(), parts, "{path}");
            let names: Vec<_> = relative.split('/').filter(|name| *name != ".").collect();
            assert_eq!(names.len(), parts, "{path}");
            assert_eq!(inside.name().map(|name| name.to_str().unwrap()), names.last().copied());
        }
        assert!(Inside::new("field", Path::new("a\0b")).is_err());
        assert!(Inside::new("field", Path::new(&format!("/{}", "x".repeat(4095)))).is_ok());
        assert!(Inside::new("field", Path::new(&"/x".repeat(2048))).is_ok());
        assert!(Inside::new("field", Path::new(&format!("/{}", "x".repeat(4096)))).is_err());
    }
}
