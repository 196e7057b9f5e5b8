//! Waiting longer and longer.

use jiff::{SignedDuration, Timestamp};

/// A delay that doubles up to a maximum, and starts over after twice the maximum without failure
/// (`k8s.io/client-go/util/flowcontrol.Backoff`).
#[derive(Debug)]
pub(super) struct Backoff {
    initial: SignedDuration,
    max: SignedDuration,
    current: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    pub(super) fn new(initial: SignedDuration, max: SignedDuration) -> Self {
        Self { initial, max, current: None }
    }

    /// The kubelet's: 10 s to 5 min, started over after 10 min.
    pub(super) fn kubelet() -> Self {
        Self::new(SignedDuration::from_secs(10), SignedDuration::from_secs(300))
    }

    /// Until when to wait after something ended at `ended`; in the past where there is nothing to wait for.
    pub(super) fn until(&self, ended: Timestamp) -> Timestamp {
        match self.current {
            Some((delay, updated)) if !self.expired(ended, updated) => ended + delay,
            _ => ended,
        }
    }

    /// What it must be after so many attempts, the last of which was made at a time; it is not known where none is given.
    pub(super) fn recall(&mut self, attempts: u32, last: Option<Timestamp>) {
        let Some(last) = last.filter(|_| attempts > 0) else { return };
        let doubled = (1..attempts).fold(self.initial, |delay, _| (delay * 2).min(self.max));
        self.current = Some((doubled, last));
    }

    /// Counts another attempt after something that ended at `ended`.
    pub(super) fn next(&mut self, ended: Timestamp, now: Timestamp) {
        let delay = match self.current {
            Some((delay, updated)) if !self.expired(ended, updated) => (delay * 2).min(self.max),
            _ => self.initial,
        };
        self.current = Some((delay, now));
    }

    /// Counts a failure, and says how long to wait from now.
    pub(super) fn failed(&mut self, now: Timestamp) -> SignedDuration {
        self.next(now, now);
        self.current.map_or(self.initial, |(delay, _)| delay)
    }

    pub(super) fn reset(&mut self) {
        self.current = None;
    }

    fn expired(&self, ended: Timestamp, updated: Timestamp) -> bool {
        ended.duration_since(updated) > self.max * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_and_starts_over() {
        let mut backoff = Backoff::kubelet();
        let mut now = Timestamp::UNIX_EPOCH;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let until = backoff.until(now);
            delays.push(until.duration_since(now).as_secs());
            now = until;
            backoff.next(now, now);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        // Ran for ten minutes: not forgiven yet. A second more: forgiven.
        let after = now + SignedDuration::from_secs(600);
        assert_eq!(backoff.until(after).duration_since(after).as_secs(), 300);
        let after = now + SignedDuration::from_secs(601);
        assert_eq!(backoff.until(after), after);
    }
}
