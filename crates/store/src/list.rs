//! Lists, now and at an old revision.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::state::{Event, State};
use crate::{Entry, Error, List};

/// Which entries, as parts of their keys' text.
struct Span {
    after: Bound<String>,
    before: Bound<String>,
}

impl Span {
    /// Keys of a resource, of one namespace or of all, after a namespace and name.
    fn new(resource: &str, namespace: Option<&str>, after: Option<(&str, &str)>) -> Self {
        let prefix = match namespace {
            Some(namespace) => format!("{resource}\0{namespace}"),
            None => resource.to_owned(),
        };
        // NUL ends a part, and nothing sorts between it and what follows.
        let first = format!("{prefix}\0");
        let after = after.map(|(namespace, name)| format!("{resource}\0{namespace}\0{name}"));
        let after = match after {
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        let end = format!("{prefix}\x01");
        let is_empty = matches!(&after, Bound::Excluded(after) if *after >= end);
        // A range that ends before it begins is a panic.
        let before = if is_empty { Bound::Excluded(text(&after).to_owned()) } else { Bound::Excluded(end) };
        let after = if is_empty { Bound::Included(text(&after).to_owned()) } else { after };
        Self { after, before }
    }

    fn range(&self) -> (Bound<&str>, Bound<&str>) {
        (self.after.as_ref().map(String::as_str), self.before.as_ref().map(String::as_str))
    }

    fn has(&self, key: &str) -> bool {
        let is_after = match &self.after {
            Bound::Included(first) => key >= first.as_str(),
            Bound::Excluded(last) => key > last.as_str(),
            Bound::Unbounded => true,
        };
        is_after && key < text(&self.before)
    }
}

fn text(bound: &Bound<String>) -> &str {
    match bound {
        Bound::Included(text) | Bound::Excluded(text) => text,
        Bound::Unbounded => "",
    }
}

impl State {
    /// See [`crate::Store::list`].
    pub(crate) fn list(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        at: Option<u64>,
    ) -> Result<List, Error> {
        let span = Span::new(resource, namespace, after);
        let limit = limit.unwrap_or(usize::MAX);
        let current = self.entries.range::<str, _>(span.range()).map(|slot| &slot.0);
        let revision = at.unwrap_or(self.revision);
        self.reaches(revision)?;
        let undone = self.undone(&span, revision);
        Ok(if undone.is_empty() {
            page(current, limit, revision)
        } else {
            let unchanged = current.filter(|entry| !undone.contains_key(entry.key.text()));
            page(merge(unchanged, undone.values().filter_map(|entry| *entry)), limit, revision)
        })
    }

    /// What changed since a revision, as it was then.
    fn undone(&self, span: &Span, revision: u64) -> BTreeMap<&str, Option<&Entry>> {
        let mut undone = BTreeMap::new();
        let since = self.history.iter().rev().take_while(|event| event.change.entry.revision > revision);
        for Event { change, .. } in since {
            let key = change.entry.key.text();
            if span.has(key) {
                undone.insert(key, change.before.as_ref());
            }
        }
        undone
    }
}

fn page<'a>(mut entries: impl Iterator<Item = &'a Entry>, limit: usize, revision: u64) -> List {
    let page = entries.by_ref().take(limit).cloned().collect();
    List { entries: page, revision, remaining: entries.count() }
}

/// Two sorted sequences as one.
fn merge<'a>(
    left: impl Iterator<Item = &'a Entry>,
    right: impl Iterator<Item = &'a Entry>,
) -> impl Iterator<Item = &'a Entry> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(a), Some(b)) if b.key < a.key => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
