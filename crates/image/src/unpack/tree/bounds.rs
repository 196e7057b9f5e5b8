//! What a layer may cost besides bytes and entries: few of these can ask for much.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::Error;
use crate::unpack::path::refused;

/// Directories without an entry of their own that a layer may have, and the bytes of their paths: they are kept in memory
/// and told at the end.
const IMPLICIT_LIMIT: usize = 65_536;
const IMPLICIT_BYTES: usize = 4 << 20;
/// Names that may be looked up for an entry, on average, and besides: a path is up to 2048 names long, and one that leads
/// through links is looked up name by name, each time from the root. Honest layers need a dozen; 16 million take a second or two.
const EACH: u64 = 256;
const BESIDES: u64 = 16 << 20;

/// Directories without an entry of their own; the root is the empty path.
pub(super) struct Implicit {
    paths: BTreeSet<Vec<u8>>,
    bytes: usize,
}

impl Implicit {
    /// The root alone.
    pub(super) fn new() -> Self {
        Self { paths: BTreeSet::from([Vec::new()]), bytes: 0 }
    }

    pub(super) fn add(&mut self, path: &[u8]) -> Result<(), Error> {
        self.bytes += path.len();
        if self.paths.len() == IMPLICIT_LIMIT || self.bytes > IMPLICIT_BYTES {
            return Err(refused(path, "too many directories without an entry of their own"));
        }
        self.paths.insert(path.to_vec());
        Ok(())
    }

    /// It has an entry after all.
    pub(super) fn remove(&mut self, path: &[u8]) {
        if self.paths.remove(path) {
            self.bytes -= path.len();
        }
    }

    /// It has vanished, with all below it.
    pub(super) fn remove_tree(&mut self, path: &[u8]) {
        self.remove(path);
        let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat()); // '0' comes after '/'
        let below: Vec<Vec<u8>> = self.paths.range(from..to).cloned().collect();
        below.iter().for_each(|path| self.remove(path));
    }

    /// All of them, in hex.
    pub(super) fn in_hex(&self) -> Vec<String> {
        let hex = |path: &Vec<u8>| {
            path.iter().fold(String::with_capacity(2 * path.len()), |mut out, b| {
                let _ = write!(out, "{b:02x}");
                out
            })
        };
        self.paths.iter().map(hex).collect()
    }
}

/// Counts down the names that are looked up.
pub(super) struct LookUps(Cell<u64>);

impl LookUps {
    pub(super) const fn new() -> Self {
        Self(Cell::new(BESIDES))
    }

    /// Another entry is unpacked.
    pub(super) fn allow_more(&self) {
        self.0.set(self.0.get().saturating_add(EACH));
    }

    /// This path is looked up.
    pub(super) fn count(&self, path: &[u8]) {
        let names = 1 + path.iter().filter(|b| **b == b'/').count() as u64;
        self.0.set(self.0.get().saturating_sub(names));
    }

    pub(super) fn check(&self, path: &[u8]) -> Result<(), Error> {
        if self.0.get() == 0 {
            return Err(refused(path, "the layer's paths and links are too long to follow them all"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_vanishes_with_what_is_below_it() {
        let mut implicit = Implicit::new();
        for path in ["a", "a/b", "a/b/c", "a.b", "a0", "ab"] {
            implicit.add(path.as_bytes()).unwrap();
        }
        implicit.remove_tree(b"a");
        assert_eq!(implicit.in_hex(), ["", "612e62", "6130", "6162"]);
        assert_eq!(implicit.bytes, 7);
        implicit.remove(b"");
        assert_eq!(implicit.in_hex().len(), 3);
    }

    #[test]
    fn bounds() {
        let mut implicit = Implicit::new();
        let long = vec![b'x'; 4000];
        let added =
            (0..2000_u32).take_while(|n| implicit.add(&[&long, &n.to_be_bytes()[..]].concat()).is_ok());
        assert_eq!(added.count(), IMPLICIT_BYTES / 4004);
        let look_ups = LookUps::new();
        look_ups.allow_more();
        look_ups.count(b"a/b/c");
        assert_eq!(look_ups.0.get(), BESIDES + EACH - 3);
        for _ in 0..BESIDES / 1101 {
            look_ups.check(b"x").unwrap();
            look_ups.count(&[b'/'; 1100]);
        }
        look_ups.count(&[b'/'; 1100]);
        assert!(look_ups.check(b"x").is_err());
    }
}
