//! What was measured a moment ago, and whether it is good enough for an answer. Pure.
//!
//! To measure hundreds of containers takes tens of milliseconds, and nobody who asks for all of them shall wait so long. While
//! somebody asks again and again, everything is measured in the background, a few objects at a time. Who asks once, or after a long
//! pause, waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The greatest age of what is given out.
const LONGEST: Duration = Duration::from_secs(2);
/// The age at which the background measures again.
const FAR: Duration = Duration::from_millis(1500);
/// What was given out once is given out again for so long: who asks twice within a second to tell a rate from that must get two
/// measurements, as with `crictl stats`.
const SAME: Duration = Duration::from_millis(500);
/// The age at which the background measures again for those who ask so often.
const NEAR: Duration = Duration::from_millis(400);
/// Who asks as often as this.
const OFTEN: Duration = Duration::from_millis(1500);
/// The time between two questions, and since the last one, after which nothing is measured in the background.
const INTEREST: Duration = Duration::from_secs(65);
/// The background's time between two looks.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// So many at once are no burden.
const FEW: usize = 16;

/// What was measured of each object of a kind.
#[derive(Debug)]
pub(crate) struct Samples<V> {
    state: Mutex<State<V>>,
    /// How many times as long as usual a measurement is good for: it is worth as much.
    patience: u32,
}

#[derive(Debug)]
struct State<V> {
    taken: HashMap<String, Taken<V>>,
    /// When somebody asked last, and how long after the time before.
    asked: Option<(Instant, Duration)>,
}

#[derive(Debug)]
struct Taken<V> {
    at: Instant,
    /// When it was given out first.
    served: Option<Instant>,
    /// What it was measured of: with another it is of no use.
    tag: u64,
    value: Arc<V>,
}

impl<V> Default for Samples<V> {
    fn default() -> Self {
        Self::patient(1)
    }
}

impl<V> Taken<V> {
    fn is_good(&self, tag: u64, now: Instant, patience: u32) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        self.tag == tag
            && since(self.at) < LONGEST * patience
            && self.served.is_none_or(|served| served > now || since(served) < SAME * patience)
    }
}

impl<V> Samples<V> {
    /// Of what takes long to measure and may be older in turn.
    pub(super) fn patient(patience: u32) -> Self {
        Self { state: Mutex::new(State { taken: HashMap::new(), asked: None }), patience }
    }

    /// Somebody asks for the objects that have these names and tags: what of it is good enough, in their order. Where nothing is, it has
    /// to be measured.
    pub(super) fn ask<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a str, u64)>,
        now: Instant,
    ) -> Vec<Option<Arc<V>>> {
        let mut state = self.state();
        let gap = state.asked.map_or(Duration::MAX, |(last, _)| now.saturating_duration_since(last));
        state.asked = Some((now, gap));
        wanted
            .map(|(name, tag)| {
                let taken =
                    state.taken.get_mut(name).filter(|taken| taken.is_good(tag, now, self.patience))?;
                taken.served.get_or_insert(now);
                Some(taken.value.clone())
            })
            .collect()
    }

    /// Keeps what was measured at a time, unless something later is there. With `served` it has been given out, too.
    pub(super) fn put(&self, name: &str, tag: u64, at: Instant, value: Arc<V>, served: bool) {
        let mut state = self.state();
        if state.taken.get(name).is_some_and(|taken| taken.at > at) {
            return;
        }
        let served = served.then_some(at);
        state.taken.insert(name.to_owned(), Taken { at, served, tag, value });
    }

    /// Whether it is to be measured in the background: somebody has asked more than once, and not long ago.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.state().pace(now, self.patience).is_some()
    }

    /// Which of these objects are to be measured at this look, the oldest first: so many that all of them are in time, few enough that
    /// they are spread over that time.
    pub(super) fn due<'a>(&self, names: impl Iterator<Item = &'a str>, now: Instant) -> Vec<&'a str> {
        let state = self.state();
        let Some(pace) = state.pace(now, self.patience) else { return Vec::new() };
        let age = |name: &str| {
            let taken = state.taken.get(name);
            taken.map_or(Duration::MAX, |taken| now.saturating_duration_since(taken.at))
        };
        let mut all: Vec<_> = names.map(|name| (age(name), name)).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        let looks = pace.as_millis().div_euclid(TICK.as_millis()).max(3) as usize - 2;
        // Those that were all measured at one time begin to go their own ways at once.
        let early = all.len() / looks;
        let most = all.len().div_ceil(looks).max(FEW);
        let due = |at: usize, age: Duration| at < early || age.saturating_add(TICK) >= pace;
        let due = all.iter().enumerate().take(most).filter(|(at, (age, _))| due(*at, *age));
        due.map(|(_, (_, name))| *name).collect()
    }

    /// Drops what is known of an object that is gone.
    pub(super) fn forget(&self, name: &str) {
        self.state().taken.remove(name);
    }

    /// Drops what is known of objects that are gone by now.
    pub(super) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.state().taken.retain(|name, _| is_there(name));
    }

    /// Drops everything, if nobody asks any more.
    pub(super) fn rest(&self, now: Instant) {
        let mut state = self.state();
        if state.pace(now, self.patience).is_none() {
            state.taken = HashMap::new();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> State<V> {
    /// At which age objects are measured again; none while nobody asks.
    fn pace(&self, now: Instant, patience: u32) -> Option<Duration> {
        let (last, gap) = self.asked?;
        let since = now.saturating_duration_since(last);
        match since.max(gap) {
            long if long > INTEREST => None,
            long if long > OFTEN * patience => Some(FAR * patience),
            _ => Some(NEAR * patience),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn ask(samples: &Samples<u32>, now: Instant) -> Option<u32> {
        samples.ask([("a", 0)].into_iter(), now).remove(0).as_deref().copied()
    }

    #[test]
    fn nothing_old_is_given_out_and_nothing_twice_for_long() {
        let (samples, start) = (Samples::default(), Instant::now());
        assert_eq!(ask(&samples, start), None);
        samples.put("a", 0, start, Arc::new(1), false);
        assert_eq!(ask(&samples, ms(start, 1900)), Some(1));
        assert_eq!(ask(&samples, ms(start, 2000)), None, "too old");
        samples.put("a", 0, ms(start, 2000), Arc::new(2), true);
        assert_eq!(ask(&samples, ms(start, 2499)), Some(2));
        assert_eq!(ask(&samples, ms(start, 2500)), None, "given out half a second ago");
        samples.put("a", 0, ms(start, 1000), Arc::new(3), false);
        samples.put("b", 0, ms(start, 2600), Arc::new(4), false);
        assert_eq!(ask(&samples, ms(start, 2400)), Some(2), "time does not go back");
        samples.put("a", 0, ms(start, 2600), Arc::new(5), false);
        assert_eq!(samples.ask([("a", 7)].into_iter(), ms(start, 2601)), [None], "of something else");
        samples.forget("a");
        assert_eq!(ask(&samples, ms(start, 2601)), None);
    }

    #[test]
    fn one_question_starts_nothing() {
        let (samples, start) = (Samples::<u32>::default(), Instant::now());
        assert!(!samples.is_wanted(start));
        ask(&samples, start);
        assert!(!samples.is_wanted(start));
        ask(&samples, ms(start, 10_000));
        assert!(samples.is_wanted(ms(start, 70_000)));
        assert!(!samples.is_wanted(ms(start, 80_000)));
        samples.put("a", 0, ms(start, 10_000), Arc::new(1), false);
        samples.rest(ms(start, 11_000));
        assert_eq!(ask(&samples, ms(start, 11_000)), Some(1));
        samples.rest(ms(start, 80_000));
        assert!(samples.state().taken.is_empty());
    }

    /// Whatever the pace of who asks, everything is measured in time, a part of it at each look.
    #[test]
    fn everything_is_measured_in_time_and_not_at_once() {
        for (every, limit) in [(10_000, FAR), (100, NEAR)] {
            let (samples, start) = (Samples::default(), Instant::now());
            let names: Vec<_> = (0..200).map(|number| number.to_string()).collect();
            let wanted = || names.iter().map(|name| (name.as_str(), 0));
            let mut waited = 0;
            for tick in 0..600 {
                let now = ms(start, tick * 100);
                if tick * 100 % every == 0 {
                    let found = samples.ask(wanted(), now);
                    if found.iter().any(Option::is_none) {
                        waited += 1;
                        wanted().for_each(|(name, tag)| samples.put(name, tag, now, Arc::new(tick), true));
                    }
                }
                let due = samples.due(wanted().map(|(name, _)| name), now);
                let most = 200 / (limit.as_millis() / TICK.as_millis() - 2) + 1;
                assert!(due.len() as u128 <= most, "{} at once", due.len());
                for name in due {
                    samples.put(name, 0, now, Arc::new(tick), false);
                }
            }
            // The first, which nobody expected, and the second after a long pause.
            assert_eq!(waited, if every == 100 { 1 } else { 2 }, "every {every} ms");
        }
    }
}
