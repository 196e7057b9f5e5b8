//! Power cuts, at every moment.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::disk::{Step, cut};
use super::{Disk, change, everything, open};
use crate::{Entry, Options, Store, What};

/// What all changes amounted to, by revision; nothing for a deletion.
#[derive(Default)]
struct Book(BTreeMap<u64, (Entry, bool)>);

impl Book {
    fn at(&self, revision: u64) -> Vec<Entry> {
        let mut entries = BTreeMap::new();
        for (entry, is_deletion) in self.0.range(..=revision).map(|(_, change)| change) {
            if *is_deletion {
                entries.remove(&entry.key);
            } else {
                entries.insert(entry.key.clone(), entry.clone());
            }
        }
        entries.into_values().collect()
    }

    /// The store has all up to its revision, and tells the last of it as it was.
    fn check(&self, store: &Store, when: &str) {
        let (revision, compacted) = (store.revision(), store.stats().compacted);
        assert_eq!(everything(store), self.at(revision), "{when}");
        let mut told = BTreeMap::new();
        for resource in ["pods", "nodes"] {
            let mut watcher = store.watch(resource, None, compacted).unwrap();
            while let Some(change) = watcher.try_next().unwrap() {
                let is_deletion = change.what == What::Deleted;
                told.insert(change.entry.revision, (change.entry, is_deletion));
            }
        }
        let expected: BTreeMap<_, _> = self
            .0
            .range(..=revision)
            .filter(|(at, _)| **at > compacted)
            .map(|(at, change)| (*at, change.clone()))
            .collect();
        assert_eq!(told, expected, "{when}");
    }
}

fn options() -> Options {
    Options { history_events: 12, ..Options::default() }
}

/// A store at work: 40 rounds of one to five writers at once.
async fn work(disk: &Disk) -> Book {
    let mut book = Book::default();
    let store = open(disk, &options());
    let mut number = 0;
    for round in 0..40 {
        let writers = 1 + round % 5;
        let changes = (number..number + writers).map(|number| change(&store, number));
        for done in join_all(changes).await {
            let (entry, is_deletion) = done.unwrap();
            disk.told(entry.revision);
            book.0.insert(entry.revision, (entry, is_deletion));
        }
        number += writers;
    }
    book.check(&store, "while it runs");
    book
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_at_every_moment() {
    // A store is made whole before it gets its name.
    let new = Disk::default();
    drop(open(&new, &options()));
    let new = new.bytes();
    let disk = Disk::with(new.clone());
    let book = work(&disk).await;
    let steps = disk.steps();
    let syncs = steps.iter().filter(|step| matches!(step, Step::Sync)).count();
    assert!(syncs >= 40, "{syncs}");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut told, mut cuts, mut ahead) = (1, 0, 0);
    for at in 0..=steps.len() {
        if let Some(Step::Told(revision)) = at.checked_sub(1).and_then(|before| steps.get(before)) {
            told = *revision;
        }
        let is_edge =
            matches!(steps.get(at), Some(Step::Sync) | None) || at > 0 && matches!(steps[at - 1], Step::Sync);
        if !is_edge && next() % 8 > 0 {
            continue;
        }
        for luck in [0, 50, 100] {
            let bytes = cut(&new, &steps, at, || next() % 100 < luck);
            let when = format!("cut before step {at} of {}, {luck} % are written", steps.len());
            let store = open(&Disk::with(bytes), &options());
            let revision = store.revision();
            assert!(revision >= told, "{when}: revision {revision} of {told}");
            ahead += usize::from(revision > told);
            book.check(&store, &when);
            let (entry, _) = change(&store, 0).await.unwrap();
            assert_eq!(entry.revision, revision + 1, "{when}");
            cuts += 1;
        }
    }
    // Some cuts came between the commit and its answer.
    assert!(cuts > 200 && ahead > 10, "{cuts} {ahead}");
}
