//! Layers that are put together entry by entry, without the checks of a decent archiver.
#![allow(dead_code, reason = "each test that includes it uses a part")]

use tar::{EntryType, Header};

/// A layer that is put together entry by entry, without the checks of a decent archiver.
#[derive(Clone, Default)]
pub(crate) struct Layer(pub(crate) Vec<u8>);

impl Layer {
    pub(crate) fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_mtime(1_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.as_mut_bytes()[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.pad(content)
    }

    pub(crate) fn pad(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Header)) -> Self {
        let at = self.0.len() - 512;
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&self.0[at..]);
        change(&mut header);
        header.set_cksum();
        self.0[at..].copy_from_slice(header.as_bytes());
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", content.as_bytes())
    }

    pub(crate) fn file_of_mode(mut self, name: &str, content: &str, mode: u32) -> Self {
        let begin = self.0.len();
        self = self.file(name, content);
        let rest = self.0.split_off(begin + 512);
        self = self.with(|h| h.set_mode(mode));
        self.0.extend_from_slice(&rest);
        self
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", b"").with(|h| h.set_mode(0o755))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", b"", &text)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}
