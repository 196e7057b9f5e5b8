//! Pods that have no machine yet, and when each is tried (again).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wants::Wants;

/// The least and the longest time between attempts at one pod, as kube-scheduler has them.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// The pods, by uid.
#[derive(Debug, Default)]
pub(crate) struct Queue(BTreeMap<String, Entry>);

#[derive(Debug)]
struct Entry {
    pod: Arc<Wants>,
    when: When,
    attempts: u32,
    last: Option<Instant>,
}

/// When a pod is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Not before then.
    At(Instant),
    /// Not before something changes.
    Waits,
    /// Its machine is being written down.
    Binding,
}

impl Queue {
    /// A pod is new or changed. One that is waiting is tried again only if it asks for something else now.
    pub(crate) fn set(&mut self, pod: Arc<Wants>, now: Instant) {
        match self.0.get_mut(&pod.uid) {
            Some(entry) => {
                if entry.pod.digest != pod.digest && entry.when == When::Waits {
                    entry.when = When::At(entry.not_before(now));
                }
                entry.pod = pod;
            }
            None => {
                let entry = Entry { when: When::At(now), attempts: 0, last: None, pod };
                self.0.insert(entry.pod.uid.clone(), entry);
            }
        }
    }

    /// A pod is gone, or has its machine.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// Uids of all pods.
    pub(crate) fn uids(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// The pod that is to be tried now: that which matters most, then the oldest.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Arc<Wants>> {
        let due = self.0.values_mut().filter(|entry| matches!(entry.when, When::At(at) if at <= now));
        let first = due.min_by(|one, other| {
            let (one, other) = (&one.pod, &other.pod);
            let priority = other.priority().cmp(&one.priority());
            priority.then_with(|| one.created.cmp(&other.created)).then_with(|| one.name.cmp(&other.name))
        })?;
        first.attempts += 1;
        first.last = Some(now);
        first.when = When::Binding;
        Some(Arc::clone(&first.pod))
    }

    /// There is no place for a pod that was tried: it waits for a change.
    pub(crate) fn wait(&mut self, uid: &str) {
        if let Some(entry) = self.0.get_mut(uid) {
            entry.when = When::Waits;
        }
    }

    /// A pod that was tried could not be written down: it is tried again after a while.
    pub(crate) fn again(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.0.get_mut(uid) {
            entry.when = When::At(entry.not_before(now));
        }
    }

    /// Something changed: pods that wait, and for which it may matter, are tried again.
    pub(crate) fn wake(&mut self, now: Instant, concerns: impl Fn(&Wants) -> bool) {
        let waiting = self.0.values_mut().filter(|entry| entry.when == When::Waits && concerns(&entry.pod));
        for entry in waiting {
            entry.when = When::At(entry.not_before(now));
        }
    }

    /// When the next pod is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let times = self.0.values().filter_map(|entry| match entry.when {
            When::At(at) => Some(at),
            When::Waits | When::Binding => None,
        });
        times.min()
    }
}

impl Entry {
    /// When it may be tried again: the longer, the more often it was.
    fn not_before(&self, now: Instant) -> Instant {
        let Some(last) = self.last else { return now };
        let delay = FIRST * 2_u32.saturating_pow(self.attempts.saturating_sub(1).min(8));
        now.max(last + delay.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, created: u32, cpu: &str) -> Arc<Wants> {
        let pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
            "spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
        });
        Arc::new(Wants::of(&pod).unwrap())
    }

    fn next(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.next(now).map(|pod| pod.name.clone())
    }

    #[test]
    fn priority_then_age() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for (name, priority, created) in [("a", 0, 2), ("b", 0, 1), ("c", 9, 3)] {
            queue.set(pod(name, priority, created, "1"), now);
        }
        let order: Vec<String> = std::iter::from_fn(|| next(&mut queue, now)).collect();
        assert_eq!(order, ["c", "b", "a"]);
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn a_pod_that_waits_is_woken_by_changes_alone() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.set(pod("a", 0, 0, "1"), now);
        assert!(next(&mut queue, now).is_some());
        queue.wait("a");
        // Its own status says so now: that is no reason to try again.
        queue.set(pod("a", 0, 0, "1"), now);
        assert_eq!(queue.due(), None);
        queue.wake(now, |_| false);
        assert_eq!(queue.due(), None);
        queue.wake(now, |_| true);
        assert_eq!((next(&mut queue, now), queue.due()), (None, Some(after(1))));
        assert!(next(&mut queue, after(1)).is_some());
        queue.wait("a");
        // It asks for less now.
        queue.set(pod("a", 0, 0, "500m"), after(1));
        assert_eq!(queue.due(), Some(after(3)));
        for second in [10, 30, 50, 70] {
            assert!(next(&mut queue, after(second)).is_some());
            queue.again("a", after(second));
        }
        assert_eq!(queue.due(), Some(after(80)));
        queue.remove("a");
        assert_eq!(queue.due(), None);
    }
}
