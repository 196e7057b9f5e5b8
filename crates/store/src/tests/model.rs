//! Whatever is done, the store is what a simple model says.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Disk, key, open};
use crate::{Change, Entry, Expect, Kind, Options, Store, Watcher, What};

#[derive(Clone, Debug)]
enum Act {
    Put {
        key: usize,
        expect: Guess,
    },
    Delete {
        key: usize,
        expect: Guess,
    },
    /// Several at once, so that they share a commit.
    Burst(Vec<(usize, Guess)>),
    Watch {
        resource: usize,
        namespace: Option<usize>,
        back: u64,
    },
    /// Some watchers read, others fall behind.
    Read(usize),
    List {
        resource: usize,
        namespace: Option<usize>,
        limit: usize,
        back: u64,
    },
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Guess {
    Absent,
    Right,
    Wrong,
    Any,
}

const RESOURCES: [&str; 2] = ["pods", "nodes"];
const NAMESPACES: [&str; 3] = ["", "a", "b"];

fn guess() -> impl Strategy<Value = Guess> {
    prop_oneof![Just(Guess::Absent), Just(Guess::Right), Just(Guess::Wrong), Just(Guess::Any)]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..42_usize, guess()).prop_map(|(key, expect)| Act::Put { key, expect }),
        3 => (0..42_usize, guess()).prop_map(|(key, expect)| Act::Delete { key, expect }),
        3 => proptest::collection::vec((0..42_usize, guess()), 1..12).prop_map(Act::Burst),
        2 => (0..2_usize, proptest::option::of(0..3_usize), 0..20_u64)
            .prop_map(|(resource, namespace, back)| Act::Watch { resource, namespace, back }),
        3 => (0..8_usize).prop_map(Act::Read),
        3 => (0..2_usize, proptest::option::of(0..3_usize), 1..6_usize, 0..20_u64)
            .prop_map(|(resource, namespace, limit, back)| Act::List { resource, namespace, limit, back }),
        1 => Just(Act::Reopen),
    ]
}

/// Every change, and nothing clever.
#[derive(Default)]
struct Model {
    changes: Vec<Change>,
}

impl Model {
    fn revision(&self) -> u64 {
        self.changes.len() as u64 + 1
    }

    fn at(&self, revision: u64) -> BTreeMap<crate::Key, Entry> {
        let mut entries = BTreeMap::new();
        for change in self.changes.iter().take_while(|change| change.entry.revision <= revision) {
            let key = (*change.entry.key).clone();
            match change.what {
                What::Deleted => drop(entries.remove(&key)),
                _ => drop(entries.insert(key, change.entry.clone())),
            }
        }
        entries
    }

    fn expect(&self, key: &crate::Key, guess: Guess) -> Expect {
        let found = self.at(u64::MAX).get(key).map(|entry| entry.revision);
        match guess {
            Guess::Absent => Expect::Absent,
            Guess::Any => Expect::Any,
            Guess::Right => Expect::Revision(found.unwrap_or(1)),
            Guess::Wrong => Expect::Revision(found.unwrap_or(1) + 1),
        }
    }

    /// What a change should come to; notes it.
    fn change(
        &mut self,
        key: &crate::Key,
        expect: Expect,
        body: &Bytes,
        is_deletion: bool,
    ) -> Result<(), Kind> {
        let before = self.at(u64::MAX).remove(key);
        match (expect, &before) {
            (Expect::Absent, _) if is_deletion => return Err(Kind::Invalid),
            (Expect::Absent, Some(_)) => return Err(Kind::Exists),
            (Expect::Revision(wanted), Some(found)) if found.revision != wanted => {
                return Err(Kind::Conflict);
            }
            (Expect::Revision(_), None) => return Err(Kind::Absent),
            (_, None) if is_deletion => return Err(Kind::Absent),
            _ => {}
        }
        let revision = self.revision() + 1;
        let entry = Entry { key: key.clone().into(), revision, body: body.clone() };
        let what = match &before {
            _ if is_deletion => What::Deleted,
            Some(_) => What::Modified,
            None => What::Added,
        };
        self.changes.push(Change { what, entry, before });
        Ok(())
    }
}

/// A watcher, and what it should have told.
struct Watched {
    watcher: Watcher,
    resource: &'static str,
    namespace: Option<&'static str>,
    after: u64,
}

impl Watched {
    /// Reads all there is: every change once and in order, or the news that some are lost, if some are.
    fn read(mut self, model: &Model, compacted: u64) -> Option<Self> {
        let wanted: Vec<_> = model
            .changes
            .iter()
            .filter(|change| change.entry.revision > self.after && self.is_mine(change))
            .cloned()
            .collect();
        let mut told = Vec::new();
        loop {
            match self.watcher.try_next() {
                Ok(Some(change)) => told.push(change),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Compacted);
                    // Something was lost of this resource, maybe in another namespace.
                    let is_lost = |change: &Change| {
                        (self.after + 1..=compacted).contains(&change.entry.revision)
                            && change.entry.key.resource() == self.resource
                    };
                    assert!(told.is_empty() && model.changes.iter().any(is_lost));
                    return None;
                }
            }
        }
        assert_eq!(told, wanted);
        self.after = model.revision();
        assert_eq!(self.watcher.revision(), self.after);
        Some(self)
    }

    fn is_mine(&self, change: &Change) -> bool {
        let key = &change.entry.key;
        key.resource() == self.resource && self.namespace.is_none_or(|namespace| namespace == key.namespace())
    }
}

fn list(store: &Store, model: &Model, resource: &str, namespace: Option<&str>, limit: usize, at: u64) {
    if at < store.stats().compacted {
        let error = store.list(resource, namespace, None, None, Some(at)).unwrap_err();
        assert_eq!(error.kind(), Kind::Compacted);
        return;
    }
    let mut wanted: Vec<Entry> = model.at(at).into_values().collect();
    wanted.retain(|entry| {
        entry.key.resource() == resource
            && namespace.is_none_or(|namespace| namespace == entry.key.namespace())
    });
    let mut found: Vec<Entry> = Vec::new();
    loop {
        let last = found.last().map(|entry| std::sync::Arc::clone(&entry.key));
        let after = last.as_ref().map(|key| (key.namespace(), key.name()));
        let page = store.list(resource, namespace, after, Some(limit), Some(at)).unwrap();
        assert!(page.entries.len() <= limit);
        found.extend(page.entries);
        assert_eq!((page.revision, page.remaining), (at, wanted.len() - found.len()));
        if page.remaining == 0 {
            break;
        }
    }
    assert_eq!(found, wanted);
}

async fn run(acts: Vec<Act>) {
    let disk = Disk::default();
    let options = Options { history_events: 15, ..Options::default() };
    let mut store = open(&disk, &options);
    let mut model = Model::default();
    let mut watched: Vec<Watched> = Vec::new();
    for (number, act) in acts.into_iter().enumerate() {
        let body = Bytes::from(format!("body {number}"));
        match act {
            Act::Put { key: at, expect } => {
                let expect = model.expect(&key(at), expect);
                let outcome = store.put(key(at), expect, body.clone()).await;
                let wanted = model.change(&key(at), expect, &body, false);
                assert_eq!(outcome.map(drop).map_err(|error| error.kind()), wanted);
            }
            Act::Delete { key: at, expect } => {
                let expect = model.expect(&key(at), expect);
                let outcome = store.delete(key(at), expect, body.clone()).await;
                let wanted = model.change(&key(at), expect, &body, true);
                assert_eq!(outcome.map(drop).map_err(|error| error.kind()), wanted);
            }
            Act::Burst(puts) => {
                let puts: Vec<_> =
                    puts.into_iter().map(|(at, guess)| (key(at), model.expect(&key(at), guess))).collect();
                let writers = puts.iter().map(|(key, expect)| store.put(key.clone(), *expect, body.clone()));
                // In the order in which they were asked for.
                for ((key, expect), outcome) in puts.iter().zip(futures_util::future::join_all(writers).await)
                {
                    let wanted = model.change(key, *expect, &body, false);
                    assert_eq!(outcome.map(drop).map_err(|error| error.kind()), wanted);
                }
            }
            Act::Watch { resource, namespace, back } => {
                let (resource, namespace) = (RESOURCES[resource], namespace.map(|at| NAMESPACES[at]));
                let after = model.revision().saturating_sub(back);
                let made = store.watch(resource, namespace, after);
                if after < store.stats().compacted {
                    assert_eq!(made.unwrap_err().kind(), Kind::Compacted);
                } else {
                    watched.push(Watched { watcher: made.unwrap(), resource, namespace, after });
                }
            }
            Act::Read(which) if which < watched.len() => {
                let one = watched.swap_remove(which);
                watched.extend(one.read(&model, store.stats().compacted));
            }
            Act::Read(_) => {}
            Act::List { resource, namespace, limit, back } => {
                let at = model.revision().saturating_sub(back);
                list(&store, &model, RESOURCES[resource], namespace.map(|at| NAMESPACES[at]), limit, at);
            }
            Act::Reopen => {
                let stats = store.stats();
                watched.clear();
                drop(store);
                store = open(&disk, &options);
                assert_eq!(store.stats(), stats);
            }
        }
        assert_eq!(store.revision(), model.revision());
        assert!(store.revision() - store.stats().compacted <= 15);
    }
    for one in watched {
        one.read(&model, store.stats().compacted);
    }
    for resource in RESOURCES {
        list(&store, &model, resource, None, 100, model.revision());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_what_the_model_says(acts in proptest::collection::vec(act(), 1..80)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(acts));
    }
}
