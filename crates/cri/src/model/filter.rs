//! What a list request asks for.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Whether an object's labels hold everything that the selector names.
pub(crate) fn labels_match(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The one id in an ordered table that begins with `prefix`, or is it. None when there is none, or more than one.
pub(crate) fn by_prefix<'a, V>(table: &'a BTreeMap<String, V>, prefix: &str) -> Option<&'a V> {
    if prefix.is_empty() {
        return None;
    }
    let mut hits = table
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(|(id, _)| id.starts_with(prefix));
    let (_, hit) = hits.next()?;
    match hits.next() {
        None => Some(hit),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let table = BTreeMap::from(["abc", "abd", "b"].map(|id| (id.to_owned(), id)));
        assert_eq!(by_prefix(&table, "abc"), Some(&"abc"));
        assert_eq!(by_prefix(&table, "ab"), None);
        assert_eq!(by_prefix(&table, "b"), Some(&"b"));
        assert_eq!(by_prefix(&table, "c"), None);
        assert_eq!(by_prefix(&table, ""), None);
    }

    #[test]
    fn selectors() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let one = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let other = BTreeMap::from([("a".to_owned(), "2".to_owned())]);
        assert!(labels_match(&labels, &BTreeMap::new()));
        assert!(labels_match(&labels, &one));
        assert!(!labels_match(&labels, &other));
        assert!(!labels_match(&BTreeMap::new(), &one));
    }
}
