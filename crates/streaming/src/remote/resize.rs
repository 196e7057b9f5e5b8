//! Sizes of a terminal: JSON objects, one after the other.

use serde::Deserialize;

/// The most bytes that are kept of an object that is not complete.
const LONGEST: usize = 1024;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// Takes sizes out of a stream.
#[derive(Debug, Default)]
pub(crate) struct Resizes {
    rest: Vec<u8>,
    broken: bool,
}

impl Resizes {
    /// The last of the sizes that are complete with these bytes. After something else than a size none follows.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<Size> {
        if self.broken {
            return None;
        }
        self.rest.extend_from_slice(bytes);
        let mut last = None;
        let mut sizes = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Size>();
        loop {
            match sizes.next() {
                Some(Ok(size)) => last = Some(size),
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(_)) => {
                    self.broken = true;
                    break;
                }
                None => break,
            }
        }
        let used = sizes.byte_offset();
        self.rest.drain(..used);
        if self.broken || self.rest.len() > LONGEST {
            self.broken = true;
            self.rest = Vec::new();
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_size_counts() {
        let mut sizes = Resizes::default();
        let two = br#"{"Width":80,"Height":24} {"Width":100,"Height":40}{"Wi"#;
        assert_eq!(sizes.feed(two), Some(Size { width: 100, height: 40 }));
        assert_eq!(sizes.feed(br#"dth":1,"#), None);
        assert_eq!(sizes.feed(br#""Height":2}"#), Some(Size { width: 1, height: 2 }));
    }

    #[test]
    fn nonsense_ends_it() {
        for nonsense in [&b"nonsense"[..], br#"{"Width":70000,"Height":1}"#, &[b' '; 2 * LONGEST], &[b'{'; 3]]
        {
            let mut sizes = Resizes::default();
            assert_eq!(sizes.feed(nonsense), None);
            let _ = sizes.feed(br#"{"Width":1,"Height":2}"#);
            assert!(sizes.rest.len() <= LONGEST);
        }
    }

    proptest! {
        #[test]
        fn nothing_grows(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40)) {
            let mut sizes = Resizes::default();
            for piece in pieces {
                let _ = sizes.feed(&piece);
                prop_assert!(sizes.rest.len() <= LONGEST);
            }
        }
    }
}
