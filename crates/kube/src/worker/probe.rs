//! Probes: when they are made, and what their results do (`pkg/kubelet/prober/worker.go`).

use jiff::{SignedDuration, Timestamp};

use super::member::{Role, Running, State};
use super::{Action, Outcome, Slot, Worker};
use crate::api::{Container, Probe};
use crate::event::{EventKind, ProbeKind, StopCause};

/// The first period of a readiness probe whose container has not been ready yet.
const EAGER: SignedDuration = SignedDuration::from_secs(1);

/// The probes of one run of a container.
#[derive(Debug)]
pub(super) struct Probes(Vec<Schedule>);

#[derive(Debug)]
struct Schedule {
    kind: ProbeKind,
    period: SignedDuration,
    delay: SignedDuration,
    success_threshold: i32,
    failure_threshold: i32,
    /// When it is made next; none before it may begin and after it has done its part.
    next: Option<Timestamp>,
    in_flight: bool,
    /// Readiness, until the container is ready for the first time: a period that grows to the real one. Kubernetes
    /// allows it, "to make the Pod ready faster"; without it a server that needs a moment is ready a period later.
    eager: Option<SignedDuration>,
    /// The last result, and how often it came in a row.
    last: Option<bool>,
    run: i32,
    /// The probe could not be made the last time, and that was told.
    error_told: bool,
}

impl Probes {
    pub(super) fn new(spec: &Container) -> Self {
        let schedule = |kind, probe: &Option<Probe>| {
            let probe = probe.as_ref()?;
            Some(Schedule {
                kind,
                period: SignedDuration::from_secs(probe.period_seconds.max(1).into()),
                delay: SignedDuration::from_secs(probe.initial_delay_seconds.into()),
                success_threshold: probe.success_threshold.max(1),
                failure_threshold: probe.failure_threshold.max(1),
                next: None,
                in_flight: false,
                eager: (kind == ProbeKind::Readiness).then_some(EAGER),
                last: None,
                run: 0,
                error_told: false,
            })
        };
        let all = [
            schedule(ProbeKind::Startup, &spec.startup_probe),
            schedule(ProbeKind::Liveness, &spec.liveness_probe),
            schedule(ProbeKind::Readiness, &spec.readiness_probe),
        ];
        Self(all.into_iter().flatten().collect())
    }

    fn find(&mut self, kind: ProbeKind) -> Option<&mut Schedule> {
        self.0.iter_mut().find(|schedule| schedule.kind == kind)
    }

    fn has(&self, kind: ProbeKind) -> bool {
        self.0.iter().any(|schedule| schedule.kind == kind)
    }

    /// Probes that would kill the container are not made any more.
    pub(super) fn only_readiness(&mut self) {
        for schedule in self.0.iter_mut().filter(|schedule| schedule.kind != ProbeKind::Readiness) {
            schedule.next = None;
        }
    }

    pub(super) fn none(&mut self) {
        for schedule in &mut self.0 {
            schedule.next = None;
        }
    }
}

impl Schedule {
    fn begin(&mut self, started_at: Timestamp, now: Timestamp) {
        self.next = Some((started_at + self.delay).max(now));
    }

    /// The next time after this one. At a fixed rate; what was missed while a slow probe was under way is not made up
    /// for.
    fn after(&mut self, time: Timestamp, now: Timestamp) -> Timestamp {
        let period = match &mut self.eager {
            Some(eager) if *eager < self.period => std::mem::replace(eager, *eager * 2),
            _ => self.period,
        };
        let missed = now.duration_since(time).as_millis() / period.as_millis().max(1);
        let periods = i32::try_from(missed.saturating_add(1)).unwrap_or(i32::MAX);
        time + period * periods
    }

    /// Counts a result. Returns it if it has come often enough to count.
    fn count(&mut self, ok: bool) -> Option<bool> {
        if self.last == Some(ok) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(ok);
            self.run = 1;
        }
        let threshold = if ok { self.success_threshold } else { self.failure_threshold };
        (self.run >= threshold).then_some(ok)
    }
}

impl Worker {
    /// The container runs and its hook has ended: probing begins.
    pub(super) fn begin_probes(&mut self, now: Timestamp, slot: Slot) {
        let State::Running(running) = &mut self.member(slot).state else { return };
        running.hooking = false;
        let started_at = running.started_at;
        match running.probes.find(ProbeKind::Startup) {
            Some(startup) => startup.begin(started_at, now),
            None => self.startup_succeeded(now, slot),
        }
    }

    pub(super) fn startup_succeeded(&mut self, now: Timestamp, slot: Slot) {
        let member = self.member(slot);
        if member.role == Role::Sidecar {
            member.passed = true;
        }
        let State::Running(running) = &mut member.state else { return };
        running.started = true;
        running.ready = !running.probes.has(ProbeKind::Readiness);
        let started_at = running.started_at;
        for schedule in running.probes.0.iter_mut().filter(|schedule| schedule.kind != ProbeKind::Startup) {
            schedule.begin(started_at, now);
        }
    }

    /// Makes the probes that are due.
    pub(super) fn probe_all(&mut self, now: Timestamp) {
        for (index, member) in self.members.iter_mut().enumerate() {
            let State::Running(running) = &mut member.state else { continue };
            let Running { probes, id, .. } = &mut **running;
            for schedule in &mut probes.0 {
                let Some(next) = schedule.next.filter(|next| *next <= now && !schedule.in_flight) else {
                    continue;
                };
                schedule.in_flight = true;
                schedule.next = Some(schedule.after(next, now));
                self.actions.push(Action::Probe { slot: Slot(index), id: id.clone(), probe: schedule.kind });
            }
        }
    }

    pub(super) fn probes_wake_at(&self, running: &Running) -> Option<Timestamp> {
        running
            .probes
            .0
            .iter()
            .filter(|schedule| !schedule.in_flight)
            .filter_map(|schedule| schedule.next)
            .min()
    }

    pub(super) fn probed(
        &mut self,
        now: Timestamp,
        slot: Slot,
        id: &str,
        probe: ProbeKind,
        outcome: Outcome,
    ) {
        let container = self.members[slot.0].spec.name.clone();
        let each_failure = self.kept;
        let Some(running) = self.member(slot).running_as(id) else { return };
        let Some(schedule) = running.probes.find(probe) else { return };
        schedule.in_flight = false;
        // A probe that has done its part, or whose container is being stopped, has no say any more.
        if schedule.next.is_none() {
            return;
        }
        let (ok, message) = match outcome {
            Outcome::Success(message) => (true, message),
            Outcome::Failure(message) => (false, message),
            Outcome::Error(message) => {
                if !std::mem::replace(&mut schedule.error_told, true) {
                    let message = format!("{container}: the {probe:?} probe could not be made: {message}");
                    self.tell(EventKind::Warning { message });
                }
                return;
            }
        };
        schedule.error_told = false;
        let before = schedule.last;
        let counted = schedule.count(ok);
        if before != Some(ok) || (each_failure && !ok) {
            self.tell(EventKind::ProbeResult { container, probe, ok, message, first: before.is_none() });
        }
        if let Some(ok) = counted {
            self.probe_decided(now, slot, id, probe, ok);
        }
    }

    fn probe_decided(&mut self, now: Timestamp, slot: Slot, id: &str, probe: ProbeKind, ok: bool) {
        let Some(running) = self.member(slot).running_as(id) else { return };
        match (probe, ok) {
            (ProbeKind::Readiness, ok) => {
                running.ready = ok;
                if ok && let Some(readiness) = running.probes.find(ProbeKind::Readiness) {
                    readiness.eager = None;
                }
            }
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup, true) => {
                if let Some(startup) = running.probes.find(ProbeKind::Startup) {
                    startup.next = None;
                }
                self.startup_succeeded(now, slot);
            }
            (ProbeKind::Liveness, false) => self.stop_unhealthy(now, slot, probe),
            (ProbeKind::Startup, false) => self.stop_unhealthy(now, slot, probe),
        }
    }

    fn stop_unhealthy(&mut self, now: Timestamp, slot: Slot, probe: ProbeKind) {
        let pods = self.grace();
        let spec = &self.members[slot.0].spec;
        let (cause, given) = match probe {
            ProbeKind::Startup => (StopCause::Startup, &spec.startup_probe),
            _ => (StopCause::Liveness, &spec.liveness_probe),
        };
        let own = given.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
        self.stop_member(now, slot, cause, own.unwrap_or(pods));
        if let State::Running(running) = &mut self.member(slot).state {
            running.ready = false;
            running.probes.none();
        }
    }
}
