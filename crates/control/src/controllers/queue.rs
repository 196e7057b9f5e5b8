//! Keys of what wants a look.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The first pause after a failure; it doubles with each.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(60);

/// A queue in which a key is at most once, and which never gives out a key that someone works on: what comes meanwhile is
/// given out again afterwards.
#[derive(Debug)]
pub(super) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    /// Those that are in `ready`, or will be when their work is done.
    wanted: HashSet<K>,
    busy: HashSet<K>,
    /// By their time, and a number that makes it unique.
    later: BTreeMap<(Instant, u64), K>,
    numbers: u64,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::new()), wake: Notify::new() }
    }

    /// Wants a look at a key as soon as someone has time.
    pub(super) fn add(&self, key: K) {
        self.state().add(key);
        self.wake.notify_one();
    }

    /// Wants a look at a key after some time; one that comes earlier does not replace it.
    pub(super) fn later(&self, key: K, pause: Duration) {
        self.state().later(key, Instant::now() + pause);
        self.wake.notify_one();
    }

    /// The next key to work on, when there is one. [`Queue::done`] must follow. May be dropped without losing one.
    pub(super) async fn next(&self) -> K {
        loop {
            let until = {
                let mut state = self.state();
                if let Some(key) = state.take(Instant::now()) {
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.later.first_key_value().map(|((time, _), _)| *time)
            };
            match until {
                Some(time) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(time) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// The work on a key is over. Failed work is wanted again, after a pause that grows with each failure.
    pub(super) fn done(&self, key: K, well: bool) {
        self.state().done(key, well, Instant::now());
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            wanted: HashSet::new(),
            busy: HashSet::new(),
            later: BTreeMap::new(),
            numbers: 0,
            failures: HashMap::new(),
        }
    }

    fn add(&mut self, key: K) {
        if self.wanted.insert(key.clone()) && !self.busy.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn later(&mut self, key: K, time: Instant) {
        self.numbers += 1;
        self.later.insert((time, self.numbers), key);
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        while self.later.first_key_value().is_some_and(|((time, _), _)| *time <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.add(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.wanted.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: K, well: bool, now: Instant) {
        self.busy.remove(&key);
        if well {
            self.failures.remove(&key);
        } else {
            let failures = self.failures.entry(key.clone()).or_default();
            *failures += 1;
            let pause = PAUSE.saturating_mul(1 << (*failures - 1).min(20)).min(LONGEST);
            self.later(key.clone(), now + pause);
        }
        if self.wanted.contains(&key) {
            self.ready.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_worked_on_once_at_a_time() {
        let (mut state, now) = (State::new(), Instant::now());
        for key in ["a", "a", "b"] {
            state.add(key);
        }
        assert_eq!([state.take(now), state.take(now), state.take(now)], [Some("a"), Some("b"), None]);
        state.add("a");
        assert_eq!(state.take(now), None);
        state.done("a", true, now);
        assert_eq!(state.take(now), Some("a"));
        state.done("a", true, now);
        assert_eq!(state.take(now), None);
    }

    #[test]
    fn what_fails_comes_again_after_growing_pauses() {
        let (mut state, mut now) = (State::new(), Instant::now());
        state.add(1);
        let mut pauses = Vec::new();
        for _ in 0..16 {
            assert_eq!(state.take(now), Some(1));
            state.done(1, false, now);
            let time = state.later.first_key_value().unwrap().0.0;
            pauses.push((time - now).as_millis());
            assert_eq!(state.take(time - Duration::from_millis(1)), None);
            now = time;
        }
        assert_eq!(pauses[..5], [10, 20, 40, 80, 160]);
        assert_eq!(*pauses.last().unwrap(), 60_000);
        assert_eq!(state.take(now), Some(1));
        state.done(1, true, now);
        assert!(state.failures.is_empty() && state.wanted.is_empty() && state.busy.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let queue = std::sync::Arc::new(Queue::new());
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let queue = std::sync::Arc::clone(&queue);
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        queue.later("a", Duration::from_millis(1));
        queue.add("b");
        let mut keys = Vec::new();
        for worker in workers {
            keys.push(tokio::time::timeout(Duration::from_secs(60), worker).await.unwrap().unwrap());
        }
        keys.sort_unstable();
        assert_eq!(keys, ["a", "b"]);
    }
}
