//! The descriptions of types and fields: unpacked for one document, and gone with it.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::ZlibDecoder;

static STREAMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/words.bin"));
static INDEX: &str = include_str!(concat!(env!("OUT_DIR"), "/words.txt"));

/// The descriptions in one package. Their form is told in `build/words.rs`.
#[derive(Debug, Default)]
pub(super) struct Words {
    text: String,
}

impl Words {
    /// Those of a package like `io.k8s.api.core.v1`; none for one without descriptions.
    pub(super) fn of(package: &str) -> Self {
        let mut text = String::new();
        let mut places = INDEX.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let here = words.next()? == package;
            let (start, length) =
                (words.next()?.parse::<usize>().ok()?, words.next()?.parse::<usize>().ok()?);
            here.then(|| STREAMS.get(start..start + length)).flatten()
        });
        if let Some(stream) = places.next() {
            // The stream is part of the program: what it holds is known to be text.
            let _ = ZlibDecoder::new(stream).read_to_string(&mut text);
        }
        Self { text }
    }

    /// The types by name, each with its fields' descriptions; its own is that of the field without a name.
    pub(super) fn types(&self) -> HashMap<&str, HashMap<&str, &str>> {
        self.text.split('\x1e').filter_map(read).collect()
    }
}

fn read(record: &str) -> Option<(&str, HashMap<&str, &str>)> {
    let mut parts = record.split('\x1f');
    let name = parts.next()?;
    let mut fields = HashMap::from([("", parts.next()?)]);
    while let (Some(field), Some(words)) = (parts.next(), parts.next()) {
        fields.insert(field, words);
    }
    Some((name, fields))
}
