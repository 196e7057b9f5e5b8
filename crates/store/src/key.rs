//! Names of entries.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use crate::{Error, Kind};

/// Most bytes of each of the three parts of a [`Key`].
pub const NAME_BYTES: usize = 512;

/// The name of an entry: resource, namespace and name; sorted by them in this order, each by its bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The parts, with NUL between them: so their order is that of the text.
    text: Box<str>,
    namespace: u32,
    name: u32,
}

impl Key {
    /// `resource` as "pods" or "leases.coordination.k8s.io", `namespace` empty for what belongs to none.
    ///
    /// Any text makes a key to ask with; one to write with has parts of at most [`NAME_BYTES`], no control characters, and a
    /// resource and name that are not empty.
    #[must_use]
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            text: [resource, namespace, name].join("\0").into_boxed_str(),
            namespace: offset(resource.len() + 1),
            name: offset(resource.len() + namespace.len() + 2),
        }
    }

    /// The kind of thing: plural, with its group.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.text[..self.namespace as usize - 1]
    }

    /// Empty for what belongs to no namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.text[self.namespace as usize..self.name as usize - 1]
    }

    /// The name, unique in resource and namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[self.name as usize..]
    }

    /// The parts with NUL between them, which sort as keys do.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The key of such a text; none for one that has not three parts.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('\0');
        let (resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then(|| Self::new(resource, namespace, name))
    }

    /// Whether something may be written with this name.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let parts = [("resource", self.resource()), ("namespace", self.namespace()), ("name", self.name())];
        for (what, part) in parts {
            let fault = if part.is_empty() && what != "namespace" {
                "it is empty".to_owned()
            } else if part.len() > NAME_BYTES {
                format!("it has {} bytes, and {NAME_BYTES} are the most", part.len())
            } else if part.chars().any(char::is_control) {
                "it has control characters".to_owned()
            } else {
                continue;
            };
            let shown: String = part.escape_debug().take(80).collect();
            return Err(Error::new(Kind::Invalid, format!("{what} \"{shown}\": {fault}")));
        }
        Ok(())
    }
}

/// What is too long for this has been refused long before, or is only asked with: then nothing is found.
fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("keys are far below 4 GiB")
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource())?;
        if !self.namespace().is_empty() {
            write!(f, " {}", self.namespace())?;
            return write!(f, "/{}", self.name());
        }
        write!(f, " {}", self.name())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, {:?}, {:?})", self.resource(), self.namespace(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_again_and_sort_one_after_another() {
        let key = Key::new("leases.coordination.k8s.io", "kube-node-lease", "node");
        assert_eq!(
            (key.resource(), key.namespace(), key.name()),
            ("leases.coordination.k8s.io", "kube-node-lease", "node")
        );
        assert_eq!(Key::parse(key.text()).as_ref(), Some(&key));
        let nodes = Key::new("nodes", "", "n");
        assert_eq!((nodes.namespace(), nodes.name(), nodes.to_string().as_str()), ("", "n", "nodes n"));
        let mut keys = vec![
            Key::new("pods", "a-b", "a"),
            Key::new("pods", "a", "z"),
            Key::new("pods", "a", "b-c"),
            Key::new("pods", "a", "b"),
            Key::new("pod", "z", "z"),
        ];
        let mut by_parts = keys.clone();
        by_parts.sort_by_key(|k| (k.resource().to_owned(), k.namespace().to_owned(), k.name().to_owned()));
        keys.sort();
        assert_eq!(keys, by_parts);
        assert_eq!(Key::parse("a\0b"), None);
        assert_eq!(Key::parse("a\0b\0c\0d"), None);
    }

    #[test]
    fn names_are_bounded() {
        let is_fine =
            |resource: &str, namespace: &str, name: &str| Key::new(resource, namespace, name).check();
        is_fine("pods", "", "a").unwrap();
        is_fine("pods", "default", &"a".repeat(NAME_BYTES)).unwrap();
        for (resource, namespace, name, text) in [
            ("", "", "a", "resource \"\": it is empty"),
            ("pods", "d", "", "name \"\": it is empty"),
            ("pods", "d\n", "a", "namespace \"d\\n\": it has control characters"),
        ] {
            let error = is_fine(resource, namespace, name).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Invalid, text));
        }
        let error = is_fine("pods", "", &"a".repeat(NAME_BYTES + 1)).unwrap_err();
        assert!(error.to_string().ends_with("it has 513 bytes, and 512 are the most"), "{error}");
        // The separator in a part makes another key, which has control characters too.
        assert_eq!(is_fine("pods\0default", "x", "a").unwrap_err().kind(), Kind::Invalid);
    }
}
