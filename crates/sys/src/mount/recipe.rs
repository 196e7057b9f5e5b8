//! A filesystem to be made, written down beforehand as both mount APIs take it.

use std::ffi::{CStr, CString};

use rustix::io::Errno;

use crate::{Error, Result};

/// Kind and parameters of a filesystem, prepared so that making it allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    kind: CString,
    source: Option<CString>,
    pub(super) strings: Vec<(CString, CString)>,
    pub(super) flags: Vec<CString>,
    /// For mount(2): `MS_*` of the whole filesystem, and the other parameters, separated by commas.
    pub(super) bits: u64,
    pub(super) data: CString,
    pub(super) only_old: bool,
    pub(super) only_new: bool,
}

/// Flags of whole filesystems that have a bit of their own in mount(2).
const BITS: [(&str, u64); 5] = [
    ("ro", libc::MS_RDONLY),
    ("sync", libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC),
    ("lazytime", libc::MS_LAZYTIME),
    ("mand", libc::MS_MANDLOCK),
];

/// The longest value that fsconfig(2) takes.
const LONGEST: usize = 255;

impl Recipe {
    /// A filesystem of this kind, `tmpfs` or `overlay`; without parameters.
    ///
    /// # Errors
    /// `EINVAL` for a NUL character in it, as in the other functions here.
    pub fn new(kind: &str) -> Result<Self> {
        Ok(Self { kind: c_string(kind)?, ..Self::default() })
    }

    /// What mountinfo shows as the source; a device, for filesystems on one.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn source(&mut self, source: &str) -> Result<&mut Self> {
        self.source = Some(c_string(source)?);
        Ok(self)
    }

    /// A parameter with a value: `size=64m` is `("size", "64m")`. A value of more than 255 bytes, which fsconfig(2) does not
    /// take, has the filesystem made by mount(2).
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn string(&mut self, key: &str, value: &str) -> Result<&mut Self> {
        self.strings.push((c_string(key)?, c_string(value)?));
        self.only_old |= value.len() > LONGEST;
        let is_label = matches!(key, "context" | "fscontext" | "defcontext" | "rootcontext");
        // Labels have commas, and SELinux takes quotes off; nobody else does.
        self.only_new |= value.contains(',') && !is_label;
        self.add(&if is_label { format!("{key}=\"{value}\"") } else { format!("{key}={value}") })
    }

    /// A parameter without a value: one of the filesystem's own, or `ro`, `sync`, `dirsync`, `lazytime`, `mand`; or
    /// `iversion`, for which there is mount(2) only.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn flag(&mut self, name: &str) -> Result<&mut Self> {
        if name == "iversion" {
            self.bits |= libc::MS_I_VERSION;
            self.only_old = true;
            return Ok(self);
        }
        self.flags.push(c_string(name)?);
        match BITS.iter().find(|(known, _)| *known == name) {
            Some((_, bit)) => self.bits |= bit,
            None => return self.add(name),
        }
        Ok(self)
    }

    /// What kind of filesystem it is.
    #[must_use]
    pub fn kind(&self) -> &CStr {
        &self.kind
    }

    pub(super) fn source_or_kind(&self) -> &CStr {
        self.source.as_deref().unwrap_or(&self.kind)
    }

    pub(super) fn source_given(&self) -> Option<&CStr> {
        self.source.as_deref()
    }

    fn add(&mut self, text: &str) -> Result<&mut Self> {
        let before = self.data.to_string_lossy();
        let comma = if before.is_empty() { "" } else { "," };
        self.data = c_string(&format!("{before}{comma}{text}"))?;
        Ok(self)
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| {
        Error::refused(format!("mount option {text:?}"), Errno::INVAL, "contains a NUL character")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let mut recipe = Recipe::new("tmpfs").unwrap();
        recipe.source("x").unwrap().string("size", "1m").unwrap().flag("sync").unwrap().flag("huge").unwrap();
        recipe.string("context", "a:b:c1,c2").unwrap();
        assert_eq!(recipe.data.to_str().unwrap(), "size=1m,huge,context=\"a:b:c1,c2\"");
        assert_eq!(recipe.bits, libc::MS_SYNCHRONOUS);
        assert_eq!(recipe.flags, [c"sync".to_owned(), c"huge".to_owned()]);
        assert!(!recipe.only_old && !recipe.only_new);
    }

    #[test]
    fn what_only_one_of_the_two_can() {
        let mut long = Recipe::new("overlay").unwrap();
        long.string("lowerdir", &"x".repeat(256)).unwrap();
        assert!(long.only_old);
        let mut comma = Recipe::new("overlay").unwrap();
        comma.string("lowerdir", "/a,b").unwrap();
        assert!(comma.only_new);
        assert!(Recipe::new("a\0b").is_err());
    }
}
