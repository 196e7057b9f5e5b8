//! What becomes of a note: an event of its own, another count of one that there is, or nothing. The rules are those of
//! client-go's recorder.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Note, Reference};

/// So many different messages of the same kind are events of their own; further ones are counted together.
const SIMILAR: usize = 10;
/// Messages of the same kind are forgotten when none came for so long.
const SIMILAR_FOR: SignedDuration = SignedDuration::from_mins(10);
/// So many events at once about one object; further ones are dropped.
const BURST: f64 = 25.0;
/// One more for each so many seconds.
const REFILL_SECONDS: f64 = 300.0;
/// So many objects and events are remembered at most.
const REMEMBERED: usize = 4096;

/// Remembers what was told.
#[derive(Debug, Default)]
pub(crate) struct Correlator {
    similar: BTreeMap<Class, Similar>,
    told: BTreeMap<(Class, String), Told>,
    budgets: BTreeMap<(String, Reference), Budget>,
}

/// Notes that differ in their message alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    component: &'static str,
    about: Reference,
    type_: &'static str,
    reason: String,
}

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Told {
    name: String,
    count: u32,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Debug)]
struct Budget {
    left: f64,
    at: Timestamp,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Name of the event.
    pub(crate) name: String,
    /// It is there already.
    pub(crate) again: bool,
    pub(crate) message: String,
    pub(crate) count: u32,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

impl Correlator {
    /// What to write about a note; nothing where there are too many about the object.
    pub(crate) fn take(&mut self, note: &Note) -> Option<Entry> {
        self.make_room();
        let class = Class {
            component: note.component,
            about: note.about.clone(),
            type_: note.type_,
            reason: note.reason.clone(),
        };
        let (key, message) = self.aggregate(&class, note);
        let entry = self.observe(class, key, message, note);
        self.afford(note).then_some(entry)
    }

    /// The event is not there any more: the next one is new.
    pub(crate) fn lost(&mut self, name: &str) {
        self.told.retain(|_, told| told.name != name);
    }

    /// The key under which the note is counted, and its message.
    fn aggregate(&mut self, class: &Class, note: &Note) -> (String, String) {
        let fresh = || Similar { messages: BTreeSet::new(), last: note.at };
        let similar = self.similar.entry(class.clone()).or_insert_with(fresh);
        if note.at.duration_since(similar.last) > SIMILAR_FOR {
            similar.messages.clear();
        }
        similar.last = note.at;
        similar.messages.insert(note.message.clone());
        if similar.messages.len() < SIMILAR {
            return (note.message.clone(), note.message.clone());
        }
        // One is forgotten, so that the set does not grow.
        similar.messages.pop_first();
        (String::new(), format!("(combined from similar events): {}", note.message))
    }

    fn observe(&mut self, class: Class, key: String, message: String, note: &Note) -> Entry {
        let name = || {
            let nanos = note.at.as_nanosecond();
            format!("{}.{nanos:x}", note.about.name)
        };
        let mut again = true;
        let told = self.told.entry((class, key)).or_insert_with(|| {
            again = false;
            Told { name: name(), count: 0, first: note.at, last: note.at }
        });
        told.count += 1;
        told.last = note.at;
        Entry { name: told.name.clone(), again, message, count: told.count, first: told.first, last: note.at }
    }

    /// Whether one more about this object may be told.
    fn afford(&mut self, note: &Note) -> bool {
        let about = Reference { field_path: String::new(), ..note.about.clone() };
        let fresh = || Budget { left: BURST, at: note.at };
        let budget = self.budgets.entry((note.component.to_owned(), about)).or_insert_with(fresh);
        let passed = note.at.duration_since(budget.at).as_secs_f64().max(0.0);
        budget.left = (budget.left + passed / REFILL_SECONDS).min(BURST);
        budget.at = note.at;
        if budget.left < 1.0 {
            return false;
        }
        budget.left -= 1.0;
        true
    }

    fn make_room(&mut self) {
        if self.similar.len() >= REMEMBERED {
            keep_newer(&mut self.similar, |similar| similar.last);
        }
        if self.told.len() >= REMEMBERED {
            keep_newer(&mut self.told, |told| told.last);
        }
        if self.budgets.len() >= REMEMBERED {
            keep_newer(&mut self.budgets, |budget| budget.at);
        }
    }
}

/// Forgets the older half.
fn keep_newer<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, at: impl Fn(&V) -> Timestamp) {
    let mut times: Vec<Timestamp> = map.values().map(&at).collect();
    times.sort();
    let Some(middle) = times.get(times.len() / 2).copied() else { return };
    map.retain(|_, value| at(value) > middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(seconds: i64, reason: &str, message: &str) -> Note {
        Note {
            component: "kubelet",
            about: Reference {
                kind: "Pod",
                namespace: "default".into(),
                name: "web".into(),
                ..Reference::default()
            },
            type_: "Normal",
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: Timestamp::from_second(1_000_000 + seconds).unwrap(),
        }
    }

    #[test]
    fn the_same_again_is_counted() {
        let mut correlator = Correlator::default();
        let first = correlator.take(&note(0, "BackOff", "wait")).unwrap();
        assert_eq!((first.again, first.count, first.name.as_str()), (false, 1, "web.38d7ea4c68000"));
        let second = correlator.take(&note(5, "BackOff", "wait")).unwrap();
        assert_eq!((second.again, second.count, &second.name), (true, 2, &first.name));
        assert_eq!((second.first, second.last), (first.first, note(5, "", "").at));
        assert!(!correlator.take(&note(6, "BackOff", "wait more")).unwrap().again);
        assert!(!correlator.take(&note(6, "Pulled", "wait")).unwrap().again);
        correlator.lost(&first.name);
        let anew = correlator.take(&note(7, "BackOff", "wait")).unwrap();
        assert_eq!((anew.again, anew.count), (false, 1));
    }

    #[test]
    fn many_that_are_similar_become_one() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            assert!(!correlator.take(&note(n, "Unhealthy", &format!("probe {n}"))).unwrap().again);
        }
        let one = correlator.take(&note(9, "Unhealthy", "probe 9")).unwrap();
        assert_eq!((one.again, one.message.as_str()), (false, "(combined from similar events): probe 9"));
        let next = correlator.take(&note(10, "Unhealthy", "probe 10")).unwrap();
        assert_eq!((next.again, next.count, &next.name), (true, 2, &one.name));
        // After a quiet time they are told one by one again.
        let later = correlator.take(&note(700, "Unhealthy", "probe 11")).unwrap();
        assert_eq!((later.again, later.message.as_str()), (false, "probe 11"));
    }

    #[test]
    fn a_flood_about_one_object_is_cut() {
        let mut correlator = Correlator::default();
        let told = (0..100).filter(|n| correlator.take(&note(0, "A", &format!("{}", n % 2))).is_some());
        assert_eq!(told.count(), 25);
        let other =
            Note { about: Reference { name: "other".into(), ..Reference::default() }, ..note(0, "A", "0") };
        assert!(correlator.take(&other).is_some());
        // One more after five minutes.
        assert!(correlator.take(&note(299, "A", "0")).is_none());
        assert!(correlator.take(&note(599, "A", "0")).is_some());
        assert!(correlator.take(&note(599, "A", "0")).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..10_000 {
            let about = Reference { name: format!("p{n}"), ..Reference::default() };
            correlator.take(&Note { about, ..note(n, "A", "x") });
        }
        assert!(correlator.told.len() <= REMEMBERED, "{}", correlator.told.len());
        assert!(correlator.similar.len() <= REMEMBERED && correlator.budgets.len() <= REMEMBERED);
    }
}
