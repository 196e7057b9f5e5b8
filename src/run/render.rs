//! Events as lines for people. Pure: what is shown depends on the events alone.

mod words;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use vaquita_kube::api::Pod;
use vaquita_kube::event::{Event, EventKind};

use self::words::{ended, plain, seconds};
use crate::size;
use crate::terminal::{Color, Style, printable};

/// Why the agent says that it ends a pod when the user asked for it.
const ON_REQUEST: [&str; 2] = ["Stopped", "Killed"];

/// What an event makes appear, each with its line ends.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Lines {
    /// For standard output: what the containers say.
    pub(crate) out: String,
    /// For standard error: what happens.
    pub(crate) err: String,
}

/// Turns the events of some pods into lines.
#[derive(Debug)]
pub(crate) struct Renderer {
    out: Style,
    err: Style,
    began: Option<Timestamp>,
    /// `pod/container` of every container in the order of the manifest, for colours.
    names: Vec<String>,
    width: usize,
    limits: BTreeMap<String, String>,
    pulls: BTreeMap<String, Pull>,
    pulled: BTreeSet<String>,
    /// Pods that are ended on request.
    ending: BTreeSet<String>,
    all_end: bool,
}

/// A pull that is going on.
#[derive(Clone, Copy, Debug)]
struct Pull {
    began: Timestamp,
    bytes: (u64, u64),
    layers: (u64, u64),
}

impl Renderer {
    /// `out` and `err`: what standard output and error can show.
    pub(crate) fn new(pods: &[Pod], out: Style, err: Style) -> Self {
        let mut names = Vec::new();
        let mut limits = BTreeMap::new();
        for pod in pods {
            let pod_name = full_name(pod);
            for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
                let name = format!("{pod_name}/{}", container.name);
                if let Some(limit) = container.resources.limits.get("memory") {
                    limits.insert(name.clone(), limit.to_string());
                }
                names.push(name);
            }
        }
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        Self {
            out,
            err,
            began: None,
            names,
            width,
            limits,
            pulls: BTreeMap::new(),
            pulled: BTreeSet::new(),
            ending: BTreeSet::new(),
            all_end: false,
        }
    }

    /// What the event makes appear.
    pub(crate) fn event(&mut self, event: &Event) -> Lines {
        self.began.get_or_insert(event.time);
        if let EventKind::Log { container, line, .. } = &event.kind {
            let out = self.log(&format!("{}/{container}", event.pod), line);
            return Lines { out, ..Lines::default() };
        }
        let told = self.is_repeated(&event.kind) || self.is_consequence(event);
        let text = if told { None } else { self.describe(&event.pod, &event.kind) };
        self.remember(event);
        match text {
            None => Lines::default(),
            Some(text) => Lines { err: self.line(event, &text), ..Lines::default() },
        }
    }

    /// The line at the bottom: the pull that has furthest to go.
    pub(crate) fn progress(&self, now: Timestamp) -> Option<String> {
        let (image, pull) =
            self.pulls.iter().max_by_key(|(_, pull)| pull.bytes.1.saturating_sub(pull.bytes.0))?;
        let seconds = now.duration_since(pull.began).as_secs_f64();
        Some(transfer_line(&printable(image, Style::PLAIN), pull.bytes, pull.layers, seconds))
    }

    /// The user has asked for the end of all pods.
    pub(crate) fn ending(&mut self) {
        self.all_end = true;
    }

    /// A line of our own among the others.
    pub(crate) fn note(&self, text: &str) -> String {
        format!("{}\n", self.err.paint(Color::Bold, &printable(text, Style::PLAIN)))
    }

    fn log(&self, name: &str, line: &str) -> String {
        let number = self.names.iter().position(|known| known == name).unwrap_or(self.names.len());
        let prefix = self.out.paint(Color::Name(number), &format!("{name:width$} |", width = self.width));
        format!("{prefix} {}\n", printable(line, self.out))
    }

    /// Seconds since the first event, the pod, what happened.
    fn line(&self, event: &Event, text: &str) -> String {
        let since = event.time.duration_since(self.began.unwrap_or(event.time)).as_secs_f64();
        let time = self.err.paint(Color::Dim, &format!("{:>7.2}s", since.max(0.0)));
        format!("{time} {} {text}\n", self.err.paint(Color::Bold, &event.pod))
    }

    /// Several containers pull the same image, at the same time or to see that it is still the newest: told once.
    fn is_repeated(&self, kind: &EventKind) -> bool {
        match kind {
            EventKind::PullStarted { image, .. } => {
                self.pulls.contains_key(image) || self.pulled.contains(image)
            }
            EventKind::Pulled { image, .. } => !self.pulls.contains_key(image) || self.pulled.contains(image),
            _ => false,
        }
    }

    /// Once a pod is ended on request, that it is not ready and how Kubernetes calls its end is no news.
    fn is_consequence(&self, event: &Event) -> bool {
        let consequence = matches!(
            event.kind,
            EventKind::PodNotReady { .. } | EventKind::PodPhase { .. } | EventKind::Stopping { .. }
        );
        consequence && (self.all_end || self.ending.contains(&event.pod))
    }

    fn remember(&mut self, event: &Event) {
        match &event.kind {
            EventKind::PullStarted { image, .. } => {
                self.pulls.insert(image.clone(), Pull { began: event.time, bytes: (0, 0), layers: (0, 0) });
            }
            EventKind::PullProgress { image, bytes_done, bytes_total, layers_done, layers_total } => {
                if let Some(pull) = self.pulls.get_mut(image) {
                    pull.bytes = (*bytes_done, *bytes_total);
                    pull.layers = (*layers_done, *layers_total);
                }
            }
            EventKind::Pulled { image, .. } => {
                self.pulls.remove(image);
                self.pulled.insert(image.clone());
            }
            EventKind::PullFailed { image, .. } => {
                self.pulls.remove(image);
            }
            EventKind::Terminating { reason, .. } if ON_REQUEST.contains(&reason.as_str()) => {
                self.ending.insert(event.pod.clone());
            }
            _ => {}
        }
    }

    /// What happened to the pod or to its images. `None`: nothing worth a line.
    fn describe(&self, pod: &str, kind: &EventKind) -> Option<String> {
        let good = |text: &str| self.err.paint(Color::Good, text);
        let bad = |text: &str| self.err.paint(Color::Bad, text);
        Some(match kind {
            EventKind::SandboxReady { ip: Some(ip), .. } => format!("sandbox ready, address {ip}"),
            EventKind::SandboxReady { ip: None, .. } => "sandbox ready, on the host's network".to_owned(),
            EventKind::SandboxFailed { message, retry_in } => {
                format!("{}: {}; next try in {}", bad("sandbox failed"), plain(message), seconds(*retry_in))
            }
            EventKind::SandboxLost { .. } => format!("{}: the pod starts again", bad("sandbox died")),
            EventKind::PullStarted { image, .. } => format!("pulling {}", plain(image)),
            EventKind::Pulled { image, cached: false, duration, .. } => {
                format!("{} {} in {}", good("pulled"), plain(image), seconds(*duration))
            }
            EventKind::PullFailed { image, reason, message, retry_in, .. } => {
                let what = words::pull_failure(image, message);
                format!("{} {what}; next try in {}", bad(&format!("{reason}:")), seconds(*retry_in))
            }
            EventKind::PodReady {} => good("ready"),
            EventKind::PodNotReady { containers } => {
                format!("{}: {}", self.err.paint(Color::Warn, "not ready"), containers.join(", "))
            }
            EventKind::PodPhase { phase, reason, message } => return self.phase(*phase, reason, message),
            EventKind::Terminating { reason, .. } if ON_REQUEST.contains(&reason.as_str()) => return None,
            EventKind::Terminating { reason, grace } => {
                format!("ending ({}), {grace} s are given", plain(reason))
            }
            EventKind::Disconnected { message } => {
                let lost = self.err.paint(Color::Warn, "the daemon is gone; containers go on");
                format!("{lost}: {}", plain(message))
            }
            EventKind::Reconnected {} => good("the daemon is there again"),
            EventKind::Warning { message } => {
                format!("{}: {}", self.err.paint(Color::Warn, "warning"), plain(message))
            }
            EventKind::Removed { errors } if errors.is_empty() => "removed".to_owned(),
            EventKind::Removed { errors } => {
                format!("{}: {}", bad("not everything could be removed"), plain(&errors.join("; ")))
            }
            other => return self.describe_container(pod, other),
        })
    }

    fn phase(&self, phase: vaquita_kube::api::PodPhase, reason: &str, message: &str) -> Option<String> {
        use vaquita_kube::api::PodPhase;
        let (color, word) = match phase {
            PodPhase::Succeeded => (Color::Good, "succeeded"),
            PodPhase::Failed => (Color::Bad, "failed"),
            // What makes a pod pending or running has been shown.
            _ => return None,
        };
        let why: Vec<&str> = [reason, message].into_iter().filter(|text| !text.is_empty()).collect();
        let why = if why.is_empty() { String::new() } else { format!(": {}", plain(&why.join(": "))) };
        Some(format!("{}{why}", self.err.paint(color, word)))
    }

    /// What happened to one container.
    fn describe_container(&self, pod: &str, kind: &EventKind) -> Option<String> {
        let bad = |text: &str| self.err.paint(Color::Bad, text);
        Some(match kind {
            EventKind::InitExited { container, code, reason, message, duration } => {
                let end = self.ended(pod, container, *code, reason, message, *duration);
                format!("init {}: {end}", self.name(pod, container))
            }
            EventKind::InitStarted { container, index, of } => {
                format!("init {} started ({index} of {of})", self.name(pod, container))
            }
            EventKind::ContainerStarted { container, restart_count, sidecar, .. } => {
                let what = if *sidecar { "sidecar " } else { "" };
                let again = match restart_count {
                    0 => String::new(),
                    count => format!(" again (restart {count})"),
                };
                format!("{what}{} started{again}", self.name(pod, container))
            }
            EventKind::ContainerFailed { container, reason, message, retry_in } => {
                let next =
                    retry_in.map(|time| format!("; next try in {}", seconds(time))).unwrap_or_default();
                format!("{}: {}: {}{next}", self.name(pod, container), bad(reason), plain(message))
            }
            EventKind::ContainerExited { container, code, reason, message, duration, .. } => {
                let end = self.ended(pod, container, *code, reason, message, *duration);
                format!("{}: {end}", self.name(pod, container))
            }
            EventKind::BackOff { container, reason, seconds: time } => {
                let reason = self.err.paint(Color::Warn, reason);
                format!("{}: {reason}: next start in {}", self.name(pod, container), seconds(*time))
            }
            EventKind::ProbeResult { container, probe, ok, message, .. } => {
                let probe = words::probe(*probe);
                let result = if *ok {
                    self.err.paint(Color::Good, "ok")
                } else {
                    format!("{}: {}", bad("failed"), plain(message))
                };
                format!("{} {probe} probe {result}", self.name(pod, container))
            }
            EventKind::Stopping { container, reason, grace, .. } => {
                format!("{}: stopping ({}), {grace} s are given", self.name(pod, container), plain(reason))
            }
            EventKind::HookFailed { container, hook, message } => {
                let hook = words::hook(*hook);
                format!(
                    "{}: {}: {}",
                    self.name(pod, container),
                    bad(&format!("{hook} hook failed")),
                    plain(message)
                )
            }
            // A pull that was not needed, progress, a container that is not yet running.
            _ => return None,
        })
    }

    fn ended(
        &self,
        pod: &str,
        container: &str,
        code: i32,
        reason: &str,
        message: &str,
        duration: f64,
    ) -> String {
        let limit = self.limits.get(&format!("{pod}/{container}")).map(String::as_str);
        let color = if code == 0 { Color::Good } else { Color::Bad };
        let text = self.err.paint(color, &ended(code, reason, limit));
        let time = seconds(duration);
        let message =
            if message.is_empty() { String::new() } else { format!(": {}", plain(message.trim_end())) };
        format!("{text} after {time}{message}")
    }

    fn name(&self, pod: &str, container: &str) -> String {
        let full = format!("{pod}/{container}");
        let number = self.names.iter().position(|known| *known == full).unwrap_or(self.names.len());
        self.err.paint(Color::Name(number), container)
    }
}

/// `busybox [####....] 3.1 MiB of 5.9 MiB, 11 MiB/s, 1 of 2 layers`.
pub(crate) fn transfer_line(name: &str, bytes: (u64, u64), layers: (u64, u64), seconds: f64) -> String {
    let (done, total) = bytes;
    let mut line = name.to_owned();
    if let Some(percent) = done.min(total).saturating_mul(100).checked_div(total) {
        line += &format!(
            " {} {percent:>3}% {} of {}",
            size::bar(done, total, 24),
            size::bytes(done),
            size::bytes(total)
        );
    } else if done > 0 {
        line += &format!(" {}", size::bytes(done));
    }
    if done > 0 && seconds > 0.2 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "two digits are shown"
        )]
        let rate = (done as f64 / seconds) as u64;
        line += &format!(", {}/s", size::bytes(rate));
    }
    if layers.1 > 0 {
        line += &format!(", {} of {} layers", layers.0, layers.1);
    }
    line
}

/// As events name a pod: the namespace in front where it is not `default`.
fn full_name(pod: &Pod) -> String {
    match pod.metadata.namespace.as_str() {
        "" | "default" => pod.metadata.name.clone(),
        namespace => format!("{namespace}/{}", pod.metadata.name),
    }
}

#[cfg(test)]
mod tests;
