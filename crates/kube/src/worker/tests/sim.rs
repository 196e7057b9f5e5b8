//! A world for one pod: performs the machine's actions on a simulated clock.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::api::{ContainerStatus, Pod, PodStatus};
use crate::event::{EventKind, HookKind, ProbeKind};
use crate::manifest;
use crate::worker::{Action, Exit, Identity, Input, Outcome, Past, PastSandbox, Run, Slot, Stage, Worker};

/// How the runs of a container go: each run's length in seconds (none: for ever) and exit code. The last one repeats.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) runs: Vec<(Option<f64>, i32)>,
    /// Pulls that fail first.
    pub(super) failing_pulls: u32,
    /// Creations that fail first.
    pub(super) failing_creates: u32,
    /// The container cannot be started.
    pub(super) broken: bool,
    /// Seconds from the stop signal to the end; for ever means until the kill.
    pub(super) dies_after: Option<f64>,
    /// Seconds that hooks take, and whether they fail.
    pub(super) hook: (f64, bool),
    /// What a probe sees at a time since the container started.
    pub(super) probe: fn(ProbeKind, f64) -> bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            runs: vec![(None, 0)],
            failing_pulls: 0,
            failing_creates: 0,
            broken: false,
            dies_after: Some(0.1),
            hook: (0.0, false),
            probe: |_, _| true,
        }
    }
}

impl Script {
    pub(super) fn runs(runs: &[(f64, i32)]) -> Self {
        let runs = runs.iter().map(|(seconds, code)| (Some(*seconds), *code)).collect();
        Self { runs, ..Self::default() }
    }
}

pub(super) struct Sim {
    pub(super) worker: Worker,
    pub(super) now: Timestamp,
    scripts: BTreeMap<String, Script>,
    pending: Vec<(Timestamp, u64, Input)>,
    sequence: u64,
    ids: u32,
    sandboxes: u32,
    pub(super) failing_sandboxes: u32,
    /// Containers that run: slot by id, with start, and whether a stop is under way and till when.
    pub(super) alive: BTreeMap<String, (Slot, Timestamp)>,
    pub(super) trace: Vec<String>,
    /// Containers as a server would list them, by id, and whether the last sandbox is ready.
    made: BTreeMap<String, Run>,
    ready: bool,
}

pub(super) fn epoch() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn seconds(value: f64) -> SignedDuration {
    SignedDuration::from_secs_f64(value)
}

/// A pod with this `spec`, through the manifest reader.
pub(super) fn pod(spec: &str) -> Pod {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{spec}");
    manifest::read(&[("p", &text)]).unwrap_or_else(|problems| panic!("{problems:?}")).pods.remove(0)
}

impl Sim {
    pub(super) fn new(spec: &str, scripts: impl IntoIterator<Item = (&'static str, Script)>) -> Self {
        let scripts = scripts.into_iter().map(|(name, script)| (name.to_owned(), script)).collect();
        Self {
            worker: Worker::new(pod(spec), "192.0.2.1".to_owned(), epoch()),
            now: epoch(),
            scripts,
            pending: Vec::new(),
            sequence: 0,
            ids: 0,
            sandboxes: 0,
            failing_sandboxes: 0,
            alive: BTreeMap::new(),
            trace: Vec::new(),
            made: BTreeMap::new(),
            ready: false,
        }
    }

    /// The world as the next process finds it: what ran runs on, and what the last one had told is known.
    pub(super) fn adopt(&mut self, past: &Past) {
        let mut pod = self.worker.pod.clone();
        pod.status = self.status();
        self.pending.retain(|(_, _, input)| matches!(input, Input::Exited { .. }));
        self.worker = Worker::adopt(pod, "192.0.2.1".to_owned(), self.now, past);
        self.step();
    }

    /// What the next process would find.
    pub(super) fn past(&self) -> Past {
        let last = self.sandboxes.checked_sub(1);
        let sandbox = last.map(|attempt| PastSandbox {
            id: format!("sandbox{attempt}"),
            attempt,
            ready: self.ready,
            ips: vec!["10.0.0.2".to_owned()],
        });
        let mut runs: Vec<Run> = self.made.values().cloned().collect();
        runs.sort_by_key(|run| run.attempt);
        Past { sandbox, runs }
    }

    fn dies(&mut self, id: &str, exit: &Exit) {
        if let Some(run) = self.made.get_mut(id) {
            run.stage = Stage::Exited(exit.clone());
        }
    }

    /// Seconds since the pod began.
    pub(super) fn clock(&self) -> f64 {
        self.now.duration_since(epoch()).as_secs_f64()
    }

    /// Runs the world until a time, in seconds since the pod began.
    pub(super) fn run_until(&mut self, end: f64) {
        let end = epoch() + seconds(end);
        loop {
            self.step();
            let input = self.pending.iter().map(|(at, ..)| *at).min();
            let wake = self.worker.wake_at();
            let Some(next) = input.into_iter().chain(wake).min().filter(|next| *next <= end) else { break };
            assert!(
                input == Some(next) || next > self.now,
                "the machine wants to be woken for what it has done"
            );
            self.now = self.now.max(next);
            let due: Vec<usize> =
                (0..self.pending.len()).filter(|index| self.pending[*index].0 <= self.now).collect();
            if let Some(index) =
                due.into_iter().min_by_key(|index| (self.pending[*index].0, self.pending[*index].1))
            {
                let (_, _, input) = self.pending.remove(index);
                self.input(input);
            }
        }
        self.now = end;
    }

    pub(super) fn input(&mut self, input: Input) {
        if let Input::Exited { id, exit, .. } = &input {
            if self.alive.remove(id).is_none() {
                return;
            }
            self.dies(id, exit);
        }
        self.worker.handle(self.now, input);
        self.step();
    }

    pub(super) fn step(&mut self) {
        for action in self.worker.step(self.now) {
            self.check(&action);
            self.perform(action);
        }
    }

    pub(super) fn status(&self) -> PodStatus {
        self.worker.status(self.now)
    }

    pub(super) fn container(&self, name: &str) -> ContainerStatus {
        let status = self.status();
        let mut all = status.init_container_statuses.into_iter().chain(status.container_statuses);
        all.find(|container| container.name == name).unwrap()
    }

    /// Why a container waits.
    pub(super) fn waiting(&self, name: &str) -> String {
        self.container(name).state.waiting.map(|waiting| waiting.reason).unwrap_or_default()
    }

    /// Lines of the trace with this text in them.
    pub(super) fn times(&self, text: &str) -> Vec<String> {
        self.trace.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// The sandbox and everything in it dies.
    pub(super) fn lose_sandbox(&mut self) {
        let id = self.worker.sandbox_id().unwrap().to_owned();
        self.ready = false;
        self.input(Input::SandboxLost { id });
    }

    fn later(&mut self, delay: f64, input: Input) {
        self.sequence += 1;
        self.pending.push((self.now + seconds(delay), self.sequence, input));
    }

    fn name(&self, slot: Slot) -> String {
        self.worker.container(slot).name.clone()
    }

    fn note(&mut self, text: String) {
        self.trace.push(format!("{:.1} {text}", self.clock()));
    }

    /// What must hold whenever the machine decides something.
    fn check(&self, action: &Action) {
        let spec = |slot: &Slot| self.worker.container(*slot);
        let inits = self.worker.pod.spec.init_containers.len();
        let is_init = |slot: &Slot| slot.0 < inits && !spec(slot).is_sidecar();
        if let Action::Create { slot, .. } = action {
            if is_init(slot) {
                let others = self.alive.values().any(|(other, _)| is_init(other));
                assert!(!others, "two init containers at once");
            }
            let apps = self.alive.values().any(|(other, _)| other.0 >= inits);
            assert!(!(is_init(slot) && apps), "an init container beside a container");
            for before in (0..inits.min(slot.0)).map(Slot) {
                let passed = self.worker.members[before.0].passed;
                assert!(passed, "{} before {} has done its part", spec(slot).name, spec(&before).name);
            }
            let twice = self.alive.values().any(|(other, _)| other == slot);
            assert!(!twice, "{} runs twice", spec(slot).name);
        }
        if matches!(action, Action::RunSandbox { .. }) {
            assert!(self.alive.is_empty(), "a new sandbox beside living containers");
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Event(event) => self.event(&event),
            Action::RunSandbox { attempt } => {
                assert_eq!(attempt, self.sandboxes);
                if self.failing_sandboxes > 0 {
                    self.failing_sandboxes -= 1;
                    return self.later(0.1, Input::SandboxFailed { message: "no".to_owned(), volume: None });
                }
                self.sandboxes += 1;
                self.ready = true;
                let id = format!("sandbox{attempt}");
                self.later(
                    0.1,
                    Input::SandboxReady { id, ips: vec!["10.0.0.2".to_owned(), "fd00::2".to_owned()] },
                );
            }
            Action::StopSandbox { id } => {
                for (id, (slot, started)) in std::mem::take(&mut self.alive) {
                    let exit = Exit { code: 137, ..self.exit(started, 137) };
                    self.dies(&id, &exit);
                    self.worker.handle(self.now, Input::Exited { slot, id, exit });
                }
                self.later(0.1, Input::SandboxStopped { id });
            }
            Action::Pull { slot } => self.pull(slot),
            Action::AbandonPull { .. } => {}
            Action::Remove { id, .. } => {
                self.made.remove(&id);
            }
            Action::Create { slot, attempt, .. } => self.create(slot, attempt),
            Action::Resize { slot, id } => {
                self.note(format!("resize {}", self.name(slot)));
                self.later(0.1, Input::Resized { slot, id, result: Ok(()) });
            }
            Action::Start { slot, id } => self.start(slot, id),
            Action::Hook { slot, id, hook, timeout } => self.hook(slot, id, hook, timeout),
            Action::Probe { slot, id, probe } => self.probe(slot, id, probe),
            Action::Stop { slot, id, grace } => self.stop(slot, id, grace),
        }
    }

    fn event(&mut self, event: &EventKind) {
        let text = match event {
            EventKind::ContainerExited { container, code, .. }
            | EventKind::InitExited { container, code, .. } => {
                format!("exit {container} {code}")
            }
            EventKind::PodPhase { phase, .. } => format!("phase {phase:?}"),
            EventKind::PodReady {} => "ready".to_owned(),
            EventKind::PodNotReady { containers } => format!("not ready {}", containers.join(" ")),
            EventKind::ProbeResult { container, probe, ok, .. } => {
                format!("probe {container} {probe:?} {ok}")
            }
            EventKind::Stopping { container, grace, .. } => format!("stopping {container} {grace}"),
            EventKind::HookFailed { container, hook, .. } => format!("hook failed {container} {hook:?}"),
            EventKind::SandboxLost { .. } => "sandbox lost".to_owned(),
            EventKind::PullFailed { container, retry_in, .. } => {
                format!("pull failed {container} {retry_in}")
            }
            EventKind::ContainerFailed { container, reason, .. } => format!("failed {container} {reason}"),
            _ => return,
        };
        self.note(text);
    }

    fn pull(&mut self, slot: Slot) {
        let name = self.name(slot);
        let script = self.scripts.entry(name).or_default();
        if script.failing_pulls > 0 {
            script.failing_pulls -= 1;
            let (reason, message) = ("ErrImagePull".to_owned(), "no such image".to_owned());
            return self.later(0.1, Input::PullFailed { slot, reason, message });
        }
        self.later(0.1, Input::Pulled { slot, image: "sha256:0".to_owned() });
    }

    fn create(&mut self, slot: Slot, attempt: u32) {
        let name = self.name(slot);
        let script = self.scripts.entry(name).or_default();
        if script.failing_creates > 0 {
            script.failing_creates -= 1;
            let (reason, message) = ("CreateContainerConfigError".to_owned(), "no".to_owned());
            return self.later(0.1, Input::CreateFailed { slot, reason, message });
        }
        self.ids += 1;
        let id = format!("c{}.{attempt}", self.ids);
        let run = Run {
            name: self.name(slot),
            id: id.clone(),
            sandbox: format!("sandbox{}", self.sandboxes.saturating_sub(1)),
            attempt,
            fingerprint: self.worker.container(slot).fingerprint(),
            identity: Identity::default(),
            stage: Stage::Created,
        };
        self.made.insert(id.clone(), run);
        self.later(0.1, Input::Created { slot, id, image: "sha256:0".to_owned() });
    }

    fn start(&mut self, slot: Slot, id: String) {
        let name = self.name(slot);
        let attempt: usize = id.split('.').nth(1).unwrap().parse().unwrap();
        self.note(format!("start {name}"));
        let script = self.scripts.entry(name).or_default();
        if script.broken {
            let exit = Exit { reason: "StartError".to_owned(), started_at: None, ..self.exit(self.now, 128) };
            self.dies(&id, &exit);
            return self.later(0.0, Input::StartFailed { slot, id, exit });
        }
        let (length, code) = script.runs[attempt.min(script.runs.len() - 1)];
        self.alive.insert(id.clone(), (slot, self.now));
        if let Some(run) = self.made.get_mut(&id) {
            run.stage = Stage::Running { started_at: self.now };
        }
        self.later(0.0, Input::Started { slot, id: id.clone(), at: self.now, identity: Identity::default() });
        if let Some(length) = length {
            let mut exit = self.exit(self.now, code);
            exit.finished_at = self.now + seconds(length);
            self.later(length, Input::Exited { slot, id, exit });
        }
    }

    fn exit(&self, started: Timestamp, code: i32) -> Exit {
        let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        Exit { code, reason, message: String::new(), started_at: Some(started), finished_at: self.now }
    }

    fn hook(&mut self, slot: Slot, id: String, hook: HookKind, timeout: Option<SignedDuration>) {
        let name = self.name(slot);
        self.note(format!("hook {name} {hook:?}"));
        let (length, fails) = self.scripts.entry(name).or_default().hook;
        let timeout = timeout.map_or(f64::MAX, |timeout| timeout.as_secs_f64());
        let result = if fails || length > timeout { Err("failed".to_owned()) } else { Ok(()) };
        self.later(length.min(timeout), Input::HookDone { slot, id, hook, result });
    }

    fn probe(&mut self, slot: Slot, id: String, probe: ProbeKind) {
        let name = self.name(slot);
        let Some((_, started)) = self.alive.get(&id) else { return };
        let age = self.now.duration_since(*started).as_secs_f64();
        let ok = (self.scripts.entry(name).or_default().probe)(probe, age);
        let outcome = if ok { Outcome::Success(String::new()) } else { Outcome::Failure("no".to_owned()) };
        self.later(0.01, Input::Probed { slot, id, probe, outcome });
    }

    fn stop(&mut self, slot: Slot, id: String, grace: i64) {
        let name = self.name(slot);
        self.note(format!("stop {name} {grace}"));
        let Some((_, started)) = self.alive.get(&id).copied() else { return };
        let dies_after = self.scripts.entry(name).or_default().dies_after;
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let grace = grace as f64;
        let (delay, code) = match dies_after {
            Some(delay) if delay <= grace => (delay, 143),
            _ => (grace, 137),
        };
        let mut exit = self.exit(started, code);
        exit.finished_at = self.now + seconds(delay);
        self.later(delay, Input::Exited { slot, id, exit });
    }
}
