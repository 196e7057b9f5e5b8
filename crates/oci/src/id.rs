//! Names of containers.

use core::fmt;

use crate::Error;

/// The id of a container: 1 to 255 of the characters `A-Z a-z 0-9 _ + - .`, but not `.` or `..`. It is the name of a
/// directory.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id(String);

impl Id {
    /// Checks an id.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] says what an id is made of.
    pub fn new(id: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if id.is_empty() || id.len() > 255 || !id.bytes().all(allowed) || matches!(id, "." | "..") {
            return Err(Error::invalid(format!(
                "invalid container id {id:?}: use 1 to 255 of the characters A-Z a-z 0-9 _ + - . (but not . or ..)"
            )));
        }
        Ok(Self(id.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for id in ["a", "A-b_c+d.e", "...", "-", ".a", &"x".repeat(255)] {
            assert_eq!(Id::new(id).unwrap().as_str(), id);
        }
        for id in ["", ".", "..", "a/b", "/", "a b", "ä", "a\n", "a\0", "a:b", &"x".repeat(256)] {
            let error = Id::new(id).unwrap_err();
            assert!(error.to_string().starts_with("invalid container id"), "{error}");
        }
    }
}
