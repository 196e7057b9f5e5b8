//! Versions of the CNI specification.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A version of the specification that a configuration or a result is written for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The first in which results have a list of addresses and plugins are chained.
    pub const OLDEST: Self = Self::new(0, 3, 0);
    /// The first with CHECK, and with the result of ADD given to DEL.
    pub const CHECK: Self = Self::new(0, 4, 0);
    /// The first with GC and STATUS. The newest that this crate speaks.
    pub const NEWEST: Self = Self::new(1, 1, 0);

    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Whether this crate speaks it.
    #[must_use]
    pub fn is_spoken(self) -> bool {
        (Self::OLDEST..=Self::NEWEST).contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = Error;

    /// `1.1.0`; a part that is left out is 0. Suffixes as in `1.1.0-rc1` were never released.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::invalid(format!("{text:?} is not a version such as 1.0.0"));
        let mut parts = text.split('.');
        let mut next = |needed: bool| match parts.next() {
            None if !needed => Ok(0),
            Some(part) if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) => {
                part.parse::<u32>().map_err(|_| wrong())
            }
            _ => Err(wrong()),
        };
        let version = Self::new(next(true)?, next(false)?, next(false)?);
        if parts.next().is_some() { Err(wrong()) } else { Ok(version) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_with_an_order() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert_eq!(version("1.1.0"), Version::NEWEST);
        assert_eq!(version("0.4"), Version::CHECK);
        assert!(version("0.3.1") < version("0.10.0"));
        assert!(version("0.3.0").is_spoken() && version("1.1.0").is_spoken());
        assert!(!version("0.2.0").is_spoken() && !version("1.2.0").is_spoken());
        for bad in ["", "1.", "1..0", "v1.0.0", "1.0.0.0", "1.0.0-rc1", "+1.0", "99999999999"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
